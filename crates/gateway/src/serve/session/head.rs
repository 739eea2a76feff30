//! Writes the heads of HTTP/1.1 answers.

use crate::call::message::{Answer, Summary};
use crate::call::relay::Decimal;
use crate::call::worker::{View, Worker};
use crate::http1::{RequestHead, write_field, write_status};

/// How an answer's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delimited {
    /// There is no body.
    Bodiless,
    ByLength,
    ByChunks,
    /// For HTTP/1.0 callers, which do not support chunks.
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
    write_status(answer.status, out);
    if !answer.content_type.is_empty() {
        write_field("content-type", &answer.content_type, out);
    }
    let length = answer.body.length();
    // RFC 9110 §8.6: some answers must not have a length; the answer to HEAD has that of the body it
    // would have, which, if known, is among the answer's own headers.
    let delimited = match (request.method, answer.status, length) {
        (_, 100..200 | 204 | 304, _) => Delimited::Bodiless,
        ("HEAD", _, length) => {
            if let Some(length @ 1..) = length {
                write_field("content-length", Decimal::of(length).digits(), out);
            }
            Delimited::Bodiless
        }
        (_, _, Some(length)) => {
            write_field("content-length", Decimal::of(length).digits(), out);
            Delimited::ByLength
        }
        (_, _, None) if request.old => Delimited::ByClose,
        (_, _, None) => {
            write_field("transfer-encoding", b"chunked", out);
            Delimited::ByChunks
        }
    };
    common(worker, view, &answer.summary, out);
    for (name, value) in &answer.fields {
        write_field(name, value, out);
    }
    match (keep_alive && delimited != Delimited::ByClose, request.old) {
        (false, _) => write_field("connection", b"close", out),
        (true, true) => write_field("connection", b"keep-alive", out),
        (true, false) => {}
    }
    out.extend_from_slice(b"\r\n");
    delimited
}

/// Writes the complete answer to an unreadable request.
pub(super) fn write_refusal(
    worker: &Worker,
    view: &View,
    answer: &mut Answer<'_>,
    out: &mut Vec<u8>,
) {
    let mut fields = Vec::new();
    common(worker, view, &answer.summary, &mut fields);
    answer.write_last(false, &fields, out);
}

/// Writes the headers that every answer has.
fn common(worker: &Worker, view: &View, summary: &Summary<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"date: ");
    worker.local.write_date(worker.local.recent(), out);
    out.extend_from_slice(b"\r\n");
    if !view.settings.reveal {
        return;
    }
    write_field("x-plimsoll-instance", view.settings.instance.as_bytes(), out);
    if let Some(cache) = summary.cache {
        write_field("x-cache", cache.name().as_bytes(), out);
    }
    if summary.attempts > 0 {
        out.extend_from_slice(b"x-plimsoll-upstream: ");
        summary.write_upstreams(out);
        out.extend_from_slice(b"\r\nx-plimsoll-attempts: ");
        out.extend_from_slice(Decimal::of(summary.attempts.into()).digits());
        out.extend_from_slice(b"\r\n");
    }
}
