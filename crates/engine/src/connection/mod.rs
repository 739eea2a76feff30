//! The protocol seam: what a connection can carry, and what it yields.
//!
//! The dispatcher asks a connection for capacity, not for a socket: how many more exchanges it takes
//! now. It pumps [`Connection::next`] until nothing is left, because one wake-up may yield one
//! answer (HTTP/1.1), many (streams), or something that nobody asked for (server messages). An
//! event names the exchange that it belongs to. What a protocol cannot do is its own affair:
//! [`Connection::abandon`] ends an HTTP/1.1 connection and would reset a stream.
//!
//! A connection ends in one way only: [`Event::Closed`], after it has told the end of everything
//! that it carried.
//!
//! See `docs/design/connections.md` for how HTTP/2, WebSocket and SSE fit in.

mod http1;
#[cfg(test)]
mod tests;
mod transport;

use crate::exchange::Id;
use crate::request::Request;
use http1::Http1;
use mio::{Registry, Token};
use plimsoll_measure::{ErrorClass, Fault, Nanos, OpenReason};
use plimsoll_plan::Draw;
use std::io;
use std::net::{IpAddr, SocketAddr};
pub(crate) use transport::TlsStart;
use transport::Transport;

/// A request on its way to a connection.
pub(crate) struct Outgoing<'a> {
    pub(crate) exchange: Id,
    pub(crate) request: &'a Request,
    /// What fills the request's placeholders.
    pub(crate) draw: Draw,
    /// The answer's body may not be larger.
    pub(crate) body_max: u64,
    /// Whether the answer's body has to be kept.
    pub(crate) keep_body: bool,
    /// Whether the connection is closed after it.
    pub(crate) last: bool,
    /// Whether a [`Trace`] is to be kept.
    pub(crate) trace: bool,
}

/// What became of handing a request over.
#[derive(Debug)]
pub(crate) enum Started {
    /// At least its first byte was accepted. `bytes` counts the whole request.
    Sent { bytes: u64 },
    /// No byte was accepted yet; [`Event::Sent`] will tell.
    Held { bytes: u64 },
    /// No byte was accepted and none will be: it may go on another connection. This one takes no
    /// more; [`Connection::next`] tells what becomes of the exchanges that it carries.
    Refused,
}

/// One exchange, to be shown whole.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) request: Vec<u8>,
    pub(crate) response: Vec<u8>,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    /// Empty when it was not to be kept.
    pub(crate) body: &'a [u8],
    pub(crate) gzip: bool,
    pub(crate) location: Option<&'a str>,
}

/// Why an exchange, or a connection, came to nothing.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) class: ErrorClass,
    pub(crate) fault: Option<Fault>,
    /// The system's own words, where it had any.
    pub(crate) error: Option<io::Error>,
}

impl Failure {
    pub(crate) fn of(class: ErrorClass) -> Failure {
        Failure { class, fault: None, error: None }
    }

    fn fault(fault: Fault) -> Failure {
        Failure { class: ErrorClass::Protocol, fault: Some(fault), error: None }
    }

    pub(crate) fn of_open(error: io::Error) -> Failure {
        Failure { class: crate::errors::class_of_open(&error), fault: None, error: Some(error) }
    }

    fn of_io(error: io::Error) -> Failure {
        Failure { class: crate::errors::class_of_io(&error), fault: None, error: Some(error) }
    }
}

/// What a connection yields.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// It is established and has capacity.
    Established,
    /// The first byte of a request that was held was accepted.
    Sent { exchange: Id },
    /// An answer is whole. `bytes` counts heads and codings too.
    Answered { exchange: Id, bytes: u64, answer: Answer<'a> },
    /// An exchange failed; the connection may live on.
    Failed { exchange: Id, bytes: u64, failure: Failure },
    /// The connection is over: why another may be needed in its place. Each exchange that it
    /// carried has been told of before. Without a failure it was closed in good order.
    Closed { why: OpenReason, failure: Option<Failure> },
}

fn closed(failure: Failure) -> Event<'static> {
    Event::Closed { why: OpenReason::AfterError, failure: Some(failure) }
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Handshaking,
    Established,
}

/// What the poll said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The other side sends no more.
    pub(crate) read_closed: bool,
}

impl Readiness {
    /// The poll said nothing: a connection is asked what it has to tell after something was done to
    /// it.
    pub(crate) const NONE: Readiness =
        Readiness { readable: false, writable: false, read_closed: false };
}

/// A connection, whatever its protocol.
pub(crate) struct Connection {
    pub(crate) pool: u32,
    /// Addresses that may still be tried when this one cannot be reached.
    pub(crate) tries_left: u32,
    pub(crate) opened_at: Nanos,
    /// Whether its pool has it among those with capacity.
    pub(crate) listed: bool,
    phase: Phase,
    transport: Transport,
    protocol: Protocol,
}

enum Protocol {
    Http1(Http1),
}

impl Connection {
    /// Begins to connect.
    pub(crate) fn open(
        pool: u32,
        to: (SocketAddr, Option<IpAddr>),
        tls: Option<&TlsStart>,
        poll: (&Registry, Token),
        now: Nanos,
    ) -> io::Result<Connection> {
        let transport = Transport::connect(to.0, to.1, tls, poll.0, poll.1)?;
        let protocol = Protocol::Http1(Http1::new());
        let phase = Phase::Connecting;
        Ok(Connection {
            pool,
            tries_left: 0,
            opened_at: now,
            listed: false,
            phase,
            transport,
            protocol,
        })
    }

    /// How many more exchanges it takes now. Changes with whatever is done to it or comes from the
    /// other side.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        match &self.protocol {
            Protocol::Http1(http) => {
                usize::from(self.phase == Phase::Established && http.is_free())
            }
        }
    }

    /// Hands a request over; `buffers` are free again afterwards.
    pub(crate) fn start(
        &mut self,
        outgoing: Outgoing<'_>,
        buffers: (&mut Vec<u8>, &mut Vec<u8>),
    ) -> Started {
        match &mut self.protocol {
            Protocol::Http1(http) => http.start(&mut self.transport, outgoing, buffers),
        }
    }

    /// The next thing that happened, after the poll said `ready`; `None` when all was told. What it
    /// borrows must be used before the next call; `scratch` is free again then.
    pub(crate) fn next<'a>(
        &'a mut self,
        ready: &mut Readiness,
        scratch: &'a mut [u8],
    ) -> Option<Event<'a>> {
        if self.phase != Phase::Established {
            return self.establish();
        }
        match &mut self.protocol {
            Protocol::Http1(http) => http.next(&mut self.transport, ready, scratch),
        }
    }

    fn establish(&mut self) -> Option<Event<'static>> {
        let connecting = self.phase == Phase::Connecting;
        if connecting {
            match self.transport.is_connected() {
                Ok(true) => self.phase = Phase::Handshaking,
                Ok(false) => return None,
                Err(error) => return Some(closed(Failure::of_open(error))),
            }
        }
        match self.transport.is_ready() {
            Ok(true) => {
                self.phase = Phase::Established;
                Some(Event::Established)
            }
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

    /// Whether exchanges can be carried.
    pub(crate) fn is_established(&self) -> bool {
        self.phase == Phase::Established
    }

    /// Whether TCP is established and TLS is not.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.phase == Phase::Handshaking
    }

    /// Whether no exchange is on it.
    pub(crate) fn is_idle(&self) -> bool {
        match &self.protocol {
            Protocol::Http1(http) => http.is_idle(),
        }
    }

    /// Gives an exchange up: it is not told of any more. What that does to the connection,
    /// [`Connection::next`] tells.
    pub(crate) fn abandon(&mut self, exchange: Id) {
        match &mut self.protocol {
            Protocol::Http1(http) => http.abandon(exchange),
        }
    }

    /// What was kept of an exchange to show it whole.
    pub(crate) fn take_trace(&mut self, exchange: Id) -> Option<Trace> {
        match &mut self.protocol {
            Protocol::Http1(http) => http.take_trace(exchange),
        }
    }

    /// Closes it.
    pub(crate) fn close(self, registry: &Registry) {
        self.transport.close(registry);
    }
}
