//! WebSocket on a connection: many JSON-RPC calls at a time, each one message.
//!
//! A call is sent with an id of the connection instead of its own, so that answers, which may come in any
//! order, identify their exchange. Calls that are started together are written at once, and most answers
//! are judged in the read buffer.
//!
//! # Ends
//! JSON-RPC cannot cancel a call: an answer that comes after its call was given up is counted and ignored.
//! If the kernel took no byte of a call by its deadline, the peer does not read: the call and those behind
//! it are removed from the output, the others move to another connection, and this one takes no more.
//!
//! # Bounds
//! A connection holds at most one incomplete message, whose bytes are part of the worker's budget for
//! bodies, and replies to pings that the peer has not read.
//!
//! # Compression
//! Only if the plan asks for it and the peer agrees, and without context takeover: the windows are the worker's, and a
//! connection holds no more than without. Lengths that are reported are those on the wire.
//!
//! Submodules: `opening` (the handshake), `ends` (of calls and connections), `standing` (sockets and subscriptions
//! that stay open).

mod ends;
mod opening;
mod standing;

use super::numbers::Numbered;
use super::output::Output;
use super::{Answer, Event, Failure, Outgoing, ReadResources, Started, Trace, Traced, Transport};
use crate::arrival::Id;
use crate::system::{Readiness, Socket};
use ends::Ending;
pub(crate) use opening::Opening;
use opening::Upgrade;
use plimsoll_measure::rng::Key;
use plimsoll_measure::{ErrorClass, Fault, OpenReason};
use plimsoll_rpc::json;
use plimsoll_websocket::{
    Deflate, Inflate, Message, Opcode, Reader, Role, Violation, head_len, put, put_compressed,
};
use slab::Slab;
use standing::Standing;
use std::io;
use std::ops::Range;

/// A call in flight.
struct Call {
    arrival: Id,
    /// The id with which it was sent.
    id: u64,
    /// Whether the kernel has accepted a byte of it.
    sent: bool,
    /// Whether the connection had carried an answer before, and how many messages.
    before: (bool, u64),
}

/// The WebSocket state of one connection.
pub(super) struct WebSocket {
    /// Maximum number of calls at a time, by the plan.
    calls_max: usize,
    /// Until the handshake is complete.
    upgrade: Option<Upgrade>,
    reader: Reader,
    /// Whether calls are compressed: that was agreed on.
    compresses: bool,
    /// Whether the peer has declined compression, and this was not reported yet.
    has_declined: bool,
    output: Output,
    /// The part of the read buffer that was not looked at yet.
    unparsed: Range<usize>,
    calls: Slab<Call>,
    /// The places of calls, by id.
    places: Numbered<u64>,
    /// How many calls were started: the id of the next one.
    started: u64,
    /// Masks of frames are drawn from it.
    masks: Key,
    masked: u64,
    /// Bytes of the message that is being read, and how many of them the budget was charged for.
    message_bytes: u64,
    held: u64,
    /// Messages and answers so far.
    messages: u64,
    answers: u64,
    /// What stays open on it instead of calls.
    standing: Option<Box<Standing>>,
    /// Why it takes no more calls.
    last: Option<OpenReason>,
    /// Calls that are sent elsewhere.
    returned: Vec<u32>,
    ending: Option<Ending>,
    /// Whether a close frame was sent.
    has_said_goodbye: bool,
    /// Why writing failed. What the peer sent before is read first.
    broken: Option<io::Error>,
    traces: Vec<(Id, Trace)>,
}

/// What the bytes of the peer led to.
enum Parsed {
    /// No complete message is left.
    Nothing,
    /// Something about the connection; there may be more messages.
    More,
    Established,
    /// A call, and where its answer is: in the read buffer, or held by the reader.
    Answered(u32, u64, Option<Range<usize>>),
    Stray(Fault),
    /// Of what stays open.
    Standing(standing::Parsed),
}

/// What a message says about itself.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// It answers the call with this id.
    Answer(u64),
    /// It has a method: a notification, or a call of the peer.
    Method,
    Other,
}

impl WebSocket {
    /// A connection whose first bytes are to be written: the request to open it.
    pub(super) fn new(opening: &Opening, calls_max: u32, serial: u64) -> WebSocket {
        let masks = Key::new(serial).with(opening.message_max);
        let mut output = Output::default();
        let upgrade = Upgrade::begin(opening, masks, output.bytes());
        let message_max = usize::try_from(opening.message_max).unwrap_or(usize::MAX);
        WebSocket {
            calls_max: calls_max as usize,
            upgrade: Some(upgrade),
            reader: Reader::new(Role::Client, message_max),
            compresses: false,
            has_declined: false,
            output,
            unparsed: 0..0,
            calls: Slab::new(),
            places: Numbered::default(),
            started: 0,
            masks,
            masked: 0,
            message_bytes: 0,
            held: 0,
            messages: 0,
            answers: 0,
            standing: None,
            last: None,
            returned: Vec::new(),
            ending: None,
            has_said_goodbye: false,
            broken: None,
            traces: Vec::new(),
        }
    }

    /// How many more calls it can take.
    #[inline]
    pub(super) fn capacity(&self) -> usize {
        let is_taken = self.last.is_some() || self.standing.is_some();
        if is_taken || self.ending.is_some() || self.broken.is_some() {
            return 0;
        }
        self.calls_max.saturating_sub(self.calls.len())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.standing.is_none()
    }

    pub(super) fn is_used(&self) -> bool {
        self.started > 0
    }

    /// Whether [`WebSocket::flush`] has something to write.
    #[inline]
    pub(super) fn is_pending(&self) -> bool {
        self.output.is_pending() && self.broken.is_none()
    }

    pub(super) fn take_trace(&mut self, arrival: Id) -> Option<Trace> {
        let at = self.traces.iter().position(|(traced, _)| *traced == arrival)?;
        Some(self.traces.swap_remove(at).1)
    }

    /// Appends a call to the output.
    pub(super) fn start(
        &mut self,
        outgoing: Outgoing<'_>,
        (text, body): (&mut Vec<u8>, &mut Vec<u8>),
        deflate: &mut Deflate,
    ) -> Started {
        debug_assert!(self.capacity() > 0, "only as many calls as it can take");
        let place = self.calls.vacant_key() as u32;
        let id = self.started;
        self.started += 1;
        if let Some(standing) = outgoing.standing {
            let own = Standing::new(outgoing.arrival, id, standing);
            let is_silent = own.is_silent();
            self.standing = Some(Box::new(own));
            if is_silent {
                // What it sends has opened the connection.
                return Started::Sent { bytes: 0 };
            }
        }
        self.places.insert(id, place);
        outgoing.request.websocket().render(outgoing.values, id, (&mut *text, body));
        let key = self.mask();
        let out = self.output.bytes();
        let at = out.len();
        let payload = if self.compresses { deflate.message(text) } else { None };
        match payload {
            Some(payload) => put_compressed(out, Opcode::Text, Some(key), payload),
            None => put(out, Opcode::Text, true, Some(key), text),
        }
        let bytes = (out.len() - at) as u64;
        self.output.begin(place, at);
        if outgoing.trace {
            let mut request = Traced::default();
            request.extend(text);
            self.traces.push((outgoing.arrival, Trace { request, response: Traced::default() }));
        }
        self.calls.insert(Call {
            arrival: outgoing.arrival,
            id,
            sent: false,
            before: (self.answers > 0, self.messages),
        });
        if outgoing.last && outgoing.standing.is_none() {
            self.last = Some(OpenReason::TargetClosed);
        }
        Started::Buffered { bytes }
    }

    /// The next mask.
    #[inline]
    fn mask(&mut self) -> [u8; 4] {
        self.masked += 1;
        let bits = self.masks.with(self.masked).bits();
        ((bits >> 32) as u32).to_ne_bytes()
    }

    /// Writes what waits in the output.
    pub(super) fn flush<K: Socket>(&mut self, transport: &mut Transport<K>) {
        if let Err(error) = self.output.flush(transport) {
            self.broken = Some(error);
        }
    }

    /// Gives a call up.
    pub(super) fn abandon(&mut self, arrival: Id) {
        if self.standing.take_if(|own| own.arrival == arrival).is_some() {
            self.last.get_or_insert(OpenReason::AfterTimeout);
        }
        let Some((place, call)) = self.calls.iter().find(|(_, call)| call.arrival == arrival)
        else {
            return;
        };
        if !call.sent && self.ending.is_none() {
            self.returned.extend(self.output.cut(place as u32));
            self.last.get_or_insert(OpenReason::AfterTimeout);
        }
        self.remove(place);
    }

    /// Removes a call that has ended.
    fn remove(&mut self, place: usize) -> Option<Call> {
        let call = self.calls.try_remove(place)?;
        self.places.remove(&call.id);
        Some(call)
    }

    pub(super) fn next<'a, K: Socket>(
        &'a mut self,
        transport: &mut Transport<K>,
        ready: &mut Readiness,
        share: &mut usize,
        resources: &'a mut ReadResources,
    ) -> Option<Event<'a>> {
        if std::mem::take(&mut ready.writable) && self.broken.is_none() {
            self.flush(transport);
        }
        if self.broken.is_some() && self.ending.is_none() {
            ready.readable = true;
        }
        loop {
            if let Some(event) = self.next_end(transport) {
                resources.bodies.budget.release(std::mem::take(&mut self.held));
                return Some(event);
            }
            match self.parse(&resources.scratch, &mut resources.inflate) {
                Ok(Parsed::Nothing) => {}
                Ok(Parsed::More) => continue,
                Ok(Parsed::Established) => return Some(Event::Established),
                Ok(Parsed::Stray(fault)) => return Some(Event::Stray { fault }),
                Ok(Parsed::Standing(parsed)) => {
                    resources.bodies.budget.release(std::mem::take(&mut self.held));
                    return Some(self.standing_event(parsed, &resources.scratch));
                }
                Ok(Parsed::Answered(place, bytes, location)) => {
                    resources.bodies.budget.release(std::mem::take(&mut self.held));
                    return Some(self.answered(place, bytes, location, transport, resources));
                }
                Err(failure) => {
                    self.end(failure);
                    continue;
                }
            }
            if !self.hold(resources) {
                self.end(Failure::of(ErrorClass::MemoryExhausted));
                continue;
            }
            if !self.read(transport, ready, share, resources) {
                return None;
            }
        }
    }

    /// Charges the incomplete message to the budget; returns whether it fits.
    fn hold(&mut self, resources: &mut ReadResources) -> bool {
        let held = self.reader.held() as u64;
        let budget = &mut resources.bodies.budget;
        budget.release(self.held.saturating_sub(held));
        let fits = budget.reserve(held.saturating_sub(self.held));
        self.held = if fits { held } else { self.held.min(held) };
        fits
    }

    /// Reads more; returns false if nothing can be read now.
    fn read<K: Socket>(
        &mut self,
        transport: &mut Transport<K>,
        ready: &mut Readiness,
        share: &mut usize,
        resources: &mut ReadResources,
    ) -> bool {
        while ready.readable || ready.read_closed {
            if *share == 0 {
                return false;
            }
            *share -= 1;
            match transport.read(&mut resources.scratch[..resources.read_max]) {
                Ok(n @ 1..) => {
                    self.unparsed = 0..n;
                    if transport.is_drained_by(n, resources.read_max) {
                        ready.readable = false;
                    }
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return self.nothing_read(read, ready),
            }
        }
        false
    }

    /// Handles the next message in the read buffer.
    fn parse(&mut self, scratch: &[u8], inflate: &mut Inflate) -> Result<Parsed, Failure> {
        if self.ending.is_some() {
            return Ok(Parsed::Nothing);
        }
        let mut input = &scratch[self.unparsed.clone()];
        if let Some(upgrade) = &mut self.upgrade {
            let agreed = upgrade.read(&mut input)?;
            self.unparsed.start = self.unparsed.end - input.len();
            let Some(agreed) = agreed else { return Ok(Parsed::Nothing) };
            (self.compresses, self.has_declined) = (agreed, upgrade.compression && !agreed);
            if agreed {
                self.reader.allow_compression();
            }
            self.upgrade = None;
            return Ok(Parsed::Established);
        }
        if std::mem::take(&mut self.has_declined) {
            return Ok(Parsed::Stray(Fault::NotCompressed));
        }
        let before = input.len();
        let message = self.reader.next(&mut input, inflate).map_err(violated)?;
        self.unparsed.start = self.unparsed.end - input.len();
        self.message_bytes += (before - input.len()) as u64;
        let Some(message) = message else { return Ok(Parsed::Nothing) };
        let bytes = std::mem::take(&mut self.message_bytes);
        self.messages += 1;
        let text = match message {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
            // Not every ping needs an answer (RFC 6455 §5.5.3).
            Message::Ping(bytes) if self.output.takes_replies() => {
                let (payload, key) = (bytes.to_vec(), self.mask());
                put(self.output.bytes(), Opcode::Pong, true, Some(key), &payload);
                self.output.count_reply(head_len(payload.len(), true) + payload.len());
                return Ok(Parsed::More);
            }
            Message::Pong(payload) if let Some(standing) = &mut self.standing => {
                let is_own = standing.is_answered_by(payload);
                return Ok(if is_own {
                    Parsed::Standing(standing::Parsed::Ponged)
                } else {
                    Parsed::More
                });
            }
            Message::Ping(_) | Message::Pong(_) => return Ok(Parsed::More),
            Message::Close { code, reason } => return Err(ends::closed_by_peer(code, reason)),
        };
        let id = match said(text) {
            Said::Answer(id) => id,
            Said::Method if let Some(standing) = &self.standing => {
                let parsed = standing.notified(text, bytes, scratch);
                return Ok(Parsed::Standing(parsed));
            }
            Said::Method => return Ok(Parsed::Stray(Fault::Notification)),
            Said::Other => return Ok(Parsed::Stray(Fault::UnknownAnswer)),
        };
        let Some(place) = self.places.get(&id).copied() else {
            let was_sent = id < self.started;
            let fault = if was_sent { Fault::LateAnswer } else { Fault::UnknownAnswer };
            return Ok(Parsed::Stray(fault));
        };
        let call = &self.calls[place as usize];
        if !call.sent {
            return Err(Failure::fault(Fault::AnswerFirst));
        }
        if let Some((_, trace)) = self.traces.iter_mut().find(|(own, _)| *own == call.arrival) {
            trace.response.extend(text);
        }
        if let Some(standing) = self.standing.as_mut().filter(|own| own.call == id) {
            match standing.confirmed(text, bytes) {
                Some(parsed) => {
                    self.remove(place as usize);
                    return Ok(Parsed::Standing(parsed));
                }
                // It is judged as any answer.
                None => {
                    self.standing = None;
                    self.last.get_or_insert(OpenReason::NoneIdle);
                }
            }
        }
        Ok(Parsed::Answered(place, bytes, location(text, scratch)))
    }

    fn answered<'a, K: Socket>(
        &'a mut self,
        place: u32,
        bytes: u64,
        location: Option<Range<usize>>,
        transport: &Transport<K>,
        resources: &'a ReadResources,
    ) -> Event<'a> {
        self.answers += 1;
        let call = self.remove(place as usize).expect("it was found");
        let body = location.map_or(self.reader.last(), |range| &resources.scratch[range]);
        let answer = Answer {
            status: 0,
            call: Some(call.id),
            body,
            gzip: false,
            head: &[],
            body_len: body.len() as u64,
            first: false,
            location: None,
            split: None,
            received_at: transport.received_at(),
        };
        Event::Answered { arrival: call.arrival, bytes, answer }
    }
}

/// Where a part of a message is in the read buffer, if it is there.
fn location(text: &[u8], scratch: &[u8]) -> Option<Range<usize>> {
    let start = (text.as_ptr() as usize).checked_sub(scratch.as_ptr() as usize)?;
    let own = start..start + text.len();
    (own.end <= scratch.len()).then_some(own)
}

/// The failure of a peer that broke the protocol.
fn violated(violation: Violation) -> Failure {
    let class = match violation {
        Violation::TooLong => ErrorClass::BodyTooLarge,
        _ => ErrorClass::Protocol,
    };
    let fault = (class == ErrorClass::Protocol).then_some(Fault::BadMessage);
    let error = Some(io::Error::other(violation));
    Failure { fault, error, ..Failure::of(class) }
}

/// Reads a message up to the member that says what it is.
fn said(text: &[u8]) -> Said {
    let mut is_call = false;
    for member in json::members(text) {
        let Ok(member) = member else { return Said::Other };
        match &*member.plain() {
            b"id" => {
                let id = str::from_utf8(member.value).ok().and_then(|id| id.parse().ok());
                return id.map_or(Said::Other, Said::Answer);
            }
            b"method" => is_call = true,
            _ => {}
        }
    }
    if is_call { Said::Method } else { Said::Other }
}

#[cfg(test)]
mod tests;
