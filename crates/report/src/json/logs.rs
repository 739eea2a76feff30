//! The `logs` list: followed logs.

use crate::logs::{Example, LogLines, Logs, PatternLines};
use plimsoll_measure::Listed;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
pub(super) struct LogFile<'a> {
    name: &'a str,
    source: &'a str,
    lines: u64,
    bytes: u64,
    events: BTreeMap<&'static str, u64>,
    failures: &'a BTreeMap<String, u64>,
    patterns: Vec<PatternFile<'a>>,
}

#[derive(Serialize)]
struct PatternFile<'a> {
    pattern: &'a str,
    lines: u64,
    first: Option<ExampleFile<'a>>,
    busiest: Option<ExampleFile<'a>>,
    last: Option<ExampleFile<'a>>,
}

/// Lines of a second.
#[derive(Serialize)]
struct ExampleFile<'a> {
    from_ns: u64,
    to_ns: u64,
    lines: u64,
    text: &'a str,
}

impl<'a> LogFile<'a> {
    pub(super) fn all(logs: &'a Logs) -> Vec<LogFile<'a>> {
        logs.logs.iter().map(LogFile::of).collect()
    }

    fn of(log: &'a LogLines) -> LogFile<'a> {
        LogFile {
            name: &log.name,
            source: &log.source,
            lines: log.followed.lines,
            bytes: log.followed.bytes,
            events: log.followed.events.iter().map(|(event, n)| (event.name(), n)).collect(),
            failures: &log.followed.failures,
            patterns: log.patterns.iter().map(pattern_file).collect(),
        }
    }
}

fn pattern_file(own: &PatternLines) -> PatternFile<'_> {
    PatternFile {
        pattern: &own.pattern,
        lines: own.lines,
        first: own.first.as_ref().map(example_file),
        busiest: own.busiest.as_ref().map(example_file),
        last: own.last.as_ref().map(example_file),
    }
}

fn example_file(Example { seconds, lines, text }: &Example) -> ExampleFile<'_> {
    ExampleFile { from_ns: seconds.from.0, to_ns: seconds.to.0, lines: *lines, text }
}
