//! The `http` format, line by line.

use super::{Piece, Reading, Written, WrittenBody, excerpt, lines};
use plimsoll_config::Spot;

const REQUEST: &str = "a request begins with METHOD URL, such as POST http://host:port/path";
const HEADER: &str = "write a header as \"Name: value\"; put an empty line before a body";

/// Where in a request the next line stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before a request line.
    Between,
    /// Among the headers.
    Head,
    /// Behind the empty line that ends them.
    AfterHead,
    /// In a body.
    Body,
    /// In a request that is not kept, because its first line is wrong.
    Lost,
}

pub(super) fn read(text: &str, reading: &mut Reading) {
    let mut at = At::Between;
    let mut request: Option<Written> = None;
    for whole in lines(text) {
        let line = whole.trim();
        if line.text.is_empty() || line.text.starts_with('#') {
            at = match at {
                At::Head if line.text.is_empty() => At::AfterHead,
                At::Body => At::Between,
                At::Lost if line.text.is_empty() => At::Between,
                other => other,
            };
            continue;
        }
        if let Some(first) = request_line(line) {
            reading.requests.extend(request.replace(first));
            at = At::Head;
            continue;
        }
        at = match (at, &mut request) {
            (At::Head, Some(request)) => head_line(line, request, reading),
            (At::AfterHead, Some(request)) if line.text.starts_with('@') => {
                head_line(line, request, reading)
            }
            (At::AfterHead, Some(request)) if line.text.starts_with(['{', '[']) => {
                request.body = WrittenBody::Inline(Piece::of(line));
                At::Body
            }
            (At::Body, Some(Written { body: WrittenBody::Inline(body), .. })) => {
                body.text.push('\n');
                body.text += whole.text.trim_end();
                At::Body
            }
            (At::Lost, _) => At::Lost,
            _ => {
                no_request_line(line, reading);
                At::Lost
            }
        };
    }
    reading.requests.extend(request);
}

/// `METHOD URL`, when a line begins like that.
fn request_line(line: Spot<'_>) -> Option<Written> {
    let end = line.text.find([' ', '\t'])?;
    let method = line.upto(end);
    method.text.bytes().all(|b| b.is_ascii_uppercase()).then(|| Written {
        method: Piece::of(method),
        url: Piece::of(line.from(end).trim()),
        headers: Vec::new(),
        body: WrittenBody::Empty,
    })
}

/// A header, or the name of the file that holds the body.
fn head_line(line: Spot<'_>, request: &mut Written, reading: &mut Reading) -> At {
    if line.text.starts_with('@') {
        let file = line.from(1).trim();
        if file.text.is_empty() {
            reading.wrong(line, "\"@\" without a file", "write it like: @body.json");
        }
        request.body = WrittenBody::File(Piece::of(file));
        return At::Between;
    }
    let Some(colon) = line.text.find(':') else {
        reading.wrong(line, format!("\"{}\" is not a valid header", excerpt(line.text)), HEADER);
        return At::Head;
    };
    let (name, value) = (line.upto(colon).trim(), line.from(colon + 1).trim());
    if name.text.is_empty() {
        reading.wrong(line, "a header without a name", HEADER);
    } else if value.text.is_empty() {
        reading.wrong(line, format!("header \"{}\" has no value", name.text), HEADER);
    } else {
        request.headers.push((Piece::of(name), Piece::of(value)));
    }
    At::Head
}

fn no_request_line(line: Spot<'_>, reading: &mut Reading) {
    let first = line.text.split_whitespace().next().unwrap_or_default();
    let shown = excerpt(line.text);
    let message = if line.text.len() > first.len() && line.text.contains("://") {
        format!("\"{first}\" is not a valid HTTP method")
    } else {
        format!("\"{shown}\" is neither a request line (METHOD URL) nor a JSON body")
    };
    reading.wrong(line, message, REQUEST);
}
