//! A quantile of the latencies of the last seconds.
//!
//! # Why
//! A hedge is sent when a call has taken longer than most: the delay must follow the upstream's
//! present latency (Dean and Barroso, "The tail at scale", CACM 2013, hedge after the 95th
//! percentile). A fixed delay hedges everything when an upstream becomes slow, or nothing when it is
//! fast.
//!
//! # How
//! A histogram with logarithmic buckets, 16 for each factor of two (as in HdrHistogram), in two
//! generations: one is being filled, the other holds the window before it. When a window has passed,
//! the older generation is cleared and filled next. The estimate is the quantile over both, so over
//! the last one to two windows. It is computed anew at most 40 times per window, by the thread that
//! happens to record then, and read from one word.
//!
//! The alternatives have no bound on their error (P², Jain and Chlamtac 1985; stochastic
//! approximation, which also needs time to follow), allocate (t-digest, CKMS), or store every value.
//!
//! # Error
//! The estimate is within 1/32 (3.2 %) of the exact quantile (nearest rank) of the recorded latencies,
//! or within 0.6 µs of it below 17 µs. Latencies above 68 s count as 68 s.
//!
//! # Censoring
//! When a hedge wins, the first attempt is cancelled, and its latency stays unknown. Leaving it out
//! would remove just the slowest calls: the quantile would fall, more calls would be hedged, and so on.
//! So record the time that the loser had taken when it was cancelled. It is a lower bound and above
//! the quantile, and a quantile depends only on the number of values above it, not on how far above.
//!
//! # Sharing
//! By all workers. A latency costs an atomic addition. The thread that starts a new generation clears
//! its counts, which may lose a few latencies that others record at that moment.
//!
//! 3 KiB each.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use plimsoll_measure::Nanos;

/// Bits of a latency's position within its factor of two.
const PRECISION: u32 = 4;

/// Buckets for each factor of two.
const STEPS: usize = 1 << PRECISION;

/// Latencies are counted in units of 1,024 ns.
const UNIT_BITS: u32 = 10;

/// Factors of two above the linear part, which is the first [`STEPS`] units: up to 2^26 units, 68 s.
const DOUBLINGS: usize = 22;

const BUCKETS: usize = STEPS * (1 + DOUBLINGS);

/// Estimates per window.
const REFRESHES: u64 = 40;

/// See the [module](self).
#[derive(Debug)]
pub struct Quantile {
    quantile: f64,
    /// The length of a window in nanoseconds.
    window: u64,
    /// Fewer latencies give no estimate.
    samples_min: u64,
    /// The number of the window whose generation is being filled.
    current: AtomicU64,
    refresh_at: AtomicU64,
    /// In nanoseconds; 0 if there is none.
    estimate: AtomicU64,
    generations: [[AtomicU32; BUCKETS]; 2],
}

impl Quantile {
    /// The default length of a window.
    pub const WINDOW: Nanos = Nanos::from_secs(30);

    /// An estimator of this quantile (above 0 and below 1) over one to two windows (positive).
    ///
    /// It needs `1 / (1 - quantile)` latencies: below that, the quantile is the maximum.
    ///
    /// # Panics
    /// A parameter is out of its range.
    pub fn new(quantile: f64, window: Nanos) -> Quantile {
        assert!(quantile > 0.0 && quantile < 1.0, "a quantile of {quantile}");
        assert!(window > Nanos::ZERO, "a window of zero");
        Quantile {
            quantile,
            window: window.0,
            samples_min: (1.0 / (1.0 - quantile)).round() as u64,
            current: AtomicU64::new(0),
            refresh_at: AtomicU64::new(0),
            estimate: AtomicU64::new(0),
            generations: [const { [const { AtomicU32::new(0) }; BUCKETS] }; 2],
        }
    }

    /// Records the latency of a call that ended now, or was cancelled now.
    #[inline]
    pub fn record(&self, latency: Nanos, now: Nanos) {
        let number = now.0 / self.window;
        if number > self.current.load(Relaxed) {
            self.begin_generation(number);
        }
        self.generations[(number & 1) as usize][bucket(latency)].fetch_add(1, Relaxed);
        if now.0 >= self.refresh_at.load(Relaxed) {
            self.refresh(now);
        }
    }

    /// The quantile; `None` while too few latencies are known. After a pause it is that of the time
    /// before.
    #[inline]
    pub fn estimate(&self) -> Option<Nanos> {
        let estimate = self.estimate.load(Relaxed);
        (estimate > 0).then_some(Nanos(estimate))
    }

    #[cold]
    fn begin_generation(&self, number: u64) {
        let before = self.current.fetch_max(number, Relaxed);
        if before >= number {
            return;
        }
        let clear = |number: u64| {
            self.generations[(number & 1) as usize].iter().for_each(|count| count.store(0, Relaxed))
        };
        clear(number);
        if number - before > 1 {
            // The other one is older than the window before this.
            clear(number - 1);
        }
    }

    #[cold]
    fn refresh(&self, now: Nanos) {
        let due = self.refresh_at.load(Relaxed);
        let next = now.0.saturating_add(self.window / REFRESHES);
        if now.0 < due || self.refresh_at.compare_exchange(due, next, Relaxed, Relaxed).is_err() {
            return;
        }
        let count = |bucket: usize| {
            let counts = self.generations.each_ref().map(|counts| counts[bucket].load(Relaxed));
            u64::from(counts[0]) + u64::from(counts[1])
        };
        let total: u64 = (0..BUCKETS).map(count).sum();
        let mut left = (self.quantile * total as f64).ceil() as u64;
        let reaches = |bucket: &usize| {
            left = left.saturating_sub(count(*bucket));
            left == 0
        };
        let estimate = match (0..BUCKETS).find(reaches) {
            Some(bucket) if total >= self.samples_min => middle(bucket),
            _ => Nanos::ZERO,
        };
        self.estimate.store(estimate.0, Relaxed);
    }
}

/// The bucket of a latency.
#[inline]
fn bucket(latency: Nanos) -> usize {
    let units = latency.0 >> UNIT_BITS;
    let Some(doubling) = units.checked_ilog2().and_then(|log| log.checked_sub(PRECISION)) else {
        return units as usize;
    };
    let step = (units >> doubling) as usize; // STEPS to 2 × STEPS - 1
    (doubling as usize * STEPS + step).min(BUCKETS - 1)
}

/// The middle of a bucket.
fn middle(bucket: usize) -> Nanos {
    let doubling = (bucket / STEPS).saturating_sub(1);
    let step = (bucket - doubling * STEPS) as u64;
    let (low, width) = (step << doubling << UNIT_BITS, 1u64 << doubling << UNIT_BITS);
    Nanos(low + width / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_measure::rng::Key;
    use proptest::prelude::*;

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        let mut last = 0;
        for units in 0..(1u64 << 16) {
            let found = bucket(Nanos(units << UNIT_BITS));
            assert!(found == last || found == last + 1, "{units}");
            last = found;
        }
        for (at, latency) in [(0, 0), (15, 16_000), (16, 16_384), (BUCKETS - 1, u64::MAX)] {
            assert_eq!(bucket(Nanos(latency)), at, "{latency}");
        }
        for at in 0..BUCKETS {
            assert_eq!(bucket(middle(at)), at);
        }
    }

    #[test]
    fn the_estimate_follows_the_latency() {
        let quantile = Quantile::new(0.95, Nanos::from_secs(10));
        let near = |millis: u64| {
            let estimate = quantile.estimate().expect("an estimate").as_millis_f64();
            let error = (estimate / millis as f64 - 1.0).abs();
            assert!(error <= 1.0 / 32.0, "{estimate} for {millis}");
        };
        let mut now = Nanos::from_secs(100);
        let mut pass = |millis: u64, secs: u64| {
            for _ in 0..secs * 10 {
                now += Nanos::from_millis(100);
                quantile.record(Nanos::from_millis(millis), now);
            }
        };
        pass(10, 1);
        assert_eq!(quantile.estimate(), None, "19 samples are needed");
        pass(10, 9);
        near(10);
        pass(100, 2);
        near(100);
        // The slow calls are forgotten after two windows.
        pass(10, 20);
        near(10);
        // After an hour without calls, new ones count alone.
        now += Nanos::from_secs(3600);
        quantile.record(Nanos::from_millis(10), now);
        assert_eq!(quantile.estimate(), None);
    }

    /// Every call above the estimate is cancelled there and recorded with the time until then.
    #[test]
    fn cancelled_losers_do_not_lower_the_estimate() {
        let quantile = Quantile::new(0.95, Nanos::from_secs(10));
        let mut random = Key::new(1).sequence();
        for n in 0..100_000u64 {
            let latency = Nanos(1_000_000 + random.below(99_000_000));
            let cut = quantile
                .estimate()
                .map_or(latency, |delay| latency.min(delay + Nanos::from_millis(2)));
            quantile.record(cut, Nanos::from_secs(1) + Nanos::from_millis(n));
        }
        let estimate = quantile.estimate().expect("an estimate").as_millis_f64();
        assert!((90.0..100.0).contains(&estimate), "{estimate}");
    }

    proptest! {
        /// The estimate is within the documented bound of the exact quantile.
        #[test]
        fn the_error_is_bounded(
            exponents in proptest::collection::vec(9.0..36.0f64, 20..400),
            quantile in 0.05..0.95f64,
        ) {
            let estimator = Quantile::new(quantile, Nanos::from_secs(1_000_000));
            let mut latencies: Vec<u64> = exponents.iter().map(|e| e.exp2() as u64).collect();
            for (n, latency) in latencies.iter().enumerate() {
                // The last one comes when an estimate is due.
                let now = if n + 1 == latencies.len() { 900_000 } else { 1 };
                estimator.record(Nanos(*latency), Nanos::from_secs(now));
            }
            latencies.sort_unstable();
            let rank = (quantile * latencies.len() as f64).ceil() as usize;
            let exact = latencies[rank.max(1) - 1] as f64;
            let estimate = estimator.estimate().expect("an estimate").0 as f64;
            let bound = (exact / 32.0).max(600.0);
            prop_assert!((estimate - exact).abs() <= bound, "{} for {}", estimate, exact);
        }
    }
}
