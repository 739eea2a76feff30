//! Metrics during a run, in Prometheus' text exposition format.

use plimsoll_measure::{Listed, Snapshot};
use plimsoll_plan::Plan;
use std::fmt::Write;

/// Renders the metrics page. `second` is the last second, `total` the sum so far.
pub fn exposition(plan: &Plan, second: &Snapshot, total: &Snapshot) -> String {
    let mut page = Page(String::new());
    let targets = || plan.targets.iter().zip(&total.stats);

    page.head("plimsoll_run_requests_total", "counter", "Arrivals by target and fate.");
    for (target, stats) in targets() {
        let requests = &stats.requests;
        for (fate, n) in
            [("ok", requests.ok), ("failed", requests.failed), ("unsent", requests.unsent)]
        {
            let labels = [("target", target.name.as_str()), ("fate", fate)];
            page.sample("plimsoll_run_requests_total", &labels, n as f64);
        }
    }
    page.head("plimsoll_run_errors_total", "counter", "Arrivals that were not ok, by class.");
    for (target, stats) in targets() {
        for (class, n) in stats.errors.iter() {
            let labels = [("target", target.name.as_str()), ("class", class.name())];
            page.sample("plimsoll_run_errors_total", &labels, n as f64);
        }
    }
    page.head("plimsoll_run_latency_seconds", "summary", "Latency from the planned instant.");
    for (target, stats) in targets() {
        let latency = stats.latency();
        for (quantile, label) in [(0.5, "0.5"), (0.9, "0.9"), (0.99, "0.99"), (0.999, "0.999")] {
            if let Some(span) = latency.quantile(quantile) {
                let labels = [("target", target.name.as_str()), ("quantile", label)];
                page.sample("plimsoll_run_latency_seconds", &labels, span.as_secs_f64());
            }
        }
        let labels = [("target", target.name.as_str())];
        let mean = latency.mean().map_or(0.0, |mean| mean.as_secs_f64());
        let count = latency.count() as f64;
        page.sample("plimsoll_run_latency_seconds_sum", &labels, mean * count);
        page.sample("plimsoll_run_latency_seconds_count", &labels, count);
    }
    page.head("plimsoll_run_responses_total", "counter", "Responses by HTTP status.");
    for (status, n) in total.status.iter() {
        let status = status.to_string();
        page.sample("plimsoll_run_responses_total", &[("status", &status)], n as f64);
    }
    page.head("plimsoll_run_planned_rate", "gauge", "Planned arrivals per second, or users.");
    for (stream, counts) in plan.streams.iter().zip(&second.streams) {
        let rate = counts.planned_rate;
        page.sample("plimsoll_run_planned_rate", &[("stream", &stream.name)], rate);
    }
    let lag = second.lag().quantile(0.99).unwrap_or_default().as_secs_f64();
    let single = [
        ("plimsoll_run_in_flight", "gauge", "Arrivals in flight.", second.in_flight as f64),
        (
            "plimsoll_run_connections_open",
            "gauge",
            "Established connections.",
            second.connections.open as f64,
        ),
        (
            "plimsoll_run_connections_opened_total",
            "counter",
            "Connections established so far.",
            total.connections.opened as f64,
        ),
        (
            "plimsoll_run_lag_p99_seconds",
            "gauge",
            "99th percentile of the generator's lateness in the last second.",
            lag,
        ),
        (
            "plimsoll_run_spin_seconds_total",
            "counter",
            "CPU time spent spinning until the next arrival was due.",
            total.workers.spin.as_secs_f64(),
        ),
        (
            "process_cpu_seconds_total",
            "counter",
            "CPU time of this process.",
            total.host.cpu.as_secs_f64(),
        ),
        (
            "plimsoll_run_resident_memory_peak_bytes",
            "gauge",
            "Largest resident set so far.",
            total.host.rss_peak_bytes as f64,
        ),
    ];
    for (name, kind, help, value) in single {
        page.head(name, kind, help);
        page.sample(name, &[], value);
    }
    page.0
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("to memory");
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
