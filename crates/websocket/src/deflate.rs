//! Compressed messages (RFC 7692 §7.2), without context takeover.
//!
//! Each message is compressed by itself, so that one compressor serves all connections of a thread, and a
//! connection keeps nothing between two messages. The sender ends a message with an empty block and leaves out
//! its last four bytes, [`TAIL`], which are the same for every message; the receiver adds them again.
//!
//! # Bounds
//! A message that decompresses to more than the reader's limit is rejected as soon as it does: at most twice the
//! limit is allocated. The receiver also adds a last block, so that the decompressor reports whether the
//! message was complete: without it, half a block would pass as a shorter message.

use crate::reader::Violation;
use miniz_oxide::MZFlush;
use miniz_oxide::deflate::core::{CompressorOxide, create_comp_flags_from_zip_params};
use miniz_oxide::deflate::stream::deflate;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

/// Shorter messages are sent as they are: most calls fit into one packet either way, and deflate saves
/// little of them.
pub const COMPRESSED_MIN: usize = 256;

/// The end of an empty block without compression, which every message ends with.
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// The same, and an empty last block.
const LAST: [u8; 9] = [0x00, 0x00, 0xff, 0xff, 0x01, 0x00, 0x00, 0xff, 0xff];
/// More input may follow. The output is the whole message, so that a reference to anything before it, such as
/// to a message before, is an error.
const FLAGS: u32 = inflate_flags::TINFL_FLAG_HAS_MORE_INPUT
    | inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
/// The fastest level.
const LEVEL: i32 = 1;
/// Room for output that is added at least, and at most, at a time.
const ROOM: (usize, usize) = (512, 64 << 10);
/// Capacity of the output that is kept for the next message.
const KEPT: usize = 256 << 10;

/// Decompresses messages of any number of connections, one after the other. Allocates with the first.
#[derive(Default)]
pub struct Inflate {
    state: Option<Box<DecompressorOxide>>,
    /// A buffer for the next message.
    spare: Vec<u8>,
}

impl Inflate {
    /// The message of a payload.
    pub(crate) fn message(&mut self, payload: &[u8], max: usize) -> Result<Vec<u8>, Violation> {
        let state = self.state.get_or_insert_default();
        state.init();
        let (mut out, mut len) = (std::mem::take(&mut self.spare), 0);
        'message: for (mut input, is_own) in [(payload, true), (&LAST[..], false)] {
            loop {
                if len == out.len() {
                    let left = (max - len).saturating_add(1);
                    out.resize(len + left.min(len.clamp(ROOM.0, ROOM.1)), 0);
                }
                let (status, taken, written) = decompress(state, input, &mut out, len, FLAGS);
                input = &input[taken..];
                len += written;
                if len > max {
                    return Err(Violation::TooLong);
                }
                match status {
                    TINFLStatus::HasMoreOutput => {}
                    TINFLStatus::NeedsMoreInput => break,
                    TINFLStatus::Done if input.is_empty() => break 'message,
                    // The sender may use last blocks, after which others may follow.
                    TINFLStatus::Done if is_own => state.init(),
                    _ => return Err(Violation::BadDeflate),
                }
            }
            if !is_own {
                return Err(Violation::BadDeflate);
            }
        }
        out.truncate(len);
        Ok(out)
    }

    /// Takes a buffer back that [`Inflate::message`] returned.
    pub(crate) fn take_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        buffer.shrink_to(KEPT);
        self.spare = buffer;
    }
}

/// Compresses messages of any number of connections, one after the other. Allocates with the first.
#[derive(Default)]
pub struct Deflate {
    state: Option<Box<CompressorOxide>>,
    out: Vec<u8>,
}

impl Deflate {
    /// The payload of a message, to be sent with [`put_compressed`](crate::put_compressed); `None` if the message
    /// is to be sent as it is, because it is short or would not be shorter.
    pub fn message(&mut self, text: &[u8]) -> Option<&[u8]> {
        if text.len() < COMPRESSED_MIN {
            return None;
        }
        let state = self.state.get_or_insert_with(|| {
            Box::new(CompressorOxide::new(create_comp_flags_from_zip_params(LEVEL, 0, 0)))
        });
        state.reset();
        self.out.clear();
        self.out.shrink_to(KEPT.max(text.len()));
        self.out.resize(text.len(), 0);
        let done = deflate(state, text, &mut self.out, MZFlush::Sync);
        // If the output is full, its end may be missing.
        let is_whole = done.status.is_ok()
            && done.bytes_consumed == text.len()
            && done.bytes_written < text.len();
        self.out[..done.bytes_written].strip_suffix(&TAIL).filter(|_| is_whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Text that compresses well.
    fn text(len: usize) -> Vec<u8> {
        (0..len).map(|at| b"{\"result\":\"0x00\"}"[at % 17]).collect()
    }

    #[test]
    fn payloads_of_the_specification() {
        let check = |payload: &[u8], expected: Result<&[u8], Violation>| {
            let message = Inflate::default().message(payload, 100);
            assert_eq!(message.as_deref(), expected.as_ref().copied(), "{payload:x?}");
        };
        // RFC 7692 §7.2.3: one block, without compression, with a last block, and two blocks.
        check(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], Ok(b"Hello"));
        check(&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], Ok(b"Hello"));
        check(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], Ok(b"Hello"));
        check(
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
            Ok(b"Hello"),
        );
        check(&[0x00], Ok(b""));
        // A last block without the byte after it.
        check(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], Ok(b"Hello"));
        // Refers to the message before.
        check(&[0xf2, 0x00, 0x11, 0x00, 0x00], Err(Violation::BadDeflate));
        check(b"", Err(Violation::BadDeflate));
        check(&[0xff; 20], Err(Violation::BadDeflate));
        check(&[0xf2, 0x48, 0xcd], Err(Violation::BadDeflate));
    }

    #[test]
    fn output_is_bounded() {
        let (mut deflate, mut inflate) = (Deflate::default(), Inflate::default());
        let bomb = deflate.message(&vec![b' '; 10 << 20]).unwrap().to_vec();
        assert!(bomb.len() < 100_000);
        for max in [0, 1, 1_000, 1 << 20, (10 << 20) - 1] {
            assert_eq!(inflate.message(&bomb, max), Err(Violation::TooLong), "{max}");
        }
        let whole = inflate.message(&bomb, 10 << 20).unwrap();
        assert_eq!(whole.len(), 10 << 20);
        assert!(whole.capacity() <= 20 << 20, "{}", whole.capacity());
        inflate.take_back(whole);
        assert!(inflate.spare.capacity() <= KEPT);
    }

    #[test]
    fn every_part_of_a_message_is_incomplete() {
        let mut deflate = Deflate::default();
        let payload = deflate.message(&text(2_000)).unwrap().to_vec();
        let mut inflate = Inflate::default();
        for len in 0..payload.len() {
            assert_eq!(
                inflate.message(&payload[..len], 10_000),
                Err(Violation::BadDeflate),
                "{len}"
            );
        }
        assert_eq!(inflate.message(&payload, 10_000), Ok(text(2_000)));
    }

    #[test]
    fn short_and_incompressible_messages_are_sent_as_they_are() {
        let mut deflate = Deflate::default();
        assert_eq!(deflate.message(&text(COMPRESSED_MIN - 1)), None);
        assert!(deflate.message(&text(COMPRESSED_MIN)).is_some());
        let mut bits = 1u64;
        let noise = std::iter::repeat_with(|| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (bits >> 56) as u8
        });
        assert_eq!(deflate.message(&noise.take(5_000).collect::<Vec<_>>()), None);
    }

    proptest! {
        /// What was compressed decompresses to itself, whatever came before, and any bytes are handled.
        #[test]
        fn messages_survive(
            words in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 1..9),
            times in 1..4_000usize,
            noise in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let (mut deflate, mut inflate) = (Deflate::default(), Inflate::default());
            let _ = inflate.message(&noise, 10_000);
            let message: Vec<u8> = words.iter().cycle().take(times).flatten().copied().collect();
            for _ in 0..2 {
                if let Some(payload) = deflate.message(&message) {
                    prop_assert!(payload.len() < message.len());
                    let back = inflate.message(payload, message.len()).unwrap();
                    prop_assert_eq!(&back, &message);
                    inflate.take_back(back);
                }
            }
        }
    }
}
