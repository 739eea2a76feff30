//! The chain as a pure function: block *n* of a seed is always the same, whoever asks, in whatever
//! order, without anything before it having been made.
//!
//! It holds no state and reads no clock: which height is the head, which forks there were and what
//! users sent is the node's business.
//!
//! # Layout
//! - `ledger`: who sends what when, in closed form
//! - `seal`: hashes and addresses that can be read back
//! - `transaction`, `block`: what the answers are made from
//! - `keccak`: hash and bloom filter

pub(crate) mod block;
pub(crate) mod keccak;
pub(crate) mod ledger;
pub(crate) mod seal;
pub(crate) mod transaction;

use plimsoll_measure::Nanos;
use plimsoll_measure::rng::Key;

use crate::service::{GENESIS_UNIX_SECS, Service};
use ledger::{ACCOUNTS, Ledger};
use seal::{Kind, Seals};
use transaction::{Address, Names};

/// Wei that every address holds before the first block, a million ether: enough for a generated
/// account to pay its fees for ever, and for a user to send without asking a faucet.
pub(crate) const ETHER_AT_GENESIS: u128 = 1_000_000 * 1_000_000_000_000_000_000;
/// Token units that every address holds before the first block.
pub(crate) const TOKENS_AT_GENESIS: u128 = 1_000_000_000_000 * 1_000_000_000_000_000_000;

/// One chain.
#[derive(Clone)]
pub(crate) struct Chain {
    key: Key,
    seals: Seals,
    pub(crate) ledger: Ledger,
    pub(crate) names: Names,
    pub(crate) chain_id: u64,
    block_time: Nanos,
}

impl Chain {
    pub(crate) fn new(seed: u64, service: &Service) -> Chain {
        // The name enters by its bytes, so that two services of one chain id are two worlds.
        let key = service.name.bytes().fold(Key::new(seed), |key, byte| key.with(u64::from(byte)));
        Chain {
            key,
            seals: Seals::new(key.with(0)),
            ledger: Ledger::new(key.with(1), service.transactions),
            names: Names::new(),
            chain_id: service.chain_id,
            block_time: service.block_time,
        }
    }

    /// The address of a generated account.
    pub(crate) fn account(&self, index: u64) -> Address {
        self.seals.seal(Kind::Account, u128::from(index))
    }

    /// The generated account at `address`.
    pub(crate) fn account_at(&self, address: &Address) -> Option<u64> {
        let index = self.seals.open(Kind::Account, address)?;
        (index < u128::from(ACCOUNTS)).then_some(index as u64)
    }

    /// The ordinal of the generated transaction that created the contract at `address`, and the
    /// contract's block.
    pub(crate) fn creation_at(&self, address: &Address) -> Option<(u64, u64)> {
        let ordinal = u64::try_from(self.seals.open(Kind::Contract, address)?).ok()?;
        Some((ordinal, self.ledger.block_of(ordinal)?))
    }

    /// The generated transaction with this hash: its ordinal and its block.
    pub(crate) fn find(&self, hash: &keccak::Hash) -> Option<(u64, u64)> {
        let ordinal = u64::try_from(self.seals.open(Kind::Transaction, hash)?).ok()?;
        Some((ordinal, self.ledger.block_of(ordinal)?))
    }

    /// The newest block whose time has come, `unix` after 1970.
    pub(crate) fn height(&self, unix: Nanos) -> u64 {
        (unix - Nanos::from_secs(GENESIS_UNIX_SECS)).0 / self.block_time.0
    }

    /// When block `number` is due, in seconds after 1970.
    pub(crate) fn timestamp(&self, number: u64) -> u64 {
        GENESIS_UNIX_SECS
            + (u128::from(number) * u128::from(self.block_time.0) / 1_000_000_000) as u64
    }
}
