//! Gzips answers for callers that accept gzip.
//!
//! Long answers are compressed on another thread. If there is no memory for the compressed answer, or
//! it is not shorter, the answer is sent uncompressed.

use std::io::{self, Write};

use bytes::Bytes;

use crate::call::message::Answer;
use crate::call::worker::{View, Worker};
use crate::offload;
use crate::payload::{Held, Payload};
use crate::permit::{Purpose, Share};

/// Shorter answers are not worth compressing: they fit into one TCP segment anyway.
const COMPRESSED_MIN: u64 = 1 << 10;

/// Compresses an answer if the settings and the caller allow it and it is long enough.
#[inline]
pub(super) async fn compress(
    worker: &Worker,
    view: &View,
    accepts: Option<&[u8]>,
    answer: &mut Answer<'_>,
) {
    let Some(length @ COMPRESSED_MIN..) = answer.body.length() else { return };
    if view.settings.gzip {
        answer.fields.push(("vary".into(), b"accept-encoding".to_vec()));
    }
    let is_compressed = answer.fields.iter().any(|(name, _)| name == "content-encoding");
    if accepts.is_some_and(accepts_gzip) && view.settings.gzip && !is_compressed {
        Box::pin(compress_body(worker, answer, length)).await;
    }
}

async fn compress_body(worker: &Worker, answer: &mut Answer<'_>, length: u64) {
    let share = worker.local.share(Purpose::Long);
    let parts = match std::mem::replace(&mut answer.body, Payload::Whole(Vec::new())) {
        Payload::Whole(bytes) => vec![Bytes::from(bytes)],
        Payload::Shared(parts) => parts,
        pieces @ Payload::Pieces(_) => {
            answer.body = pieces;
            return;
        }
    };
    let compressed = if length > offload::INLINE_MAX as u64 {
        let parts = parts.clone();
        offload::run(move || compressed(&parts, length, share)).await.flatten()
    } else {
        compressed(&parts, length, share)
    };
    match compressed {
        Some(compressed) => {
            answer.body = Payload::Shared(vec![compressed.into_bytes()]);
            answer.fields.push(("content-encoding".into(), b"gzip".to_vec()));
        }
        None => answer.body = Payload::Shared(parts),
    }
}

/// The gzipped body; `None` if it is not shorter, or there is no memory for it.
fn compressed(parts: &[Bytes], length: u64, share: Share) -> Option<Held> {
    // Capacity that is not written to takes no memory.
    let out = ChargedBuffer { bytes: Vec::with_capacity(length as usize), share };
    // The fastest level: JSON of hashes and numbers gains little from more.
    let mut gzip = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
    for part in parts {
        gzip.write_all(part).ok()?;
    }
    let ChargedBuffer { mut bytes, share } = gzip.finish().ok()?;
    bytes.shrink_to_fit();
    Some(Held { bytes, share: Some(share) })
}

/// A buffer whose memory is charged before it is written; its capacity is the limit.
struct ChargedBuffer {
    bytes: Vec<u8>,
    share: Share,
}

impl Write for ChargedBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.bytes.len() + bytes.len();
        if length >= self.bytes.capacity() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let covered = self.share.cover(length as u64);
        covered.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether an Accept-Encoding header allows gzip, by name or by `*`, with a quality other than zero.
fn accepts_gzip(accepts: &[u8]) -> bool {
    let mut any = false;
    for offer in accepts.split(|byte| *byte == b',') {
        let mut parts = offer.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let coding = parts.next().unwrap_or_default();
        let refused = parts.any(|part| {
            let quality = part.strip_prefix(b"q=").unwrap_or(b"1");
            quality.iter().all(|byte| matches!(byte, b'0' | b'.'))
        });
        if coding.eq_ignore_ascii_case(b"gzip") {
            return !refused;
        }
        any |= coding == b"*" && !refused;
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_encoding() {
        let check = |header: &str, accepted: bool| {
            assert_eq!(accepts_gzip(header.as_bytes()), accepted, "{header}");
        };
        check("gzip", true);
        check("br, GZIP;q=0.5", true);
        check("*", true);
        check("gzip;q=0, *", false);
        check("gzip; q=0.0", false);
        check("identity", false);
        check("br;q=1, *;q=0", false);
        check("", false);
    }
}
