//! The progress line shown during a run.

use crate::objectives::percent;
use plimsoll_measure::units::grouped;
use plimsoll_measure::{Nanos, Snapshot};
use plimsoll_plan::Plan;

/// Describes the last second in one line: time, rate, success, latency, arrivals in flight.
pub fn progress_line(plan: &Plan, second: &Snapshot, total: &Snapshot) -> String {
    let stats = second.total();
    let elapsed = Nanos::from_secs((second.t.0 + 500_000_000) / 1_000_000_000);
    let of = plan.planned_end().map(|end| format!("/{end}")).unwrap_or_default();
    let warm = if second.t <= plan.warmup && second.warmup.scheduled > 0 { " warm-up" } else { "" };
    let sent = stats.requests.sent + second.warmup.sent;
    let success = stats.requests.success().or(second.warmup.success());
    let latency = stats.latency();
    let at = |q| latency.quantile(q).map_or("–".to_string(), |span| span.to_string());
    let lag = second.lag().quantile(0.99).map_or("–".to_string(), |span| span.to_string());
    let mut line = format!(
        "{elapsed}{of}{warm}  {}/s sent, {} ok  latency p50 {} p99 {}  lag p99 {lag}  {} in flight, {} connected",
        grouped(sent),
        success.map_or("–".into(), percent),
        at(0.5),
        at(0.99),
        grouped(second.in_flight),
        grouped(second.connections.open),
    );
    let errors = total.total().errors;
    if let Some((class, n)) = errors.iter().max_by_key(|(_, n)| *n) {
        line += &format!("  {} {class}", grouped(n));
    }
    line
}
