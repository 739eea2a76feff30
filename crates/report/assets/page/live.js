// What changes during a run. The server sends
//   rows    columns, which replace the rows of the run from their `from` on
//   facts   the facts, which replace those known
//   html    {id: content} of elements
//   reload  {}: the page belongs to an earlier run
//   end     {report}: the path of the page in the run directory, or null
// The browser reconnects by itself; the server then sends what is missing, or everything.

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
  // The page is of an earlier run on the same address.
  on("reload", () => location.reload());
  on("end", ({ report }) => {
    source.close();
    state.textContent = report ? `The run has ended. Its page is ${report}.` : "The run has ended.";
    document.body.removeAttribute("data-live");
  });
}
