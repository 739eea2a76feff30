//! The present heads, readable by all workers without a lock.
//!
//! The keeper publishes after each report. Each figure is one word; the served heads are only ever
//! raised. Upstreams are published before the served heads, so that a worker that reads a new head
//! finds the upstreams that have it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::{Heads, Served, Standing};
use crate::protocol::evm::block_param::Tag;

/// See the module.
#[derive(Debug)]
pub struct Board {
    /// Latest, safe and finalized, each plus 1; 0 if not known.
    served: [AtomicU64; 3],
    is_held: AtomicBool,
    /// Whether the served heads are only raised by [`Board::raise`].
    is_shared: AtomicBool,
    /// A number that no board has had before.
    branch: AtomicU64,
    /// The reorganisations that were published.
    reorganisations: AtomicU64,
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
    /// A board for a service with this many upstreams, on which nothing is known.
    pub fn new(upstreams: usize) -> Board {
        Board {
            served: Default::default(),
            is_held: AtomicBool::new(false),
            is_shared: AtomicBool::new(false),
            branch: AtomicU64::new(next_branch()),
            reorganisations: AtomicU64::new(0),
            upstreams: (0..upstreams).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Publishes the heads.
    pub fn publish(&self, heads: &Heads) {
        let mut is_new_branch =
            self.reorganisations.swap(heads.reorganisations(), Relaxed) != heads.reorganisations();
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
        if !self.is_shared.load(Relaxed) {
            self.raise(heads.served());
        }
        self.is_held.store(heads.is_held(), Relaxed);
    }

    /// Raises the served heads.
    pub fn raise(&self, Served { latest, safe, finalized }: Served) {
        for (word, number) in self.served.iter().zip([latest, safe, finalized]) {
            word.fetch_max(number.map_or(0, |number| number + 1), Relaxed);
        }
    }

    /// Sets whether replicas agree on the served heads, which are then not raised by publishing.
    pub fn set_shared(&self, is_shared: bool) {
        self.is_shared.store(is_shared, Relaxed);
    }

    /// The served heads.
    pub fn served(&self) -> Served {
        let [latest, safe, finalized] =
            self.served.each_ref().map(|word| word.load(Relaxed).checked_sub(1));
        Served { latest, safe, finalized }
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
        self.served[place].load(Relaxed).checked_sub(1)
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
