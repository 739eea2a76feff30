//! How long connections were in use, and how long arrivals waited at the limit.

use plimsoll_measure::{Nanos, OriginCounts};

/// How full the connections are.
#[derive(Default)]
pub(super) struct Fullness {
    pub(super) counts: OriginCounts,
    pub(super) in_use: u64,
    /// Up to when connection-time is added up.
    stepped_at: Nanos,
    /// Since when arrivals wait at the limit.
    pub(super) capped_since: Option<Nanos>,
}

impl Fullness {
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
        if let Some(since) = self.capped_since.take() {
            self.counts.capped += now - since;
        }
    }

    /// Accounts for the time at the limit so far.
    pub(super) fn restart_cap(&mut self, now: Nanos) {
        if self.capped_since.is_some() {
            self.uncap(now);
            self.cap(now);
        }
    }
}
