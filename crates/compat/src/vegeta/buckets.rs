//! [`Buckets`]: counts of latencies between bounds that the user chooses.

use super::Duration;
use super::duration::BadDuration;

/// Bounds at most.
const BOUNDS_MAX: usize = 10_000;

/// Counts of latencies. Each bound is the inclusive lower end of a bucket; the last bucket is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    bounds: Vec<Duration>,
    counts: Vec<u64>,
    total: u64,
}

/// The text does not describe buckets. Worded as vegeta words it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBuckets {
    /// Not a list in brackets.
    #[error("bad buckets: {0}")]
    NoList(String),
    /// A bound is not a duration.
    #[error(transparent)]
    Bound(#[from] BadDuration),
    /// More bounds than are counted.
    #[error("bad buckets: {0} bounds; at most 10000 are counted")]
    TooMany(usize),
}

impl Buckets {
    /// Reads `[0,10ms,100ms]`. A bucket from 0 is added if the first bound is above it.
    ///
    /// # Errors
    /// No brackets, or a bound that is not a duration.
    pub fn parse(text: &str) -> Result<Buckets, BadBuckets> {
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let inner = inner.ok_or_else(|| BadBuckets::NoList(text.to_string()))?;
        let count = inner.split(',').count();
        if count > BOUNDS_MAX {
            return Err(BadBuckets::TooMany(count));
        }
        let bounds = inner.split(',').map(|bound| bound.trim().parse());
        let mut bounds = bounds.collect::<Result<Vec<Duration>, _>>()?;
        if bounds[0] > Duration(0) {
            bounds.insert(0, Duration(0));
        }
        Ok(Buckets { counts: vec![0; bounds.len()], bounds, total: 0 })
    }

    /// Counts a latency in the first bucket that includes it; one below all of them in the last, as
    /// vegeta does.
    pub fn add(&mut self, latency: Duration) {
        let inside = |pair: &[Duration]| pair[0] <= latency && latency < pair[1];
        let bucket = self.bounds.windows(2).position(inside).unwrap_or(self.bounds.len() - 1);
        self.counts[bucket] += 1;
        self.total += 1;
    }

    /// Each bucket: its lower bound, its upper bound (`None`: open), its count.
    pub fn all(&self) -> impl Iterator<Item = (Duration, Option<Duration>, u64)> {
        let upper = self.bounds.iter().skip(1).copied().map(Some).chain([None]);
        let lower = self.bounds.iter().copied();
        lower.zip(upper).zip(&self.counts).map(|((lower, upper), count)| (lower, upper, *count))
    }

    /// The number of latencies.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, latencies: &[i64], expected: &[(i64, u64)]) {
        let mut buckets = Buckets::parse(text).unwrap();
        latencies.iter().for_each(|latency| buckets.add(Duration(*latency)));
        let all: Vec<_> = buckets.all().map(|(lower, _, count)| (lower.0, count)).collect();
        assert_eq!((all.as_slice(), buckets.total()), (expected, latencies.len() as u64), "{text}");
    }

    #[test]
    fn counting() {
        check("[0,2ns]", &[0, 1, 2, 3], &[(0, 2), (2, 2)]);
        check("[1ns, 2ns]", &[0, 1, 2, -1], &[(0, 1), (1, 1), (2, 2)]);
        check("[0]", &[5], &[(0, 1)]);
        check("[-1ns,5ns]", &[0], &[(-1, 1), (5, 0)]);
        check("[5ns,1ns]", &[0, 3, 7], &[(0, 2), (5, 0), (1, 1)]);
    }

    #[test]
    fn errors() {
        for (text, message) in [
            ("", "bad buckets: "),
            ("[", "bad buckets: ["),
            ("0,1ms", "bad buckets: 0,1ms"),
            ("[]", "time: invalid duration \"\""),
            ("[0,1]", "time: missing unit in duration \"1\""),
        ] {
            assert_eq!(Buckets::parse(text).unwrap_err().to_string(), message, "{text:?}");
        }
        let many = format!("[0{}]", ",0".repeat(BOUNDS_MAX));
        assert_eq!(Buckets::parse(&many), Err(BadBuckets::TooMany(BOUNDS_MAX + 1)));
    }
}
