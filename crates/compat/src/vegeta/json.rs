//! Results as JSON, one object on each line.

use super::escape::{Style, string};
use super::{BadTime, Duration, Fields, Headers, Hit, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;

/// Appends a result as a line, byte for byte as vegeta does, with headers sorted by name.
pub(super) fn write(hit: &Hit, out: &mut Vec<u8>) -> Result<(), BadTime> {
    let timestamp = hit.timestamp.to_rfc3339()?;
    out.extend_from_slice(b"{\"attack\":");
    string(&hit.attack, Style::Result, out);
    let Hit { seq, code, latency: Duration(latency), bytes_out, bytes_in, .. } = hit;
    write!(
        out,
        ",\"seq\":{seq},\"code\":{code},\"timestamp\":\"{timestamp}\",\"latency\":{latency},\
         \"bytes_out\":{bytes_out},\"bytes_in\":{bytes_in},\"error\":"
    )
    .expect("a vector");
    string(&hit.error, Style::Result, out);
    out.extend_from_slice(b",\"body\":");
    match &hit.body {
        Some(body) => {
            out.push(b'"');
            out.extend_from_slice(STANDARD.encode(body).as_bytes());
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"method\":");
    string(&hit.method, Style::Result, out);
    out.extend_from_slice(b",\"url\":");
    string(&hit.url, Style::Result, out);
    out.extend_from_slice(b",\"headers\":");
    match &hit.headers {
        Some(headers) => write_headers(headers, out),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b"}\n");
    Ok(())
}

fn write_headers(headers: &Headers, out: &mut Vec<u8>) {
    out.push(b'{');
    for (at, (name, values)) in headers.sorted().into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        string(name, Style::Result, out);
        out.extend_from_slice(b":[");
        for (at, value) in values.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            string(value, Style::Result, out);
        }
        out.push(b']');
    }
    out.push(b'}');
}

/// A result in JSON. Every key may be missing or `null`; others are ignored.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Row<'a> {
    #[serde(default, borrow)]
    attack: Text<'a>,
    seq: Option<u64>,
    code: Option<u16>,
    timestamp: Option<Time>,
    latency: Option<i64>,
    bytes_out: Option<u64>,
    bytes_in: Option<u64>,
    #[serde(default, borrow)]
    error: Text<'a>,
    #[serde(default, borrow)]
    body: Text<'a>,
    #[serde(default, borrow)]
    method: Text<'a>,
    #[serde(default, borrow)]
    url: Text<'a>,
    headers: Option<BTreeMap<String, Option<Vec<String>>>>,
}

/// As [`Row`], without the fields that reports do not need.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
struct Figures<'a> {
    #[serde(default, borrow)]
    attack: Text<'a>,
    seq: Option<u64>,
    code: Option<u16>,
    timestamp: Option<Time>,
    latency: Option<i64>,
    bytes_out: Option<u64>,
    bytes_in: Option<u64>,
    #[serde(default, borrow)]
    error: Text<'a>,
}

/// A string, or `null`; borrowed where it has no escapes.
#[derive(Default)]
struct Text<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Text<'a>, D::Error> {
        #[derive(Deserialize)]
        struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);
        let text = Option::<Borrowed<'a>>::deserialize(from)?;
        Ok(Text(text.map(|Borrowed(text)| text)))
    }
}

struct Time(Timestamp);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Time, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        Timestamp::from_rfc3339(&text).map(Time).map_err(serde::de::Error::custom)
    }
}

impl Text<'_> {
    fn append_to(&self, field: &mut Vec<u8>) {
        field.extend_from_slice(self.0.as_deref().unwrap_or_default().as_bytes());
    }
}

/// Reads the object at the beginning of `line`, and returns its length.
///
/// # Errors
/// What is wrong, with the number of bytes before it.
pub(super) fn read(line: &[u8], fields: Fields, hit: &mut Hit) -> Result<usize, (String, usize)> {
    hit.clear();
    match fields {
        Fields::All => {
            let (row, length) = parse::<Row>(line)?;
            row.attack.append_to(&mut hit.attack);
            row.error.append_to(&mut hit.error);
            row.method.append_to(&mut hit.method);
            row.url.append_to(&mut hit.url);
            set(hit, row.seq, row.code, row.timestamp, row.latency, row.bytes_out, row.bytes_in);
            if let Some(body) = row.body.0 {
                let body = STANDARD.decode(body.as_bytes());
                hit.body = Some(body.map_err(|error| (format!("body: {error}"), 0))?);
            }
            hit.headers = row.headers.map(|headers| {
                let bytes =
                    |values: Vec<String>| values.into_iter().map(String::into_bytes).collect();
                let all = headers.into_iter();
                all.map(|(name, values)| (name.into_bytes(), values.map(bytes).unwrap_or_default()))
                    .collect()
            });
            Ok(length)
        }
        Fields::Figures => {
            let (row, length) = parse::<Figures>(line)?;
            row.attack.append_to(&mut hit.attack);
            row.error.append_to(&mut hit.error);
            set(hit, row.seq, row.code, row.timestamp, row.latency, row.bytes_out, row.bytes_in);
            Ok(length)
        }
    }
}

fn set(
    hit: &mut Hit,
    seq: Option<u64>,
    code: Option<u16>,
    timestamp: Option<Time>,
    latency: Option<i64>,
    bytes_out: Option<u64>,
    bytes_in: Option<u64>,
) {
    hit.seq = seq.unwrap_or_default();
    hit.code = code.unwrap_or_default();
    hit.timestamp = timestamp.map_or_else(Timestamp::default, |Time(time)| time);
    hit.latency = Duration(latency.unwrap_or_default());
    hit.bytes_out = bytes_out.unwrap_or_default();
    hit.bytes_in = bytes_in.unwrap_or_default();
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<(T, usize), (String, usize)> {
    let mut values = serde_json::Deserializer::from_slice(line).into_iter::<T>();
    match values.next() {
        Some(Ok(row)) => Ok((row, values.byte_offset())),
        Some(Err(error)) => {
            let text = error.to_string();
            // The place is the reader's, which knows the lines before.
            let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
            Err((text.to_string(), offset_of(line, error.line(), error.column())))
        }
        None => Err(("an object is expected".to_string(), 0)),
    }
}

/// The number of bytes before a line and column, both from 1.
fn offset_of(text: &[u8], line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive(|b| *b == b'\n').take(line - 1).map(<[u8]>::len).sum();
    start + column.saturating_sub(1)
}

/// Whether the input ends before the object at its beginning is complete.
pub(super) fn is_cut_short(line: &[u8]) -> bool {
    let mut values = serde_json::Deserializer::from_slice(line).into_iter::<IgnoredAny>();
    matches!(values.next(), Some(Err(error)) if error.is_eof())
}
