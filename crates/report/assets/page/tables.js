// Tables: long ones have a filter, and heads sort.

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

/** The rows without those that repeat a long note below its row. */
const rowsOf = (body) => [...body.rows].filter((row) => row.className !== "under");

const NOTE = 40;

/** Repeats the notes of the last column below their rows; narrow screens show those. */
function putNotesBelow(table) {
  const rows = rowsOf(table.tBodies[0]);
  const isNote = (cell) => cell?.tagName === "TD" && cell.classList.contains("words");
  if (!rows.some((row) => isNote(row.lastElementChild) && row.lastElementChild.textContent.length > NOTE)) return;
  table.classList.add("noted");
  for (const row of rows) {
    const { textContent: note } = row.lastElementChild;
    if (!note) continue;
    row.under = element("tr", { class: "under" }, element("td", { colspan: row.cells.length - 1, class: "words" }, note));
    row.after(row.under);
  }
}

function enhance(table) {
  const name = table.caption.textContent;
  const body = table.tBodies[0];
  const rows = rowsOf(body);
  putNotesBelow(table);
  if (rows.length > LONG) {
    const box = table.parentElement;
    box.classList.toggle("long", rows.length > 2 * LONG);
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
  if (rows.length < 4) return;
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
  rows.forEach((row, place) => { row.dataset.place = place; });
  if (sorted.has(name)) sortRows(table);
}

/** Shows the rows of which the name or another text has all words. */
function filterRows(body, text, count) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  const rows = rowsOf(body);
  for (const row of rows) {
    const own = words.length ? textsOf(row).toLowerCase() : "";
    row.hidden = !words.every((word) => own.includes(word));
    if (row.under) row.under.hidden = row.hidden;
    shown += row.hidden ? 0 : 1;
  }
  count.textContent = `${number(shown)} of ${plural(rows.length, "row")}`;
}

const textsOf = (row) => [row.cells[0], ...row.querySelectorAll(".words")].map((cell) => cell.textContent).join(" ");

function sortRows(table) {
  const [text, down] = sorted.get(table.caption.textContent) ?? [];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  const column = heads.findIndex((head) => head.textContent === text);
  const rows = rowsOf(table.tBodies[0]);
  if (column < 0) {
    rows.sort((a, b) => a.dataset.place - b.dataset.place);
  } else {
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    const isWords = heads[column].classList.contains("words");
    const keys = new Map(rows.map((row) => [row, isWords ? row.cells[column].textContent : valueOf(row.cells[column].textContent)]));
    const compare = isWords ? (a, b) => a.localeCompare(b, "en", { numeric: true }) : (a, b) => (a ?? -Infinity) - (b ?? -Infinity);
    rows.sort((a, b) => (down ? -1 : 1) * compare(keys.get(a), keys.get(b)));
  }
  table.tBodies[0].append(...rows.flatMap((row) => (row.under ? [row, row.under] : [row])));
}

const enhanceAll = (within) => within.querySelectorAll("table").forEach(enhance);
