// Times as kubectl and tsm write them, told anew as they grow old.

import { h } from "./dom.js";

const MINUTE = 60, HOUR = 3600, DAY = 86400;
const UNITS = [
  [2 * MINUTE, 1, "s"],
  [10 * MINUTE, MINUTE, "m", 1, "s"],
  [3 * HOUR, MINUTE, "m"],
  [8 * HOUR, HOUR, "h", MINUTE, "m"],
  [2 * DAY, HOUR, "h"],
  [8 * DAY, DAY, "d", HOUR, "h"],
];

export function duration(seconds) {
  const whole = Math.max(0, Math.trunc(seconds));
  for (const [below, size, unit, more, smaller] of UNITS) {
    if (whole >= below) continue;
    const rest = more ? Math.trunc((whole % size) / more) : 0;
    return `${Math.trunc(whole / size)}${unit}${rest ? rest + smaller : ""}`;
  }
  return `${Math.trunc(whole / DAY)}d`;
}

let ahead = 0;

// The clock of the machine that reads the cluster; a page's own may be off.
export function setClock(iso) {
  ahead = Date.parse(iso) - Date.now();
}

const since = (iso) => (Date.now() + ahead - Date.parse(iso)) / 1000;
const ABSOLUTE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

function tell(element) {
  const text = duration(since(element.dateTime)) + (element.dataset.ago === undefined ? "" : " ago");
  if (element.textContent !== text) element.textContent = text;
}

export function age(iso, ago = false) {
  if (!iso || iso.startsWith("1970")) return "–";
  const element = h("time", { datetime: iso, title: ABSOLUTE.format(new Date(iso)), "data-ago": ago ? "" : null });
  tell(element);
  return element;
}

export function tickAges() {
  for (const element of document.querySelectorAll("time")) tell(element);
}
