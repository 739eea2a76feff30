//! Followed logs: lines that matched, each pattern with an example.

use super::page::Page;
use super::table::{Column, Notes, Row, Section, Shape, Table};
use super::{Extent, counted, grouped, percent};
use crate::logs::{Example, LogLines, PatternLines};
use crate::summary::Summary;
use crate::tone::Tone;
use plimsoll_measure::LogEvent;
use plimsoll_measure::log::Followed;

const LOGS: Shape = Shape {
    name: 34,
    columns: &[
        Column::figures("lines", 12),
        Column::figures("of all", 10),
        Column::figures("most in 1s", 13),
        Column::figures("first", 10),
        Column::figures("last", 10),
    ],
    leaving: &["of all", "most in 1s", "last"],
    notes: Notes::Beneath,
};

/// Lines after which a pattern that matches all of them is mentioned.
const EVERY_LINE_MIN: u64 = 100;

impl Summary {
    /// The followed logs; `None` if there are none.
    pub(crate) fn log_table(&self, extent: Extent) -> Option<Table> {
        let logs = &self.logs.logs;
        if logs.is_empty() || self.whole().is_none() {
            return None;
        }
        let rows = logs.iter().flat_map(|log| {
            let patterns = log.patterns.iter().map(move |own| self.pattern_row(log, own));
            std::iter::once(log_row(log)).chain(patterns)
        });
        let rows: Vec<Row> = rows.collect();
        // A log and its first patterns are more use than parts of several.
        let (all, shown) = (rows.len(), extent.at_least(4));
        let more = shown.more(all, [" line", " lines"]);
        let rows = rows.into_iter().take(shown.rows).collect();
        Some(Table { shape: &LOGS, sections: vec![Section { head: "log".into(), rows, more }] })
    }

    pub(super) fn write_logs(&self, extent: Extent, page: &mut Page) {
        page.tables(self.log_table(extent));
    }

    fn pattern_row(&self, log: &LogLines, own: &PatternLines) -> Row {
        let none = || "–".to_string();
        let all = log.followed.lines;
        let share =
            if own.lines == 0 { none() } else { percent(own.lines as f64 / all.max(1) as f64) };
        let cells = [
            grouped(own.lines),
            share,
            own.busiest.as_ref().map_or_else(none, |example| grouped(example.lines)),
            own.first.as_ref().map_or_else(none, |example| self.second_of(example)),
            own.last.as_ref().map_or_else(none, |example| self.second_of(example)),
        ];
        let every = own.lines == all && all >= EVERY_LINE_MIN;
        let every = if every { "the pattern matches every line; " } else { "" };
        let example = own.busiest.as_ref();
        let example =
            example.map(|own| format!("{every}at {}: {}", self.second_of(own), own.text.trim()));
        let tone = if own.lines > 0 { Tone::Warn } else { Tone::Plain };
        Row::new(format!("  {}", own.pattern), cells).noted(example.unwrap_or_default()).toned(tone)
    }

    /// The second of an example, counted from the end of the warm-up.
    pub(crate) fn second_of(&self, example: &Example) -> String {
        let (at, warmup) = (example.seconds.from.as_secs_f64(), self.facts.warmup.as_secs_f64());
        format!("{:.0}s", at - warmup)
    }
}

fn log_row(log: &LogLines) -> Row {
    let cells =
        [grouped(log.followed.lines), String::new(), String::new(), String::new(), String::new()];
    let remark = remark(&log.followed);
    let name = if log.name == log.source {
        log.name.clone()
    } else {
        format!("{} ({})", log.name, log.source)
    };
    Row::new(name, cells).noted(remark)
}

/// What else happened to a log.
fn remark(followed: &Followed) -> String {
    let mut parts = Vec::new();
    for (event, n) in followed.events.iter() {
        parts.push(match event {
            LogEvent::Rotated => format!("rotated {}", times(n)),
            LogEvent::Truncated => format!("truncated {}", times(n)),
            LogEvent::LongLine => {
                format!("{} too long: the first 64 KiB were matched", counted(n, "line"))
            }
            LogEvent::BinaryLine => format!("{} not text", counted(n, "line")),
            LogEvent::SkippedByte => {
                format!("{} skipped: more was written than is read", counted(n, "byte"))
            }
            LogEvent::Held => {
                format!("the command wrote more than is read, and waited {}", times(n))
            }
        });
    }
    for (why, n) in &followed.failures {
        parts.push(if *n == 1 { why.clone() } else { format!("{why} ({})", times(*n)) });
    }
    if followed.lines == 0 && parts.is_empty() {
        parts.push("no line was written".into());
    }
    parts.join("; ")
}

fn times(n: u64) -> String {
    match n {
        1 => "once".into(),
        n => counted(n, "time"),
    }
}
