//! What is asked of the stored usage: a span of hours, what to group by, and what to leave out.

use std::collections::BTreeMap;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use super::{Counts, Subject};

/// Hours of a day.
const DAY_HOURS: u64 = 24;

/// A span of time, in hours since 1970, without the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first hour.
    pub from: u64,
    /// The hour after the last.
    pub to: u64,
}

/// The parts of time that may be distinguished, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// Hours.
    Hour,
    /// Days.
    Day,
    /// Months.
    Month,
}

/// What is distinguished; the rest is added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grouping {
    /// The time; `None`: the span as a whole.
    pub period: Option<Period>,
    /// Endpoints.
    pub endpoint: bool,
    /// Keys.
    pub key: bool,
    /// Services.
    pub service: bool,
    /// Methods.
    pub method: bool,
}

impl Grouping {
    /// The names of what can be distinguished.
    pub const NAMES: [&'static str; 7] =
        ["hour", "day", "month", "endpoint", "key", "service", "method"];

    /// Reads names, separated by commas.
    ///
    /// # Errors
    /// What is wrong with them, and the names.
    pub fn parse(text: &str) -> Result<Grouping, String> {
        let mut grouping = Grouping::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let period = match word {
                "hour" => Some(Period::Hour),
                "day" => Some(Period::Day),
                "month" => Some(Period::Month),
                "endpoint" => {
                    grouping.endpoint = true;
                    None
                }
                "key" => {
                    grouping.key = true;
                    None
                }
                "service" => {
                    grouping.service = true;
                    None
                }
                "method" => {
                    grouping.method = true;
                    None
                }
                _ => {
                    let known = Grouping::NAMES.join(", ");
                    return Err(format!("\"{word}\" cannot be grouped by; known are {known}"));
                }
            };
            if period.is_some() && grouping.period.is_some_and(|other| Some(other) != period) {
                return Err("hour, day and month exclude each other".into());
            }
            grouping.period = grouping.period.or(period);
        }
        Ok(grouping)
    }
}

/// What is left out: everything that has another value than one that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The endpoint's id; empty: what came through none.
    pub endpoint: Option<String>,
    /// The key's name.
    pub key: Option<String>,
    /// The service's id.
    pub service: Option<String>,
    /// The method's name.
    pub method: Option<String>,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageQuery {
    /// When.
    pub span: Span,
    /// What is distinguished.
    pub by: Grouping,
    /// What is left out.
    pub filter: Filter,
}

impl UsageQuery {
    /// Rows of an answer of the database; a question with more is refused.
    pub const ROWS_MAX: usize = 100_000;

    /// How many hours the database adds up to one row; months are added up from days here.
    pub(crate) fn bucket_hours(&self) -> u64 {
        match self.by.period {
            Some(Period::Hour) => 1,
            Some(Period::Day | Period::Month) => DAY_HOURS,
            // All hours that can be stored.
            None => 1 << 40,
        }
    }
}

/// What an endpoint's key was admitted for in a day and a month, in UTC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The endpoint's id.
    pub endpoint: String,
    /// The key's name; empty without one.
    pub key: String,
    /// Admitted compute units of the day.
    pub day: u64,
    /// Admitted compute units of the month.
    pub month: u64,
}

/// A line of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// When its period starts, in hours since 1970, if periods are distinguished.
    pub start: Option<u64>,
    /// What is distinguished; the other parts are empty.
    pub subject: Subject,
    /// The sums.
    pub counts: Counts,
    /// The same for each service: each may have its own price.
    pub services: BTreeMap<String, Counts>,
}

/// The lines of an answer, sorted, from the database's rows, in which services are distinguished and
/// hours are those that buckets start with.
pub fn fold(rows: Vec<(Subject, Counts)>, by: Grouping) -> Vec<Group> {
    let mut groups: BTreeMap<(u64, Subject), Group> = BTreeMap::new();
    for (mut subject, counts) in rows {
        let start = by.period.map(|period| match period {
            Period::Hour | Period::Day => subject.hour,
            Period::Month => month_start(subject.hour),
        });
        let service = subject.service.clone();
        subject.hour = start.unwrap_or_default();
        if !by.service {
            subject.service.clear();
        }
        let group = groups.entry((subject.hour, subject.clone())).or_insert_with(|| Group {
            start,
            subject,
            counts: Counts::default(),
            services: BTreeMap::new(),
        });
        group.counts.add(&counts);
        group.services.entry(service).or_default().add(&counts);
    }
    groups.into_values().collect()
}

fn date_time(hour: u64) -> DateTime {
    let seconds = i64::try_from(hour.saturating_mul(3_600)).unwrap_or(i64::MAX);
    let at = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
    at.to_zoned(TimeZone::UTC).datetime()
}

fn hour_of(at: DateTime) -> Option<u64> {
    let seconds = at.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second();
    u64::try_from(seconds / 3_600).ok().filter(|_| seconds >= 0)
}

/// The first hour of the month of an hour.
pub fn month_start(hour: u64) -> u64 {
    hour_of(date_time(hour).date().first_of_month().to_datetime(Default::default())).unwrap_or(0)
}

/// A moment as it is shown, as short as the period allows: `2026-11`, `2026-11-27` or `2026-11-27T04`.
pub fn show_moment(hour: u64, period: Period) -> String {
    let at = date_time(hour);
    let (year, month, day) = (at.year(), at.month(), at.day());
    match period {
        Period::Month => format!("{year:04}-{month:02}"),
        Period::Day => format!("{year:04}-{month:02}-{day:02}"),
        Period::Hour => format!("{year:04}-{month:02}-{day:02}T{:02}", at.hour()),
    }
}

/// Parses a month, a day or an hour in UTC; returns its first hour.
///
/// # Errors
/// What is wrong, and the form.
pub fn parse_moment(text: &str) -> Result<u64, String> {
    let form = "write a month, a day or an hour in UTC: 2026-11, 2026-11-27 or 2026-11-27T04";
    let wrong = || format!("\"{text}\" is not a date; {form}");
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = date.split('-').collect();
    let lengths = parts.iter().map(|part| part.len());
    if !parts.iter().all(|part| is_digits(part))
        || !lengths.eq([4, 2, 2].into_iter().take(parts.len()))
    {
        return Err(wrong());
    }
    let number = |place: usize| parts.get(place).and_then(|part| part.parse::<i16>().ok());
    let (year, month) = (number(0).ok_or_else(wrong)?, number(1).ok_or_else(wrong)?);
    let day = number(2);
    if day.is_none() && time.is_some() {
        return Err(wrong());
    }
    let date = Date::new(year, month as i8, day.unwrap_or(1) as i8).map_err(|_| wrong())?;
    let hour = match time {
        None => 0,
        Some(time) => {
            let time = time.strip_suffix('Z').unwrap_or(time);
            let (hour, rest) = time.split_at_checked(2).ok_or_else(wrong)?;
            if !matches!(rest, "" | ":00" | ":00:00") {
                let is_time = rest.bytes().all(|b| b.is_ascii_digit() || b == b':' || b == b'.');
                return Err(match is_time {
                    true => {
                        format!("\"{text}\" is within an hour, and usage is kept by hour; {form}")
                    }
                    false => wrong(),
                });
            }
            hour.parse::<i8>().ok().filter(|_| is_digits(hour)).ok_or_else(wrong)?
        }
    };
    let at = date.at(0, 0, 0, 0).with().hour(hour).build().map_err(|_| wrong())?;
    hour_of(at).ok_or_else(|| format!("\"{text}\" is before 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_and_shown() {
        let check = |text: &str, hour: u64, period| {
            assert_eq!(parse_moment(text), Ok(hour), "{text}");
            assert_eq!(show_moment(hour, period), text);
        };
        check("1970-01-01T00", 0, Period::Hour);
        check("2026-11", 498_192, Period::Month);
        check("2026-11-27", 498_192 + 26 * 24, Period::Day);
        check("2026-11-27T04", 498_192 + 26 * 24 + 4, Period::Hour);
        assert_eq!(parse_moment("2026-11-27T04:00Z"), parse_moment("2026-11-27T04"));
        assert_eq!(month_start(498_192 + 26 * 24 + 4), 498_192);
        assert_eq!(month_start(498_191), parse_moment("2026-10").unwrap());
        assert!(parse_moment("2026-11-27T04:30").unwrap_err().contains("kept by hour"));
        for bad in [
            "",
            "2026",
            "2026-13",
            "2026-02-30",
            "2026-11-27T24",
            "2026-11T04",
            "26-11-27",
            "2026-1-2",
            "yesterday",
            "2026-11-27T",
            "2026-11-27Tx4",
            "1969-12-31",
            "2026-11-27T+4",
            "2026-11-27-01",
            "2026-11-27 04",
        ] {
            assert!(parse_moment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn groupings_are_read() {
        let all = Grouping::parse("month, endpoint,key,service,method").unwrap();
        assert_eq!(all.period, Some(Period::Month));
        assert!(all.endpoint && all.key && all.service && all.method);
        assert_eq!(Grouping::parse("").unwrap(), Grouping::default());
        assert!(Grouping::parse("day,hour").unwrap_err().contains("exclude each other"));
        assert!(Grouping::parse("customer").unwrap_err().contains("known are hour, day, month"));
    }

    #[test]
    fn rows_are_folded_to_months_and_over_services() {
        let row = |hour: u64, service: &str, calls: u64| {
            let subject = Subject { hour, service: service.into(), ..Subject::default() };
            (subject, Counts { calls, ..Counts::default() })
        };
        let month = 498_192;
        let rows =
            vec![row(month - 24, "eth", 1), row(month, "boba", 2), row(month + 24, "eth", 4)];
        let by = Grouping { period: Some(Period::Month), ..Grouping::default() };
        let groups = fold(rows.clone(), by);
        let found: Vec<_> = groups.iter().map(|one| (one.start, one.counts.calls)).collect();
        assert_eq!(found, [(Some(month_start(month - 24)), 1), (Some(month), 6)]);
        assert_eq!(groups[1].services["eth"].calls, 4);
        let all = fold(rows, Grouping::default());
        assert_eq!((all.len(), all[0].start, all[0].counts.calls), (1, None, 7));
    }
}
