//! All figures of a run, or of a part of it: the result of a [`Fold`](crate::Fold).

use crate::fold::{Active, Folded, active_of};
use crate::objectives::{Judged, judge};
use crate::scrapes::Scrapes;
use crate::seconds::{ErrorTimes, Seconds};
use crate::timeline::Timeline;
use crate::verdict::{Case, Verdict};
use plimsoll_measure::SplitCounts;
use plimsoll_measure::{
    ErrorClass, FindingId, Histogram, Nanos, RunFacts, Severity, Snapshot, Stats, StreamCounts,
    Window,
};
use plimsoll_plan::{Load, Plan};
use std::collections::BTreeMap;

/// Arrivals per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Scheduled arrivals, over the time in which arrivals were planned.
    pub scheduled: f64,
    /// Sent requests, over the time in which arrivals were planned or sent.
    pub sent: f64,
    /// Requests answered as expected, over the time until the last complete answer.
    pub ok: f64,
}

/// Figures of a target, a stream, a stage, a tag value, or all targets combined.
#[derive(Clone, Debug)]
pub struct Group {
    /// Name of the target or stream, or the tag value.
    pub name: String,
    /// The counts.
    pub stats: Stats,
    /// Latency of every arrival.
    pub latency: Histogram,
    /// Service time of every complete response.
    pub service_time: Histogram,
    /// When its streams were active; `None` if none was.
    pub window: Option<Window>,
    /// When the last request of its streams was sent; zero if unknown.
    pub last_sent: Nanos,
}

impl Group {
    pub(crate) fn of(name: impl Into<String>, stats: Stats, active: Active) -> Group {
        let (latency, service_time) = (stats.latency(), stats.service_time());
        let (window, last_sent) = (active.window, active.last_sent);
        Group { name: name.into(), stats, latency, service_time, window, last_sent }
    }

    /// The end of sending. It ignores late answers, which must not lower the sending rate.
    fn sent_to(&self, window: &Window) -> Nanos {
        if self.last_sent == Nanos::ZERO {
            return window.to;
        }
        self.last_sent.clamp(window.planned_to, window.to.max(window.planned_to))
    }

    /// The rates over the window; zero if never active.
    pub fn rates(&self) -> Rates {
        let Some(window) = self.window else { return Rates::default() };
        let requests = &self.stats.requests;
        Rates {
            scheduled: per_second(requests.scheduled, window.planned_to - window.from),
            sent: per_second(requests.sent, self.sent_to(&window) - window.from),
            ok: per_second(requests.ok, window.to - window.from),
        }
    }
}

/// A rate; zero over an empty span.
pub(crate) fn per_second(n: u64, span: Nanos) -> f64 {
    if span > Nanos::ZERO { n as f64 / span.as_secs_f64() } else { 0.0 }
}

/// A stage of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageOf {
    /// Its number in the stream, from 1.
    pub number: usize,
    /// Its load in words: `3,500/s for 10s`.
    pub load: String,
}

/// Complete answers by the value of a response header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The header, in lower case.
    pub header: String,
    /// The streams whose answers are counted.
    pub streams: Vec<String>,
    /// The counts.
    pub counts: SplitCounts,
}

impl Split {
    /// How far a value's count is from an even share of the answers counted by value, relative to that
    /// share: 0 is even, 0.1 is 10 % more.
    pub fn from_even(&self, n: u64) -> f64 {
        let even = self.counts.named() as f64 / self.counts.values.len().max(1) as f64;
        n as f64 / even.max(f64::MIN_POSITIVE) - 1.0
    }
}

/// Figures of a stream or of one of its stages.
#[derive(Clone, Debug)]
pub struct StreamGroup {
    /// The figures, named after the stream.
    pub group: Group,
    /// Which stage; `None` for the whole stream.
    pub stage: Option<StageOf>,
    /// Lateness of the generator.
    pub lag: Histogram,
    /// Time spent waiting for connections.
    pub wait: Histogram,
}

impl StreamGroup {
    fn of(name: &str, stage: Option<StageOf>, stats: Stats, counts: &StreamCounts) -> StreamGroup {
        let (lag, wait) = (counts.lag.clone(), counts.wait.clone());
        StreamGroup { group: Group::of(name, stats, Active::of(counts)), stage, lag, wait }
    }
}

/// All figures of a run.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The plan's name.
    pub name: String,
    /// The plan's load in words: `5000/s for 33m`.
    pub load: String,
    /// Whether the plan was made from flags, so that advice names flags.
    pub from_flags: bool,
    /// Whether a stream has a rate; otherwise all have users.
    pub has_rate: bool,
    /// The seed of all random choices.
    pub seed: u64,
    /// Facts about the run other than its counts.
    pub facts: RunFacts,
    /// The sum of all seconds.
    pub total: Snapshot,
    /// All targets combined.
    pub all: Group,
    /// By target, in the plan's order.
    pub targets: Vec<(Group, BTreeMap<String, String>)>,
    /// By tag and value.
    pub tags: BTreeMap<String, Vec<Group>>,
    /// By stream, in the plan's order.
    pub streams: Vec<StreamGroup>,
    /// By stage, of the streams that have stages.
    pub stages: Vec<StreamGroup>,
    /// Answers by header value, for each header that the plan names.
    pub splits: Vec<Split>,
    /// When arrivals of each class failed.
    pub errors: Vec<(ErrorClass, Seconds)>,
    /// Objectives, in the plan's order.
    pub objectives: Vec<Judged>,
    /// Whether the figures are valid, and what limited the run.
    pub verdict: Verdict,
    /// What other processes reported.
    pub scrapes: Scrapes,
    /// The host during the run.
    pub timeline: Timeline,
}

impl Summary {
    pub(crate) fn of(plan: &Plan, facts: RunFacts, folded: Folded) -> Summary {
        let Folded { narrow, total, errors, stages, rules, timeline } = folded;
        let streams: Vec<usize> =
            (0..plan.streams.len()).filter(|stream| narrow.holds_stream(*stream)).collect();
        let all = Group::of("all", total.total(), active_of(&total, streams.iter().copied()));
        let case = Case { plan, facts: &facts, total: &total, all: &all, errors: &errors };
        let mut verdict = rules.verdict(&case);
        if was_stopped_in_warmup(&facts, &all) {
            adjust_for_stop_in_warmup(&mut verdict, &facts);
        }
        let targets = plan.targets.iter().zip(&total.stats);
        let targets = targets.filter(|(target, _)| narrow.holds_stream(target.stream));
        let stages = stages.into_iter().filter(|stage| stage.counts.active.is_some());
        Summary {
            name: plan.name.clone(),
            load: plan.load_in_words(),
            from_flags: plan.from_flags,
            has_rate: plan.streams.iter().any(|own| matches!(own.load, Load::Open { .. })),
            seed: plan.seed,
            scrapes: Scrapes::new(&plan.scrapes, &total.scrapes),
            tags: by_tag(plan, &total, &streams),
            targets: targets
                .map(|(target, stats)| {
                    let active = Active::of(&total.streams[target.stream]);
                    (Group::of(&target.name, stats.clone(), active), target.tags.clone())
                })
                .collect(),
            streams: streams.iter().map(|stream| by_stream(plan, &total, *stream)).collect(),
            stages: stages
                .map(|sum| {
                    let stream = &plan.streams[sum.stream];
                    let load = stream.stage_in_words(&stream.stages[sum.stage]);
                    let stage = StageOf { number: sum.stage + 1, load };
                    StreamGroup::of(&stream.name, Some(stage), sum.stats, &sum.counts)
                })
                .collect(),
            splits: splits(plan, &total, &streams),
            errors: error_seconds(&errors, &all.stats),
            objectives: plan.objectives.iter().map(|own| judge(own, plan, &total)).collect(),
            verdict,
            timeline,
            facts,
            total,
            all,
        }
    }

    /// Whether every objective holds.
    pub fn objectives_hold(&self) -> bool {
        self.objectives.iter().all(|judged| judged.ok)
    }

    /// Whether the run was stopped before any request was counted.
    pub(crate) fn stopped_in_warmup(&self) -> bool {
        was_stopped_in_warmup(&self.facts, &self.all)
    }

    /// Whether no arrival was answered as expected.
    pub fn nothing_ok(&self) -> bool {
        self.verdict.findings.iter().any(|finding| finding.id == FindingId::NothingOk)
    }

    /// CPU time of this process per request sent, including the warm-up; `None` if nothing was sent.
    pub fn cpu_per_request(&self) -> Option<CpuPerRequest> {
        let sent = self.all.stats.requests.sent + self.total.warmup.sent;
        let (host, spin) = (&self.total.host, self.total.workers.spin);
        let each = |time: Nanos| Nanos(time.0 / sent);
        (sent > 0).then(|| CpuPerRequest {
            all: each(host.cpu),
            user: each(host.user),
            spin: each(spin),
            work: each(host.cpu - spin),
        })
    }
}

/// CPU time of this process per request sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuPerRequest {
    /// Total CPU time.
    pub all: Nanos,
    /// User time.
    pub user: Nanos,
    /// Time spent spinning until the next arrival was due.
    pub spin: Nanos,
    /// All except spinning.
    pub work: Nanos,
}

fn was_stopped_in_warmup(facts: &RunFacts, all: &Group) -> bool {
    facts.cut_short && facts.warmup > Nanos::ZERO && all.stats.requests.scheduled == 0
}

/// Replaces `nothing_ok`, which is meaningless before any request was counted, by a plain `cut_short`.
fn adjust_for_stop_in_warmup(verdict: &mut Verdict, facts: &RunFacts) {
    let (by, warmup) = (facts.by(), facts.warmup);
    verdict.findings.retain(|finding| finding.id != FindingId::NothingOk);
    verdict.valid = verdict.findings.iter().all(|found| found.severity != Severity::Invalid);
    verdict.limited_by = verdict.limited_by.filter(|_| !verdict.valid);
    for finding in verdict.findings.iter_mut().filter(|found| found.id == FindingId::CutShort) {
        finding.evidence =
            format!("the run was stopped during the warm-up{by}; no request was counted");
        finding.fix = format!("let it run for longer than the warm-up of {warmup}");
    }
}

fn by_stream(plan: &Plan, total: &Snapshot, stream: usize) -> StreamGroup {
    let mut stats = Stats::default();
    let own = &plan.streams[stream];
    total.stats[own.targets.clone()].iter().for_each(|target| stats.merge(target));
    StreamGroup::of(&own.name, None, stats, &total.streams[stream])
}

fn splits(plan: &Plan, total: &Snapshot, streams: &[usize]) -> Vec<Split> {
    let mut splits: Vec<Split> = Vec::new();
    for &stream in streams {
        let Some(header) = &plan.streams[stream].split_by else { continue };
        let (name, counts) = (&plan.streams[stream].name, &total.streams[stream].split);
        match splits.iter_mut().find(|split| split.header == *header) {
            Some(split) => {
                split.streams.push(name.clone());
                split.counts.merge(counts);
            }
            None => splits.push(Split {
                header: header.clone(),
                streams: vec![name.clone()],
                counts: counts.clone(),
            }),
        }
    }
    splits
}

fn by_tag(plan: &Plan, total: &Snapshot, streams: &[usize]) -> BTreeMap<String, Vec<Group>> {
    type Sum = (Stats, Vec<usize>);
    let mut sums: BTreeMap<&str, BTreeMap<&str, Sum>> = BTreeMap::new();
    for (target, stats) in plan.targets.iter().zip(&total.stats) {
        if !streams.contains(&target.stream) {
            continue;
        }
        for (tag, value) in &target.tags {
            let (sum, of) = sums.entry(tag).or_default().entry(value).or_default();
            sum.merge(stats);
            of.push(target.stream);
        }
    }
    let groups = |values: BTreeMap<&str, Sum>| {
        let values = values.into_iter();
        values.map(|(value, (stats, of))| Group::of(value, stats, active_of(total, of))).collect()
    };
    sums.into_iter().map(|(tag, values)| (tag.to_string(), groups(values))).collect()
}

fn error_seconds(errors: &ErrorTimes, stats: &Stats) -> Vec<(ErrorClass, Seconds)> {
    stats.errors.iter().filter_map(|(class, _)| Some((class, errors.get(class)?))).collect()
}
