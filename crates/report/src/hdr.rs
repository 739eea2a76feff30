//! HdrHistogram's text formats, as its Java and C implementations write them: the percentile distribution
//! (`.hgrm`) of a summary, and the interval log (`.hlog`, version 1.3) of a run's seconds.
//!
//! Values are in milliseconds, as there; the histograms of the interval log are in nanoseconds. Lines that
//! begin with `#` are comments for all readers: the first ones say what the figures are and whether the
//! run is valid.

use crate::figures::TimeFigure;
use crate::narrow::Narrow;
use crate::seconds::Seconds;
use crate::summary::{Group, Summary};
use crate::text::is_unsafe;
use plimsoll_measure::{Histogram, Nanos, Snapshot, WallClock, histogram::VALUE_MAX};
use plimsoll_plan::Plan;
use std::fmt::Write as _;

/// Percentiles listed in each half of the remaining distance to 100 %: HdrHistogram's default.
const TICKS: u32 = 5;
/// Buckets in each power of two above the first, which has as many again.
const SUB_BUCKETS: u64 = 2048;

impl Summary {
    /// The percentile distribution of a time of all requests, or of one target.
    ///
    /// # Errors
    /// A message and a hint, if no target of the report has this name.
    pub fn to_hgrm(
        &self,
        figure: TimeFigure,
        target: Option<&str>,
    ) -> Result<String, (String, String)> {
        let group = match target {
            None => &self.all,
            Some(name) => self.target(name)?,
        };
        let mut text = self.comments(figure, target);
        let histogram = figure.of(group);
        text += &distribution(histogram);
        Ok(text)
    }

    fn target(&self, name: &str) -> Result<&Group, (String, String)> {
        let groups = || self.targets.iter().map(|(group, _)| group);
        groups().find(|group| group.name == name).ok_or_else(|| {
            let known: Vec<&str> = groups().map(|group| group.name.as_str()).collect();
            plimsoll_plan::unknown_name("target", name, &known)
        })
    }

    fn comments(&self, figure: TimeFigure, target: Option<&str>) -> String {
        let mut text = String::new();
        let mut comment = |line: &str| {
            let _ = writeln!(text, "# {}", crate::clean(line));
        };
        if !self.verdict.valid {
            comment(&format!("INVALID: {}", self.distorted()));
        }
        let of = target.map(|name| format!(" of target {name}")).unwrap_or_default();
        comment(&format!("{} in milliseconds{of}, {}", figure.name(), self.name));
        if let Some(merged) = &self.merged {
            let labels: Vec<&str> = merged.runs.iter().map(|run| run.label.as_str()).collect();
            comment(&format!("merged: {}", labels.join(", ")));
        }
        if !self.narrow.is_whole() {
            comment(&format!("narrowed to: {}", self.narrow.words().join(", ")));
        }
        text
    }
}

/// HdrHistogram's `outputPercentileDistribution`, with values in milliseconds.
fn distribution(histogram: &Histogram) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    for (value, percentile, seen) in percentiles(histogram) {
        let at = percentile / 100.0;
        let _ = write!(text, "{:12.3} {at:2.12} {seen:10}", value.as_millis_f64());
        if percentile < 100.0 {
            let _ = write!(text, " {:14.2}", 1.0 / (1.0 - at));
        }
        text.push('\n');
    }
    let shown = |time: Option<Nanos>| time.unwrap_or_default().as_millis_f64();
    let (mean, deviation) = (shown(histogram.mean()), shown(histogram.deviation()));
    let (max, count) = (shown(histogram.max()), histogram.count());
    let _ = writeln!(text, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
    let _ = writeln!(text, "#[Max     = {max:12.3}, Total count    = {count:12}]");
    let _ = writeln!(text, "#[Buckets = {:12}, SubBuckets     = {SUB_BUCKETS:12}]", buckets());
    text
}

/// Powers of two that cover the largest value.
fn buckets() -> u32 {
    let mut buckets = 1;
    while SUB_BUCKETS << (buckets - 1) <= VALUE_MAX.0 {
        buckets += 1;
    }
    buckets
}

/// HdrHistogram's `PercentileIterator`: value, percentile, and number of values up to here.
pub(crate) fn percentiles(histogram: &Histogram) -> Vec<(Nanos, f64, u64)> {
    let count = histogram.count();
    let (mut rows, mut seen, mut level) = (Vec::new(), 0, 0.0);
    let mut last = Nanos::ZERO;
    for (value, n) in histogram.buckets() {
        seen += n;
        last = value;
        // The iteration ends with the first row that includes all values.
        while 100.0 * seen as f64 / count as f64 >= level {
            rows.push((value, level, seen));
            level += 100.0 / ticks(level);
            if seen == count {
                break;
            }
        }
    }
    if count > 0 {
        rows.push((last, 100.0, count));
    }
    rows
}

/// Rows for the whole distribution at the distance of those at this percentile: they double each time the
/// remaining distance halves.
fn ticks(percentile: f64) -> f64 {
    let halvings = (100.0 / (100.0 - percentile)).log2() as i32 + 1;
    f64::from(TICKS) * 2f64.powi(halvings)
}

/// Writes an interval log second by second: each second's histogram of all requests, then one for each
/// target that had any, tagged with the target's name.
pub struct IntervalLog<'p> {
    plan: &'p Plan,
    narrow: Narrow,
    figure: TimeFigure,
    /// The end of the last second.
    at: Nanos,
}

impl<'p> IntervalLog<'p> {
    /// A log of a part of a run.
    pub fn new(plan: &'p Plan, narrow: Narrow, figure: TimeFigure) -> IntervalLog<'p> {
        IntervalLog { plan, narrow, figure, at: Nanos::ZERO }
    }

    /// The lines before the first second. `summary` is that of the same part; times count from
    /// `started_at`, the start of the run's clock.
    pub fn head(&self, summary: &Summary, started_at: WallClock) -> String {
        let mut text = summary.comments(self.figure, None);
        // Cut to milliseconds, like the date beside it.
        let millis = started_at.unix_ns / 1_000_000;
        let seconds = format!("{}.{:03} (seconds since epoch)", millis / 1000, millis % 1000);
        let _ = writeln!(text, "#[Histogram log format version 1.3]");
        let _ = writeln!(text, "#[StartTime: {seconds}, {}]", started_at.rfc3339());
        let _ = writeln!(text, "#[BaseTime: {seconds}]");
        text += "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
                 \"Interval_Compressed_Histogram\"\n";
        text
    }

    /// The lines of the next second; empty if it is not in the part.
    pub fn add(&mut self, second: &Snapshot) -> String {
        let seconds = Seconds { from: self.at.min(second.t), to: second.t };
        self.at = second.t;
        let Some(held) = self.narrow.held(seconds) else { return String::new() };
        let whole = self.narrow.of_streams(self.plan, second, &held);
        let part = self.narrow.of_targets(&whole);
        let mut text = line("", seconds, &self.figure.of_stats(&part.total()));
        for (target, stats) in self.plan.targets.iter().zip(&part.stats) {
            let histogram = self.figure.of_stats(stats);
            if histogram.count() > 0 {
                text += &line(&format!("Tag={},", tag(&target.name)), seconds, &histogram);
            }
        }
        text
    }
}

fn line(tag: &str, seconds: Seconds, histogram: &Histogram) -> String {
    let (from, length) = (seconds.from.as_secs_f64(), seconds.len().as_secs_f64());
    let max = histogram.max().unwrap_or_default().as_millis_f64();
    format!("{tag}{from:.3},{length:.3},{max:.3},{}\n", histogram.encode_base64())
}

/// A name as a tag, which must not contain commas, spaces and line ends: these, control characters and `%`
/// are percent-encoded, like what reorders text.
fn tag(name: &str) -> String {
    let mut tag = String::new();
    for c in name.chars() {
        if c == ',' || c == '%' || c.is_whitespace() || is_unsafe(c) {
            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| {
                let _ = write!(tag, "%{byte:02X}");
            });
        } else {
            tag.push(c);
        }
    }
    tag
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Recording, plan};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn rows_are_those_of_the_reference(
            values in proptest::collection::vec(prop_oneof![0..5_000u64, 0..40_000_000_000u64], 0..300),
        ) {
            let mut own = Histogram::new();
            let mut reference =
                hdrhistogram::Histogram::<u64>::new_with_bounds(1, VALUE_MAX.0, 3).unwrap();
            for value in &values {
                own.record(Nanos(*value));
                reference.record(*value).unwrap();
            }
            let rows = percentiles(&own);
            let mut seen = 0;
            let expected = reference.iter_quantiles(TICKS);
            for ((value, percentile, own_seen), row) in rows.into_iter().zip(expected) {
                seen += row.count_since_last_iteration();
                // Its quantiles are rounded differently, which matters if a row ends exactly at one: a
                // tie at the last value may have more rows.
                let level = row.quantile_iterated_to() * 100.0;
                prop_assert!((percentile - level).abs() < 1e-9 || level.max(percentile) == 100.0);
                let exact = 100.0 * own_seen as f64 / values.len() as f64 == percentile;
                let same = (value.0, own_seen) == (row.value_iterated_to(), seen);
                prop_assert!(same || exact, "{percentile}: {value} {own_seen}, {row:?} {seen}");
            }
        }
    }

    #[test]
    fn the_layout_is_that_of_hdrhistogram() {
        let mut histogram = Histogram::new();
        (0..2).for_each(|_| histogram.record(Nanos::from_millis(1)));
        histogram.record(Nanos::from_millis(3));
        let expected = "       Value     Percentile TotalCount 1/(1-Percentile)\n\n\
            \x20      1.000 0.000000000000          2           1.00\n\
            \x20      1.000 0.100000000000          2           1.11\n\
            \x20      1.000 0.200000000000          2           1.25\n\
            \x20      1.000 0.300000000000          2           1.43\n\
            \x20      1.000 0.400000000000          2           1.67\n\
            \x20      1.000 0.500000000000          2           2.00\n\
            \x20      1.000 0.550000000000          2           2.22\n\
            \x20      1.000 0.600000000000          2           2.50\n\
            \x20      1.000 0.650000000000          2           2.86\n\
            \x20      3.000 0.700000000000          3           3.33\n\
            \x20      3.000 1.000000000000          3\n\
            #[Mean    =        1.667, StdDeviation   =        0.942]\n\
            #[Max     =        3.000, Total count    =            3]\n\
            #[Buckets =           32, SubBuckets     =         2048]\n";
        assert_eq!(distribution(&histogram), expected);
        let empty = distribution(&Histogram::new());
        assert_eq!(empty.lines().count(), 5, "{empty}");
    }

    #[test]
    fn a_log_has_a_line_for_each_second_and_target() {
        let plan = plan(
            "warmup = \"1s\"\nrate = \"9/s\"\nduration = \"2s\"\n\
             [[target]]\nname = \"a b,%\\n\\u202E\"\nrequest = \"GET http://a/\"\n\
             [[target]]\nname = \"c\"\nrequest = \"GET http://a/\"\n",
        );
        let mut recording = Recording::new(&plan);
        recording.second(|_| {});
        recording.second(|filled| filled.ok(0, 3, Nanos::from_millis(2)));
        recording.second(|filled| filled.ok(1, 3, Nanos::from_millis(2)));
        let begins = |narrow: Narrow| -> Vec<String> {
            let mut log = IntervalLog::new(&plan, narrow, TimeFigure::LatencyOk);
            let lines: Vec<String> =
                recording.seconds.iter().map(|second| log.add(second)).collect();
            let lines = lines.concat();
            lines.lines().map(|line| line.rsplit_once(',').unwrap().0.to_string()).collect()
        };
        let second = ["1.000,1.000,2.001", "Tag=a%20b%2C%25%0A%E2%80%AE,1.000,1.000,2.001"];
        let third = ["2.000,1.000,2.001", "Tag=c,2.000,1.000,2.001"];
        let all = [&["0.000,1.000,0.000"], &second[..], &third[..]].concat();
        assert_eq!(begins(Narrow::whole(&plan)), all);
        let filters = crate::Filters { from: Some(Nanos::from_secs(1)), ..Default::default() };
        assert_eq!(begins(Narrow::new(&plan, &filters, Nanos::from_secs(3)).unwrap()), third);

        let log = IntervalLog::new(&plan, Narrow::whole(&plan), TimeFigure::Latency);
        let at = WallClock { unix_ns: 1_795_206_241_250_999_999 };
        let head = log.head(&recording.summary(), at);
        let expected = "# latency in milliseconds, plan\n\
            #[Histogram log format version 1.3]\n\
            #[StartTime: 1795206241.250 (seconds since epoch), 2026-11-20T20:24:01.250Z]\n\
            #[BaseTime: 1795206241.250 (seconds since epoch)]\n\
            \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";
        assert_eq!(head, expected);
    }

    #[test]
    fn a_target_has_its_own_distribution() {
        let plan = plan(
            "rate = \"9/s\"\nduration = \"1s\"\n\
             [[target]]\nname = \"eth\"\nrequest = \"GET http://a/\"\n\
             [[target]]\nname = \"boba\"\nrequest = \"GET http://a/\"\n",
        );
        let mut recording = Recording::new(&plan);
        recording.second(|filled| {
            filled.ok(0, 3, Nanos::from_millis(2));
            filled.ok(1, 4, Nanos::from_millis(2));
        });
        let summary = recording.summary();
        let text = summary.to_hgrm(TimeFigure::ServiceTime, Some("boba")).unwrap();
        assert!(
            text.starts_with("# service_time in milliseconds of target boba, plan\n"),
            "{text}"
        );
        assert!(text.contains("Total count    =            4]"), "{text}");
        let (message, hint) = summary.to_hgrm(TimeFigure::Latency, Some("bob")).unwrap_err();
        assert_eq!(
            (message.as_str(), hint.as_str()),
            ("no target is named \"bob\"", "did you mean \"boba\"?")
        );
    }
}
