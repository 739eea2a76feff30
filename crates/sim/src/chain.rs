//! The chain as a pure function: block *n* of a seed is always the same, and is computed without
//! computing the blocks before it.
//!
//! It has no state and reads no clock: the head, the forks and the transactions sent by users are
//! managed by the node.
//!
//! # Layout
//! - `ledger`: the generated transactions, nonces and balances, in closed form
//! - `seal`: invertible hashes and addresses
//! - `transaction`, `block`: transactions and blocks
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

/// Initial balance of every address, in wei: a million ether, enough for a generated account to pay
/// its fees indefinitely, and for users to send without a faucet.
pub(crate) const ETHER_AT_GENESIS: u128 = 1_000_000 * 1_000_000_000_000_000_000;
/// Initial balance of every address, in token units.
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
        // Derived from the name, so that two services with the same chain id have different chains.
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

    /// The ordinal and the block of the generated transaction that created the contract at `address`.
    pub(crate) fn creation_at(&self, address: &Address) -> Option<(u64, u64)> {
        let ordinal = u64::try_from(self.seals.open(Kind::Contract, address)?).ok()?;
        Some((ordinal, self.ledger.block_of(ordinal)?))
    }

    /// The ordinal and the block of the generated transaction with this hash.
    pub(crate) fn find(&self, hash: &keccak::Hash) -> Option<(u64, u64)> {
        let ordinal = u64::try_from(self.seals.open(Kind::Transaction, hash)?).ok()?;
        Some((ordinal, self.ledger.block_of(ordinal)?))
    }

    /// The newest block at the time `unix` after the Unix epoch.
    pub(crate) fn height(&self, unix: Nanos) -> u64 {
        (unix - Nanos::from_secs(GENESIS_UNIX_SECS)).0 / self.block_time.0
    }

    /// The timestamp of block `number`, in seconds since the Unix epoch.
    pub(crate) fn timestamp(&self, number: u64) -> u64 {
        GENESIS_UNIX_SECS
            + (u128::from(number) * u128::from(self.block_time.0) / 1_000_000_000) as u64
    }
}
