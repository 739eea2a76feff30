//! A block: a range of the generated transactions, followed by those that users sent.

use std::sync::Arc;

use super::Chain;
use super::keccak::{Bloom, Hash, keccak};
use super::seal::Kind;
use super::transaction::{Address, Transaction};

/// Gas limit of a block.
pub(crate) const GAS_LIMIT: u64 = 30_000_000;
/// Range of the base fee, in gwei; see [`Chain::base_fee`].
const BASE_FEE_GWEI: std::ops::Range<u64> = 8..12;

/// Identifies a block by its height and fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BlockId {
    pub(crate) number: u64,
    /// 0, incremented by every reorganisation.
    pub(crate) fork: u64,
}

/// A block with its transactions.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) id: BlockId,
    pub(crate) hash: Hash,
    pub(crate) parent: Hash,
    /// Unix seconds.
    pub(crate) timestamp: u64,
    pub(crate) base_fee: u128,
    pub(crate) gas_used: u64,
    pub(crate) miner: Address,
    pub(crate) transactions: Vec<Arc<Transaction>>,
}

impl Block {
    /// The bloom filter of the addresses and topics of all logs.
    pub(crate) fn bloom(&self) -> Bloom {
        let mut bloom = Bloom::empty();
        self.transactions.iter().for_each(|transaction| transaction.add_to(&mut bloom));
        bloom
    }

    /// Stands in for the root of a trie in a real header: a hash of what the trie would contain, or the
    /// empty trie's root.
    pub(crate) fn root(&self, what: &str) -> Hash {
        if self.transactions.is_empty() && what != "state" {
            return EMPTY_ROOT;
        }
        let mut bytes = what.as_bytes().to_vec();
        if what == "state" {
            bytes.extend(self.hash);
        }
        self.transactions.iter().for_each(|transaction| bytes.extend(transaction.hash));
        keccak(&bytes)
    }

    /// Index of the first log of transaction `at` among the block's logs.
    pub(crate) fn logs_before(&self, at: usize) -> usize {
        self.transactions[..at].iter().map(|transaction| transaction.outcome.logs.len()).sum()
    }

    /// Gas used up to and including transaction `at`.
    pub(crate) fn gas_up_to(&self, at: usize) -> u64 {
        self.transactions[..=at].iter().map(|transaction| transaction.outcome.gas_used).sum()
    }
}

impl Transaction {
    /// The bloom filter of the addresses and topics of its logs.
    pub(crate) fn bloom(&self) -> Bloom {
        let mut bloom = Bloom::empty();
        self.add_to(&mut bloom);
        bloom
    }

    fn add_to(&self, bloom: &mut Bloom) {
        for log in &self.outcome.logs {
            bloom.add(&log.address);
            log.topics.iter().for_each(|topic| bloom.add(topic));
        }
    }
}

/// The root of an empty trie.
const EMPTY_ROOT: Hash = [
    0x56, 0xe8, 0x1f, 0x17, 0x1b, 0xcc, 0x55, 0xa6, 0xff, 0x83, 0x45, 0xe6, 0x92, 0xc0, 0xf8, 0x6e,
    0x5b, 0x48, 0xe0, 0x1b, 0x99, 0x6c, 0xad, 0xc0, 0x01, 0x62, 0x2f, 0xb5, 0xe3, 0x63, 0xb4, 0x21,
];

impl Chain {
    /// The hash of a block.
    pub(crate) fn block_hash(&self, id: BlockId) -> Hash {
        self.seals.seal(Kind::Block, u128::from(id.fork) << 64 | u128::from(id.number))
    }

    /// The block with this hash, whether or not it was ever mined.
    pub(crate) fn block_id(&self, hash: &Hash) -> Option<BlockId> {
        let value = self.seals.open(Kind::Block, hash)?;
        Some(BlockId { number: value as u64, fork: (value >> 64) as u64 })
    }

    /// The block `id` with this parent; `sent` are the transactions that users sent.
    pub(crate) fn block(
        &self,
        id: BlockId,
        parent: BlockId,
        sent: impl IntoIterator<Item = Arc<Transaction>>,
    ) -> Block {
        let ordinals = self.ledger.first(id.number)..self.ledger.first(id.number + 1);
        let mut transactions: Vec<_> =
            ordinals.map(|ordinal| Arc::new(self.transaction(ordinal))).collect();
        transactions.extend(sent);
        let miner = self.key.with(3).with(id.number % 5).with(id.fork);
        Block {
            id,
            hash: self.block_hash(id),
            parent: if id.number == 0 { [0; 32] } else { self.block_hash(parent) },
            timestamp: self.timestamp(id.number),
            base_fee: self.base_fee(id.number),
            gas_used: transactions.iter().map(|transaction| transaction.outcome.gas_used).sum(),
            miner: self.seals.seal(Kind::Account, u128::from(miner.bits()) << 64 | 1),
            transactions,
        }
    }

    /// The base fee of block `number`, in wei per unit of gas: a wave that depends only on the number,
    /// so that no replay is needed.
    pub(crate) fn base_fee(&self, number: u64) -> u128 {
        const STEPS: u64 = 64;
        let span = (BASE_FEE_GWEI.end - BASE_FEE_GWEI.start) * 1_000_000_000;
        let phase = number % (2 * STEPS);
        let step = phase.min(2 * STEPS - phase);
        u128::from(BASE_FEE_GWEI.start * 1_000_000_000 + span * step / STEPS)
    }
}
