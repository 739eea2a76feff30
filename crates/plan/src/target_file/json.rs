//! The `json` format: an object a line.

use super::{Piece, Reading, Written, WrittenBody, excerpt, lines};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use plimsoll_config::{Spot, nearest};
use plimsoll_rpc::json::{self, Kind};

const OBJECT: &str =
    "each line must be an object such as {\"method\":\"POST\",\"url\":\"http://host:port/path\"}";
const KEYS: [&str; 4] = ["method", "url", "header", "body"];

pub(super) fn read(text: &str, reading: &mut Reading) {
    for line in lines(text) {
        let line = line.trim();
        if !line.text.is_empty() {
            let before = reading.wrongs.len();
            let request = object(line, reading);
            // What is wrong in part is not sent in part.
            reading.requests.extend(request.filter(|_| reading.wrongs.len() == before));
        }
    }
}

fn object(line: Spot<'_>, reading: &mut Reading) -> Option<Written> {
    if let Err(fault) = json::validate(line.text.as_bytes()) {
        let at = at_byte(line, fault.at);
        reading.wrong(at, format!("no JSON: {}", fault.what), OBJECT);
        return None;
    }
    if json::kind(line.text.as_bytes()) != Some(Kind::Object) {
        reading.wrong(line, format!("\"{}\" is not a JSON object", excerpt(line.text)), OBJECT);
        return None;
    }
    let (mut method, mut url) = (None, None);
    let (mut headers, mut body) = (Vec::new(), WrittenBody::Empty);
    for member in json::members(line.text.as_bytes()).filter_map(Result::ok) {
        let (name, value) = (spot_of(line, member.name), spot_of(line, member.value));
        let null = json::kind(member.value) == Some(Kind::Null);
        match &*member.plain() {
            b"method" => method = Some(text("method", value, reading)),
            b"url" => url = Some(text("url", value, reading)),
            b"header" if !null => headers = header(value, reading),
            b"body" if !null => body = bytes(value, reading),
            b"header" | b"body" => {}
            other => unknown(&String::from_utf8_lossy(other), name, reading),
        }
    }
    for (key, value) in [("method", &method), ("url", &url)] {
        if value.is_none() {
            reading.wrong(line, format!("no \"{key}\""), OBJECT);
        }
    }
    Some(Written { method: method??, url: url??, headers, body })
}

fn unknown(key: &str, at: Spot<'_>, reading: &mut Reading) {
    let near = nearest(key, KEYS).map(|near| format!("; did you mean \"{near}\"?"));
    let message = format!("unknown key \"{}\"{}", excerpt(key), near.unwrap_or_default());
    reading.wrong(at, message, "known: method, url, header, body");
}

/// A string's characters.
fn text(what: &str, value: Spot<'_>, reading: &mut Reading) -> Option<Piece> {
    let Some(text) = json::text(value.text.as_bytes()) else {
        reading.wrong(value, format!("\"{what}\" must be a string"), "");
        return None;
    };
    Some(Piece { line: value.line, column: value.column + 1, text: text.into_owned() })
}

/// An object with a list of strings for each name.
fn header(value: Spot<'_>, reading: &mut Reading) -> Vec<(Piece, Piece)> {
    let hint = "write \"header\":{\"Name\":[\"value\"]}";
    let mut headers = Vec::new();
    if json::kind(value.text.as_bytes()) != Some(Kind::Object) {
        reading.wrong(value, "\"header\" must be an object", hint);
        return headers;
    }
    for member in json::members(value.text.as_bytes()).filter_map(Result::ok) {
        let Some(name) = text("a header's name", spot_of(value, member.name), reading) else {
            continue;
        };
        if json::kind(member.value) != Some(Kind::Array) {
            let message = format!("the values of header \"{}\" must be a list", name.text);
            reading.wrong(spot_of(value, member.value), message, hint);
            continue;
        }
        for item in json::items(member.value).filter_map(Result::ok) {
            let item = text("a header's value", spot_of(value, item), reading);
            headers.extend(item.map(|item| (name.clone(), item)));
        }
    }
    headers
}

fn bytes(value: Spot<'_>, reading: &mut Reading) -> WrittenBody {
    let Some(text) = text("body", value, reading) else { return WrittenBody::Empty };
    match BASE64.decode(&text.text) {
        Ok(bytes) if bytes.is_empty() => WrittenBody::Empty,
        Ok(bytes) => WrittenBody::Bytes(bytes),
        Err(error) => {
            let hint = "a body is base64 with padding, so that it can hold any bytes";
            reading.wrong(text.spot(), format!("\"body\" is not valid base64: {error}"), hint);
            WrittenBody::Empty
        }
    }
}

/// The place of a span of a line.
fn spot_of<'t>(line: Spot<'t>, span: &'t [u8]) -> Spot<'t> {
    let at = span.as_ptr().addr() - line.text.as_ptr().addr();
    line.from(at).upto(span.len())
}

/// The place of a byte of a line, which may be in the middle of a character, or its end.
fn at_byte(line: Spot<'_>, byte: usize) -> Spot<'_> {
    let at = (0..=byte.min(line.text.len())).rev().find(|at| line.text.is_char_boundary(*at));
    line.from(at.unwrap_or(0))
}
