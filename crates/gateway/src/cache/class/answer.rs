//! What an answer shows of its blocks, compared with what the call names.
//!
//! Block numbers are strings in hexadecimal; in `trace_` answers they are JSON numbers.

use plimsoll_rpc::json::{self, Kind};

use super::table::Row;
use super::{Reason, Rule, Shows, item, member};
use crate::protocol::evm::block_param::{Block, BlockParam};

/// What a call names.
struct Named<'a> {
    /// A range of numbers; a single block is a range of one.
    numbers: Option<(u64, u64)>,
    /// The hash of a block, as it is written.
    hash: Option<&'a [u8]>,
    /// The hash of a transaction, as it is written.
    transaction: Option<&'a [u8]>,
}

/// Checks an answer; returns the highest block number that it shows.
///
/// # Errors
/// The answer shows that it must not be stored, or does not show what it should.
pub(super) fn check(
    row: Row,
    param: BlockParam,
    params: &[u8],
    result: &[u8],
) -> Result<Option<u64>, Reason> {
    let named = Named::of(row.rule, param, params);
    match row.shows {
        Shows::Nothing | Shows::Raw => Ok(None),
        Shows::Height => read(result).map(Some).ok_or(Reason::Mismatch),
        Shows::Block => named.check(result, b"number", b"hash").map(Some),
        Shows::Places if json::kind(result) == Some(Kind::Object) => named.place(result).map(Some),
        Shows::Places if json::kind(result) == Some(Kind::Array) => {
            let mut highest = None;
            for item in json::items(result).map_while(Result::ok) {
                highest = highest.max(Some(named.place(item)?));
            }
            Ok(highest)
        }
        Shows::Places => Err(Reason::Mismatch),
    }
}

impl<'a> Named<'a> {
    fn of(rule: Rule, param: BlockParam, params: &'a [u8]) -> Named<'a> {
        let transaction = if rule == Rule::Transaction { item(params, 0) } else { None };
        let mut numbers: Option<(u64, u64)> = None;
        for block in param.blocks(Some(params)) {
            if let Block::Number(number) = block {
                numbers = Some(numbers.map_or((number, number), |(first, _)| (first, number)));
            }
        }
        Named { numbers, hash: hash(param, params), transaction }
    }

    /// Checks a transaction, a receipt, a log or a trace; returns its block's number.
    fn place(&self, object: &[u8]) -> Result<u64, Reason> {
        if member(object, b"removed").is_some_and(|removed| removed != b"false") {
            return Err(Reason::Mismatch);
        }
        if let Some(asked) = self.transaction {
            let shown = member(object, b"transactionHash").or_else(|| member(object, b"hash"));
            if !shown.is_some_and(|shown| shown.eq_ignore_ascii_case(asked)) {
                return Err(Reason::Mismatch);
            }
        }
        self.check(object, b"blockNumber", b"blockHash")
    }

    fn check(&self, object: &[u8], number: &[u8], hash: &[u8]) -> Result<u64, Reason> {
        let (mut at, mut own_hash) = (None, None);
        for member in json::members(object).map_while(Result::ok) {
            let name = member.plain();
            if *name == *number {
                at = at.or(Some(member.value));
            } else if *name == *hash {
                own_hash = own_hash.or(Some(member.value));
            }
        }
        let (Some(at), Some(own_hash)) = (at, own_hash) else { return Err(Reason::Mismatch) };
        // Pending blocks and transactions have neither.
        if at == b"null" || own_hash == b"null" {
            return Err(Reason::Pending);
        }
        let at = read(at).ok_or(Reason::Mismatch)?;
        let is_within = self.numbers.is_none_or(|(first, last)| (first..=last).contains(&at));
        let is_same = self.hash.is_none_or(|asked| asked.eq_ignore_ascii_case(own_hash));
        if is_within && is_same { Ok(at) } else { Err(Reason::Mismatch) }
    }
}

/// The hash by which the parameters name a block.
fn hash(param: BlockParam, params: &[u8]) -> Option<&[u8]> {
    let of_object = |object| member(object, b"blockHash");
    match param {
        BlockParam::Hash(position) => item(params, position),
        BlockParam::Filter(position, _) => of_object(item(params, position)?),
        BlockParam::Block(position, _) => {
            let block = item(params, position)?;
            if json::kind(block) == Some(Kind::Object) {
                return of_object(block);
            }
            let is_hash = param.blocks(Some(params)).any(|block| block == Block::Hash);
            is_hash.then_some(block)
        }
        BlockParam::Context(_) | BlockParam::None => None,
    }
    .filter(|hash| *hash != b"null")
}

/// Reads a block number.
fn read(value: &[u8]) -> Option<u64> {
    match value.strip_prefix(b"\"0x") {
        Some(digits) => {
            let digits = std::str::from_utf8(digits.strip_suffix(b"\"")?).ok()?;
            u64::from_str_radix(digits, 16).ok()
        }
        None => std::str::from_utf8(value).ok()?.parse().ok(),
    }
}
