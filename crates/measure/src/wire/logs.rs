//! A followed log, as part of a line.

use super::{Ignored, is_zero, tally_known, tally_to_map};
use crate::log::{Followed, Matched};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Serialize, Deserialize)]
pub(super) struct LogLine {
    #[serde(default, skip_serializing_if = "is_zero")]
    lines: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    bytes: u64,
    /// By pattern, in the plan's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    matched: Vec<MatchedLine>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    events: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    failures: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
struct MatchedLine {
    n: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    example: Option<String>,
}

impl LogLine {
    pub(super) fn from(followed: &Followed) -> LogLine {
        let matched = followed.matched.iter();
        LogLine {
            lines: followed.lines,
            bytes: followed.bytes,
            matched: matched
                .map(|own| MatchedLine { n: own.lines, example: own.example.clone() })
                .collect(),
            events: tally_to_map(&followed.events),
            failures: followed.failures.clone(),
        }
    }

    pub(super) fn into_followed(self, ignored: &mut Ignored) -> Followed {
        let matched = self.matched.into_iter();
        Followed {
            lines: self.lines,
            bytes: self.bytes,
            matched: matched.map(|own| Matched { lines: own.n, example: own.example }).collect(),
            events: tally_known(self.events, "logs", ignored),
            failures: self.failures,
        }
    }
}
