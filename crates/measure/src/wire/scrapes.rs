//! The metrics of a scraped process, as part of a line.
//!
//! A series is keyed by its name as written in the page. In a second with a single scrape, which is
//! the usual case, a series is just its value; otherwise it is an object with the fields of
//! [`Track`].

use crate::prometheus::Series;
use crate::scrape::{Scraped, Track};
use crate::{Nanos, WallClock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Serialize, Deserialize)]
pub(super) struct ScrapeLine {
    reads: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    failures: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unix_ns: Option<u64>,
    /// Time between the first and the last scrape of the second.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    span_ns: u64,
    #[serde(default, skip_serializing_if = "super::is_zero")]
    left_out: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    series: BTreeMap<String, TrackLine>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum TrackLine {
    One(f64),
    Several { first: f64, last: f64, max: f64, increase: f64, resets: u64 },
}

impl ScrapeLine {
    pub(super) fn from(scraped: &Scraped) -> ScrapeLine {
        let track = |track: &Track| {
            if *track == Track::of(track.last) {
                TrackLine::One(track.last)
            } else {
                let Track { first, last, max, increase, resets } = *track;
                TrackLine::Several { first, last, max, increase, resets }
            }
        };
        let series = scraped.series.iter();
        ScrapeLine {
            reads: scraped.reads,
            failures: scraped.failures.clone(),
            unix_ns: scraped.between.map(|(from, _)| from.unix_ns),
            span_ns: scraped
                .between
                .map_or(0, |(from, to)| (Nanos(to.unix_ns) - Nanos(from.unix_ns)).0),
            left_out: scraped.left_out,
            series: series.map(|(name, seen)| (name.to_string(), track(seen))).collect(),
        }
    }

    pub(super) fn into_scraped(self) -> Result<Scraped, String> {
        let mut series = BTreeMap::new();
        for (name, track) in self.series {
            let known =
                Series::parse(&name).map_err(|why| format!("invalid series {name}: {why}"))?;
            series.insert(
                known,
                match track {
                    TrackLine::One(value) => Track::of(value),
                    TrackLine::Several { first, last, max, increase, resets } => {
                        Track { first, last, max, increase, resets }
                    }
                },
            );
        }
        let at = |unix_ns| WallClock { unix_ns };
        Ok(Scraped {
            reads: self.reads,
            failures: self.failures,
            between: self.unix_ns.map(|from| (at(from), at(from.saturating_add(self.span_ns)))),
            series,
            left_out: self.left_out,
        })
    }
}
