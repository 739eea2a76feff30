//! Requests: their heads, and their bodies as the peer's windows allow.

use super::super::body::Body;
use super::super::events::EventStream;
use super::super::{Outgoing, Started, Trace, Traced};
use super::Http2;
use super::stream::Stream;
use crate::http2::frame::{self, flag, kind};
use crate::http2::hpack::put_string;
use plimsoll_measure::OpenReason;

/// Maximum length of a body that is written together with its head; of a longer one, parts are written
/// as the output becomes empty.
const WHOLE_MAX: usize = frame::PAYLOAD_MAX;

impl Http2 {
    /// Appends a request to the output.
    pub(in crate::connection) fn start(
        &mut self,
        outgoing: Outgoing<'_>,
        (scratch, body): (&mut Vec<u8>, &mut Vec<u8>),
    ) -> Started {
        debug_assert!(self.capacity() > 0, "only as many exchanges as it can take");
        let request = outgoing.request.http2();
        let id = self.next_id;
        self.next_id += 2;
        let body = request.body(outgoing.values, body);
        let out = self.output.bytes();
        let at = out.len();
        out.extend_from_slice(&[0; frame::HEAD_LEN]);
        let fields = (outgoing.request.number, &request.fields);
        let stated = request.states_length.then_some(body.len());
        self.encoder.encode(fields, outgoing.values, stated, (out, scratch));
        if !outgoing.last_event.is_empty() {
            put_literal(b"last-event-id", outgoing.last_event, out);
        }
        let ends = if body.is_empty() { flag::END_STREAM } else { 0 };
        finish_block(out, at, id, ends, self.peer.payload);
        let (window, len) = (self.peer.window.min(self.window), body.len() as i64);
        let mut rest = (Vec::new(), 0);
        if !body.is_empty() && body.len() <= WHOLE_MAX.min(self.peer.payload) && len <= window {
            frame::put(out, (kind::DATA, flag::END_STREAM), id, body);
            self.window -= len;
        } else if !body.is_empty() {
            rest.0.extend_from_slice(body);
            self.unfinished.push(id);
        }
        let unwritten = if rest.0.is_empty() {
            0
        } else {
            body.len() + body.len().div_ceil(WHOLE_MAX) * frame::HEAD_LEN
        };
        let bytes = (out.len() - at + unwritten) as u64;
        self.output.begin(id, at);
        if outgoing.trace {
            let mut traced = Traced::default();
            let mut lines = Vec::new();
            request.fields.lines(outgoing.values, &mut lines);
            lines.extend_from_slice(b"\r\n");
            traced.extend(&lines);
            traced.extend(body);
            let trace = Trace { request: traced, response: Traced::default() };
            self.traces.push((outgoing.arrival, id, trace));
        }
        let split = outgoing.split_by.map(|name| self.split_name(name));
        let buffer = self.spare.pop().unwrap_or_default();
        self.streams.insert(Stream {
            arrival: outgoing.arrival,
            id,
            head_only: outgoing.request.head_only,
            sent: false,
            began: false,
            before: (self.answers > 0, self.frames),
            split,
            head: None,
            interim: 0,
            bytes_in: 0,
            body: Body::of(&outgoing, buffer),
            events: outgoing
                .standing
                .map(|_| Box::new(EventStream::new(outgoing.body_max.unwrap_or(u64::MAX)))),
            received: 0,
            window: self.peer.window - if rest.0.is_empty() { len } else { 0 },
            rest,
        });
        self.is_used = true;
        if outgoing.last && outgoing.standing.is_none() {
            self.last = Some(OpenReason::TargetClosed);
        }
        self.write_bodies();
        Started::Buffered { bytes }
    }

    fn split_name(&mut self, name: &str) -> u8 {
        let known = self.split_names.iter().position(|own| **own == *name);
        let at = known.unwrap_or_else(|| {
            self.split_names.push(name.into());
            self.split_names.len() - 1
        });
        // Streams of a plan beyond these share a header.
        at.min(usize::from(u8::MAX)) as u8
    }

    /// Appends parts of bodies to the output, as the peer's windows allow, unless much waits there.
    pub(super) fn write_bodies(&mut self) {
        let mut at = 0;
        while at < self.unfinished.len() && self.window > 0 && self.output.len() < 4 * WHOLE_MAX {
            let id = self.unfinished[at];
            let Some(stream) = self.streams.get_mut(id).filter(|stream| stream.has_rest()) else {
                self.unfinished.swap_remove(at);
                continue;
            };
            let (body, done) = &mut stream.rest;
            let room = self.window.min(stream.window).max(0) as usize;
            let len = (body.len() - *done).min(room).min(self.peer.payload);
            if len == 0 {
                at += 1;
                continue;
            }
            let part = &body[*done..*done + len];
            *done += len;
            let ends = if *done == body.len() { flag::END_STREAM } else { 0 };
            frame::put(self.output.bytes(), (kind::DATA, ends), id, part);
            self.window -= len as i64;
            stream.window -= len as i64;
            self.idle_frames = 0;
            if ends > 0 {
                stream.rest = (Vec::new(), 0);
            }
        }
    }
}

/// Appends a field that is not added to the peer's table (RFC 7541 §6.2.2).
fn put_literal(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.push(0);
    put_string(name, out);
    put_string(value, out);
}

/// Fills in the head of a HEADERS frame at `at` whose block ends `out`. A block that is longer than the
/// peer's frames continues in others.
fn finish_block(out: &mut Vec<u8>, at: usize, stream: u32, ends: u8, payload: usize) {
    let len = out.len() - at - frame::HEAD_LEN;
    let all = if len <= payload { flag::END_HEADERS } else { 0 };
    let first = len.min(payload);
    let head = frame::Head { len: first, kind: kind::HEADERS, flags: ends | all, stream };
    out[at..at + frame::HEAD_LEN].copy_from_slice(&head.bytes());
    if all == 0 {
        let rest = out.split_off(at + frame::HEAD_LEN + first);
        let count = rest.len().div_ceil(payload);
        for (number, part) in (1..).zip(rest.chunks(payload)) {
            let flags = if number == count { flag::END_HEADERS } else { 0 };
            frame::put(out, (kind::CONTINUATION, flags), stream, part);
        }
    }
}
