//! A run as a fold over its seconds.
//!
//! Each second's [`Snapshot`] is added once, in order; then the sums become a [`Summary`]. The same
//! fold is used during a run (progress, metrics, objectives that stop it), for its report at the end,
//! and for a report made later from `snapshots.jsonl`. A [`Narrow`] selects targets,
//! streams and seconds. The verdict always covers all targets of the selected streams.
//!
//! Memory depends only on the plan (names, streams, origins, stages), not on the length of the run:
//! the verdict's rules keep sums and the worst second.

use crate::activity::Activities;
use crate::logs::Logs;
use crate::narrow::{Narrow, Scope, stage_span};
use crate::objectives::{Judged, judge};
use crate::records::{Details, Records};
use crate::seconds::{ErrorTimes, Seconds};
use crate::series::TimeSeries;
use crate::summary::Summary;
use crate::timeline::{Span, Timeline};
use crate::verdict::Rules;
use plimsoll_measure::{Nanos, RunFacts, Sample, Scraped, Snapshot, Stats, StreamCounts};
use plimsoll_plan::{Objective, Plan};

/// The sums of one stage.
#[derive(Clone, Debug)]
pub(crate) struct StageSum {
    /// The stream's index in the plan.
    pub(crate) stream: usize,
    /// The stage's index in the stream.
    pub(crate) stage: usize,
    /// When it was planned.
    span: (Nanos, Nanos),
    /// All of the stream's targets.
    pub(crate) stats: Stats,
    pub(crate) counts: StreamCounts,
}

/// Counts, and when arrivals failed.
#[derive(Clone, Debug)]
pub(crate) struct Sums {
    pub(crate) total: Snapshot,
    pub(crate) errors: ErrorTimes,
}

impl Sums {
    fn new(plan: &Plan) -> Sums {
        Sums { total: plan.blank_snapshot(), errors: ErrorTimes::default() }
    }

    fn add(&mut self, second: &Snapshot, seconds: Seconds) {
        self.total.append(second);
        second.stats.iter().for_each(|stats| self.errors.add(&stats.errors, seconds));
    }
}

/// The time after the warm-up, and the sums of the scrapes at its start: costs are computed from what was
/// counted since.
#[derive(Clone, Debug)]
pub(crate) struct Steady {
    pub(crate) seconds: Seconds,
    pub(crate) before: Vec<Scraped>,
}

/// The sums of a run so far.
#[derive(Clone)]
pub struct Fold<'p> {
    plan: &'p Plan,
    narrow: Narrow,
    sums: Sums,
    /// Those of all targets of the streams, if only some targets are included: the verdict's.
    of_streams: Option<Sums>,
    activities: Activities,
    /// The streams included in the last second.
    held: Option<Vec<bool>>,
    /// Arrivals of the run, in the part or not.
    scheduled: u64,
    /// Unless all requests are included.
    records: Option<Records>,
    stages: Vec<StageSum>,
    rules: Rules,
    timeline: Timeline,
    logs: Logs,
    steady: Option<Steady>,
    /// The part over time, if it is wanted.
    series: Option<TimeSeries>,
    /// The end of the last second that was added.
    at: Nanos,
}

/// The parts of a finished fold that a summary is made of.
pub(crate) struct Folded {
    pub(crate) narrow: Narrow,
    pub(crate) sums: Sums,
    pub(crate) of_streams: Option<Sums>,
    pub(crate) activities: Activities,
    pub(crate) scheduled: u64,
    /// What the records add, or why they cannot be used.
    pub(crate) details: Result<Option<Details>, String>,
    pub(crate) stages: Vec<StageSum>,
    pub(crate) rules: Rules,
    pub(crate) timeline: Timeline,
    pub(crate) logs: Logs,
    pub(crate) steady: Option<Steady>,
    pub(crate) series: Option<TimeSeries>,
}

impl<'p> Fold<'p> {
    /// A fold of the whole run.
    pub fn new(plan: &'p Plan) -> Fold<'p> {
        Fold::narrowed(plan, Narrow::whole(plan))
    }

    /// A fold of a part of the run.
    pub fn narrowed(plan: &'p Plan, narrow: Narrow) -> Fold<'p> {
        let stages = (0..plan.streams.len())
            .filter(|stream| narrow.holds_stream(*stream))
            .flat_map(|stream| (0..plan.streams[stream].stages.len()).map(move |i| (stream, i)))
            .map(|(stream, stage)| {
                let (stats, counts) = Default::default();
                StageSum { stream, stage, span: stage_span(plan, stream, stage), stats, counts }
            });
        Fold {
            stages: stages.collect(),
            sums: Sums::new(plan),
            of_streams: (narrow.scope() == Scope::Targets).then(|| Sums::new(plan)),
            activities: Activities::new(!narrow.is_whole()),
            held: None,
            scheduled: 0,
            records: (narrow.scope() != Scope::Run).then(|| Records::new(plan.streams.len())),
            rules: Rules::new(plan),
            timeline: Timeline::new(plan.connections.sources.len() as u64),
            logs: Logs::new(plan),
            steady: None,
            series: None,
            at: Nanos::ZERO,
            narrow,
            plan,
        }
    }

    /// The same, with the part over time in its summary, for charts.
    pub fn charted(self) -> Fold<'p> {
        Fold { series: Some(TimeSeries::new(self.plan)), ..self }
    }

    /// Adds the next second.
    ///
    /// # Panics
    /// If the snapshot belongs to another plan.
    pub fn add(&mut self, second: &Snapshot) {
        let seconds = Seconds { from: self.at.min(second.t), to: second.t };
        self.at = second.t;
        self.scheduled += second.stats.iter().map(|stats| stats.requests.scheduled).sum::<u64>();
        if let Some(records) = &mut self.records {
            let stream = |target: usize| self.plan.targets[target].stream;
            records.count(second, |target| self.narrow.holds(seconds, target, stream(target)));
        }
        let held = self.narrow.held(seconds);
        let fresh = held != self.held;
        self.held = held;
        let Some(held) = &self.held else { return };
        let whole = self.narrow.of_streams(self.plan, second, held);
        let part = self.narrow.of_targets(&whole);
        if seconds.from >= self.plan.warmup && seconds.len() > Nanos::ZERO {
            match &mut self.steady {
                Some(steady) => steady.seconds = steady.seconds.union(seconds),
                None => {
                    let before = self.sums.total.scrapes.clone();
                    self.steady = Some(Steady { seconds, before });
                }
            }
        }
        self.sums.add(&part, seconds);
        self.logs.add(&part, seconds);
        if let Some(of_streams) = &mut self.of_streams {
            of_streams.add(&whole, seconds);
        }
        self.activities.add(&part, seconds.from, fresh);
        let in_stage = |stage: &&mut StageSum| {
            (stage.span.0..stage.span.1).contains(&seconds.middle()) && held[stage.stream]
        };
        for stage in self.stages.iter_mut().filter(in_stage) {
            stage.counts.append(&part.streams[stage.stream]);
            let targets = self.plan.streams[stage.stream].targets.clone();
            part.stats[targets].iter().for_each(|stats| stage.stats.merge(stats));
        }
        self.rules.add(self.plan, &whole, seconds);
        self.timeline.add(&whole, seconds);
        if let Some(series) = &mut self.series {
            let host = Span::of(&part, seconds, self.plan.connections.sources.len() as u64);
            series.add(&part, seconds, host, &self.sums.total.scrapes);
        }
    }

    /// Adds the record of a request that was counted in this second. Give those of all requests, in any
    /// order, or none: unless there is one for each of the part's requests, and they agree with the seconds,
    /// a narrowed report leaves out what only records tell. A report on all requests does not use them.
    pub fn add_sample(&mut self, second: Seconds, sample: &Sample) {
        let Some(records) = &mut self.records else { return };
        let target = sample.kind.target as usize;
        let stream = self.plan.targets[target].stream;
        let held = self.narrow.holds(second, target, stream);
        records.add(second.to, stream, sample, held);
    }

    /// The sum of the seconds so far.
    pub fn total(&self) -> &Snapshot {
        &self.sums.total
    }

    /// The part over time, if it is kept.
    pub fn series(&self) -> Option<&TimeSeries> {
        self.series.as_ref()
    }

    /// Whether an objective holds so far.
    pub fn judge(&self, objective: &Objective) -> Judged {
        judge(objective, self.plan, &self.sums.total, &self.activities)
    }

    /// Computes the summary.
    ///
    /// # Panics
    /// If an accounting identity does not hold.
    pub fn finish(self, facts: RunFacts) -> Summary {
        let Fold { plan, narrow, sums, of_streams, activities, scheduled, .. } = self;
        let Fold { records, stages, rules, timeline, logs, steady, series, .. } = self;
        of_streams.as_ref().unwrap_or(&sums).total.assert_identities();
        sums.total.stats.iter().for_each(Stats::assert_identities);
        let activities = activities.started(facts.started_at.unix_ns);
        let folded = Folded {
            narrow,
            sums,
            of_streams,
            activities,
            scheduled,
            details: records.map_or(Ok(None), Records::details),
            stages,
            rules,
            timeline,
            logs,
            steady,
            series,
        };
        Summary::of(plan, facts, folded)
    }
}

#[cfg(test)]
mod tests;
