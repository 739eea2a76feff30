//! HTTP/1.1 on a connection: one exchange at a time, one write, one read.
//!
//! The usual response comes in one read and is judged where it was read: nothing is copied. What
//! comes in several reads is put together in a buffer of the connection's own, which exists only
//! while it is needed.

use super::{Answer, Event, Failure, Outgoing, Readiness, Started, Trace, Transport};
use crate::exchange::Id;
use crate::http1::{Length, Parser, Piece};
use plimsoll_measure::{ErrorClass, Fault, OpenReason};
use std::io;
use std::ops::Range;

/// What the exchange in flight is about.
struct Current {
    exchange: Id,
    keep_body: bool,
    /// Whether the connection ends with it.
    last: bool,
    /// Whether the kernel has accepted a byte.
    sent: bool,
    bytes_in: u64,
    body_len: u64,
    body_max: u64,
}

/// The state of one connection.
pub(super) struct Http1 {
    parser: Parser,
    current: Option<Current>,
    /// What the kernel has not accepted yet.
    unwritten: Vec<u8>,
    /// The body so far, when it did not come in one read.
    body: Vec<u8>,
    /// The exchange in flight, or the one before, when somebody wants to see it.
    trace: Option<(Id, Trace)>,
    /// Carries nothing any more: the last exchange's end was told, the connection's is next.
    over: Option<OpenReason>,
}

impl Http1 {
    pub(super) fn new() -> Http1 {
        Http1 {
            parser: Parser::new(),
            current: None,
            unwritten: Vec::new(),
            body: Vec::new(),
            trace: None,
            over: None,
        }
    }

    pub(super) fn is_free(&self) -> bool {
        self.current.is_none() && self.over.is_none()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    pub(super) fn take_trace(&mut self, exchange: Id) -> Option<Trace> {
        self.trace.take_if(|(traced, _)| *traced == exchange).map(|(_, trace)| trace)
    }

    pub(super) fn start(
        &mut self,
        transport: &mut Transport,
        outgoing: Outgoing<'_>,
        buffers: (&mut Vec<u8>, &mut Vec<u8>),
    ) -> Started {
        debug_assert!(self.is_free(), "one exchange at a time");
        let request = outgoing.request.bytes(outgoing.draw, buffers);
        let taken = match transport.write(request) {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.over = Some(OpenReason::TargetClosed);
                return Started::Refused;
            }
        };
        if taken < request.len() {
            self.unwritten.extend_from_slice(&request[taken..]);
        }
        self.trace = outgoing
            .trace
            .then(|| (outgoing.exchange, Trace { request: request.to_vec(), response: vec![] }));
        self.parser.expect(outgoing.request.head_only);
        self.body.clear();
        self.current = Some(Current {
            exchange: outgoing.exchange,
            keep_body: outgoing.keep_body,
            last: outgoing.last,
            sent: taken > 0,
            bytes_in: 0,
            body_len: 0,
            body_max: outgoing.body_max,
        });
        let bytes = request.len() as u64;
        if taken > 0 { Started::Sent { bytes } } else { Started::Held { bytes } }
    }

    /// The answer may still come and could not be told from the next one's: the connection ends.
    pub(super) fn abandon(&mut self, exchange: Id) {
        if self.current.take_if(|current| current.exchange == exchange).is_some() {
            self.over = Some(OpenReason::AfterTimeout);
        }
    }

    pub(super) fn next<'a>(
        &'a mut self,
        transport: &mut Transport,
        ready: &mut Readiness,
        scratch: &'a mut [u8],
    ) -> Option<Event<'a>> {
        if let Some(why) = self.over {
            return Some(Event::Closed { why, failure: None });
        }
        if ready.writable {
            ready.writable = false;
            match self.write_on(transport) {
                Ok(None) => {}
                Ok(Some(event)) => return Some(event),
                Err(error) => return Some(self.fail(Failure::of_io(error))),
            }
        }
        while ready.readable || ready.read_closed {
            let n = match transport.read(scratch) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    (ready.readable, ready.read_closed) = (false, false);
                    return None;
                }
                Err(error) => return Some(self.fail(Failure::of_io(error))),
            };
            if n == 0 {
                return Some(self.end_of_stream());
            }
            if transport.is_drained_by(n, scratch.len()) {
                ready.readable = false;
            }
            if let Some((_, trace)) = &mut self.trace {
                trace.response.extend_from_slice(&scratch[..n]);
            }
            match self.feed(&scratch[..n]) {
                Ok(None) => {}
                Ok(Some(whole)) => return Some(self.answer(whole, scratch)),
                Err(failure) => return Some(self.fail(failure)),
            }
        }
        None
    }

    /// Writes what was held back; tells when the first byte of a request was accepted.
    fn write_on(&mut self, transport: &mut Transport) -> io::Result<Option<Event<'static>>> {
        transport.flush()?;
        let mut written = 0;
        while written < self.unwritten.len() {
            match transport.write(&self.unwritten[written..]) {
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.unwritten.drain(..written);
        match &mut self.current {
            Some(current) if written > 0 && !current.sent => {
                current.sent = true;
                Ok(Some(Event::Sent { exchange: current.exchange }))
            }
            _ => Ok(None),
        }
    }

    /// Feeds what was read to the parser. Where the body lies when the response is whole.
    fn feed(&mut self, bytes: &[u8]) -> Result<Option<Whole>, Failure> {
        let Some(current) = &mut self.current else {
            return Err(Failure::fault(Fault::BytesAfter));
        };
        current.bytes_in += bytes.len() as u64;
        let mut input = bytes;
        // The first piece of a body stays where it was read until there is a second.
        let mut first: Option<Range<usize>> = None;
        loop {
            match self.parser.next(&mut input).map_err(Failure::fault)? {
                Piece::Head => {
                    if let Length::Known(len) = self.parser.head().length
                        && len > current.body_max
                    {
                        return Err(Failure::of(ErrorClass::BodyTooLarge));
                    }
                }
                Piece::Body(piece) => {
                    current.body_len += piece.len() as u64;
                    if current.body_len > current.body_max {
                        return Err(Failure::of(ErrorClass::BodyTooLarge));
                    }
                    if !current.keep_body {
                        continue;
                    }
                    if first.is_none() && self.body.is_empty() {
                        let end = bytes.len() - input.len();
                        first = Some(end - piece.len()..end);
                    } else {
                        self.body.extend_from_slice(&bytes[first.take().unwrap_or(0..0)]);
                        self.body.extend_from_slice(piece);
                    }
                }
                Piece::More => {
                    self.body.extend_from_slice(&bytes[first.unwrap_or(0..0)]);
                    return Ok(None);
                }
                Piece::End if input.is_empty() => {
                    return Ok(Some(first.map_or(Whole::Gathered, Whole::Read)));
                }
                Piece::End => return Err(Failure::fault(Fault::BytesAfter)),
            }
        }
    }

    fn answer<'a>(&'a mut self, whole: Whole, scratch: &'a [u8]) -> Event<'a> {
        let current = self.current.take().expect("an answer belongs to an exchange");
        let head = self.parser.head();
        if !head.keep_alive || current.last || !self.unwritten.is_empty() {
            self.over = Some(OpenReason::TargetClosed);
        }
        let body: &[u8] = match whole {
            Whole::Read(range) => &scratch[range],
            // Taken by the next request's start.
            Whole::Gathered => &self.body,
        };
        let answer = Answer {
            status: head.status,
            body,
            gzip: head.gzip,
            location: head.location.as_deref(),
        };
        Event::Answered { exchange: current.exchange, bytes: current.bytes_in, answer }
    }

    fn end_of_stream(&mut self) -> Event<'_> {
        self.over = Some(OpenReason::TargetClosed);
        match &self.current {
            None => Event::Closed { why: OpenReason::TargetClosed, failure: None },
            Some(_) if self.parser.ends_at_close() => self.answer(Whole::Gathered, &[]),
            Some(_) => self.fail(Failure::of(ErrorClass::ClosedEarly)),
        }
    }

    fn fail(&mut self, failure: Failure) -> Event<'static> {
        self.over = Some(OpenReason::AfterError);
        match self.current.take() {
            Some(current) => {
                Event::Failed { exchange: current.exchange, bytes: current.bytes_in, failure }
            }
            None => Event::Closed { why: OpenReason::AfterError, failure: Some(failure) },
        }
    }
}

/// Where the body of a whole response lies.
enum Whole {
    /// In what was just read.
    Read(Range<usize>),
    /// In the connection's own buffer; empty when it was not to be kept.
    Gathered,
}
