//! The protocol seam: what a connection can carry, and what it yields.
//!
//! The dispatcher asks a connection for capacity, not for a socket: how many more exchanges it takes
//! now. It pumps [`Connection::next`] until nothing is left, because one wake-up may yield one
//! answer (HTTP/1.1), many (streams), or unsolicited messages from the server. An event names the
//! arrival whose exchange it belongs to. What a protocol cannot do is its own affair:
//! [`Connection::abandon`] ends an HTTP/1.1 connection and would reset a stream.
//!
//! A connection ends in one way only: [`Event::Closed`], after it has reported the end of everything
//! that it carried.
//!
//! See `docs/design/connections.md` for how HTTP/2, WebSocket and SSE fit in.

mod http1;
#[cfg(test)]
mod tests;
mod transport;

use crate::arrival::Id;
use crate::request::Request;
use crate::system::{Readiness, Socket};
use http1::Http1;
use plimsoll_measure::{ErrorClass, Fault, Nanos, OpenReason};
use plimsoll_plan::Values;
use std::io;
pub(crate) use transport::TlsStart;
use transport::Transport;

/// A request on its way to a connection.
pub(crate) struct Outgoing<'a> {
    pub(crate) arrival: Id,
    pub(crate) request: &'a Request,
    /// What fills the request's placeholders.
    pub(crate) values: Values,
    /// The answer's body may not be larger.
    pub(crate) body_max: u64,
    /// Whether the answer's body has to be kept.
    pub(crate) keep_body: bool,
    /// Whether the connection is closed after it.
    pub(crate) last: bool,
    /// Whether a [`Trace`] is to be kept.
    pub(crate) trace: bool,
}

/// What a worker lends to its connections while they read.
pub(crate) struct Lent {
    /// One read takes at most this much.
    pub(crate) scratch: Vec<u8>,
    pub(crate) held: Held,
}

/// The bytes of bodies that are kept until they are whole, over all connections of a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    now: u64,
    max: u64,
}

impl Held {
    /// None of at most `max` bytes.
    pub(crate) fn up_to(max: u64) -> Held {
        Held { now: 0, max }
    }

    /// Bytes held.
    #[cfg(test)]
    pub(crate) fn now(self) -> u64 {
        self.now
    }

    /// Reserves this many more bytes; false if they do not fit.
    fn take(&mut self, bytes: u64) -> bool {
        let fits = self.now + bytes <= self.max;
        if fits {
            self.now += bytes;
        }
        fits
    }

    fn give_back(&mut self, bytes: u64) {
        self.now -= bytes;
    }
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
    /// When the kernel received its last bytes, where that was asked.
    pub(crate) received_at: Option<Nanos>,
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
    /// TCP is established, and the TLS handshake begins.
    Handshaking,
    /// It is established and has capacity.
    Established,
    /// The first byte of a request that was held was accepted.
    Sent { arrival: Id },
    /// The first bytes of an answer were read, and more are to come.
    Began { arrival: Id },
    /// An answer is whole. `bytes` counts heads and codings too.
    Answered { arrival: Id, bytes: u64, answer: Answer<'a> },
    /// An exchange failed; the connection may live on.
    Failed { arrival: Id, bytes: u64, failure: Failure },
    /// The connection is over: why another may be needed in its place. The end of each exchange
    /// that it carried was reported before. Without a failure it was closed in good order.
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

/// A connection, whatever its protocol.
pub(crate) struct Connection<K> {
    pub(crate) pool: u32,
    /// The place of its address in the pool.
    pub(crate) address: u32,
    pub(crate) opened_at: Nanos,
    /// Counts the connections of a worker: tells this one from others at the same place.
    pub(crate) serial: u64,
    /// Whether its answers belong to the sample of which read lag is measured.
    pub(crate) sampled: bool,
    /// Whether its pool has it among those with capacity.
    pub(crate) listed: bool,
    /// Connecting takes too long: another address is being tried.
    pub(crate) slow: bool,
    /// What the poll said and is not done yet, because others have their share first.
    pub(crate) unread: Readiness,
    phase: Phase,
    transport: Transport<K>,
    protocol: Protocol,
}

enum Protocol {
    Http1(Http1),
}

impl<K: Socket> Connection<K> {
    /// Over a socket that is being connected to the address at place `address` of its pool.
    ///
    /// # Errors
    /// TLS cannot begin.
    pub(crate) fn new(
        socket: K,
        tls: Option<&TlsStart>,
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
            phase: Phase::Connecting,
            transport: Transport::new(socket, tls)?,
            protocol: Protocol::Http1(Http1::new()),
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

    /// Asks the kernel when what is read next arrived, or stops asking.
    #[inline]
    pub(crate) fn stamp(&mut self, wanted: bool) {
        self.transport.want_stamps(wanted || self.sampled);
    }

    /// The next thing that happened, after the poll said `ready`; `None` when all was reported or
    /// its share of the reading is used up, which shows in `ready`. What it borrows must be used
    /// before the next call.
    pub(crate) fn next<'a>(
        &'a mut self,
        ready: &mut Readiness,
        share: &mut usize,
        lent: &'a mut Lent,
    ) -> Option<Event<'a>> {
        if self.phase != Phase::Established {
            return self.establish();
        }
        match &mut self.protocol {
            Protocol::Http1(http) => http.next(&mut self.transport, ready, share, lent),
        }
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
        self.phase == Phase::Handshaking && self.transport.is_secure()
    }

    /// Whether no exchange is on it.
    pub(crate) fn is_idle(&self) -> bool {
        match &self.protocol {
            Protocol::Http1(http) => http.is_idle(),
        }
    }

    /// Ends an exchange from this side: nothing more is reported of it. What that does to the
    /// connection, [`Connection::next`] reports.
    pub(crate) fn abandon(&mut self, arrival: Id, held: &mut Held) {
        match &mut self.protocol {
            Protocol::Http1(http) => http.abandon(arrival, held),
        }
    }

    /// What was kept of an exchange to show it whole.
    pub(crate) fn take_trace(&mut self, arrival: Id) -> Option<Trace> {
        match &mut self.protocol {
            Protocol::Http1(http) => http.take_trace(arrival),
        }
    }

    /// Closes it.
    pub(crate) fn close(self) {
        self.transport.close();
    }
}
