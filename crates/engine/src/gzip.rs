//! Decompresses gzipped bodies (RFC 1952) with one decoder per worker.
//!
//! A decoder holds about 40 KiB of state. Building one for each answer would allocate and clear
//! that on the hot path, so the raw inflate state is reset instead, and headers and trailers are
//! read here. Nothing is accepted unchecked: reserved flags, checksums and lengths must be right,
//! and what follows a member must be another.

use flate2::{Crc, Decompress, FlushDecompress, Status};
use memchr::memchr;

/// Maximum number of members of a body: an empty one takes time and yields nothing. Tools that
/// write several start one for each 64 KiB or more.
const MEMBERS_MAX: usize = 1_000;
/// How much the output grows at a time.
const STEP: usize = 32 << 10;
/// The length of a header without optional parts, and of a trailer.
const HEADER: usize = 10;
const TRAILER: usize = 8;

/// Why a body could not be decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GzipError {
    /// It is not valid gzip, or incomplete.
    Corrupt,
    /// It is larger than allowed.
    TooLarge,
}

/// A reusable decoder.
pub(crate) struct Gunzip {
    inflate: Decompress,
}

impl Gunzip {
    pub(crate) fn new() -> Gunzip {
        Gunzip { inflate: Decompress::new(false) }
    }

    /// Decompresses a body into `out`, which is cleared first. At most `max` bytes are kept, so that
    /// a decompression bomb is harmless.
    ///
    /// # Errors
    /// If the body is not valid or is larger than `max`.
    pub(crate) fn decode(
        &mut self,
        mut body: &[u8],
        max: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), GzipError> {
        out.clear();
        for _ in 0..MEMBERS_MAX {
            body = &body[header_len(body).ok_or(GzipError::Corrupt)?..];
            let start = out.len();
            let used = self.inflate_member(body, max, out)?;
            let (trailer, rest) =
                body[used..].split_at_checked(TRAILER).ok_or(GzipError::Corrupt)?;
            check_trailer(trailer, &out[start..])?;
            if rest.is_empty() {
                return Ok(());
            }
            body = rest;
        }
        Err(GzipError::Corrupt)
    }

    /// Appends the content of one member to `out`; returns how much of `body` it took.
    fn inflate_member(
        &mut self,
        body: &[u8],
        max: u64,
        out: &mut Vec<u8>,
    ) -> Result<usize, GzipError> {
        self.inflate.reset(false);
        loop {
            if out.capacity() == out.len() {
                out.reserve(STEP);
            }
            let at = self.inflate.total_in() as usize;
            let (taken, len) = (self.inflate.total_in(), out.len());
            let status = self.inflate.decompress_vec(&body[at..], out, FlushDecompress::None);
            if out.len() as u64 > max {
                return Err(GzipError::TooLarge);
            }
            match status {
                Ok(Status::StreamEnd) => return Ok(self.inflate.total_in() as usize),
                // Without progress, the input ended early.
                Ok(_) if self.inflate.total_in() > taken || out.len() > len => {}
                _ => return Err(GzipError::Corrupt),
            }
        }
    }
}

/// The length of a member's header; `None` if it is incomplete or not valid.
fn header_len(body: &[u8]) -> Option<usize> {
    const CHECKSUM: u8 = 0x02;
    const EXTRA: u8 = 0x04;
    const NAME: u8 = 0x08;
    const COMMENT: u8 = 0x10;
    const RESERVED: u8 = 0xe0;
    let (fixed, _) = body.split_at_checked(HEADER)?;
    let &[0x1f, 0x8b, 8, flags, ..] = fixed else { return None };
    if flags & RESERVED != 0 {
        return None;
    }
    let mut len = HEADER;
    if flags & EXTRA != 0 {
        let size = body.get(len..)?.first_chunk::<2>()?;
        len += 2 + usize::from(u16::from_le_bytes(*size));
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            len += memchr(0, body.get(len..)?)? + 1;
        }
    }
    if flags & CHECKSUM != 0 {
        let mut crc = Crc::new();
        crc.update(body.get(..len)?);
        let stated = body.get(len..)?.first_chunk::<2>()?;
        if u16::from_le_bytes(*stated) != crc.sum() as u16 {
            return None;
        }
        len += 2;
    }
    (len <= body.len()).then_some(len)
}

/// Checks a member's content against its trailer: CRC32, and the length modulo 2^32.
fn check_trailer(trailer: &[u8], content: &[u8]) -> Result<(), GzipError> {
    let mut crc = Crc::new();
    crc.update(content);
    let (sum, len) = trailer.split_at(4);
    let is_right = sum == crc.sum().to_le_bytes() && len == (content.len() as u32).to_le_bytes();
    if is_right { Ok(()) } else { Err(GzipError::Corrupt) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, GzBuilder, read::MultiGzDecoder, write::GzEncoder};
    use proptest::prelude::*;
    use std::io::{Read, Write};

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(content).unwrap();
        out.finish().unwrap()
    }

    fn decoded(body: &[u8], max: u64) -> Result<Vec<u8>, GzipError> {
        let mut out = b"from before".to_vec();
        Gunzip::new().decode(body, max, &mut out).map(|()| out)
    }

    #[test]
    fn members_of_every_form_are_decoded() {
        let check = |body: &[u8], content: &[u8]| {
            assert_eq!(decoded(body, 100_000), Ok(content.to_vec()), "{}", body.escape_ascii());
        };
        check(&gzip(b""), b"");
        check(&gzip(b"hello"), b"hello");
        check(&gzip(&[b' '; 100_000]), &[b' '; 100_000]); // exactly the maximum
        check(&[gzip(b"a"), gzip(b""), gzip(b"bc")].concat(), b"abc");
        let full = GzBuilder::new().filename("name").comment("comment").extra(vec![1, 2, 3]);
        let mut full = full.write(Vec::new(), Compression::best());
        full.write_all(b"hello").unwrap();
        let mut full = full.finish().unwrap();
        check(&full, b"hello");
        // The same with a header checksum, which flate2 does not write.
        let len = header_len(&full).unwrap();
        full[3] |= 0x02;
        let mut crc = Crc::new();
        crc.update(&full[..len]);
        full.splice(len..len, (crc.sum() as u16).to_le_bytes());
        check(&full, b"hello");
        full[len] ^= 1;
        assert_eq!(decoded(&full, 100), Err(GzipError::Corrupt));
    }

    #[test]
    fn corrupt_and_oversized_bodies_are_rejected() {
        let check = |body: &[u8], max, error| assert_eq!(decoded(body, max), Err(error));
        let good = gzip(&[b'x'; 1001]);
        check(&good, 1000, GzipError::TooLarge);
        check(&[gzip(&[b'x'; 600]), gzip(&[b'x'; 401])].concat(), 1000, GzipError::TooLarge);
        check(b"", 1000, GzipError::Corrupt);
        check(b"plain", 1000, GzipError::Corrupt);
        for cut in 0..good.len() {
            check(&good[..cut], 2000, GzipError::Corrupt);
        }
        check(&[&good[..], b"x"].concat(), 2000, GzipError::Corrupt); // not another member
        let changed = |at: usize, bits: u8| {
            let mut bad = good.clone();
            let len = bad.len();
            bad[(at + len) % len] ^= bits;
            bad
        };
        check(&changed(0, 1), 2000, GzipError::Corrupt); // magic
        check(&changed(2, 1), 2000, GzipError::Corrupt); // compression method
        check(&changed(3, 0x80), 2000, GzipError::Corrupt); // reserved flag
        let len = good.len();
        check(&changed(len - 5, 1), 2000, GzipError::Corrupt); // CRC32
        check(&changed(len - 1, 1), 2000, GzipError::Corrupt); // length
        let empty = gzip(b"");
        assert_eq!(decoded(&empty.repeat(MEMBERS_MAX), 9), Ok(vec![]));
        check(&empty.repeat(MEMBERS_MAX + 1), 9, GzipError::Corrupt);
    }

    #[test]
    fn a_decoder_is_as_good_as_new_after_any_body() {
        let mut decoder = Gunzip::new();
        let mut out = Vec::new();
        let good = gzip(b"hello");
        for body in [&good[..12], b"junk", &gzip(&[b'x'; 5000]), &good[..good.len() - 1]] {
            let _ = decoder.decode(body, 1000, &mut out);
            assert_eq!(decoder.decode(&good, 1000, &mut out), Ok(()));
            assert_eq!(out, b"hello");
        }
    }

    proptest! {
        #[test]
        fn it_decodes_like_flate2(
            contents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 1..4),
            damage in proptest::option::of((any::<usize>(), 1..=255u8)),
        ) {
            let mut body: Vec<u8> = contents.iter().flat_map(|content| gzip(content)).collect();
            if let Some((at, bits)) = damage {
                let at = at % body.len();
                body[at] ^= bits;
            }
            let mut reference = Vec::new();
            let valid = MultiGzDecoder::new(&body[..]).read_to_end(&mut reference).is_ok();
            match decoded(&body, 1 << 20) {
                Ok(out) => prop_assert!(valid && out == reference),
                // Stricter than flate2 only where bytes were damaged.
                Err(_) => prop_assert!(!valid || damage.is_some()),
            }
        }
    }
}
