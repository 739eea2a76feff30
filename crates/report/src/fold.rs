//! A run as a fold over its seconds.
//!
//! Each second's [`Snapshot`] is added once, in order; then the sums become a [`Summary`]. The same
//! fold is used during a run (progress, metrics, objectives that stop it), for its report at the end,
//! and for a report made later from `snapshots.jsonl`. A [`Narrow`] selects streams and seconds.
//!
//! Memory depends only on the plan (names, streams, origins, stages), not on the length of the run:
//! the verdict's rules keep sums and the worst second.

use crate::objectives::{Judged, judge};
use crate::seconds::{ErrorTimes, Seconds};
use crate::summary::Summary;
use crate::timeline::Timeline;
use crate::verdict::Rules;
use plimsoll_measure::{Nanos, RunFacts, Snapshot, Stats, StreamCounts, Window};
use plimsoll_plan::{Objective, Plan};

/// Which streams and which seconds are folded.
///
/// A second belongs to a range or a stage if its midpoint does. Figures that are not counted by stream
/// (HTTP statuses, JSON-RPC codes, faults, connections, read lag, this process) are not narrowed to
/// streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrow {
    /// The streams' indices in the plan; `None`: all.
    pub streams: Option<Vec<usize>>,
    /// From this instant of the run's clock on…
    pub from: Nanos,
    /// …until this one.
    pub to: Nanos,
}

impl Default for Narrow {
    /// The whole run.
    fn default() -> Narrow {
        Narrow { streams: None, from: Nanos::ZERO, to: Nanos::MAX }
    }
}

impl Narrow {
    /// A stage of a stream; the last one lasts until the end of the run. `None` if there is no such stage.
    pub fn to_stage(plan: &Plan, stream: usize, stage: usize) -> Option<Narrow> {
        let stages = &plan.streams.get(stream)?.stages;
        let starts = stage_starts(plan, stream);
        (stage < stages.len()).then(|| Narrow {
            streams: Some(vec![stream]),
            from: starts[stage],
            to: starts.get(stage + 1).copied().unwrap_or(Nanos::MAX),
        })
    }

    /// Whether the stream is included.
    pub fn holds_stream(&self, stream: usize) -> bool {
        self.streams.as_ref().is_none_or(|streams| streams.contains(&stream))
    }

    fn holds(&self, second: Seconds) -> bool {
        (self.from..self.to).contains(&second.middle())
    }

    /// The second without the counts of excluded streams; `None` if no stream is excluded.
    fn cut(&self, plan: &Plan, second: &Snapshot) -> Option<Snapshot> {
        self.streams.as_ref()?;
        let mut second = second.clone();
        for (place, counts) in second.streams.iter_mut().enumerate() {
            if !self.holds_stream(place) {
                *counts = StreamCounts::default();
            }
        }
        for (target, stats) in plan.targets.iter().zip(&mut second.stats) {
            if !self.holds_stream(target.stream) {
                *stats = Stats::default();
            }
        }
        Some(second)
    }
}

/// When each stage of a stream begins, on the run's clock.
fn stage_starts(plan: &Plan, stream: usize) -> Vec<Nanos> {
    let stream = &plan.streams[stream];
    let mut at = plan.warmup + stream.start;
    let starts = stream.stages.iter().map(|stage| {
        let start = at;
        at += stage.over + stage.hold;
        start
    });
    starts.collect()
}

/// The sums of one stage.
#[derive(Clone, Debug)]
pub(crate) struct StageSum {
    /// The stream's index in the plan.
    pub(crate) stream: usize,
    /// The stage's index in the stream.
    pub(crate) stage: usize,
    narrow: Narrow,
    /// All of the stream's targets.
    pub(crate) stats: Stats,
    pub(crate) counts: StreamCounts,
}

/// The sums of a run so far.
pub struct Fold<'p> {
    plan: &'p Plan,
    narrow: Narrow,
    total: Snapshot,
    errors: ErrorTimes,
    stages: Vec<StageSum>,
    rules: Rules,
    timeline: Timeline,
    /// The end of the last second that was added.
    at: Nanos,
}

/// The parts of a finished fold that a summary is made of.
pub(crate) struct Folded {
    pub(crate) narrow: Narrow,
    pub(crate) total: Snapshot,
    pub(crate) errors: ErrorTimes,
    pub(crate) stages: Vec<StageSum>,
    pub(crate) rules: Rules,
    pub(crate) timeline: Timeline,
}

impl<'p> Fold<'p> {
    /// A fold of the whole run.
    pub fn new(plan: &'p Plan) -> Fold<'p> {
        Fold::narrowed(plan, Narrow::default())
    }

    /// A fold of a part of the run.
    pub fn narrowed(plan: &'p Plan, narrow: Narrow) -> Fold<'p> {
        let stages = (0..plan.streams.len())
            .filter(|stream| narrow.holds_stream(*stream))
            .flat_map(|stream| (0..plan.streams[stream].stages.len()).map(move |i| (stream, i)))
            .filter_map(|(stream, stage)| {
                let narrow = Narrow::to_stage(plan, stream, stage)?;
                let (stats, counts) = Default::default();
                Some(StageSum { stream, stage, narrow, stats, counts })
            });
        Fold {
            stages: stages.collect(),
            total: plan.blank_snapshot(),
            errors: ErrorTimes::default(),
            rules: Rules::new(plan),
            timeline: Timeline::new(plan.connections.sources.len() as u64),
            at: Nanos::ZERO,
            narrow,
            plan,
        }
    }

    /// Adds the next second.
    ///
    /// # Panics
    /// If the snapshot belongs to another plan.
    pub fn add(&mut self, second: &Snapshot) {
        let seconds = Seconds { from: self.at.min(second.t), to: second.t };
        self.at = second.t;
        if !self.narrow.holds(seconds) {
            return;
        }
        let cut = self.narrow.cut(self.plan, second);
        let second = cut.as_ref().unwrap_or(second);
        self.total.append(second);
        second.stats.iter().for_each(|stats| self.errors.add(&stats.errors, seconds));
        let stages = self.stages.iter_mut().filter(|stage| stage.narrow.holds(seconds));
        for stage in stages {
            stage.counts.append(&second.streams[stage.stream]);
            let targets = self.plan.streams[stage.stream].targets.clone();
            second.stats[targets].iter().for_each(|stats| stage.stats.merge(stats));
        }
        self.rules.add(self.plan, second, seconds);
        self.timeline.add(second, seconds);
    }

    /// The sum of the seconds so far.
    pub fn total(&self) -> &Snapshot {
        &self.total
    }

    /// Whether an objective holds so far.
    pub fn judge(&self, objective: &Objective) -> Judged {
        judge(objective, self.plan, &self.total)
    }

    /// Computes the summary.
    ///
    /// # Panics
    /// If an accounting identity does not hold.
    pub fn finish(self, facts: RunFacts) -> Summary {
        let Fold { plan, narrow, total, errors, stages, rules, timeline, .. } = self;
        total.assert_identities();
        Summary::of(plan, facts, Folded { narrow, total, errors, stages, rules, timeline })
    }
}

/// When streams were active.
#[derive(Clone, Copy, Default)]
pub(crate) struct Active {
    /// `None` if no stream was active.
    pub(crate) window: Option<Window>,
    /// When the last request was sent; zero if unknown.
    pub(crate) last_sent: Nanos,
}

impl Active {
    pub(crate) fn of(counts: &StreamCounts) -> Active {
        Active { window: counts.active, last_sent: counts.last_sent }
    }
}

/// The active window of several streams combined.
pub(crate) fn active_of(total: &Snapshot, streams: impl IntoIterator<Item = usize>) -> Active {
    let mut all = Active::default();
    for Active { window, last_sent } in
        streams.into_iter().map(|own| Active::of(&total.streams[own]))
    {
        let windows = [all.window, window].into_iter().flatten();
        all.window = windows.reduce(Window::union);
        all.last_sent = all.last_sent.max(last_sent);
    }
    all
}

#[cfg(test)]
mod tests;
