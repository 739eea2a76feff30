//! What long bodies may take in sum.
//!
//! Each body and each answer has a limit of its own; without a sum, a few thousand callers with long
//! bodies, or a few hundred long answers, would still take all memory. So buffers beyond a usual
//! size are counted while they are held, and when the sum is used up, the call whose buffer would
//! grow is refused. Copies that live while an answer is handed over are not counted: what is really
//! taken can be a multiple of it for a moment.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::call::worker::{Shared, Worker};
use crate::error::{Error, ErrorKind};

/// Buffers up to this size are not counted: connections bound their number.
const FREE_MAX: usize = 64 << 10;

/// A buffer's part of the sum, given back when it is dropped.
pub(crate) struct Share {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Share {
    /// Covers a buffer of this capacity.
    ///
    /// # Errors
    /// The sum is used up.
    #[inline]
    pub(crate) fn cover(
        share: &mut Option<Share>,
        worker: &Worker,
        capacity: usize,
        limit: u64,
    ) -> Result<(), Error> {
        if capacity <= FREE_MAX {
            return Ok(());
        }
        let made = || Share { shared: worker.shared.clone(), bytes: 0 };
        share.get_or_insert_with(made).grow(capacity as u64, limit)
    }

    fn grow(&mut self, to: u64, limit: u64) -> Result<(), Error> {
        let more = to.saturating_sub(self.bytes);
        let used = self.shared.held_bytes.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        if used + more <= limit {
            return Ok(());
        }
        let message = "long bodies take all the memory that they may; try again";
        Err(Error::new(ErrorKind::Busy, message))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shared.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
