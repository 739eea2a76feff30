//! [`Plot`]: latencies over time as one HTML page, which needs no network.
//!
//! One series for each attack and outcome. As in vegeta, x is the time since the first request of the
//! series' attack, so that attacks can be compared, and long series are downsampled by
//! largest-triangle-three-buckets (Sveinn Steinarsson, 2013), which keeps peaks. Unlike vegeta, every
//! result is a point: vegeta leaves out all results after the first missing sequence number.

use super::escape::{Style, string};
use super::{Duration, Hit};
use plimsoll_report::uplot;
use std::collections::BTreeMap;
use std::io::Write;

/// Points that are kept, 16 bytes each; further results are counted.
pub const POINTS_MAX: usize = 8 << 20;
/// Attacks that are plotted; the results of others are counted.
pub const ATTACKS_MAX: usize = 64;
/// The smallest number of points to which a series can be downsampled: the first, a peak, the last.
pub const THRESHOLD_MIN: usize = 3;

const PAGE: &str = include_str!("plot.html");
const OK_COLORS: [&str; 6] = ["#2a7de1", "#2aa876", "#8a5cd1", "#c98a00", "#00a3b4", "#6b7785"];
const ERROR_COLORS: [&str; 6] = ["#d64545", "#e8743b", "#a61e4d", "#f06595", "#862e2e", "#ff922b"];

/// Collects the points of a plot.
#[derive(Debug, Default)]
pub struct Plot {
    attacks: BTreeMap<Vec<u8>, Attack>,
    points: usize,
    /// Results that are not plotted, because they exceed [`POINTS_MAX`] or [`ATTACKS_MAX`].
    pub left_out: u64,
}

/// The points of an attack: its results without and with an error. Each is the time and the latency.
#[derive(Debug, Default)]
struct Attack([Vec<(i64, i64)>; 2]);

impl Plot {
    /// Adds a result.
    pub fn add(&mut self, hit: &Hit) {
        let known = self.attacks.contains_key(&hit.attack);
        if self.points == POINTS_MAX || (!known && self.attacks.len() == ATTACKS_MAX) {
            self.left_out += 1;
            return;
        }
        self.points += 1;
        if !known {
            self.attacks.insert(hit.attack.clone(), Attack::default());
        }
        let Attack(outcomes) = self.attacks.get_mut(&hit.attack).expect("inserted above");
        let outcome = usize::from(!hit.error.is_empty());
        outcomes[outcome].push((hit.timestamp.unix_nanos(), hit.latency.0));
    }

    /// The page. Series with more than `threshold` points are downsampled to it; 0 keeps all.
    ///
    /// # Panics
    /// If `threshold` is positive and below [`THRESHOLD_MIN`].
    pub fn page(self, title: &str, threshold: usize) -> Vec<u8> {
        let mut series = Vec::new();
        let mut colors = [OK_COLORS.iter().cycle(), ERROR_COLORS.iter().cycle()];
        for (name, Attack(outcomes)) in self.attacks {
            let start = outcomes.iter().flatten().map(|(time, _)| *time).min().unwrap_or_default();
            for (outcome, mut points) in outcomes.into_iter().enumerate() {
                let color = colors[outcome].next().expect("endless");
                if points.is_empty() {
                    continue;
                }
                points.sort_unstable();
                let count = points.len();
                let label =
                    format!("{}: {}", String::from_utf8_lossy(&name), ["OK", "ERROR"][outcome]);
                let points = downsampled(points, start, threshold);
                if !series.is_empty() {
                    series.push(b',');
                }
                write_series(&label, color, count, &points, &mut series);
            }
        }
        fill_page(title, &series)
    }
}

/// One series as JSON.
fn write_series(label: &str, color: &str, count: usize, points: &[(f64, f64)], out: &mut Vec<u8>) {
    out.extend_from_slice(b"\n{\"label\":");
    string(label.as_bytes(), Style::Report, out);
    write!(out, ",\"color\":\"{color}\",\"count\":{count},\"x\":[").expect("a vector");
    let column = |of: fn(&(f64, f64)) -> f64| {
        points.iter().map(|point| of(point).to_string()).collect::<Vec<_>>().join(",")
    };
    out.extend_from_slice(column(|point| point.0).as_bytes());
    out.extend_from_slice(b"],\"y\":[");
    out.extend_from_slice(column(|point| point.1).as_bytes());
    out.extend_from_slice(b"]}");
}

fn fill_page(title: &str, series: &[u8]) -> Vec<u8> {
    let escaped = title.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut out = Vec::with_capacity(PAGE.len() + uplot::SCRIPT.len() + series.len() + 4096);
    let mut rest = PAGE;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").expect("the page is complete");
        out.extend_from_slice(before.as_bytes());
        out.extend_from_slice(match name {
            "title" => escaped.as_bytes(),
            "style" => uplot::STYLE.as_bytes(),
            "license" => uplot::LICENSE.as_bytes(),
            "script" => uplot::SCRIPT.as_bytes(),
            "series" => series,
            _ => unreachable!("no other name is in the page"),
        });
        rest = after;
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

/// At most `threshold` of the points, in seconds since `start` and milliseconds.
fn downsampled(points: Vec<(i64, i64)>, start: i64, threshold: usize) -> Vec<(f64, f64)> {
    let all = points.into_iter().map(|(time, latency)| {
        let offset = Duration(time.saturating_sub(start));
        (offset.seconds(), Duration(latency).seconds() * 1e3)
    });
    let all: Vec<_> = all.collect();
    if threshold == 0 || all.len() <= threshold {
        return all;
    }
    assert!(threshold >= THRESHOLD_MIN, "a threshold of {threshold}");
    // The first and the last point are kept; the others are divided into buckets of equal size, each
    // of which is represented by one point.
    let buckets = threshold - 2;
    let bound = |bucket: usize| 1 + (all.len() - 2) * bucket / buckets;
    let mut kept = vec![all[0]];
    for bucket in 0..buckets {
        let next = if bucket + 1 < buckets {
            &all[bound(bucket + 1)..bound(bucket + 2)]
        } else {
            &all[all.len() - 1..]
        };
        let before = kept[kept.len() - 1];
        kept.push(largest_triangle(before, &all[bound(bucket)..bound(bucket + 1)], mean(next)));
    }
    kept.push(all[all.len() - 1]);
    kept
}

fn mean(points: &[(f64, f64)]) -> (f64, f64) {
    let sum = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    (sum.0 / points.len() as f64, sum.1 / points.len() as f64)
}

/// The point of a bucket that spans the largest triangle with the point kept before and the mean of
/// the bucket after.
fn largest_triangle(before: (f64, f64), bucket: &[(f64, f64)], after: (f64, f64)) -> (f64, f64) {
    let area = |point: &(f64, f64)| {
        let (width, height) = (before.0 - after.0, after.1 - before.1);
        (width * (point.1 - before.1) - (before.0 - point.0) * height).abs()
    };
    let larger = |a: &&(f64, f64), b: &&(f64, f64)| area(a).total_cmp(&area(b));
    *bucket.iter().max_by(larger).expect("a bucket has points")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vegeta::Timestamp;
    use proptest::prelude::*;

    fn hit(attack: &str, time: i64, latency: i64, error: &str) -> Hit {
        Hit {
            attack: attack.into(),
            timestamp: Timestamp::from_unix_nanos(time),
            latency: Duration(latency),
            error: error.into(),
            ..Hit::default()
        }
    }

    #[test]
    fn a_page_has_one_series_for_each_attack_and_outcome() {
        let mut plot = Plot::default();
        plot.add(&hit("b", 5_000_000_000, 1_500_000, ""));
        plot.add(&hit("b", 4_500_000_000, 2_000_000, "timeout"));
        plot.add(&hit("</script>", 7, 1, ""));
        let page = String::from_utf8(plot.page("a <b> & c", 4000)).unwrap();
        assert!(page.contains("<title>a &lt;b&gt; &amp; c</title>"));
        assert!(
            page.contains(r##""label":"b: OK","color":"#2aa876","count":1,"x":[0.5],"y":[1.5]}"##)
        );
        assert!(
            page.contains(r##""label":"b: ERROR","color":"#e8743b","count":1,"x":[0],"y":[2]}"##)
        );
        assert!(page.contains(r#"\u003c/script\u003e: OK"#), "a name does not end the script");
        assert!(!page.contains("{{") && !page.contains("http://") && !page.contains("src="));
    }

    #[test]
    fn more_attacks_than_the_limit_are_counted() {
        let mut plot = Plot::default();
        for number in 0..ATTACKS_MAX + 3 {
            plot.add(&hit(&number.to_string(), 0, 1, ""));
        }
        plot.add(&hit("0", 0, 1, ""));
        assert_eq!((plot.left_out, plot.points), (3, ATTACKS_MAX + 1));
    }

    proptest! {
        #[test]
        fn downsampling_keeps_the_ends_and_the_peak(
            latencies in prop::collection::vec(0i64..1_000_000, 3..300),
            threshold in 3usize..100,
            peak: prop::sample::Index,
        ) {
            let mut points: Vec<_> =
                latencies.iter().enumerate().map(|(at, y)| (at as i64 * 1_000_000, *y)).collect();
            let peak = peak.index(points.len());
            points[peak].1 = 1_000_000_000_000;
            let kept = downsampled(points.clone(), 0, threshold);
            prop_assert_eq!(kept.len(), threshold.min(points.len()));
            prop_assert!(kept.is_sorted_by(|a, b| a.0 < b.0));
            prop_assert_eq!(kept[0].0, 0.0);
            prop_assert_eq!(kept[kept.len() - 1].0, (points.len() - 1) as f64 / 1e3);
            prop_assert!(kept.iter().any(|point| point.1 == 1e6));
        }
    }
}
