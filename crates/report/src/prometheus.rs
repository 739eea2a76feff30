//! Metrics during a run, in Prometheus' text exposition format.

use plimsoll_measure::{Histogram, Listed, MessageCounts, Snapshot};
use plimsoll_plan::Plan;
use std::fmt::Write;

/// A metric of the page.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: &'static str,
    /// Its labels, separated by commas.
    pub labels: &'static str,
    /// What it counts.
    pub help: &'static str,
}

const fn metric(
    name: &'static str,
    kind: &'static str,
    labels: &'static str,
    help: &'static str,
) -> Metric {
    Metric { name, kind, labels, help }
}

const REQUESTS: &str = "plimsoll_run_requests_total";
const ERRORS: &str = "plimsoll_run_errors_total";
const LATENCY: &str = "plimsoll_run_latency_seconds";
const RESPONSES: &str = "plimsoll_run_responses_total";
const SPLIT: &str = "plimsoll_run_split_answers_total";
const PLANNED_RATE: &str = "plimsoll_run_planned_rate";
const IN_FLIGHT: &str = "plimsoll_run_in_flight";
const OPEN: &str = "plimsoll_run_connections_open";
const OPENED: &str = "plimsoll_run_connections_opened_total";
const STREAMS: &str = "plimsoll_run_http2_streams";
const STREAMS_ALLOWED: &str = "plimsoll_run_http2_streams_allowed";
const SOCKETS: &str = "plimsoll_run_sockets_open";
const SOCKETS_ENDED: &str = "plimsoll_run_sockets_ended_total";
const MESSAGES: &str = "plimsoll_run_messages_total";
const MISSING: &str = "plimsoll_run_messages_missing_total";
const MESSAGE_LAG: &str = "plimsoll_run_message_lag_seconds";
const LAG: &str = "plimsoll_run_lag_p99_seconds";
const SPIN: &str = "plimsoll_run_spin_seconds_total";
const MEMORY: &str = "plimsoll_run_resident_memory_peak_bytes";
const CPU: &str = "process_cpu_seconds_total";

/// Every metric, in the page's order.
pub static METRICS: [Metric; 20] = [
    metric(REQUESTS, "counter", "target,fate", "Arrivals by target and fate: ok, failed, unsent."),
    metric(ERRORS, "counter", "target,class", "Arrivals that were not ok, by error class."),
    metric(
        LATENCY,
        "summary",
        "target,quantile",
        "Latency from the planned instant, over the whole run so far.",
    ),
    metric(RESPONSES, "counter", "status", "Responses by HTTP status."),
    metric(
        SPLIT,
        "counter",
        "stream,value",
        "Answers by the value of the header in split_by; (none) without it, (other) beyond 32 values.",
    ),
    metric(PLANNED_RATE, "gauge", "stream", "Planned arrivals per second, or users."),
    metric(IN_FLIGHT, "gauge", "", "Arrivals in flight."),
    metric(OPEN, "gauge", "", "Established connections."),
    metric(OPENED, "counter", "", "Connections established so far."),
    metric(STREAMS, "gauge", "", "HTTP/2 streams in use."),
    metric(
        STREAMS_ALLOWED,
        "gauge",
        "",
        "The fewest streams that a target allows on an HTTP/2 connection; absent without a limit.",
    ),
    metric(SOCKETS, "gauge", "target", "Sockets, subscriptions and event streams that are open."),
    metric(
        SOCKETS_ENDED,
        "counter",
        "target,fate",
        "Sockets, subscriptions and event streams that were open: kept to the end, or dropped before.",
    ),
    metric(
        MESSAGES,
        "counter",
        "target,order",
        "Messages received: in_order, duplicate, replaced, reordered, or unmatched by a subscription.",
    ),
    metric(MISSING, "counter", "target", "Messages that are missing by their numbers."),
    metric(
        MESSAGE_LAG,
        "summary",
        "target,quantile",
        "Time from a message's own timestamp until it was read, over the whole run so far.",
    ),
    metric(LAG, "gauge", "", "99th percentile of the generator's lateness in the last second."),
    metric(SPIN, "counter", "", "CPU time spent spinning until the next arrival was due."),
    metric(MEMORY, "gauge", "", "Largest resident set so far."),
    metric(CPU, "counter", "", "CPU time of this process."),
];

/// Renders the metrics page. `second` is the last second, `total` the sum so far.
pub fn exposition(plan: &Plan, second: &Snapshot, total: &Snapshot) -> String {
    let mut page = Page(String::new());
    let targets = || plan.targets.iter().zip(&total.stats);

    page.head(REQUESTS);
    for (target, stats) in targets() {
        let requests = &stats.requests;
        for (fate, n) in
            [("ok", requests.ok), ("failed", requests.failed), ("unsent", requests.unsent)]
        {
            let labels = [("target", target.name.as_str()), ("fate", fate)];
            page.sample(REQUESTS, &labels, n as f64);
        }
    }
    page.head(ERRORS);
    for (target, stats) in targets() {
        for (class, n) in stats.errors.iter() {
            let labels = [("target", target.name.as_str()), ("class", class.name())];
            page.sample(ERRORS, &labels, n as f64);
        }
    }
    page.head(LATENCY);
    for (target, stats) in targets() {
        page.summary(LATENCY, &target.name, &stats.latency());
    }
    page.head(RESPONSES);
    for (status, n) in total.status.iter() {
        let status = status.to_string();
        page.sample(RESPONSES, &[("status", &status)], n as f64);
    }
    page.head(SPLIT);
    for (stream, counts) in plan.streams.iter().zip(&total.streams) {
        let split = &counts.split;
        let values = split.values.iter().map(|(value, n)| (value.label(), *n));
        let others = [("(none)".into(), split.none), ("(other)".into(), split.other)];
        for (value, n) in values.chain(others) {
            if stream.split_by.is_some() {
                page.sample(SPLIT, &[("stream", &stream.name), ("value", &value)], n as f64);
            }
        }
    }
    page.head(PLANNED_RATE);
    for (stream, counts) in plan.streams.iter().zip(&second.streams) {
        let rate = counts.planned_rate;
        page.sample(PLANNED_RATE, &[("stream", &stream.name)], rate);
    }
    let lag = second.lag().quantile(0.99).unwrap_or_default().as_secs_f64();
    for (name, value) in [
        (IN_FLIGHT, second.in_flight as f64),
        (OPEN, second.connections.open as f64),
        (OPENED, total.connections.opened as f64),
    ] {
        page.head(name);
        page.sample(name, &[], value);
    }
    let http2 = second.http2().map(|(_, limits)| limits);
    page.head(STREAMS);
    page.sample(STREAMS, &[], http2.map_or(0, |limits| limits.in_use) as f64);
    page.head(STREAMS_ALLOWED);
    if let Some(peer) = http2.and_then(|limits| limits.peer) {
        page.sample(STREAMS_ALLOWED, &[], peer as f64);
    }
    put_messages(&mut page, plan, total);
    for (name, value) in [
        (LAG, lag),
        (SPIN, total.workers.spin.as_secs_f64()),
        (MEMORY, total.host.rss_peak_bytes as f64),
        (CPU, total.host.cpu.as_secs_f64()),
    ] {
        page.head(name);
        page.sample(name, &[], value);
    }
    page.0
}

/// The metrics of what stays open.
fn put_messages(page: &mut Page, plan: &Plan, total: &Snapshot) {
    let own: Vec<(&str, &MessageCounts)> = plan
        .targets
        .iter()
        .zip(&total.stats)
        .filter_map(|(target, stats)| Some((target.name.as_str(), stats.messages.as_deref()?)))
        .collect();
    page.head(SOCKETS);
    for (target, messages) in &own {
        page.sample(SOCKETS, &[("target", target)], messages.open() as f64);
    }
    page.head(SOCKETS_ENDED);
    for (target, messages) in &own {
        for (fate, n) in [("kept", messages.kept), ("dropped", messages.dropped)] {
            page.sample(SOCKETS_ENDED, &[("target", target), ("fate", fate)], n as f64);
        }
    }
    page.head(MESSAGES);
    for (target, messages) in &own {
        for (order, n) in [
            ("in_order", messages.in_order),
            ("duplicate", messages.duplicates),
            ("replaced", messages.replaced),
            ("reordered", messages.reordered),
            ("unmatched", messages.unmatched),
        ] {
            page.sample(MESSAGES, &[("target", target), ("order", order)], n as f64);
        }
    }
    page.head(MISSING);
    for (target, messages) in &own {
        page.sample(MISSING, &[("target", target)], messages.gaps as f64);
    }
    page.head(MESSAGE_LAG);
    for (target, messages) in &own {
        page.summary(MESSAGE_LAG, target, &messages.lag);
    }
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str) {
        let metric = METRICS.iter().find(|metric| metric.name == name);
        let Metric { kind, help, .. } = metric.expect("every metric is in the table");
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("to memory");
    }

    /// The quantiles, sum and count of a target's times.
    fn summary(&mut self, name: &str, target: &str, times: &Histogram) {
        for (quantile, label) in [(0.5, "0.5"), (0.9, "0.9"), (0.99, "0.99"), (0.999, "0.999")] {
            if let Some(span) = times.quantile(quantile) {
                self.sample(name, &[("target", target), ("quantile", label)], span.as_secs_f64());
            }
        }
        let mean = times.mean().map_or(0.0, |mean| mean.as_secs_f64());
        let (sum, count) = (format!("{name}_sum"), format!("{name}_count"));
        self.sample(&sum, &[("target", target)], mean * times.count() as f64);
        self.sample(&count, &[("target", target)], times.count() as f64);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let escape =
            |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.0, "{name}{labels} {value}").expect("to memory");
    }
}
