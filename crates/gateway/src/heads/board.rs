//! The present heads, readable by all workers without a lock.
//!
//! The keeper publishes after each report. Each figure is one word. Upstreams are published before the
//! served heads, so that a worker that reads a new head finds the upstreams that have it.
//!
//! The served heads are those of a chain, not of a configuration: they are a [`Floor`], which a
//! service keeps when it is reconfigured, and finds again when it was removed and comes back
//! ([`Floors`]). Whoever publishes holds the floor's lock, so that checks that were started under an
//! earlier configuration cannot put an older head in the place of a newer one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_measure::Nanos;

use super::{Heads, Served, Standing};
use crate::protocol::evm::block_param::Tag;

/// The heads that this process has served of a chain.
#[derive(Debug, Default)]
pub struct Floor {
    /// Latest, safe and finalized, each plus 1; 0 if not known.
    served: [AtomicU64; 3],
    /// When the latest last rose.
    risen_at: AtomicU64,
    /// See [`Heads::is_one_word`].
    is_one_word: AtomicBool,
    writer: Mutex<()>,
}

impl Floor {
    /// The served heads.
    pub fn served(&self) -> Served {
        let [latest, safe, finalized] =
            self.served.each_ref().map(|word| word.load(Relaxed).checked_sub(1));
        Served { latest, safe, finalized }
    }

    /// When the latest last rose, since the gateway's start.
    pub fn risen_at(&self) -> Nanos {
        Nanos(self.risen_at.load(Relaxed))
    }

    /// Whether the served head is the word of one upstream.
    pub fn is_one_word(&self) -> bool {
        self.is_one_word.load(Relaxed)
    }

    /// The permission to publish.
    pub fn writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, served: Served, is_one_word: bool, now: Nanos) {
        let Served { latest, safe, finalized } = served;
        if latest > self.served().latest {
            self.risen_at.store(now.0, Relaxed);
        }
        for (word, number) in self.served.iter().zip([latest, safe, finalized]) {
            word.store(number.map_or(0, |number| number + 1), Relaxed);
        }
        self.is_one_word.store(is_one_word, Relaxed);
    }
}

/// The floors of all services that this process has had, by service and chain id.
#[derive(Debug, Default)]
pub struct Floors(Mutex<BTreeMap<ServedChain, Arc<Floor>>>);

/// The id of a service, and its chain's.
type ServedChain = (String, Option<u64>);

/// At most this many floors are kept of services that are no longer configured.
const FLOORS_MAX: usize = 1_024;

impl Floors {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The floor of a service.
    pub fn of(&self, service: &str, chain_id: Option<u64>) -> Arc<Floor> {
        let mut floors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let floor = floors.entry((service.to_string(), chain_id)).or_default().clone();
        let is_unused = |floor: &Arc<Floor>| Arc::strong_count(floor) == 1;
        if floors.values().filter(|floor| is_unused(floor)).count() > FLOORS_MAX {
            let oldest = floors.iter().filter(|(_, floor)| is_unused(floor));
            let oldest =
                oldest.min_by_key(|(_, floor)| floor.risen_at()).map(|(key, _)| key.clone());
            oldest.map(|key| floors.remove(&key));
        }
        floor
    }
}

/// See the module.
#[derive(Debug)]
pub struct Board {
    pub(crate) floor: Arc<Floor>,
    is_held: AtomicBool,
    /// Whether the served heads are only changed by [`Board::replace`].
    is_shared: AtomicBool,
    /// A number that no board has had before.
    branch: AtomicU64,
    /// The reorganisations and corrections that were published.
    changes: AtomicU64,
    /// The standing in the lowest 3 bits, and above them the number of the latest block.
    upstreams: Box<[AtomicU64]>,
}

/// The next number of a branch.
fn next_branch() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, SeqCst)
}

const STANDINGS: [Standing; 5] = [
    Standing::Unknown,
    Standing::Current,
    Standing::Lagging,
    Standing::Forked,
    Standing::Implausible,
];

impl Board {
    /// A board for a service with this many upstreams, of which nothing is known but what was served.
    pub fn new(upstreams: usize, floor: Arc<Floor>) -> Board {
        Board {
            floor,
            is_held: AtomicBool::new(false),
            is_shared: AtomicBool::new(false),
            branch: AtomicU64::new(next_branch()),
            changes: AtomicU64::new(0),
            upstreams: (0..upstreams).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Publishes the heads; the caller is the floor's [`Floor::writer`].
    pub fn publish(&self, heads: &Heads, now: Nanos) {
        let changes = heads.reorganisations() + heads.corrections();
        let mut is_new_branch = self.changes.swap(changes, Relaxed) != changes;
        for (upstream, word) in self.upstreams.iter().enumerate() {
            let standing = heads.standing(upstream);
            let place = STANDINGS.iter().position(|known| *known == standing).unwrap_or_default();
            let latest = heads.latest(upstream).unwrap_or_default();
            // Since its last report it may have answered from the other branch.
            let before = STANDINGS[(word.load(Relaxed) & 7) as usize % STANDINGS.len()];
            is_new_branch |= standing == Standing::Forked && before != Standing::Forked;
            word.store(latest << 3 | place as u64, Relaxed);
        }
        if is_new_branch {
            self.branch.store(next_branch(), SeqCst);
        }
        if !self.is_shared() {
            self.floor.store(heads.served(), heads.is_one_word(), now);
        }
        self.is_held.store(heads.is_held(), Relaxed);
    }

    /// Replaces the served heads by those that replicas share; the caller is the floor's
    /// [`Floor::writer`].
    pub fn replace(&self, shared: Served, now: Nanos) {
        if shared.latest < self.served().latest {
            self.branch.store(next_branch(), SeqCst);
        }
        self.floor.store(shared, self.floor.is_one_word(), now);
    }

    /// Sets whether replicas agree on the served heads, which are then not raised by publishing.
    pub fn set_shared(&self, is_shared: bool) {
        self.is_shared.store(is_shared, Relaxed);
    }

    /// Whether replicas agree on the served heads.
    pub fn is_shared(&self) -> bool {
        self.is_shared.load(Relaxed)
    }

    /// The served heads.
    pub fn served(&self) -> Served {
        self.floor.served()
    }

    /// The number to which a tag is bound; `None` for tags that are not, and while not known.
    #[inline]
    pub fn head(&self, tag: Tag) -> Option<u64> {
        let place = match tag {
            Tag::Latest => 0,
            Tag::Safe => 1,
            Tag::Finalized => 2,
            Tag::Earliest | Tag::Pending => return None,
        };
        self.floor.served[place].load(Relaxed).checked_sub(1)
    }

    /// Identifies what is known of the chain: changes when it has reorganised, and when an upstream is
    /// found to be on another branch. No two boards have the same.
    #[inline]
    pub fn branch(&self) -> u64 {
        self.branch.load(SeqCst)
    }

    /// Whether no upstream has the served latest block.
    #[inline]
    pub fn is_held(&self) -> bool {
        self.is_held.load(Relaxed)
    }

    /// The standing of an upstream, and the number of its latest block (0 while unknown).
    #[inline]
    pub fn upstream(&self, upstream: usize) -> (Standing, u64) {
        let word = self.upstreams[upstream].load(Relaxed);
        (STANDINGS[(word & 7) as usize % STANDINGS.len()], word >> 3)
    }

    /// Whether an upstream has the block of the served chain with this number.
    #[inline]
    pub fn has(&self, upstream: usize, number: u64) -> bool {
        let (standing, latest) = self.upstream(upstream);
        super::has(standing, latest, number)
    }
}
