//! The classes of answers: whether a call may be answered from the cache, and for how long an answer
//! holds.
//!
//! # Classes
//! An answer is *static* (about the chain itself), *immutable* (about a block named by its hash),
//! *final* (about blocks up to the finalized head), or *young* (about later blocks, or about the head).
//! Young answers end with the branch of the chain on which they were given ([`Moment::branch`]), and
//! those about the head with that head. Everything else is never stored. One table has a row for each
//! known method; an unknown method is never stored.
//!
//! # Two decisions
//! [`plan`] decides from the call, before a node is asked: it reads the block that the parameters name
//! ([`BlockParam`]) and compares it with the served heads. [`classify`] decides from the answer, before
//! it is stored: the block of a transaction or receipt is known only then. It also compares the answer
//! with the call: an answer about another block or transaction than the call's is not stored, so that
//! one mixed-up answer of a node is not repeated for hours.
//!
//! Both take the moment at which the call was sent. The moving tags must have been bound before
//! ([`BlockParam::bind`]); a tag that was not, because its head is not known, is not stored.
//!
//! # Not stored
//! - null, which means that something may yet appear, and empty answers about a transaction or a block
//!   named by its hash: a node that does not have it may answer so;
//! - answers about pending blocks, transactions and logs, and logs that were removed;
//! - answers about blocks above the served head: another caller would see a block that this gateway
//!   does not serve yet;
//! - calls by number or about the head while the heads are not known.
//!
//! Errors, oversized answers and notifications are not stored either; callers of this module have to
//! see to that.
//!
//! # Limits
//! Without a finalized head nothing is final by number. A block named by its hash with
//! `requireCanonical` is young, because the call fails once the block is replaced. `earliest` is young,
//! because it depends on what a node has pruned.

mod answer;
mod table;

use plimsoll_rpc::json::{self, Kind};
use plimsoll_rpc::method::Method;

use crate::heads::Served;
use crate::protocol::evm::block_param::{Block, BlockParam, Tag};

/// The class of an answer that may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// About the chain itself, or about the parameters alone.
    Static,
    /// About a block named by its hash.
    Immutable,
    /// About blocks up to the finalized head.
    Final,
    /// About later blocks or about the head.
    Young,
}

impl Class {
    /// Every class.
    pub const ALL: [Class; 4] = [Class::Static, Class::Immutable, Class::Final, Class::Young];

    /// The name, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Class::Static => "static",
            Class::Immutable => "immutable",
            Class::Final => "final",
            Class::Young => "young",
        }
    }
}

/// What the gateway serves when a call is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// The served heads.
    pub served: Served,
    /// Identifies the served branch in this process: changes with each reorganisation.
    pub branch: u64,
}

/// Whether a call may be answered from the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It is relayed, and its answer is not stored.
    Bypass(Reason),
    /// It may be; an answer holds within this scope.
    Use(Scope),
}

/// What an answer depends on besides the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// On nothing: it has this class, which is not [`Class::Young`].
    Fixed(Class),
    /// On the branch, unless the answer shows that it is final.
    Branch,
    /// On the served latest block.
    Head,
}

/// Why a call or an answer is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The method is not known.
    UnknownMethod,
    /// A node keeps state for it: filters, subscriptions.
    Stateful,
    /// It submits or signs a transaction.
    Sends,
    /// It is about pending transactions or blocks.
    Pending,
    /// It describes one node.
    Node,
    /// The block that it names is not understood, or depends on the node.
    UnclearBlock,
    /// The heads are not known.
    NoHead,
    /// It is about a block above the served head.
    AboveHead,
    /// The result is null or empty: what it is about may yet appear.
    Missing,
    /// The answer is not about what the call names, or does not show what it is about.
    Mismatch,
    /// The parameters or the result are too long.
    TooLong,
    /// The configuration turns its class, or the cache, off.
    Off,
    /// The service has no chain id.
    NoChain,
    /// The hashes of blocks are not known, so that a reorganisation would not be noticed.
    NoHashes,
    /// The caller asked for an answer of an upstream.
    Asked,
    /// The request has headers that are forwarded and may change the answer.
    Headers,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 16] = [
        Reason::UnknownMethod,
        Reason::Stateful,
        Reason::Sends,
        Reason::Pending,
        Reason::Node,
        Reason::UnclearBlock,
        Reason::NoHead,
        Reason::AboveHead,
        Reason::Missing,
        Reason::Mismatch,
        Reason::TooLong,
        Reason::Off,
        Reason::NoChain,
        Reason::NoHashes,
        Reason::Asked,
        Reason::Headers,
    ];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Reason::UnknownMethod => "unknown_method",
            Reason::Stateful => "stateful",
            Reason::Sends => "sends",
            Reason::Pending => "pending",
            Reason::Node => "node",
            Reason::UnclearBlock => "unclear_block",
            Reason::NoHead => "no_head",
            Reason::AboveHead => "above_head",
            Reason::Missing => "missing",
            Reason::Mismatch => "mismatch",
            Reason::TooLong => "too_long",
            Reason::Off => "off",
            Reason::NoChain => "no_chain",
            Reason::NoHashes => "no_hashes",
            Reason::Asked => "asked",
            Reason::Headers => "headers",
        }
    }
}

/// How a method's answers are classified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// They are never stored.
    Never(Reason),
    /// They depend on the chain or the parameters alone.
    Static,
    /// They depend on the latest block.
    Head,
    /// They depend on the block or the blocks that the parameters name.
    Block,
    /// They are about the transaction whose hash is the first parameter.
    Transaction,
}

/// What a method's answers show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    /// Nothing about the block.
    Nothing,
    /// They are the bytes of a transaction: none if there is no such transaction.
    Raw,
    /// They are blocks, with `number` and `hash`.
    Block,
    /// They are an object, or an array of objects, with `blockNumber` and `blockHash`.
    Places,
    /// They are the number of the latest block.
    Height,
}

/// Decides whether a call may be answered from the cache, and its answer be stored. `params` are the
/// parameters that are sent: with bound tags.
pub fn plan(method: Option<Method>, params: Option<&[u8]>, served: Served) -> Plan {
    let Some(method) = method else { return Plan::Bypass(Reason::UnknownMethod) };
    let has_head = served.latest.is_some();
    let scope = match table::row(method).rule {
        Rule::Never(reason) => Err(reason),
        Rule::Static => Ok(Scope::Fixed(Class::Static)),
        Rule::Head | Rule::Transaction if !has_head => Err(Reason::NoHead),
        Rule::Head => Ok(Scope::Head),
        Rule::Transaction => Ok(Scope::Branch),
        Rule::Block => by_block(BlockParam::of(method), params.unwrap_or_default(), served),
    };
    scope.map_or_else(Plan::Bypass, Plan::Use)
}

/// The scope of a call by the blocks that it names.
fn by_block(param: BlockParam, params: &[u8], served: Served) -> Result<Scope, Reason> {
    let (mut named, mut all) = (0, Scope::Fixed(Class::Final));
    for block in param.blocks(Some(params)) {
        named += 1;
        let scope = match block {
            Block::Unknown => return Err(Reason::UnclearBlock),
            Block::Tag(Tag::Pending) => return Err(Reason::Pending),
            Block::Hash if requires_canonical(param, params) => match served.latest {
                None => return Err(Reason::NoHead),
                Some(_) => Scope::Branch,
            },
            Block::Hash => return Ok(Scope::Fixed(Class::Immutable)),
            Block::Tag(Tag::Earliest) if served.latest.is_some() => Scope::Branch,
            Block::Tag(_) => return Err(Reason::NoHead),
            Block::Number(number) => by_number(number, served)?,
        };
        if scope == Scope::Branch {
            all = scope;
        }
    }
    // What is missing depends on the node.
    let needed = if matches!(param, BlockParam::Filter(..)) { 2 } else { 1 };
    if named < needed { Err(Reason::UnclearBlock) } else { Ok(all) }
}

fn by_number(number: u64, served: Served) -> Result<Scope, Reason> {
    match (served.latest, served.finalized) {
        (None, _) => Err(Reason::NoHead),
        (Some(latest), _) if number > latest => Err(Reason::AboveHead),
        (_, Some(finalized)) if number <= finalized => Ok(Scope::Fixed(Class::Final)),
        _ => Ok(Scope::Branch),
    }
}

/// Whether the call fails once the block that it names by hash has been replaced.
fn requires_canonical(param: BlockParam, params: &[u8]) -> bool {
    let BlockParam::Block(position, _) = param else { return false };
    let Some(item) = item(params, position) else { return false };
    json::kind(item) == Some(Kind::Object)
        && member(item, b"requireCanonical").is_some_and(|value| value != b"false")
}

fn item(params: &[u8], position: u8) -> Option<&[u8]> {
    json::items(params).map_while(Result::ok).nth(position.into())
}

fn member<'a>(object: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut members = json::members(object).map_while(Result::ok);
    members.find(|member| *member.plain() == *name).map(|member| member.value)
}

/// Classifies a call's result, a valid JSON text. `scope` is the one that [`plan`] returned for the
/// call at the moment at which it was sent; `served` are the heads of that moment.
///
/// # Errors
/// The answer must not be stored.
pub fn classify(
    method: Method,
    params: Option<&[u8]>,
    scope: Scope,
    result: &[u8],
    served: Served,
) -> Result<Class, Reason> {
    let row = table::row(method);
    let is_by_hash = row.rule == Rule::Transaction || scope == Scope::Fixed(Class::Immutable);
    let is_empty = match row.shows {
        Shows::Places => {
            let is_list = json::kind(result) == Some(Kind::Array);
            is_by_hash && is_list && json::items(result).next().is_none()
        }
        Shows::Raw => result == b"\"0x\"",
        _ => false,
    };
    if is_empty || result == b"null" {
        return Err(Reason::Missing);
    }
    let params = params.unwrap_or_default();
    let shown = answer::check(row, BlockParam::of(method), params, result)?;
    if shown.is_some_and(|number| served.latest.is_some_and(|latest| number > latest)) {
        return Err(Reason::AboveHead);
    }
    if row.shows == Shows::Height && shown != served.latest {
        return Err(Reason::Mismatch);
    }
    match (scope, row.rule, shown) {
        (Scope::Fixed(class), ..) => Ok(class),
        (Scope::Branch, Rule::Transaction, Some(number)) => match by_number(number, served)? {
            Scope::Fixed(class) => Ok(class),
            _ => Ok(Class::Young),
        },
        _ => Ok(Class::Young),
    }
}

#[cfg(test)]
mod document;
#[cfg(test)]
mod tests;
