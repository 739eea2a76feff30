//! `summary.json`, version `plimsoll/summary/2`. Times are in nanoseconds, rates per second.
//!
//! Version 1 divided all rates by the length of the run; version 2 uses the window of each stream.

mod agents;
mod cost;
mod host;
mod logs;
mod messages;
mod part;
mod scrapes;

use crate::figures::{self, TIME_STATS};
use crate::objectives::Unjudged;
use crate::summary::{Group, Split, StreamGroup, Summary};
use crate::text::is_unsafe;
use agents::AgentFile;
use cost::CostFile;
use host::{HostFile, UsageFile};
use logs::LogFile;
use messages::MessagesFile;
use part::{MergedFile, NarrowedFile};
use plimsoll_measure::{Histogram, Listed, Requests, Snapshot, Tally};
use scrapes::ScrapesFile;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt::Write as _;

#[derive(Serialize)]
struct File<'a> {
    schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    narrowed: Option<NarrowedFile<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    merged: Option<MergedFile<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    agents: Vec<AgentFile<'a>>,
    name: &'a str,
    started_at: String,
    /// Runs that are merged have their own.
    seed: Option<u64>,
    duration_ns: u64,
    drain_ns: u64,
    cut_short: bool,
    /// What stopped the run, if anything did.
    stopped_by: Option<&'a str>,
    requests: Counts,
    rate: Rates,
    latency: Option<Times>,
    latency_ok: Option<Times>,
    service_time: Option<Times>,
    lag: Option<Times>,
    wait: Option<Times>,
    read_lag: Option<Times>,
    errors: BTreeMap<&'static str, u64>,
    /// The first and last second, counted from 0, in which arrivals of the class ended.
    error_seconds: BTreeMap<&'static str, [u64; 2]>,
    faults: Option<BTreeMap<&'static str, u64>>,
    notes: Vec<NoteFile<'a>>,
    status: Option<BTreeMap<u16, u64>>,
    rpc: Option<Rpc>,
    bytes: Bytes,
    /// Of exchanges that stay open, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<MessagesFile>,
    connections: Option<ConnectionsFile>,
    targets: Vec<GroupFile<'a>>,
    tags: BTreeMap<&'a str, BTreeMap<&'a str, GroupFile<'a>>>,
    streams: Vec<StreamFile<'a>>,
    stages: Vec<StreamFile<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    split: Vec<SplitFile<'a>>,
    warmup: Warmup,
    objectives: Vec<ObjectiveFile<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    objectives_not_judged: Vec<UnjudgedFile<'a>>,
    verdict: VerdictFile<'a>,
    generator: Option<Generator>,
    host: Option<HostFile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scrapes: Option<ScrapesFile<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logs: Vec<LogFile<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<CostFile<'a>>,
}

/// Figures by name, in order.
struct Named<T, const N: usize>([(&'static str, T); N]);

type Counts = Named<u64, 5>;
type Rates = Named<Option<f64>, 3>;
type Times = Named<u64, 9>;

impl<T: Serialize, const N: usize> Serialize for Named<T, N> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[derive(Serialize)]
struct NoteFile<'a> {
    class: &'static str,
    target: &'a str,
    status: Option<u16>,
    text: &'a str,
}

#[derive(Serialize)]
struct Rpc {
    /// Not recorded by request.
    items: Option<u64>,
    errors: u64,
    codes: BTreeMap<i64, u64>,
    codes_other: u64,
}

#[derive(Serialize)]
struct Bytes {
    #[serde(rename = "in")]
    incoming: u64,
    out: u64,
}

#[derive(Serialize)]
struct ConnectionsFile {
    opened: u64,
    peak: u64,
    reasons: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http2: Option<Http2File>,
}

#[derive(Serialize)]
struct Http2File {
    streams_peak: u64,
    streams_per_connection: u64,
    /// As announced by the target; `None`: no limit.
    streams_allowed: Option<u64>,
}

#[derive(Serialize)]
struct GroupFile<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a BTreeMap<String, String>>,
    requests: Counts,
    rate: Rates,
    latency: Option<Times>,
    latency_ok: Option<Times>,
    service_time: Option<Times>,
    errors: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<MessagesFile>,
}

/// A stream under its `name`, or a stage under its `stream` and number.
#[derive(Serialize)]
struct StreamFile<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<usize>,
    /// A stage's load in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<&'a str>,
    from_ns: Option<u64>,
    to_ns: Option<u64>,
    lag: Option<Times>,
    wait: Option<Times>,
    #[serde(flatten)]
    group: GroupFile<'a>,
}

/// Answers by the value of a response header.
#[derive(Serialize)]
struct SplitFile<'a> {
    header: &'a str,
    streams: &'a [String],
    answers: u64,
    values: BTreeMap<&'a str, u64>,
    none: u64,
    other: u64,
}

#[derive(Serialize)]
struct Warmup {
    duration_ns: u64,
    requests: Option<Counts>,
}

#[derive(Serialize)]
struct ObjectiveFile<'a> {
    that: &'a str,
    #[serde(rename = "where", skip_serializing_if = "BTreeMap::is_empty")]
    narrowed: &'a BTreeMap<String, String>,
    value: Option<f64>,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<&'a str>,
}

#[derive(Serialize)]
struct UnjudgedFile<'a> {
    that: &'a str,
    #[serde(rename = "where", skip_serializing_if = "BTreeMap::is_empty")]
    narrowed: &'a BTreeMap<String, String>,
    why: &'static str,
}

#[derive(Serialize)]
struct VerdictFile<'a> {
    valid: bool,
    limited_by: &'static str,
    findings: Vec<FindingFile<'a>>,
    headroom: HeadroomFile,
}

/// See [`Headroom`](crate::Headroom).
#[derive(Serialize)]
struct HeadroomFile {
    worker_busy: f64,
    ports: Option<UsageFile>,
    descriptors: Option<UsageFile>,
}

#[derive(Serialize)]
struct FindingFile<'a> {
    id: &'static str,
    severity: &'static str,
    side: &'static str,
    evidence: &'a str,
    fix: &'a str,
    from_ns: u64,
    to_ns: u64,
}

#[derive(Serialize)]
struct Generator {
    workers: usize,
    cpu_ns: u64,
    user_ns: u64,
    /// The part of `cpu_ns` spent spinning until the next arrival was due.
    spin_ns: u64,
    /// Without the time spent spinning.
    cpu_ns_per_request: Option<u64>,
    rss_peak_bytes: u64,
}

fn counts(requests: &Requests) -> Counts {
    Named(figures::counts(requests))
}

fn rates(group: &Group) -> Rates {
    Named(figures::rates(group.rates()))
}

fn times(histogram: &Histogram) -> Option<Times> {
    let mut named = [("count", histogram.count()); TIME_STATS.len() + 1];
    for (own, stat) in named.iter_mut().zip(&TIME_STATS) {
        *own = (stat.name, (stat.of)(histogram)?.0);
    }
    Some(Named(named))
}

fn tally<C: Listed>(tally: &Tally<C>) -> BTreeMap<&'static str, u64> {
    tally.iter().map(|(member, n)| (member.name(), n)).collect()
}

impl Summary {
    /// The content of `summary.json`.
    pub fn to_json(&self) -> String {
        let stats = &self.all.stats;
        let (facts, whole) = (&self.facts, self.whole());
        let file = File {
            schema: "plimsoll/summary/2",
            narrowed: (!self.narrow.is_whole()).then(|| NarrowedFile::of(self)),
            merged: self.merged.as_ref().map(MergedFile::of),
            agents: self.agents.iter().map(AgentFile::of).collect(),
            name: &self.name,
            started_at: facts.started_at.rfc3339(),
            seed: self.merged.is_none().then_some(self.seed),
            duration_ns: facts.duration.0,
            drain_ns: facts.drain.0,
            cut_short: facts.cut_short,
            stopped_by: facts.stopped_by.as_deref(),
            requests: counts(&stats.requests),
            rate: rates(&self.all),
            latency: times(&self.all.latency),
            latency_ok: times(&stats.latency_ok),
            service_time: times(&self.all.service_time),
            lag: self.lag().and_then(|lag| times(&lag)),
            wait: self.wait().and_then(|wait| times(&wait)),
            read_lag: whole.and_then(|whole| times(&whole.read_lag)),
            errors: tally(&stats.errors),
            error_seconds: self
                .errors
                .iter()
                .map(|(class, seconds)| (class.name(), seconds.numbers()))
                .collect(),
            faults: whole.map(|whole| tally(&whole.faults)),
            notes: self
                .notes()
                .map(|n| NoteFile {
                    class: n.class.name(),
                    target: &n.target,
                    status: n.status,
                    text: &n.text,
                })
                .collect(),
            status: self.status().map(|status| status.iter().collect()),
            rpc: self.rpc().map(|rpc| Rpc {
                items: whole.map(|_| rpc.items),
                errors: rpc.errors,
                codes: rpc.codes.iter().copied().collect(),
                codes_other: rpc.codes_other,
            }),
            bytes: Bytes { incoming: stats.bytes_in, out: stats.bytes_out },
            messages: MessagesFile::of(&self.all),
            connections: whole.map(|whole| ConnectionsFile {
                opened: whole.connections.opened,
                peak: whole.connections.peak,
                reasons: tally(&whole.connections.reasons),
                http2: whole.http2().map(|(streams_peak, limits)| Http2File {
                    streams_peak,
                    streams_per_connection: limits.streams,
                    streams_allowed: limits.peer,
                }),
            }),
            targets: self
                .targets
                .iter()
                .map(|(g, tags)| GroupFile {
                    name: Some(&g.name),
                    tags: Some(tags),
                    ..group_file(g)
                })
                .collect(),
            tags: self.tags.iter().map(|(tag, g)| (tag.as_str(), by_value(g))).collect(),
            streams: self.streams.iter().map(stream_file).collect(),
            stages: self.stages.iter().map(stream_file).collect(),
            split: self.splits.iter().map(split_file).collect(),
            warmup: Warmup {
                duration_ns: facts.warmup.0,
                requests: whole.map(|whole| counts(&whole.warmup)),
            },
            objectives: self.objectives_file(),
            objectives_not_judged: self.unjudged.iter().map(unjudged_file).collect(),
            verdict: self.verdict_file(),
            generator: whole.map(|whole| self.generator_file(whole)),
            host: whole.filter(|_| self.merged.is_none()).map(|_| HostFile::of(&self.timeline)),
            scrapes: whole.and_then(|_| ScrapesFile::of(&self.scrapes)),
            logs: whole.map(|_| LogFile::all(&self.logs)).unwrap_or_default(),
            cost: self.cost.as_ref().map(CostFile::of),
        };
        printable(&serde_json::to_string_pretty(&file).expect("numbers and text are JSON"))
    }

    fn generator_file(&self, whole: &Snapshot) -> Generator {
        Generator {
            workers: self.facts.workers,
            cpu_ns: whole.host.cpu.0,
            user_ns: whole.host.user.0,
            spin_ns: whole.workers.spin.0,
            cpu_ns_per_request: self.cpu_per_request().map(|cpu| cpu.work.0),
            rss_peak_bytes: whole.host.rss_peak_bytes,
        }
    }

    fn objectives_file(&self) -> Vec<ObjectiveFile<'_>> {
        let objectives = self.objectives.iter().map(|judged| ObjectiveFile {
            that: &judged.objective.that,
            narrowed: &judged.objective.narrowed,
            value: judged.value,
            ok: judged.ok,
            run: judged.run.as_deref(),
        });
        objectives.collect()
    }

    fn verdict_file(&self) -> VerdictFile<'_> {
        let findings = self.verdict.findings.iter().map(|finding| FindingFile {
            id: finding.id.name(),
            severity: finding.severity.name(),
            side: finding.side.name(),
            evidence: &finding.evidence,
            fix: &finding.fix,
            from_ns: finding.from.0,
            to_ns: finding.to.0,
        });
        VerdictFile {
            valid: self.verdict.valid,
            limited_by: self.verdict.limited_by.map_or("none", |side| side.name()),
            findings: findings.collect(),
            headroom: HeadroomFile {
                worker_busy: self.verdict.headroom.worker_busy,
                ports: self.verdict.headroom.ports.map(UsageFile::of),
                descriptors: self.verdict.headroom.descriptors.map(UsageFile::of),
            },
        }
    }
}

fn unjudged_file(Unjudged { objective, why }: &Unjudged) -> UnjudgedFile<'_> {
    UnjudgedFile { that: &objective.that, narrowed: &objective.narrowed, why }
}

fn by_value(groups: &[Group]) -> BTreeMap<&str, GroupFile<'_>> {
    groups.iter().map(|group| (group.name.as_str(), group_file(group))).collect()
}

fn group_file(group: &Group) -> GroupFile<'_> {
    GroupFile {
        name: None,
        tags: None,
        requests: counts(&group.stats.requests),
        rate: rates(group),
        latency: times(&group.latency),
        latency_ok: times(&group.stats.latency_ok),
        service_time: times(&group.service_time),
        errors: tally(&group.stats.errors),
        messages: MessagesFile::of(group),
    }
}

fn split_file(split: &Split) -> SplitFile<'_> {
    let counts = &split.counts;
    SplitFile {
        header: &split.header,
        streams: &split.streams,
        answers: counts.total(),
        values: counts.values.iter().map(|(value, n)| (value.as_str(), *n)).collect(),
        none: counts.none,
        other: counts.other,
    }
}

/// JSON that a terminal can show: what reorders text or controls a terminal is escaped, as JSON allows within
/// strings. There is nothing like it outside of them but line feeds.
fn printable(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && is_unsafe(c) {
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text
}

fn stream_file(stream: &StreamGroup) -> StreamFile<'_> {
    let group = &stream.group;
    let stage = stream.stage.as_ref();
    let (name, of) = match stage {
        None => (Some(group.name.as_str()), None),
        Some(_) => (None, Some(group.name.as_str())),
    };
    StreamFile {
        name,
        stream: of,
        stage: stage.map(|stage| stage.number),
        load: stage.map(|stage| stage.load.as_str()),
        from_ns: group.activity.window().map(|window| window.from.0),
        to_ns: group.activity.window().map(|window| window.to.0),
        lag: times(&stream.lag),
        wait: times(&stream.wait),
        group: group_file(group),
    }
}
