//! The arrivals of a lost agent: what it owned, minus what it reported.
//!
//! An agent that is killed takes with it what it counted since its last second: requests that it sent and
//! arrivals that were due. They cannot be told apart, so all of them count as unsent, with the class
//! `agent_lost`; the target may have seen some of them. The schedule is a pure function, so the coordinator
//! computes exactly which arrivals were due for the shards that the agent owned, up to the instant at which
//! others took over or the stream ended. By target, those that the agent reported are subtracted.
//!
//! Users of the closed model have no planned arrivals: a lost user is not there, and sends nothing.

use plimsoll_measure::{ErrorClass, Nanos, Snapshot, Window};
use plimsoll_plan::{Part, Plan, Schedule};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A part of a plan that an agent owns from one instant to another, on the run's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The shards.
    pub part: Part,
    /// Arrivals due before this instant belong to the former owner.
    pub from: Nanos,
    /// Arrivals due at this instant or later belong to the next owner; [`Nanos::MAX`]: there is none.
    pub to: Nanos,
}

/// The unsent arrivals of an agent, by the number of the second in which they were due, from 0. `reported` is
/// the sum of its seconds; nothing was planned from `stopped_at` on.
pub fn unsent(
    plan: &Plan,
    owned: &[Owned],
    reported: &Snapshot,
    stopped_at: Nanos,
) -> BTreeMap<u64, Snapshot> {
    let mut due =
        Due { plan, warm: BTreeMap::new(), by_target: vec![BTreeMap::new(); plan.targets.len()] };
    for Owned { part, from, to } in owned {
        let to = (*to).min(stopped_at);
        for (place, stream) in plan.streams.iter().enumerate() {
            let shards = part.stream(place);
            let Some(schedules) = stream.schedules(plan.warmup).filter(|_| !shards.is_empty())
            else {
                continue;
            };
            if let Some(warmup) = &schedules.warmup {
                each_due(warmup, shards, *from, to, |at, _| {
                    *due.warm.entry(second(at)).or_default() += 1
                });
            }
            each_due(&schedules.main, shards, *from, to, |at, seq| {
                let target = stream.targets.start + stream.deck.deal(seq).target;
                *due.by_target[target].entry(second(at)).or_default() += 1;
            });
        }
    }
    due.without(reported)
}

/// The arrivals that were due, by second.
struct Due<'p> {
    plan: &'p Plan,
    warm: BTreeMap<u64, u64>,
    by_target: Vec<BTreeMap<u64, u64>>,
}

impl Due<'_> {
    fn without(self, reported: &Snapshot) -> BTreeMap<u64, Snapshot> {
        let mut seconds: BTreeMap<u64, Snapshot> = BTreeMap::new();
        let plan = self.plan;
        let mut by_stream = vec![BTreeMap::new(); plan.streams.len()];
        for (second, n) in remaining(&self.warm, reported.warmup.scheduled) {
            let counts = counts_of(&mut seconds, second, plan);
            counts.warmup.scheduled += n;
            counts.warmup.unsent += n;
        }
        for (target, due) in self.by_target.iter().enumerate() {
            let stream = plan.targets[target].stream;
            for (second, n) in remaining(due, reported.stats[target].requests.scheduled) {
                let counts = counts_of(&mut seconds, second, plan);
                let stats = &mut counts.stats[target];
                stats.requests.scheduled += n;
                stats.requests.unsent += n;
                stats.errors.add(ErrorClass::AgentLost, n);
                // A user would have waited for an answer until the timeout.
                stats.latency_failed.record_n(plan.timeout, n);
                *by_stream[stream].entry(second).or_default() += n;
                let own = &mut counts.streams[stream];
                own.wait.record_n(plan.timeout, n);
                let (from, to) = (Nanos::from_secs(second), Nanos::from_secs(second + 1));
                let from = from.max(plan.warmup + plan.streams[stream].start);
                own.active.get_or_insert(Window {
                    from,
                    planned_to: from.max(to),
                    to: from.max(to),
                });
            }
        }
        for (stream, all) in by_stream.iter().enumerate() {
            let targets = plan.streams[stream].targets.clone();
            let ended: u64 = reported.stats[targets].iter().map(|own| own.requests.scheduled).sum();
            // Those that were in flight were dispatched before.
            for (second, n) in
                remaining(all, reported.streams[stream].dispatched.saturating_sub(ended))
            {
                let own = &mut seconds.get_mut(&second).expect("it has arrivals").streams[stream];
                own.dispatched += n;
                own.lag.record_n(plan.timeout, n);
            }
        }
        seconds
    }
}

/// What is left of the arrivals of some seconds if `reported` of them have ended. Those that were due first are
/// taken for reported: which of the latest were in flight is not known.
fn remaining(due: &BTreeMap<u64, u64>, reported: u64) -> Vec<(u64, u64)> {
    let mut reported = reported;
    let left = due.iter().map(|(second, n)| {
        let gone = reported.min(*n);
        reported -= gone;
        (*second, n - gone)
    });
    left.filter(|(_, n)| *n > 0).collect()
}

fn counts_of<'s>(
    seconds: &'s mut BTreeMap<u64, Snapshot>,
    second: u64,
    plan: &Plan,
) -> &'s mut Snapshot {
    seconds
        .entry(second)
        .or_insert_with(|| Snapshot { t: Nanos::from_secs(second + 1), ..plan.blank_snapshot() })
}

fn second(at: Nanos) -> u64 {
    at.0 / 1_000_000_000
}

fn each_due(
    schedule: &Arc<Schedule>,
    shards: &plimsoll_plan::Shards,
    from: Nanos,
    to: Nanos,
    mut each: impl FnMut(Nanos, u64),
) {
    let mut pacer = schedule.pacer(shards, from);
    while let Some(arrival) = pacer.peek().filter(|arrival| arrival.at < to) {
        each(arrival.at, arrival.seq);
        pacer.advance();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_plan::{Document, Variables};
    use std::path::Path;

    fn plan() -> Plan {
        let text = "rate = 1000\nduration = \"10s\"\nwarmup = \"2s\"\ntimeout = \"3s\"\n\
            [[target]]\nname = \"a\"\nweight = 3\nrequest = \"GET http://h/\"\n\
            [[target]]\nname = \"b\"\nrequest = \"GET http://h/\"\n";
        Plan::read(&Document::new("p", text), &Variables::none(), Path::new(".")).unwrap()
    }

    fn total(seconds: &BTreeMap<u64, Snapshot>, plan: &Plan) -> Snapshot {
        let mut sum = plan.blank_snapshot();
        seconds.values().for_each(|second| sum.append(second));
        sum
    }

    #[test]
    fn an_agent_that_reported_nothing_left_all_of_its_part_unsent() {
        let plan = plan();
        let halves = Part::whole(&plan);
        let owned: Vec<Owned> = (0..2)
            .map(|i| Owned { part: halves.share(i, 2), from: Nanos::ZERO, to: Nanos::MAX })
            .collect();
        let sums: Vec<Snapshot> = owned
            .iter()
            .map(|own| {
                total(
                    &unsent(&plan, std::slice::from_ref(own), &plan.blank_snapshot(), Nanos::MAX),
                    &plan,
                )
            })
            .collect();
        let scheduled = |target: usize| {
            sums.iter().map(|sum| sum.stats[target].requests.scheduled).sum::<u64>()
        };
        assert_eq!((scheduled(0), scheduled(1)), (7500, 2500));
        assert_eq!(sums.iter().map(|sum| sum.warmup.unsent).sum::<u64>(), 2000);
        for sum in &sums {
            sum.assert_identities();
            let all = sum.total();
            assert_eq!(all.errors.get(ErrorClass::AgentLost), all.requests.unsent);
            assert_eq!(all.requests.sent, 0);
        }
    }

    #[test]
    fn only_what_was_owned_and_not_reported_is_unsent() {
        let plan = plan();
        let owned = Owned { part: Part::whole(&plan), from: Nanos::ZERO, to: Nanos::from_secs(7) };
        let mut reported = plan.blank_snapshot();
        reported.warmup.scheduled = 1990;
        reported.stats[0].requests.scheduled = 2000;
        // Five were in flight.
        reported.streams[0].dispatched = 2005;
        let seconds = unsent(&plan, &[owned], &reported, Nanos::from_secs(6));
        let sum = total(&seconds, &plan);
        // From 2 s to 6 s: 3,000 of the first target and 1,000 of the second.
        let left: Vec<u64> = sum.stats.iter().map(|stats| stats.requests.scheduled).collect();
        assert_eq!((left, sum.warmup.unsent), (vec![1000, 1000], 10));
        assert_eq!(seconds.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(sum.streams[0].dispatched, 2000 - 5);
    }

    #[test]
    fn nothing_is_unsent_if_everything_was_reported() {
        let plan = plan();
        let owned = Owned { part: Part::whole(&plan), from: Nanos::ZERO, to: Nanos::MAX };
        let mut reported = plan.blank_snapshot();
        reported.warmup.scheduled = 2000;
        (reported.stats[0].requests.scheduled, reported.stats[1].requests.scheduled) = (7500, 2500);
        assert!(unsent(&plan, &[owned], &reported, Nanos::MAX).is_empty());
    }
}
