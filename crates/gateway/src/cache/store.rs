//! The first level: answers in this process's memory.
//!
//! One store for all workers and services, bounded by bytes. An entry's weight is the length of its
//! result plus [`ENTRY_BYTES`] for everything else. The admission policy (quick_cache's Clock-PRO
//! variant) keeps answers that are asked for repeatedly when many others are asked for once.
//!
//! An entry is the text of a result, ready to be sent after the caller's id. A hit refers to these
//! bytes and copies nothing. A caller that reads slowly keeps them alive beyond their eviction, which
//! is why a hit on a long entry must be charged to the process's capacity like any other long answer.
//!
//! An entry is checked when it is read: its time to live, and for young ones the served branch and
//! head. A reorganisation therefore invalidates all young entries at once, by changing
//! [`Moment::branch`], and nothing has to search for them.
//!
//! # Limits
//! The store is divided into at most [`SHARDS_MAX`] shards, each of which has its part of the bytes;
//! there are fewer, so that each holds [`SHARD_ENTRIES_MIN`] of the longest entries, or one if even
//! that does not fit. Keys of evicted entries are remembered, for about 2 % of the bytes.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use plimsoll_measure::Nanos;
use plimsoll_registry::settings::CacheSettings;
use plimsoll_rpc::method::Method;
use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};

use super::class::{Class, Moment};
use super::key::Key;

/// The memory of an entry beyond its result: key, value, index and the allocator's overhead. A test
/// measures that this is enough.
pub const ENTRY_BYTES: u64 = CacheSettings::ENTRY_OVERHEAD;

/// Shards: more than the workers of most machines, so that they seldom wait for each other.
const SHARDS_MAX: u64 = 16;

/// Entries of the greatest length that fit into a shard.
const SHARD_ENTRIES_MIN: u64 = 4;

/// The length of a typical result, which determines how many evicted keys are remembered.
const RESULT_TYPICAL: u64 = 4 << 10;

/// The limits of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// The bytes of all entries together.
    pub bytes: u64,
    /// The bytes of a single result.
    pub entry: u64,
}

impl StoreLimits {
    /// Whether the longest entry fits.
    pub fn is_possible(&self) -> bool {
        self.bytes >= CacheSettings::memory_min(self.entry)
    }
}

/// An answer and how long it holds.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The text of the result.
    pub result: Bytes,
    /// The class.
    pub class: Class,
    /// The branch that was served when the call was sent.
    pub branch: u64,
    /// For answers about the head: the served latest block when the call was sent.
    pub head: Option<u64>,
    /// When it ends.
    pub expires_at: Nanos,
    /// The space, as a number ([`Keys::space`](super::key::Keys::space)).
    pub space: u64,
    /// The method.
    pub method: Method,
}

impl Entry {
    /// Whether the answer still holds.
    pub fn holds(&self, moment: &Moment, now: Nanos) -> bool {
        now < self.expires_at
            && (self.class != Class::Young || self.branch == moment.branch)
            && self.head.is_none_or(|head| moment.served.latest == Some(head))
    }
}

/// Counts since the start of the process.
#[derive(Debug, Default)]
pub struct Counts {
    stored: AtomicU64,
    too_large: AtomicU64,
    evicted: AtomicU64,
    ended: AtomicU64,
    dropped: AtomicU64,
}

/// The figures of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Entries now.
    pub entries: u64,
    /// Bytes now, including [`ENTRY_BYTES`] for each entry.
    pub bytes: u64,
    /// Answers stored.
    pub stored: u64,
    /// Answers not stored because they were too long.
    pub too_large: u64,
    /// Entries removed to make room.
    pub evicted: u64,
    /// Entries removed because they no longer held.
    pub ended: u64,
    /// Entries removed on request.
    pub dropped: u64,
}

/// What to remove on request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only entries of this space.
    pub space: Option<u64>,
    /// Only entries of this method.
    pub method: Option<Method>,
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    entries: Cache<Key, Entry, Weight, BuildHasherDefault<KeyHasher>, Evictions>,
    entry_max: u64,
    counts: Arc<Counts>,
}

impl Store {
    /// An empty store.
    ///
    /// # Panics
    /// The limits are not possible ([`StoreLimits::is_possible`]).
    pub fn new(limits: StoreLimits) -> Store {
        assert!(limits.is_possible(), "a store of fewer bytes than one entry");
        let shard_min = SHARD_ENTRIES_MIN * (limits.entry + ENTRY_BYTES);
        let shards = (limits.bytes / shard_min).clamp(1, SHARDS_MAX);
        // The next power of two is used; a smaller one keeps the promise.
        let shards = 1 << shards.ilog2();
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity((limits.bytes / RESULT_TYPICAL).max(1) as usize)
            .weight_capacity(limits.bytes)
            .build()
            .expect("both capacities are set");
        let counts = Arc::new(Counts::default());
        let evictions = Evictions(counts.clone());
        let entries =
            Cache::with_options(options, Weight, BuildHasherDefault::default(), evictions);
        Store { entries, entry_max: limits.entry, counts }
    }

    /// The answer with this key, if there is one that holds.
    #[inline]
    pub fn get(&self, key: Key, moment: &Moment, now: Nanos) -> Option<Bytes> {
        let entry = self.entries.get(&key)?;
        if entry.holds(moment, now) {
            return Some(entry.result);
        }
        self.end(key, moment, now);
        None
    }

    /// Removes an entry that does not hold, unless another one has taken its place.
    #[cold]
    fn end(&self, key: Key, moment: &Moment, now: Nanos) {
        if self.entries.remove_if(&key, |entry| !entry.holds(moment, now)).is_some() {
            self.counts.ended.fetch_add(1, Relaxed);
        }
    }

    /// Bytes of the longest result that is admitted.
    pub fn entry_max(&self) -> u64 {
        self.entry_max
    }

    /// Whether a result of this length may be stored; if not, counts it.
    pub fn admits(&self, length: usize) -> bool {
        let fits = length as u64 <= self.entry_max;
        if !fits {
            self.counts.too_large.fetch_add(1, Relaxed);
        }
        fits
    }

    /// Stores an answer whose result [`Store::admits`] has admitted. The result must own its memory: a
    /// slice would keep all of the buffer that it is a part of.
    pub fn put(&self, key: Key, entry: Entry) {
        debug_assert!(entry.result.len() as u64 <= self.entry_max, "not admitted");
        self.counts.stored.fetch_add(1, Relaxed);
        self.entries.insert(key, entry);
    }

    /// Removes one entry; returns whether there was one.
    pub fn drop_key(&self, key: Key) -> bool {
        let removed = self.entries.remove(&key).is_some();
        self.counts.dropped.fetch_add(removed.into(), Relaxed);
        removed
    }

    /// Removes the selected entries; returns their number. Locks each shard for as long as it is
    /// searched.
    pub fn drop_selected(&self, selection: &Selection) -> u64 {
        let removed = AtomicU64::new(0);
        self.entries.retain(|_, entry| {
            let is_selected = selection.space.is_none_or(|space| space == entry.space)
                && selection.method.is_none_or(|method| method == entry.method);
            removed.fetch_add(is_selected.into(), Relaxed);
            !is_selected
        });
        self.counts.dropped.fetch_add(removed.load(Relaxed), Relaxed);
        removed.into_inner()
    }

    /// The figures.
    pub fn figures(&self) -> Figures {
        Figures {
            entries: self.entries.len() as u64,
            bytes: self.entries.weight(),
            stored: self.counts.stored.load(Relaxed),
            too_large: self.counts.too_large.load(Relaxed),
            evicted: self.counts.evicted.load(Relaxed),
            ended: self.counts.ended.load(Relaxed),
            dropped: self.counts.dropped.load(Relaxed),
        }
    }
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Key, Entry> for Weight {
    #[inline]
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        entry.result.len() as u64 + ENTRY_BYTES
    }
}

/// Counts evictions, and frees what was evicted after the shard is unlocked.
#[derive(Clone, Debug)]
struct Evictions(Arc<Counts>);

impl Lifecycle<Key, Entry> for Evictions {
    type RequestState = Option<Entry>;

    fn on_evict(&self, last: &mut Option<Entry>, _: Key, entry: Entry) {
        self.0.evicted.fetch_add(1, Relaxed);
        *last = Some(entry);
    }
}

/// Uses half of the key as its hash: it is one already, under a key that callers do not know.
#[derive(Debug, Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    #[inline]
    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are 128 bits");
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests;
