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
