//! [`ReadError`]: what is wrong with a file of results, and where.

use std::fmt;

/// Why no further result can be read from an input. Results before it were read.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ReadError {
    /// Where reading stopped.
    pub place: Place,
    /// What is wrong.
    pub problem: Problem,
}

impl ReadError {
    /// The error with the name of its input, as `a.json:2:7: …` or `a.bin: byte 7: …`.
    pub fn in_input(&self, name: &str) -> String {
        match (self.place, &self.problem) {
            (_, Problem::Io(error)) => format!("{name}: {error}"),
            (Place::Byte(_), _) => format!("{name}: {self}"),
            (Place::Text { .. }, _) => format!("{name}:{self}"),
        }
    }
}

/// A position in an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The number of bytes before it.
    Byte(u64),
    /// A line and a column in bytes, both from 1.
    Text {
        /// The line.
        line: u64,
        /// The column.
        column: u64,
    },
}

/// What is wrong with a file of results.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The input cannot be read.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The input ends inside a result.
    #[error("the file is cut short: {0}")]
    CutShort(String),
    /// Neither gob, JSON nor CSV of vegeta.
    #[error("{0}")]
    Malformed(String),
    /// A result larger than [`super::RECORD_MAX`].
    #[error("a result of more than {max} bytes, which is the most that is read", max = super::RECORD_MAX)]
    TooLarge,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Byte(offset) => write!(f, "byte {offset}"),
            Place::Text { line, column } => write!(f, "{line}:{column}"),
        }
    }
}
