//! Bytes to lines, and lines to counts.

use plimsoll_measure::log::EXAMPLE_MAX;
use plimsoll_measure::{Followed, LogEvent};
use plimsoll_plan::{Pattern, Secrets, without_secrets};
use std::borrow::Cow;
use std::sync::Arc;

/// The longest line, in bytes. Of a longer one only its beginning is matched, and [`LogEvent::LongLine`] is counted.
pub(super) const LINE_MAX: usize = 64 << 10;
/// An example begins at most this many bytes before what matched.
const BEFORE_MATCH: usize = 60;

/// Splits what is read into lines. Memory is bounded by [`LINE_MAX`].
#[derive(Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    /// Whether the rest of the line is not wanted: it was too long, or its start was not read.
    discarding: bool,
}

impl Lines {
    /// What follows begins within a line.
    pub(super) fn resync(&mut self) {
        self.partial.clear();
        self.discarding = true;
    }

    /// What follows begins a new line.
    pub(super) fn restart(&mut self) {
        self.partial.clear();
        self.discarding = false;
    }

    /// Counts the lines that these bytes complete.
    pub(super) fn add(&mut self, mut bytes: &[u8], counter: &Counter, into: &mut Followed) {
        into.bytes += bytes.len() as u64;
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            self.extend(line, counter, into);
            if !std::mem::take(&mut self.discarding) {
                counter.count(&self.partial, into);
            }
            self.partial.clear();
        }
        self.extend(bytes, counter, into);
    }

    /// Counts an incomplete last line.
    pub(super) fn finish(&mut self, counter: &Counter, into: &mut Followed) {
        if !self.discarding && !self.partial.is_empty() {
            counter.count(&self.partial, into);
        }
        self.restart();
    }

    fn extend(&mut self, bytes: &[u8], counter: &Counter, into: &mut Followed) {
        if self.discarding {
            return;
        }
        let room = LINE_MAX - self.partial.len();
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room {
            into.events.count(LogEvent::LongLine);
            counter.count(&self.partial, into);
            self.resync();
        }
    }
}

/// Counts lines by the patterns of a log.
pub(super) struct Counter {
    patterns: Vec<Pattern>,
    secrets: Arc<Secrets>,
}

impl Counter {
    pub(super) fn new(patterns: Vec<Pattern>, secrets: Arc<Secrets>) -> Counter {
        Counter { patterns, secrets }
    }

    fn count(&self, line: &[u8], into: &mut Followed) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        into.lines += 1;
        if std::str::from_utf8(line).is_err() || line.contains(&0) {
            into.events.count(LogEvent::BinaryLine);
        }
        for (place, pattern) in self.patterns.iter().enumerate() {
            if pattern.find(line).is_some() {
                into.count(place, || self.example(pattern, line));
            }
        }
    }

    /// The part of a line around what matched, without secrets.
    fn example(&self, pattern: &Pattern, line: &[u8]) -> String {
        let text: Cow<'_, str> = String::from_utf8_lossy(line);
        // Before it is cut: a part of a secret would not be found.
        let text = self.secrets.mask(&without_secrets(&self.secrets.mask(&text)));
        let matched = pattern.find(text.as_bytes()).map_or(0, |found| found.start);
        let from = if text.len() <= EXAMPLE_MAX { 0 } else { matched.saturating_sub(BEFORE_MATCH) };
        let from = text.floor_char_boundary(from);
        let dots = if from > 0 { "…" } else { "" };
        let room = EXAMPLE_MAX - 2 * "…".len();
        let (rest, room) =
            (&text[from..], if text.len() <= EXAMPLE_MAX { EXAMPLE_MAX } else { room });
        let shown = &rest[..rest.floor_char_boundary(room)];
        let more = if shown.len() < rest.len() { "…" } else { "" };
        format!("{dots}{shown}{more}")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use plimsoll_plan::{Document, Plan, Variables};
    use std::path::Path;

    pub(in crate::logs) fn counter(patterns: &str) -> Counter {
        let text = format!(
            "rate = 1\nduration = \"1s\"\n[[target]]\nrequest = \"GET http://h/${{TOKEN}}\"\n\
             [[log]]\nfile = \"a\"\npatterns = {patterns}\n"
        );
        let mut variables = Variables::none();
        variables.set("TOKEN", "hunter22");
        let plan = Plan::read(&Document::new("p", text), &variables, Path::new(".")).unwrap();
        Counter::new(plan.logs[0].patterns.clone(), Arc::new(plan.secrets_of_all()))
    }

    fn read(chunks: &[&[u8]]) -> Followed {
        let (counter, mut lines) = (counter("['error|timeout', '(?i)goaway']"), Lines::default());
        let mut own = Followed::default();
        chunks.iter().for_each(|chunk| lines.add(chunk, &counter, &mut own));
        lines.finish(&counter, &mut own);
        own
    }

    #[test]
    fn lines_are_counted_however_they_arrive() {
        let text = b"an error\r\nok\nGOAWAY timeout\n\nlast error";
        for cut in 0..text.len() {
            let own = read(&[&text[..cut], &text[cut..]]);
            assert_eq!((own.lines, own.bytes), (5, text.len() as u64), "{cut}");
            let matched: Vec<_> = own.matched.iter().map(|one| one.lines).collect();
            assert_eq!(matched, [3, 1], "{cut}");
            assert_eq!(own.matched[0].example.as_deref(), Some("an error"));
        }
    }

    #[test]
    fn endless_and_binary_lines_are_bounded() {
        let chunk = vec![b'a'; 50_000];
        let own = read(&[b"error ", &chunk, &chunk, &chunk, b" error\nerror 2\n\xff\0\n"]);
        assert_eq!((own.lines, own.matched[0].lines), (3, 2));
        assert_eq!(own.events.get(LogEvent::LongLine), 1);
        assert_eq!(own.events.get(LogEvent::BinaryLine), 1);
        let example = own.matched[0].example.as_ref().unwrap();
        assert!(example.len() <= EXAMPLE_MAX && example.ends_with('…'), "{example}");
    }

    #[test]
    fn examples_show_what_matched_and_no_secrets() {
        let check = |line: &str, expected: &str| {
            let own = read(&[line.as_bytes()]);
            let example = own.matched[0].example.clone().unwrap();
            assert!(example.len() <= EXAMPLE_MAX, "{example}");
            assert!(example.contains(expected), "{example}");
            assert!(!example.contains("hunter") && !example.contains("abc123"), "{example}");
        };
        check("error: GET /hunter22 failed", "GET /[redacted] failed");
        check("api_key=abc123 error", "api_key=[redacted] error");
        let far = format!("{} Bearer abc123 timeout after {}", "ä".repeat(500), "z".repeat(500));
        check(&far, "[redacted] timeout after zz");
        // A secret at the cut.
        let cut = format!("error {} hunter22", "x".repeat(EXAMPLE_MAX - 18));
        check(&cut, "error xx");
    }
}
