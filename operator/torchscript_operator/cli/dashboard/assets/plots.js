// Small plots. Errors span many powers of ten, so every axis of errors is logarithmic.

import { h, s } from "./dom.js";

const FLOOR = 1e-9; // A form that is exact has no place on a logarithmic axis; it is drawn here.

// 4.77e-7 as 4.77e−7, 0.001 as 1e−3.
export const scientific = (value) =>
  value === 0 ? "0" : value.toExponential(2).replace(/\.?0+e/, "e").replace("e-", "e−").replace("e+", "e");

const LABEL_SHARE = 24; // Per cent of an axis that a label takes on a phone.

// From values and bounds to the decades that hold them all, with room on both sides.
export function decades(values, bound) {
  const positive = [...values, bound].filter((value) => value > 0).map(Math.log10);
  if (!positive.length) return [-8, 0];
  const low = Math.floor(Math.min(...positive) - 0.4), high = Math.ceil(Math.max(...positive) + 0.4);
  return [low, Math.max(high, low + 2)];
}

export const place = (value, [low, high], start, end) =>
  start + ((Math.min(Math.max(Math.log10(Math.max(value, 1e-300)), low), high) - low) / (high - low)) * (end - start);

function point(x, y, passed, size = 4) {
  if (passed) return s("circle", { cx: x, cy: y, r: size, class: "point good" });
  const d = size * 0.95;
  return s("path", { d: `M${x - d} ${y - d}L${x + d} ${y + d}M${x + d} ${y - d}L${x - d} ${y + d}`, class: "point bad" });
}

// One figure as a dot on its way to the bound; what lies beyond the bound is shaded.
export function strip(value, bound, range, passed, label, width = 200, height = 18) {
  const middle = height / 2, left = 5, right = width - 5;
  const parts = [s("line", { x1: left, x2: right, y1: middle, y2: middle, class: "track" })];
  if (bound > 0) {
    const at = place(bound, range, left, right);
    parts.unshift(s("rect", { x: at, y: 1, width: Math.max(right - at, 0), height: height - 2, class: "beyond" }));
    parts.push(s("line", { x1: at, x2: at, y1: 0, y2: height, class: "bound" }));
  }
  if (value !== null) {
    const x = place(value, range, left, right);
    parts.push(s("line", { x1: left, x2: x, y1: middle, y2: middle, class: `reach ${passed ? "good" : "bad"}` }), point(x, middle, passed));
  } else {
    parts.push(s("text", { x: right, y: middle + 4, "text-anchor": "end", class: "bad" }, "not comparable"));
  }
  return s("svg", { viewBox: `0 0 ${width} ${height}`, class: "strip", role: "img", "aria-label": label }, parts);
}

// The axis below strips of one range: the bound first, then the ends, then what has room between them.
export function axis(bound, range) {
  const [low, high] = range;
  const labels = bound > 0 ? [[place(bound, range, 0, 100), `≤ ${scientific(bound)}`, "label boundtext"]] : [];
  const powers = Array.from({ length: high - low + 1 }, (_, index) => low + index);
  for (const power of [low, high, ...powers.slice(1, -1)]) {
    const at = ((power - low) / (high - low)) * 100;
    if (labels.every(([other]) => Math.abs(other - at) > LABEL_SHARE)) labels.push([at, `1e${power}`.replace("-", "−"), "label"]);
  }
  const element = h("div", { class: "axis", "aria-hidden": "true" });
  for (const [at, text, className] of labels) {
    const label = h("span", { class: className }, text);
    label.style.left = `${at}%`;
    label.style.translate = `${-Math.min(Math.max(at, 8), 92)}%`;
    element.append(label);
  }
  return element;
}

// Forms that were measured: to the right is faster, up is closer to eager.
export function scatter(rows, bound, letters, width) {
  const height = 220, left = 60, right = width - 14, top = 14, bottom = height - 36;
  const shown = rows.filter((row) => row.speed !== null && row.speed !== undefined && row.distance !== null && row.distance !== undefined);
  if (!shown.length) return null;
  const range = decades(shown.map((row) => Math.max(row.distance, FLOOR)), bound);
  const fastest = Math.max(...shown.map((row) => row.speed)) * 1.1;
  const x = (speed) => left + (speed / fastest) * (right - left);
  const y = (distance) => place(Math.max(distance, FLOOR), range, top, bottom);
  const parts = [];
  if (bound > 0) {
    parts.push(
      s("rect", { x: left, y: y(bound), width: right - left, height: bottom - y(bound), class: "beyond" }),
      s("line", { x1: left, x2: right, y1: y(bound), y2: y(bound), class: "bound" }),
      s("text", { x: left + 6, y: y(bound) + 14, class: "boundtext" }, `1 − cosine ≤ ${scientific(bound)}`),
    );
  }
  const every = Math.ceil((range[1] - range[0]) / 5);
  for (let power = range[0]; power <= range[1]; power += every) {
    const at = place(10 ** power, range, top, bottom);
    parts.push(s("line", { x1: left, x2: right, y1: at, y2: at, class: "grid" }), s("text", { x: left - 6, y: at + 4, "text-anchor": "end" }, `1e${power}`.replace("-", "−")));
  }
  const step = nice(fastest / 4);
  for (let speed = 0; speed <= fastest; speed += step) {
    parts.push(s("text", { x: x(speed), y: bottom + 15, "text-anchor": "middle" }, speed.toLocaleString("en")));
  }
  parts.push(
    s("path", { d: `M${left} ${top}V${bottom}H${right}`, class: "frame" }),
    s("text", { x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }, "texts a second →"),
    s("text", { x: 12, y: (top + bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(top + bottom) / 2})` }, "closer to eager →"),
  );
  const taken = shown.map((row) => [x(row.speed), y(row.distance), row.chosen ? 16 : 11]);
  for (const row of shown) {
    const [across, down] = [x(row.speed), y(row.distance)];
    if (row.chosen) parts.push(s("circle", { cx: across, cy: down, r: 9, class: "ring" }));
    parts.push(point(across, down, row.verdict === "Passed", 4.5));
    // Beside its point where there is room, on whichever side.
    const gap = row.chosen ? 17 : 13;
    const free = [[gap, 0], [-gap, 0], [0, -gap], [0, gap]].map(([right, lower]) => [across + right, down + lower]);
    const spot = free.find((one) => taken.every((other) => Math.hypot(one[0] - other[0], one[1] - other[1]) > other[2])) ?? free[0];
    taken.push([...spot, 11]);
    parts.push(s("text", { x: spot[0], y: spot[1] + 4, "text-anchor": "middle", class: "letter" }, letters[rows.indexOf(row)]));
  }
  return s("svg", { viewBox: `0 0 ${width} ${height}`, class: "scatter", role: "img", "aria-label": "Speed against distance from eager of each form measured; the table has the figures" }, parts);
}

function nice(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
}

export const bar = (share, label) =>
  h("progress", { class: "bar", max: "1", value: share === null ? null : String(share), "aria-label": label });
