//! What was counted of one stream besides what its targets hold.

use crate::{Histogram, Nanos};

/// When a stream sent and was answered, on the run's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// When its first arrival could be due.
    pub from: Nanos,
    /// Until when arrivals were planned: the plan's end, or the instant of a stop.
    pub planned_to: Nanos,
    /// The later of `planned_to` and the last whole answer. A request that is never answered does
    /// not extend it.
    pub to: Nanos,
}

impl Window {
    /// The smallest window that holds both.
    pub fn union(self, other: Window) -> Window {
        Window {
            from: self.from.min(other.from),
            planned_to: self.planned_to.max(other.planned_to),
            to: self.to.max(other.to),
        }
    }
}

/// What was counted of one stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamCounts {
    /// Planned arrivals per second at the stretch's end (gauge; users for a closed stream).
    pub planned_rate: f64,
    /// Arrivals taken up. Each has its end in a later count, so that over all seconds
    /// `dispatched = scheduled + in flight`.
    pub dispatched: u64,
    /// `dispatched_at - scheduled_at` of every arrival taken up.
    pub lag: Histogram,
    /// From `dispatched_at` to the first byte sent; of an unsent arrival, to its end. Counted when
    /// the arrival ends.
    pub wait: Histogram,
    /// When it was active in the stretch; `None` when it was not.
    pub active: Option<Window>,
    /// When the first byte of its last request was sent, on the run's clock. Zero: nothing was sent,
    /// or the recording lacks it.
    pub last_sent: Nanos,
}

impl StreamCounts {
    /// Adds what another worker counted in the same stretch; its rate is that of the same plan.
    pub(super) fn join(&mut self, other: &StreamCounts) {
        self.add_counts(other);
        self.planned_rate = self.planned_rate.max(other.planned_rate);
    }

    /// Adds the stretch that follows.
    pub fn append(&mut self, next: &StreamCounts) {
        self.add_counts(next);
        self.planned_rate = next.planned_rate;
    }

    fn add_counts(&mut self, other: &StreamCounts) {
        self.dispatched += other.dispatched;
        self.lag.merge(&other.lag);
        self.wait.merge(&other.wait);
        self.active = match (self.active, other.active) {
            (Some(own), Some(other)) => Some(own.union(other)),
            (own, other) => own.or(other),
        };
        self.last_sent = self.last_sent.max(other.last_sent);
    }

    /// Forgets the counts and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.planned_rate = 0.0;
        self.dispatched = 0;
        self.lag.clear();
        self.wait.clear();
        self.active = None;
        self.last_sent = Nanos::ZERO;
    }
}
