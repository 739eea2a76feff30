//! Requests from a file: vegeta's `http` and `json` target formats, and a body written in the file.
//!
//! It cuts the bytes into pieces and knows where each stands; whether a URL is one, what a variable
//! holds and what a body file says is the plan's to find out.
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
//! A request line, header lines, and a body: `@` and a file that holds it, or, after an empty line,
//! JSON as it is, up to the next empty line, comment or request line. vegeta has no such body and
//! refuses it. Everything else is read as vegeta reads it, except that an empty line or a comment
//! may stand anywhere between requests, and that the last line needs no end.
//!
//! # The `json` format
//! An object a line: `method` and `url`, and if need be `header`, with a list of values for each
//! name, and `body` in base64.
//!
//! Everything that is wrong is noted, and reading goes on with the next request.

mod http;
mod json;

use plimsoll_config::Spot;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A request line, headers, a body.
    Http,
    /// An object a line.
    Json,
}

impl Format {
    /// As written in a plan.
    pub const WORDS: [(&'static str, Format); 2] = [("http", Format::Http), ("json", Format::Json)];

    /// The format of a text: JSON begins with a brace, which no request line does.
    pub fn of(text: &str) -> Format {
        if text.trim_start().starts_with('{') { Format::Json } else { Format::Http }
    }
}

/// A piece of the file, its escapes resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What it says.
    pub text: String,
}

impl Piece {
    fn of(spot: Spot<'_>) -> Piece {
        Piece { line: spot.line, column: spot.column, text: spot.text.into() }
    }

    /// It with its place.
    pub fn spot(&self) -> Spot<'_> {
        Spot { line: self.line, column: self.column, text: &self.text }
    }
}

/// A request's body, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WrittenBody {
    /// None.
    Empty,
    /// In the file.
    Inline(Piece),
    /// In another file, which is named.
    File(Piece),
    /// In base64: bytes to be sent as they are.
    Bytes(Vec<u8>),
}

/// A request, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The method.
    pub method: Piece,
    /// The URL.
    pub url: Piece,
    /// Names and values.
    pub headers: Vec<(Piece, Piece)>,
    /// The body.
    pub body: WrittenBody,
}

/// Something that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong, with the offending text.
    pub message: String,
    /// How to mend it; may be empty.
    pub hint: &'static str,
}

/// Reads a file: its requests, and everything that is wrong with it.
pub fn read(bytes: &[u8], format: Option<Format>) -> (Vec<Written>, Vec<Wrong>) {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return (Vec::new(), vec![not_text(&bytes[..error.valid_up_to()])]),
    };
    let mut reading = Reading::default();
    match format.unwrap_or_else(|| Format::of(text)) {
        Format::Http => http::read(text, &mut reading),
        Format::Json => json::read(text, &mut reading),
    }
    if reading.requests.is_empty() && reading.wrongs.is_empty() {
        let whole = Spot { line: 1, column: 1, text: "" };
        reading.wrong(whole, "no request in the file", "write one like: GET http://host:port/path");
    }
    (reading.requests, reading.wrongs)
}

/// The byte after `before` is not UTF-8.
fn not_text(before: &[u8]) -> Wrong {
    let before = String::from_utf8_lossy(before);
    let last = before.rsplit('\n').next().unwrap_or("");
    Wrong {
        line: before.matches('\n').count() + 1,
        column: last.chars().count() + 1,
        message: "not valid UTF-8 from here on".into(),
        hint: "put a binary body into a separate file (@FILE), or encode it as base64",
    }
}

#[derive(Default)]
struct Reading {
    requests: Vec<Written>,
    wrongs: Vec<Wrong>,
}

impl Reading {
    fn wrong(&mut self, at: Spot<'_>, message: impl Into<String>, hint: &'static str) {
        let Spot { line, column, .. } = at;
        self.wrongs.push(Wrong { line, column, message: message.into(), hint });
    }
}

/// The lines of a text with their places, without their ends.
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
