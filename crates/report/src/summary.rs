//! All figures of a run, or of a part of it: the result of a [`Fold`](crate::Fold).

use crate::activity::{Activities, Activity, Rates};
use crate::cost::{Basis, Cost};
use crate::fleet::AgentRow;
use crate::fold::{Folded, Steady, Sums};
use crate::logs::Logs;
use crate::merge::Merged;
use crate::narrow::{Narrow, Problem, Scope};
use crate::objectives::{Judged, Unjudged, judge_part};
use crate::records::Details;
use crate::scrapes::Scrapes;
use crate::seconds::{ErrorTimes, Seconds};
use crate::series::TimeSeries;
use crate::timeline::Timeline;
use crate::verdict::{Case, Rules, Verdict};
use plimsoll_measure::{
    ErrorClass, FindingId, Histogram, Nanos, Requests, RpcCounts, RunFacts, Severity, Snapshot,
    SplitCounts, Stats, StatusCounts, StreamCounts,
};
use plimsoll_plan::{Load, Plan};
use std::collections::BTreeMap;

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
    /// When its streams were active.
    pub activity: Activity,
}

impl Group {
    pub(crate) fn of(name: impl Into<String>, stats: Stats, activity: Activity) -> Group {
        let (latency, service_time) = (stats.latency(), stats.service_time());
        Group { name: name.into(), stats, latency, service_time, activity }
    }

    /// Adds the figures of another run.
    pub(crate) fn merge(&mut self, other: &Group) {
        self.stats.merge(&other.stats);
        self.latency.merge(&other.latency);
        self.service_time.merge(&other.service_time);
        self.activity.merge(&other.activity);
    }

    /// The rates while its streams were active.
    pub fn rates(&self) -> Rates {
        self.activity.rates(&self.stats.requests)
    }
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
    fn of(
        name: &str,
        stage: Option<StageOf>,
        sums: (Stats, &StreamCounts),
        activity: Activity,
    ) -> StreamGroup {
        let (stats, counts) = sums;
        let (lag, wait) = (counts.lag.clone(), counts.wait.clone());
        StreamGroup { group: Group::of(name, stats, activity), stage, lag, wait }
    }
}

/// All figures of a run.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The plan's name.
    pub name: String,
    /// The plan's load in words: `5000/s for 33m`.
    pub load: String,
    /// How long the plan sends, excluding the warm-up; `None`: until all requests are made.
    pub planned: Option<Nanos>,
    /// Whether the plan was made from flags, so that advice names flags.
    pub from_flags: bool,
    /// Whether a stream has a rate; otherwise all have users.
    pub has_rate: bool,
    /// The seed of all random choices.
    pub seed: u64,
    /// Facts about the run other than its counts.
    pub facts: RunFacts,
    /// The sum of all seconds. Of a part of a run, it has no counts that would include other requests:
    /// [`Summary::whole`], [`Summary::lag`] and the like say which are known.
    pub total: Snapshot,
    /// What the report is narrowed to; the whole run by default.
    pub narrow: Narrow,
    /// Arrivals of the run, in the part or not.
    pub scheduled: u64,
    /// What the records of single requests add, if the report is narrowed and they were given.
    pub details: Option<Details>,
    /// Why the records of single requests could not be used, though there are some: `only 3 of 4 requests in
    /// the selection have a record`.
    pub records_unused: Option<String>,
    /// The runs, if this is a report on several.
    pub merged: Option<Merged>,
    /// The agents, if the run had several.
    pub agents: Vec<AgentRow>,
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
    /// Whether the plan says what relays cost.
    pub has_prices: bool,
    /// Whether the plan counts answers by header value.
    pub has_splits: bool,
    /// Answers by header value, for each header that the plan names.
    pub splits: Vec<Split>,
    /// When arrivals of each class failed.
    pub errors: Vec<(ErrorClass, Seconds)>,
    /// Objectives, in the plan's order.
    pub objectives: Vec<Judged>,
    /// Objectives that cannot be judged on this part of the run.
    pub unjudged: Vec<Unjudged>,
    /// Whether the figures are valid, and what limited the run.
    pub verdict: Verdict,
    /// What other processes reported.
    pub scrapes: Scrapes,
    /// The logs that were followed.
    pub logs: Logs,
    /// What relays cost, if the plan has prices and these are all requests of some time.
    pub cost: Option<Cost>,
    /// The host during the run.
    pub timeline: Timeline,
    /// The figures over time, if the fold kept them.
    pub series: Option<TimeSeries>,
    pub(crate) activities: Activities,
}

impl Summary {
    pub(crate) fn of(plan: &Plan, facts: RunFacts, folded: Folded) -> Summary {
        let Folded { narrow, sums, of_streams, activities, scheduled, details, .. } = folded;
        let (details, records_unused) = match details {
            Ok(details) => (details, None),
            // Wrong or incomplete figures would look like right ones.
            Err(why) => (None, Some(why)),
        };
        let start = facts.started_at.unix_ns;
        let streams: Vec<usize> =
            (0..plan.streams.len()).filter(|stream| narrow.holds_stream(*stream)).collect();
        let judged_sums = of_streams.as_ref().unwrap_or(&sums);
        let verdict = verdict(plan, &facts, folded.rules, judged_sums, activities.over(&streams));
        let Sums { total, errors } = sums;
        let all = Group::of("all", total.total(), activities.over(&streams));
        let tags = by_tag(plan, &total, &narrow, &activities);
        let whole = narrow.scope() == Scope::Run;
        let steady = folded.steady.filter(|_| whole);
        let cost = steady.and_then(|steady| cost(plan, &facts, steady, (&total, &all, &tags)));
        let targets = plan.targets.iter().enumerate().zip(&total.stats);
        let targets = targets.filter(|((place, _), _)| narrow.holds_target(*place));
        let stages = folded.stages.into_iter().filter(|stage| stage.counts.active.is_some());
        let (objectives, unjudged) = judge_part(plan, &narrow, &total, &activities);
        Summary {
            name: plan.name.clone(),
            load: plan.load_in_words(),
            planned: plan.planned_end().map(|end| end - plan.warmup),
            from_flags: plan.from_flags,
            has_rate: plan.streams.iter().any(|own| matches!(own.load, Load::Open { .. })),
            has_splits: plan.streams.iter().any(|own| own.split_by.is_some()),
            has_prices: plan.cost.is_some(),
            seed: plan.seed,
            scrapes: Scrapes::new(&plan.scrapes, &total.scrapes),
            logs: folded.logs,
            cost,
            tags,
            targets: targets
                .map(|((_, target), stats)| {
                    let activity = activities.over(&[target.stream]);
                    (Group::of(&target.name, stats.clone(), activity), target.tags.clone())
                })
                .collect(),
            streams: streams
                .iter()
                .map(|stream| by_stream(plan, &total, *stream, &activities))
                .collect(),
            stages: stages
                .map(|sum| {
                    let stream = &plan.streams[sum.stream];
                    let load = stream.stage_in_words(&stream.stages[sum.stage]);
                    let stage = StageOf { number: sum.stage + 1, load };
                    let activity = Activity::of(&sum.counts, start, !narrow.is_whole());
                    StreamGroup::of(&stream.name, Some(stage), (sum.stats, &sum.counts), activity)
                })
                .collect(),
            splits: splits(plan, &total, &narrow, &streams),
            errors: error_seconds(&errors, &all.stats),
            objectives,
            unjudged,
            verdict,
            timeline: folded.timeline,
            series: folded.series,
            details,
            records_unused,
            merged: None,
            agents: Vec::new(),
            scheduled,
            narrow,
            facts,
            total,
            all,
            activities,
        }
    }

    /// The counts of the whole process; `None` if the report is narrowed to some of its requests.
    pub fn whole(&self) -> Option<&Snapshot> {
        (self.narrow.scope() == Scope::Run).then_some(&self.total)
    }

    /// Lag of these requests; `None` if it is not known.
    pub fn lag(&self) -> Option<Histogram> {
        self.by_stream(Snapshot::lag, |details| &details.lag)
    }

    /// Wait of these requests; `None` if it is not known.
    pub fn wait(&self) -> Option<Histogram> {
        self.by_stream(Snapshot::wait, |details| &details.wait)
    }

    fn by_stream(
        &self,
        known: fn(&Snapshot) -> Histogram,
        recorded: fn(&Details) -> &Histogram,
    ) -> Option<Histogram> {
        match self.narrow.scope() {
            Scope::Run | Scope::Streams => Some(known(&self.total)),
            Scope::Targets => self.details.as_ref().map(|details| recorded(details).clone()),
        }
    }

    /// Complete answers of these requests by HTTP status; `None` if they are not known.
    pub fn status(&self) -> Option<&StatusCounts> {
        let recorded = || self.details.as_ref().map(|details| &details.status);
        self.whole().map(|whole| &whole.status).or_else(recorded)
    }

    /// JSON-RPC answers of these requests; `None` if they are not known. In a report on some of the
    /// requests, those with an error, each counted once by its first code, without a number of items.
    pub fn rpc(&self) -> Option<&RpcCounts> {
        let recorded = || self.details.as_ref().map(|details| &details.rpc);
        self.whole().map(|whole| &whole.rpc).or_else(recorded)
    }

    /// The figures that the report leaves out because they are not known for these requests alone: their
    /// names in JSON and in words.
    pub fn left_out(&self) -> Vec<(&'static str, &'static str)> {
        const BY_STREAM: [(&str, &str); 2] = [("lag", "lag"), ("wait", "wait")];
        const SPLIT: [(&str, &str); 1] = [("split", "answers by header value")];
        const ANSWERS: [(&str, &str); 2] = [("status", "HTTP statuses"), ("rpc", "JSON-RPC codes")];
        const SCRAPES: [(&str, &str); 1] = [("scrapes", "other processes")];
        const LOGS: [(&str, &str); 1] = [("logs", "logs")];
        const COST: [(&str, &str); 1] = [("cost", "cost")];
        const BY_PROCESS: [(&str, &str); 6] = [
            ("faults", "faults"),
            ("connections", "connections"),
            ("read_lag", "read lag"),
            ("warmup.requests", "the warm-up"),
            ("generator", "the generator's CPU and memory"),
            ("host", "the host"),
        ];
        let scope = self.narrow.scope();
        let mut names = Vec::new();
        let mut add = |left_out: bool, figures: &[(&'static str, &'static str)]| {
            names.extend(figures.iter().filter(|_| left_out));
        };
        add(self.lag().is_none(), &BY_STREAM);
        add(scope == Scope::Targets && self.has_splits, &SPLIT);
        add(self.status().is_none(), &ANSWERS);
        add(scope != Scope::Run, &BY_PROCESS);
        add(scope != Scope::Run && !self.scrapes.processes.is_empty(), &SCRAPES);
        add(scope != Scope::Run && !self.logs.logs.is_empty(), &LOGS);
        add(scope != Scope::Run && self.has_prices, &COST);
        names
    }

    /// Why a narrowed report has no figures; `None` if it has some. Filters can select seconds in which no
    /// request ended.
    pub fn nothing_selected(&self) -> Option<Problem> {
        let nothing = !self.narrow.is_whole() && self.all.stats.requests.scheduled == 0;
        nothing.then(|| Problem {
            message: format!(
                "no request of the run is in the selection: {}",
                self.narrow.words().join(", ")
            ),
            hint: "none of its requests ended in these seconds; select others, or remove a filter"
                .into(),
        })
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

    /// The share of arrivals that were answered as expected. During a run, what is open counts as such.
    pub(crate) fn success(&self) -> Option<f64> {
        let Requests { scheduled, ok, .. } = self.all.stats.requests;
        let open = self.all.stats.messages.as_ref().map_or(0, |messages| messages.open());
        (scheduled + open > 0).then(|| (ok + open) as f64 / (scheduled + open) as f64)
    }

    /// CPU time of this process per request sent, including the warm-up; `None` if nothing was sent, or if
    /// the report is narrowed to some of the requests.
    pub fn cpu_per_request(&self) -> Option<CpuPerRequest> {
        self.whole()?;
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

/// The verdict on all targets of the selected streams.
fn verdict(
    plan: &Plan,
    facts: &RunFacts,
    rules: Rules,
    sums: &Sums,
    activity: Activity,
) -> Verdict {
    let Sums { total, errors } = sums;
    let all = Group::of("all", total.total(), activity);
    let mut verdict = rules.verdict(&Case { plan, facts, total, all: &all, errors });
    if was_stopped_in_warmup(facts, &all) {
        adjust_for_stop_in_warmup(&mut verdict, facts);
    }
    verdict
}

/// What relays cost; `None` if the plan has no prices.
fn cost(
    plan: &Plan,
    facts: &RunFacts,
    steady: Steady,
    (total, all, tags): (&Snapshot, &Group, &BTreeMap<String, Vec<Group>>),
) -> Option<Cost> {
    let rules = plan.cost.as_ref()?;
    let none = Vec::new();
    Some(Cost::of(&Basis {
        rules,
        scrapes: &plan.scrapes,
        scraped: &total.scrapes,
        before: &steady.before,
        seconds: steady.seconds,
        started_at: facts.started_at,
        all,
        chains: tags.get(&rules.by).unwrap_or(&none),
    }))
}

fn by_stream(plan: &Plan, total: &Snapshot, stream: usize, activities: &Activities) -> StreamGroup {
    let mut stats = Stats::default();
    let own = &plan.streams[stream];
    total.stats[own.targets.clone()].iter().for_each(|target| stats.merge(target));
    let sums = (stats, &total.streams[stream]);
    StreamGroup::of(&own.name, None, sums, activities.over(&[stream]))
}

fn splits(plan: &Plan, total: &Snapshot, narrow: &Narrow, streams: &[usize]) -> Vec<Split> {
    let mut splits: Vec<Split> = Vec::new();
    for &stream in streams.iter().filter(|stream| narrow.holds_whole_stream(**stream)) {
        let Some(header) = &plan.streams[stream].split_by else { continue };
        let (name, counts) = (&plan.streams[stream].name, &total.streams[stream].split);
        let (streams, counts) = (vec![name.clone()], counts.clone());
        merge_split(&mut splits, &Split { header: header.clone(), streams, counts });
    }
    splits
}

/// Adds answers by a header's values to those by the same header.
pub(crate) fn merge_split(splits: &mut Vec<Split>, split: &Split) {
    match splits.iter_mut().find(|own| own.header == split.header) {
        Some(own) => {
            let new = split.streams.iter().filter(|name| !own.streams.contains(name));
            let new: Vec<String> = new.cloned().collect();
            own.streams.extend(new);
            own.counts.merge(&split.counts);
        }
        None => splits.push(split.clone()),
    }
}

fn by_tag(
    plan: &Plan,
    total: &Snapshot,
    narrow: &Narrow,
    activities: &Activities,
) -> BTreeMap<String, Vec<Group>> {
    type Sum = (Stats, Vec<usize>);
    let mut sums: BTreeMap<&str, BTreeMap<&str, Sum>> = BTreeMap::new();
    for (place, (target, stats)) in plan.targets.iter().zip(&total.stats).enumerate() {
        if !narrow.holds_target(place) {
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
        values.map(|(value, (stats, of))| Group::of(value, stats, activities.over(&of))).collect()
    };
    sums.into_iter().map(|(tag, values)| (tag.to_string(), groups(values))).collect()
}

fn error_seconds(errors: &ErrorTimes, stats: &Stats) -> Vec<(ErrorClass, Seconds)> {
    stats.errors.iter().filter_map(|(class, _)| Some((class, errors.get(class)?))).collect()
}
