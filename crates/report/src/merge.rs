//! One report on several runs: their exact sum.
//!
//! Counts and histograms add up; targets, tags, streams and stages with the same name are one group. Rates
//! are per second of the time in which any of the runs was active ([`Activity`](crate::Activity)). What
//! cannot be added stays with its run: the verdict, the host, other processes, and objectives if the plans
//! differ. The result is invalid if any run is.

use crate::activity::{Rates, covered};
use crate::cost::Cost;
use crate::logs::Logs;
use crate::objectives::{Judged, judge_part};
use crate::scrapes::Scrapes;
use crate::series::TimeSeries;
use crate::summary::{Group, StreamGroup, Summary, merge_split};
use crate::timeline::Timeline;
use crate::verdict::Verdict;
use plimsoll_measure::{
    Finding, FindingId, Histogram, Nanos, Severity, Side, Snapshot, StreamCounts, Usage, WallClock,
};
use plimsoll_plan::Plan;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A run to be merged.
pub struct Run<'p> {
    /// What its user calls it, such as its directory.
    pub label: String,
    /// Its plan.
    pub plan: &'p Plan,
    /// Its figures, narrowed by the same filters as those of the other runs.
    pub summary: Summary,
}

/// What a merged report says about its runs.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// The runs, as given.
    pub runs: Vec<MergedRun>,
    /// Runs given more than once and counted once: as given, and as counted.
    pub repeated: Vec<(String, String)>,
    /// Number of different plans, apart from their seeds.
    pub plans: usize,
    /// How long any of the runs was sending.
    pub active: Nanos,
}

/// One run of a merged report.
#[derive(Clone, Debug)]
pub struct MergedRun {
    /// What its user calls it.
    pub label: String,
    /// Its plan's name and load.
    pub plan: String,
    /// The plan's digest.
    pub digest: u64,
    /// When it started.
    pub started_at: WallClock,
    /// The seed of its random choices.
    pub seed: u64,
    /// How long it was sending, excluding the warm-up.
    pub duration: Nanos,
    /// Whether it was stopped early.
    pub cut_short: bool,
    /// Its arrivals.
    pub scheduled: u64,
    /// Of these, ok.
    pub ok: u64,
    /// Its rates.
    pub rates: Rates,
    /// Its latency: median, 99th percentile and maximum.
    pub latency: [Option<Nanos>; 3],
    /// The 99th percentile of its service time.
    pub service_time: Option<Nanos>,
    /// Objectives that it missed.
    pub missed: usize,
    /// Whether it is valid.
    pub valid: bool,
    /// The side that limited it, if any.
    pub limited_by: Option<Side>,
    /// Its host.
    pub timeline: Timeline,
    /// What other processes reported during it.
    pub scrapes: Scrapes,
    /// The logs that were followed during it.
    pub logs: Logs,
    /// What its relays cost, if its plan has prices.
    pub cost: Option<Cost>,
    /// The length of its warm-up.
    pub warmup: Nanos,
    /// Its figures over time, if they were kept.
    pub series: Option<TimeSeries>,
}

impl Merged {
    /// A run's share of all arrivals, 0 to 1.
    pub fn share(&self, run: &MergedRun) -> f64 {
        let all: u64 = self.runs.iter().map(|run| run.scheduled).sum();
        run.scheduled as f64 / all.max(1) as f64
    }
}

/// Merges runs one by one, so that only one of them is in memory.
#[derive(Default)]
pub struct Merge<'p> {
    sum: Option<Summary>,
    merged: Merged,
    /// A plan for each digest.
    plans: Vec<(u64, &'p Plan)>,
    /// Latencies by run: no two runs have the same, even if two hosts started with one seed at once.
    latencies: Vec<Histogram>,
    /// Verdicts by run.
    verdicts: Vec<Verdict>,
    /// Objectives as judged on each run alone.
    judged: Vec<Judged>,
    given: usize,
}

impl<'p> Merge<'p> {
    /// No runs yet.
    pub fn new() -> Merge<'p> {
        Merge::default()
    }

    /// Adds a run. The same run (by plan, seed, start and latencies) counts once.
    pub fn add(&mut self, run: Run<'p>) {
        self.given += 1;
        let Run { label, plan, mut summary } = run;
        let digest = plan.digest();
        let same = |(own, latency): &(&MergedRun, &Histogram)| {
            (own.digest, own.seed, own.started_at, *latency)
                == (digest, summary.seed, summary.facts.started_at, &summary.all.latency)
        };
        let mut known = self.merged.runs.iter().zip(&self.latencies);
        if let Some((own, _)) = known.find(same) {
            self.merged.repeated.push((label, own.label.clone()));
            return;
        }
        if self.plans.iter().all(|(own, _)| *own != digest) {
            self.plans.push((digest, plan));
        }
        self.merged.runs.push(MergedRun {
            label: label.clone(),
            plan: format!("{}: {}", summary.name, summary.load),
            digest,
            started_at: summary.facts.started_at,
            seed: summary.seed,
            duration: summary.facts.duration,
            cut_short: summary.facts.cut_short,
            scheduled: summary.all.stats.requests.scheduled,
            ok: summary.all.stats.requests.ok,
            rates: summary.all.rates(),
            latency: [0.5, 0.99, 1.0].map(|quantile| summary.all.latency.quantile(quantile)),
            service_time: summary.all.service_time.quantile(0.99),
            missed: summary.objectives.iter().filter(|judged| !judged.ok).count(),
            valid: summary.verdict.valid,
            limited_by: summary.verdict.limited_by,
            timeline: std::mem::replace(&mut summary.timeline, Timeline::new(0)),
            scrapes: std::mem::take(&mut summary.scrapes),
            logs: std::mem::take(&mut summary.logs),
            cost: summary.cost.take(),
            warmup: summary.facts.warmup,
            series: summary.series.take(),
        });
        self.latencies.push(summary.all.latency.clone());
        self.judged.extend(
            summary
                .objectives
                .iter()
                .map(|judged| Judged { run: Some(label.clone()), ..judged.clone() }),
        );
        let mut verdict = summary.verdict.clone();
        for finding in &mut verdict.findings {
            // Other runs have other clocks.
            finding.evidence += &summary.when(finding);
        }
        self.verdicts.push(verdict);
        summary.total.scrapes.clear();
        summary.total.logs.clear();
        match &mut self.sum {
            None => self.sum = Some(summary),
            Some(sum) => add(sum, &summary, self.plans.len() == 1),
        }
    }

    /// The report. A single run, given once, is reported as if it had not been merged.
    ///
    /// # Panics
    /// If no run was added.
    pub fn finish(self) -> Summary {
        let Merge { sum, mut merged, plans, verdicts, judged, given, .. } = self;
        let mut sum = sum.expect("a report on at least one run");
        merged.plans = plans.len();
        let spans = merged.runs.iter().map(|run| (run.started_at.unix_ns, run.duration.0));
        merged.active = covered(spans.map(|(start, len)| (start, start.saturating_add(len))));
        if given == 1 {
            let run = merged.runs.pop().expect("the only run");
            (sum.timeline, sum.scrapes, sum.series) = (run.timeline, run.scrapes, run.series);
            (sum.logs, sum.cost) = (run.logs, run.cost);
            return sum;
        }
        // Seconds of different runs are not comparable.
        if merged.runs.len() > 1 {
            sum.errors.clear();
            sum.facts.duration = merged.active;
        }
        if let [(_, plan)] = plans[..] {
            let total = &sum.total;
            (sum.objectives, sum.unjudged) = judge_part(plan, &sum.narrow, total, &sum.activities);
        } else {
            sum.objectives = judged;
            let mut names: Vec<&str> = plans.iter().map(|(_, plan)| plan.name.as_str()).collect();
            names.dedup();
            sum.name = names.join(" and ");
            sum.load = format!("{} plans", plans.len());
        }
        sum.verdict = verdict(&merged, &verdicts, &sum);
        sum.merged = Some(merged);
        sum
    }
}

fn add(sum: &mut Summary, other: &Summary, same_plan: bool) {
    if same_plan {
        sum.total.append(&other.total);
        sum.activities.merge(&other.activities);
    } else {
        sum.total = without_names(&sum.total);
        sum.total.append(&without_names(&other.total));
    }
    sum.all.merge(&other.all);
    sum.scheduled += other.scheduled;
    sum.details = sum.details.take().zip(other.details.as_ref()).map(|(mut own, other)| {
        own.merge(other);
        own
    });
    sum.records_unused = sum.records_unused.take().or_else(|| other.records_unused.clone());
    if other.narrow.scope() > sum.narrow.scope() {
        // The figures are complete to what they are in all runs.
        sum.narrow = other.narrow.clone();
    }
    for (group, tags) in &other.targets {
        match sum.targets.iter_mut().find(|(own, _)| own.name == group.name) {
            None => sum.targets.push((group.clone(), tags.clone())),
            Some((own, own_tags)) => {
                own.merge(group);
                own_tags.retain(|tag, value| tags.get(tag) == Some(value));
            }
        }
    }
    for (tag, groups) in &other.tags {
        let own = sum.tags.entry(tag.clone()).or_default();
        groups.iter().for_each(|group| merge_group(own, group));
        own.sort_by(|a, b| a.name.cmp(&b.name));
    }
    other.streams.iter().for_each(|stream| merge_stream(&mut sum.streams, stream));
    other.stages.iter().for_each(|stage| merge_stream(&mut sum.stages, stage));
    other.splits.iter().for_each(|split| merge_split(&mut sum.splits, split));
    for unjudged in &other.unjudged {
        if !sum.unjudged.contains(unjudged) {
            sum.unjudged.push(unjudged.clone());
        }
    }
    sum.has_splits |= other.has_splits;
    sum.has_prices |= other.has_prices;
    sum.from_flags &= other.from_flags;
    sum.has_rate |= other.has_rate;
    add_facts(sum, other);
}

fn add_facts(sum: &mut Summary, other: &Summary) {
    let (own, other) = (&mut sum.facts, &other.facts);
    if other.started_at.unix_ns < own.started_at.unix_ns {
        own.started_at = other.started_at;
    }
    own.drain = own.drain.max(other.drain);
    own.warmup = own.warmup.max(other.warmup);
    own.cut_short |= other.cut_short;
    own.stopped_by = own.stopped_by.take().filter(|by| Some(by) == other.stopped_by.as_ref());
    own.cpus += other.cpus;
    own.workers += other.workers;
    own.forced.extend(other.forced.iter().cloned());
}

/// Counts of the whole process, without those by target and origin of a plan.
fn without_names(total: &Snapshot) -> Snapshot {
    let streams = StreamCounts { lag: total.lag(), wait: total.wait(), ..StreamCounts::default() };
    Snapshot { stats: Vec::new(), origins: Vec::new(), streams: vec![streams], ..total.clone() }
}

fn merge_group(groups: &mut Vec<Group>, group: &Group) {
    match groups.iter_mut().find(|own| own.name == group.name) {
        Some(own) => own.merge(group),
        None => groups.push(group.clone()),
    }
}

/// Merges streams by name, stages also by number and load.
fn merge_stream(streams: &mut Vec<StreamGroup>, stream: &StreamGroup) {
    let same =
        |own: &&mut StreamGroup| own.group.name == stream.group.name && own.stage == stream.stage;
    match streams.iter_mut().find(same) {
        None => streams.push(stream.clone()),
        Some(own) => {
            own.group.merge(&stream.group);
            own.lag.merge(&stream.lag);
            own.wait.merge(&stream.wait);
        }
    }
}

/// Findings by run, those of invalid runs first.
fn verdict(merged: &Merged, verdicts: &[Verdict], sum: &Summary) -> Verdict {
    let mut verdict = verdicts[0].clone();
    verdict.valid = verdicts.iter().all(|own| own.valid);
    verdict.findings.clear();
    for (run, own) in merged.runs.iter().zip(verdicts) {
        let (label, share) = (&run.label, crate::objectives::percent(merged.share(run)));
        verdict.findings.extend(own.findings.iter().map(|finding| {
            let mut finding = finding.clone();
            finding.evidence = format!("{label} ({share} of the requests): {}", finding.evidence);
            finding
        }));
        verdict.headroom.worker_busy = verdict.headroom.worker_busy.max(own.headroom.worker_busy);
        let fuller =
            |a: Option<Usage>, b: Option<Usage>| a.into_iter().chain(b).reduce(Usage::fuller);
        verdict.headroom.ports = fuller(verdict.headroom.ports, own.headroom.ports);
        verdict.headroom.descriptors =
            fuller(verdict.headroom.descriptors, own.headroom.descriptors);
    }
    // Stable: equal findings keep the order of the runs, and different ones that of the first run with them.
    let order: Vec<FindingId> = verdict.findings.iter().map(|finding| finding.id).collect();
    let place = |finding: &Finding| order.iter().position(|id| *id == finding.id);
    verdict.findings.sort_by_key(|finding| (Reverse(finding.severity), place(finding)));
    let invalid = verdict.findings.iter().find(|found| found.severity == Severity::Invalid);
    verdict.limited_by = invalid.map(|finding| finding.side).or_else(|| most_limiting(merged));
    verdict.sides = sum
        .all
        .stats
        .errors
        .iter()
        .filter_map(|(class, _)| {
            let mut by_side: BTreeMap<Side, u64> = BTreeMap::new();
            for (run, own) in merged.runs.iter().zip(verdicts) {
                *by_side.entry(own.side_of(class)).or_default() += run.scheduled - run.ok;
            }
            by_side.into_iter().max_by_key(|(_, n)| *n).map(|(side, _)| (class, side))
        })
        .collect();
    verdict
}

/// The side that limited the runs with most requests, among those that a side limited.
fn most_limiting(merged: &Merged) -> Option<Side> {
    let mut by_side: BTreeMap<Side, u64> = BTreeMap::new();
    for run in &merged.runs {
        if let Some(side) = run.limited_by {
            *by_side.entry(side).or_default() += run.scheduled;
        }
    }
    by_side.into_iter().max_by_key(|(_, n)| *n).map(|(side, _)| side)
}

#[cfg(test)]
mod tests;
