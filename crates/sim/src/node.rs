//! A simulated node: answers calls from the chain, its reorganisations, and the transactions that
//! users sent.
//!
//! All answers are computed from the same few functions of the chain, so that methods cannot
//! contradict each other. State is bounded: the list of reorganisations, the pool, and the cache of
//! blocks. A node does not deal with HTTP, clocks and faults; a [`View`] contains the head and chain
//! id to report.
//!
//! # Layout
//! - `methods`: the methods, by name
//! - `blocks`, `logs`, `state`, `send`: the answers
//! - `render`: blocks, transactions, receipts and logs as JSON
//! - `params`, `failure`, `write`: reading parameters, errors, writing JSON
//! - `news`: what subscriptions are notified of
//! - `forks`, `pool`, `raw`: reorganisations, sent transactions and their encoding
//! - `recent`: a cache of blocks

mod blocks;
pub(crate) mod failure;
mod forks;
mod logs;
pub(crate) mod methods;
pub(crate) mod news;
pub(crate) mod params;
mod pool;
pub(crate) mod raw;
mod recent;
mod render;
mod send;
mod state;
pub(crate) mod write;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use plimsoll_measure::Nanos;

use crate::chain::Chain;
use crate::chain::block::{Block, BlockId};
use crate::chain::keccak::Hash;
use crate::service::Service;
use failure::Failure;
use forks::Forks;
use params::BlockRef;
use pool::Pool;
use recent::Blocks;

/// A node of one service.
pub(crate) struct Node {
    pub(crate) service: Service,
    chain: Chain,
    forks: RwLock<Forks>,
    pool: Mutex<Pool>,
    recent: Mutex<Blocks>,
    slots: OnceLock<HashMap<Hash, u64>>,
}

/// The state that a node reports while it answers one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// The newest block of the chain.
    pub(crate) tip: u64,
    /// The newest block that the node reports; below the tip if the node lags.
    pub(crate) head: u64,
    /// The chain id that the node reports.
    pub(crate) chain_id: u64,
}

impl Node {
    pub(crate) fn new(seed: u64, service: Service) -> Node {
        let chain = Chain::new(seed, &service);
        Node {
            service,
            chain,
            forks: RwLock::default(),
            pool: Mutex::default(),
            recent: Mutex::default(),
            slots: OnceLock::new(),
        }
    }

    /// The view of a healthy node at the time `unix` after the Unix epoch.
    pub(crate) fn view(&self, unix: Nanos) -> View {
        let tip = self.chain.height(unix);
        View { tip, head: tip, chain_id: self.service.chain_id }
    }

    /// Replaces the newest `depth` blocks. Returns whether the list of reorganisations had room.
    pub(crate) fn reorganise(&self, unix: Nanos, depth: u64) -> bool {
        let head = self.chain.height(unix);
        let mut forks = self.forks.write().unwrap_or_else(PoisonError::into_inner);
        forks.reorganise(head, depth)
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_forks<T>(&self, ask: impl FnOnce(&Forks) -> T) -> T {
        ask(&self.forks.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The block at a height.
    pub(crate) fn id_at(&self, number: u64) -> BlockId {
        self.with_forks(|forks| forks.at(number))
    }

    fn recent(&self) -> MutexGuard<'_, Blocks> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block up to the head, with its transactions.
    fn block(&self, id: BlockId) -> Arc<Block> {
        if let Some(recent) = self.recent().get(id) {
            return recent.block.clone();
        }
        let block = Arc::new(self.make_block(id));
        self.recent().put(block.clone());
        block
    }

    /// Computes a block.
    fn make_block(&self, id: BlockId) -> Block {
        let parent = self.with_forks(|forks| forks.parent(id));
        let sent: Vec<Arc<_>> = self.pool().in_block(id.number).to_vec();
        self.chain.block(id, parent, sent)
    }

    /// Finds the block that a call refers to; `None` if it does not exist (yet).
    fn resolve(&self, named: BlockRef, view: &View) -> Option<BlockId> {
        match named {
            BlockRef::Hash { hash, canonical } => {
                let id = self.chain.block_id(&hash)?;
                let wanted = !canonical || self.id_at(id.number) == id;
                let there = self.with_forks(|forks| forks.exists(id, view.head));
                (wanted && there).then_some(id)
            }
            other => {
                let number = self.height(other, view)?;
                (number <= view.head).then(|| self.id_at(number))
            }
        }
    }

    /// The height that a call refers to. `pending` means the newest block here; methods that support
    /// pending blocks handle it themselves.
    fn height(&self, named: BlockRef, view: &View) -> Option<u64> {
        Some(match named {
            BlockRef::Number(number) => number,
            BlockRef::Earliest => 0,
            BlockRef::Latest | BlockRef::Pending => view.head,
            BlockRef::Safe => view.head.saturating_sub(self.service.safe_depth),
            BlockRef::Finalized => view.head.saturating_sub(self.service.finalized_depth),
            BlockRef::Hash { hash, .. } => self.chain.block_id(&hash)?.number,
        })
    }

    /// The height of the state that a call refers to.
    fn state_at(&self, named: BlockRef, view: &View) -> Result<u64, Failure> {
        if let BlockRef::Hash { hash, canonical: true } = named {
            let id = self.chain.block_id(&hash);
            if id.is_some_and(|id| id.number <= view.head && self.id_at(id.number) != id) {
                return Err(Failure::server("hash is not currently canonical"));
            }
        }
        let id = self.resolve(named, view);
        id.map(|id| id.number).ok_or_else(Failure::header_not_found)
    }
}
