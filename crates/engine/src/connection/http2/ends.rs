//! How a connection and its streams end.

use super::Http2;
use crate::connection::{Bodies, Event, Failure, Transport, closed, resources::end_of_reading};
use crate::http2::frame::{self, Code};
use crate::system::{Readiness, Socket};
use plimsoll_measure::{ErrorClass, Fault, OpenReason};
use std::io;

/// The peer has announced the end of the connection.
pub(super) struct Goaway {
    /// The last stream that it processed.
    pub(super) last: u32,
    pub(super) code: Code,
    /// The reason for people to read, escaped.
    pub(super) why: String,
}

/// The connection has ended; its streams end next.
pub(super) struct Ending {
    class: ErrorClass,
    /// How the peer broke the protocol, if it did.
    fault: Option<Fault>,
    error: Option<io::Error>,
    /// Whether it ended in good order.
    is_orderly: bool,
}

impl Http2 {
    /// The next end of the connection or of one of its streams; and, before, the next stream that was sent.
    pub(super) fn next_end(&mut self, bodies: &mut Bodies) -> Option<Event<'static>> {
        while let Some(id) = self.output.next_sent() {
            if let Some(stream) = self.streams.get_mut(id) {
                stream.sent = true;
                return Some(Event::Sent { arrival: stream.arrival });
            }
        }
        if let Some(goaway) = &self.goaway
            && let Some(id) = self.streams.first_from(goaway.last.saturating_add(1))
        {
            let mut stream = self.remove(id).expect("it was found");
            stream.discard(bodies);
            let failure = self.goaway_failure();
            let (arrival, bytes) = (stream.arrival, stream.bytes_in);
            let moved = Fault::GoawayMoved;
            return Some(Event::Returned { arrival, bytes, failure, moved });
        }
        if self.ending.is_some() {
            return Some(match self.streams.first_from(0) {
                Some(id) => self.fail_stream(id, bodies),
                None => self.closed(),
            });
        }
        let is_over = self.goaway.is_some() || self.next_id > frame::STREAM_MAX;
        let reason = self.last.or(is_over.then_some(OpenReason::TargetClosed));
        if let Some(reason) = reason.filter(|_| self.is_idle()) {
            return Some(Event::Closed { reason, failure: None });
        }
        None
    }

    /// Why a stream fails whose connection the peer ended with GOAWAY.
    fn goaway_failure(&self) -> Failure {
        let Some(Goaway { code, why, .. }) = &self.goaway else {
            return Failure::of(ErrorClass::Reset);
        };
        let is_calm = *code == Code::ENHANCE_YOUR_CALM;
        let fault = if is_calm { Fault::EnhanceYourCalm } else { Fault::Goaway };
        let said = if why.is_empty() { String::new() } else { format!(" \"{why}\"") };
        let error = io::Error::other(format!("GOAWAY {}{said}", code.name()));
        Failure { fault: Some(fault), error: Some(error), ..Failure::of(ErrorClass::Reset) }
    }

    /// The end of a stream with its connection.
    fn fail_stream(&mut self, id: u32, bodies: &mut Bodies) -> Event<'static> {
        let mut stream = self.remove(id).expect("it was found");
        stream.discard(bodies);
        let ending = self.ending.as_mut().expect("the connection has ended");
        let is_gone = matches!(ending.class, ErrorClass::ClosedEarly | ErrorClass::Reset);
        let (was_used, frames) = stream.before;
        let failure = if is_gone && self.goaway.as_ref().is_some_and(|own| own.code.0 != 0) {
            self.goaway_failure()
        } else {
            let of_events = stream.events.as_ref().and_then(|own| own.ended().fault);
            let fault = if ending.class == ErrorClass::ClosedEarly && stream.is_open_stream() {
                of_events
            } else if ending.class == ErrorClass::ClosedEarly && stream.bytes_in > 0 {
                Some(Fault::Truncated)
            } else if is_gone && was_used && frames == self.frames {
                // The peer has sent nothing since the request was started: it may have closed the
                // connection while it was idle.
                Some(Fault::StaleKeepAlive)
            } else {
                ending.fault
            };
            // Only the first is noted.
            Failure { fault, error: ending.error.take(), ..Failure::of(ending.class) }
        };
        Event::Failed { arrival: stream.arrival, bytes: stream.bytes_in, failure }
    }

    fn closed(&mut self) -> Event<'static> {
        let ending = self.ending.as_mut().expect("the connection has ended");
        if ending.is_orderly && self.is_settled {
            return Event::Closed { reason: OpenReason::TargetClosed, failure: None };
        }
        let fault = match ending.fault {
            // Counted by connection; the exchanges have failed with the fault itself.
            Some(_) if self.is_used => Some(Fault::GoawayLocal),
            fault => fault,
        };
        closed(Failure { fault, error: ending.error.take(), ..Failure::of(ending.class) })
    }

    /// Ends the connection because the peer broke the protocol.
    pub(super) fn end_connection<K: Socket>(
        &mut self,
        code: Code,
        fault: Fault,
        transport: &mut Transport<K>,
    ) {
        frame::put_goaway(self.output.bytes(), code, &fault.to_string());
        // The peer may be gone, or not read it.
        let _ = self.output.flush(transport);
        (self.unparsed, self.block) = (0..0, None);
        self.carry.clear();
        self.ending = Some(Ending {
            class: ErrorClass::Protocol,
            fault: Some(fault),
            error: None,
            is_orderly: false,
        });
    }

    /// Handles a read that returned no bytes; returns whether the connection has ended.
    pub(super) fn nothing_read(&mut self, read: io::Result<usize>, ready: &mut Readiness) -> bool {
        let is_clean = read.is_ok();
        let Some(error) = end_of_reading(self.broken.take(), read, ready) else {
            return false;
        };
        let class = match &error {
            None => ErrorClass::ClosedEarly,
            Some(error) => crate::errors::class_of_io(error),
        };
        let ending = Ending { class, fault: None, error, is_orderly: is_clean };
        self.ending = Some(match ending {
            // A server that does not speak HTTP/2 closes the connection at its first bytes.
            Ending { error: None, .. } if !self.is_settled => {
                Ending { class: ErrorClass::Protocol, fault: Some(Fault::NotHttp2), ..ending }
            }
            _ => ending,
        });
        true
    }
}
