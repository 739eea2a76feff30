//! The only module that reads the system's clocks.
//!
//! All other code takes a [`Clock`] or a [`WallClock`], so that tests can set the time.

use crate::Nanos;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    fn a_clock_reads_zero_before_its_start() {
        let clock = Clock::start_in(Duration::from_secs(3600));
        assert_eq!(clock.now(), Nanos::ZERO);
        assert!(clock.until_start() > Nanos::from_secs(3500));
    }
}
