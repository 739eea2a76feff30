//! How a connection and its calls end.

use super::WebSocket;
use crate::connection::{Event, Failure, Transport, closed, resources::end_of_reading};
use crate::system::{Readiness, Socket};
use plimsoll_measure::{ErrorClass, Fault, OpenReason};
use plimsoll_websocket::put_close;
use std::io;

/// The code of a close frame in good order.
const NORMAL: u16 = 1000;
/// The code of a close frame after the peer broke the protocol.
const PROTOCOL_ERROR: u16 = 1002;

/// The connection has ended; its calls end next.
pub(super) struct Ending {
    class: ErrorClass,
    fault: Option<Fault>,
    /// Only the first call has it.
    error: Option<io::Error>,
    /// Whether this side ended it.
    is_local: bool,
}

/// The failure of the calls on a connection that the peer has closed.
pub(super) fn closed_by_peer(code: Option<u16>, reason: &str) -> Failure {
    /// Maximum length of the reason that is shown.
    const REASON_MAX: usize = 100;
    let code = code.map_or("without a code".into(), |code| format!("with code {code}"));
    let shown: String = reason.chars().take(REASON_MAX).flat_map(char::escape_debug).collect();
    let shown = if shown.is_empty() { shown } else { format!(" \"{shown}\"") };
    let error = Some(io::Error::other(format!("{code}{shown}")));
    let fault = Some(Fault::ClosedByPeer);
    Failure { fault, error, ..Failure::of(ErrorClass::ClosedEarly) }
}

impl WebSocket {
    /// The next end of the connection or of one of its calls; and, before, the next call that was sent.
    pub(super) fn next_end<K: Socket>(
        &mut self,
        transport: &mut Transport<K>,
    ) -> Option<Event<'static>> {
        while let Some(place) = self.output.next_sent() {
            if let Some(call) = self.calls.get_mut(place as usize)
                && !call.sent
            {
                call.sent = true;
                return Some(Event::Sent { arrival: call.arrival });
            }
        }
        while let Some(place) = self.returned.pop() {
            let Some(call) = self.remove(place as usize) else { continue };
            let failure = Failure {
                fault: Some(Fault::NothingRead),
                ..Failure::of(ErrorClass::ResponseTimeout)
            };
            let moved = Fault::UnreadMoved;
            return Some(Event::Returned { arrival: call.arrival, bytes: 0, failure, moved });
        }
        if let Some(event) = self.standing_begins() {
            return Some(event);
        }
        if self.ending.is_some() {
            let place = self.calls.iter().next().map(|(place, _)| place);
            return Some(match place {
                Some(place) => self.fail_call(place),
                None => match self.fail_standing() {
                    Some(event) => event,
                    None => self.closed(transport),
                },
            });
        }
        let reason = self.last.filter(|_| self.is_idle())?;
        self.say_goodbye(transport);
        Some(Event::Closed { reason, failure: None })
    }

    /// The end of a call with its connection.
    fn fail_call(&mut self, place: usize) -> Event<'static> {
        let call = self.remove(place).expect("it was found");
        // A subscription that was not confirmed ends with its call.
        self.standing.take_if(|own| own.call == call.id);
        let ending = self.ending.as_mut().expect("the connection has ended");
        let is_gone = matches!(ending.class, ErrorClass::ClosedEarly | ErrorClass::Reset);
        let (was_used, messages) = call.before;
        let fault = if is_gone && ending.fault.is_none() && was_used && messages == self.messages {
            // The peer has sent nothing since the call was started: it may have closed the connection
            // while it was idle.
            Some(Fault::StaleKeepAlive)
        } else {
            ending.fault
        };
        let failure = Failure { fault, error: ending.error.take(), ..Failure::of(ending.class) };
        Event::Failed { arrival: call.arrival, bytes: 0, failure }
    }

    fn closed<K: Socket>(&mut self, transport: &mut Transport<K>) -> Event<'static> {
        let is_open = self.upgrade.is_none();
        let ending = self.ending.as_mut().expect("the connection has ended");
        let (class, error) = (ending.class, ending.error.take());
        let is_orderly = matches!(ending.fault, None | Some(Fault::ClosedByPeer));
        let fault = match ending.fault {
            // Counted by connection; the calls have failed with the fault itself.
            Some(_) if ending.is_local && self.started > 0 => Some(Fault::ClosedLocal),
            fault => fault,
        };
        self.say_goodbye(transport);
        if is_open && is_orderly && class == ErrorClass::ClosedEarly {
            return Event::Closed { reason: OpenReason::TargetClosed, failure: None };
        }
        closed(Failure { fault, error, ..Failure::of(class) })
    }

    /// Sends a close frame, unless the connection failed. Returns whether one was sent, and everything before.
    pub(in crate::connection) fn say_goodbye<K: Socket>(
        &mut self,
        transport: &mut Transport<K>,
    ) -> bool {
        let is_over = self.upgrade.is_some() || self.broken.is_some() || !self.output.is_empty();
        let code = match &self.ending {
            None | Some(Ending { fault: Some(Fault::ClosedByPeer), .. }) => NORMAL,
            Some(Ending { is_local: true, .. }) => PROTOCOL_ERROR,
            // TCP has ended.
            Some(_) => return false,
        };
        if !is_over && !std::mem::replace(&mut self.has_said_goodbye, true) {
            let key = self.mask();
            put_close(self.output.bytes(), code, "", Some(key));
            if let Err(error) = self.output.flush(transport) {
                self.broken = Some(error);
            }
        }
        let is_written = self.output.is_empty() && !transport.is_unflushed();
        self.has_said_goodbye && self.broken.is_none() && is_written
    }

    /// The end, with its connection, of what stays open on it.
    fn fail_standing(&mut self) -> Option<Event<'static>> {
        let standing = self.standing.take()?;
        let ending = self.ending.as_mut().expect("the connection has ended");
        let (fault, error) = (ending.fault, ending.error.take());
        let failure = Failure { fault, error, ..Failure::of(ending.class) };
        Some(Event::Failed { arrival: standing.arrival, bytes: 0, failure })
    }

    /// Ends the connection.
    pub(super) fn end(&mut self, failure: Failure) {
        self.unparsed = 0..0;
        self.ending = Some(Ending {
            class: failure.class,
            is_local: failure.fault != Some(Fault::ClosedByPeer),
            fault: failure.fault,
            error: failure.error,
        });
    }

    /// Handles a read that returned no bytes; returns whether the connection has ended.
    pub(super) fn nothing_read(&mut self, read: io::Result<usize>, ready: &mut Readiness) -> bool {
        let Some(error) = end_of_reading(self.broken.take(), read, ready) else {
            return false;
        };
        let class = error.as_ref().map_or(ErrorClass::ClosedEarly, crate::errors::class_of_io);
        let is_within = self.reader.is_within_message();
        let fault = (class == ErrorClass::ClosedEarly && is_within).then_some(Fault::Truncated);
        self.ending = Some(Ending { class, fault, error, is_local: false });
        true
    }
}
