//! Logs of other processes, followed during a run: lines, and those that match patterns.
//!
//! Like a snapshot, a [`Followed`] covers a period of time, and [`Followed::append`] adds the next. A
//! period has one example of each pattern, so that its size does not depend on what is logged.

use crate::names::{Listed, Tally, listed};
use std::collections::BTreeMap;
use std::fmt;

/// Maximum number of distinct failures kept per log; further ones are counted as `other failures`.
const FAILURES_MAX: usize = 8;
const OTHER_FAILURES: &str = "other failures";

/// The longest example of a line, in bytes.
pub const EXAMPLE_MAX: usize = 256;

listed! {
    /// What happened to a log besides lines.
    LogEvent {
        /// The file was replaced by another; the new one is read from its start.
        Rotated = "rotated",
        /// The file became shorter, and is read from its start.
        Truncated = "truncated",
        /// Lines that were too long; their beginning was matched.
        LongLine = "long_lines",
        /// Lines that are not text in UTF-8.
        BinaryLine = "binary_lines",
        /// Bytes that were not read, because more was written than may be read.
        SkippedByte = "skipped_bytes",
        /// Times that a command had written more than may be read at once; it had to wait.
        Held = "held",
    }
}

/// Lines that match a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matched {
    /// Their number.
    pub lines: u64,
    /// The first of them, without secrets; at most [`EXAMPLE_MAX`] bytes.
    pub example: Option<String>,
}

/// A log over a period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Lines read.
    pub lines: u64,
    /// Bytes read.
    pub bytes: u64,
    /// By pattern, in the plan's order; may be shorter if the last ones match nothing.
    pub matched: Vec<Matched>,
    /// What else happened.
    pub events: Tally<LogEvent>,
    /// Why the log could not be read, by reason.
    pub failures: BTreeMap<String, u64>,
}

impl Followed {
    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        *self == Followed::default()
    }

    /// Counts a line that matches the pattern with this index; `example` makes its text if it is needed.
    pub fn count(&mut self, pattern: usize, example: impl FnOnce() -> String) {
        let own = self.pattern(pattern);
        own.lines += 1;
        own.example.get_or_insert_with(example);
    }

    /// Counts a failure.
    pub fn fail(&mut self, why: &str, n: u64) {
        let known = self.failures.len() < FAILURES_MAX || self.failures.contains_key(why);
        *self.failures.entry(if known { why } else { OTHER_FAILURES }.into()).or_default() += n;
    }

    /// Adds the next period. The first example of each pattern stays.
    pub fn append(&mut self, next: &Followed) {
        self.lines += next.lines;
        self.bytes += next.bytes;
        for (place, matched) in next.matched.iter().enumerate() {
            let own = self.pattern(place);
            own.lines += matched.lines;
            if own.example.is_none() {
                own.example.clone_from(&matched.example);
            }
        }
        self.events.merge(&next.events);
        next.failures.iter().for_each(|(why, n)| self.fail(why, *n));
    }

    fn pattern(&mut self, place: usize) -> &mut Matched {
        if self.matched.len() <= place {
            self.matched.resize_with(place + 1, Matched::default);
        }
        &mut self.matched[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_add_up_and_stay_bounded() {
        let period = |pattern: usize, text: &str| {
            let mut own = Followed { lines: 3, bytes: 30, ..Followed::default() };
            own.count(pattern, || text.into());
            own.count(pattern, || unreachable!("it has an example"));
            own.events.add(LogEvent::Rotated, 1);
            own
        };
        let mut sum = period(1, "a");
        sum.append(&period(0, "b"));
        sum.append(&period(1, "c"));
        let matched = |lines, example: &str| Matched { lines, example: Some(example.into()) };
        assert_eq!(sum.matched, [matched(2, "b"), matched(4, "a")]);
        assert_eq!((sum.lines, sum.bytes, sum.events.get(LogEvent::Rotated)), (9, 90, 3));
        (0..20).for_each(|n| sum.fail(&format!("why {n}"), 1));
        assert_eq!((sum.failures.len(), sum.failures.values().sum::<u64>()), (9, 20));
    }
}
