//! What subscriptions are notified of: new blocks, their logs, and pending transactions.
//!
//! Not simulated: logs of replaced blocks (`removed`), and `syncing`.

use std::sync::Arc;

use plimsoll_measure::Nanos;

use super::failure::Failure;
use super::logs::Filter;
use super::params::Params;
use super::{Node, render, write};
use crate::chain::block::{Block, BlockId};
use crate::chain::keccak::Hash;

/// What a subscription asks for.
#[derive(Debug)]
pub(crate) enum Topic {
    Heads,
    Logs(Filter),
    /// Hashes, or whole transactions.
    Pending {
        full: bool,
    },
}

impl Topic {
    /// Reads the parameters of `eth_subscribe`.
    ///
    /// # Errors
    /// The error object to answer with.
    pub(crate) fn read(params: Option<&[u8]>) -> Result<Topic, Failure> {
        let params = Params::read(params, 2)?;
        match params.need(0)?.word() {
            Some("newHeads") => Ok(Topic::Heads),
            Some("newPendingTransactions") => Ok(Topic::Pending { full: params.flag(1)? }),
            Some("logs") => {
                let filter = params.maybe(1).map(Filter::of).transpose()?;
                Ok(Topic::Logs(filter.unwrap_or_default()))
            }
            Some(other) => {
                let message = format!("no \"{other}\" subscription in eth namespace");
                Err(Failure::new(plimsoll_rpc::code::METHOD_NOT_FOUND, message))
            }
            None => Err(Failure::argument(0, "must be the name of a subscription")),
        }
    }

    /// The name in calls and faults.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Topic::Heads => "newHeads",
            Topic::Logs(_) => "logs",
            Topic::Pending { .. } => "newPendingTransactions",
        }
    }
}

/// A new block, and the transactions that wait for the next one.
#[derive(Debug)]
pub(crate) struct News {
    block: Arc<Block>,
    header: Vec<u8>,
    next: Block,
}

impl Node {
    /// The news of a block.
    pub(crate) fn news(&self, id: BlockId) -> News {
        let block = self.block(id);
        let mut header = Vec::new();
        render::header(&mut header, &block);
        News { block, header, next: self.make_block(self.id_at(id.number + 1)) }
    }
}

impl News {
    /// The number of the block.
    pub(crate) fn number(&self) -> u64 {
        self.block.id.number
    }

    /// The block.
    pub(crate) fn id(&self) -> BlockId {
        self.block.id
    }

    /// The timestamp of the block.
    pub(crate) fn unix(&self) -> Nanos {
        Nanos::from_secs(self.block.timestamp)
    }

    /// The results that a subscription is notified of, as JSON.
    pub(crate) fn results(&self, topic: &Topic, visit: &mut dyn FnMut(&[u8])) {
        let mut out = Vec::new();
        match topic {
            Topic::Heads => visit(&self.header),
            Topic::Logs(filter) => {
                let mut nth = 0;
                for (at, transaction) in self.block.transactions.iter().enumerate() {
                    for log in &transaction.outcome.logs {
                        if filter.matches(log) {
                            out.clear();
                            render::log(&mut out, &self.block, at, nth, log);
                            visit(&out);
                        }
                        nth += 1;
                    }
                }
            }
            Topic::Pending { full } => {
                for transaction in &self.next.transactions {
                    out.clear();
                    let hash: &Hash = &transaction.hash;
                    if *full {
                        render::transaction(&mut out, transaction, None)
                    } else {
                        write::data(&mut out, hash)
                    }
                    visit(&out);
                }
            }
        }
    }
}
