//! What was counted in one second, by worker, and its exact sums.
//!
//! An arrival is counted once, when it ends: answered, failed, or timed out unsent. So the
//! identities `scheduled = sent + unsent`, `sent = ok + failed` and `Σ errors = unsent + failed`
//! hold in every snapshot and in every sum of snapshots; [`Snapshot::assert_identities`] checks
//! them. Arrivals that have not ended show as `in_flight`.
//!
//! Two sums: [`Snapshot::join`] adds what another worker counted in the same second,
//! [`Snapshot::append`] adds the next second. They differ in gauges only.
//!
//! Below it: `stream` ([`StreamCounts`]), `origin` ([`OriginCounts`]).

mod origin;
mod stream;

use crate::names::{ErrorClass, Fault, OpenReason, Tally};
use crate::{Histogram, Nanos, Scraped};
pub use origin::{OriginCounts, ServiceSum};
pub use stream::{StreamCounts, Window};

/// How many different JSON-RPC error codes are counted by themselves; the rest go together.
pub const RPC_CODES_MAX: usize = 64;

/// Arrivals by fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Arrivals whose fate is known.
    pub scheduled: u64,
    /// Of these, those of which at least one byte reached the kernel.
    pub sent: u64,
    /// Of these, those of which no byte did.
    pub unsent: u64,
    /// Sent and answered as expected.
    pub ok: u64,
    /// Sent and not answered as expected.
    pub failed: u64,
}

impl Requests {
    /// Adds another's counts.
    pub fn merge(&mut self, other: &Requests) {
        self.scheduled += other.scheduled;
        self.sent += other.sent;
        self.unsent += other.unsent;
        self.ok += other.ok;
        self.failed += other.failed;
    }

    /// The share of the scheduled that was answered as expected, 0 to 1; `None` of nothing.
    pub fn success(&self) -> Option<f64> {
        (self.scheduled > 0).then(|| self.ok as f64 / self.scheduled as f64)
    }
}

/// What was counted under one statistics name (a target, or a sum of targets).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Arrivals by fate.
    pub requests: Requests,
    /// Latency of the `ok`.
    pub latency_ok: Histogram,
    /// Latency of all others, sent or not: until they were given up.
    pub latency_failed: Histogram,
    /// Service time of the `ok`.
    pub service_time_ok: Histogram,
    /// Service time of whole responses that were not what was expected.
    pub service_time_failed: Histogram,
    /// Why the others were not `ok`.
    pub errors: Tally<ErrorClass>,
    /// Bytes read, heads included.
    pub bytes_in: u64,
    /// Bytes written, heads included.
    pub bytes_out: u64,
}

impl Stats {
    /// Adds another's counts.
    pub fn merge(&mut self, other: &Stats) {
        self.requests.merge(&other.requests);
        self.latency_ok.merge(&other.latency_ok);
        self.latency_failed.merge(&other.latency_failed);
        self.service_time_ok.merge(&other.service_time_ok);
        self.service_time_failed.merge(&other.service_time_failed);
        self.errors.merge(&other.errors);
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
    }

    /// Forgets the counts and keeps the memory.
    pub fn clear(&mut self) {
        self.requests = Requests::default();
        self.latency_ok.clear();
        self.latency_failed.clear();
        self.service_time_ok.clear();
        self.service_time_failed.clear();
        self.errors.clear();
        (self.bytes_in, self.bytes_out) = (0, 0);
    }

    /// Latency of every arrival.
    pub fn latency(&self) -> Histogram {
        let mut all = self.latency_ok.clone();
        all.merge(&self.latency_failed);
        all
    }

    /// Service time of every whole response.
    pub fn service_time(&self) -> Histogram {
        let mut all = self.service_time_ok.clone();
        all.merge(&self.service_time_failed);
        all
    }

    /// Checks the accounting identities.
    ///
    /// # Panics
    /// When one does not hold: an arrival was lost or counted twice, and no figure can be believed.
    pub fn assert_identities(&self) {
        let Requests { scheduled, sent, unsent, ok, failed } = self.requests;
        assert_eq!(scheduled, sent + unsent, "scheduled = sent + unsent");
        assert_eq!(sent, ok + failed, "sent = ok + failed");
        assert_eq!(self.errors.total(), unsent + failed, "Σ errors = unsent + failed");
        assert_eq!(self.latency_ok.count(), ok, "each ok has a latency");
        assert_eq!(self.latency_failed.count(), unsent + failed, "each other has a latency");
        assert_eq!(self.service_time_ok.count(), ok, "each ok has a service time");
        assert!(self.service_time_failed.count() <= failed, "a service time needs a response");
    }
}

/// Responses by HTTP status, 100 to 999.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusCounts {
    counts: Box<[u64]>,
}

impl StatusCounts {
    const LOWEST: u16 = 100;

    /// Counts one response; a status outside 100 to 999 is none.
    #[inline]
    pub fn count(&mut self, status: u16) {
        self.add(status, 1);
    }

    /// Counts `n` responses.
    pub fn add(&mut self, status: u16, n: u64) {
        if let Some(own) = status.checked_sub(Self::LOWEST)
            && let Some(own) = self.counts.get_mut(own as usize)
        {
            *own += n;
        }
    }

    /// Responses with this status.
    pub fn get(&self, status: u16) -> u64 {
        let place = status.checked_sub(Self::LOWEST);
        place.and_then(|place| self.counts.get(place as usize)).copied().unwrap_or(0)
    }

    /// The statuses that were seen, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        (Self::LOWEST..).zip(self.counts.iter().copied()).filter(|(_, n)| *n > 0)
    }

    fn merge(&mut self, other: &StatusCounts) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, n)| *own += n);
    }
}

impl Default for StatusCounts {
    fn default() -> StatusCounts {
        StatusCounts { counts: vec![0; 900].into() }
    }
}

/// What JSON-RPC answers held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RpcCounts {
    /// Answers, each item of a batch for itself.
    pub items: u64,
    /// Of these, errors.
    pub errors: u64,
    /// Errors by code; at most [`RPC_CODES_MAX`] different ones, ascending.
    pub codes: Vec<(i64, u64)>,
    /// Errors whose code came after the list was full.
    pub codes_other: u64,
}

impl RpcCounts {
    /// Counts `n` errors with this code.
    pub fn add_error(&mut self, code: i64, n: u64) {
        self.errors += n;
        match self.codes.binary_search_by_key(&code, |(code, _)| *code) {
            Ok(place) => self.codes[place].1 += n,
            Err(place) if self.codes.len() < RPC_CODES_MAX => self.codes.insert(place, (code, n)),
            Err(_) => self.codes_other += n,
        }
    }

    fn merge(&mut self, other: &RpcCounts) {
        self.items += other.items;
        for (code, n) in &other.codes {
            self.add_error(*code, *n);
        }
        self.errors += other.codes_other;
        self.codes_other += other.codes_other;
    }

    fn clear(&mut self) {
        (self.items, self.errors, self.codes_other) = (0, 0, 0);
        self.codes.clear();
    }
}

/// Connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Established.
    pub opened: u64,
    /// Open at the snapshot's end (gauge).
    pub open: u64,
    /// The most that were open at a time; over several workers the sum of theirs.
    pub peak: u64,
    /// Why attempts to open one were made.
    pub reasons: Tally<OpenReason>,
}

/// What this process used of the host. Sums over time, the peak excepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostSample {
    /// CPU time, user and system.
    pub cpu: Nanos,
    /// Of it, user time.
    pub user: Nanos,
    /// The largest resident set so far, in bytes.
    pub rss_peak_bytes: u64,
}

/// What the workers did with their time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerTime {
    /// CPU time spent spinning until the next arrival was due; the sum over workers.
    pub spin: Nanos,
    /// Time spent neither asleep nor spinning, by the worker that had the most of it.
    pub busy_max: Nanos,
    /// The longest that a worker did not look at its sockets.
    pub pause_max: Nanos,
}

impl WorkerTime {
    fn join(&mut self, other: &WorkerTime) {
        self.spin += other.spin;
        self.busy_max = self.busy_max.max(other.busy_max);
        self.pause_max = self.pause_max.max(other.pause_max);
    }

    fn append(&mut self, next: &WorkerTime) {
        self.spin += next.spin;
        self.busy_max += next.busy_max;
        self.pause_max = self.pause_max.max(next.pause_max);
    }
}

/// What was counted in a stretch of time, under every statistics name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The stretch's end.
    pub t: Nanos,
    /// By stream, in the plan's order.
    pub streams: Vec<StreamCounts>,
    /// By statistics name; the names stand in the header.
    pub stats: Vec<Stats>,
    /// By origin, in the order of the plan's targets; where redirects are followed the last stands
    /// for all origins that only redirects lead to.
    pub origins: Vec<OriginCounts>,
    /// Our read of an answer minus the kernel's receipt of its last bytes, on a sample of
    /// connections and on every answer read after a pause.
    pub read_lag: Histogram,
    /// Responses by HTTP status.
    pub status: StatusCounts,
    /// JSON-RPC answers.
    pub rpc: RpcCounts,
    /// What was wrong with `protocol` responses.
    pub faults: Tally<Fault>,
    /// Connections.
    pub connections: Connections,
    /// Arrivals taken up whose fate is open (gauge).
    pub in_flight: u64,
    /// Arrivals of the warm-up, which are in no other count.
    pub warmup: Requests,
    /// What this process used of the host.
    pub host: HostSample,
    /// What the workers did with their time.
    pub workers: WorkerTime,
    /// What other processes told, in the plan's order; those behind the last that told anything are
    /// left out.
    pub scrapes: Vec<Scraped>,
}

impl Snapshot {
    /// An empty one for this many statistics names, streams and origins.
    pub fn new(names: usize, streams: usize, origins: usize) -> Snapshot {
        Snapshot {
            stats: vec![Stats::default(); names],
            streams: vec![StreamCounts::default(); streams],
            origins: vec![OriginCounts::default(); origins],
            ..Snapshot::default()
        }
    }

    /// An empty one for the same plan.
    pub fn blank(&self) -> Snapshot {
        Snapshot::new(self.stats.len(), self.streams.len(), self.origins.len())
    }

    /// Adds what another worker counted in the same stretch.
    pub fn join(&mut self, other: &Snapshot) {
        self.add_counts(other);
        self.connections.open += other.connections.open;
        self.connections.peak += other.connections.peak;
        self.in_flight += other.in_flight;
        self.workers.join(&other.workers);
        self.streams.iter_mut().zip(&other.streams).for_each(|(own, other)| own.join(other));
        self.origins.iter_mut().zip(&other.origins).for_each(|(own, other)| own.join(other));
    }

    /// Adds the stretch that follows.
    pub fn append(&mut self, next: &Snapshot) {
        self.add_counts(next);
        self.connections.open = next.connections.open;
        self.connections.peak = self.connections.peak.max(next.connections.peak);
        self.in_flight = next.in_flight;
        self.workers.append(&next.workers);
        self.streams.iter_mut().zip(&next.streams).for_each(|(own, next)| own.append(next));
        self.origins.iter_mut().zip(&next.origins).for_each(|(own, next)| own.append(next));
    }

    fn add_counts(&mut self, other: &Snapshot) {
        assert_eq!(self.stats.len(), other.stats.len(), "snapshots of the same plan");
        assert_eq!(self.streams.len(), other.streams.len(), "snapshots of the same plan");
        assert_eq!(self.origins.len(), other.origins.len(), "snapshots of the same plan");
        self.t = self.t.max(other.t);
        self.stats.iter_mut().zip(&other.stats).for_each(|(own, stats)| own.merge(stats));
        self.read_lag.merge(&other.read_lag);
        self.status.merge(&other.status);
        self.rpc.merge(&other.rpc);
        self.faults.merge(&other.faults);
        self.connections.opened += other.connections.opened;
        self.connections.reasons.merge(&other.connections.reasons);
        self.warmup.merge(&other.warmup);
        self.host.cpu += other.host.cpu;
        self.host.user += other.host.user;
        self.host.rss_peak_bytes = self.host.rss_peak_bytes.max(other.host.rss_peak_bytes);
        other.scrapes.iter().enumerate().for_each(|(place, next)| self.scraped(place, next));
    }

    /// Adds what the process at this place of the plan told.
    pub fn scraped(&mut self, place: usize, next: &Scraped) {
        if self.scrapes.len() <= place {
            self.scrapes.resize_with(place + 1, Scraped::default);
        }
        self.scrapes[place].append(next);
    }

    /// Forgets the counts and keeps the memory.
    pub fn clear(&mut self) {
        self.t = Nanos::ZERO;
        self.streams.iter_mut().for_each(StreamCounts::clear);
        self.stats.iter_mut().for_each(Stats::clear);
        self.origins.fill(OriginCounts::default());
        self.read_lag.clear();
        self.status.counts.fill(0);
        self.rpc.clear();
        self.faults.clear();
        self.connections.reasons.clear();
        (self.connections.opened, self.connections.open, self.connections.peak) = (0, 0, 0);
        self.in_flight = 0;
        self.warmup = Requests::default();
        self.host = HostSample::default();
        self.workers = WorkerTime::default();
        self.scrapes.clear();
    }

    /// The sum over all statistics names.
    pub fn total(&self) -> Stats {
        let mut total = Stats::default();
        self.stats.iter().for_each(|stats| total.merge(stats));
        total
    }

    /// Lag of all streams together.
    pub fn lag(&self) -> Histogram {
        merged(self.streams.iter().map(|stream| &stream.lag))
    }

    /// Wait of all streams together.
    pub fn wait(&self) -> Histogram {
        merged(self.streams.iter().map(|stream| &stream.wait))
    }

    /// Checks the accounting identities under every name and over all.
    ///
    /// # Panics
    /// When one does not hold.
    pub fn assert_identities(&self) {
        let mut arrivals = 0;
        for stats in &self.stats {
            stats.assert_identities();
            arrivals += stats.requests.scheduled;
        }
        let warmup = &self.warmup;
        assert_eq!(warmup.scheduled, warmup.sent + warmup.unsent, "warm-up: scheduled");
        assert_eq!(warmup.sent, warmup.ok + warmup.failed, "warm-up: sent");
        for stream in &self.streams {
            assert_eq!(stream.lag.count(), stream.dispatched, "each arrival taken up has a lag");
        }
        let waits: u64 = self.streams.iter().map(|stream| stream.wait.count()).sum();
        assert_eq!(waits, arrivals, "each arrival has a wait");
        let coded: u64 = self.rpc.codes.iter().map(|(_, n)| n).sum();
        assert_eq!(self.rpc.errors, coded + self.rpc.codes_other, "each RPC error has a code");
    }

    /// Checks, on the sum of all seconds, that each arrival taken up has ended.
    ///
    /// # Panics
    /// When one has not, or ended twice.
    pub fn assert_complete(&self) {
        self.assert_identities();
        let dispatched: u64 = self.streams.iter().map(|stream| stream.dispatched).sum();
        let ended: u64 = self.stats.iter().map(|stats| stats.requests.scheduled).sum();
        assert_eq!(dispatched, ended, "each arrival taken up has ended");
    }
}

fn merged<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Histogram {
    let mut all = Histogram::new();
    histograms.for_each(|histogram| all.merge(histogram));
    all
}
