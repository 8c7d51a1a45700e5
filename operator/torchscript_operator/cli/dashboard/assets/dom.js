// Elements without markup: whatever comes from the cluster is text.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

export const h = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
export const s = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

// A shape for each state, so that colour is never all there is.
const RING = "M8 1.75a6.25 6.25 0 1 1 0 12.5a6.25 6.25 0 1 1 0-12.5z";
const SHAPES = {
  good: () => [s("circle", { cx: 8, cy: 8, r: 7, class: "solid" }), s("path", { d: "M4.8 8.3l2.2 2.2 4.2-4.6", class: "cut" })],
  bad: () => [s("path", { d: "M5.1 1h5.8L15 5.1v5.8L10.9 15H5.1L1 10.9V5.1z", class: "solid" }), s("path", { d: "M5.4 5.4l5.2 5.2M10.6 5.4l-5.2 5.2", class: "cut" })],
  warn: () => [s("path", { d: "M8 1.2L15.4 14.6H.6z", class: "solid" }), s("path", { d: "M8 6v4.1M8 12.2v.3", class: "cut" })],
  busy: () => [s("path", { d: RING, class: "faint" }), s("path", { d: "M8 1.75a6.25 6.25 0 0 1 6.25 6.25", class: "line turning" })],
  swap: () => [s("path", { d: "M2 6.2h10M9.2 3.2l3 3-3 3", class: "line" }), s("path", { d: "M14 11.2H4.4M6.8 8.6l-2.6 2.6 2.6 2.6", class: "line" })],
  wait: () => [s("path", { d: RING, class: "line" }), s("path", { d: "M8 4.6V8l2.3 1.6", class: "line" })],
  hold: () => [s("path", { d: RING, class: "line" }), s("path", { d: "M6.4 5.6v4.8M9.6 5.6v4.8", class: "line" })],
  note: () => [s("circle", { cx: 8, cy: 8, r: 2.5, class: "solid" })],
  gone: () => [s("path", { d: RING, class: "line" }), s("path", { d: "M5 8h6", class: "line" })],
};
const KINDS = {
  Ready: "good", Proven: "good", Passed: "good", True: "good",
  Failed: "bad", Degraded: "warn", Warning: "warn",
  Working: "busy", Exporting: "busy", Verifying: "busy", Running: "busy", Updating: "swap",
  Normal: "note", Succeeded: "good", Waiting: "wait", Pending: "wait", Unknown: "wait", NotMeasured: "wait", Suspended: "hold", Deleting: "gone", Ending: "gone", NotAvailable: "gone",
};
const TONES = { good: "good", bad: "bad", warn: "warn", busy: "busy", swap: "busy", hold: "warn" };

export const kind = (word) => KINDS[word] ?? "gone";
export const tone = (word) => TONES[kind(word)] ?? "soft";

export function icon(shape) {
  return s("svg", { viewBox: "0 0 16 16", class: `icon ${TONES[shape] ?? "soft"}`, "aria-hidden": "true" }, SHAPES[shape]());
}

// A state in its shape, its colour and its word.
export const mark = (word, shape = kind(word)) => h("span", { class: `mark ${TONES[shape] ?? "soft"}` }, icon(shape), h("span", {}, word));

export function copyButton(text, what) {
  const button = h("button", { type: "button", class: "copy", "aria-label": `Copy ${what}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}

export const code = (text, what) => h("div", { class: "code" }, h("pre", { tabindex: "0" }, text), copyButton(text, what));
