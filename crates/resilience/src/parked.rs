//! An upstream that asked not to be called for a while: 429, with or without `Retry-After`.
//!
//! # Why
//! A limit is not a failure: the upstream works, and says when it will take calls again. Calling it
//! before then costs a refused attempt each time, and many providers extend the limit of those who
//! keep calling. So the upstream is parked, for all calls of its service.
//!
//! # How long
//! As long as `Retry-After` says, from 100 ms to 60 s: a provider whose monthly quota is used up says
//! days, but may be paid within the hour, and asking once a minute is no burden. Without
//! `Retry-After`, for 1 s, and twice as long with each further refusal shortly after the last time
//! was over (exponential backoff), also up to 60 s. Refusals while parked answer calls that were sent
//! before; they can extend the time if they say so, but do not double it.
//!
//! # Sharing
//! By all workers: one word, so that a hundred refusals at the same moment double the time once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use plimsoll_measure::Nanos;

/// The shortest time: `Retry-After: 0` is common and means "soon".
const TIME_MIN: Nanos = Nanos::from_millis(100);

/// The first time without `Retry-After`.
const TIME_FIRST: Nanos = Nanos::from_secs(1);

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Parked {
    /// The level in the lowest 4 bits, and above them the end in milliseconds.
    word: AtomicU64,
}

const LEVEL_BITS: u32 = 4;
const LEVEL_MASK: u64 = (1 << LEVEL_BITS) - 1;

/// Doublings from [`TIME_FIRST`]: 64 s, beyond [`Parked::TIME_MAX`].
const LEVEL_MAX: u64 = 6;

const MILLI: u64 = 1_000_000;

impl Parked {
    /// An upstream that is not parked.
    pub const fn new() -> Parked {
        Parked { word: AtomicU64::new(0) }
    }

    /// The longest time.
    pub const TIME_MAX: Nanos = Nanos::from_secs(60);

    /// Parks the upstream after a refusal; returns until when. An end that is already later stays.
    #[cold]
    pub fn park(&self, retry_after: Option<Nanos>, now: Nanos) -> Nanos {
        let next = |word: u64| {
            let end = word >> LEVEL_BITS;
            let is_parked = now.0 < end.saturating_mul(MILLI);
            // Refused again within a minute: the last time was too short.
            let is_repeated = now.0 < end.saturating_mul(MILLI).saturating_add(Self::TIME_MAX.0);
            let level = match word & LEVEL_MASK {
                level if is_parked => level,
                level if is_repeated && word > 0 => (level + 1).min(LEVEL_MAX),
                _ => 0,
            };
            let backoff = Nanos(TIME_FIRST.0 << level);
            let time = match retry_after {
                Some(time) => time,
                None if is_parked => Nanos::ZERO,
                None => backoff,
            };
            let time = time.max(TIME_MIN).min(Self::TIME_MAX);
            let end = end.max((now + time).0.div_ceil(MILLI));
            Some(end << LEVEL_BITS | level)
        };
        // The update cannot fail, because there always is a next word.
        let before = self.word.fetch_update(Relaxed, Relaxed, next);
        let word = before.ok().and_then(next).unwrap_or_default();
        Nanos((word >> LEVEL_BITS) * MILLI)
    }

    /// Ends the time now, because the upstream was found to take calls again.
    pub fn end(&self, now: Nanos) {
        let end = now.0 / MILLI;
        let next =
            |word: u64| (word >> LEVEL_BITS > end).then_some(end << LEVEL_BITS | word & LEVEL_MASK);
        // Fails if it is not parked.
        let _ = self.word.fetch_update(Relaxed, Relaxed, next);
    }

    /// Until when the upstream is parked, if it is.
    #[inline]
    pub fn until(&self, now: Nanos) -> Option<Nanos> {
        let end = Nanos((self.word.load(Relaxed) >> LEVEL_BITS) * MILLI);
        (now < end).then_some(end)
    }

    /// Whether the upstream is parked.
    #[inline]
    pub fn is_parked(&self, now: Nanos) -> bool {
        self.until(now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Refusals as (milliseconds, Retry-After in seconds), and until when the upstream is parked.
    #[test]
    fn the_time_is_as_asked_or_doubles() {
        let check = |refusals: &[(u64, Option<u64>)], until: u64| {
            let parked = Parked::default();
            let mut end = Nanos::ZERO;
            for (at, retry_after) in refusals {
                let now = Nanos::from_millis(*at);
                end = parked.park(retry_after.map(Nanos::from_secs), now);
                assert_eq!(parked.until(now), Some(end));
            }
            assert_eq!(end, Nanos::from_millis(until), "{refusals:?}");
            assert!(!parked.is_parked(end));
        };
        check(&[(500, Some(7))], 7_500);
        check(&[(500, None)], 1_500);
        check(&[(0, None)], 1_000);
        // soon, and far too long
        check(&[(500, Some(0))], 600);
        check(&[(500, Some(86_400))], 60_500);
        // refusals of calls that were in flight
        check(&[(500, None), (501, None), (502, None)], 1_500);
        check(&[(500, None), (501, None), (502, None), (1_500, None)], 3_500);
        check(&[(500, None), (501, Some(3))], 3_501);
        check(&[(500, Some(3)), (501, Some(1))], 3_500);
        // refused again
        check(&[(500, None), (1_500, None)], 3_500);
        check(&[(500, None), (1_500, None), (3_500, None)], 7_500);
        check(&[(500, None), (1_500, None), (3_500, Some(1))], 4_500);
        // after a good minute, it starts anew
        check(&[(500, None), (1_500, None), (63_501, None)], 64_501);
    }

    #[test]
    fn the_time_can_be_ended() {
        let parked = Parked::default();
        let at = Nanos::from_millis;
        parked.end(at(100));
        parked.park(Some(Nanos::from_secs(60)), at(500));
        parked.end(at(2_000));
        assert!(!parked.is_parked(at(2_000)));
        assert_eq!(parked.park(None, at(2_100)), at(4_100), "refused again");
        parked.end(at(9_000));
        assert_eq!(parked.until(at(3_000)), Some(at(4_100)), "it was over");
    }

    proptest! {
        /// Whatever an upstream asks for, it is called again within the maximum.
        #[test]
        fn it_is_never_parked_for_longer_than_the_maximum(
            refusals in proptest::collection::vec((0u64..100_000, any::<Option<u64>>()), 1..50),
        ) {
            let parked = Parked::default();
            let mut now = Nanos::ZERO;
            for (pause, retry_after) in refusals {
                now += Nanos::from_millis(pause);
                let end = parked.park(retry_after.map(Nanos), now);
                prop_assert!(end > now && end <= now + Parked::TIME_MAX + Nanos::from_millis(1));
            }
        }
    }
}
