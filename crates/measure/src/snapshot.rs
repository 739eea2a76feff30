//! The counts of one second of one worker, and their exact sums.
//!
//! An arrival is counted once, when it ends: answered, failed, or timed out unsent. Therefore the
//! identities `scheduled = sent + unsent`, `sent = ok + failed` and `Σ errors = unsent + failed`
//! hold in every snapshot and in every sum of snapshots; [`Snapshot::check_identities`] checks
//! them. Arrivals that have not ended count as `in_flight`.
//!
//! There are two sums: [`Snapshot::join`] adds another worker's counts of the same second,
//! [`Snapshot::append`] adds the next second. They differ only in gauges.
//!
//! Submodules: `identity` ([`Imbalance`]), `stream` ([`StreamCounts`]), `origin` ([`OriginCounts`]), `split` ([`SplitCounts`]),
//! `messages` ([`MessageCounts`]: exchanges that stay open).

mod identity;
mod messages;
mod origin;
mod split;
mod stream;

use crate::names::{ErrorClass, Fault, OpenReason, Tally};
use crate::{Followed, Histogram, HostSample, Nanos, Note, Scraped, Usage};
pub use identity::Imbalance;
use identity::{equal, sum};
pub use messages::{MessageCounts, Order};
pub use origin::{OriginCounts, ServiceSum, StreamLimits};
pub use split::{SplitCounts, SplitValue};
pub use stream::{StreamCounts, Window};

/// Maximum number of distinct JSON-RPC error codes counted separately; others share one count.
pub const RPC_CODES_MAX: usize = 64;

/// Arrivals by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Arrivals that have ended.
    pub scheduled: u64,
    /// Of these, those with at least one byte accepted by the kernel.
    pub sent: u64,
    /// Of these, those with no byte accepted.
    pub unsent: u64,
    /// Sent and answered as expected.
    pub ok: u64,
    /// Sent and not answered as expected.
    pub failed: u64,
}

impl Requests {
    /// Adds other counts.
    pub fn merge(&mut self, other: &Requests) {
        self.scheduled += other.scheduled;
        self.sent += other.sent;
        self.unsent += other.unsent;
        self.ok += other.ok;
        self.failed += other.failed;
    }

    fn check_identities(&self, of: &'static str) -> Result<(), Imbalance> {
        let parts = |identity, whole, parts| {
            equal(identity, Some(whole), sum(parts)).map_err(|why| Imbalance { of, ..why })
        };
        parts("scheduled = sent + unsent", self.scheduled, [self.sent, self.unsent])?;
        parts("sent = ok + failed", self.sent, [self.ok, self.failed])
    }

    /// The share of scheduled arrivals that were answered as expected, 0 to 1; `None` if there are
    /// none.
    pub fn success(&self) -> Option<f64> {
        (self.scheduled > 0).then(|| self.ok as f64 / self.scheduled as f64)
    }
}

/// The counts under one statistics name (a target, or a sum of targets).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Arrivals by outcome.
    pub requests: Requests,
    /// Latency of `ok` arrivals.
    pub latency_ok: Histogram,
    /// Latency of all other arrivals, sent or not, up to their end.
    pub latency_failed: Histogram,
    /// Service time of `ok` arrivals.
    pub service_time_ok: Histogram,
    /// Service time of complete but unexpected responses.
    pub service_time_failed: Histogram,
    /// Error classes of the arrivals that are not `ok`.
    pub errors: Tally<ErrorClass>,
    /// Bytes read, including heads.
    pub bytes_in: u64,
    /// Bytes written, including heads.
    pub bytes_out: u64,
    /// Of exchanges that stay open, if there are any.
    pub messages: Option<Box<MessageCounts>>,
}

impl Stats {
    /// Adds other counts.
    pub fn merge(&mut self, other: &Stats) {
        self.requests.merge(&other.requests);
        self.latency_ok.merge(&other.latency_ok);
        self.latency_failed.merge(&other.latency_failed);
        self.service_time_ok.merge(&other.service_time_ok);
        self.service_time_failed.merge(&other.service_time_failed);
        self.errors.merge(&other.errors);
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        if let Some(messages) = &other.messages {
            self.messages_mut().merge(messages);
        }
    }

    /// The counts of exchanges that stay open.
    #[inline]
    pub fn messages_mut(&mut self) -> &mut MessageCounts {
        self.messages.get_or_insert_default()
    }

    /// Resets all counts and keeps the allocations.
    pub fn clear(&mut self) {
        self.requests = Requests::default();
        self.latency_ok.clear();
        self.latency_failed.clear();
        self.service_time_ok.clear();
        self.service_time_failed.clear();
        self.errors.clear();
        (self.bytes_in, self.bytes_out) = (0, 0);
        self.messages.iter_mut().for_each(|messages| messages.clear());
    }

    /// Latency of all arrivals.
    pub fn latency(&self) -> Histogram {
        let mut all = self.latency_ok.clone();
        all.merge(&self.latency_failed);
        all
    }

    /// Service time of all complete responses.
    pub fn service_time(&self) -> Histogram {
        let mut all = self.service_time_ok.clone();
        all.merge(&self.service_time_failed);
        all
    }

    /// Checks the accounting identities.
    ///
    /// # Errors
    /// Which one does not hold: an arrival was lost or counted twice, and no number can be trusted.
    pub fn check_identities(&self) -> Result<(), Imbalance> {
        let own = &self.requests;
        own.check_identities("")?;
        let others = sum([own.unsent, own.failed]);
        let errors = sum(self.errors.iter().map(|(_, n)| n));
        equal("Σ errors = unsent + failed", errors, others)?;
        let count = |histogram: &Histogram| Some(histogram.count());
        equal("each ok has a latency", count(&self.latency_ok), Some(own.ok))?;
        equal("each other has a latency", count(&self.latency_failed), others)?;
        equal("each ok has a service time", count(&self.service_time_ok), Some(own.ok))?;
        let answered = self.service_time_failed.count().min(own.failed);
        equal("a service time needs a response", count(&self.service_time_failed), Some(answered))?;
        match &self.messages {
            Some(messages) => messages.check_identities(own.ok, own.failed),
            None => Ok(()),
        }
    }

    /// Checks the accounting identities.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn assert_identities(&self) {
        self.check_identities().unwrap_or_else(|why| panic!("{why}"));
    }
}

/// Responses by HTTP status, 100 to 999.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusCounts {
    counts: Box<[u64]>,
}

impl StatusCounts {
    const LOWEST: u16 = 100;

    /// Counts one response; a status outside 100 to 999 is ignored.
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

    /// The statuses seen, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        (Self::LOWEST..).zip(self.counts.iter().copied()).filter(|(_, n)| *n > 0)
    }

    /// Adds other counts.
    pub fn merge(&mut self, other: &StatusCounts) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, n)| *own += n);
    }
}

impl Default for StatusCounts {
    fn default() -> StatusCounts {
        StatusCounts { counts: vec![0; 900].into() }
    }
}

/// Counts of JSON-RPC answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RpcCounts {
    /// Answers; each item of a batch counts.
    pub items: u64,
    /// Of these, errors.
    pub errors: u64,
    /// Errors by code, in ascending order; at most [`RPC_CODES_MAX`] distinct codes.
    pub codes: Vec<(i64, u64)>,
    /// Errors with further codes, once the list was full.
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

    /// Adds other counts.
    pub fn merge(&mut self, other: &RpcCounts) {
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

/// Counts of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Connections established.
    pub opened: u64,
    /// Connections open at the end of the snapshot (gauge).
    pub open: u64,
    /// The peak number open at once; over several workers, the sum of their peaks.
    pub peak: u64,
    /// Connection attempts by reason.
    pub reasons: Tally<OpenReason>,
}

/// How the workers spent their time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerTime {
    /// CPU time spent spinning until the next arrival was due, summed over workers.
    pub spin: Nanos,
    /// Time spent neither asleep nor spinning, of the busiest worker.
    pub busy_max: Nanos,
    /// The longest time in which a worker did not poll its sockets.
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

/// All counts of a period, by statistics name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The end of the period.
    pub t: Nanos,
    /// By stream, in plan order.
    pub streams: Vec<StreamCounts>,
    /// By statistics name; the header lists the names.
    pub stats: Vec<Stats>,
    /// By origin, in the order of the plan's targets; if redirects are followed, the last entry
    /// sums all origins that are reached only by redirects.
    pub origins: Vec<OriginCounts>,
    /// Time from the kernel's receipt of an answer's last bytes to our read, for a sample of
    /// connections and for answers that were read after their deadline.
    pub read_lag: Histogram,
    /// Responses by HTTP status.
    pub status: StatusCounts,
    /// JSON-RPC answers.
    pub rpc: RpcCounts,
    /// Faults of `protocol` responses and of connections.
    pub faults: Tally<Fault>,
    /// Connection counts.
    pub connections: Connections,
    /// Arrivals dispatched that have not ended (gauge).
    pub in_flight: u64,
    /// Arrivals of the warm-up; no other count includes them.
    pub warmup: Requests,
    /// What this process used, and what its host did to it.
    pub host: HostSample,
    /// How the workers spent their time.
    pub workers: WorkerTime,
    /// Metrics of the scraped processes, in plan order; may be shorter than the plan's list if the
    /// last processes have none.
    pub scrapes: Vec<Scraped>,
    /// Followed logs, in plan order; may be shorter than the plan's list, as `scrapes`.
    pub logs: Vec<Followed>,
    /// The first errors of each class that differ, as reported by the system or the target, and the first
    /// unexpected answer by target and status; at most [`Note::MAX`].
    pub notes: Vec<Note>,
    /// Arrivals that were not recorded, because the recording thread did not keep up.
    pub samples_dropped: u64,
}

impl Snapshot {
    /// An empty snapshot for this many statistics names, streams and origins.
    pub fn new(names: usize, streams: usize, origins: usize) -> Snapshot {
        Snapshot {
            stats: vec![Stats::default(); names],
            streams: vec![StreamCounts::default(); streams],
            origins: vec![OriginCounts::default(); origins],
            ..Snapshot::default()
        }
    }

    /// An empty snapshot for the same plan.
    pub fn blank(&self) -> Snapshot {
        Snapshot::new(self.stats.len(), self.streams.len(), self.origins.len())
    }

    /// Adds another worker's counts of the same period.
    pub fn join(&mut self, other: &Snapshot) {
        self.add_counts(other);
        self.connections.open += other.connections.open;
        self.connections.peak += other.connections.peak;
        self.in_flight += other.in_flight;
        self.workers.join(&other.workers);
        self.streams.iter_mut().zip(&other.streams).for_each(|(own, other)| own.join(other));
        self.origins.iter_mut().zip(&other.origins).for_each(|(own, other)| own.join(other));
    }

    /// Adds the next period.
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
        self.host.append(&other.host);
        self.note(&other.notes);
        self.samples_dropped += other.samples_dropped;
        other.scrapes.iter().enumerate().for_each(|(place, next)| self.scraped(place, next));
        other.logs.iter().enumerate().for_each(|(place, next)| self.followed(place, next));
    }

    /// Adds metrics of the scraped process with this index in the plan.
    pub fn scraped(&mut self, place: usize, next: &Scraped) {
        if self.scrapes.len() <= place {
            self.scrapes.resize_with(place + 1, Scraped::default);
        }
        self.scrapes[place].append(next);
    }

    /// Adds what was followed of the log with this index in the plan.
    pub fn followed(&mut self, place: usize, next: &Followed) {
        if self.logs.len() <= place {
            self.logs.resize_with(place + 1, Followed::default);
        }
        self.logs[place].append(next);
    }

    /// Adds notes, unless there are enough of the same kind.
    pub fn note(&mut self, notes: &[Note]) {
        for note in notes {
            if !note.is_covered_by(&self.notes) {
                self.notes.push(note.clone());
            }
        }
    }

    /// Resets all counts and keeps the allocations.
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
        self.logs.clear();
        self.notes.clear();
        self.samples_dropped = 0;
    }

    /// The sum over all statistics names.
    pub fn total(&self) -> Stats {
        let mut total = Stats::default();
        self.stats.iter().for_each(|stats| total.merge(stats));
        total
    }

    /// Local ports in use for one destination against those available, with this many source
    /// addresses: the connections of the origin that has the most, and all sockets of the network
    /// namespace in TIME_WAIT, whatever their destination: an upper bound. `None` if either is unknown.
    pub fn ports(&self, sources: u64) -> Option<Usage> {
        let open = self.origins.iter().map(|origin| origin.open).max().unwrap_or(0);
        let used = open + self.host.sockets?.time_wait;
        Some(Usage { used, limit: self.host.ports? * sources.max(1) })
    }

    /// The peak number of streams in use and their limits, over all origins with HTTP/2 connections; `None`
    /// if there are none.
    pub fn http2(&self) -> Option<(u64, StreamLimits)> {
        let used = self.origins.iter().filter_map(|own| Some((own.in_use_peak, own.http2?)));
        used.reduce(|(peak, limits), (next, other)| (peak + next, limits.joined(&other)))
    }

    /// Lag over all streams.
    pub fn lag(&self) -> Histogram {
        merged(self.streams.iter().map(|stream| &stream.lag))
    }

    /// Wait over all streams.
    pub fn wait(&self) -> Histogram {
        merged(self.streams.iter().map(|stream| &stream.wait))
    }

    /// Checks the accounting identities for every name and for the totals.
    ///
    /// # Errors
    /// Which one does not hold.
    pub fn check_identities(&self) -> Result<(), Imbalance> {
        self.stats.iter().try_for_each(Stats::check_identities)?;
        self.warmup.check_identities("warm-up: ")?;
        for stream in &self.streams {
            let lags = Some(stream.lag.count());
            equal("each dispatched arrival has a lag", lags, Some(stream.dispatched))?;
        }
        let waits = sum(self.streams.iter().map(|stream| stream.wait.count()));
        let arrivals = sum(self.stats.iter().map(|stats| stats.requests.scheduled));
        equal("each arrival has a wait", waits, arrivals)?;
        let coded = self.rpc.codes.iter().map(|(_, n)| *n).chain([self.rpc.codes_other]);
        equal("each RPC error has a code", Some(self.rpc.errors), sum(coded))
    }

    /// Checks the accounting identities for every name and for the totals.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn assert_identities(&self) {
        self.check_identities().unwrap_or_else(|why| panic!("{why}"));
    }

    /// Checks, on the sum of all seconds, that every dispatched arrival has ended.
    ///
    /// # Panics
    /// If one has not, or ended twice.
    pub fn assert_complete(&self) {
        self.assert_identities();
        let dispatched: u64 = self.streams.iter().map(|stream| stream.dispatched).sum();
        let ended: u64 = self.stats.iter().map(|stats| stats.requests.scheduled).sum();
        assert_eq!(dispatched, ended, "each dispatched arrival has ended");
        self.stats.iter().flat_map(|own| &own.messages).for_each(|own| own.assert_complete());
    }
}

fn merged<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Histogram {
    let mut all = Histogram::new();
    histograms.for_each(|histogram| all.merge(histogram));
    all
}
