// The list of models: which are shown, in which order, and each as a link.

import { h, kind, mark } from "./dom.js";
import { scientific, strip } from "./plots.js";
import { age } from "./times.js";

export const STATES = ["Failed", "Degraded", "Waiting", "Working", "Updating", "Suspended", "Deleting", "Ready"];
const SHOWN_RANGE = 5; // Powers of ten of a strip in the list, around the bound.

export const keyOf = (row) => `${row.namespace}/${row.name}`;
export const addressOf = (row) => `#/${encodeURIComponent(row.namespace)}/${encodeURIComponent(row.name)}`;

const byName = (one, other) => (one.name < other.name ? -1 : one.name > other.name ? 1 : one.namespace < other.namespace ? -1 : 1);
const headroom = ({ worst }) => (!worst ? -Infinity : !worst.passed ? Infinity : worst.bound ? worst.difference / worst.bound : worst.difference);
const ORDERS = {
  attention: (one, other) => one.attention - other.attention || byName(one, other),
  name: byName,
  newest: (one, other) => (one.created < other.created ? 1 : one.created > other.created ? -1 : byName(one, other)),
  parity: (one, other) => headroom(other) - headroom(one) || byName(one, other),
};

// Rows that have every word and, where states are chosen, one of them.
export function chosen(rows, text, states, order) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = [...rows].filter((row) => {
    if (states.size && !states.has(row.state)) return false;
    const all = `${row.namespace}/${row.name} ${row.state} ${row.reason} ${row.task} ${row.source}`.toLowerCase();
    return words.every((word) => all.includes(word));
  });
  return found.sort(ORDERS[order]);
}

function parity({ worst }) {
  if (!worst) return h("span", { class: "soft" }, "–");
  const word = worst.passed ? "Passed" : "Failed";
  const where = `${worst.target}, ${worst.output}, ${worst.shape}`;
  const bound = worst.bound ? `, bound ${scientific(worst.bound)}` : "";
  const label = `Parity ${word.toLowerCase()}: largest difference ${worst.text}${bound} (${where})`;
  const middle = Math.log10(worst.bound || worst.difference || 1e-4);
  const range = [middle - SHOWN_RANGE + 1.5, middle + 1.5];
  return h("span", { class: "parity", title: label }, strip(worst.difference, worst.bound, range, worst.passed, label, 88, 14), worst.passed ? "" : h("span", { class: "bad" }, "Failed"));
}

const labelled = (label, className, ...content) => h("span", { class: className }, h("span", { class: "unseen" }, `${label} `), ...content);

export function draw(row, showNamespace) {
  return h(
    "a",
    { href: addressOf(row), class: "row", "data-key": keyOf(row) },
    h("span", { class: "state" }, mark(row.state, kind(row.state))),
    h("span", { class: "name" }, h("b", {}, row.name), showNamespace ? h("span", { class: "soft" }, row.namespace) : ""),
    h("span", { class: "reason" }, h("span", { class: "mark", "aria-hidden": "true" }, row.state), row.reason && row.reason !== row.state ? h("span", {}, h("span", { class: "unseen" }, "reason "), row.reason) : ""),
    parity(row),
    labelled("targets proven", "figure proven", `${row.proven}/${row.targets}`),
    labelled("pods ready", "figure ready", row.replicas === "-" ? "–" : row.replicas),
    labelled("age", "figure age", age(row.created)),
  );
}

// Puts items in this order and takes others out; the one that has the focus keeps it.
export function arrange(list, items) {
  const same = items.length === list.children.length && items.every((item, index) => list.children[index] === item);
  if (same) return;
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const { scrollTop } = list;
  list.replaceChildren(...items);
  list.scrollTop = scrollTop;
  if (focused?.isConnected) focused.focus({ preventScroll: true });
}
