//! The protocol interface: a connection's capacity and events.
//!
//! The dispatcher asks a connection for its capacity: how many more exchanges it can take now. It
//! calls [`Connection::next`] until no event is left, because one wake-up may yield one answer
//! (HTTP/1.1), several (streams), or unsolicited messages from the server. An event names the
//! arrival whose exchange it belongs to. Protocol differences are hidden: [`Connection::abandon`]
//! closes an HTTP/1.1 connection, but would reset a stream.
//!
//! A connection always ends with [`Event::Closed`], after the end of each of its exchanges was
//! reported.
//!
//! `docs/design/connections.md` describes the protocols, and how WebSocket and SSE would fit in.

mod body;
mod events;
mod excerpts;
mod http1;
mod http2;
mod numbers;
mod output;
mod resources;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_http2;
#[cfg(test)]
mod tests_standing;
#[cfg(test)]
mod tests_wire;
mod trace;
mod transport;
mod websocket;

use crate::arrival::Id;
use crate::http2::frame::Code;
use crate::request::Request;
use crate::system::{Readiness, Socket};
pub(crate) use excerpts::{EXCERPT_MAX, Excerpts};
use http1::Http1;
use http2::Http2;
use plimsoll_measure::{ErrorClass, Fault, Nanos, OpenReason, SplitValue};
use plimsoll_plan::{Protocol as Chosen, Standing, Values};
pub(crate) use resources::{Bodies, BodyBudget, ReadResources};
use std::io;
use std::sync::Arc;
pub(crate) use trace::Trace;
pub use trace::Traced;
pub(crate) use transport::TlsStart;
use transport::Transport;
pub(crate) use websocket::Opening;
use websocket::WebSocket;

/// A request to be sent on a connection.
pub(crate) struct Outgoing<'a> {
    pub(crate) arrival: Id,
    pub(crate) request: &'a Request,
    /// Values for the request's placeholders.
    pub(crate) values: Values,
    /// Maximum size of the answer's body, if it is kept for a check; other bodies are counted and
    /// discarded.
    pub(crate) body_max: Option<u64>,
    /// Indices of its target and its request in the plan.
    pub(crate) target: u32,
    pub(crate) spec: u32,
    /// Whether the connection closes after this exchange.
    pub(crate) last: bool,
    /// The header whose value is extracted from the answer.
    pub(crate) split_by: Option<&'a str>,
    /// If the answer is captured: how much of its body is kept, at most.
    pub(crate) capture: Option<u64>,
    /// Whether to record a [`Trace`].
    pub(crate) trace: bool,
    /// What it opens, if that stays open.
    pub(crate) standing: Option<&'a Standing>,
    /// The id of the last event that its user received, if the event stream is to continue after it.
    pub(crate) last_event: &'a [u8],
}

/// The outcome of passing a request to a connection.
#[derive(Debug)]
pub(crate) enum Started {
    /// The kernel accepted at least the first byte. `bytes` is the size of the whole request.
    Sent { bytes: u64 },
    /// No byte was accepted yet; [`Event::Sent`] follows.
    Queued { bytes: u64 },
    /// The same, and [`Connection::flush`] writes it, with others that are started meanwhile.
    Buffered { bytes: u64 },
    /// No byte was accepted and none will be: the request may be sent on another connection. This
    /// one takes no more; [`Connection::next`] reports the end of its exchanges.
    Refused,
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    /// Zero over WebSocket.
    pub(crate) status: u16,
    /// The id with which a call was sent over WebSocket.
    pub(crate) call: Option<u64>,
    /// Empty if it was not kept; only its beginning, if it was kept for an error note.
    pub(crate) body: &'a [u8],
    pub(crate) gzip: bool,
    /// The head's bytes, if the answer is captured; empty otherwise.
    pub(crate) head: &'a [u8],
    /// The body's length as received, kept or not.
    pub(crate) body_len: u64,
    /// Whether it is the first with this unexpected status from its target.
    pub(crate) first: bool,
    pub(crate) location: Option<&'a [u8]>,
    /// The value of the header to extract; `None` if there is none.
    pub(crate) split: Option<&'a SplitValue>,
    /// When the kernel received its last bytes, if timestamps were requested.
    pub(crate) received_at: Option<Nanos>,
}

/// A message of an exchange that stays open.
#[derive(Debug)]
pub(crate) enum Arrived<'a> {
    /// The result in a notification of its subscription, as JSON.
    Notification(&'a [u8]),
    /// A message with a method that belongs to no subscription.
    Unmatched,
    /// An event, with its own id if it has one.
    Event { id: Option<&'a [u8]>, data: &'a [u8] },
    /// A comment in an event stream.
    Heartbeat,
    /// How long to wait before an event stream is opened again.
    Retry(Nanos),
}

/// Why an exchange or a connection failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) class: ErrorClass,
    pub(crate) fault: Option<Fault>,
    /// The OS error, if any.
    pub(crate) error: Option<io::Error>,
    /// The stated size of a body that is too large.
    pub(crate) body_len: Option<u64>,
    /// The code with which the peer reset a stream.
    pub(crate) code: Option<Code>,
}

impl Failure {
    pub(crate) fn of(class: ErrorClass) -> Failure {
        Failure { class, fault: None, error: None, body_len: None, code: None }
    }

    pub(crate) fn fault(fault: Fault) -> Failure {
        Failure { fault: Some(fault), ..Failure::of(ErrorClass::Protocol) }
    }

    pub(crate) fn of_open(error: io::Error) -> Failure {
        Failure::caused_by(crate::errors::class_of_open(&error), error)
    }

    fn of_io(error: io::Error) -> Failure {
        Failure::caused_by(crate::errors::class_of_io(&error), error)
    }

    pub(crate) fn caused_by(class: ErrorClass, error: io::Error) -> Failure {
        Failure { error: Some(error), ..Failure::of(class) }
    }
}

/// An event of a connection.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// TCP is connected and the TLS handshake begins.
    Handshaking,
    /// The transport is ready, and the peer's HTTP/2 settings, or its answer to the opening of a WebSocket,
    /// are awaited.
    Settling,
    /// The connection is established and has capacity.
    Established,
    /// The kernel accepted the first byte of a queued request.
    Sent { arrival: Id },
    /// The first bytes of an answer were read; the answer is incomplete.
    Began { arrival: Id },
    /// An answer is complete. `bytes` includes heads and transfer coding.
    Answered { arrival: Id, bytes: u64, answer: Answer<'a> },
    /// An exchange failed; the connection may still be usable.
    Failed { arrival: Id, bytes: u64, failure: Failure },
    /// The peer has not processed the request of an exchange and will not: it may be sent on another
    /// connection, and is counted as `moved` then. `failure` applies if it is not.
    Returned { arrival: Id, bytes: u64, failure: Failure, moved: Fault },
    /// An exchange that stays open has opened: its socket, its subscription, its event stream.
    /// `status` is zero over WebSocket.
    Opened { arrival: Id, status: u16, bytes: u64 },
    /// An exchange that stays open has received a message.
    Received { arrival: Id, bytes: u64, message: Arrived<'a> },
    /// The last ping of an exchange that stays open was answered.
    Ponged { arrival: Id },
    /// A message that belongs to no exchange; the fault says what kind of message.
    Stray { fault: Fault },
    /// The connection is closed; `reason` is used if a replacement is opened. The end of each of
    /// its exchanges was reported before. Without a failure, the close was orderly.
    Closed { reason: OpenReason, failure: Option<Failure> },
}

fn closed(failure: Failure) -> Event<'static> {
    Event::Closed { reason: OpenReason::AfterError, failure: Some(failure) }
}

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Handshaking,
    /// The peer's settings (HTTP/2) or its answer to the opening (WebSocket) are awaited.
    Settling,
    Established,
}

/// Which protocol a connection may use, and with how many streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) protocol: Chosen,
    /// Maximum number of streams with HTTP/2, of calls with WebSocket.
    pub(crate) streams: u32,
}

/// A connection, whatever its protocol.
pub(crate) struct Connection<K> {
    pub(crate) pool: u32,
    /// Index of its address in the pool.
    pub(crate) address: u32,
    pub(crate) opened_at: Nanos,
    /// Unique number of the connection within its worker; slab keys are reused.
    pub(crate) serial: u64,
    /// Whether it is sampled for read lag.
    pub(crate) sampled: bool,
    /// Whether it is on its pool's free list.
    pub(crate) listed: bool,
    /// Whether connecting takes too long and another address is being tried.
    pub(crate) slow: bool,
    /// Readiness that was reported but not yet handled, because other connections have their turn
    /// first.
    pub(crate) unread: Readiness,
    /// Whether it is queued for [`Connection::flush`].
    pub(crate) flushing: bool,
    phase: Phase,
    offer: Offer,
    /// What opens a WebSocket, if it is to become one.
    opening: Option<Arc<Opening>>,
    transport: Transport<K>,
    protocol: Protocol,
}

/// HTTP/1.1 until something else is agreed on.
#[expect(clippy::large_enum_variant, reason = "HTTP/1.1 needs many connections, HTTP/2 few")]
enum Protocol {
    Http1(Http1),
    Http2(Box<Http2>),
    WebSocket(Box<WebSocket>),
}

impl<K: Socket> Connection<K> {
    /// A connection over a socket that is connecting to address number `address` of its pool.
    ///
    /// # Errors
    /// If the TLS session cannot be created.
    pub(crate) fn new(
        socket: K,
        (tls, offer, opening): (Option<&TlsStart>, Offer, Option<&Arc<Opening>>),
        (pool, address): (usize, usize),
        (serial, sampled): (u64, bool),
        now: Nanos,
    ) -> io::Result<Connection<K>> {
        Ok(Connection {
            pool: pool as u32,
            address: address as u32,
            opened_at: now,
            serial,
            sampled,
            listed: false,
            slow: false,
            unread: Readiness::NONE,
            flushing: false,
            phase: Phase::Connecting,
            offer,
            opening: opening.cloned(),
            transport: Transport::new(socket, tls)?,
            protocol: Protocol::Http1(Http1::new()),
        })
    }

    /// How many more exchanges it can take now. May change with any call and any input from the
    /// peer.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        match &self.protocol {
            Protocol::Http1(http) => {
                usize::from(self.phase == Phase::Established && http.is_free())
            }
            _ if self.phase != Phase::Established => 0,
            Protocol::Http2(http) => http.capacity(),
            Protocol::WebSocket(socket) => socket.capacity(),
        }
    }

    /// Starts an exchange; `buffers` are for rendering and can be reused afterwards.
    ///
    /// If the poll has reported bytes that were not read yet, they belong to no request of ours:
    /// the read buffer is used to look at them first.
    pub(crate) fn start(
        &mut self,
        outgoing: Outgoing<'_>,
        buffers: (&mut Vec<u8>, &mut Vec<u8>),
        resources: &mut ReadResources,
    ) -> Started {
        match &mut self.protocol {
            Protocol::Http1(http) => {
                if (self.unread.readable || self.unread.read_closed)
                    && !http.is_silent(
                        &mut self.transport,
                        &mut self.unread,
                        &mut resources.scratch,
                    )
                {
                    return Started::Refused;
                }
                http.start(&mut self.transport, outgoing, buffers)
            }
            Protocol::Http2(http) => http.start(outgoing, buffers),
            Protocol::WebSocket(socket) => socket.start(outgoing, buffers, &mut resources.deflate),
        }
    }

    /// Whether [`Connection::flush`] has something to write.
    #[inline]
    pub(crate) fn is_unflushed(&self) -> bool {
        match &self.protocol {
            Protocol::Http1(_) => false,
            Protocol::Http2(http) => http.is_pending(),
            Protocol::WebSocket(socket) => socket.is_pending(),
        }
    }

    /// Writes what was buffered. [`Connection::next`] reports what was sent, or why nothing was.
    pub(crate) fn flush(&mut self) {
        match &mut self.protocol {
            Protocol::Http1(_) => {}
            Protocol::Http2(http) => http.flush(&mut self.transport),
            Protocol::WebSocket(socket) => socket.flush(&mut self.transport),
        }
    }

    /// The most streams that the peer allows at a time; `None` unless it speaks HTTP/2.
    #[inline]
    pub(crate) fn peer_streams(&self) -> Option<u32> {
        match &self.protocol {
            Protocol::Http1(_) | Protocol::WebSocket(_) => None,
            Protocol::Http2(http) => Some(http.peer_streams()),
        }
    }

    /// Whether the phase before `Established` was that of [`Event::Settling`].
    pub(crate) fn has_settled(&self) -> bool {
        !matches!(self.protocol, Protocol::Http1(_))
    }

    /// Whether the peer keeps its window closed for the rest of a request.
    pub(crate) fn is_stalled(&self, arrival: Id) -> bool {
        match &self.protocol {
            Protocol::Http1(_) | Protocol::WebSocket(_) => false,
            Protocol::Http2(http) => http.is_stalled(arrival),
        }
    }

    /// Whether it has carried an exchange.
    pub(crate) fn is_used(&self) -> bool {
        match &self.protocol {
            Protocol::Http1(http) => http.is_used(),
            Protocol::Http2(http) => http.is_used(),
            Protocol::WebSocket(socket) => socket.is_used(),
        }
    }

    /// Requests receive timestamps for the next reads, or stops requesting them.
    #[inline]
    pub(crate) fn stamp(&mut self, wanted: bool) {
        self.transport.want_stamps(wanted || self.sampled);
    }

    /// The next event, given the readiness from the poll. `None` if all events were reported, or if
    /// its share of the reading is used up; in that case `ready` still has flags set. An event's
    /// borrows end with the next call.
    pub(crate) fn next<'a>(
        &'a mut self,
        ready: &mut Readiness,
        share: &mut usize,
        resources: &'a mut ReadResources,
    ) -> Option<Event<'a>> {
        if matches!(self.phase, Phase::Connecting | Phase::Handshaking) {
            let event = self.establish();
            // The peer's settings may have come with the end of the handshake.
            ready.readable |= self.phase == Phase::Settling;
            return event;
        }
        let event = match &mut self.protocol {
            Protocol::Http1(http) => http.next(&mut self.transport, ready, share, resources),
            Protocol::Http2(http) => http.next(&mut self.transport, ready, share, resources),
            Protocol::WebSocket(socket) => {
                socket.next(&mut self.transport, ready, share, resources)
            }
        };
        if matches!(event, Some(Event::Established)) {
            self.phase = Phase::Established;
        }
        event
    }

    fn establish(&mut self) -> Option<Event<'static>> {
        if self.phase == Phase::Connecting {
            match self.transport.is_connected() {
                Ok(true) => self.phase = Phase::Handshaking,
                Ok(false) => return None,
                Err(error) => return Some(closed(Failure::of_open(error))),
            }
            if self.transport.is_secure() {
                return Some(Event::Handshaking);
            }
        }
        match self.transport.is_ready() {
            Ok(true) => Some(self.agree()),
            Ok(false) => None,
            Err(error) => {
                let mut failure = Failure::of_open(error);
                if matches!(failure.class, ErrorClass::ClosedEarly | ErrorClass::Unreachable) {
                    failure.class = ErrorClass::Tls;
                }
                Some(closed(failure))
            }
        }
    }

    /// Begins the protocol that was agreed on in the handshake, or that is known in advance.
    fn agree(&mut self) -> Event<'static> {
        if let Some(opening) = self.opening.take() {
            let socket = WebSocket::new(&opening, self.offer.streams, self.serial);
            return self.settle(Protocol::WebSocket(Box::new(socket)));
        }
        let is_http2 = match self.offer.protocol {
            Chosen::Http1 => false,
            Chosen::Auto => self.transport.agreed_on_http2(),
            Chosen::Http2 if self.transport.is_secure() && !self.transport.agreed_on_http2() => {
                return closed(Failure::fault(Fault::Http2NotOffered));
            }
            Chosen::Http2 => true,
        };
        if !is_http2 {
            self.phase = Phase::Established;
            return Event::Established;
        }
        self.settle(Protocol::Http2(Box::new(Http2::new(self.offer.streams))))
    }

    /// Begins a protocol that writes first, and waits for the peer's answer.
    fn settle(&mut self, protocol: Protocol) -> Event<'static> {
        (self.phase, self.protocol) = (Phase::Settling, protocol);
        self.flush();
        Event::Settling
    }

    /// Whether the connection is established.
    pub(crate) fn is_established(&self) -> bool {
        self.phase == Phase::Established
    }

    /// Whether TCP is connected but the TLS handshake is not complete.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.phase == Phase::Handshaking && self.transport.is_secure()
    }

    /// Whether the peer's HTTP/2 settings are awaited.
    pub(crate) fn is_settling(&self) -> bool {
        self.phase == Phase::Settling
    }

    /// Whether it has no exchange.
    pub(crate) fn is_idle(&self) -> bool {
        match &self.protocol {
            Protocol::Http1(http) => http.is_idle(),
            Protocol::Http2(http) => http.is_idle(),
            Protocol::WebSocket(socket) => socket.is_idle(),
        }
    }

    /// Ends an exchange from this side; no further events name it. [`Connection::next`] reports
    /// what happens to the connection.
    pub(crate) fn abandon(&mut self, arrival: Id, resources: &mut ReadResources) {
        match &mut self.protocol {
            Protocol::Http1(http) => http.abandon(arrival, resources),
            Protocol::Http2(http) => http.abandon(arrival, resources),
            Protocol::WebSocket(socket) => socket.abandon(arrival),
        }
    }

    /// Pings the peer, if the protocol can, for an exchange that stays open. [`Connection::flush`] writes it.
    /// Returns whether it can.
    pub(crate) fn ping(&mut self) -> bool {
        let Protocol::WebSocket(socket) = &mut self.protocol else { return false };
        socket.ping();
        true
    }

    /// Ends an exchange that stays open, in good order; no further events name it. [`Connection::flush`]
    /// writes what tells the peer, and [`Connection::next`] reports what happens to the connection.
    pub(crate) fn release(&mut self, arrival: Id, resources: &mut ReadResources) {
        match &mut self.protocol {
            Protocol::WebSocket(socket) => socket.release(arrival),
            Protocol::Http1(_) | Protocol::Http2(_) => self.abandon(arrival, resources),
        }
    }

    /// Takes the trace of an exchange, if it was recorded.
    pub(crate) fn take_trace(&mut self, arrival: Id) -> Option<Trace> {
        match &mut self.protocol {
            Protocol::Http1(http) => http.take_trace(arrival),
            Protocol::Http2(http) => http.take_trace(arrival),
            Protocol::WebSocket(socket) => socket.take_trace(arrival),
        }
    }

    /// Closes the connection. Returns the socket if the peer must still read what was written last.
    #[must_use]
    pub(crate) fn close(mut self) -> Option<K> {
        let lingers = match &mut self.protocol {
            Protocol::WebSocket(socket) => socket.say_goodbye(&mut self.transport),
            Protocol::Http1(_) | Protocol::Http2(_) => false,
        };
        let socket = self.transport.close();
        lingers.then_some(socket)
    }
}
