//! The second level: answers that replicas share, as values under names.
//!
//! Asked after a miss in the first level, by the leader of a flight; never for a first-level hit. A
//! trait, because what stores the values is a choice; [`Redis`](super::redis::Redis) does today.
//!
//! # Names
//! `plimsoll:1:SPACE:METHOD:DIGEST`. The space is the service with its chain, so that gateways for
//! different chains can share a server. 1 is the version of the canonical form and of the values.
//!
//! # Values
//! A header of [`HEADER_LEN`] bytes, then the result, compressed (deflate) if it is longer than
//! [`COMPRESSED_MIN`] and this makes it shorter. The header has a magic number, the version, a CRC-32 of
//! all that follows, and a part of the digest of the call that the value answers. So a value that is
//! damaged, cut off, written by something else or copied from another name is not used.
//!
//! # Young answers
//! Branches are numbered by each process for itself. A young answer therefore carries an [`Anchor`]: a
//! block of the chain on which it was given. A replica uses it only if its own chain has this block,
//! and then whatever is true of earlier blocks on the one is true on the other.

use std::future::Future;
use std::io::{Read, Write};
use std::pin::Pin;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use plimsoll_measure::Nanos;
use plimsoll_rpc::method::Method;

use super::class::Class;
use super::key::Canonical;

/// Longer results are compressed: shorter ones fit into a few packets anyway.
pub const COMPRESSED_MIN: usize = 4 << 10;

/// The length of a value's header.
pub const HEADER_LEN: usize = 56;

/// The version of names and values.
const VERSION: u8 = 1;

const MAGIC: [u8; 4] = *b"PLMC";

/// Flags of a value.
const IS_COMPRESSED: u8 = 1;
const HAS_HEAD: u8 = 2;
const HAS_ANCHOR: u8 = 4;

/// A block of the chain on which a young answer was given: the served latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The number.
    pub number: u64,
    /// The first eight bytes of the hash.
    pub hash: u64,
}

/// An answer that replicas share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedEntry {
    /// The text of the result.
    pub result: Bytes,
    /// The class.
    pub class: Class,
    /// For answers about the head: the latest block that was served when the call was sent.
    pub head: Option<u64>,
    /// For young answers: where they hold.
    pub anchor: Option<Anchor>,
    /// How long it still holds.
    pub remaining: Nanos,
}

/// The name of a call, and what a value for it must contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub text: String,
    digest: [u8; 16],
}

impl Name {
    /// What the names of a space's answers begin with: all of them, or those of one method.
    pub fn prefix(space: &str, method: Option<Method>) -> String {
        let method = method.map(|method| format!("{}:", method.name()));
        format!("plimsoll:{VERSION}:{space}:{}", method.unwrap_or_default())
    }

    /// The name of the claim of the call.
    pub fn claim(&self) -> String {
        format!("{}:claim", self.text)
    }

    /// The name of a call in a space.
    pub fn new(space: &str, method: Method, call: &Canonical<'_>) -> Name {
        let mut digest = [0; 16];
        digest.copy_from_slice(&call.digest()[..16]);
        let number = u128::from_be_bytes(digest);
        let text = format!("{}{number:032x}", Name::prefix(space, Some(method)));
        Name { text, digest }
    }
}

/// A future of a shared store: `None` if the store cannot be reached in time.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Option<T>> + 'a>>;

/// A register's value, if it has one, and the store's time.
pub type Register = (Option<Vec<u8>>, Nanos);

/// Counts since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedCounts {
    /// Answers found.
    pub hits: u64,
    /// Answers not found.
    pub misses: u64,
    /// Reads and writes that were skipped because the store could not be reached.
    pub skipped: u64,
    /// Reads that took longer than the timeout.
    pub slow: u64,
    /// Reads and writes that the store refused, or that failed with the connection.
    pub failed: u64,
    /// Values that are not ours, or damaged.
    pub foreign: u64,
    /// Answers written.
    pub written: u64,
    /// Answers that were not written, because too many were waiting or writing took too long.
    pub lost: u64,
}

impl SharedCounts {
    /// The counts by their names in metrics.
    pub fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("hit", self.hits),
            ("miss", self.misses),
            ("skipped", self.skipped),
            ("slow", self.slow),
            ("failed", self.failed),
            ("foreign", self.foreign),
            ("written", self.written),
            ("lost", self.lost),
        ]
    }
}

/// A store of answers that replicas share.
pub trait Shared: Send + Sync {
    /// Whether it can be reached, as far as is known.
    fn is_used(&self) -> bool;

    /// Why it is not used, or what it last refused; `None` if there is no trouble.
    fn trouble(&self) -> Option<String>;

    /// The counts.
    fn counts(&self) -> SharedCounts;

    /// The answer under a name; `None` if there is none, or if the store cannot be reached in time.
    fn get<'a>(&'a self, name: &'a Name) -> Reply<'a, SharedEntry>;

    /// Stores an answer soon, if the store can be reached.
    fn put(&self, name: Name, entry: SharedEntry);

    /// Claims a call for this replica, for at most this long; false if another one has claimed it.
    fn claim<'a>(&'a self, name: &'a Name, span: Nanos) -> Reply<'a, bool>;

    /// Gives up a claim, after what has been put before.
    fn release(&self, name: &Name);

    /// Reads a register, and the store's time just before or after.
    fn read<'a>(&'a self, register: &'a str) -> Reply<'a, Register>;

    /// Replaces a register's value if it is still the old one; returns whether it was.
    fn replace<'a>(
        &'a self,
        register: &'a str,
        old: Option<&'a [u8]>,
        new: &'a [u8],
    ) -> Reply<'a, bool>;

    /// Removes the answers whose names begin with this text; returns their number.
    fn remove<'a>(&'a self, prefix: &'a str) -> Reply<'a, u64>;
}

/// Writes a value.
pub fn encode(name: &Name, entry: &SharedEntry) -> Vec<u8> {
    let mut flags = 0;
    let mut value = vec![0; HEADER_LEN];
    if entry.result.len() > COMPRESSED_MIN {
        let mut encoder = DeflateEncoder::new(value, Compression::fast());
        // Writing to memory cannot fail.
        let _ = encoder.write_all(&entry.result);
        value = encoder.finish().unwrap_or_default();
        if (HEADER_LEN..HEADER_LEN + entry.result.len()).contains(&value.len()) {
            flags |= IS_COMPRESSED;
        } else {
            value.resize(HEADER_LEN, 0);
        }
    }
    if flags & IS_COMPRESSED == 0 {
        value.extend_from_slice(&entry.result);
    }
    flags |= if entry.head.is_some() { HAS_HEAD } else { 0 };
    flags |= if entry.anchor.is_some() { HAS_ANCHOR } else { 0 };
    let anchor = entry.anchor.unwrap_or(Anchor { number: 0, hash: 0 });
    value[..4].copy_from_slice(&MAGIC);
    value[4..8].copy_from_slice(&[VERSION, flags, entry.class as u8, 0]);
    value[12..28].copy_from_slice(&name.digest);
    value[28..36].copy_from_slice(&entry.head.unwrap_or_default().to_be_bytes());
    value[36..44].copy_from_slice(&anchor.number.to_be_bytes());
    value[44..52].copy_from_slice(&anchor.hash.to_be_bytes());
    value[52..56].copy_from_slice(&(entry.result.len() as u32).to_be_bytes());
    let checksum = checksum(&value);
    value[8..12].copy_from_slice(&checksum);
    value
}

/// The length of a value's result; `None` if it is not one of ours.
pub fn result_len(value: &[u8]) -> Option<usize> {
    let is_ours = value.len() >= HEADER_LEN && value[..4] == MAGIC && value[4] == VERSION;
    is_ours.then(|| u32::from_be_bytes(part(value, 52)) as usize)
}

/// Reads a value; `None` if it is not one of ours for this name, or its result is longer than
/// `result_max`.
pub fn decode(
    name: &Name,
    value: &[u8],
    remaining: Nanos,
    result_max: usize,
) -> Option<SharedEntry> {
    let length = result_len(value).filter(|length| *length <= result_max)?;
    let is_whole = value[8..12] == checksum(value) && value[12..28] == name.digest;
    let class = Class::ALL.into_iter().find(|class| *class as u8 == value[6]);
    let (true, Some(class)) = (is_whole, class) else { return None };
    let (flags, body) = (value[5], &value[HEADER_LEN..]);
    let result = if flags & IS_COMPRESSED == 0 {
        body.to_vec()
    } else {
        let mut result = Vec::with_capacity(length);
        // One byte more shows that it is longer than announced.
        let mut decoder = DeflateDecoder::new(body).take(length as u64 + 1);
        decoder.read_to_end(&mut result).ok()?;
        result
    };
    let head = u64::from_be_bytes(part(value, 28));
    let anchor = Anchor {
        number: u64::from_be_bytes(part(value, 36)),
        hash: u64::from_be_bytes(part(value, 44)),
    };
    (result.len() == length).then(|| SharedEntry {
        result: result.into(),
        class,
        head: (flags & HAS_HEAD != 0).then_some(head),
        anchor: (flags & HAS_ANCHOR != 0).then_some(anchor),
        remaining,
    })
}

/// The checksum of a value: of its flags, and of everything after the place of the checksum.
fn checksum(value: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(&value[4..8]);
    crc.update(&value[12..]);
    crc.sum().to_be_bytes()
}

/// A part of the header.
fn part<const N: usize>(value: &[u8], start: usize) -> [u8; N] {
    std::array::from_fn(|at| value[start + at])
}

#[cfg(test)]
mod tests;
