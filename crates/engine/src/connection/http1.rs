//! HTTP/1.1 on a connection: one exchange at a time, usually one write and one read.
//!
//! Most responses arrive in one read and are judged in the read buffer, without copying. A body
//! that takes several reads and must be kept is collected in a buffer of the connection, which is
//! freed at the end of the exchange. The total size of these buffers per worker is limited.

mod standing;

use super::body::Body;
use super::{
    Answer, Bodies, Event, Failure, Outgoing, ReadResources, Started, Trace, Traced, Transport,
};
use crate::arrival::Id;
use crate::http1::{Length, Parser, Piece};
use crate::system::{Readiness, Socket};
use plimsoll_measure::{ErrorClass, Fault, OpenReason};
use standing::Standing;
use std::io;
use std::ops::Range;

/// The exchange in flight.
struct Current {
    arrival: Id,
    /// Whether the connection closes after it.
    last: bool,
    /// Whether the transport took a byte of its request.
    taken: bool,
    /// Whether the kernel has accepted a byte.
    sent: bool,
    /// Whether the connection had carried an exchange before.
    reused: bool,
    /// Whether [`Event::Began`] was reported.
    began: bool,
    bytes_in: u64,
    body: Body,
}

/// The HTTP/1.1 state of one connection.
pub(super) struct Http1 {
    parser: Parser,
    current: Option<Current>,
    /// If the exchange is an event stream.
    standing: Option<Box<Standing>>,
    /// Whether the connection has carried an exchange.
    used: bool,
    /// Request bytes that the transport has not taken yet.
    unwritten: Unwritten,
    /// Why writing failed. What the peer sent before is read first: it may have answered a request
    /// that it did not read to the end.
    broken: Option<io::Error>,
    /// The body of the answer that was reported last, if it took several reads.
    body: Vec<u8>,
    /// The trace of the current or previous exchange, if requested.
    trace: Option<(Id, Trace)>,
    closing: Option<Closing>,
}

/// Capacity that is kept for the rest of a request; a larger buffer is freed after use.
const UNWRITTEN_KEPT: usize = 64 << 10;

/// The rest of a request.
#[derive(Default)]
struct Unwritten {
    bytes: Vec<u8>,
    /// How many of them were taken since.
    taken: usize,
}

impl Unwritten {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    fn take(&mut self, n: usize) {
        self.taken += n;
        if self.taken == self.bytes.len() {
            self.taken = 0;
            self.bytes.clear();
            self.bytes.shrink_to(UNWRITTEN_KEPT);
        }
    }
}

/// The connection takes no more exchanges; its close is reported next.
#[derive(Clone, Copy)]
struct Closing {
    reason: OpenReason,
    fault: Option<Fault>,
}

impl Closing {
    fn after(fault: Fault) -> Option<Closing> {
        Some(Closing { reason: OpenReason::AfterError, fault: Some(fault) })
    }

    fn of(reason: OpenReason) -> Option<Closing> {
        Some(Closing { reason, fault: None })
    }
}

/// How the peer ended the byte stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// An orderly close.
    Clean,
    /// TCP closed without a TLS close_notify: data may be missing.
    Truncated,
}

/// Where the body of a complete response is.
enum BodyLocation {
    /// In the bytes just read.
    Read(Range<usize>),
    /// In the connection's buffer; empty if it was not kept.
    Collected,
}

impl Http1 {
    pub(super) fn new() -> Http1 {
        Http1 {
            parser: Parser::new(),
            current: None,
            standing: None,
            used: false,
            unwritten: Unwritten::default(),
            broken: None,
            body: Vec::new(),
            trace: None,
            closing: None,
        }
    }

    pub(super) fn is_free(&self) -> bool {
        self.current.is_none() && self.closing.is_none()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    pub(super) fn is_used(&self) -> bool {
        self.used
    }

    /// Whether the peer has sent nothing since the last exchange ended. If not, the connection takes
    /// no more exchanges: a new one would be answered by bytes that belong to another.
    pub(super) fn is_silent<K: Socket>(
        &mut self,
        transport: &mut Transport<K>,
        ready: &mut Readiness,
        scratch: &mut [u8],
    ) -> bool {
        let closing = loop {
            match transport.read(scratch) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    (ready.readable, ready.read_closed) = (false, false);
                    return true;
                }
                Ok(n) if n > 0 => break Closing::after(self.unsolicited()),
                Ok(_) | Err(_) => break Closing::of(OpenReason::TargetClosed),
            }
        };
        self.closing = closing;
        false
    }

    /// The fault of bytes that belong to no request.
    fn unsolicited(&self) -> Fault {
        if self.used { Fault::BytesAfter } else { Fault::AnswerFirst }
    }

    pub(super) fn take_trace(&mut self, arrival: Id) -> Option<Trace> {
        self.trace.take_if(|(traced, _)| *traced == arrival).map(|(_, trace)| trace)
    }

    pub(super) fn start<K: Socket>(
        &mut self,
        transport: &mut Transport<K>,
        outgoing: Outgoing<'_>,
        buffers: (&mut Vec<u8>, &mut Vec<u8>),
    ) -> Started {
        debug_assert!(self.is_free(), "one exchange at a time");
        let mut request = outgoing.request.bytes(outgoing.values, buffers);
        let resumed;
        if !outgoing.last_event.is_empty() {
            resumed = standing::resumed(request, outgoing.last_event);
            request = &resumed;
        }
        let written = match transport.write(request) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.closing = Closing::of(OpenReason::TargetClosed);
                return Started::Refused;
            }
        };
        self.unwritten.bytes.extend_from_slice(&request[written..]);
        let sent = written > 0 && !transport.is_held();
        self.trace = outgoing.trace.then(|| {
            let mut traced = Traced::default();
            traced.extend(request);
            (outgoing.arrival, Trace { request: traced, response: Traced::default() })
        });
        self.parser.expect(outgoing.request.head_only);
        self.standing = Standing::of(&outgoing);
        self.parser.keep_head(outgoing.capture.is_some() || self.standing.is_some());
        if let Some(header) = outgoing.split_by {
            self.parser.extract(header);
        }
        let body = Body::of(&outgoing, std::mem::take(&mut self.body));
        self.current = Some(Current {
            arrival: outgoing.arrival,
            last: outgoing.last || self.standing.is_some(),
            taken: written > 0,
            sent,
            reused: std::mem::replace(&mut self.used, true),
            began: false,
            bytes_in: 0,
            body,
        });
        let bytes = request.len() as u64;
        if sent { Started::Sent { bytes } } else { Started::Queued { bytes } }
    }

    /// Closes the connection, because a late answer could not be distinguished from the next one.
    pub(super) fn abandon(&mut self, arrival: Id, resources: &mut ReadResources) {
        if let Some(mut current) = self.current.take_if(|current| current.arrival == arrival) {
            self.closing = Closing::of(OpenReason::AfterTimeout);
            current.body.discard(&mut resources.bodies);
            if let Some(mut standing) = self.standing.take() {
                standing.discard(&mut resources.bodies);
            }
        }
    }

    pub(super) fn next<'a, K: Socket>(
        &'a mut self,
        transport: &mut Transport<K>,
        ready: &mut Readiness,
        share: &mut usize,
        resources: &'a mut ReadResources,
    ) -> Option<Event<'a>> {
        if self.current.is_none() && !self.body.is_empty() {
            // The body of the previous answer has been judged.
            resources.bodies.budget.release(self.body.len() as u64);
            self.body = Vec::new();
        }
        if let Some(Closing { reason, fault }) = self.closing {
            return Some(Event::Closed { reason, failure: fault.map(Failure::fault) });
        }
        if ready.writable {
            ready.writable = false;
            if let Err(error) = self.write_more(transport) {
                self.broken = Some(error);
                ready.readable = true;
            }
        }
        if let Some(current) = &mut self.current
            && !current.sent
            && current.taken
            && !transport.is_held()
        {
            current.sent = true;
            return Some(Event::Sent { arrival: current.arrival });
        }
        if self.standing.is_some() {
            return self.next_standing(transport, ready, share, resources);
        }
        while ready.readable || ready.read_closed {
            if *share == 0 {
                return None;
            }
            *share -= 1;
            let n = match transport.read(&mut resources.scratch[..resources.read_max]) {
                Ok(n @ 1..) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => return self.nothing_read(read, transport, ready, resources),
            };
            if transport.is_drained_by(n, resources.read_max) {
                ready.readable = false;
            }
            if let Some((_, trace)) = &mut self.trace {
                trace.response.extend(&resources.scratch[..n]);
            }
            match self.feed(&resources.scratch[..n], &mut resources.bodies) {
                Ok(Some(_)) if self.current.as_ref().is_some_and(|current| !current.sent) => {
                    let failure = Failure::fault(Fault::AnswerFirst);
                    return Some(self.fail(failure, resources));
                }
                Ok(Some(location)) => {
                    return Some(self.answer(location, transport, &resources.scratch));
                }
                Ok(None) => {
                    let current = self.current.as_mut().expect("bytes of an exchange were fed");
                    if !std::mem::replace(&mut current.began, true) {
                        return Some(Event::Began { arrival: current.arrival });
                    }
                }
                Err(failure) => return Some(self.fail(failure, resources)),
            }
        }
        None
    }

    /// Handles a read that returned no bytes.
    fn nothing_read<'a, K: Socket>(
        &'a mut self,
        read: io::Result<usize>,
        transport: &Transport<K>,
        ready: &mut Readiness,
        resources: &'a mut ReadResources,
    ) -> Option<Event<'a>> {
        let end = match read {
            Ok(_) => Some(End::Clean),
            Err(error) => match error.kind() {
                io::ErrorKind::UnexpectedEof => Some(End::Truncated),
                io::ErrorKind::WouldBlock => None,
                _ => return Some(self.fail(Failure::of_io(error), resources)),
            },
        };
        match (self.broken.take(), end) {
            (Some(broken), _) => Some(self.fail(Failure::of_io(broken), resources)),
            (None, Some(end)) => Some(self.end_of_stream(end, transport, resources)),
            (None, None) => {
                (ready.readable, ready.read_closed) = (false, false);
                None
            }
        }
    }

    /// Writes remaining request bytes.
    fn write_more<K: Socket>(&mut self, transport: &mut Transport<K>) -> io::Result<()> {
        transport.flush()?;
        while !self.unwritten.rest().is_empty() {
            match transport.write(self.unwritten.rest()) {
                Ok(n) => self.unwritten.take(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            if let Some(current) = &mut self.current {
                current.taken = true;
            }
        }
        Ok(())
    }

    /// Feeds bytes to the parser; returns where the body is if the response is complete.
    fn feed(&mut self, bytes: &[u8], bodies: &mut Bodies) -> Result<Option<BodyLocation>, Failure> {
        let Some(current) = &mut self.current else {
            return Err(Failure::fault(self.unsolicited()));
        };
        current.bytes_in += bytes.len() as u64;
        let mut input = bytes;
        // The first part of a body stays in the read buffer until there is a second.
        let mut first: Option<Range<usize>> = None;
        loop {
            match self.parser.next(&mut input).map_err(Failure::fault)? {
                Piece::Head => {
                    let head = self.parser.head();
                    let len = match head.length {
                        Length::Known(len) => Some(len),
                        Length::Chunked | Length::UntilClose => None,
                    };
                    current.body.begin((head.status, head.gzip, len), bodies)?;
                }
                Piece::Body(piece) => {
                    let start = bytes.len() - input.len() - piece.len();
                    let kept = current.body.add(piece.len())?;
                    if kept == 0 {
                        continue;
                    }
                    if first.is_none() && current.body.bytes.is_empty() {
                        first = Some(start..start + kept);
                        continue;
                    }
                    let earlier = &bytes[first.take().unwrap_or(0..0)];
                    current.body.collect(&[earlier, &piece[..kept]], bodies)?;
                }
                Piece::More => {
                    current.body.collect(&[&bytes[first.unwrap_or(0..0)]], bodies)?;
                    return Ok(None);
                }
                Piece::End => {
                    if !input.is_empty() {
                        // The answer is valid, but no request matches the bytes after it.
                        self.closing = Closing::after(Fault::BytesAfter);
                    }
                    return Ok(Some(first.map_or(BodyLocation::Collected, BodyLocation::Read)));
                }
            }
        }
    }

    fn answer<'a, K: Socket>(
        &'a mut self,
        location: BodyLocation,
        transport: &Transport<K>,
        scratch: &'a [u8],
    ) -> Event<'a> {
        let current = self.current.take().expect("an answer belongs to an exchange");
        let head = self.parser.head();
        let incomplete = !self.unwritten.rest().is_empty() || transport.is_unflushed();
        if !head.keep_alive || current.last || incomplete || self.broken.is_some() {
            self.closing = self.closing.or(Closing::of(OpenReason::TargetClosed));
        }
        // Freed by the next call of `next`.
        self.body = current.body.bytes;
        let body: &[u8] = match location {
            BodyLocation::Read(range) => &scratch[range],
            BodyLocation::Collected => &self.body,
        };
        let answer = Answer {
            status: head.status,
            call: None,
            body,
            gzip: head.gzip,
            head: self.parser.head_bytes(),
            body_len: current.body.len,
            first: current.body.first,
            location: head.location.as_deref(),
            split: self.parser.split(),
            received_at: transport.received_at(),
        };
        Event::Answered { arrival: current.arrival, bytes: current.bytes_in, answer }
    }

    fn end_of_stream<'a, K: Socket>(
        &'a mut self,
        end: End,
        transport: &Transport<K>,
        resources: &'a mut ReadResources,
    ) -> Event<'a> {
        self.closing = Closing::of(OpenReason::TargetClosed);
        match &self.current {
            None => Event::Closed { reason: OpenReason::TargetClosed, failure: None },
            // Only an orderly close shows that the body is complete.
            Some(current) if self.parser.ends_at_close() && end == End::Clean && current.sent => {
                self.answer(BodyLocation::Collected, transport, &[])
            }
            Some(_) => self.fail(Failure::of(ErrorClass::ClosedEarly), resources),
        }
    }

    fn fail(&mut self, mut failure: Failure, resources: &mut ReadResources) -> Event<'static> {
        self.closing = Closing::of(OpenReason::AfterError);
        match self.current.take() {
            Some(mut current) => {
                current.body.discard(&mut resources.bodies);
                let gone = matches!(failure.class, ErrorClass::ClosedEarly | ErrorClass::Reset);
                if failure.class == ErrorClass::ClosedEarly && current.bytes_in > 0 {
                    failure.fault = Some(Fault::Truncated);
                } else if gone && current.reused && current.bytes_in == 0 {
                    // The target may have closed the connection while it was idle, before the
                    // request arrived.
                    failure.fault = Some(Fault::StaleKeepAlive);
                }
                Event::Failed { arrival: current.arrival, bytes: current.bytes_in, failure }
            }
            None => Event::Closed { reason: OpenReason::AfterError, failure: Some(failure) },
        }
    }
}
