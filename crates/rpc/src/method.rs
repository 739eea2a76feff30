//! The methods of Ethereum nodes, and their classes.
//!
//! The list bounds the number of methods that are counted separately: any other name counts as
//! "other". A class determines how a call may be handled: whether it can be answered without a node,
//! sent to any node, or only to the node that has its state.
//!
//! Sources: execution-apis, EIP-1474, and the documentation of geth, Erigon and Nethermind for
//! `debug_`, `trace_` and `txpool_`.

/// A known method, as its index in [`NAMES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Method(u8);

/// How a call may be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The result never changes: the id of the chain.
    Static,
    /// Reads state. Any node can answer, and the call can be repeated.
    Read,
    /// Submits a transaction to the network.
    Send,
    /// Creates or uses a filter, whose state is kept by one node.
    Filter,
    /// Subscribes to notifications, which requires a persistent connection.
    Subscription,
}

/// Every known name, sorted.
pub const NAMES: [&str; METHODS.len()] = {
    let mut names = [""; METHODS.len()];
    let mut at = 0;
    while at < METHODS.len() {
        names[at] = METHODS[at].0;
        at += 1;
    }
    names
};

/// The values of a table that has a row for each known method, in the order of [`NAMES`], by
/// [`Method::place`].
///
/// # Panics
/// The names differ from [`NAMES`]; in a constant this is an error of compilation.
pub const fn column<T: Copy>(rows: &[(&str, T); NAMES.len()]) -> [T; NAMES.len()] {
    let mut column = [rows[0].1; NAMES.len()];
    let mut at = 0;
    while at < NAMES.len() {
        assert!(is_same(rows[at].0.as_bytes(), NAMES[at].as_bytes()), "rows and names differ");
        column[at] = rows[at].1;
        at += 1;
    }
    column
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

impl Method {
    /// The method with this name.
    #[inline]
    pub fn find(name: &str) -> Option<Method> {
        Method::of_bytes(name.as_bytes())
    }

    /// The method with the name in these bytes.
    #[inline]
    pub(crate) fn of_bytes(name: &[u8]) -> Option<Method> {
        let mut slot = slot(name);
        while let Some(known) = NAMES.get(usize::from(SLOTS[slot])) {
            if known.as_bytes() == name {
                return Some(Method(SLOTS[slot]));
            }
            slot = (slot + 1) % SLOTS_LEN;
        }
        None
    }

    /// Every known method.
    pub fn all() -> impl Iterator<Item = Method> {
        (0..METHODS.len() as u8).map(Method)
    }

    /// The index in [`NAMES`].
    #[inline]
    pub fn place(self) -> usize {
        usize::from(self.0)
    }

    /// The name.
    pub fn name(self) -> &'static str {
        NAMES[self.place()]
    }

    /// The class.
    #[inline]
    pub fn class(self) -> Class {
        METHODS[self.place()].1
    }
}

const METHODS: [(&str, Class); 114] = [
    ("bor_getAuthor", Class::Read),
    ("bor_getRootHash", Class::Read),
    ("bor_getSigners", Class::Read),
    ("bor_getSignersAtHash", Class::Read),
    ("bor_getSnapshot", Class::Read),
    ("bor_getSnapshotAtHash", Class::Read),
    ("bor_getSnapshotProposer", Class::Read),
    ("bor_getSnapshotProposerSequence", Class::Read),
    ("debug_getBadBlocks", Class::Read),
    ("debug_getRawBlock", Class::Read),
    ("debug_getRawBlockAccessList", Class::Read),
    ("debug_getRawHeader", Class::Read),
    ("debug_getRawReceipts", Class::Read),
    ("debug_getRawTransaction", Class::Read),
    ("debug_storageRangeAt", Class::Read),
    ("debug_traceBlock", Class::Read),
    ("debug_traceBlockByHash", Class::Read),
    ("debug_traceBlockByNumber", Class::Read),
    ("debug_traceCall", Class::Read),
    ("debug_traceCallMany", Class::Read),
    ("debug_traceTransaction", Class::Read),
    ("erigon_blockNumber", Class::Read),
    ("erigon_getBalanceChangesInBlock", Class::Read),
    ("erigon_getBlockByTimestamp", Class::Read),
    ("erigon_getBlockReceiptsByBlockHash", Class::Read),
    ("erigon_getHeaderByHash", Class::Read),
    ("erigon_getHeaderByNumber", Class::Read),
    ("erigon_getLatestLogs", Class::Read),
    ("erigon_getLogs", Class::Read),
    ("erigon_getLogsByHash", Class::Read),
    ("eth_accounts", Class::Read),
    ("eth_baseFee", Class::Read),
    ("eth_blobBaseFee", Class::Read),
    ("eth_blockNumber", Class::Read),
    ("eth_call", Class::Read),
    ("eth_callMany", Class::Read),
    ("eth_capabilities", Class::Read),
    ("eth_chainId", Class::Static),
    ("eth_coinbase", Class::Read),
    ("eth_config", Class::Read),
    ("eth_createAccessList", Class::Read),
    ("eth_estimateGas", Class::Read),
    ("eth_feeHistory", Class::Read),
    ("eth_fillTransaction", Class::Read),
    ("eth_gasPrice", Class::Read),
    ("eth_getAccount", Class::Read),
    ("eth_getBalance", Class::Read),
    ("eth_getBlockAccessList", Class::Read),
    ("eth_getBlockByHash", Class::Read),
    ("eth_getBlockByNumber", Class::Read),
    ("eth_getBlockReceipts", Class::Read),
    ("eth_getBlockTransactionCountByHash", Class::Read),
    ("eth_getBlockTransactionCountByNumber", Class::Read),
    ("eth_getCode", Class::Read),
    ("eth_getFilterChanges", Class::Filter),
    ("eth_getFilterLogs", Class::Filter),
    ("eth_getHeaderByHash", Class::Read),
    ("eth_getHeaderByNumber", Class::Read),
    ("eth_getLogs", Class::Read),
    ("eth_getProof", Class::Read),
    ("eth_getRawTransactionByBlockHashAndIndex", Class::Read),
    ("eth_getRawTransactionByBlockNumberAndIndex", Class::Read),
    ("eth_getRawTransactionByHash", Class::Read),
    ("eth_getStorageAt", Class::Read),
    ("eth_getStorageValues", Class::Read),
    ("eth_getTransactionByBlockHashAndIndex", Class::Read),
    ("eth_getTransactionByBlockNumberAndIndex", Class::Read),
    ("eth_getTransactionByHash", Class::Read),
    ("eth_getTransactionCount", Class::Read),
    ("eth_getTransactionReceipt", Class::Read),
    ("eth_getTransactionReceiptsByBlock", Class::Read),
    ("eth_getUncleByBlockHashAndIndex", Class::Read),
    ("eth_getUncleByBlockNumberAndIndex", Class::Read),
    ("eth_getUncleCountByBlockHash", Class::Read),
    ("eth_getUncleCountByBlockNumber", Class::Read),
    ("eth_hashrate", Class::Read),
    ("eth_maxPriorityFeePerGas", Class::Read),
    ("eth_mining", Class::Read),
    ("eth_newBlockFilter", Class::Filter),
    ("eth_newFilter", Class::Filter),
    ("eth_newPendingTransactionFilter", Class::Filter),
    ("eth_protocolVersion", Class::Read),
    ("eth_sendRawTransaction", Class::Send),
    ("eth_sendRawTransactionSync", Class::Send),
    ("eth_sendTransaction", Class::Send),
    ("eth_sign", Class::Read),
    ("eth_signTransaction", Class::Read),
    ("eth_simulateV1", Class::Read),
    ("eth_subscribe", Class::Subscription),
    ("eth_syncing", Class::Read),
    ("eth_uninstallFilter", Class::Filter),
    ("eth_unsubscribe", Class::Subscription),
    ("net_listening", Class::Read),
    ("net_peerCount", Class::Read),
    ("net_version", Class::Static),
    ("ots_getBlockDetails", Class::Read),
    ("ots_getBlockDetailsByHash", Class::Read),
    ("ots_getBlockTransactions", Class::Read),
    ("ots_hasCode", Class::Read),
    ("trace_block", Class::Read),
    ("trace_call", Class::Read),
    ("trace_callMany", Class::Read),
    ("trace_filter", Class::Read),
    ("trace_get", Class::Read),
    ("trace_rawTransaction", Class::Read),
    ("trace_replayBlockTransactions", Class::Read),
    ("trace_replayTransaction", Class::Read),
    ("trace_transaction", Class::Read),
    ("txpool_content", Class::Read),
    ("txpool_contentFrom", Class::Read),
    ("txpool_inspect", Class::Read),
    ("txpool_status", Class::Read),
    ("web3_clientVersion", Class::Read),
    ("web3_sha3", Class::Read),
];

/// A hash table with open addressing: each slot has an index in [`NAMES`], or [`FREE`].
static SLOTS: [u8; SLOTS_LEN] = {
    let mut slots = [FREE; SLOTS_LEN];
    let mut at = 0;
    while at < METHODS.len() {
        let mut slot = slot(METHODS[at].0.as_bytes());
        while slots[slot] != FREE {
            slot = (slot + 1) % SLOTS_LEN;
        }
        slots[slot] = at as u8;
        at += 1;
    }
    slots
};

const SLOTS_LEN: usize = 512;

/// An empty slot.
const FREE: u8 = u8::MAX;

/// The hash of a name: its length and a few of its letters distinguish most names.
#[inline]
const fn slot(name: &[u8]) -> usize {
    let length = name.len();
    if length < 5 {
        return 0;
    }
    let middle = name[length / 2] as usize;
    let (fifth, last) = (name[length - 5] as usize, name[length - 1] as usize);
    (length * 37 + middle * 5 + fifth * 11 + last * 3) % SLOTS_LEN
}

// An index fits into a byte, and most slots are free.
const _: () = assert!(METHODS.len() <= 128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_by_name() {
        assert!(NAMES.is_sorted());
        for method in Method::all() {
            assert_eq!(Method::find(method.name()), Some(method));
        }
        assert_eq!(Method::find("eth_chainId").map(Method::class), Some(Class::Static));
        assert_eq!(Method::find("eth_newFilter").map(Method::class), Some(Class::Filter));
        assert_eq!(Method::find("ETH_chainId"), None);
        assert_eq!(Method::find(""), None);
    }
}
