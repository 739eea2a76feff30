//! Buffers for long bodies: how they grow, and how much of them is charged for.
//!
//! A buffer whose length is known gets room for a good part of it at once: room that was not written
//! to takes no memory, and a buffer that does not move is not there twice for a moment. So that what
//! is only announced costs little even so, the room is bounded by what has come already. Charged is
//! what is written, chunk by chunk, before it is.

use crate::error::Error;
use crate::local::BUFFER_SIZE;
use crate::permit::Share;

/// Bytes are charged for and read in chunks of this size.
pub(crate) const CHUNK: usize = 256 << 10;

/// The room of a buffer, by what it holds already.
const ROOM_FACTOR: usize = 16;

/// Makes room in a buffer for more of a body, of which `due` bytes are known to come, and charges
/// for the next chunk: gives how many bytes may be written to the buffer now, at least one.
///
/// # Errors
/// Memory is used up.
pub(crate) fn grow(buffer: &mut Vec<u8>, due: usize, share: &mut Share) -> Result<usize, Error> {
    if buffer.len() == buffer.capacity() {
        let most = ROOM_FACTOR * buffer.len().max(BUFFER_SIZE);
        let room = due.max(buffer.len()).max(BUFFER_SIZE).min(most);
        // While it moves, it may be there twice.
        share.cover(2 * buffer.len() as u64)?;
        buffer.reserve_exact(room);
        share.reduce(buffer.len() as u64);
    }
    let chunk = CHUNK.min(buffer.capacity() - buffer.len());
    share.cover((buffer.len() + chunk) as u64)?;
    Ok(chunk)
}

/// After a read of this size there is likely more to read at once.
const GIVE_WAY_MIN: usize = 64 << 10;

/// Lets the worker's other tasks run after a read of `read` bytes, if those are many: a task that goes
/// on reading a long body would hold them up for milliseconds.
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
    fn what_is_announced_takes_no_more_than_what_has_come() {
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
            assert!(capacity.bytes() <= (2 * buffer.len() + CHUNK) as u64, "little is charged");
            assert!(buffer.capacity() <= (1 + ROOM_FACTOR) * buffer.len().max(BUFFER_SIZE));
            buffer.resize(buffer.len() + room.min(due), b'x');
        }
        assert!(moves <= 4, "{moves}");
        assert_eq!(buffer.capacity(), total);
    }
}
