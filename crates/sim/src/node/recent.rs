//! A cache of recently used blocks, because most calls are about the same few.
//!
//! Only blocks up to the head are cached: they no longer change, since transactions are added to
//! later blocks.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::chain::block::{Block, BlockId};

/// Maximum number of cached blocks; a few hundred kilobytes.
const BLOCKS_MAX: usize = 64;

/// A block and its JSON.
pub(crate) struct Recent {
    pub(crate) block: Arc<Block>,
    /// With full transactions, and with hashes only.
    pub(crate) texts: [Option<Arc<[u8]>>; 2],
}

/// The cache, with the newest entry last.
#[derive(Default)]
pub(crate) struct Blocks {
    kept: VecDeque<Recent>,
}

impl Blocks {
    pub(crate) fn get(&mut self, id: BlockId) -> Option<&mut Recent> {
        self.kept.iter_mut().rev().find(|recent| recent.block.id == id)
    }

    /// Adds a block, unless it is already cached.
    pub(crate) fn put(&mut self, block: Arc<Block>) {
        if self.get(block.id).is_some() {
            return;
        }
        if self.kept.len() == BLOCKS_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(Recent { block, texts: [None, None] });
    }
}
