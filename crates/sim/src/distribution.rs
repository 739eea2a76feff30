//! Distributions of durations. Samples are computed from a seeded sequence, so that a seed gives the
//! same values anywhere.

use std::fmt;

use plimsoll_config::values;
use plimsoll_measure::Nanos;
use plimsoll_measure::rng::Sequence;

/// A distribution of durations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distribution {
    /// Always the same duration.
    Constant(Nanos),
    /// Uniformly distributed between two bounds.
    Uniform {
        /// The lower bound.
        from: Nanos,
        /// The upper bound.
        to: Nanos,
    },
    /// Exponentially distributed.
    Exponential {
        /// The mean.
        mean: Nanos,
    },
    /// Mostly near the median, with a long tail.
    Lognormal {
        /// The median.
        median: Nanos,
        /// The 99th percentile; at least the median.
        p99: Nanos,
    },
}

/// The 99th percentile of the standard normal distribution.
const NORMAL_P99: f64 = 2.326_347_874_040_841;

impl Distribution {
    /// The next value.
    pub fn sample(&self, random: &mut Sequence) -> Nanos {
        // In (0, 1], so that the logarithm is finite.
        let mut unit = || 1.0 - random.unit();
        match *self {
            Distribution::Constant(span) => span,
            Distribution::Uniform { from, to } => {
                from + Nanos(((to - from).0 as f64 * unit()) as u64)
            }
            Distribution::Exponential { mean } => Nanos((mean.0 as f64 * -unit().ln()) as u64),
            Distribution::Lognormal { median, p99 } => {
                let sigma = (p99.0.max(1) as f64 / median.0.max(1) as f64).ln() / NORMAL_P99;
                // Box and Muller 1958.
                let normal = (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos();
                Nanos((median.0 as f64 * (sigma * normal).exp()) as u64)
            }
        }
    }

    /// Parses `5ms`, `uniform 1ms 5ms`, `exponential 5ms` or `lognormal 5ms 50ms` (median, p99).
    ///
    /// # Errors
    /// Returns a message that lists the valid forms.
    pub fn parse(text: &str) -> Result<Distribution, String> {
        let words: Vec<_> = text.split_whitespace().collect();
        let span = |text: &str| values::duration(text).map(Nanos::from);
        let ordered = |low: &str, high: &str| {
            let (low, high) = (span(low)?, span(high)?);
            if low <= high {
                Ok((low, high))
            } else {
                Err(format!("the second duration in \"{text}\" must not be less than the first"))
            }
        };
        match words[..] {
            [one] | ["constant", one] => span(one).map(Distribution::Constant),
            ["uniform", from, to] => {
                ordered(from, to).map(|(from, to)| Distribution::Uniform { from, to })
            }
            ["exponential", mean] => span(mean).map(|mean| Distribution::Exponential { mean }),
            ["lognormal", median, p99] => {
                ordered(median, p99).map(|(median, p99)| Distribution::Lognormal { median, p99 })
            }
            _ => Err(format!(
                "\"{text}\" is not a distribution; write 5ms, \"uniform 1ms 5ms\", \"exponential 5ms\" or \"lognormal 5ms 50ms\" (median, p99)"
            )),
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distribution::Constant(span) => write!(f, "constant {span}"),
            Distribution::Uniform { from, to } => write!(f, "uniform {from} {to}"),
            Distribution::Exponential { mean } => write!(f, "exponential {mean}"),
            Distribution::Lognormal { median, p99 } => write!(f, "lognormal {median} {p99}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_measure::rng::Key;

    #[test]
    fn distributions_are_parsed() {
        let ms = Nanos::from_millis;
        let check = |text: &str, read: Distribution| {
            assert_eq!(Distribution::parse(text), Ok(read), "{text}");
        };
        check("5ms", Distribution::Constant(ms(5)));
        check("constant 5ms", Distribution::Constant(ms(5)));
        check("uniform 1ms 5ms", Distribution::Uniform { from: ms(1), to: ms(5) });
        check("exponential 5ms", Distribution::Exponential { mean: ms(5) });
        check("lognormal 5ms 50ms", Distribution::Lognormal { median: ms(5), p99: ms(50) });
        for bad in ["", "5", "uniform 5ms", "uniform 5ms 1ms", "lognormal 9ms 1ms", "normal 1ms"] {
            assert!(Distribution::parse(bad).is_err(), "{bad}");
        }
    }

    /// Means and percentiles within 3 % of the formulas, over 200,000 values.
    #[test]
    fn samples_follow_the_distribution() {
        let check = |text: &str, mean_ms: f64, p99_ms: f64| {
            let distribution = Distribution::parse(text).expect("a distribution");
            let mut random = Key::new(11).sequence();
            let mut values: Vec<f64> =
                (0..200_000).map(|_| distribution.sample(&mut random).as_millis_f64()).collect();
            values.sort_by(f64::total_cmp);
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let p99 = values[values.len() * 99 / 100];
            assert!((mean / mean_ms - 1.0).abs() < 0.03, "{text}: mean {mean}");
            assert!((p99 / p99_ms - 1.0).abs() < 0.03, "{text}: p99 {p99}");
        };
        check("7ms", 7.0, 7.0);
        check("uniform 10ms 20ms", 15.0, 19.9);
        check("exponential 10ms", 10.0, 46.05);
        // sigma = ln 10 / 2.326, mean = median × exp(sigma² / 2)
        check("lognormal 5ms 50ms", 8.16, 50.0);
    }
}
