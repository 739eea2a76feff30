//! Utilization of the connections to one origin (scheme, host and port).
//!
//! By Little's law the mean number of connections in use is the rate of exchanges times their mean
//! service time. To distinguish a limit that is too low from a target that slowed down, a verdict
//! therefore needs the limit, the time in use, the time at the limit, and the service times of
//! exchanges that began below and at the limit.

use crate::Nanos;

/// A count of service times and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceSum {
    /// Number of service times.
    pub count: u64,
    /// Their sum.
    pub total: Nanos,
}

impl ServiceSum {
    /// Adds a service time.
    #[inline]
    pub fn add(&mut self, service_time: Nanos) {
        self.count += 1;
        self.total += service_time;
    }

    /// The mean; `None` if there are none.
    pub fn mean(&self) -> Option<Nanos> {
        (self.count > 0).then(|| Nanos(self.total.0 / self.count))
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &ServiceSum) {
        self.count += other.count;
        self.total += other.total;
    }
}

/// Counts of the connections to one origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginCounts {
    /// How many exchanges the plan's limit on connections allows at a time (gauge; the sum over workers):
    /// one for each connection, with HTTP/2 one for each stream that plan and peer allow.
    pub limit: u64,
    /// Established connections at the end of the period (gauge).
    pub open: u64,
    /// The peak number of connections, with HTTP/2 of streams, in use at once; over several workers, the sum of their peaks.
    pub in_use_peak: u64,
    /// Time in use, summed over connections. Divided by the period it is the mean number in use.
    pub in_use: Nanos,
    /// Time open, summed over connections (with HTTP/2 over the streams that they allow), including connecting and the TLS handshake; a connection
    /// counts against the limit for all of it. Zero in recordings without this field.
    pub occupied: Nanos,
    /// Time to establish (TCP and TLS), over the connections that were established.
    pub connected: ServiceSum,
    /// Time during which arrivals waited because the limit was reached, summed over workers.
    pub capped: Nanos,
    /// Requests to be sent to this origin.
    pub wanted: u64,
    /// Service times of complete answers to exchanges that began below the limit…
    pub service_free: ServiceSum,
    /// …and at the limit.
    pub service_capped: ServiceSum,
    /// Arrivals that ended without an answer because waiting at the limit left too little time:
    /// they were not sent, or sent with less time than an answer takes.
    pub starved: u64,
    /// Of HTTP/2 connections, if there were any.
    pub http2: Option<StreamLimits>,
}

/// What limits the streams of HTTP/2 connections to one origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamLimits {
    /// The plan's limit on connections (gauge; the sum over workers).
    pub connections: u64,
    /// The plan's limit on streams per connection (gauge).
    pub streams: u64,
    /// The fewest streams that the peer allowed on a connection (gauge; the minimum over workers);
    /// `None`: it set no limit.
    pub peer: Option<u64>,
    /// Streams in use at the end of the period (gauge).
    pub in_use: u64,
}

impl StreamLimits {
    /// How many exchanges one connection carries at a time.
    pub fn per_connection(&self) -> u64 {
        self.peer.map_or(self.streams, |peer| peer.min(self.streams))
    }

    /// The sum with those of another worker or origin at the same time.
    pub(super) fn joined(self, other: &StreamLimits) -> StreamLimits {
        StreamLimits {
            connections: self.connections + other.connections,
            in_use: self.in_use + other.in_use,
            streams: self.streams.max(other.streams),
            peer: self.peer.into_iter().chain(other.peer).min(),
        }
    }

    fn append(&mut self, next: &StreamLimits) {
        self.connections = self.connections.max(next.connections);
        self.in_use = next.in_use;
        self.streams = self.streams.max(next.streams);
        self.peer = self.peer.into_iter().chain(next.peer).min();
    }
}

impl OriginCounts {
    /// Adds another worker's counts of the same period.
    pub fn join(&mut self, other: &OriginCounts) {
        self.add_counts(other);
        self.limit += other.limit;
        self.open += other.open;
        self.in_use_peak += other.in_use_peak;
        match (&mut self.http2, &other.http2) {
            (Some(own), Some(other)) => *own = own.joined(other),
            (own, other) => *own = own.or(*other),
        }
    }

    /// Adds the next period.
    pub(super) fn append(&mut self, next: &OriginCounts) {
        self.add_counts(next);
        self.limit = self.limit.max(next.limit);
        self.open = next.open;
        self.in_use_peak = self.in_use_peak.max(next.in_use_peak);
        match (&mut self.http2, &next.http2) {
            (Some(own), Some(next)) => own.append(next),
            (own, next) => *own = own.or(*next),
        }
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
