// The panels of what stays open: sockets, subscriptions and event streams.

/** What latency is in a run with exchanges that stay open. */
const OPENING = "Of what stays open: the time to open, in the second in which it ended. ";

function messagePanels(run) {
  return run.columns.messages ? [messagesPanel(run), irregularPanel(run), messageLagPanel(run)] : [];
}

function messagesPanel(run) {
  const panel = { ...overTime(run), key: "messages", title: "Messages per second", format: rate };
  panel.series = [line("messages", run.columns.messages, "teal", { fill: 0.12 })].filter(isKnown);
  panel.summarize = () => {
    const all = countOf(panel, run.whole.messages);
    return all ? `${plural(Math.round(all), "message")}; at most ${peak(panel, run.columns.messages)}.` : "No messages in these seconds.";
  };
  return panel;
}

/** Messages that are not as they should be; no panel if all are. */
function irregularPanel(run) {
  const panel = { ...overTime(run), key: "irregular", title: "Missing and irregular messages per second", format: rate };
  panel.series = [
    line("missing", run.columns.missing, "orange", { width: 2 }),
    line("repeated", run.columns.repeated, "purple"),
    line("out of order", run.columns.reordered, "blue"),
    line("silences", run.columns.silences, "pink", { dash: [6, 4] }),
  ].filter(({ values }) => anyAbove(values));
  panel.summarize = () => {
    const said = panel.series.filter(({ values }) => anyAbove(inView(panel, values)));
    const text = said.map(({ label, values }) => upTo(panel, label, values)).join(", ") || "none in these seconds";
    return `${text[0].toUpperCase()}${text.slice(1)}.`;
  };
  return panel;
}

function messageLagPanel(run) {
  const { message_lag_p50: half, message_lag_p99: most } = run.columns;
  const panel = { ...overTime(run), key: "message-lag", title: "Lag of messages behind their own timestamps", format: millis };
  panel.series = [line("p50", half, "teal"), line("p99", most, "blue", { width: 2, fill: 0.1 })].filter(isKnown);
  panel.summarize = () => `${upTo(panel, "p99", most)}.`;
  return panel;
}
