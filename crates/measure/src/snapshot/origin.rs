//! How full the connections to one origin (scheme, host and port) were.
//!
//! By Little's law the mean number of connections in use is the rate of exchanges times their mean
//! service time. What a verdict needs to tell a limit that is too low from a target that slowed
//! down is therefore: the limit, the time in use, the time at the limit, and the service time of
//! exchanges that began below the limit beside that of those that began at it.

use crate::Nanos;

/// A number of service times and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceSum {
    /// How many.
    pub count: u64,
    /// All of them together.
    pub total: Nanos,
}

impl ServiceSum {
    /// Adds one.
    #[inline]
    pub fn add(&mut self, service_time: Nanos) {
        self.count += 1;
        self.total += service_time;
    }

    /// The mean; `None` of nothing.
    pub fn mean(&self) -> Option<Nanos> {
        (self.count > 0).then(|| Nanos(self.total.0 / self.count))
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &ServiceSum) {
        self.count += other.count;
        self.total += other.total;
    }
}

/// What was counted of the connections to one origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginCounts {
    /// The plan's limit on connections (gauge; the sum over workers).
    pub limit: u64,
    /// Established connections at the stretch's end (gauge).
    pub open: u64,
    /// The most connections that were in use at a time; over several workers the sum of theirs.
    pub in_use_peak: u64,
    /// Connection-time in use: the sum over connections. Divided by the stretch it is the mean
    /// number in use.
    pub in_use: Nanos,
    /// Connection-time open: the sum over connections, connecting and the TLS handshake included. A
    /// connection counts against the limit for all of it. Zero in recordings that lack it.
    pub occupied: Nanos,
    /// From opening to established (TCP and TLS), over the connections that were established.
    pub connected: ServiceSum,
    /// How long an arrival waited because the limit was reached; the sum over workers.
    pub capped: Nanos,
    /// Requests that arrivals wanted to send here.
    pub wanted: u64,
    /// Service times of whole answers to exchanges that began while the limit was not reached…
    pub service_free: ServiceSum,
    /// …and while it was.
    pub service_capped: ServiceSum,
    /// Arrivals that ended without an answer because waiting at the limit left them too little
    /// time: not sent any more, or sent with less time than an answer takes.
    pub starved: u64,
}

impl OriginCounts {
    /// Adds what another worker counted in the same stretch.
    pub fn join(&mut self, other: &OriginCounts) {
        self.add_counts(other);
        self.limit += other.limit;
        self.open += other.open;
        self.in_use_peak += other.in_use_peak;
    }

    /// Adds the stretch that follows.
    pub(super) fn append(&mut self, next: &OriginCounts) {
        self.add_counts(next);
        self.limit = self.limit.max(next.limit);
        self.open = next.open;
        self.in_use_peak = self.in_use_peak.max(next.in_use_peak);
    }

    fn add_counts(&mut self, other: &OriginCounts) {
        self.in_use += other.in_use;
        self.occupied += other.occupied;
        self.connected.merge(&other.connected);
        self.capped += other.capped;
        self.wanted += other.wanted;
        self.service_free.merge(&other.service_free);
        self.service_capped.merge(&other.service_capped);
        self.starved += other.starved;
    }
}
