// The page around the charts: its layout, its appearance on screen and on paper, and its start.

const SECTIONS = { load: "Over time", processes: "Other processes over time", logs: "Log lines over time", host: "The load generator's host over time" };
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
    zoom && `Showing ${span(...zoom)}.`,
    marked && `Marked: ${span(...marked)}.`,
    runs.some((run) => run.columns.t?.[0] < 0) && "The warm-up is grey.",
    facts.findings.length && "Bars above the charts are the seconds of findings.",
    facts.stages.length && `Numbered lines mark the stages ${stagesInWords()}.`,
  ];
  zoomed.textContent = marks.filter(Boolean).join(" ");
  hint.hidden = zoom !== null;
  showAll.hidden = zoom === null && marked === null;
}

const STAGES_NAMED = 6;

/** The first stages; more would cover the charts. */
function stagesInWords() {
  const isOne = new Set(facts.stages.map(({ stream }) => stream)).size === 1;
  const named = facts.stages.slice(0, STAGES_NAMED).map(({ label, stream }) => (isOne ? label : `${stream} ${label}`));
  const more = facts.stages.length - named.length;
  return `${named.join("; ")}${more > 0 ? ` and ${number(more)} more, in the table of stages` : ""}`;
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
  list.forEach((panel) => charts.get(panel.key).measure());
  list.forEach((panel) => charts.get(panel.key).show(panel));
  toolbar();
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
  // With some seconds around them, so that what they differ in is seen.
  const around = Math.max(2, (to - from) * 0.2);
  setZoom([from - around, to + around], [from, to]);
  root.scrollIntoView({ block: "start" });
  announcement.textContent = `The charts show ${zoom ? span(...zoom) : "the whole run"}; ${span(from, to)} are marked.`;
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
addEventListener("beforeprint", toPaper);
addEventListener("afterprint", fromPaper);

layOut();
// First, because what is not near the screen in long tables then needs no layout.
enhanceAll(document);
draw();
if (seen.live) follow();
