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
  const before = own.querySelector(".banner")?.textContent;
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
  if (banner && banner.textContent !== before) {
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

const HINT_AFTER = 5000;
const state = document.getElementById("state");
const name = document.title;
/** When the connection was lost, or `null`. */
let lost = null;
/** The state for screen readers. */
const heard = element("p", { class: "unseen", "aria-live": "polite" });

/** Writes the state of the run: in a word or two, also in the title of the page, and what there is to add. */
function showState(word, ...more) {
  state.replaceChildren(element("strong", {}, word), ...more);
  state.classList.toggle("lost", lost !== null);
  document.title = `${word} – ${name}`;
  // Not each second, only what changes.
  const kind = word.split(" – ")[0];
  if (heard.textContent !== `${kind}.`) heard.textContent = `${kind}.`;
}

function showProgress() {
  const { duration, planned, in_flight: inFlight, stopping } = facts;
  const waiting = `waiting for ${plural(inFlight ?? 0, "answer")}`;
  const whole = (seconds) => clock(Math.round(seconds));
  if (stopping) showState(`Stopping – ${waiting}`);
  else if (!duration) showState("Warming up", "; updates every second");
  else if (isNumber(planned) && duration >= planned) showState(`Running – ${whole(planned)} of ${whole(planned)}, ${waiting}`);
  else showState(`Running – ${whole(duration)}${isNumber(planned) ? ` of ${whole(planned)}` : ""}`, "; updates every second");
}

function showLost() {
  if (lost === null) return;
  const age = Date.now() - lost;
  const more = ` at ${new Date(lost).toLocaleTimeString("en-GB")}, ${clock(Math.round(age / 1000))} ago. The figures are those until then; this page tries to reconnect.`;
  const command = element("code", {}, `plimsoll report ${seen.folder ?? "DIR"} --format html`);
  showState("Connection lost", more, ...(age < HINT_AFTER ? [] : [" The process may have ended: ", command, " makes the page of what it recorded."]));
}

/** Takes what the server sends. */
function follow() {
  const source = new EventSource("events");
  const on = (name, take) => source.addEventListener(name, (event) => take(JSON.parse(event.data)));
  // Its content changes each second; only changes of its kind are announced.
  state.removeAttribute("role");
  state.after(heard);
  showProgress();
  const clockwork = setInterval(showLost, 1000);
  source.addEventListener("open", () => {
    lost = null;
    showProgress();
  });
  source.addEventListener("error", () => {
    lost ??= Date.now();
    showLost();
  });
  on("rows", (columns) => {
    takeRows(runs[0], columns);
    drawSoon();
  });
  on("facts", (next) => {
    facts = next;
    showProgress();
    drawSoon();
  });
  on("html", (parts) => Object.entries(parts).forEach(([id, html]) => replaceContent(id, html)));
  // The page is of an earlier run on the same address.
  on("reload", () => location.reload());
  on("end", ({ report }) => {
    source.close();
    clearInterval(clockwork);
    document.body.removeAttribute("data-live");
    showState("Ended", ...(report ? ["; the report is ", element("code", {}, report)] : []));
  });
}
