//! HTTP/1.1 messages: heads, body framing, chunks. Pure: works on buffers, not sockets.
//!
//! Ambiguous messages are rejected, because servers behind this gateway parse them again and could
//! disagree (request smuggling): two lengths, a length together with chunks, a length that is not a
//! plain number, a transfer coding other than chunked, white space before a header's colon, folded
//! lines.
//!
//! Invariant: the same bytes are read as the same messages, however they are fragmented.

mod chunks;
mod fields;
mod glimpse;

use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::ops::Range;

use plimsoll_measure::Nanos;

use crate::error::{Error, ErrorKind};

pub(crate) use chunks::Chunks;
pub(crate) use fields::{Fields, Framing, quoted};
pub(crate) use glimpse::Glimpse;

/// Maximum number of headers in a request. Browsers send about 20, proxies add a few.
pub(crate) const FIELDS_MAX: usize = 64;

/// Maximum number of headers in an upstream's response; CDNs and security layers add dozens.
pub(crate) const RESPONSE_FIELDS_MAX: usize = 512;

/// A header as it was received.
pub(crate) type Field<'a> = httparse::Header<'a>;

/// A request's head, borrowed from the buffer that holds it.
#[derive(Debug)]
pub(crate) struct RequestHead<'a> {
    pub(crate) method: &'a str,
    /// As received: path and query, or an absolute URL.
    pub(crate) target: &'a str,
    /// HTTP/1.0: does not know 1xx responses, and closes unless both sides ask for keep-alive.
    pub(crate) old: bool,
    pub(crate) fields: Fields<'a>,
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
}

/// A response's head.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
    /// How long an idle connection is safe to use, if the server announces its timeout.
    pub(crate) idle_max: Option<Nanos>,
    pub(crate) coding: Coding,
}

/// A response's content coding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Coding {
    #[default]
    None,
    Gzip,
    /// A coding that was not requested.
    Other,
}

impl Coding {
    fn of(field: Option<&[u8]>) -> Coding {
        match field {
            None => Coding::None,
            Some(coding) if coding.eq_ignore_ascii_case(b"identity") => Coding::None,
            Some(coding)
                if coding.eq_ignore_ascii_case(b"gzip")
                    || coding.eq_ignore_ascii_case(b"x-gzip") =>
            {
                Coding::Gzip
            }
            Some(_) => Coding::Other,
        }
    }
}

/// Whether `buffer` can be the start of a request: its first byte may be part of a method.
pub(crate) fn may_start(buffer: &[u8]) -> bool {
    let name = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    buffer.first().is_none_or(name)
}

/// The end of the head at the start of `buffer`, after its empty line. Bytes before `seen` have already
/// been searched.
pub(crate) fn head_end(buffer: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(3);
    for at in memchr::memchr_iter(b'\n', &buffer[from..]) {
        let at = from + at;
        match &buffer[at + 1..] {
            [b'\n', ..] => return Some(at + 2),
            [b'\r', b'\n', ..] => return Some(at + 3),
            _ => {}
        }
    }
    None
}

/// Parses a complete head.
///
/// # Errors
/// The error to answer before closing the connection.
pub(crate) fn request_head(text: &[u8]) -> Result<RequestHead<'_>, Error> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(text, &mut fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(malformed("the head ends early")),
        Err(httparse::Error::TooManyHeaders) => return Err(too_many_fields()),
        Err(error) => return Err(malformed(format!("not an HTTP request: {error}"))),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(malformed("not an HTTP request"));
    };
    if !is_target(target) {
        return Err(malformed("the request target is neither a path nor a valid URL"));
    }
    let fields = Fields::read(request.headers)?;
    let old = minor == 0;
    if !old && fields.host.is_none() {
        return Err(malformed("no Host header"));
    }
    let framing = fields.framing(Framing::Empty)?;
    if old && framing == Framing::Chunked {
        return Err(malformed("chunked body in HTTP/1.0"));
    }
    let keep_alive = !fields.close && (!old || fields.keep_alive);
    Ok(RequestHead { method, target, old, fields, framing, keep_alive })
}

/// Whether a target is unambiguous: a path, `*`, or an http(s) URL without a query or fragment directly
/// after the host.
fn is_target(target: &str) -> bool {
    if target.starts_with('/') || target == "*" {
        return true;
    }
    let Some((scheme, rest)) = target.split_once("://") else { return false };
    let is_http = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    is_http
        && !host.is_empty()
        && fields::is_host(host.as_bytes())
        && (path.is_empty() || path.starts_with('/'))
}

/// Calls `visit` for each header of a request's head that has been parsed successfully before.
pub(crate) fn visit_fields(text: &[u8], mut visit: impl FnMut(&Field<'_>)) {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    if request.parse_with_uninit_headers(text, &mut fields).is_ok() {
        request.headers.iter().for_each(&mut visit);
    }
}

/// Parses a complete response head; `is_head`: whether it answers a HEAD request.
///
/// # Errors
/// It is not a response head, or is ambiguous.
pub(crate) fn response_head(text: &[u8], is_head: bool) -> Result<ResponseHead, Error> {
    let mut fields = [const { MaybeUninit::uninit() }; RESPONSE_FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut response, text, &mut fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(malformed("the head ends early")),
        Err(error) => return Err(malformed(format!("not an HTTP response: {error}"))),
    }
    let (Some(status @ 100..=999), Some(minor)) = (response.code, response.version) else {
        return Err(malformed("not an HTTP response"));
    };
    let fields = Fields::read(response.headers)?;
    let bodiless = matches!(status, 100..200 | 204 | 304) || is_head;
    let framing = if bodiless { Framing::Empty } else { fields.framing(Framing::UntilClose)? };
    let stays = !fields.close && (minor == 1 || fields.keep_alive);
    let keep_alive = stays && framing != Framing::UntilClose;
    let (idle_max, coding) = (fields.idle_max, Coding::of(fields.content_encoding));
    Ok(ResponseHead { status, framing, keep_alive, idle_max, coding })
}

/// Calls `visit` for each header of a response's head that has been parsed successfully before.
pub(crate) fn visit_response_fields(text: &[u8], mut visit: impl FnMut(&Field<'_>)) {
    let mut fields = [const { MaybeUninit::uninit() }; RESPONSE_FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    if config.parse_response_with_uninit_headers(&mut response, text, &mut fields).is_ok() {
        response.headers.iter().for_each(&mut visit);
    }
}

/// Appends the status line of a response.
#[inline]
pub(crate) fn write_status(status: u16, out: &mut Vec<u8>) {
    if status == 200 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    let reason = http::StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason());
    out.extend_from_slice(b"HTTP/1.1 ");
    let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
    out.extend_from_slice(&digits);
    out.push(b' ');
    out.extend_from_slice(reason.unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends a header line.
#[inline]
pub(crate) fn write_field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A request has more headers than [`FIELDS_MAX`].
pub(crate) fn too_many_fields() -> Error {
    Error::new(ErrorKind::HeadTooLarge, format!("more than {FIELDS_MAX} headers"))
}

pub(crate) fn malformed(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::MalformedHttp, message)
}

/// A body that is being received into a buffer, after its head.
#[derive(Debug)]
pub(crate) struct Body {
    framing: Framing,
    chunks: Chunks,
    /// Its start in the buffer.
    start: usize,
    /// The end of the decoded part.
    end: usize,
}

/// The progress of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Incomplete; at least this many bytes are missing, as far as is known.
    More(usize),
    /// Complete; bytes after this range belong to the next message.
    Whole(Range<usize>),
    /// Longer than the limit.
    TooLarge,
}

impl Body {
    /// A body that starts at `start`.
    pub(crate) fn new(framing: Framing, start: usize) -> Body {
        Body { framing, chunks: Chunks::default(), start, end: start }
    }

    /// Processes the bytes received so far. Chunks are decoded in place, so that the body is contiguous.
    ///
    /// # Errors
    /// Malformed chunks.
    pub(crate) fn advance(&mut self, buffer: &mut Vec<u8>, limit: u64) -> Result<Progress, Error> {
        let here = (buffer.len() - self.start) as u64;
        match self.framing {
            Framing::Empty => Ok(Progress::Whole(self.start..self.start)),
            Framing::Length(length) if length > limit => Ok(Progress::TooLarge),
            Framing::Length(length) if here >= length => {
                Ok(Progress::Whole(self.start..self.start + length as usize))
            }
            Framing::Length(length) => Ok(Progress::More((length - here) as usize)),
            Framing::UntilClose if here > limit => Ok(Progress::TooLarge),
            Framing::UntilClose => Ok(Progress::More(1)),
            Framing::Chunked => {
                let done = self.chunks.decode(buffer, &mut self.end)?;
                if (self.end - self.start) as u64 > limit {
                    return Ok(Progress::TooLarge);
                }
                if done {
                    return Ok(Progress::Whole(self.start..self.end));
                }
                Ok(Progress::More(self.chunks.due().max(1)))
            }
        }
    }

    /// The body's length; `None` if it is not known in advance.
    pub(crate) fn length(&self) -> Option<u64> {
        match self.framing {
            Framing::Empty => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        }
    }

    /// Removes the part decoded so far from the buffer. Call this after [`Body::advance`], which then
    /// continues after it.
    pub(crate) fn take_piece(&mut self, buffer: &mut Vec<u8>) -> Vec<u8> {
        let end = match &mut self.framing {
            Framing::Empty => self.start,
            Framing::Chunked => self.end,
            Framing::UntilClose => buffer.len(),
            Framing::Length(due) => {
                let here =
                    (buffer.len() - self.start).min(usize::try_from(*due).unwrap_or(usize::MAX));
                *due -= here as u64;
                self.start + here
            }
        };
        let piece = buffer[self.start..end].to_vec();
        buffer.drain(self.start..end);
        self.end = self.start;
        piece
    }

    /// The body when the connection is closed: complete if the close delimits it, otherwise `None`.
    pub(crate) fn at_close(&self, buffer: &[u8]) -> Option<Range<usize>> {
        (self.framing == Framing::UntilClose).then_some(self.start..buffer.len())
    }
}

/// Decodes percent-encoding; invalid escapes are kept, and invalid UTF-8 becomes U+FFFD.
pub(crate) fn unescaped(text: &str) -> Cow<'_, str> {
    if memchr::memchr(b'%', text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, behind)) = rest.split_first() {
        let pair = behind.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let value = pair.filter(|pair| pair.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match (byte, value.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(value)) => {
                plain.push(value);
                rest = &behind[2..];
            }
            _ => {
                plain.push(*byte);
                rest = behind;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&plain).into_owned())
}

#[cfg(test)]
mod tests;
