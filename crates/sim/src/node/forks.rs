//! The canonical block at each height, after reorganisations.
//!
//! A reorganisation replaces the newest blocks by others with the same heights. As on real nodes,
//! replaced blocks can still be requested by hash. The list of reorganisations is bounded by
//! [`REORGANISATIONS_MAX`].

use crate::chain::block::BlockId;

/// Maximum number of reorganisations of a chain; beyond it, the first would have to be forgotten,
/// which would change blocks that were finalized long ago.
const REORGANISATIONS_MAX: usize = 10_000;

/// The branches of one chain.
#[derive(Default)]
pub(crate) struct Forks {
    /// The height of the first block of each reorganisation, and the head at that time.
    list: Vec<(u64, u64)>,
}

impl Forks {
    /// Replaces the newest `depth` blocks up to `head`. Returns whether the list had room.
    pub(crate) fn reorganise(&mut self, head: u64, depth: u64) -> bool {
        if self.list.len() == REORGANISATIONS_MAX {
            return false;
        }
        // Block 0 is never replaced.
        let first = (head + 1).saturating_sub(depth).max(1);
        self.list.push((first, head));
        true
    }

    /// The block at a height.
    pub(crate) fn at(&self, number: u64) -> BlockId {
        self.at_before(number, self.list.len())
    }

    /// The parent of `id`, which may have been replaced.
    pub(crate) fn parent(&self, id: BlockId) -> BlockId {
        self.at_before(id.number.saturating_sub(1), id.fork as usize)
    }

    /// Whether this block was ever mined, if the head is at `head`.
    pub(crate) fn exists(&self, id: BlockId, head: u64) -> bool {
        let Ok(fork) = usize::try_from(id.fork) else { return false };
        let first = match fork.checked_sub(1) {
            None => 0,
            Some(at) => match self.list.get(at) {
                Some((first, _)) => *first,
                None => return false,
            },
        };
        let last = self.list.get(fork).map_or(head, |(_, head)| *head);
        (first..=last).contains(&id.number) && id.number <= head
    }

    /// The block at a height after the first `count` reorganisations.
    fn at_before(&self, number: u64, count: usize) -> BlockId {
        let made = &self.list[..count.min(self.list.len())];
        let fork = made.iter().rposition(|(first, _)| *first <= number).map_or(0, |at| at + 1);
        BlockId { number, fork: fork as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches() {
        let mut forks = Forks::default();
        let id = |number, fork| BlockId { number, fork };
        assert!(forks.reorganise(100, 3)); // 98, 99, 100 are replaced
        assert!(forks.reorganise(105, 10)); // 96 to 105
        assert_eq!(forks.at(95), id(95, 0));
        assert_eq!(forks.at(96), id(96, 2));
        assert_eq!(forks.at(110), id(110, 2));
        // replaced blocks keep their parents
        assert_eq!(forks.parent(id(99, 1)), id(98, 1));
        assert_eq!(forks.parent(id(98, 1)), id(97, 0));
        assert_eq!(forks.parent(id(96, 2)), id(95, 0));
        assert_eq!(forks.parent(id(100, 0)), id(99, 0));
        let exists = |number, fork| forks.exists(id(number, fork), 110);
        assert!(exists(100, 0) && !exists(101, 0), "fork 0 ended at its head");
        assert!(exists(98, 1) && !exists(97, 1) && exists(105, 1) && !exists(106, 1));
        assert!(exists(110, 2) && !exists(111, 2) && !exists(96, 3));
        // deeper than the chain: replaces all but block 0
        assert!(Forks::default().reorganise(2, 50));
    }
}
