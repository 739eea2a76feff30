//! Time that connections were in use, and time that arrivals waited at the limit.

use plimsoll_measure::{Nanos, OriginCounts};

/// Utilization of a pool's connections.
#[derive(Default)]
pub(super) struct Utilization {
    pub(super) counts: OriginCounts,
    pub(super) in_use: u64,
    /// The instant up to which connection time has been summed.
    stepped_at: Nanos,
    /// When arrivals began to wait at the limit, if they do.
    pub(super) capped_since: Option<Nanos>,
    /// Whether arrivals wait because too many requests are in flight, whatever the pool's own limit.
    pub(super) held: bool,
}

impl Utilization {
    #[inline]
    pub(super) fn step(&mut self, now: Nanos, open: usize) {
        let span = (now - self.stepped_at).0;
        self.counts.in_use += Nanos(span * self.in_use);
        self.counts.occupied += Nanos(span * open as u64);
        self.stepped_at = self.stepped_at.max(now);
    }

    pub(super) fn cap(&mut self, now: Nanos) {
        self.capped_since.get_or_insert(now);
    }

    pub(super) fn uncap(&mut self, now: Nanos) {
        if self.held {
            return;
        }
        if let Some(since) = self.capped_since.take() {
            self.counts.capped += now - since;
        }
    }

    /// Adds the time at the limit so far to the counts.
    pub(super) fn restart_cap(&mut self, now: Nanos) {
        if let Some(since) = &mut self.capped_since {
            self.counts.capped += now - *since;
            *since = now;
        }
    }
}
