//! [`Timestamp`]: a point in time with its zone, in RFC 3339 and in the binary form of Go's `time.Time`.

use super::Duration;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Add;

/// Seconds from Go's zero time (0001-01-01 UTC) to the Unix epoch.
const ZERO_TO_UNIX: i64 = 62_135_596_800;
/// Nanoseconds in a second.
const NANOS: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// A point in time, as Go's `time.Time`. The default is Go's zero time, 0001-01-01T00:00:00Z.
///
/// Compared by the point in time alone: the zone only affects how it is written.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp {
    /// Seconds since the Unix epoch.
    secs: i64,
    /// 0 to 999,999,999.
    nanos: u32,
    zone: Zone,
}

/// The zone of a [`Timestamp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zone {
    /// UTC, written as `Z`.
    Utc,
    /// Seconds east of UTC. Go writes an offset of zero as `Z` too, but not the same in binary.
    East(i32),
}

/// Why a time cannot be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTime {
    /// The text is not in RFC 3339.
    #[error("not a time in RFC 3339, such as 2026-11-26T10:00:00.5Z")]
    Text,
    /// The bytes are not what Go's `MarshalBinary` writes.
    #[error("not a time in Go's binary form")]
    Binary,
    /// RFC 3339 cannot express it.
    #[error("a time outside the years 0 to 9999 cannot be written in RFC 3339")]
    Year,
}

impl Timestamp {
    /// Nanoseconds since the Unix epoch, in the local zone of a host that runs in UTC.
    pub fn from_unix_nanos(nanos: i64) -> Timestamp {
        Timestamp { secs: 0, nanos: 0, zone: Zone::East(0) } + Duration(nanos)
    }

    /// Nanoseconds since the Unix epoch; wraps outside the years 1678 to 2262, as Go does.
    pub fn unix_nanos(self) -> i64 {
        self.total() as i64
    }

    /// Whether it is the default.
    pub fn is_zero(self) -> bool {
        self == Timestamp::default()
    }

    /// The time since `earlier`; saturates at ±292 years.
    pub fn since(self, earlier: Timestamp) -> Duration {
        let nanos = self.total() - earlier.total();
        Duration(nanos.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
    }

    /// Nanoseconds since the Unix epoch.
    fn total(self) -> i128 {
        i128::from(self.secs) * i128::from(NANOS) + i128::from(self.nanos)
    }

    /// Appends the binary form: 15 bytes, or 16 if the zone's offset has seconds.
    pub fn write_binary(self, out: &mut Vec<u8>) {
        let (minutes, seconds) = match self.zone {
            Zone::Utc => (-1, 0),
            // Rounded down, and the rest is positive.
            Zone::East(east) => (east.div_euclid(60) as i16, east.rem_euclid(60) as u8),
        };
        out.push(if seconds == 0 { 1 } else { 2 });
        out.extend(self.secs.wrapping_add(ZERO_TO_UNIX).to_be_bytes());
        out.extend(self.nanos.to_be_bytes());
        out.extend(minutes.to_be_bytes());
        if seconds != 0 {
            out.push(seconds);
        }
    }

    /// Reads the binary form.
    ///
    /// # Errors
    /// [`BadTime::Binary`]: an unknown version, the wrong length, or a second's worth of nanoseconds.
    pub fn from_binary(bytes: &[u8]) -> Result<Timestamp, BadTime> {
        let (bytes, seconds) = match bytes {
            [1, rest @ ..] => (rest, 0),
            [2, rest @ .., seconds] => (rest, *seconds),
            _ => return Err(BadTime::Binary),
        };
        let bytes: &[u8; 14] = bytes.try_into().map_err(|_| BadTime::Binary)?;
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, m0, m1] = *bytes;
        let secs = i64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let nanos = u32::from_be_bytes([n0, n1, n2, n3]);
        if i64::from(nanos) >= NANOS {
            return Err(BadTime::Binary);
        }
        let zone = match (i32::from(i16::from_be_bytes([m0, m1])), seconds) {
            (-1, 0) => Zone::Utc,
            (minutes, seconds) => Zone::East(minutes * 60 + i32::from(seconds)),
        };
        let secs = secs.checked_sub(ZERO_TO_UNIX).ok_or(BadTime::Binary)?;
        Ok(Timestamp { secs, nanos, zone })
    }

    /// Reads RFC 3339, with up to nine decimals that count.
    ///
    /// # Errors
    /// [`BadTime::Text`].
    pub fn from_rfc3339(text: &str) -> Result<Timestamp, BadTime> {
        parse_rfc3339(text.as_bytes()).ok_or(BadTime::Text)
    }

    /// In RFC 3339, without trailing zeros in the fraction.
    ///
    /// # Errors
    /// [`BadTime::Year`].
    pub fn to_rfc3339(self) -> Result<String, BadTime> {
        let east = match self.zone {
            Zone::Utc => 0,
            Zone::East(east) => east,
        };
        let local = self.secs.checked_add(east.into()).ok_or(BadTime::Year)?;
        let (year, month, day) = civil(local.div_euclid(DAY));
        if !(0..=9999).contains(&year) || east.abs() >= DAY as i32 {
            return Err(BadTime::Year);
        }
        let second = local.rem_euclid(DAY);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let mut out = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
        if self.nanos != 0 {
            let fraction = format!(".{:09}", self.nanos);
            out.push_str(fraction.trim_end_matches('0'));
        }
        let minutes = (east / 60).abs();
        match east {
            0 => out.push('Z'),
            _ => out.push_str(&format!(
                "{}{:02}:{:02}",
                if east < 0 { '-' } else { '+' },
                minutes / 60,
                minutes % 60
            )),
        }
        Ok(out)
    }
}

fn parse_rfc3339(text: &[u8]) -> Option<Timestamp> {
    let number = |from: usize, to: usize, max: i64| {
        let digits = text.get(from..to)?;
        let digit = |value: i64, byte: &u8| {
            byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0'))
        };
        digits.iter().try_fold(0, digit).filter(|value| *value <= max)
    };
    let is = |at: usize, byte: u8| (text.get(at)? == &byte).then_some(());
    is(4, b'-').and(is(7, b'-')).and(is(10, b'T')).and(is(13, b':')).and(is(16, b':'))?;
    let (year, month, day) = (number(0, 4, 9999)?, number(5, 7, 12)?, number(8, 10, 31)?);
    let (hour, minute, second) = (number(11, 13, 23)?, number(14, 16, 59)?, number(17, 19, 59)?);
    let days = days(year, month, day);
    if civil(days) != (year, month, day) {
        return None;
    }
    let mut at = 19;
    let mut nanos = 0;
    if text.get(at) == Some(&b'.') {
        let digits = text[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let counted = digits.min(9);
        if digits == 0 {
            return None;
        }
        let fraction = number(at + 1, at + 1 + counted, i64::MAX)?;
        nanos = fraction as u32 * 10u32.pow(9 - counted as u32);
        at += 1 + digits;
    }
    let zone = match text.get(at)? {
        b'Z' if text.len() == at + 1 => Zone::Utc,
        sign @ (b'+' | b'-') if text.len() == at + 6 => {
            is(at + 3, b':')?;
            let east = number(at + 1, at + 3, 23)? * 3600 + number(at + 4, at + 6, 59)? * 60;
            Zone::East(if *sign == b'-' { -(east as i32) } else { east as i32 })
        }
        _ => return None,
    };
    let east = if let Zone::East(east) = zone { east.into() } else { 0 };
    let secs = days * DAY + hour * 3600 + minute * 60 + second - east;
    Some(Timestamp { secs, nanos, zone })
}

/// Days since the Unix epoch of a date in the proleptic Gregorian calendar. Counted from 1 March, so
/// that a leap day is the last of its year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date of a day since the Unix epoch: the inverse of [`days`].
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

impl Default for Timestamp {
    fn default() -> Timestamp {
        Timestamp { secs: -ZERO_TO_UNIX, nanos: 0, zone: Zone::Utc }
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, duration: Duration) -> Timestamp {
        let nanos = i64::from(self.nanos) + duration.0.rem_euclid(NANOS);
        let secs = duration.0.div_euclid(NANOS) + nanos / NANOS;
        let secs = self.secs.saturating_add(secs);
        Timestamp { secs, nanos: (nanos % NANOS) as u32, zone: self.zone }
    }
}

impl PartialEq for Timestamp {
    fn eq(&self, other: &Timestamp) -> bool {
        (self.secs, self.nanos) == (other.secs, other.nanos)
    }
}

impl Eq for Timestamp {}

impl PartialOrd for Timestamp {
    fn partial_cmp(&self, other: &Timestamp) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timestamp {
    fn cmp(&self, other: &Timestamp) -> Ordering {
        (self.secs, self.nanos).cmp(&(other.secs, other.nanos))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_rfc3339() {
            Ok(text) => f.write_str(&text),
            Err(_) => write!(f, "{} s after 1970", self.secs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, nanos: i64, printed: &str) {
        let time = Timestamp::from_rfc3339(text).unwrap();
        assert_eq!((time.unix_nanos(), time.to_string().as_str()), (nanos, printed));
    }

    #[test]
    fn rfc3339() {
        check("1970-01-01T00:00:00Z", 0, "1970-01-01T00:00:00Z");
        check("2026-11-26T10:00:00.5Z", 1_795_687_200_500_000_000, "2026-11-26T10:00:00.5Z");
        check(
            "2026-11-26T12:00:00.50+02:00",
            1_795_687_200_500_000_000,
            "2026-11-26T12:00:00.5+02:00",
        );
        check("2026-11-26T08:30:00-01:30", 1_795_687_200_000_000_000, "2026-11-26T08:30:00-01:30");
        check(
            "2024-02-29T00:00:00.1234567899+00:00",
            1_709_164_800_123_456_789,
            "2024-02-29T00:00:00.123456789Z",
        );
        check("1969-12-31T23:59:59.999999999Z", -1, "1969-12-31T23:59:59.999999999Z");
        assert_eq!(Timestamp::default().to_string(), "0001-01-01T00:00:00Z");
        for text in [
            "",
            "2026-11-26",
            "2026-11-26T10:00:00",
            "2026-11-26 10:00:00Z",
            "2026-02-29T10:00:00Z",
            "2026-13-01T10:00:00Z",
            "2026-00-01T10:00:00Z",
            "2026-01-00T10:00:00Z",
            "2026-11-26T24:00:00Z",
            "2026-11-26T10:00:60Z",
            "2026-11-26T10:00:00.Z",
            "2026-11-26T10:00:00Z ",
            "2026-11-26T10:00:00+0200",
            "2026-11-26T10:00:00+24:00",
        ] {
            assert_eq!(Timestamp::from_rfc3339(text), Err(BadTime::Text), "{text:?}");
        }
    }

    #[test]
    fn binary() {
        let read = |bytes: &[u8]| Timestamp::from_binary(bytes);
        assert_eq!(read(&[]), Err(BadTime::Binary));
        assert_eq!(read(&[3; 15]), Err(BadTime::Binary));
        assert_eq!(read(&[1; 15]), Ok(read(&[1; 15]).unwrap()));
        assert_eq!(read(&[1; 16]), Err(BadTime::Binary));
        assert_eq!(read(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 0]), Err(BadTime::Binary));
        let mut least = vec![1, 0x80, 0, 0, 0, 0, 0, 0, 0];
        least.resize(15, 0);
        assert_eq!(read(&least), Err(BadTime::Binary));
    }

    proptest! {
        #[test]
        fn written_times_read_back(
            secs in -62_135_596_800i64 - 365 * DAY..253_402_300_800 - DAY,
            nanos in 0u32..1_000_000_000,
            minutes in -1439..1440,
            utc: bool,
        ) {
            let zone = if utc { Zone::Utc } else { Zone::East(minutes * 60) };
            let time = Timestamp { secs, nanos, zone };
            let text = time.to_rfc3339();
            prop_assume!(text.is_ok());
            let read = Timestamp::from_rfc3339(&text.unwrap()).unwrap();
            prop_assert_eq!(read, time);
            // -00:01 cannot be told from UTC in Go's binary form.
            prop_assume!(zone != Zone::East(-60));
            let mut bytes = Vec::new();
            time.write_binary(&mut bytes);
            let read = Timestamp::from_binary(&bytes).unwrap();
            prop_assert_eq!((read, read.zone), (time, zone));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Ok(time) = Timestamp::from_binary(&bytes) {
                let _ = time.to_string();
                let _ = (time + Duration(i64::MAX)).since(Timestamp::default());
                let mut written = Vec::new();
                time.write_binary(&mut written);
                prop_assert_eq!(Timestamp::from_binary(&written), Ok(time));
            }
        }
    }
}
