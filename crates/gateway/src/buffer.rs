//! Buffers for long bodies: how they grow, and how they are charged for.
//!
//! If the length of a body is known, much of its buffer is allocated at once: pages that have not
//! been written to take no memory, and a buffer that is not reallocated is not copied. So that a
//! large announced length costs little, the capacity is limited to a multiple of what has arrived.
//! Bytes are charged chunk by chunk, before they are written.

use crate::error::Error;
use crate::local::BUFFER_SIZE;
use crate::permit::Share;

/// Bytes are charged for and read in chunks of this size.
pub(crate) const CHUNK: usize = 256 << 10;

/// A buffer grows by at most this multiple of its length.
const ROOM_FACTOR: usize = 16;

/// Makes room in a buffer for more of a body, of which `due` bytes are expected, and charges for
/// the next chunk. Returns how many bytes may be written to the buffer now, at least one.
///
/// # Errors
/// Memory is used up.
pub(crate) fn grow(buffer: &mut Vec<u8>, due: usize, share: &mut Share) -> Result<usize, Error> {
    if buffer.len() == buffer.capacity() {
        let most = ROOM_FACTOR * buffer.len().max(BUFFER_SIZE);
        let room = due.max(buffer.len()).max(BUFFER_SIZE).min(most);
        // Reallocating may copy the buffer, so both copies are charged for.
        share.cover(2 * buffer.len() as u64)?;
        buffer.reserve_exact(room);
        share.reduce(buffer.len() as u64);
    }
    let chunk = CHUNK.min(buffer.capacity() - buffer.len());
    share.cover((buffer.len() + chunk) as u64)?;
    Ok(chunk)
}

/// After a read of this size, more is likely to be readable already.
const GIVE_WAY_MIN: usize = 64 << 10;

/// Yields to the worker's other tasks after a large read: a task that keeps reading a long body
/// would block them for milliseconds.
pub(crate) async fn give_way(read: usize) {
    if read >= GIVE_WAY_MIN {
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permit::{Capacity, Purpose};
    use plimsoll_registry::settings::Limits;
    use std::sync::Arc;

    #[test]
    fn announced_lengths_cost_no_more_than_received_bytes() {
        let limits = Limits { memory: 1 << 30, ..Limits::default() };
        let capacity = Arc::new(Capacity::new(&limits));
        let mut share = Share::new(&capacity, Purpose::Long);
        let mut buffer = Vec::with_capacity(BUFFER_SIZE);
        let (total, mut moves) = (20 << 20, 0);
        while buffer.len() < total {
            let before = buffer.capacity();
            let due = total - buffer.len();
            let room = grow(&mut buffer, due, &mut share).expect("room");
            moves += usize::from(buffer.capacity() != before);
            assert!(room > 0 && buffer.len() + room <= buffer.capacity());
            assert!(
                capacity.bytes() <= (2 * buffer.len() + CHUNK) as u64,
                "charges follow the received bytes"
            );
            assert!(buffer.capacity() <= (1 + ROOM_FACTOR) * buffer.len().max(BUFFER_SIZE));
            buffer.resize(buffer.len() + room.min(due), b'x');
        }
        assert!(moves <= 4, "{moves}");
        assert_eq!(buffer.capacity(), total);
    }
}
