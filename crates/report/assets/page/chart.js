// A chart: a figure with a caption, a summary, a plot and a legend of buttons.
//
// A panel describes what a chart shows:
//   key, title, section, summary        where it is and what it says
//   x, series: [{label, colour, alpha, dash, width, values, side, isOff}]
//   isTime, edges: row → [from, to]     on the shared axis of time
//   inView: row → bool                  whether the zoom shows a row
//   format, isCount                     a value as text; whole numbers only
//   log, canLog, stacked                how it is drawn
//   lanes                               ids of the findings that are named above the plot
//   paint, legend                       for what is not lines

const charts = new Map();
const HEIGHT = 190;
/** The height of the lane of a finding above the plot. */
const LANE = 15;
/** The height of the numbers of stages above the plot. */
const STAGES = 14;
const GUTTER = 62;

/** What all charts on the axis of time show: a part of the run, or all of it. */
let zoom = null;
/** The seconds of the finding that was asked for. */
let marked = null;
let cursorFrom = null;

const NICE = [1, 2, 2.5, 5, 10];
const SECONDS = [0.001, 0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400];

/** A round step of which at most so many fit, in multiples of a unit; `isCount`: a whole number. */
function stepOf(length, most, unit = 1, isCount = false) {
  const rough = Math.max(length / Math.max(most, 1) / unit, isCount ? 1 : 0);
  const power = 10 ** Math.floor(Math.log10(rough));
  const isNice = (nice) => nice * power >= rough * 0.999 && !(isCount && (nice * power) % 1);
  return power * NICE.find(isNice) * unit;
}

function ticks(min, max, step) {
  const found = [];
  for (let n = Math.ceil(min / step - 1e-9); n * step <= max + step * 1e-9; n++) found.push(n * step);
  return found;
}

function logTicks(min, max, most) {
  const decades = Math.log10(max / min);
  const factors = decades * 3 <= most + 1 ? [1, 2, 5] : decades * 2 <= most + 1 ? [1, 3] : [1];
  const every = Math.max(1, Math.ceil(decades / most));
  const found = [];
  for (let power = Math.floor(Math.log10(min)); 10 ** power <= max; power++) {
    if (power % every !== 0) continue;
    factors.forEach((factor) => found.push(factor * 10 ** power));
  }
  const seen = found.filter((tick) => tick >= min * 0.999 && tick <= max * 1.001);
  return seen.length > 1 ? seen : ticks(min, max, stepOf(max - min, most));
}

function logRange(min, max) {
  if (!(min > 0 && max < Infinity)) return [0.1, 10];
  const edge = (value, up) => {
    const power = 10 ** Math.floor(Math.log10(value));
    const edges = [1, 2, 5, 10].map((factor) => factor * power);
    return up ? edges.find((own) => own >= value * 0.999) : edges.findLast((own) => own <= value * 1.001);
  };
  const [from, to] = [edge(min, false), edge(max, true)];
  return from === to ? [from / 2, to * 2] : [from, to];
}

class Chart {
  constructor(key) {
    this.key = key;
    /** Labels of lines that were hidden or shown by hand. */
    this.chosen = new Map();
    this.linear = false;
    this.title = element("h3");
    this.at = element("span", { class: "at" });
    this.toggle = element("button", { type: "button", class: "toggle", onclick: () => this.setLinear(!this.linear) });
    this.summary = element("p", { class: "summary", id: `summary-${key}` });
    this.plot = element("div", {
      class: "plot", tabindex: 0, role: "application", "aria-roledescription": "chart",
      "aria-describedby": `summary-${key} keys`, onkeydown: (event) => this.press(event),
      onblur: () => moveCursor(null, null),
    });
    this.legend = element("div", { class: "legend" });
    this.figure = element("figure", { id: `chart-${key}` },
      element("figcaption", {}, element("div", { class: "head" }, this.title, this.at, this.toggle), this.summary),
      this.plot, this.legend);
    this.resized = new ResizeObserver(() => this.resize());
    this.resized.observe(this.plot);
  }

  /** Takes the width that the page gives; separate, because reading it costs a layout after each change. */
  measure() {
    this.width ??= this.plot.clientWidth;
  }

  /** Shows a panel; the chart is only made anew if its lines are others. */
  show(panel) {
    this.panel = panel;
    if (this.title.textContent !== panel.title) {
      this.title.textContent = panel.title;
      this.plot.setAttribute("aria-label", panel.title);
    }
    this.summary.textContent = panel.summary;
    this.toggle.hidden = !panel.canLog;
    const shape = JSON.stringify([panel.log, panel.lanes, this.above, panel.series.map(({ label, colour, side }) => [label, colour, side])]);
    if (shape !== this.shape || !this.u) {
      this.shape = shape;
      this.build();
    } else {
      this.u.setData(this.data());
      if (panel.legend) this.buildLegend();
      this.values();
    }
  }

  get lanes() {
    return this.panel.lanes ?? [];
  }

  /** The height of lanes and stages above the plot. */
  get above() {
    return this.lanes.length * LANE + (this.panel.isTime && facts.stages.length ? STAGES : 0);
  }

  get height() {
    return HEIGHT + this.above;
  }

  get isLog() {
    return this.panel.log && !this.linear;
  }

  shown({ label, isOff }) {
    return this.chosen.get(label) ?? !isOff;
  }

  /** The columns as they are drawn: stacked, or without what a logarithmic axis cannot show. */
  data() {
    const { x, series, stacked } = this.panel;
    let below = new Float64Array(x.length);
    const columns = series.map((own) => {
      if (stacked && this.shown(own)) {
        below = below.map((value, row) => value + (own.values[row] ?? 0));
        return Array.from(below, (value, row) => (isNumber(own.values[row]) ? value : null));
      }
      return this.isLog ? own.values.map((value) => (value > 0 ? value : null)) : own.values;
    });
    // The highest of a stack is drawn first and the others over it.
    this.columns = [x, ...(stacked ? columns.reverse() : columns)];
    return this.columns;
  }

  /** The least and the greatest value of the lines that are shown, in the rows that are. */
  extent() {
    const { series, stacked, inView } = this.panel;
    const lines = stacked ? [...series].reverse() : series;
    const seen = lines.flatMap((own, place) => (this.shown(own) ? [this.columns[place + 1]] : []));
    const rows = inView ? seen.map((values) => values.filter((_, row) => inView(row))) : seen;
    return [least(rows.map(least)), greatest(rows.map(greatest))];
  }

  build() {
    this.u?.destroy();
    this.toggle.textContent = `Scale: ${this.linear ? "linear" : "logarithmic"}`;
    this.toggle.title = `Change to a ${this.linear ? "logarithmic" : "linear"} scale`;
    this.u = new uPlot(this.options(), this.data(), this.plot);
    this.u.root.setAttribute("aria-hidden", "true");
    this.buildLegend();
    this.values();
  }

  options() {
    const { series, isTime, stacked } = this.panel;
    // Lines with more points than pixels are thin, or they would be areas.
    const thick = this.panel.x.length > 600 ? 0.6 : 1;
    const lines = series.map((own) => ({
      label: own.label,
      show: this.shown(own),
      stroke: () => (own.alpha ? tint(own.colour, own.alpha) : colour(stacked ? "card" : own.colour)),
      width: stacked ? 1 : (own.width ?? 1.5) * thick,
      dash: own.dash,
      fill: stacked ? () => tint(own.colour, 1) : own.fill && (() => tint(own.colour, own.fill)),
      spanGaps: own.spanGaps ?? false,
      points: { size: 5, stroke: () => colour(own.colour), fill: () => colour(own.colour), show: false, filter: (u, place) => alone(u.data[place]) },
    }));
    return {
      width: this.width,
      height: this.height,
      pxAlign: 0,
      // Labels at the end of the axis need their half beside the plot.
      padding: [10 + this.above, isTime ? 16 : 30, 0, 0],
      legend: { show: false },
      select: { show: true },
      cursor: {
        y: false,
        points: { show: !this.panel.paint, size: 7 },
        drag: { x: true, y: false, setScale: false, dist: 5 },
        bind: { dblclick: () => () => isTime && setZoom(null) },
      },
      scales: { x: this.scaleX(), y: this.scaleY() },
      axes: [this.axis(true), this.axis(false)],
      series: [{}, ...(stacked ? lines.reverse() : lines)],
      hooks: {
        drawClear: [(u) => isTime && shade(u, this.lanes, this.above)],
        draw: [(u) => this.panel.paint?.(u)],
        setSelect: [(u) => this.select(u)],
        setCursor: [(u) => this.moved(u)],
      },
    };
  }

  scaleX() {
    if (!this.panel.isTime) return { time: false, distr: 3, range: () => this.panel.rangeX };
    return { time: false, range: () => zoom ?? this.panel.rangeX };
  }

  scaleY() {
    if (this.panel.rangeY) return { distr: 3, range: () => this.panel.rangeY };
    if (this.isLog) return { distr: 3, range: () => logRange(...this.extent()) };
    return {
      range: () => {
        const { isShare, unit, isCount } = this.panel;
        const [, max] = this.extent();
        const most = max > 0 ? max : isShare ? 0.01 : 1;
        const step = stepOf(most, 4, unit?.(most), isCount);
        const end = Math.ceil((most * 1.02) / step) * step;
        return [0, isShare && most <= 1 ? Math.min(end, 1) : end];
      },
    };
  }

  axis(isX) {
    const { isTime, format, ticksX } = this.panel;
    const most = (pixels) => Math.max(2, Math.floor(pixels / (isX ? 75 : this.isLog || this.panel.rangeY ? 22 : 32)));
    const splits = (u, _, min, max) => {
      const fit = most((isX ? u.bbox.width : u.bbox.height) / uPlot.pxRatio);
      if (isX && !isTime) return ticksX.filter((_, place) => place % Math.ceil(ticksX.length / fit) === 0);
      if (isX) return ticks(min, max, SECONDS.find((own) => own >= (max - min) / fit) ?? stepOf(max - min, fit));
      return this.isLog || this.panel.rangeY ? logTicks(min, max, fit) : ticks(min, max, stepOf(max - min, fit, this.panel.unit?.(max), this.panel.isCount));
    };
    // `125,000/s` would not fit.
    const text = isX ? (isTime ? clock : this.panel.formatX) : (value) => format(value).replace(/^(\d{2,3}),000/, "$1k");
    const line = () => colour("grid");
    return {
      stroke: () => colour("soft"),
      font: "11px system-ui, sans-serif",
      size: isX ? 26 : GUTTER,
      gap: isX ? 4 : 6,
      grid: { stroke: line, width: 1, show: !isX || !this.panel.paint },
      ticks: { stroke: line, width: 1, size: 4 },
      splits,
      filter: (_, own) => own,
      values: (_, own) => own.map((value) => text(value)),
    };
  }

  buildLegend() {
    this.buttons = [];
    this.legend.replaceChildren();
    let side;
    for (const series of this.panel.series.filter((own) => !own.unlisted)) {
      if (series.side !== side) {
        side = series.side;
        this.legend.append(element("span", { class: "side" }, side));
      }
      const value = element("b");
      const button = element("button", { type: "button", "aria-pressed": String(this.shown(series)) },
        swatch(series), element("span", {}, series.label), value);
      button.addEventListener("click", () => this.setShown(series.label, button));
      this.buttons.push({ button, value, label: series.label });
      this.legend.append(button);
    }
    if (this.panel.legend) this.legend.append(this.panel.legend());
  }

  setShown(label, button) {
    const isShown = button.getAttribute("aria-pressed") === "false";
    this.chosen.set(label, isShown);
    button.setAttribute("aria-pressed", isShown);
    const place = this.u.series.findIndex((own, at) => at > 0 && own.label === label);
    this.u.setSeries(place, { show: isShown });
    if (this.panel.stacked) this.u.setData(this.data());
  }

  setLinear(linear) {
    this.linear = linear;
    this.build();
  }

  resize(width = this.plot.clientWidth) {
    if (!this.u || !width || width === this.width) return;
    this.width = width;
    this.u.setSize({ width, height: this.height });
    if (this.panel.legend) this.buildLegend();
  }

  redraw() {
    this.u?.redraw(false);
    if (this.panel.legend) this.buildLegend();
  }

  select(u) {
    const { left, width } = u.select;
    if (width < 5) return;
    u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    if (this.panel.isTime) setZoom([u.posToVal(left, "x"), u.posToVal(left + width, "x")]);
  }

  /** The cursor was moved in this chart by the mouse; the other charts follow. */
  moved(u) {
    if (cursorFrom) return;
    moveCursor(this, u.cursor.left >= 0 ? u.posToVal(u.cursor.left, "x") : null);
  }

  /** Moves the cursor to a place on the axis of time, or away. */
  follow(x) {
    const left = x === null ? -10 : this.u.valToPos(x, "x");
    this.u.setCursor({ left, top: left < 0 ? -10 : 10 }, true, false);
  }

  get row() {
    const { idx, left } = this.u.cursor;
    return left >= 0 && isNumber(idx) ? idx : null;
  }

  /** Writes the values at the cursor, or the last ones, into the legend. */
  values() {
    const { panel } = this;
    const rest = panel.rest?.() ?? -1;
    const row = this.row ?? (rest < 0 ? null : rest);
    this.at.textContent = row === null || !panel.x.length ? "" : panel.when(row);
    this.at.classList.toggle("live", this.row !== null);
    for (const { value, label } of this.buttons) {
      const own = row === null ? null : panel.series.find((series) => series.label === label).values[row];
      value.textContent = isNumber(own) ? panel.format(own) : "–";
    }
  }

  /** Moves the cursor by keys and says what is there. */
  press(event) {
    const { x } = this.panel;
    const [from, to] = this.panel.isTime && zoom ? zoom : [-Infinity, Infinity];
    const rows = x.map((_, row) => row).filter((row) => x[row] >= from && x[row] <= to);
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity };
    const first = rows[0], last = rows.at(-1);
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in moves && rows.length) {
      const own = this.row ?? (moves[event.key] > 0 ? first - 1 : last + 1);
      const row = Math.min(Math.max(own + moves[event.key], first), last);
      this.follow(x[row]);
      say(`${this.panel.when(row)}: ${this.reading(row)}`);
    } else if (event.key === "Escape" || event.key === "0") {
      setZoom(null);
    } else if (this.panel.isTime && (event.key === "+" || event.key === "-")) {
      const centre = this.row === null ? null : x[this.row];
      scaleZoom(this.panel.rangeX, centre, event.key === "+" ? 0.5 : 2);
    } else {
      return;
    }
    event.preventDefault();
  }

  reading(row) {
    const { panel } = this;
    if (panel.reading) return panel.reading(row);
    const shown = panel.series.filter((own) => this.shown(own) && isNumber(own.values[row]));
    return shown.map((own) => `${own.label} ${panel.format(own.values[row])}`).join(", ") || "no values";
  }
}

/** Indices of values without a neighbour, which a line does not show. */
function alone(values) {
  const places = [];
  values.forEach((value, at) => {
    if (isNumber(value) && !isNumber(values[at - 1]) && !isNumber(values[at + 1])) places.push(at);
  });
  return places.length ? places : null;
}

function swatch({ colour: name, alpha = 1, dash, width }) {
  const made = element("i");
  made.style.opacity = alpha;
  made.style.setProperty("--own", `var(--${name})`);
  if (dash) made.className = dash.length > 2 ? "dashdot" : dash[0] < 4 ? "dotted" : "dashed";
  if (width > 2) made.classList.add("thick");
  return made;
}

function moveCursor(source, x) {
  cursorFrom = source ?? "none";
  for (const chart of charts.values()) {
    const follows = chart !== source && chart.panel.isTime && (!source || source.panel.isTime);
    if (follows) chart.follow(x);
    if (follows || chart === source) chart.values();
  }
  cursorFrom = null;
}

/** Shows the rows of a part of the run in all charts, or all of them; `mark` is shaded. */
function setZoom(range, mark = null) {
  zoom = range && wholeRows(range);
  marked = mark;
  draw();
}

/** The edges of the rows of which at least the half is in a range, or of the row at its middle. */
function wholeRows([from, to]) {
  const { x, edges, rangeX } = [...charts.values()].find(({ panel }) => panel.isTime).panel;
  const distance = (at) => Math.abs(at - (from + to) / 2);
  const nearest = x.reduce((best, at) => (distance(at) < distance(best) ? at : best));
  const rows = x.flatMap((at, row) => (at === nearest || (at >= from && at <= to) ? [row] : []));
  const own = [edges(rows[0])[0], edges(rows.at(-1))[1]];
  return own[0] <= rangeX[0] && own[1] >= rangeX[1] ? null : own;
}

function scaleZoom([first, last], centre, factor) {
  const [from, to] = zoom ?? [first, last];
  const middle = centre ?? (from + to) / 2;
  const half = ((to - from) / 2) * factor;
  setZoom([Math.max(first, middle - half), Math.min(last, middle + half)], marked);
}

const SEVERITIES = ["info", "warning", "invalid"];
const OF_SEVERITY = { info: "accent", warning: "warn", invalid: "bad" };

/** The findings' seconds without overlaps, each with the worst severity: [from, to, severity]. */
function findingSpans() {
  const edges = [...new Set(facts.findings.flatMap(({ from, to }) => [from, to]))].sort((a, b) => a - b);
  const spans = [];
  edges.slice(1).forEach((to, place) => {
    const from = edges[place];
    const over = facts.findings.filter((own) => own.from <= from && own.to >= to);
    const worst = Math.max(...over.map(({ severity }) => SEVERITIES.indexOf(severity)));
    if (over.length) spans.push([from, to, SEVERITIES[worst]]);
  });
  return spans;
}

/** Draws the warm-up, stages and findings' seconds; `lanes` names the findings in what is `above` the plot. */
function shade(u, lanes, above) {
  const { ctx, bbox } = u;
  const pixel = uPlot.pxRatio;
  const place = (x) => u.valToPos(x, "x", true);
  const area = (from, to, fill, top = bbox.top, height = bbox.height) => {
    ctx.fillStyle = fill;
    ctx.fillRect(place(from), top, Math.max(place(to) - place(from), (from === to ? 1 : 2) * pixel), height);
  };
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, 0, bbox.width, bbox.top + bbox.height);
  ctx.clip();
  const { min } = u.scales.x;
  if (min < 0) area(min, 0, colour("shade"));
  if (marked) area(...marked, tint("ochre", 0.2));
  for (const [from, to, severity] of lanes.length ? [] : findingSpans()) {
    area(from, to, tint(OF_SEVERITY[severity], severity === "info" ? 0.45 : 1), bbox.top - 4 * pixel, 3 * pixel);
  }
  ctx.font = `${10 * pixel}px system-ui, sans-serif`;
  ctx.textBaseline = "bottom";
  let free = bbox.left;
  for (const { at, label } of facts.stages) {
    const left = place(at);
    area(at, at, tint("slate", 0.6), bbox.top - above * pixel, bbox.height + above * pixel);
    if (left < free - pixel) continue;
    const number = label.split(":")[0];
    ctx.fillStyle = colour("soft");
    ctx.fillText(number, left + 4 * pixel, bbox.top - (above - STAGES + 4) * pixel);
    free = left + 8 * pixel + ctx.measureText(number).width;
  }
  facts.findings.forEach(({ from, to, severity, id }) => {
    const lane = lanes.indexOf(id);
    if (lane < 0) return;
    const bottom = bbox.top - (lanes.length - 1 - lane) * LANE * pixel - 2 * pixel;
    area(from, to, colour(OF_SEVERITY[severity]), bottom - 2 * pixel, 2 * pixel);
    ctx.fillText(id, Math.max(place(from), bbox.left) + pixel, bottom - 2 * pixel);
  });
  ctx.restore();
}
