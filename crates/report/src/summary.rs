//! All figures of a run, from the sum of its snapshots.

use crate::objectives::{Judged, judge_objective};
use crate::scrapes::Scrapes;
use crate::verdict::Verdict;
use plimsoll_measure::{Histogram, Nanos, RunFacts, Snapshot, Stats};
use plimsoll_plan::Plan;
use std::collections::BTreeMap;

/// Figures of a target, of a tag's value, or of all.
#[derive(Clone, Debug)]
pub struct Group {
    /// The target's name, or the tag's value.
    pub name: String,
    /// What was counted.
    pub stats: Stats,
    /// Latency of every arrival.
    pub latency: Histogram,
    /// Service time of every whole response.
    pub service_time: Histogram,
}

impl Group {
    pub(crate) fn of(name: impl Into<String>, stats: Stats) -> Group {
        let (latency, service_time) = (stats.latency(), stats.service_time());
        Group { name: name.into(), stats, latency, service_time }
    }
}

/// All figures of a run.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The plan's name.
    pub name: String,
    /// The plan's load in words: `5000/s for 33m`.
    pub load: String,
    /// What is known besides the counts.
    pub facts: RunFacts,
    /// The sum of all snapshots.
    pub total: Snapshot,
    /// All targets together.
    pub all: Group,
    /// By target, in the plan's order.
    pub targets: Vec<(Group, BTreeMap<String, String>)>,
    /// By tag and value.
    pub tags: BTreeMap<String, Vec<Group>>,
    /// Objectives, in the plan's order.
    pub objectives: Vec<Judged>,
    /// Whether all this may be believed.
    pub verdict: Verdict,
    /// What other processes told of themselves.
    pub scrapes: Scrapes,
}

impl Summary {
    /// Sums up a run.
    ///
    /// # Panics
    /// When an accounting identity does not hold.
    pub fn new(plan: &Plan, facts: RunFacts, total: Snapshot) -> Summary {
        total.assert_identities();
        let all = Group::of("all", total.total());
        let targets: Vec<_> = plan
            .targets
            .iter()
            .zip(&total.stats)
            .map(|(target, stats)| (Group::of(&target.name, stats.clone()), target.tags.clone()))
            .collect();
        let objectives = plan
            .objectives
            .iter()
            .map(|objective| judge_objective(objective, plan, &total, facts.duration, facts.drain))
            .collect();
        let verdict = Verdict::of(plan, &facts, &total, &all);
        Summary {
            name: plan.name.clone(),
            load: plan.load_in_words(),
            scrapes: Scrapes::new(&plan.scrapes, &total.scrapes),
            tags: by_tag(plan, &total),
            facts,
            total,
            all,
            targets,
            objectives,
            verdict,
        }
    }

    /// Scheduled, sent and ok per second: the first two while it was sent, the last until the last
    /// answer was in.
    pub fn rates(&self, stats: &Stats) -> (f64, f64, f64) {
        let sending = self.facts.duration.as_secs_f64();
        let whole = (self.facts.duration + self.facts.drain).as_secs_f64();
        let per = |n: u64, secs: f64| if secs > 0.0 { n as f64 / secs } else { 0.0 };
        let requests = &stats.requests;
        (per(requests.scheduled, sending), per(requests.sent, sending), per(requests.ok, whole))
    }

    /// Whether every objective holds.
    pub fn objectives_hold(&self) -> bool {
        self.objectives.iter().all(|judged| judged.ok)
    }

    /// CPU time of this process for each request sent, warm-up included: all of it, and the user's
    /// part. `None` when nothing was sent.
    pub fn cpu_per_request(&self) -> Option<(Nanos, Nanos)> {
        let sent = self.all.stats.requests.sent + self.total.warmup.sent;
        let host = &self.total.host;
        (sent > 0).then(|| (Nanos(host.cpu.0 / sent), Nanos(host.user.0 / sent)))
    }
}

fn by_tag(plan: &Plan, total: &Snapshot) -> BTreeMap<String, Vec<Group>> {
    let mut sums: BTreeMap<&str, BTreeMap<&str, Stats>> = BTreeMap::new();
    for (target, stats) in plan.targets.iter().zip(&total.stats) {
        for (tag, value) in &target.tags {
            sums.entry(tag).or_default().entry(value).or_default().merge(stats);
        }
    }
    let groups = |values: BTreeMap<&str, Stats>| {
        values.into_iter().map(|(value, stats)| Group::of(value, stats)).collect()
    };
    sums.into_iter().map(|(tag, values)| (tag.to_string(), groups(values))).collect()
}
