//! A row for each known method: how its answers are classified, and what they show.
//!
//! The block that a call names is in another table, which routing uses too
//! ([`crate::protocol::evm::block_param`]). A known method without a row here does not compile.

use plimsoll_rpc::method::{self, Method, NAMES};

use super::{Reason, Rule, Shows};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) rule: Rule,
    pub(super) shows: Shows,
}

/// The row of a method.
#[inline]
pub(super) fn row(method: Method) -> Row {
    TABLE[method.place()]
}

const fn never(reason: Reason) -> Row {
    Row { rule: Rule::Never(reason), shows: Shows::Nothing }
}

const fn block(shows: Shows) -> Row {
    Row { rule: Rule::Block, shows }
}

const fn transaction(shows: Shows) -> Row {
    Row { rule: Rule::Transaction, shows }
}

const STATIC: Row = Row { rule: Rule::Static, shows: Shows::Nothing };

const HEAD: Row = Row { rule: Rule::Head, shows: Shows::Nothing };

const ROWS: [(&str, Row); NAMES.len()] = [
    ("bor_getAuthor", block(Shows::Nothing)),
    ("bor_getRootHash", never(Reason::UnclearBlock)),
    ("bor_getSigners", block(Shows::Nothing)),
    ("bor_getSignersAtHash", block(Shows::Nothing)),
    ("bor_getSnapshot", block(Shows::Nothing)),
    ("bor_getSnapshotAtHash", block(Shows::Nothing)),
    ("bor_getSnapshotProposer", block(Shows::Nothing)),
    ("bor_getSnapshotProposerSequence", block(Shows::Nothing)),
    ("debug_getBadBlocks", never(Reason::Node)),
    ("debug_getRawBlock", block(Shows::Nothing)),
    ("debug_getRawBlockAccessList", block(Shows::Nothing)),
    ("debug_getRawHeader", block(Shows::Nothing)),
    ("debug_getRawReceipts", block(Shows::Nothing)),
    ("debug_getRawTransaction", transaction(Shows::Raw)),
    ("debug_storageRangeAt", block(Shows::Nothing)),
    ("debug_traceBlock", never(Reason::Node)),
    ("debug_traceBlockByHash", block(Shows::Nothing)),
    ("debug_traceBlockByNumber", block(Shows::Nothing)),
    ("debug_traceCall", block(Shows::Nothing)),
    ("debug_traceCallMany", block(Shows::Nothing)),
    ("debug_traceTransaction", transaction(Shows::Nothing)),
    ("erigon_blockNumber", never(Reason::UnclearBlock)),
    ("erigon_getBalanceChangesInBlock", block(Shows::Nothing)),
    ("erigon_getBlockByTimestamp", never(Reason::UnclearBlock)),
    ("erigon_getBlockReceiptsByBlockHash", block(Shows::Places)),
    ("erigon_getHeaderByHash", block(Shows::Block)),
    ("erigon_getHeaderByNumber", block(Shows::Block)),
    ("erigon_getLatestLogs", block(Shows::Places)),
    ("erigon_getLogs", block(Shows::Places)),
    ("erigon_getLogsByHash", block(Shows::Nothing)),
    ("eth_accounts", never(Reason::Node)),
    ("eth_baseFee", HEAD),
    ("eth_blobBaseFee", HEAD),
    ("eth_blockNumber", Row { shows: Shows::Height, ..HEAD }),
    ("eth_call", block(Shows::Nothing)),
    ("eth_callMany", block(Shows::Nothing)),
    ("eth_capabilities", never(Reason::Node)),
    ("eth_chainId", STATIC),
    ("eth_coinbase", never(Reason::Node)),
    ("eth_config", HEAD),
    ("eth_createAccessList", block(Shows::Nothing)),
    ("eth_estimateGas", block(Shows::Nothing)),
    ("eth_feeHistory", block(Shows::Nothing)),
    ("eth_fillTransaction", never(Reason::Pending)),
    ("eth_gasPrice", HEAD),
    ("eth_getAccount", block(Shows::Nothing)),
    ("eth_getBalance", block(Shows::Nothing)),
    ("eth_getBlockAccessList", block(Shows::Nothing)),
    ("eth_getBlockByHash", block(Shows::Block)),
    ("eth_getBlockByNumber", block(Shows::Block)),
    ("eth_getBlockReceipts", block(Shows::Places)),
    ("eth_getBlockTransactionCountByHash", block(Shows::Nothing)),
    ("eth_getBlockTransactionCountByNumber", block(Shows::Nothing)),
    ("eth_getCode", block(Shows::Nothing)),
    ("eth_getFilterChanges", never(Reason::Stateful)),
    ("eth_getFilterLogs", never(Reason::Stateful)),
    ("eth_getHeaderByHash", block(Shows::Block)),
    ("eth_getHeaderByNumber", block(Shows::Block)),
    ("eth_getLogs", block(Shows::Places)),
    ("eth_getProof", block(Shows::Nothing)),
    ("eth_getRawTransactionByBlockHashAndIndex", block(Shows::Raw)),
    ("eth_getRawTransactionByBlockNumberAndIndex", block(Shows::Raw)),
    ("eth_getRawTransactionByHash", transaction(Shows::Raw)),
    ("eth_getStorageAt", block(Shows::Nothing)),
    ("eth_getStorageValues", block(Shows::Nothing)),
    ("eth_getTransactionByBlockHashAndIndex", block(Shows::Places)),
    ("eth_getTransactionByBlockNumberAndIndex", block(Shows::Places)),
    ("eth_getTransactionByHash", transaction(Shows::Places)),
    ("eth_getTransactionCount", block(Shows::Nothing)),
    ("eth_getTransactionReceipt", transaction(Shows::Places)),
    ("eth_getTransactionReceiptsByBlock", block(Shows::Places)),
    ("eth_getUncleByBlockHashAndIndex", block(Shows::Nothing)),
    ("eth_getUncleByBlockNumberAndIndex", block(Shows::Nothing)),
    ("eth_getUncleCountByBlockHash", block(Shows::Nothing)),
    ("eth_getUncleCountByBlockNumber", block(Shows::Nothing)),
    ("eth_hashrate", never(Reason::Node)),
    ("eth_maxPriorityFeePerGas", HEAD),
    ("eth_mining", never(Reason::Node)),
    ("eth_newBlockFilter", never(Reason::Stateful)),
    ("eth_newFilter", never(Reason::Stateful)),
    ("eth_newPendingTransactionFilter", never(Reason::Stateful)),
    ("eth_protocolVersion", never(Reason::Node)),
    ("eth_sendRawTransaction", never(Reason::Sends)),
    ("eth_sendRawTransactionSync", never(Reason::Sends)),
    ("eth_sendTransaction", never(Reason::Sends)),
    ("eth_sign", never(Reason::Sends)),
    ("eth_signTransaction", never(Reason::Sends)),
    ("eth_simulateV1", block(Shows::Nothing)),
    ("eth_subscribe", never(Reason::Stateful)),
    ("eth_syncing", never(Reason::Node)),
    ("eth_uninstallFilter", never(Reason::Stateful)),
    ("eth_unsubscribe", never(Reason::Stateful)),
    ("net_listening", never(Reason::Node)),
    ("net_peerCount", never(Reason::Node)),
    ("net_version", STATIC),
    ("ots_getBlockDetails", block(Shows::Nothing)),
    ("ots_getBlockDetailsByHash", block(Shows::Nothing)),
    ("ots_getBlockTransactions", block(Shows::Nothing)),
    ("ots_hasCode", block(Shows::Nothing)),
    ("trace_block", block(Shows::Places)),
    ("trace_call", block(Shows::Nothing)),
    ("trace_callMany", block(Shows::Nothing)),
    ("trace_filter", block(Shows::Places)),
    ("trace_get", transaction(Shows::Places)),
    ("trace_rawTransaction", HEAD),
    ("trace_replayBlockTransactions", block(Shows::Nothing)),
    ("trace_replayTransaction", transaction(Shows::Nothing)),
    ("trace_transaction", transaction(Shows::Places)),
    ("txpool_content", never(Reason::Pending)),
    ("txpool_contentFrom", never(Reason::Pending)),
    ("txpool_inspect", never(Reason::Pending)),
    ("txpool_status", never(Reason::Pending)),
    ("web3_clientVersion", never(Reason::Node)),
    ("web3_sha3", STATIC),
];

/// By [`Method::place`].
static TABLE: [Row; NAMES.len()] = method::column(&ROWS);
