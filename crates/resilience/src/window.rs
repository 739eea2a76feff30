//! Two counts over a sliding window, shared by threads.
//!
//! The window is a ring of 16 buckets. A bucket is one word: the lap of the ring to which it
//! belongs, and both counts. Adding is an atomic addition to the current bucket; the first addition
//! of a lap replaces the word, so that no timer has to clear it. The sum covers the current bucket
//! and the 15 before it, that is 15/16 to 16/16 of the window's length.
//!
//! [`Window::try_add_second`] is exact under contention: it replaces the current bucket only if that
//! has not changed since the sum was taken, and older buckets no longer change, apart from additions
//! by a thread whose clock reading is late.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use plimsoll_measure::Nanos;

const BUCKETS: u64 = 16;

/// Bits of each count. A bucket counts up to half of their range and then no further, so that
/// additions by threads that race at the limit cannot overflow into the neighbouring count.
const COUNT_BITS: u32 = 22;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const COUNT_MAX: u64 = 1 << (COUNT_BITS - 1);

/// Bits of a lap. A bucket is mistaken for a current one if it is next used exactly 2^20 laps later,
/// which is months.
const LAP_MASK: u64 = (1 << (64 - 2 * COUNT_BITS)) - 1;

const FIRST: u64 = 1;
const SECOND: u64 = 1 << COUNT_BITS;

/// Both counts over the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) first: u64,
    pub(crate) second: u64,
}

impl Sums {
    fn add(&mut self, word: u64) {
        self.first += word & COUNT_MASK;
        self.second += word >> COUNT_BITS & COUNT_MASK;
    }
}

/// See the module.
#[derive(Debug)]
#[repr(align(128))] // two cache lines: what lies beside it is not slowed down
pub(crate) struct Window {
    buckets: [AtomicU64; BUCKETS as usize],
    /// The length of a bucket in nanoseconds.
    length: u64,
}

impl Window {
    /// A window of this length.
    pub(crate) fn new(length: Nanos) -> Window {
        Window {
            buckets: [const { AtomicU64::new(0) }; BUCKETS as usize],
            length: (length.0 / BUCKETS).max(1),
        }
    }

    /// The bucket with a number since the start of time, and its lap in its place of the word.
    #[inline]
    fn bucket(&self, number: u64) -> (&AtomicU64, u64) {
        let lap = ((number / BUCKETS) & LAP_MASK) << (2 * COUNT_BITS);
        (&self.buckets[(number % BUCKETS) as usize], lap)
    }

    /// Adds one to the first count.
    #[inline]
    pub(crate) fn add_first(&self, now: Nanos) {
        self.add(now, FIRST);
    }

    /// Adds one to both counts.
    #[inline]
    pub(crate) fn add_both(&self, now: Nanos) {
        self.add(now, FIRST | SECOND);
    }

    #[inline]
    fn add(&self, now: Nanos, what: u64) {
        let (bucket, lap) = self.bucket(now.0 / self.length);
        let word = bucket.load(Relaxed);
        if lap_of(word) != lap {
            // If another thread was faster, it has begun the same lap.
            if bucket.compare_exchange(word, lap | what, Relaxed, Relaxed).is_err() {
                bucket.fetch_add(what, Relaxed);
            }
        } else if !is_full(word) {
            bucket.fetch_add(what, Relaxed);
        }
    }

    /// The counts over the window that ends now.
    pub(crate) fn sums(&self, now: Nanos) -> Sums {
        let number = now.0 / self.length;
        let mut sums = self.older(number);
        let (bucket, lap) = self.bucket(number);
        sums.add(current(bucket.load(Relaxed), lap));
        sums
    }

    /// The counts of the 15 buckets before one.
    fn older(&self, number: u64) -> Sums {
        let mut sums = Sums::default();
        for older in number.saturating_sub(BUCKETS - 1)..number {
            let (bucket, lap) = self.bucket(older);
            sums.add(current(bucket.load(Relaxed), lap));
        }
        sums
    }

    /// Adds one to the second count if the counts over the window allow it; returns whether they
    /// did.
    pub(crate) fn try_add_second(&self, now: Nanos, allow: impl Fn(Sums) -> bool) -> bool {
        let number = now.0 / self.length;
        let (bucket, lap) = self.bucket(number);
        bucket
            .fetch_update(Relaxed, Relaxed, |word| {
                let mut sums = self.older(number);
                let word = current(word, lap);
                sums.add(word);
                (!is_full(word) && allow(sums)).then(|| word + SECOND)
            })
            .is_ok()
    }

    /// Forgets all counts. Additions by other threads in the meantime may survive or be lost.
    pub(crate) fn clear(&self) {
        for bucket in &self.buckets {
            // The lap stays, and with it the meaning of additions that race with this.
            bucket.fetch_and(LAP_MASK << (2 * COUNT_BITS), Relaxed);
        }
    }
}

#[inline]
fn lap_of(word: u64) -> u64 {
    word & LAP_MASK << (2 * COUNT_BITS)
}

#[inline]
fn is_full(word: u64) -> bool {
    word & COUNT_MASK >= COUNT_MAX || word >> COUNT_BITS & COUNT_MASK >= COUNT_MAX
}

/// The word if it belongs to the lap, or else that of an empty bucket.
fn current(word: u64, lap: u64) -> u64 {
    if lap_of(word) == lap { word } else { lap }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn full_buckets_count_no_further() {
        let window = Window::new(Nanos::from_secs(16));
        window.buckets[0].store(COUNT_MAX - 1, Relaxed);
        for _ in 0..3 {
            window.add_both(Nanos::ZERO);
        }
        assert_eq!(window.sums(Nanos::ZERO), Sums { first: COUNT_MAX, second: 1 });
        assert!(!window.try_add_second(Nanos::ZERO, |_| true));
    }

    proptest! {
        /// The sums are those of the last 16 buckets, at any pace, also after long pauses.
        #[test]
        fn sums_are_those_of_the_last_buckets(
            steps in proptest::collection::vec((0u64..40, any::<bool>()), 1..200),
        ) {
            let window = Window::new(Nanos(16 * 10));
            let mut events: Vec<(u64, bool)> = Vec::new();
            let mut now = 0;
            for (pause, both) in steps {
                now += if pause > 35 { pause * 50 } else { pause };
                if both { window.add_both(Nanos(now)) } else { window.add_first(Nanos(now)) }
                events.push((now, both));
                let recent = || events.iter().filter(|(at, _)| at / 10 + 16 > now / 10);
                let expected = Sums {
                    first: recent().count() as u64,
                    second: recent().filter(|(_, both)| *both).count() as u64,
                };
                prop_assert_eq!(window.sums(Nanos(now)), expected);
            }
        }
    }
}
