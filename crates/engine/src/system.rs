//! The interface between a worker and the machine: clock, poll, sockets, name resolution.
//!
//! The worker, the dispatcher, the codec and the recorder are written against [`System`] and
//! [`Socket`] and run unchanged on both implementations: `kernel` for real runs and, in tests, a
//! simulated network on virtual time. No other part of the engine reads a clock or opens a socket.
//!
//! # Layout
//! - `kernel`: epoll, timerfd and TCP sockets; `timer`: the wake-up timer; `linger`: sockets that are closed in good order
//! - `resolve`: name resolution on a separate thread

pub(crate) mod kernel;
mod linger;
pub(crate) mod resolve;
mod timer;

use crate::control::Command;
use plimsoll_measure::Nanos;
use resolve::{Query, Resolved};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};

/// The destination and source address of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) to: SocketAddr,
    /// `None`: chosen by the kernel.
    pub(crate) from: Option<IpAddr>,
}

/// The readiness that the poll reported for a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer will send nothing more.
    pub(crate) read_closed: bool,
}

impl Readiness {
    /// Nothing was reported by the poll: used to collect a connection's events after an operation
    /// on it.
    pub(crate) const NONE: Readiness =
        Readiness { readable: false, writable: false, read_closed: false };

    /// Whether any flag is set.
    pub(crate) fn any(self) -> bool {
        self.readable || self.writable || self.read_closed
    }

    /// The union of both.
    pub(crate) fn or(self, other: Readiness) -> Readiness {
        Readiness {
            readable: self.readable || other.readable,
            writable: self.writable || other.writable,
            read_closed: self.read_closed || other.read_closed,
        }
    }
}

/// How long a poll waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Do not wait.
    Not,
    /// Until something is ready, at the latest at this instant.
    Until(Nanos),
}

/// A message to a worker from another thread.
pub(crate) enum Message {
    Resolved(Resolved),
    Command(Command),
    /// A feed that was empty has a request, or has ended.
    Fed,
}

/// The machine as seen by a worker.
pub(crate) trait System {
    type Socket: Socket;

    /// The run's clock.
    fn now(&self) -> Nanos;

    /// The time of day when the run's clock read zero, since 1970. The host's clock may be set during the run;
    /// this does not follow.
    fn started_at_unix(&self) -> Nanos;

    /// Starts connecting; the poll reports the socket as `token`.
    fn connect(&mut self, route: Route, token: usize) -> io::Result<Self::Socket>;

    /// Polls, and fills `ready` with the connections that are ready, at most [`READY_MAX`].
    fn wait(&mut self, wait: Wait, ready: &mut Vec<(usize, Readiness)>) -> io::Result<()>;

    /// The next message, if any.
    fn message(&mut self) -> Option<Message>;

    /// Resolves a name; the result arrives as a message.
    fn resolve(&mut self, query: Query);

    /// Closes a socket in good order: what was written last reaches the peer even if the peer still sends. Returns false
    /// if too many wait for their peers, so that one of them was closed at once.
    fn linger(&mut self, socket: Self::Socket) -> bool;

    /// Waits for a short time until such sockets are closed.
    fn finish_lingering(&mut self);
}

/// Maximum number of connections reported by one wait.
pub(crate) const READY_MAX: usize = 1024;

/// A non-blocking stream of bytes.
pub(crate) trait Socket: Read + Write {
    /// Whether the socket is connected.
    ///
    /// # Errors
    /// If connecting failed.
    fn is_connected(&self) -> io::Result<bool>;

    /// Reads, and returns the time on the run's clock when the kernel received the last of these
    /// bytes; `None` if unknown.
    fn read_stamped(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<Nanos>)>;
}
