//! What is to be written, and what the kernel has accepted of it.

use super::super::Transport;
use crate::http2::frame::{self, Code, flag, kind};
use crate::system::Socket;
use std::collections::VecDeque;
use std::io;

/// Maximum number of bytes of replies (to settings and pings, and window updates) that wait to be
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
    /// Streams of which no byte was accepted yet, with the position of their second byte.
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

    /// Appends a reply to a frame of the peer; returns false if too many wait.
    pub(super) fn reply(&mut self, kind: (u8, u8), stream: u32, payload: &[u8]) -> bool {
        frame::put(&mut self.bytes, kind, stream, payload);
        self.replies += frame::HEAD_LEN + payload.len();
        self.replies <= REPLIES_MAX
    }

    pub(super) fn acknowledge_settings(&mut self) -> bool {
        self.reply((kind::SETTINGS, flag::ACK), 0, &[])
    }

    pub(super) fn reset(&mut self, stream: u32, code: Code) {
        frame::put_reset(&mut self.bytes, stream, code);
    }

    /// The request of a stream begins with the bytes from `at` on.
    #[inline]
    pub(super) fn begin(&mut self, stream: u32, at: usize) {
        self.unsent.push_back((stream, self.before + at as u64 + 1));
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

    /// The next stream of which the kernel accepted the first byte.
    #[inline]
    pub(super) fn next_sent(&mut self) -> Option<u32> {
        let (stream, at) = *self.unsent.front()?;
        if at > self.accepted {
            return None;
        }
        self.unsent.pop_front();
        Some(stream)
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
