//! What a worker needs of the machine: a clock, a poll, sockets, names.
//!
//! The worker, the dispatcher, the codec and the recorder are written against [`System`] and
//! [`Socket`] and run unchanged on both of its kinds: `kernel`, which carries out plans, and, in
//! tests, a simulated network on virtual time. Nothing else of the engine reads a clock or opens a
//! socket.
//!
//! # Layout
//! - `kernel`: epoll, timerfd and TCP sockets; `timer`: the timer that wakes it
//! - `resolve`: names to addresses, on a thread of its own

pub(crate) mod kernel;
pub(crate) mod resolve;
mod timer;

use crate::control::Command;
use plimsoll_measure::Nanos;
use resolve::{Question, Resolved};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};

/// Where a connection leads, and from where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) to: SocketAddr,
    /// `None`: the kernel's choice.
    pub(crate) from: Option<IpAddr>,
}

/// What the poll said of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The other side sends no more.
    pub(crate) read_closed: bool,
}

impl Readiness {
    /// The poll said nothing: the connection is asked what it has to report after something was
    /// done to it.
    pub(crate) const NONE: Readiness =
        Readiness { readable: false, writable: false, read_closed: false };

    /// Whether there is anything left to do for the connection.
    pub(crate) fn any(self) -> bool {
        self.readable || self.writable || self.read_closed
    }

    /// What either said.
    pub(crate) fn or(self, other: Readiness) -> Readiness {
        Readiness {
            readable: self.readable || other.readable,
            writable: self.writable || other.writable,
            read_closed: self.read_closed || other.read_closed,
        }
    }
}

/// How long to wait for the poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all: take what is there.
    Not,
    /// Until something happens, at the latest at this instant.
    Until(Nanos),
}

/// What reaches a worker besides its sockets.
pub(crate) enum Message {
    Resolved(Resolved),
    Command(Command),
}

/// What a worker needs of the machine.
pub(crate) trait System {
    type Socket: Socket;

    /// The run's clock.
    fn now(&self) -> Nanos;

    /// Begins to connect; the poll reports `token`.
    fn connect(&mut self, route: Route, token: usize) -> io::Result<Self::Socket>;

    /// Waits, and fills `ready` with the connections of which there is something to say. At most
    /// [`READY_MAX`] are reported at a time.
    fn wait(&mut self, wait: Wait, ready: &mut Vec<(usize, Readiness)>) -> io::Result<()>;

    /// The next message, if any.
    fn message(&mut self) -> Option<Message>;

    /// Asks for a name's addresses; the answer comes as a message.
    fn ask(&mut self, question: Question);
}

/// More connections are not reported by one wait.
pub(crate) const READY_MAX: usize = 1024;

/// A non-blocking stream of bytes.
pub(crate) trait Socket: Read + Write {
    /// Whether it is connected.
    ///
    /// # Errors
    /// Why it never will be.
    fn is_connected(&self) -> io::Result<bool>;

    /// Reads, and tells when the kernel received the last of what was read, on the run's clock;
    /// `None` where it does not say.
    fn read_stamped(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<Nanos>)>;
}
