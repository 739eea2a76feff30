//! Whether the answers of several upstreams agree.
//!
//! With `agree = 2`, a call is answered only with what two upstreams say. Their answers are rarely the
//! same bytes: clients write members in different orders, addresses in different case, numbers in
//! different notation, and leave out members or write null. What is compared is the meaning.
//!
//! # What is the same
//! - White space, escapes and the order of members do not matter.
//! - A member that is null is as good as missing.
//! - In the results of methods that the specification describes ([`is_standard`]), only members that it
//!   names are compared ([`STANDARD`]): it leaves others open, and clients add their own.
//! - Members in [`OPTIONAL`] are not compared if only one answer has them: clients and versions differ
//!   in which of them they report.
//! - Hexadecimal strings may differ in case. Leading zeros matter: in data, they are content.
//! - Numbers are compared by value, with a tolerance for fractions, which clients compute differently.
//! - Two errors are the same if they are in the same category, or of none but with the same code, since
//!   clients use different codes and words for the same error. Reverts also need the same data.
//! - A result and an error are never the same. Errors that say nothing about the call, such as limits
//!   and timeouts, are no answers; leave them out.
//!
//! Upstreams at different blocks give different answers to a question about the latest. Bind tags to
//! numbers ([`crate::protocol::evm::block_param`]) before asking.
//!
//! # Costs
//! An answer becomes a flat list of values in one pass, without recursion; two lists are compared in
//! one further pass, so that depth costs nothing extra.

use std::borrow::Cow;

use plimsoll_rpc::json;

use crate::protocol::Category;

/// Members that only some clients report: of blocks, transactions, logs and receipts.
const OPTIONAL: [&str; 12] = [
    // Nethermind, OpenEthereum
    "author",
    "sealFields",
    "creates",
    "publicKey",
    "raw",
    "condition",
    "transactionLogIndex",
    // removed from execution-apis after the merge
    "totalDifficulty",
    // implied by `v`; added to execution-apis in 2023
    "yParity",
    // of old transactions, and of receipts of old blocks
    "chainId",
    // of logs, since 2025; Erigon's name
    "blockTimestamp",
    "timestamp",
];

/// Members that execution-apis names: of blocks, transactions, receipts, logs, withdrawals, access lists,
/// authorizations, fee histories and proofs. Sorted.
const STANDARD: [&str; 85] = [
    "accessList",
    "accountProof",
    "address",
    "amount",
    "authorizationList",
    "balance",
    "baseFeePerBlobGas",
    "baseFeePerGas",
    "blobGasPrice",
    "blobGasUsed",
    "blobGasUsedRatio",
    "blobVersionedHashes",
    "blockAccessListHash",
    "blockHash",
    "blockNumber",
    "blockTimestamp",
    "calls",
    "chainId",
    "code",
    "codeHash",
    "contractAddress",
    "cumulativeGasUsed",
    "data",
    "difficulty",
    "effectiveGasPrice",
    "error",
    "excessBlobGas",
    "extraData",
    "from",
    "gas",
    "gasLimit",
    "gasPrice",
    "gasUsed",
    "gasUsedRatio",
    "hash",
    "index",
    "input",
    "key",
    "logIndex",
    "logs",
    "logsBloom",
    "maxFeePerBlobGas",
    "maxFeePerGas",
    "maxPriorityFeePerGas",
    "message",
    "miner",
    "mixHash",
    "nonce",
    "number",
    "oldestBlock",
    "parentBeaconBlockRoot",
    "parentHash",
    "proof",
    "r",
    "receiptsRoot",
    "removed",
    "requestsHash",
    "returnData",
    "reward",
    "root",
    "s",
    "sha3Uncles",
    "size",
    "slotNumber",
    "stateRoot",
    "status",
    "storageHash",
    "storageKeys",
    "storageProof",
    "timestamp",
    "to",
    "topics",
    "totalDifficulty",
    "transactionHash",
    "transactionIndex",
    "transactions",
    "transactionsRoot",
    "type",
    "uncles",
    "v",
    "validatorIndex",
    "value",
    "withdrawals",
    "withdrawalsRoot",
    "yParity",
];

/// Whether the specification describes the members of a method's result.
pub fn is_standard(method: &str) -> bool {
    const METHODS: [&str; 17] = [
        "eth_createAccessList",
        "eth_feeHistory",
        "eth_getBlockByHash",
        "eth_getBlockByNumber",
        "eth_getBlockReceipts",
        "eth_getHeaderByHash",
        "eth_getHeaderByNumber",
        "eth_getLogs",
        "eth_getProof",
        "eth_getTransactionByBlockHashAndIndex",
        "eth_getTransactionByBlockNumberAndIndex",
        "eth_getTransactionByHash",
        "eth_getTransactionBySenderAndNonce",
        "eth_getTransactionReceipt",
        "eth_getUncleByBlockHashAndIndex",
        "eth_getUncleByBlockNumberAndIndex",
        "eth_simulateV1",
    ];
    METHODS.contains(&method)
}

/// An answer, as it was judged.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// A result, as valid JSON.
    Result(&'a [u8]),
    /// An error.
    Error {
        /// Its code.
        code: i64,
        /// Its category.
        category: Category,
        /// Its data, as valid JSON.
        data: Option<&'a [u8]>,
    },
}

/// What a number of answers have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The answers that agree, as indices: the largest group, of groups of the same size the one with
    /// the first answer. Empty if there are no answers.
    pub agreeing: Vec<usize>,
    /// The other answers.
    pub dissenting: Vec<usize>,
}

impl Agreement {
    /// Compares answers. `is_standard`: whether the specification describes the result's members.
    pub fn of(answers: &[Answer<'_>], is_standard: bool) -> Agreement {
        let contents: Vec<Content<'_>> = answers.iter().map(Content::of).collect();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (at, content) in contents.iter().enumerate() {
            // All of them: two answers that differ may both be the same as one that says less.
            let fits = |group: &&mut Vec<usize>| {
                group.iter().all(|member| contents[*member].is_same(content, is_standard))
            };
            match groups.iter_mut().find(fits) {
                Some(group) => group.push(at),
                None => groups.push(vec![at]),
            }
        }
        let largest = groups
            .into_iter()
            .reduce(|best, next| if next.len() > best.len() { next } else { best });
        let agreeing = largest.unwrap_or_default();
        let dissenting = (0..answers.len()).filter(|at| !agreeing.contains(at)).collect();
        Agreement { agreeing, dissenting }
    }

    /// The answer to return if at least this many agree: the first of them.
    pub fn answer(&self, needed: usize) -> Option<usize> {
        self.agreeing.first().copied().filter(|_| self.agreeing.len() >= needed)
    }

    /// Whether as many as needed can still agree when this many more answers come.
    pub fn is_possible(&self, needed: usize, outstanding: usize) -> bool {
        self.agreeing.len() + outstanding >= needed
    }
}

/// An answer in a form that can be compared.
enum Content<'a> {
    Result(Tree<'a>),
    Error { code: i64, category: Category, data: Option<Vec<u8>> },
}

impl<'a> Content<'a> {
    fn of(answer: &Answer<'a>) -> Content<'a> {
        match *answer {
            Answer::Result(text) => Content::Result(Tree::of(text)),
            Answer::Error { code, category, data } => {
                // Only reverts have data that is part of the answer. Some clients put text there.
                let is_revert = category == Category::Reverted;
                let data = data.filter(|_| is_revert).and_then(hexadecimal);
                Content::Error { code, category, data }
            }
        }
    }

    fn is_same(&self, other: &Content<'_>, is_standard: bool) -> bool {
        match (self, other) {
            (Content::Result(tree), Content::Result(other)) => tree.is_same(other, is_standard),
            (
                Content::Error { code, category, data },
                Content::Error { code: other_code, category: other_category, data: other_data },
            ) => {
                let is_data_same = data.is_none() || other_data.is_none() || data == other_data;
                category == other_category
                    && (*category != Category::Other || code == other_code)
                    && is_data_same
            }
            _ => false,
        }
    }
}

/// A JSON text as a list of its values, each before those within it.
struct Tree<'a>(Vec<Node<'a>>);

struct Node<'a> {
    /// With quotation marks; empty if the value is not a member.
    name: &'a [u8],
    value: Value<'a>,
    /// The index after the last value within this one.
    end: usize,
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Array,
    Object,
    /// A string, number, true, false or null.
    Scalar(&'a [u8]),
}

impl<'a> Tree<'a> {
    /// The values of a valid JSON text.
    fn of(text: &'a [u8]) -> Tree<'a> {
        let mut nodes: Vec<Node<'a>> = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        let mut name: &[u8] = b"";
        let mut at = 0;
        while let Some(byte) = text.get(at) {
            let (value, len) = match byte {
                b'{' => (Value::Object, 1),
                b'[' => (Value::Array, 1),
                b'}' | b']' => {
                    if let Some(closed) = open.pop() {
                        nodes[closed].end = nodes.len();
                    }
                    at += 1;
                    continue;
                }
                b' ' | b'\t' | b'\n' | b'\r' | b',' | b':' => {
                    at += 1;
                    continue;
                }
                _ => {
                    let len = scalar_len(&text[at..]);
                    (Value::Scalar(&text[at..at + len]), len)
                }
            };
            let is_member = open.last().is_some_and(|at| matches!(nodes[*at].value, Value::Object));
            if let Value::Scalar(text) = value
                && is_member
                && name.is_empty()
            {
                name = text;
            } else {
                let end = nodes.len() + 1;
                if !matches!(value, Value::Scalar(_)) {
                    open.push(nodes.len());
                }
                nodes.push(Node { name: std::mem::take(&mut name), value, end });
            }
            at += len;
        }
        Tree(nodes)
    }

    /// The indices of the values directly within one.
    fn within(&self, parent: usize) -> impl Iterator<Item = usize> {
        let end = self.0[parent].end;
        let first = (parent + 1 < end).then_some(parent + 1);
        std::iter::successors(first, move |at| Some(self.0[*at].end).filter(|next| *next < end))
    }

    /// The members of an object that are compared and are not null, by name.
    fn members(&self, object: usize, is_standard: bool) -> Vec<(Cow<'a, str>, usize)> {
        let is_null = |at: &usize| matches!(self.0[*at].value, Value::Scalar(b"null"));
        let name = |at: usize| json::text(self.0[at].name).unwrap_or_default();
        let is_compared = |name: &str| {
            !is_standard || STANDARD.binary_search(&name).is_ok() || OPTIONAL.contains(&name)
        };
        let members = self.within(object).filter(|at| !is_null(at)).map(|at| (name(at), at));
        let mut members: Vec<_> = members.filter(|(name, _)| is_compared(name)).collect();
        members.sort();
        members
    }

    fn is_same(&self, other: &Tree<'_>, is_standard: bool) -> bool {
        if self.0.is_empty() || other.0.is_empty() {
            return self.0.is_empty() == other.0.is_empty();
        }
        let mut pairs = vec![(0, 0)];
        while let Some((left, right)) = pairs.pop() {
            let is_same = match (self.0[left].value, other.0[right].value) {
                (Value::Scalar(left), Value::Scalar(right)) => is_scalar_same(left, right),
                (Value::Array, Value::Array) => {
                    let counts = (self.within(left).count(), other.within(right).count());
                    pairs.extend(self.within(left).zip(other.within(right)));
                    counts.0 == counts.1
                }
                (Value::Object, Value::Object) => {
                    let (left, right) =
                        (self.members(left, is_standard), other.members(right, is_standard));
                    match_members(&left, &right, &mut pairs)
                }
                _ => false,
            };
            if !is_same {
                return false;
            }
        }
        true
    }
}

/// Pairs the members of two objects, both sorted by name; whether each has its counterpart or is
/// optional.
fn match_members(
    left: &[(Cow<'_, str>, usize)],
    right: &[(Cow<'_, str>, usize)],
    pairs: &mut Vec<(usize, usize)>,
) -> bool {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    loop {
        let alone = match (left.peek(), right.peek()) {
            (None, None) => return true,
            (Some((name, at)), Some((other_name, other))) if name == other_name => {
                pairs.push((*at, *other));
                left.next();
                right.next();
                continue;
            }
            (Some((name, _)), Some((other_name, _))) if name > other_name => right.next(),
            (Some(_), _) => left.next(),
            (None, Some(_)) => right.next(),
        };
        if alone.is_some_and(|(name, _)| !OPTIONAL.contains(&&**name)) {
            return false;
        }
    }
}

/// The length of the string, number or word at the start of a text.
fn scalar_len(text: &[u8]) -> usize {
    if text[0] != b'"' {
        let is_end = |byte: &u8| b",:]} \t\r\n".contains(byte);
        return text.iter().position(is_end).unwrap_or(text.len());
    }
    let mut at = 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

fn is_scalar_same(left: &[u8], right: &[u8]) -> bool {
    if left == right {
        return true;
    }
    match (json::text(left), json::text(right)) {
        (Some(left), Some(right)) => {
            left == right || is_hex(&left) && is_hex(&right) && left.eq_ignore_ascii_case(&right)
        }
        (None, None) => is_number_same(left, right),
        _ => false,
    }
}

/// Whether two numbers are the same, as integers exactly, and as fractions about.
fn is_number_same(left: &[u8], right: &[u8]) -> bool {
    /// Clients differ in the last digits of a quotient.
    const TOLERANCE: f64 = 1e-9;
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<f64>().ok();
    let is_integer = |text: &[u8]| !text.iter().any(|byte| b".eE".contains(byte));
    let (Some(a), Some(b)) = (number(left), number(right)) else { return false };
    let is_about = (a - b).abs() <= TOLERANCE * a.abs().max(b.abs());
    is_about && !(is_integer(left) && is_integer(right))
}

fn is_hex(text: &str) -> bool {
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    digits.is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// A hexadecimal string in lower case; `None` if it is anything else.
fn hexadecimal(raw: &[u8]) -> Option<Vec<u8>> {
    let text = json::text(raw).filter(|text| is_hex(text))?;
    Some(text.to_ascii_lowercase().into_bytes())
}

#[cfg(test)]
mod tests;
