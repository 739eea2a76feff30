//! Parses target files: vegeta's `http` and `json` formats, extended by inline bodies.
//!
//! The parser splits a file into spans with their positions. Validating URLs, replacing variables and
//! reading body files is left to the plan.
//!
//! # The `http` format
//! ```text
//! # a comment
//! POST http://host:port/path
//! Header: value
//! @body.json
//!
//! POST http://host:port/path
//! Content-Type: application/json
//!
//! {"jsonrpc":"2.0","method":"eth_blockNumber","params":[],"id":1}
//! ```
//! A request line, header lines, and a body: either `@` and the name of a file, or, after an empty line,
//! inline JSON up to the next empty line, comment or request line. vegeta rejects inline bodies.
//! Everything else is read as in vegeta, except that empty lines and comments are allowed anywhere
//! between requests, and that the last line needs no newline.
//!
//! # The `json` format
//! One object per line: `method` and `url`, and optionally `header`, with a list of values for each
//! name, and `body` in base64.
//!
//! After a problem, parsing continues with the next request, so that all problems are reported.

mod http;
mod json;
mod stream;

use plimsoll_config::Spot;
pub use stream::{REQUEST_MAX, RequestText, Requests, StreamError};

/// The format of a target file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A request line, headers, a body.
    Http,
    /// One object per line.
    Json,
}

impl Format {
    /// As written in a plan.
    pub const WORDS: [(&'static str, Format); 2] = [("http", Format::Http), ("json", Format::Json)];

    /// Detects the format: JSON begins with a brace, which no request line does.
    pub fn of(text: &str) -> Format {
        if text.trim_start().starts_with('{') { Format::Json } else { Format::Http }
    }
}

/// A span of the file, with escapes resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The text.
    pub text: String,
}

impl Span {
    fn of(spot: Spot<'_>) -> Span {
        Span { line: spot.line, column: spot.column, text: spot.text.into() }
    }

    /// The span with its position.
    pub fn spot(&self) -> Spot<'_> {
        Spot { line: self.line, column: self.column, text: &self.text }
    }
}

/// A request's body as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawBody {
    /// No body.
    Empty,
    /// In the file.
    Inline(Span),
    /// The name of another file that contains the body.
    File(Span),
    /// Decoded from base64, to be sent unchanged.
    Bytes(Vec<u8>),
}

/// A request as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRequest {
    /// The method.
    pub method: Span,
    /// The URL.
    pub url: Span,
    /// Header names and values.
    pub headers: Vec<(Span, Span)>,
    /// The body.
    pub body: RawBody,
}

/// A problem and its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The problem, with the offending text.
    pub message: String,
    /// How to fix it; may be empty.
    pub hint: &'static str,
}

/// Parses a file. Returns its requests and all problems. `lenient`: unknown keys of the `json` format are
/// skipped, as vegeta does.
pub fn read(
    bytes: &[u8],
    format: Option<Format>,
    lenient: bool,
) -> (Vec<RawRequest>, Vec<Problem>) {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return (Vec::new(), vec![not_text(&bytes[..error.valid_up_to()])]),
    };
    let likely = Format::of(text);
    let given = format.unwrap_or(likely);
    let mut parsed = Parsed::of(text, given, lenient);
    if given != likely
        && parsed.requests.is_empty()
        && let Some(first) = parsed.problems.first()
        && !Parsed::of(text, likely, lenient).requests.is_empty()
    {
        // The problems of the wrong format say nothing that helps.
        let (message, hint) = match likely {
            Format::Http => (
                "the file is not in the json format but looks like http",
                "set format = \"http\" (vegeta: -format=http)",
            ),
            Format::Json => (
                "the file is not in the http format but looks like json",
                "set format = \"json\" (vegeta: -format=json)",
            ),
        };
        parsed.problems = vec![Problem { message: message.into(), hint, ..first.clone() }];
    }
    if parsed.requests.is_empty() && parsed.problems.is_empty() {
        let whole = Spot { line: 1, column: 1, text: "" };
        parsed.problem(
            whole,
            "the file contains no requests",
            "add one such as GET http://host:port/path",
        );
    }
    (parsed.requests, parsed.problems)
}

/// A problem: the byte after `before` is not UTF-8.
fn not_text(before: &[u8]) -> Problem {
    let before = String::from_utf8_lossy(before);
    let last = before.rsplit('\n').next().unwrap_or("");
    Problem {
        line: before.matches('\n').count() + 1,
        column: last.chars().count() + 1,
        message: "not valid UTF-8".into(),
        hint: "put a binary body into a separate file (@FILE), or encode it as base64",
    }
}

#[derive(Default)]
struct Parsed {
    requests: Vec<RawRequest>,
    problems: Vec<Problem>,
}

impl Parsed {
    fn of(text: &str, format: Format, lenient: bool) -> Parsed {
        let mut parsed = Parsed::default();
        match format {
            Format::Http => http::read(text, &mut parsed),
            Format::Json => json::read(text, lenient, &mut parsed),
        }
        parsed
    }

    fn problem(&mut self, at: Spot<'_>, message: impl Into<String>, hint: &'static str) {
        let Spot { line, column, .. } = at;
        self.problems.push(Problem { line, column, message: message.into(), hint });
    }
}

/// The lines of a text with their positions, without newlines.
fn lines(text: &str) -> impl Iterator<Item = Spot<'_>> {
    text.lines().zip(1..).map(|(text, line)| Spot { line, column: 1, text })
}

/// The beginning of a text, for a message.
fn excerpt(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests;
