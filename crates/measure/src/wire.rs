//! `snapshots.jsonl`: a header, one line per second, and a line for the end. Summing the seconds gives
//! exactly the summary. A run that was killed has no line for its end. Each line ends with a checksum, and the
//! end has the number of seconds, so that a changed file is not mistaken for a report.
//!
//! The serialized types are separate from the core types, so that these can change without changing
//! the file format. Histograms are in HdrHistogram's V2 compressed encoding, base64-encoded; empty
//! histograms and zero counts are omitted.

mod edges;
mod host;
mod load;
mod logs;
mod messages;
mod read;
mod scrapes;
mod seal;
#[cfg(test)]
mod tests;

use crate::names::{ErrorClass, Listed, Tally};
use crate::snapshot::{Connections, Requests, RpcCounts, Snapshot, Stats, WorkerTime};
use crate::{Histogram, Nanos, Note};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
pub use edges::{Header, end_line};
use host::HostLine;
use load::{OriginLine, StreamLine};
use logs::LogLine;
use messages::MessagesLine;
pub use read::{ReadError, Reader, Reading, read, second_of};
use scrapes::ScrapeLine;
use seal::seal;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The version of `snapshots.jsonl`.
pub const SCHEMA: &str = "plimsoll/snapshots/2";

/// A snapshot as a line of JSON with a checksum, without the line feed.
pub fn to_line(snapshot: &Snapshot, header: &Header) -> String {
    seal(serde_json::to_string(&Line::from(snapshot, header)).expect("numbers and text are JSON"))
}

/// The most notes about one file.
pub const NOTES_MAX: usize = 64;

/// Notes about what a newer version wrote.
#[derive(Default)]
struct Ignored {
    notes: BTreeSet<String>,
}

impl Ignored {
    fn field(&mut self, within: &str, name: &str) {
        let dot = if within.is_empty() { "" } else { "." };
        self.note(format!("unknown field \"{within}{dot}{name}\""));
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.insert(note + " of a newer version ignored");
        }
    }
}

/// Why a line cannot be read.
#[derive(Debug)]
enum Unreadable {
    /// It is not what any version writes.
    Damaged(String),
    /// It has what only a newer version writes.
    Newer(String),
}

impl From<String> for Unreadable {
    fn from(why: String) -> Unreadable {
        Unreadable::Damaged(why)
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[derive(Serialize, Deserialize)]
struct Line {
    t_ns: u64,
    streams: BTreeMap<String, StreamLine>,
    stats: BTreeMap<String, StatsLine>,
    origins: BTreeMap<String, OriginLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    read_lag: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<u16, u64>,
    #[serde(default, skip_serializing_if = "RpcLine::is_empty")]
    rpc: RpcLine,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    faults: BTreeMap<String, u64>,
    connections: ConnectionsLine,
    in_flight: u64,
    #[serde(default, skip_serializing_if = "RequestsLine::is_empty")]
    warmup: RequestsLine,
    host: HostLine,
    #[serde(default)]
    workers: WorkersLine,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    scrapes: BTreeMap<String, ScrapeLine>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    logs: BTreeMap<String, LogLine>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    notes: Vec<NoteLine>,
    #[serde(default, skip_serializing_if = "is_zero")]
    samples_dropped: u64,
    #[serde(flatten, skip_serializing)]
    newer: BTreeMap<String, IgnoredAny>,
}

#[derive(Default, Serialize, Deserialize)]
struct StatsLine {
    ok: SideLine,
    failed: SideLine,
    #[serde(default, skip_serializing_if = "is_zero")]
    unsent: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    errors: BTreeMap<String, u64>,
    bytes: BytesLine,
    /// Of exchanges that stay open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    messages: Option<MessagesLine>,
}

#[derive(Default, Serialize, Deserialize)]
struct SideLine {
    n: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    latency: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service_time: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct BytesLine {
    #[serde(rename = "in")]
    incoming: u64,
    out: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct RpcLine {
    items: u64,
    errors: u64,
    codes: BTreeMap<i64, u64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    codes_other: u64,
}

impl RpcLine {
    fn is_empty(&self) -> bool {
        self.items == 0 && self.errors == 0
    }
}

#[derive(Default, Serialize, Deserialize)]
struct ConnectionsLine {
    opened: u64,
    open: u64,
    peak: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    reasons: BTreeMap<String, u64>,
}

#[derive(Default, Serialize, Deserialize)]
struct RequestsLine {
    scheduled: u64,
    sent: u64,
    unsent: u64,
    ok: u64,
    failed: u64,
}

impl RequestsLine {
    fn is_empty(&self) -> bool {
        self.scheduled == 0
    }
}

#[derive(Serialize, Deserialize)]
struct NoteLine {
    class: String,
    target: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    text: String,
}

#[derive(Default, Serialize, Deserialize)]
struct WorkersLine {
    spin_ns: u64,
    busy_max_ns: u64,
    pause_max_ns: u64,
}

/// Zips names with lines, which must be in the same order.
fn named<T>(names: &[String], lines: impl ExactSizeIterator<Item = T>) -> BTreeMap<String, T> {
    assert_eq!(names.len(), lines.len(), "a name for each line");
    names.iter().cloned().zip(lines).collect()
}

fn index_of(name: &str, names: &[String]) -> Result<usize, String> {
    let index = names.iter().position(|known| known == name);
    index.ok_or_else(|| format!("\"{name}\" is missing from the header"))
}

fn encode(histogram: &Histogram) -> Option<String> {
    (histogram.count() > 0).then(|| histogram.encode_base64())
}

fn decode(text: Option<String>) -> Result<Histogram, String> {
    let Some(text) = text else { return Ok(Histogram::new()) };
    let bytes = BASE64.decode(text).map_err(|e| format!("invalid base64 in a histogram: {e}"))?;
    Histogram::decode(&bytes).map_err(|e| format!("invalid histogram: {e}"))
}

fn tally_to_map<C: Listed>(tally: &Tally<C>) -> BTreeMap<String, u64> {
    tally.iter().map(|(member, n)| (member.name().to_string(), n)).collect()
}

/// Errors by class, whose sum other figures depend on: each class must be known.
fn errors_from_map(map: BTreeMap<String, u64>) -> Result<Tally<ErrorClass>, Unreadable> {
    let mut tally = Tally::new();
    for (name, n) in map {
        let class = ErrorClass::from_name(&name);
        let unknown = || Unreadable::Newer(format!("unknown error class \"{name}\""));
        tally.add(class.ok_or_else(unknown)?, n);
    }
    Ok(tally)
}

/// Counts that stand for themselves: unknown names are noted.
fn tally_known<C: Listed>(
    map: BTreeMap<String, u64>,
    within: &str,
    ignored: &mut Ignored,
) -> Tally<C> {
    let mut tally = Tally::new();
    for (name, n) in map {
        match C::from_name(&name) {
            Some(member) => tally.add(member, n),
            None => ignored.note(format!("unknown name \"{name}\" in \"{within}\"")),
        }
    }
    tally
}

impl Line {
    fn from(snapshot: &Snapshot, header: &Header) -> Line {
        let names = &header.names;
        assert_eq!(snapshot.stats.len(), names.len(), "a name for each of the stats");
        assert!(snapshot.scrapes.len() <= header.scrapes.len(), "a name for each scrape");
        assert!(snapshot.logs.len() <= header.logs.len(), "a name for each log");
        let seen = |stats: &Stats| {
            let has_messages = stats.messages.as_ref().is_some_and(|own| !own.is_empty());
            stats.requests.scheduled > 0 || stats.bytes_out > 0 || has_messages
        };
        Line {
            t_ns: snapshot.t.0,
            streams: named(&header.streams, snapshot.streams.iter().map(StreamLine::from)),
            stats: names
                .iter()
                .zip(&snapshot.stats)
                .filter(|(_, stats)| seen(stats))
                .map(|(name, stats)| (name.clone(), StatsLine::from(stats)))
                .collect(),
            origins: named(&header.origins, snapshot.origins.iter().map(OriginLine::from)),
            read_lag: encode(&snapshot.read_lag),
            status: snapshot.status.iter().collect(),
            rpc: RpcLine {
                items: snapshot.rpc.items,
                errors: snapshot.rpc.errors,
                codes: snapshot.rpc.codes.iter().copied().collect(),
                codes_other: snapshot.rpc.codes_other,
            },
            faults: tally_to_map(&snapshot.faults),
            connections: ConnectionsLine {
                opened: snapshot.connections.opened,
                open: snapshot.connections.open,
                peak: snapshot.connections.peak,
                reasons: tally_to_map(&snapshot.connections.reasons),
            },
            in_flight: snapshot.in_flight,
            warmup: RequestsLine {
                scheduled: snapshot.warmup.scheduled,
                sent: snapshot.warmup.sent,
                unsent: snapshot.warmup.unsent,
                ok: snapshot.warmup.ok,
                failed: snapshot.warmup.failed,
            },
            host: HostLine::from(&snapshot.host),
            workers: WorkersLine {
                spin_ns: snapshot.workers.spin.0,
                busy_max_ns: snapshot.workers.busy_max.0,
                pause_max_ns: snapshot.workers.pause_max.0,
            },
            scrapes: header
                .scrapes
                .iter()
                .zip(&snapshot.scrapes)
                .filter(|(_, scraped)| scraped.reads > 0 || !scraped.failures.is_empty())
                .map(|(name, scraped)| (name.clone(), ScrapeLine::from(scraped)))
                .collect(),
            logs: header
                .logs
                .iter()
                .zip(&snapshot.logs)
                .filter(|(_, followed)| !followed.is_empty())
                .map(|(name, followed)| (name.clone(), LogLine::from(followed)))
                .collect(),
            notes: snapshot.notes.iter().map(NoteLine::from).collect(),
            samples_dropped: snapshot.samples_dropped,
            newer: BTreeMap::new(),
        }
    }

    fn into_snapshot(self, header: &Header, ignored: &mut Ignored) -> Result<Snapshot, Unreadable> {
        self.newer.keys().for_each(|field| ignored.field("", field));
        let mut snapshot =
            Snapshot::new(header.names.len(), header.streams.len(), header.origins.len());
        snapshot.t = Nanos(self.t_ns);
        for (name, line) in self.streams {
            snapshot.streams[index_of(&name, &header.streams)?] = line.into_counts()?;
        }
        for (name, line) in self.stats {
            snapshot.stats[index_of(&name, &header.names)?] = line.into_stats(ignored)?;
        }
        for (name, line) in self.origins {
            snapshot.origins[index_of(&name, &header.origins)?] = line.into_counts();
        }
        snapshot.read_lag = decode(self.read_lag)?;
        self.status.into_iter().for_each(|(status, n)| snapshot.status.add(status, n));
        snapshot.rpc = RpcCounts {
            items: self.rpc.items,
            errors: self.rpc.errors,
            codes: self.rpc.codes.into_iter().collect(),
            codes_other: self.rpc.codes_other,
        };
        snapshot.faults = tally_known(self.faults, "faults", ignored);
        snapshot.connections = Connections {
            opened: self.connections.opened,
            open: self.connections.open,
            peak: self.connections.peak,
            reasons: tally_known(self.connections.reasons, "connections.reasons", ignored),
        };
        snapshot.in_flight = self.in_flight;
        snapshot.warmup = Requests {
            scheduled: self.warmup.scheduled,
            sent: self.warmup.sent,
            unsent: self.warmup.unsent,
            ok: self.warmup.ok,
            failed: self.warmup.failed,
        };
        snapshot.host = self.host.into_sample(ignored);
        snapshot.workers = WorkerTime {
            spin: Nanos(self.workers.spin_ns),
            busy_max: Nanos(self.workers.busy_max_ns),
            pause_max: Nanos(self.workers.pause_max_ns),
        };
        for (name, line) in self.scrapes {
            snapshot.scraped(index_of(&name, &header.scrapes)?, &line.into_scraped()?);
        }
        for (name, line) in self.logs {
            snapshot.followed(index_of(&name, &header.logs)?, &line.into_followed(ignored));
        }
        snapshot.notes = self.notes.into_iter().filter_map(|own| own.into_note(ignored)).collect();
        snapshot.samples_dropped = self.samples_dropped;
        snapshot.check_identities().map_err(|why| why.to_string())?;
        Ok(snapshot)
    }
}

impl NoteLine {
    fn from(note: &Note) -> NoteLine {
        NoteLine {
            class: note.class.name().into(),
            target: note.target.clone(),
            status: note.status,
            text: note.text.clone(),
        }
    }

    fn into_note(self, ignored: &mut Ignored) -> Option<Note> {
        let NoteLine { class, target, status, text } = self;
        let known = ErrorClass::from_name(&class);
        if known.is_none() {
            ignored.note(format!("unknown name \"{class}\" in \"notes\""));
        }
        known.map(|class| Note { class, target, status, text })
    }
}

impl StatsLine {
    fn from(stats: &Stats) -> StatsLine {
        StatsLine {
            ok: SideLine {
                n: stats.requests.ok,
                latency: encode(&stats.latency_ok),
                service_time: encode(&stats.service_time_ok),
            },
            failed: SideLine {
                n: stats.requests.failed,
                latency: encode(&stats.latency_failed),
                service_time: encode(&stats.service_time_failed),
            },
            unsent: stats.requests.unsent,
            errors: tally_to_map(&stats.errors),
            bytes: BytesLine { incoming: stats.bytes_in, out: stats.bytes_out },
            messages: stats
                .messages
                .as_ref()
                .filter(|own| !own.is_empty())
                .map(|own| MessagesLine::from(own)),
        }
    }

    fn into_stats(self, ignored: &mut Ignored) -> Result<Stats, Unreadable> {
        let (ok, failed, unsent) = (self.ok.n, self.failed.n, self.unsent);
        Ok(Stats {
            requests: Requests {
                scheduled: ok + failed + unsent,
                sent: ok + failed,
                unsent,
                ok,
                failed,
            },
            latency_ok: decode(self.ok.latency)?,
            latency_failed: decode(self.failed.latency)?,
            service_time_ok: decode(self.ok.service_time)?,
            service_time_failed: decode(self.failed.service_time)?,
            errors: errors_from_map(self.errors)?,
            bytes_in: self.bytes.incoming,
            bytes_out: self.bytes.out,
            messages: match self.messages {
                Some(line) => Some(Box::new(line.into_counts(ignored)?)),
                None => None,
            },
        })
    }
}
