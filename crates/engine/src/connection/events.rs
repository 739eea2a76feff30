//! An event stream in an answer, whatever the version of HTTP.

use super::{Arrived, Bodies, Event, Failure};
use crate::arrival::Id;
use crate::events::{Found, Reader};
use plimsoll_measure::{ErrorClass, Fault, Nanos};
use std::io;

/// The events of one answer.
pub(super) struct EventStream {
    reader: Reader,
    /// Bytes since the last event that was reported.
    bytes: u64,
    /// How many bytes of an incomplete event the budget was charged for.
    held: u64,
}

/// What a piece of the body led to.
pub(super) enum Fed {
    /// All of it was consumed.
    Nothing,
    /// A message, which [`EventStream::message`] describes.
    Found(Found),
}

impl EventStream {
    pub(super) fn new(event_max: u64) -> EventStream {
        let reader = Reader::new(usize::try_from(event_max).unwrap_or(usize::MAX));
        EventStream { reader, bytes: 0, held: 0 }
    }

    /// Consumes a piece of the body up to the next event.
    ///
    /// # Errors
    /// If the event is too long.
    pub(super) fn feed(&mut self, piece: &mut &[u8]) -> Result<Fed, Failure> {
        let before = piece.len();
        let found = self.reader.next(piece);
        self.bytes += (before - piece.len()) as u64;
        match found {
            Ok(Some(found)) => Ok(Fed::Found(found)),
            Ok(None) => Ok(Fed::Nothing),
            Err(_) => Err(Failure {
                fault: Some(Fault::EventTooLong),
                ..Failure::of(ErrorClass::BodyTooLarge)
            }),
        }
    }

    /// Charges the incomplete event to the budget.
    ///
    /// # Errors
    /// If the budget is used up.
    pub(super) fn hold(&mut self, bodies: &mut Bodies) -> Result<(), Failure> {
        let held = self.reader.held() as u64;
        bodies.budget.release(std::mem::take(&mut self.held));
        if !bodies.budget.reserve(held) {
            return Err(Failure::of(ErrorClass::MemoryExhausted));
        }
        self.held = held;
        Ok(())
    }

    /// Frees what it holds.
    pub(super) fn discard(&mut self, bodies: &mut Bodies) {
        bodies.budget.release(std::mem::take(&mut self.held));
    }

    /// Bytes since the last event that was reported.
    pub(super) fn take_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    /// The event that was found.
    pub(super) fn event(&self, arrival: Id, found: Found, bytes: u64) -> Event<'_> {
        let message = match found {
            Found::Comment => Arrived::Heartbeat,
            Found::Retry(millis) => Arrived::Retry(Nanos::from_millis(millis)),
            Found::Event => Arrived::Event { id: self.reader.id(), data: self.reader.data() },
        };
        Event::Received { arrival, bytes, message }
    }

    /// The failure of a stream that the peer has ended.
    pub(super) fn ended(&self) -> Failure {
        let is_half = self.reader.is_within_event();
        let fault = if is_half { Fault::Truncated } else { Fault::StreamEnded };
        Failure { fault: Some(fault), ..Failure::of(ErrorClass::ClosedEarly) }
    }
}

/// What the head of an answer to a request for events means.
pub(super) enum Opening {
    /// The events follow.
    Begins,
    /// It is judged as any answer.
    Answer,
    /// It would be judged as ok, but there are no events.
    Failure(Failure),
}

impl Opening {
    pub(super) fn of(status: u16, gzip: bool, head: &[u8]) -> Opening {
        let kind = content_type(head);
        let is_stream = kind.is_some_and(|kind| {
            let own = kind.split(|byte| *byte == b';').next().unwrap_or(kind).trim_ascii();
            own.eq_ignore_ascii_case(b"text/event-stream")
        });
        match status {
            200 if is_stream && !gzip => Opening::Begins,
            200..400 => {
                let kind =
                    kind.map_or("no content-type".into(), |kind| kind.escape_ascii().to_string());
                let kind: String = kind.chars().take(100).collect();
                let gzip = if gzip { ", gzipped" } else { "" };
                let error = io::Error::other(format!("status {status}, {kind}{gzip}"));
                Opening::Failure(Failure {
                    error: Some(error),
                    ..Failure::fault(Fault::NotEventStream)
                })
            }
            _ => Opening::Answer,
        }
    }
}

/// The content type in a head in the form of HTTP/1.
fn content_type(head: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"content-type:";
    let mut lines = head.split(|byte| *byte == b'\n');
    let is_own =
        |line: &&[u8]| line.get(..NAME.len()).is_some_and(|own| own.eq_ignore_ascii_case(NAME));
    lines.find(is_own).map(|line| line[NAME.len()..].trim_ascii())
}
