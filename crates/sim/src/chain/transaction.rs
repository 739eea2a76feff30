//! Transactions with their outcomes, and the generated transactions.
//!
//! Generated transactions have pseudo-random signatures; their senders have no known keys.

use super::Chain;
use super::keccak::{Hash, keccak};
use super::ledger::{Action, Turn};
use super::seal::Kind;

/// An account or a contract.
pub(crate) type Address = [u8; 20];

/// The ERC-20 token of every chain.
pub(crate) const TOKEN: Address = well_known(1);
/// The contract that emits various logs.
pub(crate) const RECORDER: Address = well_known(2);
/// The contract that reverts every call.
pub(crate) const REVERTER: Address = well_known(3);

const fn well_known(last: u8) -> Address {
    let mut address = [0; 20];
    address[0] = 0x10;
    address[19] = last;
    address
}

/// A mined or pending transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) hash: Hash,
    pub(crate) from: Address,
    /// `None`: creates a contract.
    pub(crate) to: Option<Address>,
    pub(crate) nonce: u64,
    pub(crate) value: u128,
    pub(crate) input: Vec<u8>,
    pub(crate) gas: u64,
    pub(crate) fees: Fees,
    /// `None`: a legacy transaction that is valid on every chain.
    pub(crate) chain_id: Option<u64>,
    pub(crate) signature: Signature,
    pub(crate) outcome: Outcome,
}

/// The fees of a transaction, which determine its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fees {
    /// Type 0.
    Legacy { price: u128 },
    /// Type 1.
    AccessList { price: u128, list: AccessList },
    /// Type 2.
    Dynamic { max: u128, tip: u128, list: AccessList },
}

/// Addresses and storage slots of a transaction's access list.
pub(crate) type AccessList = Vec<(Address, Vec<Hash>)>;

impl Fees {
    /// The price of a unit of gas at this base fee.
    pub(crate) fn effective(&self, base_fee: u128) -> u128 {
        match self {
            Fees::Legacy { price } | Fees::AccessList { price, .. } => *price,
            Fees::Dynamic { max, tip, .. } => (*max).min(base_fee.saturating_add(*tip)),
        }
    }

    /// The maximum price of a unit of gas.
    pub(crate) fn max(&self) -> u128 {
        match self {
            Fees::Legacy { price } | Fees::AccessList { price, .. } => *price,
            Fees::Dynamic { max, .. } => *max,
        }
    }

    /// The number of the transaction type.
    pub(crate) fn number(&self) -> u64 {
        match self {
            Fees::Legacy { .. } => 0,
            Fees::AccessList { .. } => 1,
            Fees::Dynamic { .. } => 2,
        }
    }
}

/// A signature, as transmitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    /// `v` of a legacy transaction, the parity of others.
    pub(crate) v: u64,
    pub(crate) r: Hash,
    pub(crate) s: Hash,
}

/// The outcome of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) succeeded: bool,
    pub(crate) gas_used: u64,
    /// Effective gas price.
    pub(crate) gas_price: u128,
    pub(crate) logs: Vec<Log>,
    pub(crate) created: Option<Address>,
}

/// An event of a contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) address: Address,
    pub(crate) topics: Vec<Hash>,
    pub(crate) data: Vec<u8>,
}

/// Hashes of event and function names, computed once.
#[derive(Clone)]
pub(crate) struct Names {
    pub(crate) transfer_event: Hash,
    recorded_event: Hash,
    noted_event: Hash,
}

impl Names {
    pub(crate) fn new() -> Names {
        Names {
            transfer_event: keccak(b"Transfer(address,address,uint256)"),
            recorded_event: keccak(b"Recorded(uint256,address,bytes32)"),
            noted_event: keccak(b"Noted(address)"),
        }
    }
}

/// `transfer(address,uint256)`
pub(crate) const TRANSFER: [u8; 4] = [0xa9, 0x05, 0x9c, 0xbb];

/// A number as a 32-byte word.
pub(crate) fn word(number: u128) -> Hash {
    let mut word = [0; 32];
    word[16..].copy_from_slice(&number.to_be_bytes());
    word
}

/// An address as a 32-byte word.
pub(crate) fn address_word(address: &Address) -> Hash {
    let mut word = [0; 32];
    word[12..].copy_from_slice(address);
    word
}

/// The token's storage slot with the balance of `holder`: a mapping at slot 0, in Solidity's layout.
pub(crate) fn balance_slot(holder: &Address) -> Hash {
    keccak(&[address_word(holder), [0; 32]].concat())
}

impl Chain {
    /// The generated transaction with this ordinal.
    pub(crate) fn transaction(&self, ordinal: u64) -> Transaction {
        let turn = self.ledger.turn(ordinal);
        let from = self.account(turn.account);
        let receiver = self.account(turn.receiver());
        let mut random = self.key.with(2).with(ordinal).sequence();
        let mut random_word = || {
            let mut word = [0; 32];
            word.chunks_mut(8).for_each(|part| part.copy_from_slice(&random.bits().to_be_bytes()));
            word
        };
        let (r, s, reference) = (random_word(), random_word(), random_word());
        let parity = u64::from(r[31] & 1);
        let price = turn.gas_price();
        let (fees, v) = if turn.is_legacy() {
            (Fees::Legacy { price }, self.chain_id * 2 + 35 + parity)
        } else {
            (Fees::Dynamic { max: price, tip: price, list: Vec::new() }, parity)
        };
        let (to, input) = match turn.action() {
            Action::Transfer => (Some(receiver), Vec::new()),
            Action::Token => (Some(TOKEN), transfer_call(&receiver, turn.tokens())),
            Action::Record => {
                (Some(RECORDER), [&[0x12, 0x34, 0x56, 0x78], &reference[..]].concat())
            }
            Action::Create => (None, [&[0x60, 0x80, 0x60, 0x40], &reference[..]].concat()),
            Action::Revert => (Some(REVERTER), vec![0xde, 0xad, 0xbe, 0xef]),
        };
        Transaction {
            hash: self.seals.seal(Kind::Transaction, u128::from(ordinal)),
            from,
            to,
            nonce: turn.round,
            value: turn.value(),
            input,
            gas: turn.gas_used() * 3 / 2,
            fees,
            chain_id: Some(self.chain_id),
            signature: Signature { v, r, s },
            outcome: Outcome {
                succeeded: turn.action() != Action::Revert,
                gas_used: turn.gas_used(),
                gas_price: price,
                logs: self.logs(turn, &from, &receiver, reference),
                created: (turn.action() == Action::Create)
                    .then(|| self.seals.seal(Kind::Contract, u128::from(ordinal))),
            },
        }
    }

    fn logs(&self, turn: Turn, from: &Address, receiver: &Address, reference: Hash) -> Vec<Log> {
        match turn.action() {
            Action::Token => vec![self.transfer_log(from, receiver, turn.tokens())],
            Action::Record => {
                let log = |topics, data| Log { address: RECORDER, topics, data };
                let names = &self.names;
                let nonce = word(u128::from(turn.round));
                vec![
                    log(
                        vec![names.recorded_event, nonce, address_word(from), reference],
                        Vec::new(),
                    ),
                    log(Vec::new(), reference.to_vec()),
                    log(vec![names.noted_event, address_word(from)], nonce.to_vec()),
                ]
            }
            Action::Transfer | Action::Create | Action::Revert => Vec::new(),
        }
    }

    /// The event of a token transfer.
    pub(crate) fn transfer_log(&self, from: &Address, to: &Address, amount: u128) -> Log {
        Log {
            address: TOKEN,
            topics: vec![self.names.transfer_event, address_word(from), address_word(to)],
            data: word(amount).to_vec(),
        }
    }
}

fn transfer_call(to: &Address, amount: u128) -> Vec<u8> {
    [&TRANSFER[..], &address_word(to), &word(amount)].concat()
}
