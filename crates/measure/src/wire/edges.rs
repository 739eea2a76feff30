//! The first line and the last: facts about the run.

use super::seal::seal;
use crate::{Nanos, RunFacts, StartFacts, WallClock};
use serde::{Deserialize, Serialize};

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: String,
    /// The plan's name.
    pub plan: String,
    /// FNV-1a of the resolved plan, 16 hexadecimal digits.
    pub plan_digest: String,
    /// When the run started, in RFC 3339.
    pub started_at: String,
    /// The same, in nanoseconds since 1970.
    #[serde(default)]
    pub started_at_unix_ns: u64,
    /// CPUs that the load generator could run on.
    #[serde(default)]
    pub cpus: usize,
    /// Number of worker threads.
    #[serde(default)]
    pub workers: usize,
    /// What the host cannot carry, if the run was started with `--force` regardless.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forced: Vec<String>,
    /// Whether the plan was made from flags.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_flags: bool,
    /// Statistics names, in snapshot order.
    pub names: Vec<String>,
    /// Streams, in snapshot order.
    pub streams: Vec<String>,
    /// Origins, in snapshot order.
    pub origins: Vec<String>,
    /// Scraped processes, in snapshot order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scrapes: Vec<String>,
    /// Followed logs, in snapshot order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<String>,
    /// Sources of [`HostSample`](crate::HostSample) that could not be read, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
}

impl Header {
    /// As a line of JSON with a checksum, without the line feed.
    pub fn to_line(&self) -> String {
        seal(serde_json::to_string(self).expect("text and lists are JSON"))
    }

    /// The facts of the run's start.
    pub fn start_facts(&self) -> StartFacts {
        StartFacts {
            started_at: WallClock { unix_ns: self.started_at_unix_ns },
            cpus: self.cpus,
            workers: self.workers,
            forced: self.forced.clone(),
        }
    }
}

/// The last line: how the run ended.
#[derive(Serialize, Deserialize)]
pub(super) struct EndLine {
    pub(super) end: End,
}

#[derive(Serialize, Deserialize)]
pub(super) struct End {
    duration_ns: u64,
    drain_ns: u64,
    warmup_ns: u64,
    cut_short: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopped_by: Option<String>,
    /// Whether an objective stopped it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) aborted: bool,
    /// Number of lines before this one, without the header; older versions did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seconds: Option<u64>,
}

/// How the last line begins.
pub(super) const END: &str = "{\"end\":";

/// The line for a run's end, without the line feed. `aborted`: whether an objective stopped the run;
/// `seconds`: the number of lines written by [`to_line`](super::to_line).
pub fn end_line(facts: &RunFacts, aborted: bool, seconds: u64) -> String {
    let end = End {
        duration_ns: facts.duration.0,
        drain_ns: facts.drain.0,
        warmup_ns: facts.warmup.0,
        cut_short: facts.cut_short,
        stopped_by: facts.stopped_by.clone(),
        aborted,
        seconds: Some(seconds),
    };
    seal(serde_json::to_string(&EndLine { end }).expect("numbers and text are JSON"))
}

impl End {
    pub(super) fn into_facts(self, header: &Header) -> RunFacts {
        let StartFacts { started_at, cpus, workers, forced } = header.start_facts();
        RunFacts {
            started_at,
            duration: Nanos(self.duration_ns),
            drain: Nanos(self.drain_ns),
            warmup: Nanos(self.warmup_ns),
            cut_short: self.cut_short,
            stopped_by: self.stopped_by,
            cpus,
            workers,
            forced,
        }
    }
}
