//! Evaluates objectives. An objective without samples is missed.

use crate::fold::active_of;
use crate::summary::Group;
use plimsoll_measure::{Histogram, Nanos, Snapshot, Stats};
use plimsoll_plan::{Metric, Objective, Plan, TimeKind, TimeStat, Unit};

/// An objective and its result.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The objective.
    pub objective: Objective,
    /// The metric's value in the objective's unit; `None` without samples.
    pub value: Option<f64>,
    /// Whether it holds.
    pub ok: bool,
}

impl Judged {
    /// The value as text.
    pub fn shown(&self) -> String {
        match (self.value, self.objective.unit) {
            (None, _) => "no samples".into(),
            (Some(value), Unit::Time) => Nanos(value as u64).to_string(),
            (Some(value), Unit::Share) => percent(value),
            (Some(value), Unit::Rate) => format!("{value:.1}/s"),
            (Some(value), Unit::Count) => format!("{value:.0}"),
        }
    }
}

/// A share as a percentage, with enough digits not to round to 0 or 100.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let rounds_away =
        |text: &str| (text == "100" && percent < 100.0) || (text == "0" && percent > 0.0);
    for decimals in [1, 2, 3, 4] {
        let text = format!("{percent:.decimals$}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        if !rounds_away(text) {
            return format!("{text} %");
        }
    }
    if percent > 50.0 { "99.9999 %".into() } else { "0.0001 %".into() }
}

/// Evaluates an objective on the counts so far.
pub(crate) fn judge(objective: &Objective, plan: &Plan, total: &Snapshot) -> Judged {
    let mut stats = Stats::default();
    let mut streams = Vec::new();
    for (target, own) in plan.targets.iter().zip(&total.stats) {
        if target.has_tags(&objective.narrowed) {
            stats.merge(own);
            streams.push(target.stream);
        }
    }
    let group = Group::of("", stats, active_of(total, streams));
    let value = value_of(objective, &group, total);
    let ok = value.is_some_and(|value| objective.operator.holds(value, objective.value));
    Judged { objective: objective.clone(), value, ok }
}

fn value_of(objective: &Objective, group: &Group, total: &Snapshot) -> Option<f64> {
    let stats = &group.stats;
    let requests = &stats.requests;
    if requests.scheduled == 0 {
        return None;
    }
    let counted = |n: u64| match objective.unit {
        Unit::Share => n as f64 / requests.scheduled as f64,
        _ => n as f64,
    };
    let rates = || group.window.filter(|window| window.to > window.from).map(|_| group.rates());
    match objective.metric {
        Metric::Success => requests.success(),
        Metric::Errors => Some(counted(requests.unsent + requests.failed)),
        Metric::Unsent => Some(counted(requests.unsent)),
        Metric::ErrorClass(class) => Some(counted(stats.errors.get(class))),
        Metric::Status(status) => Some(total.status.get(status) as f64),
        Metric::RpcErrors => Some(total.rpc.errors as f64),
        Metric::RateOk => rates().map(|rates| rates.ok),
        Metric::RateSent => rates().map(|rates| rates.sent),
        Metric::Time(kind, stat) => {
            let histogram = match kind {
                TimeKind::Latency => &group.latency,
                TimeKind::LatencyOk => &stats.latency_ok,
                TimeKind::ServiceTime => &group.service_time,
                TimeKind::Lag => &total.lag(),
                TimeKind::Wait => &total.wait(),
            };
            figure(histogram, stat).map(|span| span.0 as f64)
        }
    }
}

fn figure(histogram: &Histogram, stat: TimeStat) -> Option<Nanos> {
    match stat {
        TimeStat::Min => histogram.min(),
        TimeStat::Mean => histogram.mean(),
        TimeStat::Max => histogram.max(),
        TimeStat::Quantile(q) => histogram.quantile(q),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_round_to_all_or_nothing() {
        let check = |share: f64, text: &str| assert_eq!(percent(share), text);
        check(1.0, "100 %");
        check(0.0, "0 %");
        check(0.0016, "0.2 %");
        check(0.995, "99.5 %");
        check(0.9999, "99.99 %");
        check(0.99999999, "99.9999 %");
        check(0.0000001, "0.0001 %");
    }
}
