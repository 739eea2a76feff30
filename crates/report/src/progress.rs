//! The progress line shown during a run.

use crate::objectives::percent;
use crate::tone::Tone;
use plimsoll_measure::units::grouped;
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

/// Describes the last second: time, rate, success, latency, arrivals in flight, and the most frequent
/// error of the run so far.
pub fn progress(plan: &Plan, second: &Snapshot, total: &Snapshot) -> Vec<Part> {
    let stats = second.total();
    let elapsed = Nanos::from_secs((second.t.0 + 500_000_000) / 1_000_000_000);
    let of = plan.planned_end().map(|end| format!("/{end}")).unwrap_or_default();
    let warm = if second.t <= plan.warmup && second.warmup.scheduled > 0 { " warm-up" } else { "" };
    let sent = stats.requests.sent + second.warmup.sent;
    let success = stats.requests.success().or(second.warmup.success());
    let latency = stats.latency();
    let at = |q| latency.quantile(q).map_or("–".to_string(), |span| span.to_string());
    let lag = second.lag().quantile(0.99).map_or("–".to_string(), |span| span.to_string());
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
        part(tone, format!("{}/s sent, {ok} ok", grouped(sent))),
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
