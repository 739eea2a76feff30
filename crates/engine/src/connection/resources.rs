//! What the connections of a worker share while reading.

use super::Excerpts;
use crate::http2::frame::{HEAD_LEN, PAYLOAD_MAX};

/// Worker resources that connections use while reading.
pub(crate) struct ReadResources {
    /// The read buffer: room for an incomplete frame and one read.
    pub(crate) scratch: Vec<u8>,
    /// Maximum bytes per read.
    pub(crate) read_max: usize,
    pub(crate) bodies: Bodies,
}

impl ReadResources {
    pub(crate) fn new(read_max: usize, bodies: Bodies) -> ReadResources {
        ReadResources { scratch: vec![0; HEAD_LEN + PAYLOAD_MAX + read_max], read_max, bodies }
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
