//! eth_getLogs: filters logs in a range of blocks, with limits.

use super::failure::Failure;
use super::params::{BlockRef, Params, Value};
use super::{Node, View, render};
use crate::chain::block::Block;
use crate::chain::keccak::Hash;
use crate::chain::transaction::{Address, Log};

/// Maximum block range of a call. Nodes and providers use limits from 500 to 10,000.
pub(crate) const RANGE_MAX: u64 = 2_000;
/// Maximum number of logs in an answer.
pub(crate) const LOGS_MAX: usize = 10_000;
/// Maximum number of topic positions, as in geth.
const TOPICS_MAX: usize = 4;
/// Maximum number of alternatives for the address or a topic, as in geth.
const ALTERNATIVES_MAX: usize = 1_000;

/// Which logs to return.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    from: Option<BlockRef>,
    to: Option<BlockRef>,
    block: Option<Hash>,
    /// Any of these addresses; empty: all.
    addresses: Vec<Address>,
    /// Any of these topics at each position; empty: all.
    topics: Vec<Vec<Hash>>,
}

impl Filter {
    pub(super) fn of(object: Value<'_>) -> Result<Filter, Failure> {
        let mut filter = Filter::default();
        for (name, value) in object.members()? {
            match name.as_str() {
                "fromBlock" => filter.from = Some(value.block()?),
                "toBlock" => filter.to = Some(value.block()?),
                "blockHash" => filter.block = Some(value.fixed("common.Hash")?),
                "address" => filter.addresses = alternatives(value, "common.Address")?,
                "topics" => {
                    let list = value.list();
                    let list = list.ok_or_else(|| Failure::argument(0, "invalid topics"))?;
                    if list.len() > TOPICS_MAX {
                        return Err(Failure::params("exceed max topics"));
                    }
                    let position = |value| alternatives(value, "common.Hash");
                    filter.topics = list.into_iter().map(position).collect::<Result<_, _>>()?;
                }
                _ => {}
            }
        }
        if filter.block.is_some() && (filter.from.is_some() || filter.to.is_some()) {
            return Err(Failure::argument(
                0,
                "cannot specify both BlockHash and FromBlock/ToBlock, choose one or the other",
            ));
        }
        Ok(filter)
    }

    pub(super) fn matches(&self, log: &Log) -> bool {
        let one_of = |wanted: &[Hash], topic: Option<&Hash>| {
            topic.is_some_and(|topic| wanted.is_empty() || wanted.contains(topic))
        };
        (self.addresses.is_empty() || self.addresses.contains(&log.address))
            && self.topics.iter().enumerate().all(|(at, wanted)| one_of(wanted, log.topics.get(at)))
    }
}

/// One value, a list of values, or `null` for any.
fn alternatives<const N: usize>(value: Value<'_>, what: &str) -> Result<Vec<[u8; N]>, Failure> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    let values = value.list().unwrap_or_else(|| vec![value]);
    if values.len() > ALTERNATIVES_MAX {
        return Err(Failure::params("exceed max addresses or topics per search position"));
    }
    if values.iter().any(|value| value.is_null()) {
        return Ok(Vec::new());
    }
    values.into_iter().map(|value| value.fixed(what)).collect()
}

impl Node {
    pub(super) fn get_logs(
        &self,
        params: Option<&[u8]>,
        view: &View,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let filter = Filter::of(Params::read(params, 1)?.need(0)?)?;
        let mut count = 0;
        out.push(b'[');
        if let Some(hash) = filter.block {
            let named = BlockRef::Hash { hash, canonical: false };
            let id = self.resolve(named, view).ok_or_else(|| Failure::server("unknown block"))?;
            write_matching(out, &self.block(id), &filter, &mut count)?;
        } else {
            let height = |named: Option<BlockRef>| {
                let height = self.height(named.unwrap_or(BlockRef::Latest), view);
                height.ok_or_else(|| Failure::argument(0, "must be a block number or tag"))
            };
            let (from, to) = (height(filter.from)?, height(filter.to)?);
            if from > to {
                return Err(Failure::params("invalid block range params"));
            }
            if to - from >= RANGE_MAX {
                return Err(Failure::limit(format!("exceed maximum block range: {RANGE_MAX}")));
            }
            for number in from..=to.min(view.head) {
                write_matching(out, &self.block(self.id_at(number)), &filter, &mut count)?;
            }
        }
        out.push(b']');
        Ok(())
    }
}

fn write_matching(
    out: &mut Vec<u8>,
    block: &Block,
    filter: &Filter,
    count: &mut usize,
) -> Result<(), Failure> {
    let mut nth = 0;
    for (at, transaction) in block.transactions.iter().enumerate() {
        for log in &transaction.outcome.logs {
            if filter.matches(log) {
                if *count == LOGS_MAX {
                    return Err(Failure::limit(format!(
                        "query returned more than {LOGS_MAX} results"
                    )));
                }
                if *count > 0 {
                    out.push(b',');
                }
                *count += 1;
                render::log(out, block, at, nth, log);
            }
            nth += 1;
        }
    }
    Ok(())
}
