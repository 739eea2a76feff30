//! Answers as HTTP/1.1.

use plimsoll_measure::Nanos;

use crate::call::relay::{Decimal, Told};
use crate::call::worker::{View, Worker};
use crate::http1::RequestHead;
use crate::serve::face::Answer;

/// Answers shorter than this are not worth packing: they fit one segment anyway.
const GZIP_MIN: usize = 1 << 10;

/// Writes the answer to a request.
pub(super) fn answer(
    worker: &Worker,
    view: &View,
    request: &RequestHead<'_>,
    answer: &Answer<'_>,
    keep_alive: bool,
    out: &mut Vec<u8>,
) {
    status_line(answer.status, out);
    let packed = match packs(view, request.fields.accept_encoding, answer) {
        true => pack(&answer.body),
        false => None,
    };
    let body = packed.as_deref().unwrap_or(&answer.body);
    if !answer.content_type.is_empty() {
        field(b"content-type", &answer.content_type, out);
    }
    if packed.is_some() {
        field(b"content-encoding", b"gzip", out);
    }
    // RFC 9110 §8.6: some may carry no length, others none but that of the body there would be, which
    // where it is known stands among the answer's own fields.
    let bodiless = request.method == "HEAD" && body.is_empty();
    if !bodiless && !matches!(answer.status, 100..200 | 204 | 304) {
        field(b"content-length", Decimal::of(body.len() as u64).digits(), out);
    }
    common(worker, view, &answer.told, worker.recent(), out);
    for (name, value) in &answer.fields {
        field(name.as_bytes(), value, out);
    }
    match (keep_alive, request.old) {
        (false, _) => field(b"connection", b"close", out),
        (true, true) => field(b"connection", b"keep-alive", out),
        (true, false) => {}
    }
    out.extend_from_slice(b"\r\n");
    if request.method != "HEAD" && !matches!(answer.status, 204 | 304) {
        out.extend_from_slice(body);
    }
}

/// Writes the answer to what was no request.
pub(super) fn refusal(worker: &Worker, view: &View, answer: &Answer<'_>, out: &mut Vec<u8>) {
    status_line(answer.status, out);
    field(b"content-type", &answer.content_type, out);
    field(b"content-length", Decimal::of(answer.body.len() as u64).digits(), out);
    common(worker, view, &answer.told, worker.recent(), out);
    out.extend_from_slice(b"connection: close\r\n\r\n");
    out.extend_from_slice(&answer.body);
}

/// The fields that every answer has.
fn common(worker: &Worker, view: &View, told: &Told<'_>, now: Nanos, out: &mut Vec<u8>) {
    out.extend_from_slice(b"date: ");
    worker.write_date(now, out);
    out.extend_from_slice(b"\r\n");
    if !view.settings.reveal {
        return;
    }
    field(b"x-plimsoll-instance", view.settings.instance.as_bytes(), out);
    if told.attempts > 0 {
        out.extend_from_slice(b"x-plimsoll-upstream: ");
        upstreams(told, out);
        out.extend_from_slice(b"\r\nx-plimsoll-attempts: ");
        out.extend_from_slice(Decimal::of(told.attempts.into()).digits());
        out.extend_from_slice(b"\r\n");
    }
}

/// The upstreams that were relayed to, with commas.
pub(super) fn upstreams(told: &Told<'_>, out: &mut Vec<u8>) {
    for (at, upstream) in told.upstreams.iter().flatten().enumerate() {
        if at > 0 {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(upstream.as_bytes());
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
    let reason = hyper::StatusCode::from_u16(status).ok().and_then(|code| code.canonical_reason());
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(Decimal::of(status.into()).digits());
    out.push(b' ');
    out.extend_from_slice(reason.unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Whether an answer is to be packed: the caller takes gzip, and it is worth it.
pub(super) fn packs(view: &View, accepts: Option<&[u8]>, answer: &Answer<'_>) -> bool {
    let wanted = accepts.is_some_and(takes_gzip);
    let packed_already = answer.fields.iter().any(|(name, _)| name == "content-encoding");
    wanted && view.settings.gzip && answer.body.len() >= GZIP_MIN && !packed_already
}

/// Whether an Accept-Encoding takes gzip: named, or by `*`, and not with a quality of zero.
fn takes_gzip(accepts: &[u8]) -> bool {
    let mut any = false;
    for offer in accepts.split(|byte| *byte == b',') {
        let mut parts = offer.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let coding = parts.next().unwrap_or_default();
        let refused = parts.any(|part| {
            let quality = part.strip_prefix(b"q=").unwrap_or(b"1");
            quality.iter().all(|byte| matches!(byte, b'0' | b'.'))
        });
        if coding.eq_ignore_ascii_case(b"gzip") {
            return !refused;
        }
        any |= coding == b"*" && !refused;
    }
    any
}

/// A body as gzip; `None` when that is not shorter.
pub(super) fn pack(body: &[u8]) -> Option<Vec<u8>> {
    use std::io::Write;
    let out = Vec::with_capacity(body.len() / 2);
    // The fastest level: JSON of hashes and numbers gains little from more.
    let mut gzip = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
    gzip.write_all(body).ok()?;
    gzip.finish().ok().filter(|packed| packed.len() < body.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_of_gzip_are_read() {
        let check = |accepts: &str, takes: bool| {
            assert_eq!(takes_gzip(accepts.as_bytes()), takes, "{accepts}");
        };
        check("gzip", true);
        check("br, GZIP;q=0.5", true);
        check("*", true);
        check("gzip;q=0, *", false);
        check("gzip; q=0.0", false);
        check("identity", false);
        check("br;q=1, *;q=0", false);
        check("", false);
    }
}
