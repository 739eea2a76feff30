// The panels of the page: what each chart shows, from the columns of the runs.

/** What panels on the axis of time have in common: a row is drawn at its middle. */
function overTime(run) {
  const { t, to } = run.columns;
  const isFull = (row) => to[row] - t[row] > (to[0] - t[0]) * 0.9;
  const x = t.map((from, row) => (from + to[row]) / 2);
  const inView = (row) => !zoom || (x[row] >= zoom[0] && x[row] <= zoom[1]);
  const last = to.findLastIndex((end, row) => end <= facts.duration + 0.05 && isFull(row) && inView(row));
  return {
    isTime: true,
    section: "load",
    x,
    rangeX: [t[0], Math.max(to.at(-1), t[0] + 0.001)],
    inView,
    edges: (row) => [t[row], to[row]],
    when: (row) => span(t[row], to[row]),
    rest: () => (last < 0 ? x.findLastIndex((_, row) => inView(row)) : last),
  };
}

/**
 * The columns as lines show them. The last row of a run is short: its few arrivals would look like a spike or
 * a dive, so that it is left out, except for failures and maxima that exceed the row before.
 */
function steady({ t, to, heat, ...columns }) {
  const last = t.length - 1;
  const share = (to[last] - t[last]) / (to[0] - t[0]);
  if (last < 1 || share > 0.9) return { t, to, heat, ...columns };
  const shorten = (values, factor) => {
    const own = isNumber(values[last]) && factor ? values[last] * factor : null;
    return [...values.slice(0, last), own > (values[last - 1] ?? 0) ? own : null];
  };
  const factors = { failed: share, unsent: share, errors: share, matched: share, max: 1 };
  const walk = (part, factor) => Object.fromEntries(Object.entries(part).map(([name, own]) => {
    const next = factors[name] ?? factor;
    return [name, Array.isArray(own) ? shorten(own, next) : walk(own, next)];
  }));
  return { t, to, heat, ...walk(columns, 0) };
}

const line = (label, values, name, own = {}) => ({ label, values, colour: name, ...own });
const isKnown = ({ values }) => values?.some(isNumber) ?? false;
const isUsed = ({ values }) => anyAbove(values);

/** The values of the rows that are shown; the others are unknown. */
const inView = (panel, values) => values.map((value, row) => (panel.inView(row) ? value : null));

/** The greatest value with its time. */
function peak(panel, values) {
  const own = inView(panel, values);
  const most = greatest(own);
  return `${panel.format(most)} at ${panel.when(own.indexOf(most))}`;
}

const upTo = (panel, label, values) =>
  anyAbove(inView(panel, values)) ? `${label} up to ${peak(panel, values)}` : `${label} 0 throughout`;

/** The line with the greatest value, with that value, after a word for it. */
function highest(panel, word = "Highest") {
  const most = ({ values }) => greatest(inView(panel, values));
  const top = panel.series.reduce((own, one) => (most(one) > most(own) ? one : own));
  return most(top) > 0 ? `${word}: ${top.label}, ${peak(panel, top.values)}` : "0 throughout";
}

/** The count of rates in the rows that are shown, and counted by a run. */
function countOf(panel, values, isCounted = () => true) {
  return sum(values.map((value, row) => {
    const [from, to] = panel.edges(row);
    return value && to > 0 && panel.inView(row) && isCounted(row) ? value * (to - from) : 0;
  }));
}

/** Without values of the warm-up, in which most things are not counted. */
const afterWarmUp = (run, values) => values?.map((value, row) => (run.columns.t[row] >= 0 || run.columns.to[row] > 0 ? value : null));

function panelsOf(whole) {
  if (!whole.columns.t?.length) return [];
  const run = { ...whole, columns: steady(whole.columns), whole: whole.columns };
  return [
    ...messagePanels(run), ratesPanel(run), latencyPanel(run), heatPanel(run), distributionPanel(), errorsPanel(run),
    connectionsPanel(run), lagPanel(run), ...processPanels(run), ...logPanels(run), ...hostPanels(run),
  ].filter((panel) => panel?.series.length).map(withSummary);
}

/** The sentence of a panel, on what it shows. */
function withSummary(panel) {
  const isSeen = !panel.isTime || panel.paint || panel.series.some(({ values }) => numbers(inView(panel, values)).length);
  return { ...panel, summary: isSeen ? panel.summarize() : "No values in these seconds." };
}

function ratesPanel(run) {
  const own = run.columns;
  const panel = { ...overTime(run), key: "rates", title: "Requests per second", format: rate };
  panel.series = [
    line("planned", own.planned, "slate", { width: 6, alpha: 0.4 }),
    line("started", afterWarmUp(run, own.dispatched), "blue", { width: 2 }),
    line("sent", own.sent, "purple", { dash: [2, 3], isOff: own.dispatched !== undefined }),
    line("ok", own.ok, "teal", { fill: 0.12 }),
    line("failed", own.failed, "orange", { width: 2, fill: 0.15 }),
    line("unsent", own.unsent, "pink", { width: 2, fill: 0.15 }),
  ].filter(({ label, values }) => (label === "failed" || label === "unsent" ? anyAbove(values) : values));
  panel.summarize = () => {
    const bad = ["failed", "unsent"].map((name) => [name, afterWarmUp(run, own[name])])
      .filter(([, values]) => anyAbove(inView(panel, values)));
    const worst = bad.map(([name, values]) => `${name} up to ${peak(panel, values)}`).join(", ") || "none failed";
    const { planned, dispatched: started, sent, ok, failed, unsent } = run.whole;
    const begun = started ?? sent;
    if (!anyAbove(inView(panel, afterWarmUp(run, begun)))) return `Nothing was started in these seconds; ${worst}.`;
    // While arrivals were planned: afterwards, the run only waits for answers.
    const isLoad = (row) => own.t[row] < facts.duration - 0.001 && (!planned || planned[row] > 0 || begun[row] > 0);
    // The last row can end with the last answer, before the load does.
    const rest = zoom ? 0 : Math.max(facts.duration - own.to.at(-1), 0);
    const mean = countOf(panel, begun, isLoad) / (countOf(panel, begun.map(() => 1), isLoad) + rest);
    const ended = sum([ok, failed, unsent].map((values) => countOf(panel, values)));
    // The last milliseconds of a run have no rates, but count in its figures.
    const part = zoom ? countOf(panel, ok) / ended : facts.ok;
    const share = ended ? `, ${shareOf(part)} ok` : "";
    return `${started ? "Started" : "Sent"} ${rate(mean || 0)} on average${share}; ${worst}.`;
  };
  return panel;
}

function latencyPanel(run) {
  const { latency, service_time: service } = run.columns;
  if (!numbers(latency.max).length) return null;
  const panel = { ...overTime(run), key: "latency", title: "Latency", format: millis, log: true, canLog: true };
  panel.series = [
    line("p50", latency.p50, "teal"),
    line("p90", latency.p90, "green", { dash: [10, 3, 2, 3], isOff: true }),
    line("p99", latency.p99, "blue", { width: 2.5 }),
    line("p99.9", latency.p999, "purple", { dash: [10, 3, 2, 3], isOff: true }),
    line("max", latency.max, "pink", { dash: [2, 3] }),
    line("service time p50", service.p50, "ochre", { dash: [2, 3], isOff: true }),
    line("service time p99", service.p99, "ochre", { dash: [6, 4], width: 2 }),
  ].filter(isKnown);
  panel.summarize = () => {
    const p99 = inView(panel, latency.p99);
    const [low, high] = [millis(least(p99)), millis(greatest(p99))];
    const most = inView(panel, latency.max);
    const row = most.indexOf(greatest(most));
    return (run.columns.messages ? OPENING : "") + (low === high ? `p99 ${high}; ` : numbers(p99).length ? `p99 between ${low} and ${peak(panel, p99)}; ` : "") +
      `the slowest arrival took ${millis(exact(most[row]))} at ${panel.when(row)}.`;
  };
  return panel;
}

/** The exact extremes of the whole run, as in the tables. */
const fastest = () => facts.percentiles.latency?.[0]?.[1];
const slowest = () => facts.percentiles.latency?.at(-1)?.[1];
/** The columns have four digits. */
const exact = (ms) => (Math.abs(ms / slowest() - 1) < 0.0005 ? slowest() : ms);

function lagPanel(run) {
  const { lag, wait } = run.columns;
  const panel = { ...overTime(run), key: "lag", title: "Before sending: lag and wait, p99", format: millis };
  panel.series = [
    line("lag", lag, "purple", { fill: 0.1 }),
    line("wait", wait, "ochre", { fill: 0.1 }),
  ].filter(isKnown);
  panel.summarize = () => {
    const said = panel.series.map(({ label, values }) => upTo(panel, `p99 of ${label}`, values));
    return `Latency is lag + wait + service time; ${said.join(", ")}.`;
  };
  return panel;
}

function connectionsPanel(run) {
  const own = run.columns;
  const panel = { ...overTime(run), key: "connections", title: "In flight and connections", format: number, isCount: true };
  panel.series = [
    line("users", own.users, "slate", { dash: [6, 4] }),
    line("connections", own.connected, "teal"),
    line("in flight", own.in_flight, "blue", { fill: 0.12 }),
  ].filter(isKnown).filter(({ label, values }) => label !== "users" || anyAbove(values));
  if (!panel.series.length) return null;
  panel.summarize = () => {
    const flying = inView(panel, own.in_flight);
    const most = greatest(flying);
    const what = own.messages ? "exchange" : "request";
    const requests = most ? `at most ${plural(most, what)} in flight (${panel.when(flying.indexOf(most))})` : "no request in flight";
    return `At the end of a second ${requests} and at most ${plural(greatest(inView(panel, own.connected)), "connection")} open.`;
  };
  return panel;
}

const SIDES = ["target", "network", "generator"];

function errorsPanel(run) {
  const own = run.columns;
  const { errors } = own;
  const total = (name) => sum(errors[name]);
  const side = (name) => facts.sides[name] ?? "target";
  const names = Object.keys(errors).filter((name) => anyAbove(errors[name]));
  names.sort((a, b) => SIDES.indexOf(side(a)) - SIDES.indexOf(side(b)) || total(b) - total(a));
  if (!names.length) return null;
  const panel = { ...overTime(run), key: "errors", title: "Errors per second, by class", format: rate, stacked: true };
  const place = {};
  panel.series = names.map((name) => {
    const shade = (place[side(name)] = (place[side(name)] ?? 0) + 1);
    return line(name.replaceAll("_", " "), afterWarmUp(run, errors[name]), `${side(name)}-${((shade - 1) % 4) + 1}`, { side: side(name) });
  });
  panel.summarize = () => {
    const seen = Object.fromEntries(names.map((name) => [name, countOf(panel, run.whole.errors[name])]));
    const all = sum(Object.values(seen));
    if (!all) return "No errors in these seconds.";
    const most = names.reduce((own, name) => (seen[name] > seen[own] ? name : own));
    return `Most frequent: ${most.replaceAll("_", " ")} (${side(most)}), ${shareOf(seen[most] / all)} of the ` +
      `errors; at most ${peak(panel, sums(names.map((name) => errors[name])))}.`;
  };
  return panel;
}

// Percentiles of the whole run. -----------------------------------------------

/** Percentiles against 1 / (1 − p), where each further nine is as wide as the one before. */
function distributionPanel() {
  const named = [["latency", "blue", { width: 2 }], ["latency_ok", "teal", {}], ["service_time", "ochre", { dash: [6, 4] }]];
  const steps = new Map(named.map(([name]) => [name, (facts.percentiles[name] ?? []).map(([p, ms]) => [100 / (100 - p), ms])]));
  const finite = [...steps.values()].flat().map(([x]) => x).filter(Number.isFinite);
  if (!finite.length) return null;
  const end = Math.max(2, 2 * greatest(finite));
  const x = [...new Set(finite), end].sort((a, b) => a - b);
  const panel = {
    key: "distribution", section: "load", title: "Latency by percentile, whole run", format: millis, log: true, canLog: true, x,
    rangeX: [1, end],
    ticksX: [2, ...Array.from({ length: 9 }, (_, power) => 10 ** (power + 1))].filter((tick) => tick < end),
    formatX: (own) => `${Number((100 - 100 / own).toFixed(7))} %`,
    when: (row) => (row === x.length - 1 ? "maximum" : `p${Number((100 - 100 / x[row]).toPrecision(5))}`),
    rest: () => x.findLastIndex((own) => own <= 100.0001),
  };
  panel.series = named.map(([name, own, style]) => {
    let at = 0;
    const list = steps.get(name);
    const values = x.map((edge, row) => {
      while (at + 1 < list.length && (list[at + 1][0] <= edge * (1 + 1e-9) || row === x.length - 1)) at++;
      return list.length ? list[at][1] : null;
    });
    return line({ latency: "latency", latency_ok: "latency of ok", service_time: "service time" }[name], values, own, style);
  }).filter(isKnown);
  const at = (edge) => millis(panel.series[0].values[x.findLastIndex((own) => own <= edge * 1.0001)]);
  const first = panel.series[0].label;
  panel.summarize = () => `Half of all arrivals took at most ${at(2)} (${first}), 99 % at most ${at(100)}; ` +
    `the slowest took ${at(Infinity)}.`;
  return panel;
}

// The heat map. ------------------------------------------------------------------

const CELLS = 4;
/** A last row of a few milliseconds would have few arrivals and a high rate. */
const lengthOf = (from, to) => Math.max(to - from, 1);
/** The lower edge of a cell in milliseconds. */
const edgeOf = (cell) => ((CELLS + (cell % CELLS)) / CELLS) * 2 ** Math.floor(cell / CELLS) / 1e6;

function heatPanel(run) {
  const { heat, t, to, latency } = run.columns;
  if (!heat.some((cells) => cells.length)) return null;
  const panel = { ...overTime(run), key: "heat", title: "Latency, all arrivals", format: millis };
  let [low, high, most] = [Infinity, -Infinity, 0];
  heat.forEach((cells, row) => {
    for (let at = 0; at < cells.length && panel.inView(row); at += 2) {
      low = Math.min(low, cells[at]);
      high = Math.max(high, cells[at]);
      most = Math.max(most, cells[at + 1] / lengthOf(t[row], to[row]));
    }
  });
  const text = (cell) => `${millis(edgeOf(cell))}–${millis(edgeOf(cell + 1))}`;
  const commonest = (row) => {
    let [cell, count] = [null, 0];
    for (let at = 0; at < heat[row].length; at += 2) if (heat[row][at + 1] > count) [cell, count] = heat[row].slice(at, at + 2);
    return cell === null ? "no arrivals" : `mostly ${text(cell)}`;
  };
  const when = panel.when;
  panel.when = (row) => `${when(row)}: ${commonest(row)}`;
  panel.reading = (row) => `${number(sumOf(heat[row]))} arrivals`;
  panel.series = [{ label: "", colour: "blue", values: t.map(() => null), unlisted: true }];
  panel.rangeY = most ? [edgeOf(low), edgeOf(high + 1)] : [0.1, 10];
  // From one arrival in a column to the most in any.
  const scale = { low: Math.min(1, most), high: most };
  panel.paint = (u) => paintHeat(u, run.columns, scale);
  panel.legend = () => element("span", { class: "ramp" }, rate(scale.low), ramp(), `${rate(scale.high)} per cell`);
  panel.summarize = () => {
    const most = greatest(inView(panel, latency.max));
    if (zoom || !isNumber(slowest())) return `The stronger the colour, the more arrivals${most > 0 ? `; the slowest took ${millis(exact(most))}` : ""}.`;
    return `The stronger the colour, the more arrivals; all took between ${millis(fastest())} and ${millis(slowest())}.`;
  };
  return panel;
}

const sumOf = (cells) => cells.reduce((sum, n, at) => sum + (at % 2 ? n : 0), 0);

const SHADES = 24;

/** The colours of the heat map, from few to many. */
function heatColours() {
  const stops = [0, 1, 2, 3, 4].map((stop) => {
    const hex = colour(`heat-${stop}`);
    return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  });
  return Array.from({ length: SHADES }, (_, shade) => {
    const at = (shade / (SHADES - 1)) * (stops.length - 1);
    const [below, above] = [stops[Math.floor(at)], stops[Math.ceil(at)]];
    const mixed = below.map((value, place) => Math.round(value + (above[place] - value) * (at % 1)));
    return `rgb(${mixed.join(" ")})`;
  });
}

function ramp() {
  const made = element("i", { class: "gradient" });
  made.style.background = `linear-gradient(to right, ${heatColours().join(", ")})`;
  return made;
}

/** Paints as many columns as there are pixels; a column of several rows is their sum. */
function paintHeat(u, { heat, t, to }, scale) {
  const colours = heatColours();
  const { ctx, bbox } = u;
  const { min, max } = u.scales.x;
  const first = Math.max(0, to.findIndex((end) => end > min));
  const end = t.findLastIndex((from) => from < max) + 1;
  const group = Math.max(1, Math.ceil((end - first) / (bbox.width / (2 * uPlot.pxRatio))));
  const depth = Math.log(Math.max(scale.high / scale.low, 1.001));
  const y = new Map();
  const edge = (cell) => {
    if (!y.has(cell)) y.set(cell, Math.round(u.valToPos(edgeOf(cell), "y", true)));
    return y.get(cell);
  };
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  for (let row = first; row < end; row += group) {
    const last = Math.min(row + group, end) - 1;
    const left = Math.round(u.valToPos(t[row], "x", true));
    const width = Math.max(1, Math.round(u.valToPos(to[last], "x", true)) - left);
    const counts = new Map();
    for (let own = row; own <= last; own++) {
      const cells = heat[own];
      for (let at = 0; at < cells.length; at += 2) counts.set(cells[at], (counts.get(cells[at]) ?? 0) + cells[at + 1]);
    }
    for (const [cell, count] of counts) {
      const share = Math.log(count / lengthOf(t[row], to[last]) / scale.low) / depth;
      ctx.fillStyle = colours[Math.round(Math.min(Math.max(share, 0), 1) * (SHADES - 1))];
      ctx.fillRect(left, edge(cell + 1), width, Math.max(1, edge(cell) - edge(cell + 1)));
    }
  }
  ctx.restore();
}

// Other processes and the host. -----------------------------------------------------

const METRICS = [
  { metric: "cpu", title: "CPU, of one processor", format: percent, isShare: true },
  { metric: "memory", title: "Resident memory", format: bytes, unit: (most) => 1024 ** powerOf(most) },
  { metric: "relays", title: "Relays per upstream", format: rate, isLabelled: true },
  { metric: "cache", title: "Calls by cache result", format: rate, isLabelled: true },
  { metric: "database", title: "Database queries", format: rate },
  { metric: "redis", title: "Redis operations", format: rate },
];

/** How a metric of the plan's `charts` is shown: `http_requests_total by code`. */
function chosenMetric(metric) {
  const [name, by] = metric.split(" by ");
  const isCounter = /_(total|count|sum|bucket)$/.test(name);
  const base = /bytes/.test(name) ? METRICS[1] : { format: number };
  const format = isCounter ? (value) => `${base.format(value)}/s` : base.format;
  return { ...base, isChosen: true, metric, title: by ? `${name}, by ${by}` : name, format, isLabelled: by !== undefined };
}

function processPanels(run) {
  const lines = [...run.lines].map(([key, own]) => ({ ...own, values: run.columns.processes[key] })).filter(isKnown);
  const groups = [...new Set(run.processes.map(({ group }) => group))];
  const chosen = new Set(lines.filter(({ own }) => own).map(({ metric }) => metric));
  const found = [];
  for (const { metric, title, isLabelled, isChosen = false, ...style } of [...METRICS, ...[...chosen].map(chosenMetric)]) {
    const own = lines.filter((one) => one.metric === metric && one.own === isChosen);
    // What no process ever does needs no chart, unless the plan asks for it.
    if (!isChosen && !own.some(isUsed)) continue;
    const add = (key, name, series) => {
      const panel = { ...overTime(run), ...style, section: "processes", key, title: name };
      panel.series = series.map(({ label, values }, place) => ({ label, values, ...lineStyle(place) }));
      panel.summarize = () => `${highest(panel)}.`;
      found.push(panel);
    };
    const key = `${isChosen ? "own-" : ""}${metric.replace(/\W+/g, "-")}`;
    if (own.length && !isLabelled) {
      add(key, title, own.map(({ process, values }) => ({ label: run.processes[process].name, values })));
    }
    for (const [place, group] of isLabelled ? groups.entries() : []) {
      const series = own.filter(({ process }) => run.processes[process].group === group)
        .map(({ label, values }) => ({ label: label || "(none)", values }));
      if (series.length) add(`${key}-${place}`, `${title}: ${group}`, series);
    }
  }
  return found;
}

/** Lines that matched a pattern, a chart for each log. */
function logPanels(run) {
  const lines = [...run.logLines].map(([key, own]) => ({ ...own, values: run.columns.matched[key] }));
  return (run.logs ?? []).map((name, log) => {
    const panel = { ...overTime(run), section: "logs", key: `log-${log}`, title: `Matching lines per second: ${name}`, format: rate };
    panel.series = lines.filter((one) => one.log === log && anyAbove(one.values))
      .map(({ pattern, values }, place) => ({ label: pattern, values, ...lineStyle(place) }));
    panel.summarize = () => `${highest(panel)}.`;
    return panel;
  }).filter(({ series }) => series.length);
}

/** What of the scraped processes cannot be drawn, as sentences. */
function processNotes(run) {
  const known = new Set();
  for (const [key, { process }] of run.lines) if (isKnown({ values: run.columns.processes[key] })) known.add(process);
  const silent = run.processes.filter((_, place) => !known.has(place)).map(({ name }) => name);
  const notes = [];
  if (silent.length) notes.push(`No figures over time of ${silent.join(", ")}: the table “Other processes” says why.`);
  const missing = new Map();
  for (const { name, missing: own } of run.processes) {
    if (own?.length) missing.set(own.join(", "), [...(missing.get(own.join(", ")) ?? []), name]);
  }
  for (const [metrics, names] of missing) {
    notes.push(`No metrics page of ${names.join(", ")} had ${metrics}, which the plan asks to chart.`);
  }
  if (run.leftOut) notes.push(`${plural(run.leftOut, "further line")} of other processes left out.`);
  return notes;
}

function hostPanels(run) {
  const host = run.columns.host ?? {};
  const { t, to } = run.columns;
  const common = { ...overTime(run), section: "host", format: percent, isShare: true };
  const lanes = [...new Set(facts.findings.map(({ id }) => id))];
  const use = { ...common, key: "host", title: "Processor, and the seconds of findings", lanes };
  use.series = [
    line("CPU, whole host", host.cpu, "slate", { fill: 0.12 }),
    line("busiest worker", host.worker, "blue", { width: 2 }),
    line("run delay", host.run_delay, "orange"),
    line("steal", host.steal, "purple"),
    line("throttled", host.throttled?.map((own, row) => own === null ? null : own / (to[row] - t[row])), "pink"),
  ].filter(isKnown).filter(({ label, values }) => label !== "throttled" || anyAbove(values));
  use.summarize = () => `${use.series.slice(0, 3).map(({ label, values }) => upTo(use, label, values)).join(", ")}.`;
  const limits = { ...common, key: "limits", title: "Limits in use" };
  limits.series = [
    line("local ports", host.ports, "blue"),
    line("descriptors", host.descriptors, "teal"),
    line("conntrack", host.conntrack, "purple"),
    line("memory", host.memory, "ochre"),
  ].filter(isUsed);
  limits.summarize = () => `${highest(limits, "Nearest to its limit")}.`;
  const drops = { ...common, key: "drops", title: "Dropped packets and connections", format: number, isShare: false, isCount: true };
  drops.series = [line("dropped", host.dropped, "orange", { fill: 0.15 })].filter(isUsed);
  drops.summarize = () => `${upTo(drops, "Dropped in the whole network namespace:", host.dropped)}.`;
  return [use, limits, drops];
}

// Several runs. ------------------------------------------------------------------------

/** Runs over the time since the end of their warm-ups. */
function panelsOfRuns() {
  const drawn = runs.filter((run) => run.columns.t?.length).map((run) => ({ ...run, columns: steady(run.columns) }));
  if (!drawn.length) return [distributionPanel()].filter(Boolean).map(withSummary);
  const middles = drawn.map(({ columns: { t, to } }) => t.map((from, row) => Number(((from + to[row]) / 2).toFixed(2))));
  const x = [...new Set(middles.flat())].sort((a, b) => a - b);
  const rows = new Map(drawn.flatMap(({ columns: { t, to } }, run) => t.map((from, row) => [middles[run][row], [from, to[row]]])));
  const edges = (row) => rows.get(x[row]);
  const seen = (row) => !zoom || (x[row] >= zoom[0] && x[row] <= zoom[1]);
  const rangeX = [least(drawn.map(({ columns }) => columns.t[0])), greatest(drawn.map(({ columns }) => columns.to.at(-1)))];
  const panel = (key, title, format, of, own = {}) => {
    const made = { isTime: true, section: "load", key, title, format, x, rangeX, edges, inView: seen, when: (row) => span(...edges(row)), ...own };
    made.series = drawn.map((run, place) => {
      const values = new Map(middles[place].map((middle, row) => [middle, of(run.columns)[row]]));
      return { label: run.label, values: x.map((at) => values.get(at) ?? null), spanGaps: true, width: 2, ...lineStyle(place) };
    }).filter(isKnown);
    if (!made.series.length) return null;
    const known = (row) => seen(row) && made.series.filter(({ values }) => isNumber(values[row])).length;
    // The last second of all runs, or of the longest in view.
    made.rest = () => {
      const last = x.findLastIndex((_, row) => known(row) === made.series.length);
      return last < 0 ? x.findLastIndex((_, row) => known(row)) : last;
    };
    made.summarize = () => `Since the end of each run's warm-up. ${highest(made)}.`;
    return made;
  };
  const hasStarted = drawn.every(({ columns }) => columns.dispatched);
  const failing = drawn.some(({ columns }) => anyAbove(columns.failed) || anyAbove(columns.unsent));
  return [
    hasStarted
      ? panel("rates", "Started per second", rate, (columns) => afterWarmUp({ columns }, columns.dispatched))
      : panel("rates", "Sent per second", rate, ({ sent }) => sent),
    panel("latency", "Latency p99", millis, ({ latency }) => latency.p99, { log: true, canLog: true }),
    failing && panel("errors", "Errors per second: failed and unsent", rate, ({ failed, unsent }) => sums([failed, unsent])),
    { ...distributionPanel(), title: "Latency by percentile, all runs" },
  ].filter((panel) => panel && panel.series).map(withSummary);
}

const panels = () => (runs.length === 1 ? panelsOf(runs[0]) : panelsOfRuns());
