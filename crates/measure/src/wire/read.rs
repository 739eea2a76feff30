//! Reads `snapshots.jsonl`, a second at a time.

use super::edges::{END, EndLine, Header};
use super::seal::unseal;
use super::{Ignored, Line, SCHEMA, Unreadable};
use crate::units::counted;
use crate::{Nanos, RunFacts, Snapshot};
use serde::Deserialize;
use std::io::{self, BufRead, Read};

/// The longest line that is read, in bytes; far longer than a second of 10,000 targets.
const LINE_MAX: u64 = 1 << 30;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line is not what any version writes, or not in its place.
    #[error("snapshots line {line}: {why}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// A line has what only a newer version writes and the sums depend on.
    #[error("snapshots line {line}: {why}, written by a newer version")]
    Newer {
        /// From 1.
        line: usize,
        /// What is not known.
        why: String,
    },
}

impl ReadError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            ReadError::Io(_) => "",
            ReadError::Line { line: 1, .. } => {
                "it is empty, damaged, or was written by another version of plimsoll"
            }
            ReadError::Line { .. } => "the file was changed or damaged after the run",
            ReadError::Newer { .. } => {
                "use the version of plimsoll that made the run, or a newer one"
            }
        }
    }
}

/// Reads seconds one after another. An incomplete or damaged last line, left by a kill or a loss of power,
/// is ignored. Fields and names that a newer version wrote are ignored too, with a note each.
pub struct Reader<R> {
    input: R,
    header: Header,
    /// Whether the header has a checksum: then all lines do.
    is_sealed: bool,
    /// The current line, and its number from 1.
    line: String,
    number: usize,
    /// Whether that line is still to be decoded.
    waits: bool,
    /// The end of the last second.
    at: Nanos,
    ignored: Ignored,
    facts: Option<RunFacts>,
    aborted: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// The file is empty, or its first line is not a header of this version.
    pub fn new(mut input: R) -> Result<Reader<R>, ReadError> {
        let error = |why: String| ReadError::Line { line: 1, why };
        let mut line = String::new();
        let whole = read_line(&mut input, &mut line)?;
        if line.is_empty() {
            return Err(error("the file is empty".into()));
        }
        if !whole {
            return Err(error("the header is incomplete".into()));
        }
        let sealed = unseal(&mut line);
        let header: Header = parsed(&line, "the header").map_err(error)?;
        if header.schema != SCHEMA {
            return Err(error(format!("schema is \"{}\", expected \"{SCHEMA}\"", header.schema)));
        }
        // Another version may have other checksums.
        let is_sealed = sealed.map_err(error)?;
        let (ignored, facts, aborted) = (Ignored::default(), None, false);
        let at = Nanos::ZERO;
        let waits = false;
        Ok(Reader { input, header, is_sealed, line, number: 1, waits, at, ignored, facts, aborted })
    }

    /// The first line.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next second; `None` at the end.
    ///
    /// # Errors
    /// The line is invalid and not the last, or not in its place, or needs a newer version.
    pub fn next_second(&mut self) -> Result<Option<Snapshot>, ReadError> {
        while self.ready()? {
            self.waits = false;
            if self.line.starts_with(END) {
                match parsed::<EndLine>(&self.line, "the run's end") {
                    Ok(EndLine { end }) => {
                        self.aborted = end.aborted;
                        self.check_end(end.seconds)?;
                        self.facts = Some(end.into_facts(&self.header));
                        continue;
                    }
                    Err(why) => return self.damaged(why),
                }
            }
            let line = match beyond_counting(&self.line) {
                Some(count) => Err(format!("{count} is more than a run can count")),
                None => parsed::<Line>(&self.line, "a second"),
            };
            let snapshot = line
                .map_err(Unreadable::Damaged)
                .and_then(|own| own.into_snapshot(&self.header, &mut self.ignored));
            return match snapshot {
                Ok(snapshot) => {
                    let dispatched = snapshot.streams.iter().any(|stream| stream.dispatched > 0);
                    let ended = snapshot.stats.iter().any(|own| own.requests.scheduled > 0);
                    self.move_to(snapshot.t, dispatched || ended)?;
                    Ok(Some(snapshot))
                }
                Err(Unreadable::Damaged(why)) => self.damaged(why),
                Err(Unreadable::Newer(why)) => Err(ReadError::Newer { line: self.number, why }),
            };
        }
        Ok(None)
    }

    /// The next second, if it ends by `end`; a later one stays a line, which has a small part of the size of a second.
    ///
    /// # Errors
    /// As [`Reader::next_second`].
    pub fn next_second_by(&mut self, end: Nanos) -> Result<Option<Snapshot>, ReadError> {
        if self.ready()? && end_of(&self.line).is_some_and(|t| t > end) {
            return Ok(None);
        }
        self.next_second()
    }

    /// Whether another second follows, or a damaged line.
    ///
    /// # Errors
    /// As [`Reader::next_second`].
    pub fn has_second(&mut self) -> Result<bool, ReadError> {
        if self.ready()? && self.line.starts_with(END) {
            // Nothing follows it, or else that is an error.
            return self.next_second().map(|second| second.is_some());
        }
        Ok(self.waits)
    }

    /// Skips all seconds and returns the end of the last one; zero if there is none. Their counts are not
    /// read.
    ///
    /// # Errors
    /// As [`Reader::next_second`].
    pub fn skip_to_end(&mut self) -> Result<Nanos, ReadError> {
        while self.ready()? {
            self.waits = false;
            self.at = end_of(&self.line).unwrap_or(self.at);
        }
        Ok(self.at)
    }

    /// After the last second, the facts of a run that ended; `None` if it was killed, or its last line was
    /// lost.
    pub fn facts(&self) -> Option<&RunFacts> {
        self.facts.as_ref()
    }

    /// After the last second, whether an objective stopped the run.
    pub fn aborted(&self) -> bool {
        self.aborted
    }

    /// What was ignored because this version does not know it, such as "unknown field \"host.x\""; at most
    /// [`NOTES_MAX`](super::NOTES_MAX).
    pub fn ignored(&self) -> impl Iterator<Item = &str> {
        self.ignored.notes.iter().map(String::as_str)
    }

    /// Reads the next line, unless one is still to be decoded; returns whether there is one.
    fn ready(&mut self) -> Result<bool, ReadError> {
        if !self.waits {
            self.waits = self.advance()?;
        }
        Ok(self.waits)
    }

    /// Reads the next whole line, without its checksum; returns whether there is one.
    fn advance(&mut self) -> Result<bool, ReadError> {
        self.line.clear();
        self.number += 1;
        let read = read_line(&mut self.input, &mut self.line);
        let whole = match read {
            Ok(false) if self.line.is_empty() => return Ok(false),
            _ if self.facts.is_some() => {
                return Err(self.misplaced("it follows the line for the run's end"));
            }
            Ok(whole) => whole,
            // A tail that was never written may be anything.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return self.damaged(error.to_string()).map(|_| false);
            }
            Err(error) => return Err(error.into()),
        };
        match unseal(&mut self.line) {
            _ if !whole => Ok(false),
            Ok(false) if self.is_sealed => {
                self.damaged("it has no checksum, but the header has one".into()).map(|_| false)
            }
            Ok(_) => Ok(true),
            Err(why) => self.damaged(why).map(|_| false),
        }
    }

    /// Checks that the second that ends at `t` follows the last one. The last second of a run may be followed
    /// by the last scrape of other processes, without requests.
    fn move_to(&mut self, t: Nanos, has_requests: bool) -> Result<(), ReadError> {
        let last = std::mem::replace(&mut self.at, t);
        if t < last || t == last && has_requests {
            let why =
                format!("it is out of order: it ends at {} ns, the line before at {}", t.0, last.0);
            return Err(self.misplaced(&why));
        }
        if t - last > Nanos::from_secs(1) {
            let why = format!(
                "a line is missing before it, which ends at {} ns; the last one ended at {}",
                t.0, last.0
            );
            return Err(self.misplaced(&why));
        }
        Ok(())
    }

    /// Checks that no line before the end is missing.
    fn check_end(&self, seconds: Option<u64>) -> Result<(), ReadError> {
        let read = self.number as u64 - 2;
        match seconds {
            Some(written) if written != read => {
                let written = counted(written, "second");
                let why = format!("{written} were written before it, but the file has {read}");
                Err(self.misplaced(&why))
            }
            _ => Ok(()),
        }
    }

    fn misplaced(&self, why: &str) -> ReadError {
        ReadError::Line { line: self.number, why: why.into() }
    }

    /// The end of the file, if no whole line follows; else an error.
    fn damaged(&mut self, why: String) -> Result<Option<Snapshot>, ReadError> {
        let line = self.number;
        self.line.clear();
        match read_line(&mut self.input, &mut self.line) {
            Ok(false) => Ok(None),
            Ok(true) => Err(ReadError::Line { line, why }),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(ReadError::Line { line, why })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A second alone, of a run with this header.
///
/// # Errors
/// What is wrong with the line.
pub fn second_of(line: &str, header: &Header) -> Result<Snapshot, String> {
    let mut line = line.to_string();
    unseal(&mut line)?;
    let read = parsed::<Line>(&line, "a second")?.into_snapshot(header, &mut Ignored::default());
    read.map_err(|why| match why {
        Unreadable::Damaged(why) | Unreadable::Newer(why) => why,
    })
}

/// When the second in a line ends; `None` for other lines.
fn end_of(line: &str) -> Option<Nanos> {
    #[derive(Deserialize)]
    struct Time {
        t_ns: u64,
    }
    serde_json::from_str(line).ok().map(|Time { t_ns }| Nanos(t_ns))
}

/// Appends the next line; returns whether it is whole.
fn read_line(input: &mut impl BufRead, line: &mut String) -> io::Result<bool> {
    input.take(LINE_MAX).read_line(line)?;
    Ok(line.ends_with('\n'))
}

/// A line as what it should be, or why it is not.
fn parsed<'l, T: Deserialize<'l>>(line: &'l str, what: &str) -> Result<T, String> {
    if !line.starts_with('{') {
        return Err(format!("expected {what}, as a JSON object in braces"));
    }
    serde_json::from_str(line).map_err(|error| {
        let text = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let (text, column) = match text.strip_suffix(&place) {
            Some(text) if error.column() > 0 => (text, format!("at column {}: ", error.column())),
            Some(text) => (text, String::new()),
            None => (text.as_str(), String::new()),
        };
        // The names of this program's types mean nothing to its users.
        let (before, of) = text.split_once("expected struct ").unwrap_or((text, ""));
        let expected = if of.is_empty() { "" } else { "expected an object" };
        format!("{column}{before}{expected}, in {what}")
    })
}

/// A count that would overflow a sum over seconds: more than 16 digits, unless it is a time in nanoseconds,
/// whose sums saturate, or a limit, which is not summed.
fn beyond_counting(line: &str) -> Option<&str> {
    const DIGITS_MAX: usize = 16;
    const UNLIMITED: [&str; 2] = ["_ns", "limit"];
    let mut parts = line.split('"');
    let (mut key, mut text) = ("", parts.next()?);
    loop {
        let numbers = text.split(|c: char| !c.is_ascii_digit() && !".eE+-".contains(c));
        let is_count = |number: &&str| number.bytes().all(|byte| byte.is_ascii_digit());
        let mut huge = numbers.filter(|number| number.len() > DIGITS_MAX).filter(is_count);
        if !UNLIMITED.iter().any(|end| key.ends_with(end))
            && let Some(number) = huge.next()
        {
            return Some(number);
        }
        // A string, up to a quote that is not escaped.
        key = parts.next()?;
        loop {
            text = parts.next()?;
            let escapes = key.len() - key.trim_end_matches('\\').len();
            if escapes.is_multiple_of(2) {
                break;
            }
            key = text;
        }
    }
}

/// The content of a `snapshots.jsonl`.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The first line.
    pub header: Header,
    /// The seconds.
    pub snapshots: Vec<Snapshot>,
    /// As [`Reader::facts`].
    pub facts: Option<RunFacts>,
    /// As [`Reader::aborted`].
    pub aborted: bool,
    /// As [`Reader::ignored`].
    pub ignored: Vec<String>,
}

/// Reads a whole file at once.
///
/// # Errors
/// As [`Reader`].
pub fn read(text: &str) -> Result<Reading, ReadError> {
    let mut reader = Reader::new(text.as_bytes())?;
    let mut snapshots = Vec::new();
    while let Some(snapshot) = reader.next_second()? {
        snapshots.push(snapshot);
    }
    Ok(Reading {
        snapshots,
        facts: reader.facts().cloned(),
        aborted: reader.aborted(),
        ignored: reader.ignored().map(String::from).collect(),
        header: reader.header,
    })
}
