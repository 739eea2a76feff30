//! Heads of answers in HTTP/1.1.

use http::StatusCode;

use crate::call::message::{Answer, Summary};
use crate::call::relay::Decimal;
use crate::call::worker::{View, Worker};
use crate::http1::RequestHead;

/// How an answer's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delimited {
    /// There is none.
    Bodiless,
    ByLength,
    ByChunks,
    /// For callers that know no chunks.
    ByClose,
}

/// Writes the head of the answer to a request.
pub(super) fn write(
    worker: &Worker,
    view: &View,
    request: &RequestHead<'_>,
    answer: &Answer<'_>,
    keep_alive: bool,
    out: &mut Vec<u8>,
) -> Delimited {
    status_line(answer.status, out);
    if !answer.content_type.is_empty() {
        field(b"content-type", &answer.content_type, out);
    }
    let length = answer.body.length();
    // RFC 9110 §8.6: some answers may carry no length, others only that of the body there would be,
    // which where it is known is among the answer's own fields.
    let delimited = match (request.method, answer.status, length) {
        (_, 100..200 | 204 | 304, _) => Delimited::Bodiless,
        ("HEAD", _, length) => {
            if let Some(length @ 1..) = length {
                field(b"content-length", Decimal::of(length).digits(), out);
            }
            Delimited::Bodiless
        }
        (_, _, Some(length)) => {
            field(b"content-length", Decimal::of(length).digits(), out);
            Delimited::ByLength
        }
        (_, _, None) if request.old => Delimited::ByClose,
        (_, _, None) => {
            field(b"transfer-encoding", b"chunked", out);
            Delimited::ByChunks
        }
    };
    common(worker, view, &answer.summary, out);
    for (name, value) in &answer.fields {
        field(name.as_bytes(), value, out);
    }
    match (keep_alive && delimited != Delimited::ByClose, request.old) {
        (false, _) => field(b"connection", b"close", out),
        (true, true) => field(b"connection", b"keep-alive", out),
        (true, false) => {}
    }
    out.extend_from_slice(b"\r\n");
    delimited
}

/// Writes the whole answer to what was no request.
pub(super) fn write_refusal(
    worker: &Worker,
    view: &View,
    answer: &Answer<'_>,
    body: &[u8],
    out: &mut Vec<u8>,
) {
    status_line(answer.status, out);
    field(b"content-type", &answer.content_type, out);
    field(b"content-length", Decimal::of(body.len() as u64).digits(), out);
    common(worker, view, &answer.summary, out);
    for (name, value) in &answer.fields {
        field(name.as_bytes(), value, out);
    }
    out.extend_from_slice(b"connection: close\r\n\r\n");
    out.extend_from_slice(body);
}

/// The fields that every answer has.
fn common(worker: &Worker, view: &View, summary: &Summary<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"date: ");
    worker.local.write_date(worker.local.recent(), out);
    out.extend_from_slice(b"\r\n");
    if !view.settings.reveal {
        return;
    }
    field(b"x-plimsoll-instance", view.settings.instance.as_bytes(), out);
    if summary.attempts > 0 {
        out.extend_from_slice(b"x-plimsoll-upstream: ");
        summary.write_upstreams(out);
        out.extend_from_slice(b"\r\nx-plimsoll-attempts: ");
        out.extend_from_slice(Decimal::of(summary.attempts.into()).digits());
        out.extend_from_slice(b"\r\n");
    }
}

#[inline]
fn field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[inline]
fn status_line(status: u16, out: &mut Vec<u8>) {
    if status == 200 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    let reason = StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason());
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(Decimal::of(status.into()).digits());
    out.push(b' ');
    out.extend_from_slice(reason.unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
}
