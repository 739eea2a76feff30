//! An event stream as an answer that stays open.
//!
//! One read may have several events, which are reported one by one: until then they stay in the read buffer,
//! which nothing else changes while the events of this connection are collected.

use super::{BodyLocation, Closing, Http1};
use crate::connection::events::{EventStream, Fed, Opening};
use crate::connection::resources::end_of_reading;
use crate::connection::{Bodies, Event, Failure, Outgoing, ReadResources, Transport};
use crate::events::Found;
use crate::http1::Piece;
use crate::system::{Readiness, Socket};
use plimsoll_measure::{ErrorClass, Fault, OpenReason};
use std::io;
use std::ops::Range;

/// An event stream, or the request for one.
pub(super) struct Standing {
    stream: EventStream,
    is_open: bool,
    /// The part of the read buffer that was not looked at yet…
    unparsed: Range<usize>,
    /// …and the piece of the body before it whose events were not all reported.
    piece: Range<usize>,
}

/// What the bytes of the peer led to.
enum Step {
    More,
    Opened(u16, u64),
    Found(Found),
    /// An answer without events.
    Answer,
}

impl Standing {
    pub(super) fn of(outgoing: &Outgoing<'_>) -> Option<Box<Standing>> {
        outgoing.standing?;
        let stream = EventStream::new(outgoing.body_max.unwrap_or(u64::MAX));
        Some(Box::new(Standing { stream, is_open: false, unparsed: 0..0, piece: 0..0 }))
    }

    /// Frees what it holds.
    pub(super) fn discard(&mut self, bodies: &mut Bodies) {
        self.stream.discard(bodies);
    }

    /// The failure of a stream that the peer has ended.
    fn ended(&self) -> Failure {
        if self.is_open { self.stream.ended() } else { Failure::of(ErrorClass::ClosedEarly) }
    }
}

/// The request with a header that names the last event that was received.
pub(super) fn resumed(request: &[u8], last_event: &[u8]) -> Vec<u8> {
    let line = memchr::memmem::find(request, b"\r\n").map_or(request.len(), |at| at + 2);
    let (line, rest) = request.split_at(line);
    [line, b"Last-Event-ID: ", last_event, b"\r\n", rest].concat()
}

impl Http1 {
    /// The next event of a connection with an event stream.
    pub(super) fn next_standing<'a, K: Socket>(
        &'a mut self,
        transport: &mut Transport<K>,
        ready: &mut Readiness,
        share: &mut usize,
        resources: &'a mut ReadResources,
    ) -> Option<Event<'a>> {
        loop {
            let arrival = self.current.as_ref().expect("a request for events").arrival;
            match self.parse_events(&resources.scratch, &mut resources.bodies) {
                Ok(Step::More) => {}
                Ok(Step::Opened(status, bytes)) => {
                    return Some(Event::Opened { arrival, status, bytes });
                }
                Ok(Step::Found(found)) => {
                    let standing = self.standing.as_mut().expect("its events were parsed");
                    let bytes = standing.stream.take_bytes();
                    return Some(standing.stream.event(arrival, found, bytes));
                }
                Ok(Step::Answer) => {
                    self.standing = None;
                    return Some(self.answer(BodyLocation::Collected, transport, &[]));
                }
                Err(failure) => return Some(self.fail_standing(failure, resources)),
            }
            if !(ready.readable || ready.read_closed) || *share == 0 {
                return None;
            }
            *share -= 1;
            match transport.read(&mut resources.scratch[..resources.read_max]) {
                Ok(n @ 1..) => {
                    if transport.is_drained_by(n, resources.read_max) {
                        ready.readable = false;
                    }
                    if let Some((_, trace)) = &mut self.trace {
                        trace.response.extend(&resources.scratch[..n]);
                    }
                    self.standing.as_mut().expect("as above").unparsed = 0..n;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => {
                    let end = end_of_reading(self.broken.take(), read, ready)?;
                    let standing = self.standing.as_ref().expect("as above");
                    let failure = end.map_or_else(|| standing.ended(), Failure::of_io);
                    return Some(self.fail_standing(failure, resources));
                }
            }
        }
    }

    /// Handles the read buffer up to the next event.
    fn parse_events(&mut self, scratch: &[u8], bodies: &mut Bodies) -> Result<Step, Failure> {
        let standing = self.standing.as_mut().expect("a request for events");
        let current = self.current.as_mut().expect("as above");
        loop {
            if !standing.piece.is_empty() {
                let mut piece = &scratch[standing.piece.clone()];
                let fed = standing.stream.feed(&mut piece)?;
                standing.piece.start = standing.piece.end - piece.len();
                match fed {
                    Fed::Found(found) => return Ok(Step::Found(found)),
                    Fed::Nothing => standing.stream.hold(bodies)?,
                }
                continue;
            }
            if standing.unparsed.is_empty() {
                return Ok(Step::More);
            }
            if !current.sent {
                return Err(Failure::fault(Fault::AnswerFirst));
            }
            let mut input = &scratch[standing.unparsed.clone()];
            let before = input.len();
            let piece = self.parser.next(&mut input).map_err(Failure::fault)?;
            standing.unparsed.start = standing.unparsed.end - input.len();
            let consumed = (before - input.len()) as u64;
            match piece {
                Piece::Head => {
                    let head = self.parser.head();
                    let (status, gzip) = (head.status, head.gzip);
                    match Opening::of(status, gzip, self.parser.head_bytes()) {
                        Opening::Begins => {
                            standing.is_open = true;
                            return Ok(Step::Opened(status, consumed));
                        }
                        Opening::Failure(failure) => return Err(failure),
                        Opening::Answer => {
                            current.bytes_in += consumed;
                            current.body.begin((status, gzip, None), bodies)?;
                            return Ok(Step::Answer);
                        }
                    }
                }
                Piece::Body(piece) => {
                    let end = standing.unparsed.start;
                    standing.piece = end - piece.len()..end;
                }
                Piece::More => {}
                Piece::End => return Err(standing.ended()),
            }
        }
    }

    /// The end of an event stream, or of the request for one.
    fn fail_standing(&mut self, failure: Failure, resources: &mut ReadResources) -> Event<'static> {
        self.closing = Closing::of(OpenReason::AfterError);
        if failure.class == ErrorClass::ClosedEarly {
            self.closing = Closing::of(OpenReason::TargetClosed);
        }
        let mut bytes = 0;
        if let Some(mut standing) = self.standing.take() {
            bytes = standing.stream.take_bytes();
            standing.discard(&mut resources.bodies);
        }
        let current = self.current.take().expect("a request for events");
        Event::Failed { arrival: current.arrival, bytes, failure }
    }
}
