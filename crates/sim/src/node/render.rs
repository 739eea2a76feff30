//! Blocks, transactions, receipts and logs as JSON, with geth's members and their order.

use super::write::{Object, array, data, quantity, wide_quantity};
use crate::chain::block::{Block, GAS_LIMIT};
use crate::chain::keccak::Hash;
use crate::chain::transaction::{Fees, Log, Transaction};

/// The hash of an empty list of uncles.
const NO_UNCLES: Hash = [
    0x1d, 0xcc, 0x4d, 0xe8, 0xde, 0xc7, 0x5d, 0x7a, 0xab, 0x85, 0xb5, 0x67, 0xb6, 0xcc, 0xd4, 0x1a,
    0xd3, 0x12, 0x45, 0x1b, 0x94, 0x8a, 0x74, 0x13, 0xf0, 0xa1, 0x42, 0xfd, 0x40, 0xd4, 0x93, 0x47,
];
/// Approximate size of a block without its transactions, in bytes.
const HEADER_LEN: usize = 540;

/// Writes a block; a `pending` one has no hash, nonce and miner yet.
pub(super) fn block(out: &mut Vec<u8>, block: &Block, full: bool, pending: bool) {
    let mut object = Object::open(out);
    header_members(&mut object, block, pending);
    let body: usize = block.transactions.iter().map(|t| 110 + t.input.len()).sum();
    object.number("size", (HEADER_LEN + body) as u64).raw("uncles", "[]");
    array(object.member("transactions"), block.transactions.iter().enumerate(), |out, (at, t)| {
        if full {
            transaction(out, t, Some((block, at)));
        } else {
            data(out, &t.hash);
        }
    });
    object.close();
}

/// Writes the header of a block.
pub(super) fn header(out: &mut Vec<u8>, block: &Block) {
    let mut object = Object::open(out);
    header_members(&mut object, block, false);
    object.close();
}

fn header_members(object: &mut Object<'_>, block: &Block, pending: bool) {
    let hash = (!pending).then_some(&block.hash);
    object
        .number("number", block.id.number)
        .maybe_bytes("hash", hash)
        .bytes("parentHash", &block.parent)
        .maybe_bytes("nonce", (!pending).then_some(&[0; 8]))
        .bytes("mixHash", &block.root("mix"))
        .bytes("sha3Uncles", &NO_UNCLES)
        .bytes("logsBloom", &block.bloom().0)
        .bytes("stateRoot", &block.root("state"))
        .maybe_bytes("miner", (!pending).then_some(&block.miner))
        .number("difficulty", 0u64)
        .bytes("extraData", format!("plimsoll-sim fork {}", block.id.fork).as_bytes())
        .number("gasLimit", GAS_LIMIT)
        .number("gasUsed", block.gas_used)
        .number("timestamp", block.timestamp)
        .bytes("transactionsRoot", &block.root("transactions"))
        .bytes("receiptsRoot", &block.root("receipts"))
        .number("baseFeePerGas", block.base_fee);
}

/// Writes a transaction with its position in a block, or a pending transaction.
pub(super) fn transaction(out: &mut Vec<u8>, t: &Transaction, place: Option<(&Block, usize)>) {
    let mut object = Object::open(out);
    object.maybe_bytes("blockHash", place.map(|(block, _)| &block.hash));
    match place {
        Some((block, at)) => {
            object
                .number("blockNumber", block.id.number)
                .number("transactionIndex", at as u64)
                .number("gasPrice", t.outcome.gas_price);
        }
        None => {
            object
                .raw("blockNumber", "null")
                .raw("transactionIndex", "null")
                .number("gasPrice", t.fees.max());
        }
    }
    object
        .bytes("from", &t.from)
        .number("gas", t.gas)
        .bytes("hash", &t.hash)
        .bytes("input", &t.input)
        .number("nonce", t.nonce)
        .maybe_bytes("to", t.to.as_ref())
        .number("value", t.value)
        .number("type", t.fees.number());
    if let Fees::Dynamic { max, tip, .. } = t.fees {
        object.number("maxFeePerGas", max).number("maxPriorityFeePerGas", tip);
    }
    if let Fees::Dynamic { list, .. } | Fees::AccessList { list, .. } = &t.fees {
        array(object.member("accessList"), list, |out, (address, slots)| {
            let mut entry = Object::open(out);
            entry.bytes("address", address);
            array(entry.member("storageKeys"), slots, |out, slot| data(out, slot));
            entry.close();
        });
        object.number("yParity", t.signature.v);
    }
    if let Some(chain_id) = t.chain_id {
        object.number("chainId", chain_id);
    }
    object.number("v", t.signature.v);
    wide_quantity(object.member("r"), &t.signature.r);
    wide_quantity(object.member("s"), &t.signature.s);
    object.close();
}

/// Writes the receipt of the transaction at index `at` of a block.
pub(super) fn receipt(out: &mut Vec<u8>, block: &Block, at: usize) {
    let t = &block.transactions[at];
    let mut object = Object::open(out);
    object
        .bytes("blockHash", &block.hash)
        .number("blockNumber", block.id.number)
        .maybe_bytes("contractAddress", t.outcome.created.as_ref())
        .number("cumulativeGasUsed", block.gas_up_to(at))
        .number("effectiveGasPrice", t.outcome.gas_price)
        .bytes("from", &t.from)
        .number("gasUsed", t.outcome.gas_used);
    let first = block.logs_before(at);
    array(object.member("logs"), t.outcome.logs.iter().enumerate(), |out, (nth, entry)| {
        log(out, block, at, first + nth, entry);
    });
    object
        .bytes("logsBloom", &t.bloom().0)
        .number("status", u64::from(t.outcome.succeeded))
        .maybe_bytes("to", t.to.as_ref())
        .bytes("transactionHash", &t.hash)
        .number("transactionIndex", at as u64)
        .number("type", t.fees.number())
        .close();
}

/// Writes log `nth` of a block, which transaction `at` emitted.
pub(super) fn log(out: &mut Vec<u8>, block: &Block, at: usize, nth: usize, log: &Log) {
    let mut object = Object::open(out);
    object.bytes("address", &log.address);
    array(object.member("topics"), &log.topics, |out, topic| data(out, topic));
    object
        .bytes("data", &log.data)
        .bytes("blockHash", &block.hash)
        .number("blockNumber", block.id.number);
    quantity(object.member("blockTimestamp"), block.timestamp.into());
    object
        .bytes("transactionHash", &block.transactions[at].hash)
        .number("transactionIndex", at as u64)
        .number("logIndex", nth as u64)
        .raw("removed", "false")
        .close();
}
