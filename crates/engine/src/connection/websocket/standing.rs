//! What stays open on a connection: an idle socket, or one subscription.
//!
//! A connection carries one of them and nothing else, so that a socket of the plan is a socket of the target.
//! A subscription is a call whose answer has an id, with which its notifications come. Pings carry a number,
//! so that a pong answers the last one only.

use super::{WebSocket, location};
use crate::arrival::Id;
use crate::connection::{Arrived, Event, Failure};
use plimsoll_measure::{Fault, OpenReason};
use plimsoll_plan::Standing as Spec;
use plimsoll_rpc::json;
use plimsoll_websocket::{Opcode, put, put_close};
use std::ops::Range;

/// Maximum length of a subscription's id, as JSON; geth's have 36 bytes.
const ID_MAX: usize = 128;
/// The code of a close frame in good order.
const NORMAL: u16 = 1000;

/// What stays open.
pub(super) struct Standing {
    pub(super) arrival: Id,
    /// The id of the call that opens it.
    pub(super) call: u64,
    state: State,
    /// The method that ends it, as JSON.
    unsubscribe: Option<Box<str>>,
    /// How many pings were sent, and whether the last one is unanswered.
    pings: u32,
    is_pinged: bool,
}

enum State {
    /// An idle socket, whose opening was not reported yet.
    Beginning,
    /// An idle socket.
    Idle,
    /// The call has no answer yet.
    Subscribing,
    /// The id of the subscription, as JSON.
    Subscribed(Box<[u8]>),
}

/// What a message is to it.
pub(super) enum Parsed {
    Opened(u64),
    /// The call was answered without an id.
    Refused(u64),
    /// Where the result is: in the read buffer, or in the message that the reader holds.
    Notified(u64, Location),
    Unmatched(u64),
    Ponged,
}

pub(super) enum Location {
    Read(Range<usize>),
    Held(Range<usize>),
}

impl Standing {
    pub(super) fn new(arrival: Id, call: u64, spec: &Spec) -> Standing {
        let (state, unsubscribe) = match spec {
            Spec::Subscription { unsubscribe, .. } => {
                (State::Subscribing, unsubscribe.as_deref().map(Into::into))
            }
            Spec::Socket | Spec::Events { .. } => (State::Beginning, None),
        };
        Standing { arrival, call, state, unsubscribe, pings: 0, is_pinged: false }
    }

    /// Whether it sends nothing to open.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self.state, State::Beginning)
    }

    /// Whether a pong answers the last ping.
    pub(super) fn is_answered_by(&mut self, payload: &[u8]) -> bool {
        let is_own = self.is_pinged && *payload == self.pings.to_be_bytes();
        self.is_pinged &= !is_own;
        is_own
    }

    /// Reads the answer to its call; `None` if it has no result.
    pub(super) fn confirmed(&mut self, answer: &[u8], bytes: u64) -> Option<Parsed> {
        if json::member(answer, "error").is_some() {
            return None;
        }
        let id = json::member(answer, "result")?;
        let is_id = matches!(json::kind(id), Some(json::Kind::String | json::Kind::Number));
        if !is_id || id.len() > ID_MAX {
            return Some(Parsed::Refused(bytes));
        }
        self.state = State::Subscribed(id.into());
        Some(Parsed::Opened(bytes))
    }

    /// Reads a message with a method.
    pub(super) fn notified(&self, text: &[u8], bytes: u64, scratch: &[u8]) -> Parsed {
        let State::Subscribed(id) = &self.state else { return Parsed::Unmatched(bytes) };
        let result = json::member(text, "params").and_then(|params| {
            let own = json::member(params, "subscription")? == &**id;
            json::member(params, "result").filter(|_| own)
        });
        let Some(result) = result else { return Parsed::Unmatched(bytes) };
        Parsed::Notified(
            bytes,
            match location(result, scratch) {
                Some(range) => Location::Read(range),
                None => {
                    let start = result.as_ptr() as usize - text.as_ptr() as usize;
                    Location::Held(start..start + result.len())
                }
            },
        )
    }
}

impl WebSocket {
    /// Reports that an idle socket has opened.
    pub(super) fn standing_begins(&mut self) -> Option<Event<'static>> {
        let standing = self.standing.as_mut()?;
        let State::Beginning = standing.state else { return None };
        standing.state = State::Idle;
        Some(Event::Opened { arrival: standing.arrival, status: 0, bytes: 0 })
    }

    pub(super) fn standing_event<'a>(&'a mut self, parsed: Parsed, scratch: &'a [u8]) -> Event<'a> {
        let standing = self.standing.as_ref().expect("a message was for it");
        let arrival = standing.arrival;
        match parsed {
            Parsed::Opened(bytes) => Event::Opened { arrival, status: 0, bytes },
            Parsed::Refused(bytes) => {
                self.give_up_standing();
                let failure = Failure::fault(Fault::BadSubscription);
                Event::Failed { arrival, bytes, failure }
            }
            Parsed::Notified(bytes, at) => {
                let result = match at {
                    Location::Read(range) => &scratch[range],
                    Location::Held(range) => &self.reader.last()[range],
                };
                Event::Received { arrival, bytes, message: Arrived::Notification(result) }
            }
            Parsed::Unmatched(bytes) => {
                Event::Received { arrival, bytes, message: Arrived::Unmatched }
            }
            Parsed::Ponged => Event::Ponged { arrival },
        }
    }

    /// Forgets what was to stay open; the connection closes.
    pub(super) fn give_up_standing(&mut self) {
        self.standing = None;
        self.last.get_or_insert(OpenReason::NoneIdle);
    }

    /// Appends a ping to the output.
    pub(in crate::connection) fn ping(&mut self) {
        let key = self.mask();
        let Some(standing) = &mut self.standing else { return };
        standing.pings = standing.pings.wrapping_add(1);
        standing.is_pinged = true;
        put(self.output.bytes(), Opcode::Ping, true, Some(key), &standing.pings.to_be_bytes());
    }

    /// Ends what stays open, in good order: the subscription, then the connection. The peer's answers are not
    /// awaited.
    pub(in crate::connection) fn release(&mut self, arrival: Id) {
        let Some(standing) = self.standing.take_if(|own| own.arrival == arrival) else { return };
        if let (State::Subscribed(id), Some(method)) = (&standing.state, &standing.unsubscribe) {
            let call = self.started;
            self.started += 1;
            let id = String::from_utf8_lossy(id);
            let text = format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{call},\"method\":{method},\"params\":[{id}]}}"
            );
            let key = self.mask();
            put(self.output.bytes(), Opcode::Text, true, Some(key), text.as_bytes());
        }
        let key = self.mask();
        put_close(self.output.bytes(), NORMAL, "", Some(key));
        self.has_said_goodbye = true;
        self.last.get_or_insert(OpenReason::NoneIdle);
    }
}
