//! The `json` format: one object per line.

use super::{Parsed, RawBody, RawRequest, Span, excerpt, lines};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use plimsoll_config::{Spot, nearest};
use plimsoll_rpc::json::{self, Kind};

const OBJECT: &str =
    "each line must be an object such as {\"method\":\"POST\",\"url\":\"http://host:port/path\"}";
const KEYS: [&str; 4] = ["method", "url", "header", "body"];

pub(super) fn read(text: &str, lenient: bool, parsed: &mut Parsed) {
    for line in lines(text) {
        let line = line.trim();
        if !line.text.is_empty() {
            let before = parsed.problems.len();
            let request = object(line, lenient, parsed);
            // A request with any problem is dropped.
            parsed.requests.extend(request.filter(|_| parsed.problems.len() == before));
        }
    }
}

fn object(line: Spot<'_>, lenient: bool, parsed: &mut Parsed) -> Option<RawRequest> {
    if let Err(fault) = json::validate(line.text.as_bytes()) {
        let at = at_byte(line, fault.at);
        parsed.problem(at, format!("not valid JSON: {}", fault.what), OBJECT);
        return None;
    }
    if json::kind(line.text.as_bytes()) != Some(Kind::Object) {
        parsed.problem(line, format!("\"{}\" is not a JSON object", excerpt(line.text)), OBJECT);
        return None;
    }
    let (mut method, mut url) = (None, None);
    let (mut headers, mut body) = (Vec::new(), RawBody::Empty);
    for member in json::members(line.text.as_bytes()).filter_map(Result::ok) {
        let (name, value) = (spot_of(line, member.name), spot_of(line, member.value));
        let null = json::kind(member.value) == Some(Kind::Null);
        match &*member.plain() {
            b"method" => method = Some(text("method", value, parsed)),
            b"url" => url = Some(text("url", value, parsed)),
            b"header" if !null => headers = header(value, parsed),
            b"body" if !null => body = bytes(value, parsed),
            b"header" | b"body" => {}
            _ if lenient => {}
            other => unknown(&String::from_utf8_lossy(other), name, parsed),
        }
    }
    for (key, value) in [("method", &method), ("url", &url)] {
        if value.is_none() {
            parsed.problem(line, format!("missing \"{key}\""), OBJECT);
        }
    }
    Some(RawRequest { method: method??, url: url??, headers, body })
}

fn unknown(key: &str, at: Spot<'_>, parsed: &mut Parsed) {
    let near = nearest(key, KEYS).map(|near| format!("; did you mean \"{near}\"?"));
    let message = format!("unknown key \"{}\"{}", excerpt(key), near.unwrap_or_default());
    parsed.problem(at, message, "known: method, url, header, body");
}

/// The value of a JSON string.
fn text(what: &str, value: Spot<'_>, parsed: &mut Parsed) -> Option<Span> {
    let Some(text) = json::text(value.text.as_bytes()) else {
        parsed.problem(value, format!("\"{what}\" must be a string"), "");
        return None;
    };
    Some(Span { line: value.line, column: value.column + 1, text: text.into_owned() })
}

/// An object with a list of strings, or null, for each name.
fn header(value: Spot<'_>, parsed: &mut Parsed) -> Vec<(Span, Span)> {
    let hint = "write \"header\":{\"Name\":[\"value\"]}";
    let mut headers = Vec::new();
    if json::kind(value.text.as_bytes()) != Some(Kind::Object) {
        parsed.problem(value, "\"header\" must be an object", hint);
        return headers;
    }
    for member in json::members(value.text.as_bytes()).filter_map(Result::ok) {
        let Some(name) = text("a header's name", spot_of(value, member.name), parsed) else {
            continue;
        };
        if json::kind(member.value) == Some(Kind::Null) {
            continue;
        }
        if json::kind(member.value) != Some(Kind::Array) {
            let message = format!("the values of header \"{}\" must be a list", name.text);
            parsed.problem(spot_of(value, member.value), message, hint);
            continue;
        }
        for item in json::items(member.value).filter_map(Result::ok) {
            let item = text("a header's value", spot_of(value, item), parsed);
            headers.extend(item.map(|item| (name.clone(), item)));
        }
    }
    headers
}

/// Bytes in base64, which may be in several lines.
fn bytes(value: Spot<'_>, parsed: &mut Parsed) -> RawBody {
    let Some(text) = text("body", value, parsed) else { return RawBody::Empty };
    match BASE64.decode(text.text.replace(['\r', '\n'], "")) {
        Ok(bytes) if bytes.is_empty() => RawBody::Empty,
        Ok(bytes) => RawBody::Bytes(bytes),
        Err(error) => {
            let hint = "a body must be base64 with padding";
            parsed.problem(text.spot(), format!("\"body\" is not valid base64: {error}"), hint);
            RawBody::Empty
        }
    }
}

/// The position of a part of a line.
fn spot_of<'t>(line: Spot<'t>, span: &'t [u8]) -> Spot<'t> {
    let at = span.as_ptr().addr() - line.text.as_ptr().addr();
    line.from(at).upto(span.len())
}

/// The position of a byte of a line, which may be inside a character or at the end of the line.
fn at_byte(line: Spot<'_>, byte: usize) -> Spot<'_> {
    let at = (0..=byte.min(line.text.len())).rev().find(|at| line.text.is_char_boundary(*at));
    line.from(at.unwrap_or(0))
}
