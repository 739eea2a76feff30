//! Reads `snapshots.jsonl`, a second at a time.

use super::edges::{END, EndLine, Header};
use super::{Ignored, Line, SCHEMA};
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
    /// A line is not what this version expects.
    #[error("snapshots line {line}: {why}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
}

/// Reads seconds one after another. An incomplete or damaged last line, left by a kill or a loss of power,
/// is ignored. Fields and names that a newer version wrote are ignored too, with a note each.
pub struct Reader<R> {
    input: R,
    header: Header,
    /// The current line, and its number from 1.
    line: String,
    number: usize,
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
        let header: Header = serde_json::from_str(&line).map_err(|e| error(e.to_string()))?;
        if header.schema != SCHEMA {
            return Err(error(format!("schema is \"{}\", expected \"{SCHEMA}\"", header.schema)));
        }
        let (ignored, facts, aborted) = (Ignored::default(), None, false);
        Ok(Reader { input, header, line, number: 1, ignored, facts, aborted })
    }

    /// The first line.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next second; `None` at the end.
    ///
    /// # Errors
    /// The line is invalid and not the last.
    pub fn next_second(&mut self) -> Result<Option<Snapshot>, ReadError> {
        while self.advance()? {
            if self.line.starts_with(END) {
                let end: Result<EndLine, _> = serde_json::from_str(&self.line);
                match end {
                    Ok(EndLine { end }) => {
                        self.aborted = end.aborted;
                        self.facts = Some(end.into_facts(&self.header));
                        continue;
                    }
                    Err(error) => return self.damaged(error.to_string()),
                }
            }
            let parsed: Result<Line, _> = serde_json::from_str(&self.line);
            let parsed = parsed.map_err(|error| error.to_string());
            let snapshot =
                parsed.and_then(|own| own.into_snapshot(&self.header, &mut self.ignored));
            return match snapshot {
                Ok(snapshot) => Ok(Some(snapshot)),
                Err(why) => self.damaged(why),
            };
        }
        Ok(None)
    }

    /// Skips all seconds and returns the end of the last one; zero if there is none.
    ///
    /// # Errors
    /// If reading fails.
    pub fn skip_to_end(&mut self) -> Result<Nanos, ReadError> {
        #[derive(Deserialize)]
        struct Time {
            t_ns: u64,
        }
        let mut last = Nanos::ZERO;
        while self.advance()? {
            if let Ok(Time { t_ns }) = serde_json::from_str(&self.line) {
                last = Nanos(t_ns);
            }
        }
        Ok(last)
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

    /// Reads the next whole line; returns whether there is one.
    fn advance(&mut self) -> Result<bool, ReadError> {
        self.line.clear();
        self.number += 1;
        match read_line(&mut self.input, &mut self.line) {
            Ok(whole) => Ok(whole),
            // A tail that was never written may be anything.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.damaged(error.to_string()).map(|_| false)
            }
            Err(error) => Err(error.into()),
        }
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

/// Appends the next line; returns whether it is whole.
fn read_line(input: &mut impl BufRead, line: &mut String) -> io::Result<bool> {
    input.take(LINE_MAX).read_line(line)?;
    Ok(line.ends_with('\n'))
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
