//! What is to be written on a connection that carries many exchanges, and what the kernel has accepted of it.

use super::Transport;
use crate::system::Socket;
use std::collections::VecDeque;
use std::io;

/// Maximum number of bytes of replies (to pings and settings, and window updates) that wait to be
/// written: a peer that asks for more does not read them.
const REPLIES_MAX: usize = 64 << 10;
/// Capacity that is kept; a larger buffer is freed once it is empty.
const KEPT: usize = 256 << 10;

/// The bytes to be written.
#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// How many of them the transport has taken.
    taken: usize,
    /// Bytes that it took before these.
    before: u64,
    /// Up to where the kernel has accepted bytes, counted from the beginning of the connection.
    accepted: u64,
    /// Exchanges of which no byte was accepted yet, with the position of their second byte.
    unsent: VecDeque<(u32, u64)>,
    /// Bytes of replies among the bytes to be written.
    replies: usize,
    /// Whether the kernel took less than it was given; the poll reports when there is room again.
    is_full: bool,
}

impl Output {
    /// The bytes that wait, for appending.
    #[inline]
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The number of bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// Whether another reply may wait.
    pub(super) fn takes_replies(&self) -> bool {
        self.replies < REPLIES_MAX
    }

    /// Counts a reply that was appended; returns false if too many wait.
    pub(super) fn count_reply(&mut self, len: usize) -> bool {
        self.replies += len;
        self.replies <= REPLIES_MAX
    }

    /// The request of an exchange begins with the bytes from `at` on.
    #[inline]
    pub(super) fn begin(&mut self, exchange: u32, at: usize) {
        self.unsent.push_back((exchange, self.before + at as u64 + 1));
    }

    /// Removes the requests of this exchange and of those after it, and returns these others, if nothing was
    /// taken of them; otherwise they are written to the end.
    pub(super) fn cut(&mut self, exchange: u32) -> Vec<u32> {
        let Some(place) = self.unsent.iter().position(|(own, _)| *own == exchange) else {
            return Vec::new();
        };
        let at = (self.unsent[place].1 - 1).saturating_sub(self.before) as usize;
        if at < self.taken {
            return Vec::new();
        }
        self.bytes.truncate(at);
        self.unsent.drain(place..).skip(1).map(|(own, _)| own).collect()
    }

    /// Whether something waits that can be written now.
    #[inline]
    pub(super) fn is_pending(&self) -> bool {
        !self.is_full && self.taken < self.bytes.len()
    }

    /// Whether everything was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.taken == self.bytes.len()
    }

    /// Writes as much as the kernel accepts.
    ///
    /// # Errors
    /// If the connection failed.
    pub(super) fn flush<K: Socket>(&mut self, transport: &mut Transport<K>) -> io::Result<()> {
        self.is_full = false;
        transport.flush()?;
        while self.taken < self.bytes.len() {
            match transport.write(&self.bytes[self.taken..]) {
                Ok(n) => {
                    self.taken += n;
                    // Of what it took last, the transport may hold everything back.
                    if !transport.is_held() {
                        self.accepted = self.before + self.taken as u64;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_full = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if !transport.is_held() {
            self.accepted = self.before + self.taken as u64;
        }
        if self.is_empty() {
            self.before += self.taken as u64;
            (self.taken, self.replies) = (0, 0);
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
        } else if self.taken >= KEPT {
            // More may be appended before it is ever empty.
            self.before += self.taken as u64;
            self.bytes.drain(..std::mem::take(&mut self.taken));
        }
        Ok(())
    }

    /// The next exchange of which the kernel accepted the first byte.
    #[inline]
    pub(super) fn next_sent(&mut self) -> Option<u32> {
        let (exchange, at) = *self.unsent.front()?;
        if at > self.accepted {
            return None;
        }
        self.unsent.pop_front();
        Some(exchange)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::Wire;

    #[test]
    fn an_output_that_is_never_empty_is_bounded() {
        let wire = Wire::new();
        let mut transport = Transport::new(wire.clone(), None).unwrap();
        let mut output = Output::default();
        let mut written = Vec::new();
        for turn in 0..1_000u32 {
            output.begin(turn, output.bytes.len());
            output.bytes().extend_from_slice(&[turn as u8; 16_000]);
            // The last bytes of each request wait for the next turn.
            wire.0.borrow_mut().room = if turn == 0 { 15_990 } else { 16_000 };
            output.flush(&mut transport).unwrap();
            assert_eq!(
                (output.next_sent(), output.next_sent(), output.len()),
                (Some(turn), None, 10)
            );
            written.append(&mut wire.0.borrow_mut().written);
        }
        assert!(output.bytes.capacity() < 3 * KEPT);
        assert!(written.iter().enumerate().all(|(at, byte)| *byte == (at / 16_000) as u8));
    }
}
