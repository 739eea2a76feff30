//! HTTP/2 on a connection: many exchanges at a time.
//!
//! Requests are appended to an output buffer, which is written once for all that were started together
//! ([`Http2::flush`]). Frames are read in the worker's read buffer. Most answers are one HEADERS and one
//! DATA frame, and are judged there without copying.
//!
//! # Ends
//! A stream ends with its answer, with a RST_STREAM of either side, or with its connection. After a
//! GOAWAY the connection takes no more requests; those that the peer says it has not processed are
//! returned, to be sent elsewhere. If the peer breaks the protocol, this side ends the connection with a
//! GOAWAY, and the exchanges fail with the fault.
//!
//! # Bounds
//! Whatever the peer sends, a connection holds at most one incomplete frame, one header block
//! ([`HEAD_MAX`]), the dynamic table, replies that the peer has not read, and bodies within the budget
//! of its worker.
//!
//! Submodules: `ends` (of streams and connections), `events` (event streams), `frames` (of the peer), `requests`,
//! `stream`.

mod ends;
mod events;
mod frames;
mod requests;
mod stream;

use super::body::Body;
use super::output::Output;
use super::{Answer, Bodies, Event, Failure, ReadResources, Trace, Transport};
use crate::arrival::Id;
use crate::events::Found;
use crate::http2::encode::Encoder;
use crate::http2::frame::{self, Code, setting};
use crate::http2::head::{HEAD_MAX, Head, HeadDecoder};
use crate::system::{Readiness, Socket};
use ends::{Ending, Goaway};
use plimsoll_measure::{Fault, OpenReason};
use std::io;
use std::ops::Range;
use stream::{Cancelled, Stream, Streams};

/// The window of each stream: its answer may be this much ahead of our reading. Nothing waits unread,
/// so that this costs no memory.
const STREAM_WINDOW: u32 = 16 << 20;
/// The window of the connection.
const CONNECTION_WINDOW: u32 = 1 << 30;
/// The peer's settings.
struct Peer {
    streams: u32,
    window: i64,
    payload: usize,
}

/// How the peer broke the protocol.
struct Violation(Code, Fault);

/// The answer that was reported last.
#[derive(Default)]
struct Ended {
    head: Head,
    body: Vec<u8>,
}

/// The HTTP/2 state of one connection.
pub(super) struct Http2 {
    /// Maximum number of streams, by the plan.
    streams_max: u32,
    peer: Peer,
    /// Whether the peer's settings have arrived.
    is_settled: bool,
    heads: HeadDecoder,
    encoder: Encoder,
    output: Output,
    /// The part of the read buffer that was not looked at yet, and an incomplete frame from before.
    unparsed: Range<usize>,
    carry: Vec<u8>,
    /// The rest of a frame of an event stream: its stream, where it is in the read buffer, and whether the
    /// stream ends with it.
    pending: Option<(u32, Range<usize>, bool)>,
    /// A header block that continues in the next frame: its stream, whether that ends with it, and its
    /// beginning.
    block: Option<(u32, bool, Vec<u8>)>,
    streams: Streams,
    cancelled: Cancelled,
    next_id: u32,
    /// Headers to extract from answers.
    split_names: Vec<Box<str>>,
    /// How many more bytes of requests' bodies the peer accepts.
    window: i64,
    /// Streams with a part of their request that was not written yet.
    unfinished: Vec<u32>,
    /// Bytes received for which the connection's window was not opened again.
    received: u32,
    /// Streams whose answers have begun since the last read.
    begun: Vec<u32>,
    /// Frames so far, and how many of them in a row had nothing to do with an answer.
    frames: u64,
    idle_frames: u32,
    /// Answers so far.
    answers: u64,
    /// Whether an exchange was started.
    is_used: bool,
    /// Why it takes no more exchanges, although the peer would accept them.
    last: Option<OpenReason>,
    goaway: Option<Goaway>,
    ending: Option<Ending>,
    /// Why writing failed. What the peer sent before is read first.
    broken: Option<io::Error>,
    ended: Ended,
    /// Buffers of bodies for reuse.
    spare: Vec<Vec<u8>>,
    traces: Vec<(Id, u32, Trace)>,
}

/// Maximum number and size of buffers for bodies that are kept for reuse.
const SPARE_MAX: usize = 16;
const SPARE_LEN: usize = 64 << 10;

impl Http2 {
    /// A connection whose first bytes are to be written: the preface and our settings.
    pub(super) fn new(streams_max: u32) -> Http2 {
        let mut output = Output::default();
        let out = output.bytes();
        out.extend_from_slice(frame::PREFACE);
        let settings = [
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (setting::MAX_HEADER_LIST_SIZE, HEAD_MAX as u32),
        ];
        frame::put_settings(out, &settings);
        frame::put_window(out, 0, CONNECTION_WINDOW - frame::WINDOW_DEFAULT as u32);
        Http2 {
            streams_max,
            peer: Peer {
                streams: u32::MAX,
                window: frame::WINDOW_DEFAULT,
                payload: frame::PAYLOAD_MAX,
            },
            is_settled: false,
            heads: HeadDecoder::default(),
            encoder: Encoder::default(),
            output,
            unparsed: 0..0,
            carry: Vec::new(),
            pending: None,
            block: None,
            streams: Streams::default(),
            cancelled: Cancelled::default(),
            next_id: 1,
            split_names: Vec::new(),
            window: frame::WINDOW_DEFAULT,
            unfinished: Vec::new(),
            received: 0,
            begun: Vec::new(),
            frames: 0,
            idle_frames: 0,
            answers: 0,
            is_used: false,
            last: None,
            goaway: None,
            ending: None,
            broken: None,
            ended: Ended::default(),
            spare: Vec::new(),
            traces: Vec::new(),
        }
    }

    /// How many more exchanges it can take.
    #[inline]
    pub(super) fn capacity(&self) -> usize {
        let is_over = self.last.is_some() || self.goaway.is_some() || self.ending.is_some();
        if is_over || self.broken.is_some() || self.next_id > frame::STREAM_MAX {
            return 0;
        }
        (self.streams_max.min(self.peer.streams) as usize).saturating_sub(self.streams.len())
    }

    /// The most streams that the peer allows at a time.
    pub(super) fn peer_streams(&self) -> u32 {
        self.peer.streams
    }

    pub(super) fn is_idle(&self) -> bool {
        self.streams.len() == 0
    }

    pub(super) fn is_used(&self) -> bool {
        self.is_used
    }

    /// Whether [`Http2::flush`] has something to write.
    #[inline]
    pub(super) fn is_pending(&self) -> bool {
        self.output.is_pending() && self.broken.is_none()
    }

    pub(super) fn take_trace(&mut self, arrival: Id) -> Option<Trace> {
        let at = self.traces.iter().position(|(traced, ..)| *traced == arrival)?;
        Some(self.traces.swap_remove(at).2)
    }

    /// Whether the peer keeps its window closed for the request of an arrival.
    pub(super) fn is_stalled(&self, arrival: Id) -> bool {
        self.streams.iter().any(|stream| stream.arrival == arrival && stream.has_rest())
    }

    /// Writes what waits in the output.
    pub(super) fn flush<K: Socket>(&mut self, transport: &mut Transport<K>) {
        loop {
            if let Err(error) = self.output.flush(transport) {
                self.broken = Some(error);
                return;
            }
            self.write_bodies();
            if !self.output.is_pending() {
                return;
            }
        }
    }

    /// Resets the stream of an exchange. If the kernel has taken no byte of the request in all its time, the
    /// peer does not read: the connection takes no more requests, so that the output stays bounded.
    pub(super) fn abandon(&mut self, arrival: Id, resources: &mut ReadResources) {
        let id = self.streams.of(arrival);
        let stream = id.and_then(|id| self.cancel(id, Code::CANCEL, &mut resources.bodies));
        if stream.is_some_and(|stream| !stream.sent) {
            self.last.get_or_insert(OpenReason::AfterTimeout);
        }
    }

    /// Removes a stream, and the part of its request that was not written.
    fn remove(&mut self, id: u32) -> Option<Stream> {
        let stream = self.streams.remove(id)?;
        if stream.has_rest() {
            self.unfinished.retain(|own| *own != id);
        }
        Some(stream)
    }

    /// Ends a stream from this side.
    fn cancel(&mut self, id: u32, code: Code, bodies: &mut Bodies) -> Option<Stream> {
        let mut stream = self.remove(id)?;
        stream.discard(bodies);
        if self.ending.is_none() {
            frame::put_reset(self.output.bytes(), id, code);
            self.cancelled.add(id);
        }
        Some(stream)
    }

    pub(super) fn next<'a, K: Socket>(
        &'a mut self,
        transport: &mut Transport<K>,
        ready: &mut Readiness,
        share: &mut usize,
        resources: &'a mut ReadResources,
    ) -> Option<Event<'a>> {
        self.free_answer(resources);
        if std::mem::take(&mut ready.writable) && self.broken.is_none() {
            self.flush(transport);
        }
        if self.broken.is_some() && self.ending.is_none() {
            ready.readable = true;
        }
        loop {
            if let Some(event) = self.next_end(&mut resources.bodies) {
                return Some(event);
            }
            match self.parse(&resources.scratch, &mut resources.bodies) {
                Ok(Parsed::Nothing) => {}
                Ok(Parsed::Goaway) => continue,
                Ok(Parsed::Established) => return Some(Event::Established),
                Ok(Parsed::Opened(arrival, status, bytes)) => {
                    return Some(Event::Opened { arrival, status, bytes });
                }
                Ok(Parsed::Received(id, found)) => return Some(self.received(id, found)),
                Ok(Parsed::Failed(arrival, bytes, failure)) => {
                    return Some(Event::Failed { arrival, bytes, failure });
                }
                Ok(Parsed::Answered(arrival, bytes, location)) => {
                    return Some(self.answered(arrival, bytes, location, transport, resources));
                }
                Err(Violation(code, fault)) => {
                    self.end_connection(code, fault, transport);
                    continue;
                }
            }
            if let Some(arrival) = self.next_begun() {
                return Some(Event::Began { arrival });
            }
            if !self.read(transport, ready, share, resources) {
                return None;
            }
        }
    }

    /// The next stream whose answer has begun but is incomplete.
    fn next_begun(&mut self) -> Option<Id> {
        while let Some(id) = self.begun.pop() {
            if let Some(stream) = self.streams.get_mut(id)
                && !std::mem::replace(&mut stream.began, true)
            {
                return Some(stream.arrival);
            }
        }
        None
    }

    /// Reads more; returns false if nothing can be read now.
    fn read<K: Socket>(
        &mut self,
        transport: &mut Transport<K>,
        ready: &mut Readiness,
        share: &mut usize,
        resources: &mut ReadResources,
    ) -> bool {
        self.carry.extend_from_slice(&resources.scratch[std::mem::take(&mut self.unparsed)]);
        loop {
            if !(ready.readable || ready.read_closed) || *share == 0 {
                return false;
            }
            *share -= 1;
            let kept = self.carry.len();
            let buffer = &mut resources.scratch[kept..kept + resources.read_max];
            match transport.read(buffer) {
                Ok(n @ 1..) => {
                    resources.scratch[..kept].copy_from_slice(&self.carry);
                    self.carry.clear();
                    self.unparsed = 0..kept + n;
                    if transport.is_drained_by(n, resources.read_max) {
                        ready.readable = false;
                    }
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return self.nothing_read(read, ready),
            }
        }
    }

    /// Frees the body of the answer that was reported last.
    fn free_answer(&mut self, resources: &mut ReadResources) {
        if self.ended.body.capacity() == 0 {
            return;
        }
        let mut body = std::mem::take(&mut self.ended.body);
        resources.bodies.budget.release(body.len() as u64);
        if self.spare.len() < SPARE_MAX && body.capacity() <= SPARE_LEN {
            body.clear();
            self.spare.push(body);
        }
    }

    fn answered<'a, K: Socket>(
        &'a mut self,
        arrival: Id,
        bytes: u64,
        answer: Complete,
        transport: &Transport<K>,
        resources: &'a ReadResources,
    ) -> Event<'a> {
        self.answers += 1;
        self.idle_frames = 0;
        self.ended.head = answer.head;
        self.ended.body = answer.body.bytes;
        let head = &self.ended.head;
        let answer = Answer {
            status: head.status,
            call: None,
            body: answer.location.map_or(&self.ended.body, |range| &resources.scratch[range]),
            gzip: head.gzip,
            head: if answer.body.captured { &head.bytes } else { &[] },
            body_len: answer.body.len,
            first: answer.body.first,
            location: head.location.as_deref(),
            split: head.split.as_ref(),
            received_at: transport.received_at(),
        };
        Event::Answered { arrival, bytes, answer }
    }
}

/// A complete answer.
struct Complete {
    head: Head,
    body: Body,
    /// Where its body is in the read buffer; `None` if it was collected.
    location: Option<Range<usize>>,
}

/// What a frame led to.
enum Parsed {
    /// No complete frame is left.
    Nothing,
    /// Streams may have been returned.
    Goaway,
    /// The peer's settings have arrived.
    Established,
    Failed(Id, u64, Failure),
    Answered(Id, u64, Complete),
    /// An event stream has opened, with this status and size of its head.
    Opened(Id, u16, u64),
    /// Something on the event stream with this number.
    Received(u32, Found),
}
