//! `snapshots.jsonl`: a header, then one line per second. Summing all lines gives exactly the
//! summary.
//!
//! The serialized types are separate from the core types, so that these can change without changing
//! the file format. Histograms are in HdrHistogram's V2 compressed encoding, base64-encoded; empty
//! histograms and zero counts are omitted.

mod load;
mod scrapes;

use crate::names::{Listed, Tally};
use crate::snapshot::{Connections, HostSample, Requests, RpcCounts, Snapshot, Stats, WorkerTime};
use crate::{Histogram, Nanos};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use load::{OriginLine, StreamLine};
use scrapes::ScrapeLine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of `snapshots.jsonl`.
pub const SCHEMA: &str = "plimsoll/snapshots/2";

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`SCHEMA`].
    pub schema: String,
    /// The plan's name.
    pub plan: String,
    /// FNV-1a of the resolved plan, 16 hexadecimal digits.
    pub plan_digest: String,
    /// When the run started, in RFC 3339.
    pub started_at: String,
    /// Statistics names, in snapshot order.
    pub names: Vec<String>,
    /// Streams, in snapshot order.
    pub streams: Vec<String>,
    /// Origins, in snapshot order.
    pub origins: Vec<String>,
    /// Scraped processes, in snapshot order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scrapes: Vec<String>,
}

impl Header {
    /// As a line of JSON, without the line feed.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("text and lists are JSON")
    }
}

/// A line that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("snapshots line {line}: {why}")]
pub struct ReadError {
    line: usize,
    why: String,
}

/// A snapshot as a line of JSON, without the line feed.
pub fn to_line(snapshot: &Snapshot, header: &Header) -> String {
    serde_json::to_string(&Line::from(snapshot, header)).expect("numbers and text are JSON")
}

/// Reads a whole `snapshots.jsonl`; a truncated last line, left by a kill, is ignored.
///
/// # Errors
/// The first invalid line, with its number and the reason.
pub fn read(text: &str) -> Result<(Header, Vec<Snapshot>), ReadError> {
    let error = |line: usize, why: String| ReadError { line: line + 1, why };
    let mut lines = text.split_inclusive('\n').enumerate();
    let (_, first) = lines.next().ok_or_else(|| error(0, "the file is empty".into()))?;
    let header: Header = serde_json::from_str(first).map_err(|e| error(0, e.to_string()))?;
    if header.schema != SCHEMA {
        return Err(error(0, format!("schema is \"{}\", expected \"{SCHEMA}\"", header.schema)));
    }
    let mut snapshots = Vec::new();
    for (number, line) in lines {
        if !line.ends_with('\n') {
            break;
        }
        let parsed: Line = serde_json::from_str(line).map_err(|e| error(number, e.to_string()))?;
        snapshots.push(parsed.into_snapshot(&header).map_err(|why| error(number, why))?);
    }
    Ok((header, snapshots))
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

#[derive(Default, Serialize, Deserialize)]
struct WorkersLine {
    spin_ns: u64,
    busy_max_ns: u64,
    pause_max_ns: u64,
}

#[derive(Serialize, Deserialize)]
struct HostLine {
    cpu_ns: u64,
    user_ns: u64,
    rss_peak_bytes: u64,
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
    (histogram.count() > 0).then(|| BASE64.encode(histogram.encode()))
}

fn decode(text: Option<String>) -> Result<Histogram, String> {
    let Some(text) = text else { return Ok(Histogram::new()) };
    let bytes = BASE64.decode(text).map_err(|e| format!("invalid base64 in a histogram: {e}"))?;
    Histogram::decode(&bytes).map_err(|e| format!("invalid histogram: {e}"))
}

fn tally_to_map<C: Listed>(tally: &Tally<C>) -> BTreeMap<String, u64> {
    tally.iter().map(|(member, n)| (member.name().to_string(), n)).collect()
}

fn tally_from_map<C: Listed>(map: BTreeMap<String, u64>) -> Result<Tally<C>, String> {
    let mut tally = Tally::new();
    for (name, n) in map {
        let member = C::from_name(&name).ok_or_else(|| format!("unknown name \"{name}\""))?;
        tally.add(member, n);
    }
    Ok(tally)
}

impl Line {
    fn from(snapshot: &Snapshot, header: &Header) -> Line {
        let names = &header.names;
        assert_eq!(snapshot.stats.len(), names.len(), "a name for each of the stats");
        assert!(snapshot.scrapes.len() <= header.scrapes.len(), "a name for each scrape");
        let seen = |stats: &Stats| stats.requests.scheduled > 0 || stats.bytes_out > 0;
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
            host: HostLine {
                cpu_ns: snapshot.host.cpu.0,
                user_ns: snapshot.host.user.0,
                rss_peak_bytes: snapshot.host.rss_peak_bytes,
            },
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
        }
    }

    fn into_snapshot(self, header: &Header) -> Result<Snapshot, String> {
        let mut snapshot =
            Snapshot::new(header.names.len(), header.streams.len(), header.origins.len());
        snapshot.t = Nanos(self.t_ns);
        for (name, line) in self.streams {
            snapshot.streams[index_of(&name, &header.streams)?] = line.into_counts()?;
        }
        for (name, line) in self.stats {
            snapshot.stats[index_of(&name, &header.names)?] = line.into_stats()?;
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
        snapshot.faults = tally_from_map(self.faults)?;
        snapshot.connections = Connections {
            opened: self.connections.opened,
            open: self.connections.open,
            peak: self.connections.peak,
            reasons: tally_from_map(self.connections.reasons)?,
        };
        snapshot.in_flight = self.in_flight;
        snapshot.warmup = Requests {
            scheduled: self.warmup.scheduled,
            sent: self.warmup.sent,
            unsent: self.warmup.unsent,
            ok: self.warmup.ok,
            failed: self.warmup.failed,
        };
        snapshot.host = HostSample {
            cpu: Nanos(self.host.cpu_ns),
            user: Nanos(self.host.user_ns),
            rss_peak_bytes: self.host.rss_peak_bytes,
        };
        snapshot.workers = WorkerTime {
            spin: Nanos(self.workers.spin_ns),
            busy_max: Nanos(self.workers.busy_max_ns),
            pause_max: Nanos(self.workers.pause_max_ns),
        };
        for (name, line) in self.scrapes {
            snapshot.scraped(index_of(&name, &header.scrapes)?, &line.into_scraped()?);
        }
        Ok(snapshot)
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
        }
    }

    fn into_stats(self) -> Result<Stats, String> {
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
            errors: tally_from_map(self.errors)?,
            bytes_in: self.bytes.incoming,
            bytes_out: self.bytes.out,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{ErrorClass, Fault, OpenReason};
    use crate::{Scraped, SplitValue, WallClock, Window};

    fn sample(seed: u64) -> Snapshot {
        let mut snapshot = Snapshot::new(2, 1, 2);
        snapshot.t = Nanos::from_secs(seed);
        let stats = &mut snapshot.stats[1];
        stats.requests = Requests { scheduled: 3, sent: 2, unsent: 1, ok: 1, failed: 1 };
        stats.latency_ok.record(Nanos(1_000 + seed));
        stats.service_time_ok.record(Nanos(900));
        stats.latency_failed.record(Nanos(2_000_000));
        stats.latency_failed.record(Nanos(30_000_000_000));
        stats.errors.count(ErrorClass::RpcError);
        stats.errors.count(ErrorClass::NoConnection);
        (stats.bytes_in, stats.bytes_out) = (100, 200);
        let stream = &mut snapshot.streams[0];
        (stream.planned_rate, stream.dispatched) = (5000.0, 4);
        (0..4).for_each(|i| stream.lag.record(Nanos(i)));
        (0..3).for_each(|i| stream.wait.record(Nanos(i)));
        let (from, to) = (Nanos(seed), Nanos(10 * seed));
        stream.active = Some(Window { from, planned_to: to, to });
        stream.last_sent = to;
        stream.split.add(Some(&SplitValue::of(b"gw-1")), seed);
        stream.split.add(Some(&SplitValue::of(b"")), 1);
        stream.split.add(None, 2);
        let origin = &mut snapshot.origins[1];
        (origin.limit, origin.open) = (10, seed);
        (origin.in_use, origin.capped, origin.wanted) = (Nanos(7), Nanos(2), 5);
        (origin.occupied, origin.in_use_peak) = (Nanos(9), 3);
        origin.connected.add(Nanos(4));
        origin.service_free.add(Nanos(900));
        origin.starved = 1;
        snapshot.read_lag.record(Nanos(77));
        snapshot.workers =
            WorkerTime { spin: Nanos(1), busy_max: Nanos(2), pause_max: Nanos(seed) };
        snapshot.status.count(200);
        snapshot.rpc.items = 2;
        snapshot.rpc.add_error(-32000, 1);
        snapshot.faults.count(Fault::BadChunk);
        snapshot.connections.opened = 1;
        snapshot.connections.peak = seed;
        snapshot.connections.reasons.count(OpenReason::NoneIdle);
        snapshot.in_flight = seed;
        snapshot.warmup = Requests { scheduled: 1, sent: 1, unsent: 0, ok: 1, failed: 0 };
        snapshot.host = HostSample { cpu: Nanos(5), user: Nanos(2), rss_peak_bytes: 10 * seed };
        let page = |n: u64| {
            let page = format!("a{{x=\"\\\"\"}} {n}\nb 0.1");
            Scraped::page(WallClock { unix_ns: n }, crate::prometheus::parse(&page).unwrap())
        };
        snapshot.scraped(1, &page(seed));
        if seed == 2 {
            // Two in one second, and one that failed.
            snapshot.scraped(1, &page(7));
            snapshot.scraped(1, &Scraped::failure("refused"));
        }
        snapshot
    }

    fn header() -> Header {
        Header {
            schema: SCHEMA.into(),
            plan: "four chains".into(),
            plan_digest: "0".repeat(16),
            started_at: "2026-11-20T20:24:01.250Z".into(),
            names: vec!["a".into(), "b".into()],
            streams: vec!["main".into()],
            origins: vec!["http://a:80".into(), "redirects".into()],
            scrapes: vec!["gw-1".into(), "gw-2".into()],
        }
    }

    #[test]
    fn written_lines_read_back_despite_a_truncated_tail() {
        let (header, snapshots) = (header(), [sample(1), sample(2)]);
        let mut text = header.to_line() + "\n";
        for snapshot in &snapshots {
            snapshot.assert_identities();
            text += &(to_line(snapshot, &header) + "\n");
        }
        let whole = text.clone();
        text += "{\"t_ns\": 3, \"str"; // killed while writing
        for text in [whole, text] {
            let (read_header, read) = read(&text).unwrap();
            assert_eq!(read_header, header);
            assert_eq!(read, snapshots);
        }
    }

    #[test]
    fn an_invalid_line_is_reported_with_its_number() {
        let text = header().to_line() + "\n{\"t_ns\": 1}\n";
        let message = read(&text).unwrap_err().to_string();
        assert!(message.starts_with("snapshots line 2: missing field"), "{message}");
    }

    #[test]
    fn seconds_append_and_workers_join() {
        let (mut joined, mut appended) = (sample(1), sample(1));
        joined.join(&sample(2));
        appended.append(&sample(2));
        assert_eq!((joined.in_flight, joined.connections.peak), (3, 3));
        assert_eq!((appended.in_flight, appended.connections.peak), (2, 2));
        assert_eq!(joined.total(), appended.total());
        joined.assert_identities();
        joined.clear();
        assert_eq!(joined, Snapshot::new(2, 1, 2));
    }
}
