//! HTTP/1.1 on a connection: one exchange at a time, one write, one read.
//!
//! The usual response comes in one read and is judged where it was read: nothing is copied. A body
//! that comes in several reads and has to be kept is gathered in a buffer of the connection's own,
//! which is given back with the exchange. What all connections of a worker hold this way is bounded.

use super::{Answer, Event, Failure, Held, Lent, Outgoing, Started, Trace, Transport};
use crate::arrival::Id;
use crate::http1::{Length, Parser, Piece};
use crate::system::{Readiness, Socket};
use plimsoll_measure::{ErrorClass, Fault, OpenReason};
use std::io;
use std::ops::Range;

/// The exchange in flight.
struct Current {
    arrival: Id,
    keep_body: bool,
    /// Whether the connection ends with it.
    last: bool,
    /// Whether the kernel has accepted a byte.
    sent: bool,
    /// Whether the connection had carried an exchange before.
    reused: bool,
    /// Whether the first bytes were reported.
    began: bool,
    bytes_in: u64,
    body_len: u64,
    body_max: u64,
}

/// The state of one connection.
pub(super) struct Http1 {
    parser: Parser,
    current: Option<Current>,
    /// Whether it has carried an exchange.
    used: bool,
    /// What the kernel has not accepted yet.
    unwritten: Vec<u8>,
    /// The body so far, when it did not come in one read.
    body: Vec<u8>,
    /// The exchange in flight, or the one before, when it is to be shown whole.
    trace: Option<(Id, Trace)>,
    over: Option<Over>,
}

/// The connection carries nothing any more; its end is reported next.
#[derive(Clone, Copy)]
struct Over {
    why: OpenReason,
    fault: Option<Fault>,
}

impl Over {
    fn of(why: OpenReason) -> Option<Over> {
        Some(Over { why, fault: None })
    }
}

/// How the other side's bytes end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// As the protocol has it.
    Clean,
    /// By the end of TCP without the end of TLS: more may have been meant.
    Truncated,
}

/// Where the body of a whole response lies.
enum Whole {
    /// In what was just read.
    Read(Range<usize>),
    /// In the connection's own buffer; empty when it was not to be kept.
    Gathered,
}

impl Http1 {
    pub(super) fn new() -> Http1 {
        Http1 {
            parser: Parser::new(),
            current: None,
            used: false,
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
        debug_assert!(self.body.is_empty(), "a body is given back with its exchange");
        let request = outgoing.request.bytes(outgoing.values, buffers);
        let taken = match transport.write(request) {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.over = Over::of(OpenReason::TargetClosed);
                return Started::Refused;
            }
        };
        if taken < request.len() {
            self.unwritten.extend_from_slice(&request[taken..]);
        }
        self.trace = outgoing
            .trace
            .then(|| (outgoing.arrival, Trace { request: request.to_vec(), response: vec![] }));
        self.parser.expect(outgoing.request.head_only);
        self.current = Some(Current {
            arrival: outgoing.arrival,
            keep_body: outgoing.keep_body,
            last: outgoing.last,
            sent: taken > 0,
            reused: std::mem::replace(&mut self.used, true),
            began: false,
            bytes_in: 0,
            body_len: 0,
            body_max: outgoing.body_max,
        });
        let bytes = request.len() as u64;
        if taken > 0 { Started::Sent { bytes } } else { Started::Held { bytes } }
    }

    /// The answer may still come and could not be told from the next one's: the connection ends.
    pub(super) fn abandon(&mut self, arrival: Id, held: &mut Held) {
        if self.current.take_if(|current| current.arrival == arrival).is_some() {
            self.over = Over::of(OpenReason::AfterTimeout);
            self.give_body_back(held);
        }
    }

    /// Gives the memory of a gathered body back.
    fn give_body_back(&mut self, held: &mut Held) {
        held.give_back(self.body.len() as u64);
        self.body = Vec::new();
    }

    pub(super) fn next<'a, K: Socket>(
        &'a mut self,
        transport: &mut Transport<K>,
        ready: &mut Readiness,
        share: &mut usize,
        lent: &'a mut Lent,
    ) -> Option<Event<'a>> {
        if self.current.is_none() && !self.body.is_empty() {
            // The answer before was judged where it was gathered.
            self.give_body_back(&mut lent.held);
        }
        if let Some(Over { why, fault }) = self.over {
            return Some(Event::Closed { why, failure: fault.map(Failure::fault) });
        }
        if ready.writable {
            ready.writable = false;
            match self.write_more(transport) {
                Ok(None) => {}
                Ok(Some(event)) => return Some(event),
                Err(error) => return Some(self.fail(Failure::of_io(error), &mut lent.held)),
            }
        }
        while ready.readable || ready.read_closed {
            if *share == 0 {
                return None;
            }
            *share -= 1;
            let n = match transport.read(&mut lent.scratch) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    (ready.readable, ready.read_closed) = (false, false);
                    return None;
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Some(self.end_of_stream(End::Truncated, transport, lent));
                }
                Err(error) => return Some(self.fail(Failure::of_io(error), &mut lent.held)),
            };
            if n == 0 {
                return Some(self.end_of_stream(End::Clean, transport, lent));
            }
            if transport.is_drained_by(n, lent.scratch.len()) {
                ready.readable = false;
            }
            if let Some((_, trace)) = &mut self.trace {
                trace.response.extend_from_slice(&lent.scratch[..n]);
            }
            match self.feed(&lent.scratch[..n], &mut lent.held) {
                Ok(Some(_)) if self.current.as_ref().is_some_and(|current| !current.sent) => {
                    let failure = Failure::fault(Fault::AnswerFirst);
                    return Some(self.fail(failure, &mut lent.held));
                }
                Ok(Some(whole)) => return Some(self.answer(whole, transport, &lent.scratch)),
                Ok(None) => {
                    let current = self.current.as_mut().expect("bytes of an exchange were fed");
                    if !std::mem::replace(&mut current.began, true) {
                        return Some(Event::Began { arrival: current.arrival });
                    }
                }
                Err(failure) => return Some(self.fail(failure, &mut lent.held)),
            }
        }
        None
    }

    /// Writes what was held back; reports when the first byte of a request was accepted.
    fn write_more<K: Socket>(
        &mut self,
        transport: &mut Transport<K>,
    ) -> io::Result<Option<Event<'static>>> {
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
                Ok(Some(Event::Sent { arrival: current.arrival }))
            }
            _ => Ok(None),
        }
    }

    /// Feeds what was read to the parser. Where the body lies when the response is whole.
    fn feed(&mut self, bytes: &[u8], held: &mut Held) -> Result<Option<Whole>, Failure> {
        let Some(current) = &mut self.current else {
            return Err(Failure::fault(Fault::BytesAfter));
        };
        current.bytes_in += bytes.len() as u64;
        let mut input = bytes;
        // The first piece of a body stays where it was read until there is a second.
        let mut first: Option<Range<usize>> = None;
        let mut gather = |body: &mut Vec<u8>, piece: &[u8]| {
            if !held.take(piece.len() as u64) {
                return Err(Failure::of(ErrorClass::MemoryExhausted));
            }
            body.extend_from_slice(piece);
            Ok(())
        };
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
                        gather(&mut self.body, &bytes[first.take().unwrap_or(0..0)])?;
                        gather(&mut self.body, piece)?;
                    }
                }
                Piece::More => {
                    gather(&mut self.body, &bytes[first.unwrap_or(0..0)])?;
                    return Ok(None);
                }
                Piece::End => {
                    if !input.is_empty() {
                        // The answer stands; what follows it belongs to no request of ours.
                        let fault = Some(Fault::BytesAfter);
                        self.over = Some(Over { why: OpenReason::AfterError, fault });
                    }
                    return Ok(Some(first.map_or(Whole::Gathered, Whole::Read)));
                }
            }
        }
    }

    fn answer<'a, K: Socket>(
        &'a mut self,
        whole: Whole,
        transport: &Transport<K>,
        scratch: &'a [u8],
    ) -> Event<'a> {
        let current = self.current.take().expect("an answer belongs to an exchange");
        let head = self.parser.head();
        if !head.keep_alive || current.last || !self.unwritten.is_empty() {
            self.over = self.over.or(Over::of(OpenReason::TargetClosed));
        }
        let body: &[u8] = match whole {
            Whole::Read(range) => &scratch[range],
            // Given back when the connection is asked for what comes next.
            Whole::Gathered => &self.body,
        };
        let answer = Answer {
            status: head.status,
            body,
            gzip: head.gzip,
            location: head.location.as_deref(),
            received_at: transport.received_at(),
        };
        Event::Answered { arrival: current.arrival, bytes: current.bytes_in, answer }
    }

    fn end_of_stream<'a, K: Socket>(
        &'a mut self,
        end: End,
        transport: &Transport<K>,
        lent: &'a mut Lent,
    ) -> Event<'a> {
        self.over = Over::of(OpenReason::TargetClosed);
        match &self.current {
            None => Event::Closed { why: OpenReason::TargetClosed, failure: None },
            // Only an orderly end shows that nothing is missing.
            Some(current) if self.parser.ends_at_close() && end == End::Clean && current.sent => {
                self.answer(Whole::Gathered, transport, &[])
            }
            Some(_) => self.fail(Failure::of(ErrorClass::ClosedEarly), &mut lent.held),
        }
    }

    fn fail(&mut self, mut failure: Failure, held: &mut Held) -> Event<'static> {
        self.over = Over::of(OpenReason::AfterError);
        self.give_body_back(held);
        match self.current.take() {
            Some(current) => {
                let gone = matches!(failure.class, ErrorClass::ClosedEarly | ErrorClass::Reset);
                if gone && current.reused && current.bytes_in == 0 {
                    // It may have been closed while it was idle, before the request arrived.
                    failure.fault = Some(Fault::StaleKeepAlive);
                }
                Event::Failed { arrival: current.arrival, bytes: current.bytes_in, failure }
            }
            None => Event::Closed { why: OpenReason::AfterError, failure: Some(failure) },
        }
    }
}
