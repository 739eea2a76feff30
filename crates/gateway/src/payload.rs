//! A body on its way to a caller or an upstream: whole, shared, or in pieces.
//!
//! Long bodies are never copied: what was read from an upstream, or lies in a cache, is handed on by
//! reference behind a front of its own. The memory that such bytes take is charged for as long as
//! anyone refers to them ([`Held`]).

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::permit::Share;

/// Shorter parts are copied: a copy costs less than a further part.
pub(crate) const COPIED_MAX: usize = 8 << 10;

/// Bytes with the share that covers them.
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
    /// Bytes that others may refer to; the share is settled with the last of them.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self.share {
            None => Bytes::from(self.bytes),
            Some(_) => Bytes::from_owner(self),
        }
    }
}

/// A source of pieces, such as an upstream's response.
pub(crate) trait Pieces {
    /// The next piece; `None`: that was the last.
    ///
    /// The error says why the body ends early.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Result<Option<Bytes>, Truncated>> + '_>>;

    /// The length of all pieces, where it is known.
    fn length(&self) -> Option<u64>;
}

/// A body ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truncated;

/// A body.
pub(crate) enum Payload<'a> {
    /// In one buffer.
    Whole(Vec<u8>),
    /// In parts, long ones referred to.
    Shared(Vec<Bytes>),
    /// Read while it is written.
    Pieces(Box<dyn Pieces + 'a>),
}

impl Payload<'_> {
    /// The length, where it is known.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Payload::Whole(bytes) => Some(bytes.len() as u64),
            Payload::Shared(parts) => Some(parts.iter().map(|part| part.len() as u64).sum()),
            Payload::Pieces(pieces) => pieces.length(),
        }
    }
}

/// Text is kept in buffers of up to this size, so that none is copied again and again as it grows.
const SEGMENT_MAX: usize = 64 << 10;

/// A body that is assembled: short parts copied into one buffer, long ones referred to.
pub(crate) struct Composer {
    text: Vec<u8>,
    parts: Vec<Bytes>,
    /// Covers the text of a body that is assembled from many.
    share: Option<Share>,
}

impl Composer {
    /// Assembles a body in `text`, which is empty.
    #[inline]
    pub(crate) fn new(text: Vec<u8>) -> Composer {
        Composer { text, parts: Vec::new(), share: None }
    }

    /// Where short parts go.
    #[inline]
    pub(crate) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Whether nothing was put in.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.parts.is_empty()
    }

    /// Takes everything out again.
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.parts.clear();
    }

    /// Attaches a part; a long one is referred to.
    pub(crate) fn attach(&mut self, part: Bytes) {
        if part.len() <= COPIED_MAX {
            return self.text.extend_from_slice(&part);
        }
        self.flush();
        self.parts.push(part);
    }

    /// Moves the text into a buffer of its size; gives the one that it was in.
    pub(crate) fn compact(&mut self) -> Vec<u8> {
        let exact = self.text.as_slice().to_vec();
        std::mem::replace(&mut self.text, exact)
    }

    /// Settles this share, which covers the text, when the body is gone.
    pub(crate) fn hold(&mut self, share: Share) {
        self.share = Some(share);
    }

    /// Appends another body, which keeps its text's buffer.
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

    /// The body.
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
    fn bodies_are_assembled_in_order() {
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
    fn memory_is_held_until_the_last_part_is_gone() {
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
