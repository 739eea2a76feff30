//! Transactions that callers send: what they are, and which upstream took them.
//!
//! # Why
//! A send that is retried or hedged reaches a node twice, and the second time it is refused: "already
//! known", or, once the transaction was mined, "nonce too low". A caller who gets this answer sends
//! another transaction. So the answer to such a refusal is the transaction's hash, which the gateway
//! computes itself ([`Raw::hash`]), when
//!
//! - the node says that it knows this transaction
//!   ([`crate::protocol::evm::send_error::SendError::Known`]), or
//! - an upstream may have accepted it, or the nonce is used, and a node finds the transaction by its
//!   hash: the gateway asks `eth_getTransactionByHash`. This also covers a send whose answer was lost,
//!   and another gateway's, or
//! - the nonce is used, this gateway has seen the transaction accepted, and no node can be asked
//!   whether another one has replaced it ([`Sent::was_accepted`]).
//!
//! Otherwise the refusal is the answer.
//!
//! After a send, a wallet asks for its next nonce and for the transaction. Other upstreams may not
//! have heard of it yet, so these reads go to the upstream that took it ([`Sought`], [`Sent`]).
//!
//! # Costs
//! A hash is needed only for refusals and for remembering; a sender only for remembering what an
//! upstream has accepted, so that nobody can make the gateway recover senders of invalid transactions.
//! Recovering one takes about 60 µs, as much as two relayed calls. The crates for both are those of
//! the simulated chain (sha3, k256); the code is separate, because the chain is this code's test.
//!
//! Pure: no sockets, no clocks. What is remembered is per process.

mod memory;
mod raw;
mod sought;

pub use memory::Sent;
pub use raw::Raw;
pub use sought::Sought;

/// A transaction's hash.
pub type Hash = [u8; 32];

/// An account's address.
pub type Address = [u8; 20];

/// The bytes of a hexadecimal JSON string, such as `"0x1f"`; `None` if it is anything else.
fn bytes(raw: &[u8]) -> Option<Vec<u8>> {
    let digits = raw.strip_prefix(b"\"0x")?.strip_suffix(b"\"")?;
    let value = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let pairs = digits.chunks(2);
    pairs.map(|pair| Some(value(pair[0])? << 4 | value(*pair.get(1)?)?)).collect()
}

/// The bytes of a hexadecimal JSON string, if there are exactly `N`.
pub(crate) fn sized<const N: usize>(raw: &[u8]) -> Option<[u8; N]> {
    bytes(raw)?.try_into().ok()
}
