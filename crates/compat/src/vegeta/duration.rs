//! [`Duration`]: a signed duration, read and printed in Go's notation, such as `1m30s`.

use std::fmt;
use std::str::FromStr;

/// A duration in nanoseconds, as Go's `time.Duration`: ±292 years; negative values are possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub i64);

/// The units, with their nanoseconds. `µ` exists twice in Unicode.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// The largest magnitude, that of the most negative duration.
const MAGNITUDE_MAX: u64 = 1 << 63;

impl Duration {
    /// `secs` seconds.
    pub const fn from_secs(secs: i64) -> Duration {
        Duration(secs * 1_000_000_000)
    }

    /// In seconds, as Go computes it: whole seconds and the fraction separately.
    pub fn seconds(self) -> f64 {
        (self.0 / 1_000_000_000) as f64 + (self.0 % 1_000_000_000) as f64 / 1e9
    }

    /// Rounded to a multiple of `unit`, half away from zero; saturates.
    pub fn rounded(self, unit: Duration) -> Duration {
        let rest = self.0 % unit.0;
        let down = self.0 - rest;
        if rest.unsigned_abs() * 2 < unit.0.unsigned_abs() {
            return Duration(down);
        }
        Duration(down.saturating_add(unit.0 * rest.signum()))
    }
}

/// The text is not a duration. Worded as Go words it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDuration {
    /// Not a number with a unit, or out of range.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number without a unit; only `0` needs none.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// A unit that is none of ns, us, ms, s, m, h.
    #[error("time: unknown unit {0:?} in duration {1:?}")]
    UnknownUnit(String, String),
}

impl FromStr for Duration {
    type Err = BadDuration;

    fn from_str(text: &str) -> Result<Duration, BadDuration> {
        let invalid = || BadDuration::Invalid(text.to_string());
        let negative = text.starts_with('-');
        let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
        if rest == "0" {
            return Ok(Duration(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (value, after) = component(text, rest)?;
            total =
                total.checked_add(value).filter(|sum| *sum <= MAGNITUDE_MAX).ok_or_else(invalid)?;
            rest = after;
        }
        match i64::try_from(total) {
            Ok(total) => Ok(Duration(if negative { -total } else { total })),
            Err(_) if negative => Ok(Duration(i64::MIN)),
            Err(_) => Err(invalid()),
        }
    }
}

/// The first number with its unit, in nanoseconds, and the text after it.
fn component<'a>(text: &str, rest: &'a str) -> Result<(u64, &'a str), BadDuration> {
    let invalid = || BadDuration::Invalid(text.to_string());
    let (whole, rest) = digits(rest);
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), digits);
    if whole.is_empty() && fraction.is_empty() {
        return Err(invalid());
    }
    let end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    if unit.is_empty() {
        return Err(BadDuration::MissingUnit(text.to_string()));
    }
    let Some((_, nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(BadDuration::UnknownUnit(unit.to_string(), text.to_string()));
    };
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
    let whole = whole.checked_mul(*nanos).filter(|value| *value <= MAGNITUDE_MAX);
    // Digits beyond the 18th are below a nanosecond, whatever the unit.
    let fraction = &fraction[..fraction.len().min(18)];
    let scale = 10f64.powi(fraction.len() as i32);
    let fraction = fraction.parse::<u64>().unwrap_or(0) as f64 * (*nanos as f64 / scale);
    let value = whole.and_then(|whole| whole.checked_add(fraction as u64)).ok_or_else(invalid)?;
    Ok((value, rest))
}

/// The leading digits, and the rest.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if nanos == 0 {
            return f.write_str("0s");
        }
        let sign = if self.0 < 0 { "-" } else { "" };
        let (value, digits, unit) = match nanos {
            0..1_000 => (nanos, 0, "ns"),
            1_000..1_000_000 => (nanos, 3, "µs"),
            1_000_000..1_000_000_000 => (nanos, 6, "ms"),
            _ => {
                let minutes = nanos / 60_000_000_000;
                f.write_str(sign)?;
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                return f.write_str(&decimal(nanos % 60_000_000_000, 9, "s"));
            }
        };
        write!(f, "{sign}{}", decimal(value, digits, unit))
    }
}

/// `value`, whose last `digits` digits are its fraction, without trailing zeros.
fn decimal(value: u64, digits: usize, unit: &str) -> String {
    let scale = 10u64.pow(digits as u32);
    let fraction = format!("{:0digits$}", value % scale);
    match fraction.trim_end_matches('0') {
        "" => format!("{}{unit}", value / scale),
        fraction => format!("{}.{fraction}{unit}", value / scale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, nanos: i64, printed: &str) {
        let duration: Duration = text.parse().unwrap();
        assert_eq!((duration, duration.to_string().as_str()), (Duration(nanos), printed));
    }

    #[test]
    fn notation() {
        check("0", 0, "0s");
        check("-0", 0, "0s");
        check("1ns", 1, "1ns");
        check("1.5us", 1_500, "1.5µs");
        check("1µs", 1_000, "1µs");
        check("1μs", 1_000, "1µs");
        check("100ms", 100_000_000, "100ms");
        check("1m30s", 90_000_000_000, "1m30s");
        check("90m", 5_400_000_000_000, "1h30m0s");
        check("+.5s", 500_000_000, "500ms");
        check("1.s", 1_000_000_000, "1s");
        check("-1.5h", -5_400_000_000_000, "-1h30m0s");
        check("-9223372036854775808ns", i64::MIN, "-2562047h47m16.854775808s");
        check("0.3333333333333333333h", 1_200_000_000_000 - 1, "19m59.999999999s");
    }

    #[track_caller]
    fn refused(text: &str, message: &str) {
        assert_eq!(text.parse::<Duration>().unwrap_err().to_string(), message);
    }

    #[test]
    fn errors() {
        for text in ["", "-", "s", ".s", "9223372036854775808ns", "99999999999999999999s", "1s "] {
            assert!(text.parse::<Duration>().is_err(), "{text:?}");
        }
        refused("x", "time: invalid duration \"x\"");
        refused("5", "time: missing unit in duration \"5\"");
        refused("5d", "time: unknown unit \"d\" in duration \"5d\"");
    }

    #[test]
    fn rounding() {
        let rounded = |nanos, unit| Duration(nanos).rounded(Duration(unit)).0;
        assert_eq!(rounded(1_499, 1_000), 1_000);
        assert_eq!(rounded(1_500, 1_000), 2_000);
        assert_eq!(rounded(-1_500, 1_000), -2_000);
        assert_eq!(rounded(i64::MAX, 1_000), i64::MAX);
    }

    proptest! {
        #[test]
        fn printed_durations_read_back(nanos: i64) {
            let printed = Duration(nanos).to_string();
            prop_assert_eq!(printed.parse(), Ok(Duration(nanos)));
        }
    }
}
