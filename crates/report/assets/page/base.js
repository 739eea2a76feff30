// What the page knows of the runs, and how figures are written and coloured.

const seen = JSON.parse(document.getElementById("data").textContent);
let facts = seen.facts;

// Columns of a run. ----------------------------------------------------------

/** A run with its rows as columns; lines of processes are a map like the other groups of columns. */
function runOf({ rows, ...info }) {
  const run = { ...info, columns: {}, lines: new Map(), logLines: new Map() };
  rows.forEach((columns) => takeRows(run, columns));
  return run;
}

/** Replaces the rows of a run from `from` on. */
function takeRows(run, { from, processes = [], logs = [], processes_left_out: leftOut = 0, ...columns }) {
  if (from === 0) {
    run.columns = {};
    run.lines.clear();
    run.logLines.clear();
  }
  columns.processes = {};
  for (const { values, ...line } of processes) {
    const key = `${line.process} ${line.own} ${line.metric} ${line.label}`;
    run.lines.set(key, line);
    columns.processes[key] = values;
  }
  columns.matched = {};
  for (const { values, ...line } of logs) {
    const key = `${line.log} ${line.pattern}`;
    run.logLines.set(key, line);
    columns.matched[key] = values;
  }
  run.leftOut = leftOut;
  append(run.columns, columns, from, columns.t.length, null);
}

/** Appends columns at a row; those that only one side has are filled. */
function append(own, next, from, count, filler) {
  for (const name of new Set([...Object.keys(own), ...Object.keys(next)])) {
    if (Array.isArray(own[name] ?? next[name])) {
      const column = (own[name] ??= []);
      column.length = Math.min(column.length, from);
      while (column.length < from) column.push(filler);
      for (let row = 0; row < count; row++) column.push(next[name] ? next[name][row] : filler);
    } else {
      append((own[name] ??= {}), next[name] ?? {}, from, count, name === "errors" ? 0 : filler);
    }
  }
}

const runs = seen.runs.map(runOf);

const isNumber = (value) => value !== null && value !== undefined;
const numbers = (values) => values.filter(isNumber);
const greatest = (values) => values.reduce((most, value) => (isNumber(value) && value > most ? value : most), -Infinity);
const least = (values) => values.reduce((own, value) => (isNumber(value) && value < own ? value : own), Infinity);
const sum = (values) => values.reduce((all, value) => all + value, 0);
const anyAbove = (values, limit = 0) => values?.some((value) => value > limit) ?? false;
const sums = (columns) => columns[0].map((_, row) => columns.reduce((sum, column) => sum + (column[row] ?? 0), 0));

// Figures as text, written as in the tables. -----------------------------------

function number(value) {
  const size = Math.abs(value);
  // Longer numbers would not fit beside an axis.
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(4)).toLocaleString("en-US")}M`;
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  if (size === 0) return "0";
  return String(Number(value.toPrecision(3)));
}

const rate = (value) => `${number(value)}/s`;
const percent = (share) => `${number(share * 100)} %`;

/** A share as a percentage, with enough digits not to round to 0 or 100. */
function shareOf(share) {
  const texts = [1, 2, 3, 4].map((digits) => String(Number((share * 100).toFixed(digits))));
  return `${texts.find((text) => (text !== "100" || share === 1) && (text !== "0" || share === 0)) ?? number(share * 100)} %`;
}

function millis(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 0.0009995) return `${number(value * 1e6)}ns`;
  if (size < 0.9995) return `${number(value * 1e3)}µs`;
  if (size < 999.5) return `${number(value)}ms`;
  return size < 120_000 ? `${number(value / 1000)}s` : clock(value / 1000);
}

const BYTES = ["B", "KiB", "MiB", "GiB", "TiB"];
const powerOf = (value) => Math.min(Math.max(Math.floor(Math.log2(value * 1.0005) / 10), 0), BYTES.length - 1);

function bytes(value) {
  const power = value > 0 ? powerOf(value) : 0;
  return value > 0 ? `${number(value / 1024 ** power)} ${BYTES[power]}` : "0";
}

/** An instant or duration in seconds: `90s`, `2m5s`. */
function clock(seconds) {
  const size = Math.abs(seconds);
  const sign = seconds < 0 ? "−" : "";
  if (size > 0 && size < 0.1) return sign + millis(size * 1000);
  if (size < 120) return `${sign}${Number(size.toFixed(1))}s`;
  const whole = Math.round(size);
  const parts = [[Math.floor(whole / 3600), "h"], [Math.floor(whole / 60) % 60, "m"], [whole % 60, "s"]];
  return sign + parts.filter(([n]) => n > 0).map(([n, unit]) => n + unit).join("");
}

const span = (from, to) => clock(from) === clock(to)
  ? `${clock(from)}, for ${millis((to - from) * 1000)}`
  : `${clock(from)}${from < 0 ? " to " : "–"}${clock(to)}`;
const plural = (n, one, more = `${one}s`) => `${number(n)} ${n === 1 ? one : more}`;

// Elements and colours. -----------------------------------------------------------

/** An element; properties are set as attributes, content is always text or elements. */
function element(tag, properties = {}, ...content) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...content);
  return made;
}

let palette = new Map();

/** The value of a colour of the style sheet in the mode that is shown. */
function colour(name) {
  if (!palette.has(name)) {
    const style = getComputedStyle(document.documentElement);
    palette.set(name, style.getPropertyValue(`--${name}`).trim());
  }
  return palette.get(name);
}

/** The same colour, translucent. */
const tint = (name, alpha) => colour(name) + Math.round(alpha * 255).toString(16).padStart(2, "0");

/** Colours and dashes of lines without a meaning of their own: 8 colours, then dashed. */
const LINES = ["blue", "orange", "teal", "purple", "ochre", "pink", "green", "slate"];
const DASHES = [undefined, [6, 4], [2, 3], [10, 3, 2, 3]];
const lineStyle = (place) => ({
  colour: LINES[place % LINES.length],
  dash: DASHES[Math.floor(place / LINES.length) % DASHES.length],
});
