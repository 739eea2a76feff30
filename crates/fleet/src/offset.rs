//! The offset between two hosts' clocks, from round trips: the fastest one is the most precise.
//!
//! An agent notes its clock, asks the coordinator for the coordinator's, and notes its own again. The answer was
//! read at some instant in between, so the middle is off by at most half of the round trip, however the two
//! ways divide it. Delays only ever lengthen a round trip, hence the smallest of many wins (as in NTP's clock
//! filter, RFC 5905 §10). Both clocks are monotonic from a reading of the calendar, so a clock that is 5 s off,
//! or is set during a run, changes nothing.

use plimsoll_measure::Nanos;

/// The difference between the coordinator's clock and this host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockOffset {
    /// What must be added to this host's clock to get the coordinator's.
    pub offset_ns: i64,
    /// The most by which it can be off: half of the fastest round trip.
    pub bound: Nanos,
}

impl ClockOffset {
    /// The instant on this host's clock at which the coordinator's reads `at`.
    pub fn local(&self, at: Nanos) -> Nanos {
        Nanos(at.0.saturating_add_signed(self.offset_ns.saturating_neg()))
    }

    /// The instant on the coordinator's clock at which this host's reads `at`.
    pub fn remote(&self, at: Nanos) -> Nanos {
        Nanos(at.0.saturating_add_signed(self.offset_ns))
    }
}

/// An estimate over round trips.
#[derive(Clone, Copy, Debug, Default)]
pub struct OffsetEstimate {
    best: Option<ClockOffset>,
}

impl OffsetEstimate {
    /// Adds a round trip: this host's clock when the question was sent and when the answer was received, and the
    /// coordinator's clock in the answer.
    pub fn add(&mut self, sent: Nanos, remote: Nanos, received: Nanos) {
        let bound = Nanos((received - sent).0.div_ceil(2));
        if self.best.is_none_or(|best| bound < best.bound) {
            let middle = sent.0.midpoint(received.0);
            let offset_ns = remote.0.wrapping_sub(middle) as i64;
            self.best = Some(ClockOffset { offset_ns, bound });
        }
    }

    /// The offset; `None` before the first round trip.
    pub fn best(&self) -> Option<ClockOffset> {
        self.best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_measure::rng::Key;

    #[test]
    fn the_offset_is_within_its_bound_for_any_delays() {
        for seed in 0..200 {
            let mut random = Key::new(seed).sequence();
            // Up to an hour off, either way.
            let offset = random.below(7_200_000_000_000) as i64 - 3_600_000_000_000;
            let mut now = 1_800_000_000_000_000_000u64;
            let mut estimate = OffsetEstimate::default();
            for _ in 0..40 {
                let sent = now;
                let there = sent + 20_000 + random.below(3_000_000);
                let back = there + 20_000 + random.below(3_000_000);
                estimate.add(Nanos(sent), Nanos(there.wrapping_add_signed(offset)), Nanos(back));
                now = back + 1_000_000;
            }
            let best = estimate.best().unwrap();
            let wrong = (best.offset_ns - offset).unsigned_abs();
            assert!(wrong <= best.bound.0, "seed {seed}: {wrong} ns off, bound {:?}", best.bound);
            let at = Nanos(now);
            assert_eq!(best.remote(best.local(at)), at);
        }
    }
}
