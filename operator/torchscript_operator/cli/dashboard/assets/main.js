// The page: what it hears from tsm, where it is, and what keys do.

import { code, h, icon, kind } from "./dom.js";
import { Detail } from "./detail.js";
import { STATES, addressOf, arrange, chosen, draw, keyOf } from "./list.js";
import { setClock, tickAges } from "./times.js";

const AGES_MS = 5000;
const PROGRESS_MS = 2000; // Logs tell stages, and no event of the cluster does.
const LOST = "Disconnected: does tsm dashboard still run?";
const element = (id) => document.getElementById(id);
const ui = Object.fromEntries(["where", "live", "help", "remarks", "main", "list", "tools", "search", "sort", "states", "head", "rows", "nothing", "detail", "keys"].map((id) => [id, element(id)]));

const rows = new Map();
const items = new Map();
const states = new Set();
const detail = new Detail(ui.detail);
let hello = { context: "", namespace: null };
let heard = false;
let cursor = null;
let marked = null;
let fetching = null;
let stale = false;

// What is told.

function listen() {
  const source = new EventSource("events");
  source.addEventListener("hello", (event) => {
    hello = JSON.parse(event.data);
    document.title = `Models · ${hello.context}`;
    ui.where.replaceChildren(h("span", {}, hello.context), h("span", { class: "soft" }, hello.namespace ?? "all namespaces"));
  });
  source.addEventListener("models", (event) => take(JSON.parse(event.data)));
  source.onerror = () => live(false, LOST);
}

function live(good, text) {
  delete ui.live.dataset.lost;
  ui.live.className = good ? "live good" : "live bad";
  if (ui.live.textContent !== text) ui.live.replaceChildren(icon(good ? "good" : "warn"), text);
}

function take(told) {
  const began = performance.now();
  setClock(told.now);
  if (told.whole) {
    const there = new Set(told.rows.map(keyOf));
    for (const key of rows.keys()) if (!there.has(key)) forget(key);
  }
  for (const row of told.rows) {
    const key = keyOf(row);
    const before = rows.get(key);
    rows.set(key, row);
    if (before && JSON.stringify(before) === JSON.stringify(row)) continue;
    const link = draw(row, hello.namespace === null);
    if (items.has(key)) {
      const item = items.get(key);
      const focused = item.contains(document.activeElement);
      item.replaceChildren(link);
      if (focused) link.focus({ preventScroll: true });
    } else {
      items.set(key, h("li", {}, link));
    }
  }
  for (const [namespace, name] of told.gone) forget(`${namespace}/${name}`);
  if (told.problem) live(false, "Not up to date");
  else live(true, "Live");
  remarks(told);
  heard ||= !told.problem;
  show();
  if (told.whole || told.rows.some((row) => keyOf(row) === detail.key) || told.gone.some((gone) => gone.join("/") === detail.key)) refresh();
  if (told.whole) {
    performance.measure("take", { start: began });
    performance.mark("told");
  }
}

function forget(key) {
  rows.delete(key);
  items.delete(key);
}

let told = "";
function remarks({ problem, missing }) {
  const now = JSON.stringify([problem, missing]);
  if (now === told) return;
  told = now;
  const lines = problem ? [h("p", { class: "remark bad" }, icon("warn"), h("span", {}, problem.message, " ", problem.advice))] : [];
  if (missing.length) {
    lines.push(h("details", { class: "remark" }, h("summary", {}, icon("warn"), `${missing.length === 1 ? "One kind of object" : `${missing.length} kinds of objects`} may not be read and ${missing.length === 1 ? "is" : "are"} left out`), h("ul", {}, missing.map((message) => h("li", {}, message)))));
  }
  ui.remarks.replaceChildren(...lines);
}

// The list.

function show() {
  const found = chosen(rows.values(), ui.search.value, states, ui.sort.value);
  const none = rows.size === 0;
  ui.tools.hidden = none;
  ui.head.hidden = none || !found.length;
  arrange(ui.rows, found.map((row) => items.get(keyOf(row))));
  chips();
  select();
  if (found.length || !heard) {
    ui.nothing.hidden = true;
    return;
  }
  ui.nothing.hidden = false;
  if (!none) ui.nothing.replaceChildren(h("p", {}, "No model has all of this."), h("button", { type: "button", onclick: clear }, "Show all models"));
  else if (!ui.nothing.dataset.empty) empty();
  ui.nothing.dataset.empty = none ? "yes" : "";
}

function empty() {
  const namespace = hello.namespace ?? "default";
  const example = `kubectl apply -n ${namespace} -f - <<'END'
apiVersion: torchscript.dev/v1alpha1
kind: TorchScriptModel
metadata: {name: minilm}
spec:
  source: {huggingFace: {repository: sentence-transformers/all-MiniLM-L6-v2}}
  task: feature-extraction
END`;
  const where = hello.namespace ? `the namespace ${hello.namespace}` : "any namespace";
  ui.nothing.replaceChildren(
    h("h2", {}, `There is no model in ${where} yet`),
    h("p", {}, "Apply one, and it appears here at once:"),
    code(example, "the command"),
    h("p", {}, "Or have a file written for a repository of the Hub, with its task, shapes and resources:"),
    code("tsm init sentence-transformers/all-MiniLM-L6-v2 && tsm plan model.yaml", "the command"),
    hello.namespace ? h("p", { class: "soft" }, "Models of other namespaces: tsm dashboard --all-namespaces, or -n NAMESPACE.") : "",
  );
}

let chipsShown = "";
function chips() {
  const counts = new Map(STATES.map((state) => [state, 0]));
  for (const row of rows.values()) counts.set(row.state, counts.get(row.state) + 1);
  const shown = STATES.filter((state) => counts.get(state) || states.has(state));
  const now = JSON.stringify(shown.map((state) => [state, counts.get(state), states.has(state)]));
  if (now === chipsShown) return;
  chipsShown = now;
  const focused = document.activeElement?.dataset.state;
  ui.states.replaceChildren(
    ...shown.map((state) =>
      h("button", { type: "button", class: "chip", "data-state": state, "aria-pressed": String(states.has(state)), title: state, onclick: () => toggle(state) }, icon(kind(state)), h("span", { class: "word" }, state), h("span", { class: "count" }, String(counts.get(state)))),
    ),
  );
  if (focused) ui.states.querySelector(`[data-state="${focused}"]`)?.focus();
}

function toggle(state) {
  if (!states.delete(state)) states.add(state);
  show();
}

function clear() {
  ui.search.value = "";
  states.clear();
  show();
  ui.search.focus();
}

// Where the page is: #/namespace/name is a model.

const here = () => {
  const parts = location.hash.match(/^#\/([^/]*)\/([^/]+)$/);
  return parts ? `${decodeURIComponent(parts[1])}/${decodeURIComponent(parts[2])}` : null;
};
const isWide = () => matchMedia("(min-width: 64rem)").matches;

function go() {
  const key = here();
  document.body.classList.toggle("opened", key !== null);
  ui.detail.hidden = key === null;
  if (key === null) {
    detail.close();
    select();
    const before = cursor && items.get(cursor)?.firstChild;
    if (before?.isConnected) before.focus({ preventScroll: true });
    return;
  }
  cursor = key;
  detail.open(key, back);
  select();
  refresh();
  if (!isWide()) ui.detail.focus({ preventScroll: true });
}

function back() {
  history.pushState(null, "", location.pathname);
  go();
}

function select() {
  const link = detail.key ? items.get(detail.key)?.firstChild : null;
  if (marked && marked !== link) marked.removeAttribute("aria-current");
  marked = link ?? null;
  if (marked && !marked.hasAttribute("aria-current")) marked.setAttribute("aria-current", "true");
}

// Ask for the open model; what changes while an answer is on its way is asked for again.
async function refresh() {
  const { key } = detail;
  if (!key || !heard) return;
  if (fetching === key) {
    stale = true;
    return;
  }
  fetching = key;
  stale = false;
  try {
    const answer = await fetch(`models/${key.split("/").map(encodeURIComponent).join("/")}`);
    const model = await answer.json();
    if (detail.key !== key) return;
    if (ui.live.dataset.lost === "fetch") live(true, "Live");
    if (model) detail.draw(model);
    else detail.gone("This model is not there any more.");
  } catch {
    // Also where this machine has only changed its network.
    if (ui.live.className === "live good") {
      live(false, LOST);
      ui.live.dataset.lost = "fetch";
    }
    setTimeout(refresh, PROGRESS_MS);
  } finally {
    if (fetching === key) {
      fetching = null;
      if (stale) refresh();
    }
  }
}

// Keys.

const links = () => [...ui.rows.querySelectorAll("a.row")];

function move(change) {
  const all = links();
  if (!all.length) return;
  const at = all.findIndex((link) => link === document.activeElement || (!ui.rows.contains(document.activeElement) && link.dataset.key === cursor));
  const next = change === Infinity ? all.length - 1 : change === -Infinity ? 0 : at < 0 ? 0 : Math.min(Math.max(at + change, 0), all.length - 1);
  const link = all[next];
  cursor = link.dataset.key;
  link.focus({ preventScroll: true });
  link.scrollIntoView({ block: "nearest" });
  if (detail.key && isWide() && detail.key !== cursor) {
    history.replaceState(null, "", addressOf(rows.get(cursor)));
    go();
    link.focus({ preventScroll: true });
  }
}

const MOVES = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };

function escape() {
  if (document.activeElement === ui.search && (ui.search.value || states.size)) {
    ui.search.value = "";
    states.clear();
    show();
  } else if (document.activeElement === ui.search) {
    ui.search.blur();
  } else if (!detail.report?.hidden && detail.key) {
    detail.toggleReport(detail.target);
  } else if (detail.key) {
    back();
  } else if (ui.search.value || states.size) {
    clear();
    ui.search.blur();
  }
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || ui.keys.open) return;
  const typing = event.target.matches("input, select, textarea");
  const inDetail = ui.detail.contains(event.target);
  if (event.key === "Escape") escape();
  else if (typing && event.key === "ArrowDown" && event.target === ui.search) move(0);
  else if (typing && event.key === "Enter" && event.target === ui.search) links()[0]?.click();
  else if (typing) return;
  else if (event.key === "/") ui.search.focus();
  else if (event.key === "?") ui.keys.showModal();
  else if (event.key === "r" && detail.key) detail.toggleReport();
  else if (event.key in MOVES && !(inDetail && event.key.length > 1) && !(document.body.classList.contains("opened") && !isWide())) move(MOVES[event.key]);
  else return;
  event.preventDefault();
}

ui.search.addEventListener("input", show);
ui.sort.addEventListener("change", show);
ui.help.addEventListener("click", () => ui.keys.showModal());
ui.rows.addEventListener("focusin", (event) => (cursor = event.target.closest("a.row")?.dataset.key ?? cursor));
ui.detail.addEventListener("click", (event) => {
  const button = event.target.closest(".open-report");
  if (button) detail.toggleReport(button.dataset.target);
});
document.addEventListener("keydown", press);
addEventListener("hashchange", go);
addEventListener("popstate", go);
setInterval(tickAges, AGES_MS);
setInterval(() => detail.model?.moves && document.visibilityState === "visible" && refresh(), PROGRESS_MS);
listen();
go();
