//! Decompresses gzip bodies of callers and upstreams.
//!
//! A short body may decompress to a thousand times its size or consist of thousands of empty
//! members. So the output is charged for as it grows, the number of members is limited, and the
//! work runs on another thread unless both input and output are short.

use std::io::Read;

use flate2::bufread::GzDecoder;

use crate::buffer;
use crate::error::{Error, ErrorKind};
use crate::local::Local;
use crate::offload;
use crate::payload::Held;
use crate::permit::{Purpose, Share};

/// Bodies up to this size are decompressed inline, as long as the output is short, too.
const INLINE_MAX: usize = 4 << 10;

/// The most members of a body. Tools that write several start one for each 64 KiB or more.
const MEMBERS_MAX: usize = 1_000;

/// Decompresses a body; `own` makes the body available to another thread.
///
/// # Errors
/// The body is corrupt or too long, or memory is used up.
pub(crate) async fn decompressed<B: AsRef<[u8]> + Send + 'static>(
    local: &Local,
    body: &[u8],
    own: impl FnOnce() -> B,
    limit: u64,
) -> Result<Held, Error> {
    if body.len() <= INLINE_MAX {
        let inline = limit.min(offload::INLINE_MAX as u64);
        match decompress(body, inline, local.share(Purpose::Long)) {
            Err(error) if error.kind == ErrorKind::BodyTooLarge && inline < limit => {}
            done => return done,
        }
    }
    let (body, share) = (own(), local.share(Purpose::Long));
    let done = offload::run(move || decompress(body.as_ref(), limit, share)).await;
    done.unwrap_or_else(|| Err(Error::new(ErrorKind::Internal, "the gateway is shutting down")))
}

/// Decompresses a gzip body, charging for the output.
fn decompress(mut compressed: &[u8], limit: u64, mut share: Share) -> Result<Held, Error> {
    let broken = |error: std::io::Error| {
        Error::new(ErrorKind::UnsupportedEncoding, format!("the body is not valid gzip: {error}"))
    };
    // The last four bytes are the length of the last member; if they are wrong, the buffer grows.
    let length = compressed.last_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let mut plain: Vec<u8> = Vec::with_capacity(1 + u64::from(length).min(limit) as usize);
    for _ in 0..MEMBERS_MAX {
        let mut member = GzDecoder::new(compressed);
        loop {
            let start = plain.len();
            let room = buffer::grow(&mut plain, 0, &mut share)?;
            plain.resize(start + room, 0);
            let read = member.read(&mut plain[start..]);
            plain.truncate(start + *read.as_ref().unwrap_or(&0));
            if read.map_err(broken)? == 0 {
                break;
            }
            if plain.len() as u64 > limit {
                return Err(too_large(limit));
            }
        }
        compressed = member.into_inner();
        if compressed.is_empty() {
            return Ok(Held { bytes: plain, share: Some(share) });
        }
    }
    let message = format!("the body has more than {MEMBERS_MAX} gzip members");
    Err(Error::new(ErrorKind::UnsupportedEncoding, message))
}

pub(crate) fn too_large(limit: u64) -> Error {
    Error::new(ErrorKind::BodyTooLarge, format!("the body is longer than {limit} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permit::Capacity;
    use plimsoll_registry::settings::Limits;
    use std::io::Write;
    use std::sync::Arc;

    fn compressed(plain: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(plain).expect("writes");
        gzip.finish().expect("writes")
    }

    #[test]
    fn bodies_are_decompressed_within_the_limits() {
        let limits = Limits { memory: 100_000, ..Limits::default() };
        let capacity = Arc::new(Capacity::new(&limits));
        let check = |compressed: &[u8], limit, expected: Result<usize, ErrorKind>| {
            let share = Share::new(&capacity, Purpose::Long);
            let done = decompress(compressed, limit, share);
            let done = done.map(|plain| plain.bytes.len()).map_err(|error| error.kind);
            assert_eq!(done, expected);
            assert_eq!(capacity.bytes(), 0);
        };
        let gzip = compressed(&[b' '; 10_000]);
        check(&gzip, 10_000, Ok(10_000));
        check(&gzip, 9_999, Err(ErrorKind::BodyTooLarge));
        check(&gzip[..gzip.len() - 9], 10_000, Err(ErrorKind::UnsupportedEncoding));
        check(b"plain", 100, Err(ErrorKind::UnsupportedEncoding));
        check(&[compressed(b"a"), compressed(b"bc")].concat(), 100, Ok(3));
        // Exceeds limits.memory while it grows.
        check(&compressed(&[b' '; 1_000_000]), 10_000_000, Err(ErrorKind::Busy));
        // Empty members take time and produce nothing.
        check(&compressed(b"").repeat(MEMBERS_MAX), 100, Ok(0));
        check(&compressed(b"").repeat(MEMBERS_MAX + 1), 100, Err(ErrorKind::UnsupportedEncoding));
    }
}
