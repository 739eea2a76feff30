//! The progress line shown during a run.

use crate::activity::per_second;
use crate::objectives::percent;
use crate::tone::Tone;
use plimsoll_measure::units::{counted, grouped};
use plimsoll_measure::{Nanos, Snapshot};
use plimsoll_plan::Plan;

/// A part of the progress line. On a narrow terminal the last parts are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The text.
    pub text: String,
    /// Its colour.
    pub tone: Tone,
}

/// Describes the last second, which began at `since`: time, rate, success, latency, arrivals in flight,
/// and the most frequent error of the run so far. After sending has ended, by plan or because the run was
/// `stopped`, the answers that are still awaited, and at last the run's totals.
pub fn progress(
    plan: &Plan,
    second: &Snapshot,
    total: &Snapshot,
    since: Nanos,
    stopped: bool,
) -> Vec<Part> {
    let sent_to = total.streams.iter().filter_map(|stream| Some(stream.active?.planned_to)).max();
    let is_over = stopped || plan.planned_end().is_none_or(|end| second.t > end);
    let is_over = is_over && sent_to.is_some_and(|sent_to| sent_to < second.t);
    let is_done = is_over && second.in_flight == 0;
    let shown = if is_done { total } else { second };
    let stats = shown.total();
    let elapsed = Nanos::from_secs((second.t.0 + 500_000_000) / 1_000_000_000);
    let elapsed = plan.planned_end().map_or(elapsed, |end| elapsed.min(end));
    let of = plan.planned_end().map(|end| format!("/{end}")).unwrap_or_default();
    let warm = if second.t <= plan.warmup && second.warmup.scheduled > 0 { " warm-up" } else { "" };
    let sent = stats.requests.sent + shown.warmup.sent;
    let rate = match per_second(sent, second.t - since) {
        rate if rate < 10.0 => format!("{rate:.1}/s"),
        rate => format!("{}/s", grouped(rate.round() as u64)),
    };
    let sent = if is_done {
        format!("{} sent", grouped(sent))
    } else if is_over {
        let left = plan.grace - (second.t - sent_to.unwrap_or_default());
        format!("waiting for {}, at most {left}", counted(second.in_flight, "answer"))
    } else {
        format!("{rate} sent")
    };
    let success = stats.requests.success().or(shown.warmup.success());
    let latency = stats.latency();
    let at = |q| latency.quantile(q).map_or("–".to_string(), |span| span.to_string());
    let lag = shown.lag().quantile(0.99).map_or("–".to_string(), |span| span.to_string());
    let tone = match success {
        None => Tone::Plain,
        Some(1.0) => Tone::Good,
        Some(0.0) => Tone::Bad,
        Some(_) => Tone::Warn,
    };
    let part = |tone, text| Part { text, tone };
    let ok = success.map_or("–".into(), percent);
    let (in_flight, open) = (grouped(second.in_flight), grouped(second.connections.open));
    let mut parts = vec![
        part(Tone::Plain, format!("{elapsed}{of}{warm}")),
        part(tone, format!("{sent}, {ok} ok")),
        part(Tone::Plain, format!("latency p50 {} p99 {}", at(0.5), at(0.99))),
        part(Tone::Plain, format!("lag p99 {lag}")),
        part(Tone::Plain, format!("{in_flight} in flight, {open} connected")),
    ];
    let errors = total.total().errors;
    if let Some((class, n)) = errors.iter().max_by_key(|(_, n)| *n) {
        parts.push(part(Tone::Bad, format!("{} {class}", grouped(n))));
    }
    parts
}
