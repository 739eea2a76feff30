//! Counts of one stream that are not kept by target.

use super::SplitCounts;
use crate::{Histogram, Nanos};

/// The time window in which a stream was active, on the run's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The earliest time at which its first arrival could be due.
    pub from: Nanos,
    /// The end of planned arrivals: the plan's end, or the time of a stop.
    pub planned_to: Nanos,
    /// The later of `planned_to` and the last complete answer. A request that is never answered
    /// does not extend it.
    pub to: Nanos,
}

impl Window {
    /// The smallest window that contains both.
    pub fn union(self, other: Window) -> Window {
        Window {
            from: self.from.min(other.from),
            planned_to: self.planned_to.max(other.planned_to),
            to: self.to.max(other.to),
        }
    }
}

/// Counts of one stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamCounts {
    /// Planned arrivals per second at the end of the period (gauge; number of users for a closed
    /// stream).
    pub planned_rate: f64,
    /// Arrivals dispatched. Their ends may be counted later; over all seconds, `dispatched =
    /// scheduled + in_flight`.
    pub dispatched: u64,
    /// `dispatched_at - scheduled_at` of every dispatched arrival.
    pub lag: Histogram,
    /// Time from `dispatched_at` to the first byte sent or, if the arrival was never sent, to its
    /// end. Recorded when the arrival ends.
    pub wait: Histogram,
    /// When the stream was active within the period; `None` if it was not.
    pub active: Option<Window>,
    /// When the first byte of its last request was sent, on the run's clock. Zero if nothing was
    /// sent or the recording has no such field.
    pub last_sent: Nanos,
    /// Complete answers by the value of the header that the plan names; empty if it names none.
    pub split: SplitCounts,
}

impl StreamCounts {
    /// Adds another worker's counts of the same period. Rates are not added: both are the plan's.
    pub(super) fn join(&mut self, other: &StreamCounts) {
        self.add_counts(other);
        self.planned_rate = self.planned_rate.max(other.planned_rate);
    }

    /// Adds the next period.
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
        self.split.merge(&other.split);
    }

    /// Resets all counts and keeps the allocations.
    pub(super) fn clear(&mut self) {
        self.planned_rate = 0.0;
        self.dispatched = 0;
        self.lag.clear();
        self.wait.clear();
        self.active = None;
        self.last_sent = Nanos::ZERO;
        self.split.clear();
    }
}
