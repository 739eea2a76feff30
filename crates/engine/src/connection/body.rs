//! How much of an answer's body is kept, and the part that was collected from several reads.
//!
//! A body that a check reads is kept in full, up to the plan's limit; of others, only a beginning is,
//! if it is captured or if the answer is the first with its unexpected status.

use super::excerpts::EXCERPT_MAX;
use super::{Bodies, Failure, Outgoing};
use plimsoll_measure::ErrorClass;

/// The body of an answer that is being read.
pub(super) struct Body {
    /// Bytes received so far.
    pub(super) len: u64,
    /// The maximum, if the body is kept.
    max: Option<u64>,
    /// How much is kept of a body that no check reads.
    prefix_max: u64,
    /// Whether the answer is captured.
    pub(super) captured: bool,
    /// Indices of its target and its request in the plan.
    target: u32,
    spec: u32,
    /// Whether the answer is the first with its unexpected status: of a body that is not kept, the
    /// beginning is.
    pub(super) first: bool,
    status: u16,
    /// What was collected.
    pub(super) bytes: Vec<u8>,
}

impl Body {
    /// The body of an answer to a request; `bytes` is an empty buffer.
    pub(super) fn of(outgoing: &Outgoing<'_>, bytes: Vec<u8>) -> Body {
        debug_assert!(bytes.is_empty(), "a body is freed with its exchange");
        Body {
            len: 0,
            max: outgoing.body_max,
            prefix_max: outgoing.capture.unwrap_or(0),
            captured: outgoing.capture.is_some(),
            target: outgoing.target,
            spec: outgoing.spec,
            first: false,
            status: 0,
            bytes,
        }
    }

    /// The head was read; `len` is the stated length of the body.
    ///
    /// # Errors
    /// If the body will be too large.
    #[inline]
    pub(super) fn begin(
        &mut self,
        (status, gzip, len): (u16, bool, Option<u64>),
        bodies: &mut Bodies,
    ) -> Result<(), Failure> {
        self.status = status;
        self.first = bodies.excerpts.is_first(self.target, self.spec, status);
        if self.captured && gzip {
            // Its decoded length is known only from all of it.
            self.prefix_max = u64::MAX;
        } else if self.first {
            self.prefix_max = self.prefix_max.max(EXCERPT_MAX as u64);
        }
        match len {
            Some(len) if self.max.is_some_and(|max| len > max) => {
                Err(Failure { body_len: Some(len), ..Failure::of(ErrorClass::BodyTooLarge) })
            }
            _ => Ok(()),
        }
    }

    /// Counts a piece of the body, and returns how many bytes of it are kept.
    ///
    /// # Errors
    /// If the body is too large.
    #[inline]
    pub(super) fn add(&mut self, piece: usize) -> Result<usize, Failure> {
        let before = self.len;
        self.len += piece as u64;
        match self.max {
            Some(max) if self.len > max => Err(Failure::of(ErrorClass::BodyTooLarge)),
            Some(_) => Ok(piece),
            None => {
                let room = self.prefix_max.saturating_sub(before);
                Ok(piece.min(usize::try_from(room).unwrap_or(usize::MAX)))
            }
        }
    }

    /// Collects pieces that are kept.
    ///
    /// # Errors
    /// If a check needs the body, and the worker's budget is used up.
    pub(super) fn collect(&mut self, pieces: &[&[u8]], bodies: &mut Bodies) -> Result<(), Failure> {
        if bodies.budget.reserve(pieces.iter().map(|piece| piece.len() as u64).sum()) {
            pieces.iter().for_each(|piece| self.bytes.extend_from_slice(piece));
            return Ok(());
        }
        self.prefix_max = 0;
        match self.max {
            Some(_) => Err(Failure::of(ErrorClass::MemoryExhausted)),
            None => Ok(()),
        }
    }

    /// Gives up the body of an answer that is not judged: the next one of its kind may be noted.
    pub(super) fn discard(&mut self, bodies: &mut Bodies) {
        bodies.budget.release(self.bytes.len() as u64);
        self.bytes = Vec::new();
        if self.first {
            bodies.excerpts.forget(self.target, self.status);
        }
    }
}
