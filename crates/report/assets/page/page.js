// The page around the charts: layout, tables, printing, and what changes during a run.

const SECTIONS = { load: "Over time", processes: "Other processes over time", host: "The load generator's host over time" };
const root = document.getElementById("charts");
const readout = element("p", { class: "unseen", "aria-live": "polite" });
const announcement = element("p", { class: "unseen", "aria-live": "polite" });
const zoomed = element("span");
const hint = element("span", { class: "hint" }, "Drag in a chart to zoom in.");
const showAll = element("button", { type: "button", onclick: () => setZoom(null) }, "Show the whole run");
const notes = element("div");
const grids = {};

const say = (text) => { readout.textContent = text; };

function layOut() {
  root.append(
    element("p", { class: "unseen", id: "keys" },
      "Arrow keys move through the values; plus and minus zoom; Escape shows the whole run."),
    element("div", { class: "toolbar" }, hint, zoomed, showAll), readout, announcement);
  for (const [name, title] of Object.entries(SECTIONS)) {
    grids[name] = element("div", { class: "grid" });
    const section = element("div", { class: "part", hidden: true }, element("h2", {}, title), grids[name]);
    if (name === "processes") section.append(notes);
    root.append(section);
  }
}

function toolbar() {
  const marks = [
    runs.some((run) => run.columns.t?.[0] < 0) && "The warm-up is shaded.",
    facts.findings.length && "Bars above the charts are the seconds of findings.",
  ].filter(Boolean);
  zoomed.textContent = [zoom && `Showing ${span(...zoom)}.`, ...marks].filter(Boolean).join(" ");
  hint.hidden = zoom !== null;
  showAll.hidden = zoom === null;
}

/** Draws what is known now. */
function draw() {
  const list = panels();
  for (const [key, chart] of charts) {
    if (list.some((panel) => panel.key === key)) continue;
    chart.figure.remove();
    charts.delete(key);
  }
  for (const [section, grid] of Object.entries(grids)) {
    const own = list.filter((panel) => panel.section === section);
    own.forEach(({ key }, place) => {
      if (!charts.has(key)) charts.set(key, new Chart(key));
      const { figure } = charts.get(key);
      if (grid.children[place] !== figure) grid.insertBefore(figure, grid.children[place] ?? null);
    });
  }
  const said = runs.length === 1 && list.length ? processNotes(runs[0]) : [];
  notes.replaceChildren(...said.map((text) => element("p", { class: "note" }, text)));
  for (const name of Object.keys(SECTIONS)) {
    const isEmpty = !grids[name].children.length && !(name === "processes" && said.length);
    grids[name].parentElement.hidden = isEmpty;
  }
  root.classList.toggle("empty", !list.length);
  // All figures have their places, and so their widths.
  list.forEach((panel) => charts.get(panel.key).show(panel));
  toolbar();
}

// Tables. -------------------------------------------------------------------------

const LONG = 20;
const filters = new Map();
const sorted = new Map();
const UNITS = { ns: 1e-9, µs: 1e-6, ms: 1e-3, s: 1, m: 60, h: 3600, KiB: 1024, MiB: 2 ** 20, GiB: 2 ** 30 };

/** The value of a cell, for sorting: `1m30s`, `5.23ms`, `1,250`, `99 %`. */
function valueOf(text) {
  const parts = [...text.replaceAll(",", "").matchAll(/(-?[\d.]+)\s*([a-zµA-Z]*)/g)];
  if (!parts.length) return null;
  return parts.slice(0, /^\S*[hms]$/.test(text) ? 3 : 1).reduce((sum, [, n, unit]) => sum + Number(n) * (UNITS[unit] ?? 1), 0);
}

function enhance(table) {
  const name = table.caption.textContent;
  const body = table.tBodies[0];
  if (body.rows.length > LONG) {
    const box = table.parentElement;
    box.classList.toggle("long", body.rows.length > 2 * LONG);
    const count = element("span");
    const field = element("input", { type: "search", placeholder: `Filter: ${name}`, "aria-label": `Filter rows of ${name}` });
    field.value = filters.get(name) ?? "";
    const apply = () => {
      filters.set(name, field.value);
      filterRows(body, field.value, count);
    };
    field.addEventListener("input", apply);
    box.before(element("p", { class: "filter" }, field, count));
    apply();
  }
  if (body.rows.length < 4) return;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const text = head.textContent;
    if (!text) return;
    const button = element("button", { type: "button" }, text);
    button.addEventListener("click", () => {
      const [own, down] = sorted.get(name) ?? [];
      const isWords = head.classList.contains("words");
      const firstDown = !isWords;
      if (own !== text) sorted.set(name, [text, firstDown]);
      else if (down === firstDown) sorted.set(name, [text, !firstDown]);
      else sorted.delete(name);
      sortRows(table);
    });
    head.replaceChildren(button);
  });
  [...body.rows].forEach((row, place) => { row.dataset.place = place; });
  if (sorted.has(name)) sortRows(table);
}

/** Shows the rows of which the name or another text has all words. */
function filterRows(body, text, count) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of body.rows) {
    const own = words.length ? textsOf(row).toLowerCase() : "";
    row.hidden = !words.every((word) => own.includes(word));
    shown += row.hidden ? 0 : 1;
  }
  count.textContent = `${number(shown)} of ${plural(body.rows.length, "row")}`;
}

const textsOf = (row) => [row.cells[0], ...row.querySelectorAll(".words")].map((cell) => cell.textContent).join(" ");

function sortRows(table) {
  const [text, down] = sorted.get(table.caption.textContent) ?? [];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  const column = heads.findIndex((head) => head.textContent === text);
  const rows = [...table.tBodies[0].rows];
  if (column < 0) {
    rows.sort((a, b) => a.dataset.place - b.dataset.place);
  } else {
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    const isWords = heads[column].classList.contains("words");
    const keys = new Map(rows.map((row) => [row, isWords ? row.cells[column].textContent : valueOf(row.cells[column].textContent)]));
    const compare = isWords ? (a, b) => a.localeCompare(b, "en", { numeric: true }) : (a, b) => (a ?? -Infinity) - (b ?? -Infinity);
    rows.sort((a, b) => (down ? -1 : 1) * compare(keys.get(a), keys.get(b)));
  }
  table.tBodies[0].append(...rows);
}

const enhanceAll = (within) => within.querySelectorAll("table").forEach(enhance);

// What changes during a run. ---------------------------------------------------------

const FOCUSABLE = "button, input, summary, [tabindex]";

/** Replaces the content of an element; focus, scroll positions and what is open stay. */
function replaceContent(id, html) {
  const own = document.getElementById(id);
  const boxes = () => [...own.querySelectorAll(".wide")];
  const details = () => [...own.querySelectorAll("details")];
  const focusables = () => [...own.querySelectorAll(FOCUSABLE)];
  const focus = focusables().indexOf(document.activeElement);
  const selection = document.activeElement.selectionStart;
  const scrolled = boxes().map(({ scrollLeft, scrollTop }) => [scrollLeft, scrollTop]);
  const open = details().map((one) => one.open);
  const heard = own.querySelector(".banner")?.textContent;
  own.innerHTML = html;
  enhanceAll(own);
  boxes().forEach((box, place) => scrolled[place] && ([box.scrollLeft, box.scrollTop] = scrolled[place]));
  details().forEach((one, place) => { one.open = open[place] ?? one.open; });
  if (focus >= 0) {
    const again = focusables()[focus];
    again?.focus({ preventScroll: true });
    if (isNumber(selection)) again?.setSelectionRange?.(selection, selection);
  }
  const banner = own.querySelector(".banner");
  if (banner && banner.textContent !== heard) {
    announcement.textContent = [...banner.children].map((part) => part.textContent).join(": ");
  }
}

let drawn = null;

/** Draws before the next frame, once. */
function drawSoon() {
  drawn ??= requestAnimationFrame(() => {
    drawn = null;
    draw();
  });
}

function listen() {
  const state = document.getElementById("state");
  const source = new EventSource("events");
  const on = (name, take) => source.addEventListener(name, (event) => take(JSON.parse(event.data)));
  source.addEventListener("open", () => { state.textContent = "The run goes on; this page follows it."; });
  source.addEventListener("error", () => {
    state.textContent = "The connection to the run is lost; this page tries to reconnect. The figures are those until then.";
  });
  on("rows", (columns) => {
    takeRows(runs[0], columns);
    drawSoon();
  });
  on("facts", (next) => {
    facts = next;
    drawSoon();
  });
  on("html", (parts) => Object.entries(parts).forEach(([id, html]) => replaceContent(id, html)));
  on("end", ({ report }) => {
    source.close();
    state.textContent = report ? `The run has ended. Its page is ${report}.` : "The run has ended.";
    document.body.removeAttribute("data-live");
  });
}

// Appearance. ------------------------------------------------------------------------------

const PAPER_WIDTH = 680;
let folded = [];

function repaint() {
  palette = new Map();
  charts.forEach((chart) => chart.redraw());
}

function toPaper() {
  document.documentElement.classList.add("paper");
  folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach((details) => { details.open = true; });
  charts.forEach((chart) => chart.resize(PAPER_WIDTH));
  repaint();
}

function fromPaper() {
  document.documentElement.classList.remove("paper");
  folded.forEach((details) => { details.open = false; });
  charts.forEach((chart) => chart.resize());
  repaint();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.span");
  if (!button || !charts.size) return;
  const [from, to] = [Number(button.dataset.from), Number(button.dataset.to)];
  const around = Math.max(1, (to - from) * 0.1);
  const [first, last] = [...charts.values()].find((chart) => chart.panel.isTime)?.panel.rangeX ?? [from, to];
  setZoom(from < last ? [Math.max(first, from - around), Math.min(last, to + around)] : null);
  root.scrollIntoView({ block: "start" });
  announcement.textContent = `The charts show ${zoom ? span(...zoom) : "the whole run"}.`;
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
addEventListener("beforeprint", toPaper);
addEventListener("afterprint", fromPaper);

layOut();
draw();
enhanceAll(document);
if (seen.live) listen();
