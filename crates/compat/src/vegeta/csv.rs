//! Results as CSV: twelve columns without a header, quoted as Go's `encoding/csv` quotes.

use super::{Duration, Fields, Headers, Hit, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plimsoll_measure::units::counted;
use std::io::Write;
use std::str::FromStr;

/// The columns of vegeta's CSV, in order.
const COLUMNS: [&str; 12] = [
    "timestamp",
    "code",
    "latency",
    "bytes out",
    "bytes in",
    "error",
    "body",
    "attack",
    "seq",
    "method",
    "url",
    "headers",
];

/// Appends a result as a line, byte for byte as vegeta does.
pub(super) fn write(hit: &Hit, out: &mut Vec<u8>) {
    let Hit { code, latency: Duration(latency), bytes_out, bytes_in, seq, .. } = hit;
    let timestamp = hit.timestamp.unix_nanos();
    write!(out, "{timestamp},{code},{latency},{bytes_out},{bytes_in},").expect("a vector");
    field(&hit.error, out);
    out.push(b',');
    out.extend_from_slice(STANDARD.encode(hit.body.as_deref().unwrap_or_default()).as_bytes());
    out.push(b',');
    field(&hit.attack, out);
    write!(out, ",{seq},").expect("a vector");
    field(&hit.method, out);
    out.push(b',');
    field(&hit.url, out);
    out.push(b',');
    if let Some(headers) = &hit.headers {
        out.extend_from_slice(STANDARD.encode(wire_form(headers)).as_bytes());
    }
    out.push(b'\n');
}

/// A field, in quotes where Go's reader could not read it otherwise.
fn field(text: &[u8], out: &mut Vec<u8>) {
    let starts_with_space = String::from_utf8_lossy(text).starts_with(char::is_whitespace);
    let special = |byte: &u8| matches!(byte, b',' | b'"' | b'\r' | b'\n');
    if !starts_with_space && text != b"\\." && !text.iter().any(special) {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for byte in text {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

/// The headers as HTTP/1 sends them. As in Go, names that are not valid are left out, and line breaks
/// in values become spaces.
fn wire_form(headers: &Headers) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, values) in headers.sorted() {
        if name.is_empty() || !name.iter().all(is_token) {
            continue;
        }
        for value in values {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            out.extend(trimmed(value).iter().map(|byte| match byte {
                b'\r' | b'\n' => b' ',
                byte => *byte,
            }));
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

fn trimmed(value: &[u8]) -> &[u8] {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let start = value.iter().position(|byte| !space(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !space(byte)).map_or(start, |at| at + 1);
    &value[start..end]
}

/// Whether a quoted field is still open at the end of `text`, so that the record goes on.
pub(super) fn is_open(text: &[u8]) -> bool {
    text.iter().filter(|byte| **byte == b'"').count() % 2 == 1
}

/// A mistake, with the number of bytes of the record before it.
type Mistake = (String, usize);

/// Reads a record, with or without its line break.
pub(super) fn read(record: &[u8], fields: Fields, hit: &mut Hit) -> Result<(), Mistake> {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    let record = record.strip_suffix(b"\r").unwrap_or(record);
    hit.clear();
    let mut rest = Some(record);
    let mut unquoted = Vec::new();
    let mut count = 0;
    while let Some(text) = rest {
        let text = text.trim_ascii_start();
        let at = record.len() - text.len();
        let (plain, after) =
            split(text, &mut unquoted).map_err(|(what, ahead)| (what, at + ahead))?;
        set(count, plain.unwrap_or(&unquoted), fields, hit).map_err(|what| (what, at))?;
        rest = after;
        count += 1;
    }
    match count {
        12 => Ok(()),
        _ => {
            let columns = counted(count as u64, "column");
            Err((format!("a row of {columns}; vegeta's CSV has 12"), record.len()))
        }
    }
}

/// A field, or `None` if it was quoted; and the text after its comma, unless it was the last.
type Split<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// Splits off the first field. One that is quoted is put into `unquoted`.
fn split<'a>(text: &'a [u8], unquoted: &mut Vec<u8>) -> Result<Split<'a>, Mistake> {
    let Some(mut quoted) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|byte| *byte == b',');
        let value = &text[..end.unwrap_or(text.len())];
        if let Some(at) = value.iter().position(|byte| *byte == b'"') {
            return Err(("a quote inside a field that is not quoted".to_string(), at));
        }
        return Ok((Some(value), end.map(|end| &text[end + 1..])));
    };
    unquoted.clear();
    loop {
        let Some(end) = quoted.iter().position(|byte| *byte == b'"') else {
            return Err(("a quoted field without its closing quote".to_string(), 0));
        };
        unquoted.extend_from_slice(&quoted[..end]);
        quoted = &quoted[end + 1..];
        match quoted.first() {
            Some(b'"') => {
                unquoted.push(b'"');
                quoted = &quoted[1..];
            }
            Some(b',') => return Ok((None, Some(&quoted[1..]))),
            None => return Ok((None, None)),
            Some(_) => {
                let at = text.len() - quoted.len();
                return Err(("text after the closing quote of a field".to_string(), at));
            }
        }
    }
}

/// Sets the field of a column, counted from 0.
fn set(column: usize, value: &[u8], fields: Fields, hit: &mut Hit) -> Result<(), String> {
    let Some(name) = COLUMNS.get(column) else {
        return Err("a thirteenth column; vegeta's CSV has 12".to_string());
    };
    if fields == Fields::Figures && matches!(column, 6 | 9 | 10 | 11) {
        return Ok(());
    }
    let base64 = || STANDARD.decode(value).map_err(|error| format!("{name}: {error}"));
    match column {
        0 => match number(name, value) {
            Ok(nanos) => hit.timestamp = Timestamp::from_unix_nanos(nanos),
            Err(what) => return Err(format!("neither gob, JSON nor CSV of vegeta: {what}")),
        },
        1 => hit.code = number(name, value)?,
        2 => hit.latency = Duration(number(name, value)?),
        3 => hit.bytes_out = number(name, value)?,
        4 => hit.bytes_in = number(name, value)?,
        5 => hit.error.extend_from_slice(value),
        6 => hit.body = Some(base64()?),
        7 => hit.attack.extend_from_slice(value),
        8 => hit.seq = number(name, value)?,
        9 => hit.method.extend_from_slice(value),
        10 => hit.url.extend_from_slice(value),
        _ if value.is_empty() => hit.headers = None,
        _ => hit.headers = Some(headers(&base64()?)?),
    }
    Ok(())
}

fn number<T: FromStr>(name: &str, value: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| {
        let start = String::from_utf8_lossy(&value[..value.len().min(40)]);
        format!("{name}: {start:?} is not a number in its range")
    })
}

/// Reads headers in wire form, up to the empty line.
fn headers(wire: &[u8]) -> Result<Headers, String> {
    let mut headers = Headers::default();
    for line in wire.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|byte| *byte == b':').filter(|at| *at > 0);
        let Some(colon) = colon.filter(|at| line[..*at].iter().all(is_token)) else {
            let start = String::from_utf8_lossy(&line[..line.len().min(40)]);
            return Err(format!("headers: {start:?} is not a header"));
        };
        headers.add(&line[..colon], trimmed(&line[colon + 1..]));
    }
    Ok(headers)
}
