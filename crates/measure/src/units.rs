//! The type for time: [`Nanos`], a duration, or an instant relative to the start of a run.
//!
//! No calendar arithmetic (see [`crate::clock::WallClock`]). Subtraction saturates at zero, because
//! the order of two clock readings is not always known.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// Nanoseconds: a duration, or an instant relative to the start of a run.
///
/// Range 0 to 584 years. Addition saturates at the top, subtraction at zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Zero, or the start of a run.
    pub const ZERO: Nanos = Nanos(0);
    /// The maximum, used as "never".
    pub const MAX: Nanos = Nanos(u64::MAX);

    /// `secs` seconds.
    pub const fn from_secs(secs: u64) -> Nanos {
        Nanos(secs.saturating_mul(1_000_000_000))
    }

    /// `micros` microseconds.
    pub const fn from_micros(micros: u64) -> Nanos {
        Nanos(micros.saturating_mul(1_000))
    }

    /// `millis` milliseconds.
    pub const fn from_millis(millis: u64) -> Nanos {
        Nanos(millis.saturating_mul(1_000_000))
    }

    /// `secs` seconds, rounded to the nearest nanosecond; negative and NaN become zero.
    pub fn from_secs_f64(secs: f64) -> Nanos {
        Nanos((secs * 1e9).round() as u64)
    }

    /// In seconds.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// In milliseconds.
    pub fn as_millis_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// The smaller of two.
    pub fn min(self, other: Nanos) -> Nanos {
        Ord::min(self, other)
    }

    /// The larger of two.
    pub fn max(self, other: Nanos) -> Nanos {
        Ord::max(self, other)
    }
}

impl Add for Nanos {
    type Output = Nanos;
    fn add(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Nanos {
    fn add_assign(&mut self, other: Nanos) {
        *self = *self + other;
    }
}

impl Sub for Nanos {
    type Output = Nanos;
    fn sub(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(other.0))
    }
}

impl From<Duration> for Nanos {
    fn from(span: Duration) -> Nanos {
        Nanos(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Nanos> for Duration {
    fn from(span: Nanos) -> Duration {
        Duration::from_nanos(span.0)
    }
}

/// Three significant digits in a suitable unit: `0`, `840ns`, `35.2µs`, `1.04ms`, `12.5s`, `33m`,
/// `1h30m`.
impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0;
        let text = match ns {
            0 => "0".to_string(),
            1..=999 => format!("{ns}ns"),
            // Values that would round up to 1,000 use the next unit.
            1_000..=999_499 => three_digits(ns as f64 / 1e3, "µs"),
            999_500..=999_499_999 => three_digits(ns as f64 / 1e6, "ms"),
            _ if ns < 120_000_000_000 => three_digits(ns as f64 / 1e9, "s"),
            _ => hours_minutes_seconds(ns),
        };
        f.pad(&text)
    }
}

fn three_digits(value: f64, unit: &str) -> String {
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

fn hours_minutes_seconds(ns: u64) -> String {
    let secs = ns / 1_000_000_000;
    let parts = [(secs / 3600, "h"), (secs / 60 % 60, "m"), (secs % 60, "s")];
    parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect()
}

/// A number with thousands separators: `9,900,000`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number with its noun in the singular or plural: `1 request`, `2,000 requests`.
pub fn counted(n: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_agree_with_their_number() {
        let shown = [0, 1, 2_000].map(|n| counted(n, "request"));
        assert_eq!(shown, ["0 requests", "1 request", "2,000 requests"]);
    }

    #[test]
    fn times_and_numbers_are_formatted_for_people() {
        let check = |ns: u64, text: &str| assert_eq!(Nanos(ns).to_string(), text, "{ns}");
        check(0, "0");
        assert_eq!([7, 1_000, 9_900_000].map(grouped), ["7", "1,000", "9,900,000"]);
        check(840, "840ns");
        check(35_240, "35.2µs");
        check(1_000_000, "1ms");
        check(1_044_000, "1.04ms");
        check(999_600, "1ms"); // rounds up into the next unit
        check(250_000_000, "250ms");
        check(999_999_999, "1s");
        check(12_500_000_000, "12.5s");
        check(119_900_000_000, "120s");
        check(1_980_000_000_000, "33m");
        check(5_400_000_000_000, "1h30m");
    }
}
