//! The only module that reads the system's clocks.
//!
//! All other code takes a [`Clock`] or a [`WallClock`], so that tests can set the time.

use crate::Nanos;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const DAY_NS: u64 = 86_400_000_000_000;

/// A monotonic clock that counts from the start of a run.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[allow(clippy::disallowed_methods)] // this is the replacement
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// A clock that starts after `lead` and reads zero until then.
    pub fn start_in(lead: Duration) -> Clock {
        let mut clock = Clock::start();
        clock.origin += lead;
        clock
    }

    /// A clock that reads zero when this one reads `at`.
    pub fn starting_at(&self, at: Nanos) -> Clock {
        Clock { origin: self.origin + Duration::from_nanos(at.0) }
    }

    /// Time since the start; zero before the start.
    #[allow(clippy::disallowed_methods)]
    #[inline]
    pub fn now(&self) -> Nanos {
        Instant::now().saturating_duration_since(self.origin).into()
    }

    /// Time until the clock starts; zero once it has.
    #[allow(clippy::disallowed_methods)]
    pub fn until_start(&self) -> Nanos {
        self.origin.saturating_duration_since(Instant::now()).into()
    }
}

/// A point in calendar time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallClock {
    /// Nanoseconds since 1970-01-01 UTC.
    pub unix_ns: u64,
}

impl WallClock {
    /// Reads the system's wall clock; dates before 1970 become 1970.
    #[allow(clippy::disallowed_methods)]
    pub fn now() -> WallClock {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallClock { unix_ns: Nanos::from(since).0 }
    }

    /// As RFC 3339 with milliseconds, in UTC: `2026-11-20T20:24:01.250Z`.
    pub fn rfc3339(self) -> String {
        let millis = i64::try_from(self.unix_ns / 1_000_000).unwrap_or(i64::MAX);
        jiff::Timestamp::from_millisecond(millis)
            .map(|t| format!("{t:.3}"))
            .unwrap_or_else(|_| "out of range".into())
    }

    /// Parses a date (its start in UTC) or RFC 3339, from 1970 on.
    pub fn parse(text: &str) -> Option<WallClock> {
        let at = match text.parse::<Timestamp>() {
            Ok(at) => at,
            // A date with a time, but without a zone, would be read as a date.
            Err(_) if text.len() > "2027-01-31".len() => return None,
            Err(_) => text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp(),
        };
        let unix_ns = u64::try_from(at.as_nanosecond()).ok()?;
        Some(WallClock { unix_ns })
    }

    /// The day in UTC, counted from 1970-01-01, which is day 0.
    pub fn day(self) -> u64 {
        self.unix_ns / DAY_NS
    }

    /// The month in UTC, counted from January 1970, which is month 0.
    pub fn month(self) -> u64 {
        let secs = (self.unix_ns / 1_000_000_000) as i64;
        let date = Timestamp::from_second(secs).unwrap_or_default().to_zoned(TimeZone::UTC).date();
        (i64::from(date.year()) - 1970).max(0) as u64 * 12 + date.month() as u64 - 1
    }

    /// The start of a day.
    pub fn of_day(day: u64) -> WallClock {
        WallClock { unix_ns: day.saturating_mul(DAY_NS) }
    }

    /// The start of a month.
    pub fn of_month(month: u64) -> WallClock {
        let year = i16::try_from(1970 + month / 12).unwrap_or(i16::MAX);
        let date = Date::new(year, (month % 12) as i8 + 1, 1).ok();
        let start = date.and_then(|date| date.to_zoned(TimeZone::UTC).ok());
        let unix_ns = start.and_then(|start| u64::try_from(start.timestamp().as_nanosecond()).ok());
        WallClock { unix_ns: unix_ns.unwrap_or(u64::MAX) }
    }

    /// For a file name: `20261120-202401`, in UTC.
    pub fn compact(self) -> String {
        let digits: String = self.rfc3339().chars().filter(char::is_ascii_digit).collect();
        match digits.len() {
            0..14 => "undated".into(),
            _ => format!("{}-{}", &digits[..8], &digits[8..14]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_formatted_as_rfc3339() {
        let at = WallClock { unix_ns: 1_795_206_241_250_000_000 };
        assert_eq!(at.rfc3339(), "2026-11-20T20:24:01.250Z");
        assert_eq!(at.compact(), "20261120-202401");
    }

    #[test]
    fn dates_are_parsed_and_counted() {
        let check = |text: &str, shown: Option<&str>| {
            let parsed = WallClock::parse(text).map(WallClock::rfc3339);
            assert_eq!(parsed.as_deref(), shown, "{text}");
        };
        check("2027-01-31", Some("2027-01-31T00:00:00.000Z"));
        check("2027-01-31T12:30:00Z", Some("2027-01-31T12:30:00.000Z"));
        check("2027-01-31T12:30:00+02:00", Some("2027-01-31T10:30:00.000Z"));
        for wrong in ["", "2027", "2027-02-30", "2027-01-31T12:30:00", "1969-12-31", "soon"] {
            check(wrong, None);
        }
        let at = |text: &str| WallClock::parse(text).expect(text);
        assert_eq!((at("1970-01-01").day(), at("1970-01-01").month()), (0, 0));
        assert_eq!(at("2027-01-31T23:59:59Z").month(), 57 * 12);
        assert_eq!(at("2027-02-01").month(), 57 * 12 + 1);
        assert_eq!(WallClock::of_month(57 * 12 + 1), at("2027-02-01"));
        assert_eq!(WallClock::of_day(at("2027-02-01T05:00:00Z").day()), at("2027-02-01"));
    }

    #[test]
    fn a_clock_reads_zero_before_its_start() {
        let clock = Clock::start_in(Duration::from_secs(3600));
        assert_eq!(clock.now(), Nanos::ZERO);
        assert!(clock.until_start() > Nanos::from_secs(3500));
    }
}
