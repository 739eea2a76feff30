//! The body of an answer: in one buffer, in shared parts, or streamed in chunks.
//!
//! Long bodies are never copied: bytes read from an upstream are forwarded by reference, after a
//! short part that the gateway writes. Their memory is charged for as long as it is referenced
//! ([`Held`]).

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::permit::Share;

/// Parts up to this size are copied, because a copy costs less than another part.
pub(crate) const COPIED_MAX: usize = 8 << 10;

/// Bytes and the share that covers them.
pub(crate) struct Held {
    pub(crate) bytes: Vec<u8>,
    pub(crate) share: Option<Share>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Held {
    /// Converts to shared bytes; the share is released with the last reference.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self.share {
            None => Bytes::from(self.bytes),
            Some(_) => Bytes::from_owner(self),
        }
    }
}

/// A body that is streamed in chunks, such as an upstream's response.
pub(crate) trait Pieces {
    /// The next chunk; `None` after the last.
    ///
    /// # Errors
    /// The body ended early.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Option<Bytes>, Truncated>> + '_>>;

    /// The total length, if it is known.
    fn length(&self) -> Option<u64>;

    /// What may be inserted between two chunks, and is ignored by the caller; empty: nothing.
    fn probe(&self) -> &'static [u8] {
        b""
    }
}

/// The error of a body that ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truncated;

/// A body.
pub(crate) enum Payload<'a> {
    /// In one buffer.
    Whole(Vec<u8>),
    /// In parts, of which long ones are shared.
    Shared(Vec<Bytes>),
    /// Streamed: read while it is written.
    Pieces(Box<dyn Pieces + 'a>),
}

impl Payload<'_> {
    /// The length, if it is known.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Payload::Whole(bytes) => Some(bytes.len() as u64),
            Payload::Shared(parts) => Some(parts.iter().map(|part| part.len() as u64).sum()),
            Payload::Pieces(pieces) => pieces.length(),
        }
    }
}

/// Text is split into buffers of up to this size, so that a growing buffer is not copied
/// repeatedly.
const SEGMENT_MAX: usize = 64 << 10;

/// Assembles a body: short parts are copied into one buffer, long parts are referenced.
pub(crate) struct Composer {
    text: Vec<u8>,
    parts: Vec<Bytes>,
    /// Covers the text of a batch's answers.
    share: Option<Share>,
}

impl Composer {
    /// Starts a body with `text` as its buffer, which must be empty.
    #[inline]
    pub(crate) fn new(text: Vec<u8>) -> Composer {
        Composer { text, parts: Vec::new(), share: None }
    }

    /// The buffer for short parts.
    #[inline]
    pub(crate) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Its length in bytes.
    #[inline]
    pub(crate) fn length(&self) -> u64 {
        let parts = self.parts.iter().map(Bytes::len).sum::<usize>();
        (self.text.len() + parts) as u64
    }

    /// Whether the body is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.parts.is_empty()
    }

    /// Removes everything.
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.parts.clear();
    }

    /// Appends a part: by copy if it is short, by reference if it is long.
    pub(crate) fn attach(&mut self, part: Bytes) {
        if part.len() <= COPIED_MAX {
            return self.text.extend_from_slice(&part);
        }
        self.flush();
        self.parts.push(part);
    }

    /// Moves the text into a buffer of exact size; returns the old buffer.
    pub(crate) fn compact(&mut self) -> Vec<u8> {
        let exact = self.text.as_slice().to_vec();
        std::mem::replace(&mut self.text, exact)
    }

    /// Keeps this share, which covers the text, until the body is dropped.
    pub(crate) fn hold(&mut self, share: Share) {
        self.share = Some(share);
    }

    /// Appends another body; its text is copied.
    pub(crate) fn append(&mut self, other: &mut Composer) {
        for part in other.parts.drain(..) {
            self.attach(part);
        }
        if self.text.len() + other.text.len() > SEGMENT_MAX {
            self.flush();
        }
        self.text.extend_from_slice(&other.text);
    }

    fn flush(&mut self) {
        if !self.text.is_empty() {
            self.parts.push(Bytes::from(std::mem::take(&mut self.text)));
        }
    }

    /// Completes the body.
    pub(crate) fn finish(self) -> Payload<'static> {
        let Composer { text, mut parts, share, .. } = self;
        if parts.is_empty() && share.is_none() {
            return Payload::Whole(text);
        }
        parts.push(Held { bytes: text, share }.into_bytes());
        Payload::Shared(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permit::{Capacity, Purpose};
    use plimsoll_registry::settings::Limits;
    use std::sync::Arc;

    fn bytes(payload: Payload<'_>) -> Vec<u8> {
        match payload {
            Payload::Whole(bytes) => bytes,
            Payload::Shared(parts) => parts.concat(),
            Payload::Pieces(_) => unreachable!("nothing is streamed here"),
        }
    }

    #[test]
    fn parts_are_assembled_in_order() {
        let long = Bytes::from(vec![b'x'; COPIED_MAX + 1]);
        let mut one = Composer::new(Vec::new());
        one.text().extend_from_slice(b"a");
        one.attach(long.clone());
        one.text().extend_from_slice(b"b");
        one.attach(Bytes::from_static(b"c"));
        let mut all = Composer::new(Vec::new());
        all.text().push(b'[');
        all.append(&mut one);
        all.text().push(b']');
        let expected = [b"[a".as_slice(), &long, b"bc]"].concat();
        let payload = all.finish();
        assert_eq!(payload.length(), Some(expected.len() as u64));
        assert_eq!(bytes(payload), expected);
    }

    #[test]
    fn memory_is_charged_until_the_last_part_is_dropped() {
        let limits = Limits { memory: 1 << 20, ..Limits::default() };
        let capacity = Arc::new(Capacity::new(&limits));
        let mut share = Share::new(&capacity, Purpose::Long);
        share.add(1 << 10).expect("room");
        let mut all = Composer::new(Vec::new());
        for _ in 0..64 {
            all.append(&mut Composer::new(vec![b'x'; 8 << 10]));
        }
        all.hold(share);
        let payload = all.finish();
        assert_eq!(payload.length(), Some(64 * (8 << 10)));
        assert_eq!(capacity.bytes(), 1 << 10);
        drop(payload);
        assert_eq!(capacity.bytes(), 0);
    }
}
