//! Where a method's parameters name blocks: the table for routing by head and for the cache.
//!
//! A call may name a block by number, by hash, by a tag (`latest`, `safe`, `finalized`, `pending`,
//! `earliest`), by an object of EIP-1898, or by leaving it out. The three moving tags mean something
//! different on each upstream. So before a call is sent, they are bound: replaced by the number of the
//! head that this gateway serves, and the call is sent to an upstream that has this block
//! (the module `heads`). proxyd and eRPC do the same. `pending` and `earliest` stay as they are: the
//! first is each node's own, and the second depends on what a node has pruned.
//!
//! Binding never changes what an invalid call is answered: what is not understood stays as it is.
//! Filters that are installed on a node (`eth_newFilter`) are not bound, because a number would end
//! them there.
//!
//! Tags are bound in any letter case: some nodes accept "Latest" and would answer it from a head of
//! their own. Nodes that refuse it, as geth does, therefore see a number instead.
//!
//! Sources: execution-apis (snapshot of 2026-08), EIP-1898; for `trace_`, `erigon_`, `ots_` and
//! `*Many`, Erigon's documentation; for `bor_`, Polygon's; for the rest of `debug_`, geth's.

use std::io::Write;
use std::ops::Range;

use plimsoll_rpc::json::{self, Kind};
use plimsoll_rpc::method::{self, Method, NAMES};

/// Where a method's parameters name a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockParam {
    /// Nowhere.
    None,
    /// A number, tag, hash or object of EIP-1898 at this position.
    Block(u8, Omitted),
    /// A block's hash at this position.
    Hash(u8),
    /// A filter at this position: an object with `fromBlock` and `toBlock`, or with `blockHash`.
    Filter(u8, Omitted),
    /// An object at this position whose `blockNumber` is a number, tag or hash.
    Context(u8),
}

/// What a block means that is omitted or null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omitted {
    /// The latest.
    Latest,
    /// An error, or something that depends on the node.
    Other,
}

/// A tag for a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// The first block that the node has.
    Earliest,
    /// The last finalized block.
    Finalized,
    /// The last block that the consensus considers safe.
    Safe,
    /// The last block.
    Latest,
    /// The block that the node would build next.
    Pending,
}

impl Tag {
    const ALL: [(&str, Tag); 5] = [
        ("latest", Tag::Latest),
        ("pending", Tag::Pending),
        ("finalized", Tag::Finalized),
        ("safe", Tag::Safe),
        ("earliest", Tag::Earliest),
    ];
}

/// A block that a call names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// By tag; also [`Tag::Latest`] if it is omitted and this means the latest.
    Tag(Tag),
    /// By number.
    Number(u64),
    /// By hash.
    Hash,
    /// In a way that is not understood here; a node may understand it or refuse it.
    Unknown,
}

impl BlockParam {
    /// The row of a method.
    pub fn of(method: Method) -> BlockParam {
        TABLE[method.place()]
    }

    /// The blocks that a call names: up to two, of a filter the first and the last of the range.
    /// `params` is a valid JSON text, as in [`plimsoll_rpc::request::Call`].
    pub fn blocks(self, params: Option<&[u8]>) -> impl Iterator<Item = Block> {
        let found = self.find(params.unwrap_or_default());
        found.into_iter().flatten().map(|found| found.block)
    }

    /// Appends the parameters to `bound`, with each tag replaced by the number that `head` knows for it.
    /// Appends nothing if there is no such tag.
    pub fn bind(self, params: &[u8], head: impl Fn(Tag) -> Option<u64>, bound: &mut Vec<u8>) {
        let number = |found: Found| match found.block {
            Block::Tag(tag) => head(tag).map(|number| (found, number)),
            _ => None,
        };
        let mut edits = self.find(params).map(|found| found.and_then(number));
        // Members that are inserted at the same place stay in order.
        edits.sort_by_key(|edit| edit.as_ref().map_or(usize::MAX, |(found, _)| found.place.start));
        let mut copied = 0;
        for (found, number) in edits.iter().flatten() {
            bound.extend_from_slice(&params[copied..found.place.start]);
            bound.extend_from_slice(found.prefix.as_bytes());
            // Writing to memory cannot fail.
            let _ = write!(bound, "\"{number:#x}\"");
            copied = found.place.end;
        }
        if copied > 0 {
            bound.extend_from_slice(&params[copied..]);
        }
    }

    fn find(self, params: &[u8]) -> [Option<Found>; 2] {
        let text = Text(params);
        match self {
            BlockParam::None => [None, None],
            BlockParam::Hash(position) => {
                let block = match text.item(position) {
                    Item::At(value) if named(value) == Block::Hash => Block::Hash,
                    _ => Block::Unknown,
                };
                [Some(Found { block, place: 0..0, prefix: "" }), None]
            }
            BlockParam::Block(position, omitted) => [text.block(position, omitted), None],
            BlockParam::Filter(position, omitted) => text.filter(position, omitted),
            BlockParam::Context(position) => {
                let Item::At(context) = text.item(position) else { return [None, None] };
                [text.member(context, "blockNumber"), None]
            }
        }
    }
}

/// A block that a call names, and where.
#[derive(Clone, Debug)]
struct Found {
    block: Block,
    /// The bytes to replace to name another block.
    place: Range<usize>,
    /// What belongs before the block, if it was omitted.
    prefix: &'static str,
}

/// What is at a position of the parameters.
enum Item<'a> {
    At(&'a [u8]),
    /// Null.
    Null(&'a [u8]),
    /// The position is the next after the last item.
    Missing {
        is_first: bool,
    },
    /// There are fewer items, or no array.
    Beyond,
}

/// The text of a call's parameters.
#[derive(Clone, Copy)]
struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    fn item(self, position: u8) -> Item<'a> {
        if json::kind(self.0) != Some(Kind::Array) {
            return Item::Beyond;
        }
        let mut items = json::items(self.0).map_while(Result::ok);
        for place in 0..=position {
            match items.next() {
                Some(item) if place == position && item == b"null" => return Item::Null(item),
                Some(item) if place == position => return Item::At(item),
                Some(_) => {}
                None if place == position => return Item::Missing { is_first: place == 0 },
                None => return Item::Beyond,
            }
        }
        Item::Beyond
    }

    /// Where a part of the text is.
    fn place(self, part: &[u8]) -> Range<usize> {
        let start = part.as_ptr() as usize - self.0.as_ptr() as usize;
        start..start + part.len()
    }

    fn block(self, position: u8, omitted: Omitted) -> Option<Found> {
        let (place, prefix) = match self.item(position) {
            Item::At(value) if json::kind(value) == Some(Kind::Object) => {
                return Some(self.object(value));
            }
            Item::At(value) => {
                return Some(Found { block: named(value), place: self.place(value), prefix: "" });
            }
            Item::Null(value) => (self.place(value), ""),
            Item::Missing { is_first } => {
                let end = self.0.iter().rposition(|byte| *byte == b']')?;
                (end..end, if is_first { "" } else { "," })
            }
            Item::Beyond => return None,
        };
        let block = Block::Tag(Tag::Latest);
        (omitted == Omitted::Latest).then_some(Found { block, place, prefix })
    }

    /// The block of an object of EIP-1898, which has either a hash or a number.
    fn object(self, object: &[u8]) -> Found {
        let unknown = Found { block: Block::Unknown, place: 0..0, prefix: "" };
        match (self.member(object, "blockHash"), self.member(object, "blockNumber")) {
            (Some(found), None) if found.block == Block::Hash => found,
            (None, Some(found)) if found.block != Block::Hash => found,
            _ => unknown,
        }
    }

    /// A member of an object that names a block; `None` if it is missing or null.
    fn member(self, object: &[u8], name: &str) -> Option<Found> {
        let members = json::members(object).map_while(Result::ok);
        let mut named_so = members.filter(|member| *member.plain() == *name.as_bytes());
        let value = named_so.next()?.value;
        if named_so.next().is_some() {
            // Nodes differ in which of two they read.
            return Some(Found { block: Block::Unknown, place: 0..0, prefix: "" });
        }
        let place = self.place(value);
        (value != b"null").then(|| Found { block: named(value), place, prefix: "" })
    }

    fn filter(self, position: u8, omitted: Omitted) -> [Option<Found>; 2] {
        let filter = match self.item(position) {
            Item::At(filter) if json::kind(filter) == Some(Kind::Object) => filter,
            _ => return [None, None],
        };
        if let Some(found) = self.member(filter, "blockHash") {
            return [Some(found), None];
        }
        let end = self.place(filter).end - 1;
        let is_empty = json::members(filter).next().is_none();
        let or_latest = |name: &str, prefix: &'static str| {
            let latest = || Found { block: Block::Tag(Tag::Latest), place: end..end, prefix };
            self.member(filter, name).or_else(|| match json::member(filter, name) {
                _ if omitted == Omitted::Other => None,
                Some(null) => Some(Found { place: self.place(null), prefix: "", ..latest() }),
                None => Some(latest()),
            })
        };
        let first = if is_empty { "\"fromBlock\":" } else { ",\"fromBlock\":" };
        [or_latest("fromBlock", first), or_latest("toBlock", ",\"toBlock\":")]
    }
}

/// The block that a string names.
fn named(value: &[u8]) -> Block {
    /// `0x` and 64 digits.
    const HASH_LEN: usize = 66;
    let Some(text) = json::text(value) else { return Block::Unknown };
    if let Some((_, tag)) = Tag::ALL.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text)) {
        return Block::Tag(*tag);
    }
    let digits = text.strip_prefix("0x").unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Block::Unknown;
    }
    if text.len() == HASH_LEN {
        return Block::Hash;
    }
    u64::from_str_radix(digits, 16).map_or(Block::Unknown, Block::Number)
}

const NONE: BlockParam = BlockParam::None;

/// A block at a position, which must not be omitted.
const fn block(position: u8) -> BlockParam {
    BlockParam::Block(position, Omitted::Other)
}

/// A block at a position, the latest if omitted.
const fn or_latest(position: u8) -> BlockParam {
    BlockParam::Block(position, Omitted::Latest)
}

/// A row for each known method, in the order of their names.
const ROWS: [(&str, BlockParam); NAMES.len()] = [
    ("bor_getAuthor", or_latest(0)),
    ("bor_getRootHash", NONE),
    ("bor_getSigners", or_latest(0)),
    ("bor_getSignersAtHash", BlockParam::Hash(0)),
    ("bor_getSnapshot", or_latest(0)),
    ("bor_getSnapshotAtHash", BlockParam::Hash(0)),
    ("bor_getSnapshotProposer", or_latest(0)),
    ("bor_getSnapshotProposerSequence", or_latest(0)),
    ("debug_getBadBlocks", NONE),
    ("debug_getRawBlock", block(0)),
    ("debug_getRawBlockAccessList", block(0)),
    ("debug_getRawHeader", block(0)),
    ("debug_getRawReceipts", block(0)),
    ("debug_getRawTransaction", NONE),
    ("debug_storageRangeAt", block(0)),
    ("debug_traceBlock", NONE),
    ("debug_traceBlockByHash", BlockParam::Hash(0)),
    ("debug_traceBlockByNumber", block(0)),
    ("debug_traceCall", block(1)),
    ("debug_traceCallMany", BlockParam::Context(1)),
    ("debug_traceTransaction", NONE),
    ("erigon_blockNumber", NONE),
    ("erigon_getBalanceChangesInBlock", block(0)),
    ("erigon_getBlockByTimestamp", NONE),
    ("erigon_getBlockReceiptsByBlockHash", BlockParam::Hash(0)),
    ("erigon_getHeaderByHash", BlockParam::Hash(0)),
    ("erigon_getHeaderByNumber", block(0)),
    ("erigon_getLatestLogs", BlockParam::Filter(0, Omitted::Latest)),
    ("erigon_getLogs", BlockParam::Filter(0, Omitted::Latest)),
    ("erigon_getLogsByHash", BlockParam::Hash(0)),
    ("eth_accounts", NONE),
    ("eth_baseFee", NONE),
    ("eth_blobBaseFee", NONE),
    ("eth_blockNumber", NONE),
    ("eth_call", or_latest(1)),
    ("eth_callMany", BlockParam::Context(1)),
    ("eth_capabilities", NONE),
    ("eth_chainId", NONE),
    ("eth_coinbase", NONE),
    ("eth_config", NONE),
    ("eth_createAccessList", or_latest(1)),
    ("eth_estimateGas", or_latest(1)),
    ("eth_feeHistory", block(1)),
    ("eth_fillTransaction", NONE),
    ("eth_gasPrice", NONE),
    ("eth_getAccount", block(1)),
    ("eth_getBalance", or_latest(1)),
    ("eth_getBlockAccessList", block(0)),
    ("eth_getBlockByHash", BlockParam::Hash(0)),
    ("eth_getBlockByNumber", block(0)),
    ("eth_getBlockReceipts", block(0)),
    ("eth_getBlockTransactionCountByHash", BlockParam::Hash(0)),
    ("eth_getBlockTransactionCountByNumber", block(0)),
    ("eth_getCode", or_latest(1)),
    ("eth_getFilterChanges", NONE),
    ("eth_getFilterLogs", NONE),
    ("eth_getHeaderByHash", BlockParam::Hash(0)),
    ("eth_getHeaderByNumber", block(0)),
    ("eth_getLogs", BlockParam::Filter(0, Omitted::Latest)),
    ("eth_getProof", block(2)),
    ("eth_getRawTransactionByBlockHashAndIndex", BlockParam::Hash(0)),
    ("eth_getRawTransactionByBlockNumberAndIndex", block(0)),
    ("eth_getRawTransactionByHash", NONE),
    ("eth_getStorageAt", or_latest(2)),
    ("eth_getStorageValues", or_latest(1)),
    ("eth_getTransactionByBlockHashAndIndex", BlockParam::Hash(0)),
    ("eth_getTransactionByBlockNumberAndIndex", block(0)),
    ("eth_getTransactionByHash", NONE),
    ("eth_getTransactionCount", or_latest(1)),
    ("eth_getTransactionReceipt", NONE),
    ("eth_getTransactionReceiptsByBlock", block(0)),
    ("eth_getUncleByBlockHashAndIndex", BlockParam::Hash(0)),
    ("eth_getUncleByBlockNumberAndIndex", block(0)),
    ("eth_getUncleCountByBlockHash", BlockParam::Hash(0)),
    ("eth_getUncleCountByBlockNumber", block(0)),
    ("eth_hashrate", NONE),
    ("eth_maxPriorityFeePerGas", NONE),
    ("eth_mining", NONE),
    ("eth_newBlockFilter", NONE),
    ("eth_newFilter", NONE),
    ("eth_newPendingTransactionFilter", NONE),
    ("eth_protocolVersion", NONE),
    ("eth_sendRawTransaction", NONE),
    ("eth_sendRawTransactionSync", NONE),
    ("eth_sendTransaction", NONE),
    ("eth_sign", NONE),
    ("eth_signTransaction", NONE),
    ("eth_simulateV1", or_latest(1)),
    ("eth_subscribe", NONE),
    ("eth_syncing", NONE),
    ("eth_uninstallFilter", NONE),
    ("eth_unsubscribe", NONE),
    ("net_listening", NONE),
    ("net_peerCount", NONE),
    ("net_version", NONE),
    ("ots_getBlockDetails", block(0)),
    ("ots_getBlockDetailsByHash", BlockParam::Hash(0)),
    ("ots_getBlockTransactions", block(0)),
    ("ots_hasCode", block(1)),
    ("trace_block", block(0)),
    ("trace_call", or_latest(2)),
    ("trace_callMany", or_latest(1)),
    // Without `fromBlock`, nodes start from the first block or from the latest.
    ("trace_filter", BlockParam::Filter(0, Omitted::Other)),
    ("trace_get", NONE),
    ("trace_rawTransaction", NONE),
    ("trace_replayBlockTransactions", block(0)),
    ("trace_replayTransaction", NONE),
    ("trace_transaction", NONE),
    ("txpool_content", NONE),
    ("txpool_contentFrom", NONE),
    ("txpool_inspect", NONE),
    ("txpool_status", NONE),
    ("web3_clientVersion", NONE),
    ("web3_sha3", NONE),
];

/// By [`Method::place`].
static TABLE: [BlockParam; NAMES.len()] = method::column(&ROWS);

#[cfg(test)]
pub(crate) mod tests;
