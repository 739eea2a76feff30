//! The blocks that were asked for last: most calls are about the same few.
//!
//! Only blocks up to the head are kept. Nothing changes them any more: what users send goes above.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::chain::block::{Block, BlockId};

/// How many blocks are kept; a few hundred kilobytes.
const BLOCKS_MAX: usize = 64;

/// A block and the texts that were made of it.
pub(crate) struct Recent {
    pub(crate) block: Arc<Block>,
    /// With transactions, and with hashes only.
    pub(crate) texts: [Option<Arc<[u8]>>; 2],
}

/// Blocks by age, the newest last.
#[derive(Default)]
pub(crate) struct Blocks {
    kept: VecDeque<Recent>,
}

impl Blocks {
    pub(crate) fn get(&mut self, id: BlockId) -> Option<&mut Recent> {
        self.kept.iter_mut().rev().find(|recent| recent.block.id == id)
    }

    /// Keeps a block; if it is kept already, that one stays.
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
