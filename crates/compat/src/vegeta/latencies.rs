//! [`Latencies`]: the distribution of latencies, exact up to a limit.

use super::Duration;
use plimsoll_measure::{Histogram, Nanos};

/// Latencies that are kept exactly, 8 bytes each: 128 MiB. Beyond it, they are counted in a histogram
/// with 3 significant digits, so that memory stays bounded.
pub const EXACT_MAX: usize = 16 << 20;

/// A distribution of latencies.
#[derive(Debug)]
pub struct Latencies(Distribution);

#[derive(Debug)]
enum Distribution {
    /// Sorted up to this many.
    Exact(Vec<i64>, usize),
    Counted(Box<Histogram>),
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies(Distribution::Exact(Vec::new(), 0))
    }
}

impl Latencies {
    /// Adds a latency.
    pub fn add(&mut self, latency: Duration) {
        self.add_up_to(EXACT_MAX, latency);
    }

    fn add_up_to(&mut self, exact_max: usize, latency: Duration) {
        match &mut self.0 {
            Distribution::Exact(all, _) if all.len() < exact_max => all.push(latency.0),
            Distribution::Exact(all, _) => {
                let mut counted = Box::new(Histogram::new());
                std::mem::take(all).into_iter().for_each(|value| counted.record(nanos(value)));
                counted.record(nanos(latency.0));
                self.0 = Distribution::Counted(counted);
            }
            Distribution::Counted(counted) => counted.record(nanos(latency.0)),
        }
    }

    /// Whether quantiles are exact; otherwise they have 3 significant digits.
    pub fn is_exact(&self) -> bool {
        matches!(self.0, Distribution::Exact(..))
    }

    /// Prepares for quantiles; repeated after further latencies.
    pub fn sort(&mut self) {
        if let Distribution::Exact(all, sorted) = &mut self.0
            && *sorted < all.len()
        {
            all.sort_unstable();
            *sorted = all.len();
        }
    }

    /// The latency at a quantile (0 to 1), by nearest rank; 0 without latencies.
    ///
    /// # Panics
    /// If latencies were added after the last `sort`.
    pub fn quantile(&self, quantile: f64) -> Duration {
        match &self.0 {
            Distribution::Exact(all, sorted) => {
                assert_eq!(all.len(), *sorted, "sorted after the last latency");
                // Rounded before `ceil`, so that 0.999 × 1000 is 999 and not 999.0000000000001.
                let rank = (quantile * all.len() as f64 * 1e6).round() / 1e6;
                let at = (rank.ceil() as usize).clamp(1, all.len().max(1)) - 1;
                Duration(all.get(at).copied().unwrap_or_default())
            }
            Distribution::Counted(counted) => {
                let value = counted.quantile(quantile).unwrap_or_default();
                Duration(i64::try_from(value.0).unwrap_or(i64::MAX))
            }
        }
    }
}

/// Negative latencies, which only a damaged clock produces, count as 0.
fn nanos(latency: i64) -> Nanos {
    Nanos(u64::try_from(latency).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nearest_rank() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), Duration(0));
        (1..=1000).rev().for_each(|value| latencies.add(Duration(value)));
        latencies.sort();
        for (quantile, value) in [(0.0, 1), (0.5, 500), (0.999, 999), (0.9991, 1000), (1.0, 1000)] {
            assert_eq!(latencies.quantile(quantile), Duration(value), "{quantile}");
        }
        latencies.add(Duration(-5));
        latencies.sort();
        assert_eq!(latencies.quantile(0.0), Duration(-5));
    }

    proptest! {
        #[test]
        fn beyond_the_limit_quantiles_have_three_digits(
            all in prop::collection::vec(0i64..100_000_000_000, 1..200),
            quantile in 0.0f64..=1.0,
        ) {
            let (mut exact, mut counted) = (Latencies::default(), Latencies::default());
            for value in &all {
                exact.add(Duration(*value));
                counted.add_up_to(all.len() / 2, Duration(*value));
            }
            exact.sort();
            counted.sort();
            prop_assert!(exact.is_exact() && !counted.is_exact());
            let (exact, counted) = (exact.quantile(quantile).0, counted.quantile(quantile).0);
            prop_assert!(counted >= exact && counted - exact <= exact / 1000 + 1, "{exact} {counted}");
        }
    }
}
