//! Which upstream took which transaction, for a while.
//!
//! Entries expire after [`TIME_MAX`]; beyond [`ENTRIES_MAX`] the oldest is forgotten early, and
//! counted. One lock, because sends are rare; while nothing is remembered, a look-up only loads a
//! counter.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use plimsoll_measure::Nanos;

use super::{Address, Hash, Sought};

/// How long a transaction is remembered. Nodes tell each other of a transaction within seconds; it is
/// usually mined within a minute or two, after which all of them have it.
const TIME_MAX: Nanos = Nanos::from_secs(300);

/// The maximum number of transactions: about 4 MiB, and 54 per second for all of [`TIME_MAX`].
const ENTRIES_MAX: usize = 16_384;

/// The transactions that upstreams have accepted recently.
#[derive(Debug, Default)]
pub struct Sent {
    /// The number of entries.
    len: AtomicUsize,
    /// Entries that were forgotten early.
    displaced: AtomicU64,
    memory: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    /// In the order in which they were accepted.
    entries: VecDeque<Entry>,
    by_hash: HashMap<Hash, Place>,
    by_sender: HashMap<Address, Place>,
    /// Entries so far.
    total: u64,
}

#[derive(Debug)]
struct Entry {
    hash: Hash,
    sender: Option<Address>,
    at: Nanos,
}

/// What an index says about its key.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The entry that it is from, counted from the first.
    number: u64,
    upstream: u64,
    /// Whether the upstream is known to have the transaction, or only may have it.
    is_certain: bool,
}

impl Sent {
    /// Remembers that an upstream accepted a transaction, or knows it. The upstream is named by a
    /// number that stays the same while it is configured.
    pub fn accepted(&self, hash: Hash, sender: Option<Address>, upstream: u64, now: Nanos) {
        self.remember(hash, sender, upstream, true, now);
    }

    /// Remembers that an upstream may have accepted a transaction.
    pub fn doubted(&self, hash: Hash, upstream: u64, now: Nanos) {
        self.remember(hash, None, upstream, false, now);
    }

    fn remember(
        &self,
        hash: Hash,
        sender: Option<Address>,
        upstream: u64,
        is_certain: bool,
        now: Nanos,
    ) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.expire(now);
        if memory.entries.len() == ENTRIES_MAX {
            memory.forget_first();
            self.displaced.fetch_add(1, Relaxed);
        }
        let place = Place { number: memory.total, upstream, is_certain };
        memory.total += 1;
        memory.entries.push_back(Entry { hash, sender, at: now });
        // Several upstreams may take it: the first one has had it for longest.
        let known = memory.by_hash.entry(hash).or_insert(place);
        if known.is_certain || !is_certain {
            known.number = place.number;
        } else {
            *known = place;
        }
        if let Some(sender) = sender {
            memory.by_sender.insert(sender, place);
        }
        self.len.store(memory.entries.len(), Relaxed);
    }

    /// The upstream that accepted a transaction, or may have.
    pub fn by_hash(&self, hash: &Hash, now: Nanos) -> Option<u64> {
        self.find(now, |memory| memory.by_hash.get(hash)).map(|place| place.upstream)
    }

    /// Whether an upstream has accepted a transaction.
    pub fn was_accepted(&self, hash: &Hash, now: Nanos) -> bool {
        self.find(now, |memory| memory.by_hash.get(hash)).is_some_and(|place| place.is_certain)
    }

    /// The upstream that accepted the latest transaction of a sender.
    pub fn by_sender(&self, sender: &Address, now: Nanos) -> Option<u64> {
        self.find(now, |memory| memory.by_sender.get(sender)).map(|place| place.upstream)
    }

    /// The upstream to which a read should go, if it accepted what the read is about.
    pub fn upstream(&self, sought: &Sought, now: Nanos) -> Option<u64> {
        match sought {
            Sought::Transaction(hash) => self.by_hash(hash, now),
            Sought::Account(address) => self.by_sender(address, now),
        }
    }

    /// Whether nothing is remembered.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len.load(Relaxed) == 0
    }

    /// How many transactions were forgotten early because there were too many.
    pub fn displaced(&self) -> u64 {
        self.displaced.load(Relaxed)
    }

    fn find(&self, now: Nanos, find: impl Fn(&Memory) -> Option<&Place>) -> Option<Place> {
        if self.is_empty() {
            return None;
        }
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.expire(now);
        self.len.store(memory.entries.len(), Relaxed);
        find(&memory).copied()
    }
}

impl Memory {
    fn expire(&mut self, now: Nanos) {
        while self.entries.front().is_some_and(|entry| now - entry.at >= TIME_MAX) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        let number = self.total - self.entries.len() as u64 - 1;
        if self.by_hash.get(&entry.hash).is_some_and(|place| place.number == number) {
            self.by_hash.remove(&entry.hash);
        }
        if let Some(sender) = entry.sender
            && self.by_sender.get(&sender).is_some_and(|place| place.number == number)
        {
            self.by_sender.remove(&sender);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn hash(number: u64) -> Hash {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        hash
    }

    #[test]
    fn the_upstream_of_a_transaction_is_remembered_for_a_while() {
        let sent = Sent::default();
        let (alice, bob) = ([1; 20], [2; 20]);
        let at = Nanos::from_secs;
        assert_eq!(sent.by_hash(&hash(1), at(0)), None);
        sent.accepted(hash(1), Some(alice), 7, at(0));
        sent.accepted(hash(1), Some(alice), 8, at(1));
        sent.accepted(hash(2), Some(alice), 9, at(100));
        sent.accepted(hash(3), None, 7, at(100));
        let by_hash = [1, 2, 3, 4].map(|number| sent.by_hash(&hash(number), at(101)));
        assert_eq!(by_hash, [Some(7), Some(9), Some(7), None]);
        assert_eq!([alice, bob].map(|who| sent.by_sender(&who, at(101))), [Some(9), None]);
        assert_eq!(sent.upstream(&Sought::Account(alice), at(101)), Some(9));
        assert_eq!(sent.upstream(&Sought::Transaction(hash(2)), at(101)), Some(9));
        // The first expires before the second, counted from when it was last accepted.
        let expired = [300, 301].map(|secs| sent.by_hash(&hash(1), at(secs)));
        assert_eq!(expired, [Some(7), None]);
        assert_eq!(sent.by_sender(&alice, at(399)), Some(9));
        assert_eq!(sent.by_sender(&alice, at(400)), None);
        assert!(sent.is_empty());
        assert_eq!(sent.displaced(), 0);
    }

    #[test]
    fn an_acceptance_replaces_a_doubt() {
        let sent = Sent::default();
        let at = Nanos::from_secs;
        sent.doubted(hash(1), 7, at(0));
        assert_eq!(
            (sent.by_hash(&hash(1), at(1)), sent.was_accepted(&hash(1), at(1))),
            (Some(7), false)
        );
        sent.accepted(hash(1), None, 8, at(2));
        assert_eq!(
            (sent.by_hash(&hash(1), at(3)), sent.was_accepted(&hash(1), at(3))),
            (Some(8), true)
        );
        sent.doubted(hash(1), 9, at(4));
        assert_eq!(
            (sent.by_hash(&hash(1), at(5)), sent.was_accepted(&hash(1), at(5))),
            (Some(8), true)
        );
        assert_eq!(sent.by_hash(&hash(1), at(304)), None);
    }

    #[test]
    fn the_number_of_entries_is_limited() {
        let sent = Sent::default();
        let total = ENTRIES_MAX as u64 + 100;
        for number in 0..total {
            let mut sender = [0; 20];
            sender[..8].copy_from_slice(&number.to_be_bytes());
            sent.accepted(hash(number), Some(sender), 1, Nanos(number));
        }
        let memory = sent.memory.lock().expect("a lock");
        let lens = [memory.entries.len(), memory.by_hash.len(), memory.by_sender.len()];
        assert_eq!(lens, [ENTRIES_MAX; 3]);
        drop(memory);
        assert_eq!(sent.displaced(), 100);
        assert_eq!(sent.by_hash(&hash(99), Nanos(total)), None);
        assert_eq!(sent.by_hash(&hash(100), Nanos(total)), Some(1));
    }

    proptest! {
        /// The indexes have no keys that the entries do not have, and forget nothing too early.
        #[test]
        fn indexes_agree_with_the_entries(
            sends in proptest::collection::vec((0u64..6, 0u8..4, 0u64..100), 1..100),
        ) {
            let sent = Sent::default();
            let mut now = Nanos::ZERO;
            let mut model: Vec<(u64, u8, u64, Nanos)> = Vec::new();
            for (upstream, (number, sender, pause)) in sends.into_iter().enumerate() {
                now += Nanos::from_secs(pause);
                sent.accepted(hash(number), Some([sender; 20]), upstream as u64, now);
                model.push((number, sender, upstream as u64, now));
                model.retain(|(.., at)| now - *at < TIME_MAX);
                let last = model.iter().rev().find(|(_, of, ..)| *of == sender);
                let expected = last.map(|(_, _, upstream, _)| *upstream);
                prop_assert_eq!(sent.by_sender(&[sender; 20], now), expected);
                prop_assert!(sent.by_hash(&hash(number), now).is_some());
                let memory = sent.memory.lock().expect("a lock");
                let known: HashSet<Hash> = memory.entries.iter().map(|entry| entry.hash).collect();
                prop_assert_eq!(memory.by_hash.keys().copied().collect::<HashSet<_>>(), known);
                prop_assert_eq!(memory.entries.len(), model.len());
            }
        }
    }
}
