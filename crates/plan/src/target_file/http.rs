//! The `http` format.

use super::{Parsed, RawBody, RawRequest, Span, excerpt, lines};
use plimsoll_config::Spot;

const REQUEST: &str = "a request begins with METHOD URL, such as POST http://host:port/path";
const HEADER: &str = "write a header as \"Name: value\"; put an empty line before a body";

/// The parser's state: the part of a request that the next line belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before a request line.
    Between,
    /// Among the headers.
    Head,
    /// After the empty line that ends the headers.
    AfterHead,
    /// In a body.
    Body,
    /// In a request that is dropped because its first line is invalid.
    Skipped,
}

pub(super) fn read(text: &str, parsed: &mut Parsed) {
    let mut at = At::Between;
    let mut request: Option<RawRequest> = None;
    for whole in lines(text) {
        let line = whole.trim();
        if line.text.is_empty() || line.text.starts_with('#') {
            at = match at {
                At::Head if line.text.is_empty() => At::AfterHead,
                At::Body => At::Between,
                At::Skipped if line.text.is_empty() => At::Between,
                other => other,
            };
            continue;
        }
        if let Some(first) = request_line(line) {
            parsed.requests.extend(request.replace(first));
            at = At::Head;
            continue;
        }
        at = match (at, &mut request) {
            (At::Head, Some(request)) => head_line(line, request, parsed),
            (At::AfterHead, Some(request)) if line.text.starts_with('@') => {
                head_line(line, request, parsed)
            }
            (At::AfterHead, Some(request)) if line.text.starts_with(['{', '[']) => {
                request.body = RawBody::Inline(Span::of(line));
                At::Body
            }
            (At::Body, Some(RawRequest { body: RawBody::Inline(body), .. })) => {
                body.text.push('\n');
                body.text += whole.text.trim_end();
                At::Body
            }
            (At::Skipped, _) => At::Skipped,
            _ => {
                no_request_line(line, parsed);
                At::Skipped
            }
        };
    }
    parsed.requests.extend(request);
}

/// Parses a `METHOD URL` line, if the line begins with a method.
fn request_line(line: Spot<'_>) -> Option<RawRequest> {
    let end = line.text.find([' ', '\t'])?;
    let method = line.upto(end);
    method.text.bytes().all(|b| b.is_ascii_uppercase()).then(|| RawRequest {
        method: Span::of(method),
        url: Span::of(line.from(end).trim()),
        headers: Vec::new(),
        body: RawBody::Empty,
    })
}

/// Whether a line of a stream begins a request.
pub(super) fn begins_request(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let end = line.iter().position(|b| matches!(b, b' ' | b'\t'));
    end.is_some_and(|end| line[..end].iter().all(u8::is_ascii_uppercase))
}

/// Whether the method of a request is one that usually has no body: an empty line ends it.
pub(super) fn takes_no_body(request: &[u8]) -> bool {
    let end = request.iter().position(|b| matches!(b, b' ' | b'\t')).unwrap_or(0);
    [b"GET".as_slice(), b"HEAD", b"DELETE", b"OPTIONS"].contains(&&request[..end])
}

/// A header, or the name of a body file.
fn head_line(line: Spot<'_>, request: &mut RawRequest, parsed: &mut Parsed) -> At {
    if line.text.starts_with('@') {
        let file = line.from(1).trim();
        if file.text.is_empty() {
            parsed.problem(line, "\"@\" without a file name", "write it like: @body.json");
        }
        request.body = RawBody::File(Span::of(file));
        return At::Between;
    }
    let Some(colon) = line.text.find(':') else {
        parsed.problem(line, format!("\"{}\" is not a valid header", excerpt(line.text)), HEADER);
        return At::Head;
    };
    let (name, value) = (line.upto(colon).trim(), line.from(colon + 1).trim());
    if name.text.is_empty() {
        parsed.problem(line, "a header needs a name", HEADER);
    } else if value.text.is_empty() {
        parsed.problem(line, format!("header \"{}\" has no value", name.text), HEADER);
    } else {
        request.headers.push((Span::of(name), Span::of(value)));
    }
    At::Head
}

fn no_request_line(line: Spot<'_>, parsed: &mut Parsed) {
    let first = line.text.split_whitespace().next().unwrap_or_default();
    let shown = excerpt(line.text);
    let message = if line.text.len() > first.len() && line.text.contains("://") {
        format!("\"{first}\" is not a valid HTTP method")
    } else {
        format!("\"{shown}\" is neither a request line (METHOD URL) nor a JSON body")
    };
    parsed.problem(line, message, REQUEST);
}
