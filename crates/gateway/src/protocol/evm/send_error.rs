//! What nodes say when they do not take a transaction: which of it means that they have it.
//!
//! A transaction that is sent twice, because of a retry, a hedge or several upstreams, is refused the
//! second time, although it was accepted. JSON-RPC has no code for that; every client has its own
//! words. A message belongs to a class if it contains one of the phrases below; anything else is a
//! refusal, so that an unknown wording never turns a refused transaction into an accepted one.
//!
//! Sources: the clients' own tables, each named at its phrases (read in 2026-11), and chainlink's
//! table of the errors of all chains on which it sends (`core/chains/evm/client/errors.go`). Avalanche,
//! Boba and Mantle run forks of geth and use its words. Proxies prefix them: `INTERNAL_ERROR: existing
//! tx with same hash`.

/// Why a node did not take a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// It has this very transaction, by its hash: the send has succeeded before.
    Known,
    /// The nonce has been used: by this transaction, which was mined since, or by another one. Only a
    /// look-up by hash can tell.
    NonceUsed,
    /// A transaction with this nonce is waiting and is not replaced: another one; or this one, at the
    /// clients that compare nonces before hashes. Only a look-up by hash can tell.
    NotReplaced,
    /// Anything else: the transaction was refused.
    Refused,
}

/// Phrases of [`SendError::Known`], in lower case.
pub(super) const KNOWN: [&str; 10] = [
    // geth, reth, Erigon, Nethermind, newer Besu; execution-apis: "Already known transaction"
    "already known",
    // Besu ("Known transaction"), geth before 1.9, Klaytn, Hardhat, zkSync ("known transaction: …")
    "known transaction",
    // older versions of Nethermind
    "alreadyknown",
    // Erigon
    "existing tx with same hash",
    // OpenEthereum: "Transaction with the same hash was already imported."
    "same hash was already imported",
    // Anvil
    "transaction already imported",
    // Moonbeam: "Pool(AlreadyImported)"
    "alreadyimported",
    // Cosmos SDK, code 19, as in Ethermint (Kava)
    "tx already in mempool",
    // CometBFT
    "tx already exists in cache",
    // Infura and other proxies
    "transaction already in mempool",
];

/// Phrases of [`SendError::NonceUsed`].
pub(super) const NONCE_USED: [&str; 8] = [
    // geth, reth, Erigon, Nethermind, Besu, Arbitrum, Avalanche ("nonce too low: address … current nonce …")
    "nonce too low",
    // OpenEthereum: "Transaction nonce is too low. Try incrementing the nonce."
    "nonce is too low",
    // older versions of Nethermind: "OldNonce, Current nonce: 5, nonce of rejected tx: 3"
    "oldnonce",
    // Ethermint (Kava): "invalid nonce; got 3, expected 5: invalid sequence"; also of a nonce too high
    "invalid nonce",
    "incorrect account sequence",
    // Arbitrum before Nitro
    "invalid transaction nonce",
    // Harmony
    "transaction already finalized",
    // Moonbeam
    "pool(stale)",
];

/// Phrases of [`SendError::NotReplaced`].
pub(super) const NOT_REPLACED: [&str; 7] = [
    // geth, reth, Erigon, Nethermind, Besu
    "replacement transaction underpriced",
    // Erigon
    "could not replace existing tx",
    // older versions of Nethermind
    "replacementnotallowed",
    "ownnoncealreadyused",
    // OpenEthereum
    "another transaction with same nonce",
    // Klaytn
    "another tx which has the same nonce",
    // Moonbeam
    "pool(toolowpriority",
];

impl SendError {
    /// The class of a node's error, by its raw message.
    pub fn of(message: &[u8]) -> SendError {
        let message = super::plain_start(message);
        let has = |phrases: &[&str]| phrases.iter().any(|phrase| contains(&message, phrase));
        if has(&KNOWN) {
            SendError::Known
        } else if has(&NONCE_USED) {
            SendError::NonceUsed
        } else if has(&NOT_REPLACED) {
            SendError::NotReplaced
        } else {
            SendError::Refused
        }
    }
}

/// Whether a message contains a phrase that does not follow "un": an "unknown transaction type" is
/// not a known transaction.
pub(super) fn contains(message: &str, phrase: &str) -> bool {
    message.match_indices(phrase).any(|(at, _)| !message[..at].ends_with("un"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_every_client_are_classified() {
        let check = |message: &str, class: SendError| {
            for message in [message.to_string(), message.to_uppercase(), format!("\"{message}\"")] {
                assert_eq!(SendError::of(message.as_bytes()), class, "{message}");
            }
        };
        use SendError::*;
        // geth, reth, and the forks of geth: Avalanche, Boba, Mantle
        check("already known", Known);
        check("nonce too low", NonceUsed);
        check("nonce too low: next nonce 5, tx nonce 3", NonceUsed);
        check("nonce too low: address 0xab current nonce (5) > tx nonce (3)", NonceUsed);
        check("replacement transaction underpriced", NotReplaced);
        check("transaction underpriced: tip needed 1, tip permitted 0", Refused);
        check("insufficient funds for gas * price + value: balance 0", Refused);
        check("nonce too high", Refused);
        check("txpool is full", Refused);
        check("invalid sender", Refused);
        check("transaction type not supported", Refused);
        check("known transaction: 5b8f", Known);
        // Erigon, and behind a proxy
        check("ALREADY_EXISTS: already known", Known);
        check("INTERNAL_ERROR: existing tx with same hash", Known);
        check("INTERNAL_ERROR: nonce too low", NonceUsed);
        check("could not replace existing tx", NotReplaced);
        // Nethermind
        check("AlreadyKnown", Known);
        check("OldNonce, Current nonce: 5, nonce of rejected tx: 3", NonceUsed);
        check("ReplacementNotAllowed", NotReplaced);
        check("OwnNonceAlreadyUsed", NotReplaced);
        check("NonceGap, Future nonce. Expected nonce: 5", Refused);
        check("FeeTooLowToCompete", Refused);
        // Besu
        check("Known transaction", Known);
        check("Nonce too low", NonceUsed);
        check("Replacement transaction underpriced", NotReplaced);
        check("Upfront cost exceeds account balance", Refused);
        // OpenEthereum
        check("Transaction with the same hash was already imported.", Known);
        check("Transaction nonce is too low. Try incrementing the nonce.", NonceUsed);
        check(
            "Transaction gas price 1wei is too low. There is another transaction with same nonce in \
             the queue with gas price: 2wei.",
            NotReplaced,
        );
        check("Transaction gas price is too low. It does not satisfy your node's", Refused);
        // Ethermint (Kava)
        check("tx already in mempool", Known);
        check("failed to broadcast transaction: : tx already in mempool", Known);
        check("tx already exists in cache", Known);
        check("invalid nonce; got 3, expected 5: invalid sequence: invalid sequence", NonceUsed);
        check("mempool is full", Refused);
        // Anvil, Hardhat, Arbitrum, Moonbeam, zkSync
        check("transaction already imported", Known);
        check("Known transaction: 0xab", Known);
        check("Nonce too low. Expected nonce to be 5 but got 3.", NonceUsed);
        check("submit transaction to pool failed: Pool(AlreadyImported)", Known);
        check("submit transaction to pool failed: Pool(Stale)", NonceUsed);
        check("known transaction. transaction with hash 0xab is already in the system", Known);
        // not known at all
        check("unknown transaction type", Refused);
        check("unknown transaction", Refused);
        check("invalid transaction: unknown", Refused);
        check("", Refused);
    }
}
