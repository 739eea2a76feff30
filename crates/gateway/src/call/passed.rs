//! Caller headers that are forwarded to upstreams.
//!
//! Calls are re-encoded, so an upstream sees none of a request's headers except those listed here:
//! trace headers, headers that PATH accepts (only to PATH instances), headers that the operator
//! lists, and the ids of the Plimsoll gateways that the request has passed through, for loop
//! detection.

use std::io::Write;
use std::net::IpAddr;
use std::ops::Range;

use plimsoll_registry::model::{self, Kind};
use plimsoll_registry::settings::Settings;

use super::forwarded::{self, FORWARDED_FOR};
use super::message::Request;
use super::trace::RequestTrace;
use crate::error::{Error, ErrorKind};
use crate::http1::write_field;
use crate::observe::traces::context::{PARENT, STATE, State};

/// Forwarded to PATH instances only.
const TO_PATH: [&str; 5] =
    ["app-address", "portal-account-id", "portal-application-id", "rpc-type", "target-suppliers"];

/// Of these, those that choose who answers.
const CHOOSING: [&str; 2] = ["rpc-type", "target-suppliers"];

/// Forwarded to every upstream.
const TO_ALL: [&str; 3] = [REQUEST_ID, PARENT, STATE];

/// The header with the request's id.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// The header with the id of a gateway that the request has passed through, one per gateway.
pub(crate) const VIA: &str = "x-plimsoll-via";

/// A request that has passed through more gateways than this is treated as a loop.
const VIA_MAX: usize = 8;

/// The longest request id accepted from a caller, in bytes.
const REQUEST_ID_MAX: usize = 128;

/// The headers to forward with a request.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    /// The caller's address, which every PATH instance is sent.
    peer: IpAddr,
    /// Boxed, because most requests have none.
    lines: Option<Box<HeaderLines>>,
}

/// Encoded header lines.
#[derive(Clone, Debug, Default)]
struct HeaderLines {
    /// Whether some of them may change the answer.
    may_change_answer: bool,
    to_all: Vec<u8>,
    /// The part of these that is the value of `tracestate`, if the gateway has checked it.
    trace_state: Range<usize>,
    to_path: Vec<u8>,
    /// Empty if only the peer's address is to be sent.
    forwarded_for: Vec<u8>,
}

impl Passed {
    /// No header but the caller's address.
    pub(crate) fn only(peer: IpAddr) -> Passed {
        Passed { peer, lines: None }
    }

    /// The headers of `request` to forward; `own_id` is this gateway's id, `id` the request's. While traces
    /// are on, each attempt has its own `traceparent`, and `tracestate` goes with the caller's trace only.
    ///
    /// # Errors
    /// The request has already passed through this gateway, or through too many gateways.
    pub(crate) fn of(
        request: &Request<'_>,
        settings: &Settings,
        own_id: &str,
        id: Option<&[u8]>,
        trace: &RequestTrace,
    ) -> Result<Passed, Error> {
        let has_fields = request.fields.is_passed || !settings.pass_headers.is_empty();
        if id.is_none() && !has_fields {
            return Ok(Passed::only(request.peer));
        }
        let mut passed = Box::<HeaderLines>::default();
        if let Some(id) = id {
            write_field(REQUEST_ID, id, &mut passed.to_all);
        }
        if !has_fields {
            return Ok(Passed { peer: request.peer, lines: Some(passed) });
        }
        let mut gateways = 0;
        let mut is_loop = false;
        let mut state = State::default();
        request.all.visit(|name, value| {
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            if is(VIA) {
                // A proxy may join headers into one, or change their case.
                for id in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    gateways += usize::from(!id.is_empty());
                    is_loop |= id.eq_ignore_ascii_case(own_id.as_bytes());
                }
                is_loop |= gateways > VIA_MAX;
                write_field(VIA, value, &mut passed.to_all);
            } else if is(REQUEST_ID) {
                // Already written above if it is valid.
            } else if trace.is_on() && (is(PARENT) || is(STATE)) {
                if trace.is_continued() && is(STATE) {
                    state.add(value);
                }
            } else if TO_PATH.iter().any(|known| is(known)) {
                passed.may_change_answer |= CHOOSING.iter().any(|known| is(known));
                write_field(&name.to_ascii_lowercase(), value, &mut passed.to_path);
            } else if TO_ALL.iter().any(|known| is(known))
                || settings.pass_headers.iter().any(|known| is(known))
            {
                passed.may_change_answer |= !TO_ALL.iter().any(|known| is(known));
                write_field(&name.to_ascii_lowercase(), value, &mut passed.to_all);
            }
        });
        if let Some(state) = state.value() {
            write_field(STATE, state, &mut passed.to_all);
            let end = passed.to_all.len() - b"\r\n".len();
            passed.trace_state = end - state.len()..end;
        }
        if is_loop {
            let message = "this request has already passed through this gateway, or through too \
                           many gateways: an upstream leads back to the gateway";
            return Err(Error::new(ErrorKind::Loop, message));
        }
        if let Some(chain) = forwarded::to_send(request, settings) {
            write_field(FORWARDED_FOR, &chain, &mut passed.forwarded_for);
        }
        Ok(Passed { peer: request.peer, lines: Some(passed) })
    }

    /// The `tracestate` that is forwarded, if the gateway has checked it.
    pub(super) fn trace_state(&self) -> Option<&[u8]> {
        let lines = self.lines.as_ref()?;
        Some(&lines.to_all[lines.trace_state.clone()]).filter(|state| !state.is_empty())
    }

    /// Whether some headers may change the answer, so that other callers must not get it.
    #[inline]
    pub(crate) fn may_change_answer(&self) -> bool {
        self.lines.as_ref().is_some_and(|lines| lines.may_change_answer)
    }

    /// Appends the headers for a call to an upstream, except those that it is configured with.
    #[inline]
    pub(crate) fn write(&self, upstream: &model::Upstream, out: &mut Vec<u8>) {
        self.write_without_forwarded_for(upstream, out);
        if upstream.kind == Kind::Path {
            self.write_forwarded_for(upstream, out);
        }
    }

    /// Appends X-Forwarded-For.
    #[inline]
    pub(crate) fn write_forwarded_for(&self, upstream: &model::Upstream, out: &mut Vec<u8>) {
        if upstream.headers.iter().any(|(own, _)| own == FORWARDED_FOR) {
            return;
        }
        match &self.lines {
            Some(lines) if !lines.forwarded_for.is_empty() => {
                out.extend_from_slice(&lines.forwarded_for);
            }
            _ => write!(out, "{FORWARDED_FOR}: {}\r\n", self.peer).expect("writing to memory"),
        }
    }

    /// Appends the headers except X-Forwarded-For.
    #[inline]
    pub(crate) fn write_without_forwarded_for(
        &self,
        upstream: &model::Upstream,
        out: &mut Vec<u8>,
    ) {
        let Some(lines) = &self.lines else { return };
        append(&lines.to_all, upstream, out);
        if upstream.kind == Kind::Path {
            append(&lines.to_path, upstream, out);
        }
    }
}

/// Appends header lines, except those that the upstream's own `headers` override.
#[inline]
fn append(lines: &[u8], upstream: &model::Upstream, out: &mut Vec<u8>) {
    if upstream.headers.is_empty() {
        return out.extend_from_slice(lines);
    }
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if !upstream.headers.iter().any(|(own, _)| own.as_bytes() == name) {
            out.extend_from_slice(line);
        }
    }
}

/// The request id that the caller sent, if it is valid.
pub(crate) fn request_id<'a>(request: &Request<'a>) -> Option<&'a [u8]> {
    valid_id(request.fields.request_id?)
}

/// A request id from a caller, if it is valid.
pub(crate) fn valid_id(id: &[u8]) -> Option<&[u8]> {
    let is_valid = (1..=REQUEST_ID_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    is_valid.then_some(id)
}
