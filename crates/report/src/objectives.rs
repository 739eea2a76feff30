//! Evaluates objectives. An objective without samples is missed.

use crate::activity::Activities;
use crate::narrow::{Narrow, Scope};
use crate::summary::Group;
use plimsoll_measure::units::grouped;
use plimsoll_measure::{Histogram, Nanos, Snapshot, Stats, StreamCounts};
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
    /// The run, if runs of different plans are merged: each is then judged alone.
    pub run: Option<String>,
}

/// An objective that a report on a part of the run does not judge.
#[derive(Clone, Debug, PartialEq)]
pub struct Unjudged {
    /// The objective.
    pub objective: Objective,
    /// Why: `counts the whole run`.
    pub why: &'static str,
}

/// Evaluates objectives on a part of the run: on those of their requests that are in the part.
pub(crate) fn judge_part(
    plan: &Plan,
    narrow: &Narrow,
    total: &Snapshot,
    activities: &Activities,
) -> (Vec<Judged>, Vec<Unjudged>) {
    let (mut judged, mut unjudged) = (Vec::new(), Vec::new());
    for objective in &plan.objectives {
        let own = judge(objective, plan, total, activities);
        let mut counted = plan.targets.iter().zip(&total.stats);
        let is_short = !narrow.is_whole()
            && objective.unit == Unit::Rate
            && own.value.is_none()
            && counted.any(|(target, stats)| {
                objective.covers(target, &plan.streams) && stats.requests.scheduled > 0
            });
        let short = is_short.then_some("a rate over less than a second");
        match why_not(objective, plan, narrow).or(short) {
            None => judged.push(own),
            Some(why) => unjudged.push(Unjudged { objective: objective.clone(), why }),
        }
    }
    (judged, unjudged)
}

/// Why an objective cannot be judged on a part; `None` if it can.
fn why_not(objective: &Objective, plan: &Plan, narrow: &Narrow) -> Option<&'static str> {
    let own = || {
        let targets = plan.targets.iter().enumerate();
        targets.filter(|(_, target)| objective.covers(target, &plan.streams))
    };
    let scope = narrow.scope();
    if !own().any(|(place, _)| narrow.holds_target(place)) {
        return Some("none of its requests are selected");
    }
    let all = own().all(|(place, _)| narrow.holds_target(place));
    let whole_streams = own()
        .filter(|(place, _)| narrow.holds_target(*place))
        .all(|(_, target)| narrow.holds_whole_stream(target.stream));
    match objective.metric {
        _ if objective.unit == Unit::Count && !narrow.is_whole() => {
            Some("a count of the whole run")
        }
        Metric::RateOk | Metric::RateSent if !all => Some("a rate of all its targets"),
        Metric::Status { .. } | Metric::RpcErrors if scope != Scope::Run => {
            Some("counted for the whole run only")
        }
        Metric::Time(TimeKind::Lag | TimeKind::Wait, _) if !whole_streams => {
            Some("counted for whole streams only")
        }
        _ => None,
    }
}

impl Judged {
    /// The value as text.
    pub fn shown(&self) -> String {
        match (self.value, self.objective.unit) {
            (None, _) => "no samples".into(),
            (Some(value), Unit::Time) => Nanos(value as u64).to_string(),
            (Some(value), Unit::Share) => percent(value),
            (Some(value), Unit::Rate) => format!("{value:.1}/s"),
            (Some(value), Unit::Count) => grouped(value.round() as u64),
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
pub(crate) fn judge(
    objective: &Objective,
    plan: &Plan,
    total: &Snapshot,
    activities: &Activities,
) -> Judged {
    let mut stats = Stats::default();
    let mut streams = Vec::new();
    for (target, own) in plan.targets.iter().zip(&total.stats) {
        if objective.covers(target, &plan.streams) {
            stats.merge(own);
            streams.push(target.stream);
        }
    }
    // The targets of a stream are contiguous.
    streams.dedup();
    let group = Group::of("", stats, activities.over(&streams));
    let value = value_of(objective, &group, total, &streams);
    let ok = value.is_some_and(|value| objective.operator.holds(value, objective.value));
    Judged { objective: objective.clone(), value, ok, run: None }
}

fn value_of(
    objective: &Objective,
    group: &Group,
    total: &Snapshot,
    streams: &[usize],
) -> Option<f64> {
    let stats = &group.stats;
    let requests = &stats.requests;
    // What is open counts as a success so far; it has ended when the run has.
    let open = stats.messages.as_ref().map_or(0, |own| own.open());
    let scheduled = requests.scheduled + open;
    if scheduled == 0 {
        return None;
    }
    let share_or_count = |n: u64, of: u64| match objective.unit {
        Unit::Share => (of > 0).then(|| n as f64 / of as f64),
        _ => Some(n as f64),
    };
    let counted = |n: u64| share_or_count(n, scheduled);
    let messages = stats.messages.as_deref();
    let by_stream = |kind: fn(&StreamCounts) -> &Histogram| {
        let mut all = Histogram::new();
        streams.iter().for_each(|stream| all.merge(kind(&total.streams[*stream])));
        all
    };
    let rates = || (!group.activity.is_empty()).then(|| group.rates());
    match objective.metric {
        Metric::Success => Some((requests.ok + open) as f64 / scheduled as f64),
        Metric::Errors => counted(requests.unsent + requests.failed),
        Metric::Unsent => counted(requests.unsent),
        Metric::ErrorClass(class) => counted(stats.errors.get(class)),
        Metric::Status { from, to } => {
            let within = total.status.iter().filter(|(status, _)| (from..=to).contains(status));
            counted(within.map(|(_, n)| n).sum())
        }
        Metric::RpcErrors => share_or_count(total.rpc.errors, total.rpc.items),
        Metric::MessageCount(name) => {
            let own = messages?.counts().into_iter().find(|(_, own)| *own == name)?;
            share_or_count(own.0, messages?.received)
        }
        Metric::MessageTime(name, stat) => {
            let own = messages?.histograms().into_iter().find(|(_, own)| *own == name)?;
            figure(own.0, stat).map(|span| span.0 as f64)
        }
        Metric::RateOk => rates().and_then(|rates| rates.ok),
        Metric::RateSent => rates().and_then(|rates| rates.sent),
        Metric::Time(kind, stat) => {
            let histogram = match kind {
                TimeKind::Latency => &group.latency,
                TimeKind::LatencyOk => &stats.latency_ok,
                TimeKind::ServiceTime => &group.service_time,
                TimeKind::Lag => &by_stream(|counts| &counts.lag),
                TimeKind::Wait => &by_stream(|counts| &counts.wait),
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

    #[test]
    fn objectives_are_judged_by_target_and_stream_and_statuses_as_shares() {
        let plan = crate::synthetic::plan(
            "[[stream]]\nname = \"a\"\nrate = 1\nduration = \"1s\"\n\
             [[stream.target]]\nname = \"x\"\nrequest = \"GET http://h/\"\n\
             [[stream.target]]\nname = \"y\"\nrequest = \"GET http://h/\"\n\
             [[stream]]\nname = \"b\"\nrate = 1\nduration = \"1s\"\n\
             [[stream.target]]\nname = \"z\"\nrequest = \"GET http://h/\"\n",
        );
        // Small times are exact in a histogram.
        let ns = Nanos;
        let mut recording = crate::synthetic::Recording::new(&plan);
        recording.second(|second| {
            second.answered(0, 10, [ns(1), ns(0), ns(10)]);
            second.failed(1, 5, plimsoll_measure::ErrorClass::Status, ns(20));
            second.answered(2, 5, [ns(4), ns(0), ns(30)]);
            second.snapshot.status.add(200, 15);
            second.snapshot.status.add(503, 4);
            second.snapshot.status.add(500, 1);
        });
        let check = |text: &str, value: Option<f64>, ok: bool| {
            let mut activities = Activities::default();
            activities.add(&recording.seconds[0], Nanos::ZERO, true);
            let objective = Objective::parse(text).unwrap();
            let judged = judge(&objective, &plan, &recording.seconds[0], &activities);
            assert_eq!((judged.value, judged.ok), (value, ok), "{text}");
        };
        check("errors == 5", Some(5.0), true);
        check("errors == 0 where target=x", Some(0.0), true);
        check("errors < 50% where stream=a", Some(5.0 / 15.0), true);
        check("success == 100% where stream=b and target=z", Some(1.0), true);
        check("success > 1% where stream=b and target=x", None, false);
        check("latency.max < 25ns where stream=a", Some(20.0), true);
        check("lag.max >= 4ns", Some(4.0), true);
        check("lag.max >= 4ns where stream=a", Some(1.0), false);
        check("lag.max >= 4ns where stream=b", Some(4.0), true);
        check("status.5xx == 5", Some(5.0), true);
        check("status.5xx < 20%", Some(0.25), false);
        check("status.503 <= 20%", Some(0.2), true);
        check("status.404 == 0", Some(0.0), true);
        check("rpc.errors == 0", Some(0.0), true);
        check("rpc.errors < 1%", None, false); // no JSON-RPC answers
    }
}
