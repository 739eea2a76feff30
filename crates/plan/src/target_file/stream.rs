//! Divides a stream of requests into single ones, without reading further than needed.

use super::{Format, http};
use std::fmt::Display;
use std::io::{self, BufRead, Read};

/// Longest request in a stream, in bytes, with its headers and an inline body.
pub const REQUEST_MAX: usize = 16 << 20;

/// The requests of a stream, one after the other.
pub struct Requests<R> {
    input: R,
    format: Format,
    /// Lines read, and the one that was read too far.
    line: usize,
    ahead: Option<Vec<u8>>,
}

/// A request as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestText {
    /// Number of the first line, from 1.
    pub line: usize,
    /// Whole lines.
    pub bytes: Vec<u8>,
}

/// Why a stream cannot be read further.
#[derive(Debug)]
pub enum StreamError {
    /// Reading failed.
    Io(io::Error),
    /// The request that begins on this line is longer than [`REQUEST_MAX`].
    TooLong(usize),
}

impl StreamError {
    /// The error as text, with a hint. `name` is that of the stream.
    pub fn describe(&self, name: impl Display) -> String {
        match self {
            StreamError::Io(error) => format!("cannot read {name}: {error}"),
            StreamError::TooLong(line) => format!(
                "{name}:{line}:1: the request is longer than {REQUEST_MAX} bytes\n  hint: put a long body into a \
                 file (@FILE)"
            ),
        }
    }
}

impl<R: BufRead> Requests<R> {
    /// The requests of a stream.
    pub fn new(input: R, format: Format) -> Requests<R> {
        Requests { input, format, line: 0, ahead: None }
    }

    /// The next request; `None` at the end. Waits until it is complete: in the `http` format until the next
    /// request begins or, after a method that has no body, at an empty line.
    ///
    /// # Errors
    /// If reading fails, or the request is too long.
    pub fn next_request(&mut self) -> Result<Option<RequestText>, StreamError> {
        let mut bytes = Vec::new();
        let mut first = 0;
        while let Some(line) = self.next_line(first, bytes.len())? {
            let is_blank = line.trim_ascii().is_empty();
            if bytes.is_empty() {
                if is_blank || line.trim_ascii_start().starts_with(b"#") {
                    continue;
                }
                first = self.line;
                bytes = line;
                if self.format == Format::Json {
                    break;
                }
                continue;
            }
            if http::begins_request(&line) {
                self.ahead = Some(line);
                self.line -= 1;
                break;
            }
            let is_last = is_blank && http::takes_no_body(&bytes)
                || line.trim_ascii_start().starts_with(b"@");
            bytes.extend_from_slice(&line);
            if is_last {
                break;
            }
        }
        Ok((!bytes.is_empty()).then_some(RequestText { line: first, bytes }))
    }

    /// The next line, with its newline. The request that it belongs to began on line `first` and has `len`
    /// bytes so far.
    fn next_line(&mut self, first: usize, len: usize) -> Result<Option<Vec<u8>>, StreamError> {
        let room = (REQUEST_MAX - len) as u64;
        let line = match self.ahead.take() {
            Some(line) => line,
            None => {
                let mut line = Vec::new();
                let mut input = self.input.by_ref().take(room + 1);
                input.read_until(b'\n', &mut line).map_err(StreamError::Io)?;
                line
            }
        };
        if line.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        if line.len() as u64 > room {
            return Err(StreamError::TooLong(if first == 0 { self.line } else { first }));
        }
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_end_where_the_next_begins() {
        let check = |text: &str, format, expected: &[(usize, &str)]| {
            let mut requests = Requests::new(text.as_bytes(), format);
            let mut found = Vec::new();
            while let Some(request) = requests.next_request().unwrap() {
                found.push((request.line, String::from_utf8(request.bytes).unwrap()));
            }
            let expected: Vec<_> =
                expected.iter().map(|(line, text)| (*line, text.to_string())).collect();
            assert_eq!(found, expected, "{text:?}");
        };
        let http = Format::Http;
        check("", http, &[]);
        check("\n# only\n\n", http, &[]);
        check("GET http://a\nGET http://b", http, &[(1, "GET http://a\n"), (2, "GET http://b")]);
        let posted = "POST http://a\nX: 1\n\n{\n\"a\":1}\n\n";
        check(
            &format!("# c\n{posted}GET http://b\n\nGET http://c\n"),
            http,
            &[(2, posted), (8, "GET http://b\n\n"), (10, "GET http://c\n")],
        );
        check(
            "PUT http://a\n@f\nGET http://b\n",
            http,
            &[(1, "PUT http://a\n@f\n"), (3, "GET http://b\n")],
        );
        check("\n{\"a\":1}\n\n{}", Format::Json, &[(2, "{\"a\":1}\n"), (4, "{}")]);
    }

    #[test]
    fn a_request_has_a_longest_length() {
        let long = format!("GET http://a\n\nPOST http://a\nX: {}", "x".repeat(REQUEST_MAX));
        let mut requests = Requests::new(long.as_bytes(), Format::Http);
        assert_eq!(requests.next_request().unwrap().unwrap().line, 1);
        assert!(matches!(requests.next_request(), Err(StreamError::TooLong(3))));
    }
}
