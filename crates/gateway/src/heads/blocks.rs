//! The hashes of a branch's recent blocks, as far as they are known.
//!
//! A ring of 128 places: a block is at its number modulo 128, where it replaces an older one. Blocks
//! that were never reported are missing.

use super::{BlockId, Hash};

/// More than reorganisations of live chains are deep.
const PLACES: u64 = 128;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Blocks(Box<[Option<BlockId>; PLACES as usize]>);

impl Default for Blocks {
    fn default() -> Blocks {
        Blocks(Box::new([None; PLACES as usize]))
    }
}

impl Blocks {
    /// The hash of the block with this number.
    pub(super) fn hash(&self, number: u64) -> Option<Hash> {
        let block = self.0[(number % PLACES) as usize]?;
        (block.number == number).then_some(block.hash)
    }

    fn known(&self) -> impl Iterator<Item = BlockId> {
        self.0.iter().flatten().copied()
    }

    /// Adds a block, unless one with its number or a newer one in its place is known.
    pub(super) fn add(&mut self, block: BlockId) {
        let place = &mut self.0[(block.number % PLACES) as usize];
        if place.is_none_or(|old| old.number < block.number) {
            *place = Some(block);
        }
    }

    /// Adds the blocks of another part of the same branch.
    pub(super) fn extend(&mut self, other: &Blocks) {
        other.known().for_each(|block| self.add(block));
    }

    /// Records what a node now has, the last of which is its latest. If it had another block at one
    /// of these numbers, it has changed its branch; where the branches part is not known, so that all
    /// earlier knowledge is void. Returns whether it has not.
    pub(super) fn record(&mut self, blocks: &[BlockId]) -> bool {
        let differs =
            |block: &BlockId| self.hash(block.number).is_some_and(|hash| hash != block.hash);
        let is_same_branch = !blocks.iter().any(differs);
        if !is_same_branch {
            *self = Blocks::default();
        }
        for block in blocks {
            self.0[(block.number % PLACES) as usize] = Some(*block);
        }
        let latest = blocks.last().map_or(0, |block| block.number);
        for place in self.0.iter_mut() {
            place.take_if(|block| block.number > latest);
        }
        is_same_branch
    }

    /// The highest known number up to a limit.
    pub(super) fn highest_up_to(&self, limit: u64) -> Option<u64> {
        self.known().map(|block| block.number).filter(|number| *number <= limit).max()
    }

    /// Whether both have the same block at the highest number that both know; `None` if there is no
    /// such number.
    pub(super) fn agrees(&self, other: &Blocks) -> Option<bool> {
        let common = self.known().filter_map(|block| Some((block, other.hash(block.number)?)));
        let (block, hash) = common.max_by_key(|(block, _)| block.number)?;
        Some(block.hash == hash)
    }

    /// The lowest number at which both know different blocks.
    pub(super) fn lowest_difference(&self, other: &Blocks) -> Option<u64> {
        let differs =
            |block: &BlockId| other.hash(block.number).is_some_and(|hash| hash != block.hash);
        self.known().filter(differs).map(|block| block.number).min()
    }

    /// Whether the highest block that tells two branches apart, from a number on, is on the first.
    pub(super) fn is_on(&self, branch: &Blocks, other: &Blocks, from: u64) -> bool {
        let side = |block: BlockId| {
            let is_in = |branch: &Blocks| branch.hash(block.number) == Some(block.hash);
            match (is_in(branch), is_in(other)) {
                (true, false) => Some((block.number, true)),
                (false, true) => Some((block.number, false)),
                _ => None,
            }
        };
        let sides = self.known().filter(|block| block.number >= from).filter_map(side);
        sides.max().is_some_and(|(_, is_first)| is_first)
    }
}
