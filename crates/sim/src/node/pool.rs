//! Transactions that users sent.
//!
//! A transaction is accepted once. It is assigned to the next block with room, as soon as all
//! transactions of the same sender with lower nonces are assigned, and never changes after that. The
//! pool keeps the newest [`SENT_MAX`] transactions. Older ones are forgotten once finalized, and only
//! the sums of their effects are kept.
//!
//! Invariant: an account's transactions are in blocks in the order of their nonces, without gaps.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::failure::Failure;
use crate::chain::keccak::Hash;
use crate::chain::transaction::{Address, TOKEN, Transaction, balance_slot};

/// Maximum number of sent transactions that are kept; about 50 MB.
const SENT_MAX: usize = 50_000;
/// Maximum number of accounts that have sent or received; about 20 MB.
const ACCOUNTS_MAX: usize = 100_000;
/// Maximum number of sent transactions in a block, in addition to the generated ones.
const PER_BLOCK_MAX: usize = 500;
/// Maximum distance of a nonce from the next one.
const NONCES_AHEAD_MAX: u64 = 1_000;

/// Sent transactions of one chain.
#[derive(Default)]
pub(crate) struct Pool {
    known: HashMap<Hash, Sent>,
    blocks: BTreeMap<u64, Vec<Arc<Transaction>>>,
    accounts: HashMap<Address, Account>,
    /// The token holders by storage slot, for accounts affected by sent transactions; not more than
    /// there are accounts.
    holders: HashMap<Hash, Address>,
    /// Transactions that have a block, in the order of assignment.
    placed: VecDeque<Hash>,
}

/// A transaction and its block.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) transaction: Arc<Transaction>,
    /// The block; `None` while an earlier nonce is missing.
    pub(crate) block: Option<u64>,
}

#[derive(Default)]
struct Account {
    effects: Vec<Effect>,
    /// Sums of the effects of forgotten transactions.
    forgotten: Sums,
    /// Sums of all effects, forgotten or not, mined or not.
    total: Sums,
    /// Transactions that wait for an earlier nonce.
    waiting: BTreeMap<u64, Arc<Transaction>>,
    last_block: u64,
    /// The block in which the account was created as a contract.
    created_in: Option<u64>,
}

struct Effect {
    block: u64,
    sums: Sums,
}

/// The effects of transactions on an account.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Transactions sent.
    pub(crate) sent: u64,
    pub(crate) ether: i128,
    pub(crate) tokens: i128,
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Sums) {
        self.sent += other.sent;
        self.ether += other.ether;
        self.tokens += other.tokens;
    }
}

impl Pool {
    /// The transaction with this hash.
    pub(crate) fn find(&self, hash: &Hash) -> Option<&Sent> {
        self.known.get(hash)
    }

    /// The transactions of a block, in order.
    pub(crate) fn in_block(&self, number: u64) -> &[Arc<Transaction>] {
        self.blocks.get(&number).map_or(&[], Vec::as_slice)
    }

    /// The effects on an account up to and including a block.
    pub(crate) fn sums(&self, address: &Address, number: u64) -> Sums {
        let Some(account) = self.accounts.get(address) else { return Sums::default() };
        let mut sums = account.forgotten;
        account.effects.iter().filter(|e| e.block <= number).for_each(|e| sums += e.sums);
        sums
    }

    /// The holder whose token balance is in a storage slot.
    pub(crate) fn holder(&self, slot: &Hash) -> Option<Address> {
        self.holders.get(slot).copied()
    }

    /// The block in which a sent transaction created the contract at `address`.
    pub(crate) fn created_in(&self, address: &Address) -> Option<u64> {
        self.accounts.get(address)?.created_in
    }

    /// The effects on an account once all transactions that have a block are mined.
    pub(crate) fn total(&self, address: &Address) -> Sums {
        self.accounts.get(address).map(|account| account.total).unwrap_or_default()
    }

    /// Adds a transaction whose price, balance and signature were checked. `place` sets its outcome
    /// once its block is known.
    pub(crate) fn add(
        &mut self,
        transaction: Transaction,
        head: u64,
        finalized: u64,
        place: impl Fn(&mut Transaction, u64),
    ) -> Result<Hash, Failure> {
        let (hash, from, nonce) = (transaction.hash, transaction.from, transaction.nonce);
        if self.known.contains_key(&hash) {
            return Err(Failure::server("already known"));
        }
        let next = self.total(&from).sent;
        if nonce < next {
            let mined = self.sums(&from, head).sent;
            return Err(Failure::server(if nonce < mined {
                format!("nonce too low: next nonce {mined}, tx nonce {nonce}")
            } else {
                "replacement transaction underpriced".into()
            }));
        }
        if nonce > next + NONCES_AHEAD_MAX {
            return Err(Failure::server(format!(
                "nonce too high: next nonce {next}, tx nonce {nonce}"
            )));
        }
        self.make_room(finalized)?;
        let account = self.accounts.entry(from).or_default();
        if account.waiting.contains_key(&nonce) {
            return Err(Failure::server("replacement transaction underpriced"));
        }
        let transaction = Arc::new(transaction);
        account.waiting.insert(nonce, transaction.clone());
        self.known.insert(hash, Sent { transaction, block: None });
        self.assign_blocks(&from, head, place);
        Ok(hash)
    }

    /// Assigns blocks to the transactions of `from` that wait for no earlier nonce.
    fn assign_blocks(&mut self, from: &Address, head: u64, place: impl Fn(&mut Transaction, u64)) {
        while let Some(account) = self.accounts.get_mut(from) {
            let Some(transaction) = account.waiting.remove(&account.total.sent) else { break };
            let mut number = account.last_block.max(head + 1);
            while self.in_block(number).len() >= PER_BLOCK_MAX {
                number += 1;
            }
            let mut transaction = Arc::unwrap_or_clone(transaction);
            place(&mut transaction, number);
            let transaction = Arc::new(transaction);
            for (address, sums) in effects(&transaction) {
                if sums.tokens != 0 {
                    self.holders.insert(balance_slot(&address), address);
                }
                let account = self.accounts.entry(address).or_default();
                account.effects.push(Effect { block: number, sums });
                account.total += sums;
            }
            self.accounts.entry(*from).or_default().last_block = number;
            if let Some(contract) = transaction.outcome.created {
                self.accounts.entry(contract).or_default().created_in = Some(number);
            }
            self.blocks.entry(number).or_default().push(transaction.clone());
            self.placed.push_back(transaction.hash);
            self.known.insert(transaction.hash, Sent { transaction, block: Some(number) });
        }
    }

    /// Forgets the oldest transactions if the pool is full and they are finalized.
    fn make_room(&mut self, finalized: u64) -> Result<(), Failure> {
        let full = || Failure::server("txpool is full");
        if self.accounts.len() + 2 > ACCOUNTS_MAX {
            return Err(full());
        }
        while self.known.len() >= SENT_MAX {
            let oldest = self.placed.front().and_then(|hash| self.known.get(hash));
            let Some(Sent { transaction, block: Some(number) }) = oldest.cloned() else {
                return Err(full());
            };
            if number > finalized {
                return Err(full());
            }
            self.placed.pop_front();
            self.known.remove(&transaction.hash);
            if let Some(block) = self.blocks.get_mut(&number) {
                block.retain(|other| other.hash != transaction.hash);
                if block.is_empty() {
                    self.blocks.remove(&number);
                }
            }
            for (address, sums) in effects(&transaction) {
                let Some(account) = self.accounts.get_mut(&address) else { continue };
                let at = account.effects.iter().position(|e| e.block == number && e.sums == sums);
                if let Some(at) = at {
                    account.effects.swap_remove(at);
                    account.forgotten += sums;
                }
            }
        }
        Ok(())
    }
}

/// The effects of a transaction that has a block, by account. No account receives the fees.
fn effects(transaction: &Transaction) -> Vec<(Address, Sums)> {
    let signed = |amount: u128| i128::try_from(amount).unwrap_or(i128::MAX);
    let outcome = &transaction.outcome;
    let moved = if outcome.succeeded { signed(transaction.value) } else { 0 };
    let fee = signed(u128::from(outcome.gas_used).saturating_mul(outcome.gas_price));
    let mut effects = vec![(transaction.from, Sums { sent: 1, ether: -(moved + fee), tokens: 0 })];
    let receiver = transaction.to.or(outcome.created);
    if let Some(receiver) = receiver.filter(|_| moved > 0) {
        effects.push((receiver, Sums { ether: moved, ..Sums::default() }));
    }
    for log in outcome.logs.iter().filter(|log| log.address == TOKEN) {
        let [_, from, to] = log.topics.as_slice() else { continue };
        let address = |word: &Hash| word[12..].try_into().unwrap_or_default();
        let amount = log.data.last_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes));
        effects.push((address(from), Sums { tokens: -signed(amount), ..Sums::default() }));
        effects.push((address(to), Sums { tokens: signed(amount), ..Sums::default() }));
    }
    effects
}
