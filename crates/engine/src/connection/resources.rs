//! What the connections of a worker share while reading.

use super::Excerpts;
use crate::http2::frame::{HEAD_LEN, PAYLOAD_MAX};
use crate::system::Readiness;
use plimsoll_websocket::{Deflate, Inflate};
use std::io;

/// Why reading has ended, after a read that returned no bytes on a connection that carries many
/// exchanges: an error, or a close without one. `None`: it has not, there is only nothing to read now.
/// `broken` is the error of an earlier write.
pub(super) fn end_of_reading(
    broken: Option<io::Error>,
    read: io::Result<usize>,
    ready: &mut Readiness,
) -> Option<Option<io::Error>> {
    match (broken, read) {
        (Some(broken), _) => Some(Some(broken)),
        (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
            (ready.readable, ready.read_closed) = (false, false);
            None
        }
        (None, Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Some(None),
        (None, read) => Some(read.err()),
    }
}

/// Worker resources that connections use while reading and writing.
pub(crate) struct ReadResources {
    /// The read buffer: room for an incomplete frame and one read.
    pub(crate) scratch: Vec<u8>,
    /// Maximum bytes per read.
    pub(crate) read_max: usize,
    pub(crate) bodies: Bodies,
    /// For messages over WebSocket.
    pub(crate) inflate: Inflate,
    pub(crate) deflate: Deflate,
}

impl ReadResources {
    pub(crate) fn new(read_max: usize, bodies: Bodies) -> ReadResources {
        let scratch = vec![0; HEAD_LEN + PAYLOAD_MAX + read_max];
        let (inflate, deflate) = (Inflate::default(), Deflate::default());
        ReadResources { scratch, read_max, bodies, inflate, deflate }
    }
}

/// What bodies that are being read share.
pub(crate) struct Bodies {
    pub(crate) budget: BodyBudget,
    pub(crate) excerpts: Excerpts,
}

/// The budget for incomplete bodies, shared by all connections of a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyBudget {
    used: u64,
    max: u64,
}

impl BodyBudget {
    /// An unused budget of `max` bytes.
    pub(crate) fn new(max: u64) -> BodyBudget {
        BodyBudget { used: 0, max }
    }

    /// Bytes in use.
    pub(crate) fn used(self) -> u64 {
        self.used
    }

    /// Reserves more bytes; returns false if they exceed the budget.
    pub(super) fn reserve(&mut self, bytes: u64) -> bool {
        let fits = self.used + bytes <= self.max;
        if fits {
            self.used += bytes;
        }
        fits
    }

    pub(super) fn release(&mut self, bytes: u64) {
        self.used -= bytes;
    }
}
