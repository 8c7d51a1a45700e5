// Everything about one model. Sections are drawn anew only where what they show has changed.

import { code, h, icon, kind, mark } from "./dom.js";
import { axis, bar, decades, scatter, scientific, strip } from "./plots.js";
import { age } from "./times.js";

const GOOD_WHEN_FALSE = new Set(["Reconciling", "Stalled"]);
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef";
const short = (text, characters = 12) => (text ? text.slice(0, characters) : "–");

function table(caption, header, rows, className = "") {
  const named = header.map((cell) => (typeof cell === "string" ? { text: cell } : cell));
  return h(
    "div",
    { class: "wide", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      { class: className },
      h("thead", {}, h("tr", {}, named.map(({ text, figure }) => h("th", { scope: "col", class: figure ? "figure" : null }, text)))),
      h("tbody", {}, rows.map((row) => h("tr", { class: row.className }, row.cells.map((cell, index) => h(index ? "td" : "th", { scope: index ? null : "row", class: named[index].figure ? "figure" : null, "data-label": named[index].text }, cell))))),
    ),
  );
}

const terms = (pairs) => h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

function heading(model) {
  const sameWord = model.reason === model.state || !model.reason;
  return [
    h("p", { class: "state" }, mark(model.state), sameWord ? "" : h("span", { class: "reason" }, model.reason)),
    h("h2", {}, h("span", { class: "soft" }, `${model.namespace}/`), model.name),
    model.message && model.isCurrent && !model.failures.length ? h("p", { class: "message" }, model.message) : "",
    model.isCurrent ? "" : h("p", { class: "message" }, "The operator has not seen the present spec yet; ", h("code", {}, "tsm doctor"), " says whether it runs."),
  ];
}

function facts(model) {
  const versions = model.targets.map((target) => target.versions).find(Boolean);
  return terms([
    ["Source", h("span", { class: "break" }, model.source)],
    ["Task", model.task],
    ["Shapes", model.shapes.join(", ")],
    ["Targets", h("span", { class: "marks" }, model.targets.map((target) => h("span", { class: "target" }, mark(target.state), ` ${target.name}${target.precision ? `, ${target.precision}` : ""}`)))],
    ["URL", model.serving?.url ? h("span", { class: "break" }, model.serving.url) : null],
    ["Versions", versions ? Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ") : null],
    ["Created", age(model.created, true)],
    ["Suspended", model.suspended ? "yes: no export and no rollout starts" : null],
  ]);
}

function failure(found) {
  const where = [found.stage ? `at ${found.stage}` : "", found.exitCode !== null ? `exit code ${found.exitCode}` : ""].filter(Boolean).join(", ");
  return h(
    "article",
    { class: "failure" },
    h("h4", {}, icon("bad"), h("span", {}, found.reason), h("span", { class: "soft" }, found.where, where ? `, ${where}` : "", found.time ? [", ", age(found.time, true)] : "")),
    h("p", {}, found.message),
    found.nextStep ? h("p", { class: "next" }, h("b", {}, "Next"), " ", found.nextStep) : "",
  );
}

function step(found) {
  const time = found.elapsed ? `${found.elapsed}${found.expected ? ` of about ${found.expected}` : ""}` : "";
  return h(
    "div",
    { class: "step" },
    h("p", {}, h("b", {}, found.target), " ", found.doing, h("span", { class: "time" }, [found.percentage, time].filter(Boolean).join(", "))),
    found.share !== null ? bar(found.share, `${found.target}: ${found.doing}`) : "",
    found.message ? h("p", { class: "soft" }, found.message) : "",
  );
}

function parity(found, model) {
  const { bounds } = found;
  const differences = decades(found.rows.map((row) => row.difference).filter(Boolean), bounds?.absolute);
  const distances = decades(found.rows.map((row) => row.cosineDistance).filter(Boolean), bounds?.cosineDistance);
  const agreed = found.rows.some((row) => row.agreement);
  const rows = found.rows.map((row) =>
    h(
      "div",
      { class: "figures" },
      h("p", { class: "what" }, mark(row.passed ? "Passed" : "Failed"), h("span", {}, row.output, h("span", { class: "soft" }, ` ${row.shape}`))),
      h("div", { class: "plot" }, h("p", {}, h("span", { class: "soft" }, "difference "), row.differenceText.replace("e-", "e−")), strip(row.difference, bounds?.absolute, differences, row.passed, `Largest difference ${row.differenceText}${bounds ? `, bound ${bounds.absolute}` : ""}`)),
      h("div", { class: "plot" }, h("p", {}, h("span", { class: "soft" }, "1 − cosine "), row.cosineDistance === null ? "–" : scientific(row.cosineDistance)), strip(row.cosineDistance, bounds?.cosineDistance, distances, row.passed || (bounds !== null && row.cosineDistance !== null && row.cosineDistance <= bounds.cosineDistance), `1 − cosine similarity ${row.cosineDistance}${bounds ? `, bound ${bounds.cosineDistance}` : ""}`)),
      agreed || row.nonFinite ? h("p", { class: "more soft" }, [row.agreement ? `agreement ${row.agreement}` : "", row.nonFinite ? `${row.nonFinite} NaN or infinite` : ""].filter(Boolean).join(", ")) : "",
    ),
  );
  const about = found.of === "attempt" ? "the attempt that failed" : "the proven artifact";
  return h(
    "article",
    { class: "measured" },
    h("header", {}, h("h4", {}, found.target), mark(found.verdict), h("span", { class: "soft" }, about), h("button", { type: "button", class: "open-report", "data-target": found.target, "aria-expanded": "false" }, "Report")),
    h("div", { class: "plots" }, rows, h("div", { class: "figures axes" }, h("p", { class: "what soft" }, bounds ? "bounds" : ""), axis(bounds?.absolute, differences), axis(bounds?.cosineDistance, distances))),
    bounds ? h("p", { class: "note" }, `An element passes within ${scientific(bounds.absolute)} plus ${scientific(bounds.relative)} of eager’s value, so a large value may lie beyond the line and pass.`) : h("p", { class: "note" }, "The bounds are not known here: the spec is of another release."),
    found.omitted ? h("p", { class: "note" }, `${found.omitted} more figures are in the report.`) : "",
  );
}

function candidates(found, width) {
  const rows = found.rows.map((row, index) => ({
    className: row.chosen ? "chosen" : null,
    cells: [
      h("span", {}, h("b", { class: "letter" }, LETTERS[index]), ` ${row.precision}`, row.chosen ? h("span", { class: "tag" }, "taken") : ""),
      [row.frozen ? "frozen" : row.packed ? "packed" : "as traced", row.keptLayers ? `${row.keptLayers} layers in float32` : ""].filter(Boolean).join(", "),
      row.threads ?? "–",
      row.speed === null || row.speed === undefined ? "–" : row.speed.toLocaleString("en", { maximumFractionDigits: 1 }),
      row.distance === null || row.distance === undefined ? "–" : scientific(row.distance),
      mark(row.verdict),
    ],
  }));
  return h(
    "article",
    { class: "measured" },
    h("header", {}, h("h4", {}, found.target)),
    scatter(found.rows, found.bound, LETTERS, width),
    table(`Forms of ${found.target}`, ["Form", "Graph", { text: "Threads", figure: true }, { text: "Texts/s", figure: true }, { text: "1 − cosine", figure: true }, "Verdict"], rows, "cards"),
  );
}

function rollout(found) {
  const pips = Array.from({ length: Math.min(found.replicas, 40) }, (_, index) => h("i", { class: index < found.ready ? "pip ready" : "pip" }));
  const back = found.rollingTo !== null && found.rollingTo === found.active;
  return h(
    "article",
    { class: "rollout" },
    h("header", {}, h("h4", {}, found.deployment), h("span", { class: "figure" }, `${found.ready} of ${found.replicas} pods Ready`)),
    h("div", { class: "pips", "aria-hidden": "true" }, pips),
    h(
      "p",
      { class: "way" },
      back ? "" : h("span", {}, h("span", { class: "soft" }, "serves "), h("code", {}, found.active ?? "nothing yet")),
      back ? h("span", {}, icon("swap"), h("span", { class: "soft" }, " going back to "), h("code", {}, found.active)) : found.rollingTo ? h("span", {}, icon("swap"), h("span", { class: "soft" }, " rolling to "), h("code", {}, found.rollingTo)) : "",
      found.failed ? h("span", {}, icon("bad"), h("span", { class: "soft" }, " rolled back from "), h("code", {}, found.failed)) : "",
      found.pinned ? h("span", {}, icon("hold"), h("span", { class: "soft" }, " pinned to "), h("code", {}, short(found.pinned, 19))) : "",
    ),
  );
}

const revisions = (found) =>
  table(
    "Artifacts",
    ["Artifact", "Target", "Precision", "Parity", { text: "Size", figure: true }, { text: "Proven", figure: true }, "Notes"],
    found.map((row) => ({
      className: row.notes.includes("serving") ? "chosen" : null,
      cells: [h("code", { title: `${row.digest}\n${row.uri}` }, row.short), row.target, row.precision ?? "–", row.verdict ? mark(row.verdict) : "–", row.size, row.proven ? age(row.proven, true) : "–", row.notes.map((note) => h("span", { class: note === "failed" ? "tag bad" : "tag" }, note))],
    })),
    "cards",
  );

function conditions(found) {
  const said = new Set();
  const moving = found.some((row) => row.type === "Reconciling" && row.status === "True");
  return table(
    "Conditions",
    ["Condition", "Status", "Reason", { text: "Since", figure: true }, "Message"],
    found.map((row) => {
      const good = (row.status === "True") !== GOOD_WHEN_FALSE.has(row.type);
      const shape = row.status === "Unknown" ? "wait" : good ? "good" : row.type === "Reconciling" ? "busy" : moving && row.type !== "Stalled" ? "wait" : "bad";
      const again = said.has(row.message);
      said.add(row.message);
      return { cells: [row.type, mark(row.status, shape), row.reason, age(row.lastTransitionTime), h("span", { class: again ? "soft" : "" }, again ? "as above" : row.message)] };
    }),
    "cards long",
  );
}

// A pod's state is a phase, or the reason of its trouble.
const podShape = (state) => ({ Ready: "good", Succeeded: "good", Running: "busy", Pending: "wait", Ending: "gone", Unknown: "wait" })[state] ?? "bad";

const pods = (found) =>
  table(
    "Pods",
    ["Pod", "Of", "State", { text: "Restarts", figure: true }, "Node", { text: "Age", figure: true }],
    found.map((row) => ({ cells: [h("code", {}, row.name), [row.component, row.target].filter(Boolean).join(", "), mark(row.state, podShape(row.state)), row.restarts, row.node ?? "–", age(row.created)] })),
    "cards",
  );

const events = (found) =>
  h("ol", { class: "events" }, found.map((event) => h("li", {}, h("span", { class: "when" }, age(event.time, true)), icon(kind(event.type)), h("p", {}, event.type === "Warning" ? h("span", { class: "unseen" }, "Warning: ") : "", h("b", {}, event.reason), event.count > 1 ? h("span", { class: "soft" }, ` × ${event.count}`) : "", h("span", {}, ` ${event.message}`)))));

function commands(model) {
  const where = `-n ${model.namespace}`;
  const lines = [`tsm logs ${model.name} ${where}`];
  if (model.moves) lines.push(`tsm wait ${model.name} ${where}`);
  if (model.failures.length) lines.push(`tsm retry ${model.name} ${where}`);
  if (model.revisions.length > 1) lines.push(`tsm rollback ${model.name} ${where}`);
  return h("div", { class: "commands" }, lines.map((line) => code(line, line)));
}

const SECTIONS = [
  ["heading", null, (model) => model, heading],
  ["failures", "What failed", (model) => model.failures, (found) => found.map(failure)],
  ["steps", "Under way", (model) => model.steps, (found) => found.map(step)],
  ["facts", null, (model) => model, facts],
  ["rollouts", "Serving", (model) => model.rollouts, (found) => found.map(rollout)],
  ["parity", "Parity with eager", (model) => model.parity, (found, model) => found.map((each) => parity(each, model))],
  ["candidates", "Forms measured", (model) => model.candidates, (found, _, width) => found.map((each) => candidates(each, width))],
  ["revisions", "Artifacts", (model) => model.revisions, revisions],
  ["pods", "Pods", (model) => model.pods, pods],
  ["events", "Events", (model) => model.events, events],
  ["conditions", "Conditions", (model) => model.conditions, conditions],
  ["commands", "In a terminal", (model) => [model.name, model.moves, model.failures.length, model.revisions.length], (_, model) => commands(model)],
];

export class Detail {
  constructor(pane) {
    this.pane = pane;
    this.key = null;
  }

  // Begin with another model; its sections are there before their content, so that what comes late moves nothing away.
  open(key, close) {
    if (this.key === key) return;
    this.key = key;
    this.shown = new Map();
    this.parts = new Map(SECTIONS.map(([name]) => [name, h("section", { class: `part ${name}` })]));
    this.report = h("section", { class: "part report", hidden: true });
    const all = [...this.parts.values()];
    all.splice(all.indexOf(this.parts.get("parity")) + 1, 0, this.report);
    this.pane.replaceChildren(h("div", { class: "crumb" }, h("button", { type: "button", class: "close quiet", onclick: close, "aria-label": "Close, back to the list" }, h("span", { "aria-hidden": "true" }, "←"), h("span", { "aria-hidden": "true", class: "word" }, "All models"), h("kbd", { "aria-hidden": "true" }, "Esc"))), ...all);
    this.pane.scrollTop = 0;
  }

  close() {
    this.key = null;
    this.pane.replaceChildren();
  }

  draw(model) {
    // Text of a plot is as large as that of the page.
    const width = Math.min(Math.max(this.pane.clientWidth - 62, 300), 600);
    for (const [name, title, pick, make] of SECTIONS) {
      const found = pick(model);
      const told = JSON.stringify(found);
      if (this.shown.get(name) === told) continue;
      this.shown.set(name, told);
      const part = this.parts.get(name);
      const empty = Array.isArray(found) && !found.length;
      part.hidden = empty;
      part.replaceChildren(...(empty ? [] : [title ? h("h3", {}, title) : "", make(found, model, width)].flat(Infinity).filter(Boolean)));
    }
    this.model = model;
    this.markReport();
  }

  gone(message) {
    for (const part of this.parts.values()) part.replaceChildren();
    this.shown.clear();
    this.parts.get("heading").replaceChildren(h("h2", {}, this.key), h("p", { class: "message" }, message));
  }

  markReport() {
    for (const button of this.pane.querySelectorAll(".open-report")) {
      const open = !this.report.hidden && this.target === button.dataset.target;
      button.setAttribute("aria-expanded", String(open));
      button.textContent = open ? "Close report" : "Report";
    }
  }

  // Show or hide the report of a target, or of the first that has one.
  async toggleReport(target = this.pane.querySelector(".open-report")?.dataset.target) {
    if (!target) return;
    const same = !this.report.hidden && this.target === target;
    this.report.hidden = same;
    this.target = target;
    this.markReport();
    if (same) {
      this.report.replaceChildren();
      return;
    }
    const [namespace, name] = this.key.split("/");
    const address = `reports/${[namespace, name, target].map(encodeURIComponent).join("/")}`;
    this.report.replaceChildren(h("h3", {}, `Parity report, ${target}`), h("p", { class: "soft" }, "Reading it from the store…"));
    this.report.scrollIntoView({ block: "nearest" });
    const answer = await fetch(address).catch(() => null);
    if (this.report.hidden || this.target !== target) return;
    if (!answer?.ok) {
      const told = answer ? await answer.json() : { message: "tsm dashboard does not answer.", advice: "" };
      this.report.lastChild.replaceWith(h("div", { class: "failure" }, h("p", {}, icon("warn"), " ", told.message), told.advice ? h("p", { class: "next" }, h("b", {}, "Next"), " ", told.advice) : ""));
      this.report.scrollIntoView({ block: "nearest" });
      return;
    }
    const frame = h("iframe", { src: address, title: `Parity report of ${this.key}, ${target}`, sandbox: "", referrerpolicy: "no-referrer" });
    this.report.replaceChildren(h("h3", {}, `Parity report, ${target} `, h("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, "in a tab of its own")), frame);
    this.report.scrollIntoView({ block: "start" });
  }
}
