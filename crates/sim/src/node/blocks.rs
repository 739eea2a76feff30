//! Blocks, transactions, receipts and the fee history.

use super::failure::Failure;
use super::params::{BlockRef, Params};
use super::write::{Object, array, quantity};
use super::{Node, View, render};
use crate::chain::block::{BlockId, GAS_LIMIT};
use crate::chain::keccak::Hash;
use crate::chain::transaction::Transaction;

/// Maximum number of blocks in a fee history, as in geth.
const FEE_HISTORY_MAX: u64 = 1024;
/// Maximum number of percentiles in a fee history, as in geth.
const PERCENTILES_MAX: usize = 100;

/// The location of a transaction.
enum Place {
    Mined(BlockId),
    Pending,
    Unknown,
}

impl Node {
    pub(super) fn get_block(
        &self,
        by_hash: bool,
        params: Option<&[u8]>,
        view: &View,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let params = Params::read(params, 2)?;
        let named = read_block(&params, by_hash)?;
        let full = params.flag(1)?;
        if named == BlockRef::Pending {
            let block = self.make_block(self.id_at(view.head + 1));
            render::block(out, &block, full, true);
        } else {
            match self.resolve(named, view) {
                Some(id) => self.write_block(id, full, out),
                None => out.extend_from_slice(b"null"),
            }
        }
        Ok(())
    }

    fn write_block(&self, id: BlockId, full: bool, out: &mut Vec<u8>) {
        let which = usize::from(!full);
        if let Some(text) = self.recent().get(id).and_then(|recent| recent.texts[which].clone()) {
            return out.extend_from_slice(&text);
        }
        let from = out.len();
        render::block(out, &self.block(id), full, false);
        if let Some(recent) = self.recent().get(id) {
            recent.texts[which] = Some(out[from..].into());
        }
    }

    pub(super) fn get_block_receipts(
        &self,
        params: Option<&[u8]>,
        view: &View,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let params = Params::read(params, 1)?;
        let named = params.need(0)?.block()?;
        let Some(id) = self.resolve(named, view) else {
            out.extend_from_slice(b"null");
            return Ok(());
        };
        let block = self.block(id);
        array(out, 0..block.transactions.len(), |out, at| render::receipt(out, &block, at));
        Ok(())
    }

    pub(super) fn count_transactions(
        &self,
        by_hash: bool,
        params: Option<&[u8]>,
        view: &View,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let params = Params::read(params, 1)?;
        let named = read_block(&params, by_hash)?;
        match self.resolve(named, view) {
            Some(id) => quantity(out, self.block(id).transactions.len() as u128),
            None => out.extend_from_slice(b"null"),
        }
        Ok(())
    }

    pub(super) fn get_transaction(
        &self,
        params: Option<&[u8]>,
        view: &View,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let params = Params::read(params, 1)?;
        let hash = params.need(0)?.fixed("common.Hash")?;
        match self.place(&hash, view) {
            Place::Mined(id) => {
                let block = self.block(id);
                let at = block.transactions.iter().position(|t| t.hash == hash);
                match at {
                    Some(at) => {
                        render::transaction(out, &block.transactions[at], Some((&block, at)));
                    }
                    None => out.extend_from_slice(b"null"),
                }
            }
            Place::Pending => {
                let sent = self.pool().find(&hash).map(|sent| sent.transaction.clone());
                match sent {
                    Some(transaction) => render::transaction(out, &transaction, None),
                    None => out.extend_from_slice(b"null"),
                }
            }
            Place::Unknown => out.extend_from_slice(b"null"),
        }
        Ok(())
    }

    pub(super) fn get_transaction_in_block(
        &self,
        by_hash: bool,
        params: Option<&[u8]>,
        view: &View,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let params = Params::read(params, 2)?;
        let named = read_block(&params, by_hash)?;
        let at = params.need(1)?.number()?;
        let block = self.resolve(named, view).map(|id| self.block(id));
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        match block.as_ref().and_then(|block| Some((block, block.transactions.get(at)?))) {
            Some((block, transaction)) => render::transaction(out, transaction, Some((block, at))),
            None => out.extend_from_slice(b"null"),
        }
        Ok(())
    }

    pub(super) fn get_receipt(
        &self,
        params: Option<&[u8]>,
        view: &View,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let params = Params::read(params, 1)?;
        let hash = params.need(0)?.fixed("common.Hash")?;
        if let Place::Mined(id) = self.place(&hash, view) {
            let block = self.block(id);
            if let Some(at) = block.transactions.iter().position(|t| t.hash == hash) {
                render::receipt(out, &block, at);
                return Ok(());
            }
        }
        out.extend_from_slice(b"null");
        Ok(())
    }

    fn place(&self, hash: &Hash, view: &View) -> Place {
        if let Some((_, number)) = self.chain.find(hash) {
            return if number <= view.head {
                Place::Mined(self.id_at(number))
            } else {
                Place::Unknown
            };
        }
        match self.pool().find(hash).map(|sent| sent.block) {
            Some(Some(number)) if number <= view.head => Place::Mined(self.id_at(number)),
            Some(_) => Place::Pending,
            None => Place::Unknown,
        }
    }

    pub(super) fn fee_history(
        &self,
        params: Option<&[u8]>,
        view: &View,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let params = Params::read(params, 3)?;
        let count = params.need(0)?.number()?.min(FEE_HISTORY_MAX);
        let named = params.need(1)?.block()?;
        let last = self.height(named, view).ok_or_else(Failure::header_not_found)?;
        if last > view.head {
            let head = view.head;
            return Err(Failure::server(format!(
                "request beyond head block: requested {last}, head {head}"
            )));
        }
        let percentiles = match params.maybe(2) {
            None => Vec::new(),
            Some(value) => value
                .list()
                .ok_or_else(|| Failure::argument(2, "must be an array of numbers"))?
                .into_iter()
                .map(|value| value.percentile())
                .collect::<Result<Vec<_>, _>>()?,
        };
        if percentiles.len() > PERCENTILES_MAX {
            return Err(Failure::server(format!(
                "over the query limit {PERCENTILES_MAX}: invalid reward percentile"
            )));
        }
        if !percentiles.is_sorted() {
            return Err(Failure::server("invalid reward percentile: must be in ascending order"));
        }
        let first = (last + 1).saturating_sub(count);
        let mut object = Object::open(out);
        object.number("oldestBlock", first);
        if count == 0 {
            object.raw("gasUsedRatio", "null").close();
            return Ok(());
        }
        if !percentiles.is_empty() {
            array(object.member("reward"), first..=last, |out, number| {
                let block = self.block(self.id_at(number));
                array(out, &percentiles, |out, percentile| {
                    quantity(out, reward(&block.transactions, block.base_fee, *percentile));
                });
            });
        }
        array(object.member("baseFeePerGas"), first..=last + 1, |out, number| {
            quantity(out, self.chain.base_fee(number));
        });
        array(object.member("gasUsedRatio"), first..=last, |out, number| {
            let used = self.block(self.id_at(number)).gas_used;
            out.extend_from_slice((used as f64 / GAS_LIMIT as f64).to_string().as_bytes());
        });
        object.close();
        Ok(())
    }
}

fn read_block(params: &Params<'_>, by_hash: bool) -> Result<BlockRef, Failure> {
    let value = params.need(0)?;
    if by_hash {
        let hash = value.fixed("common.Hash")?;
        return Ok(BlockRef::Hash { hash, canonical: false });
    }
    value.block()
}

/// The priority fee at a percentile of the block's gas.
fn reward(transactions: &[std::sync::Arc<Transaction>], base_fee: u128, percentile: f64) -> u128 {
    let mut tips: Vec<_> = transactions
        .iter()
        .map(|t| (t.outcome.gas_price.saturating_sub(base_fee), t.outcome.gas_used))
        .collect();
    tips.sort_unstable();
    let total: u64 = tips.iter().map(|(_, gas)| gas).sum();
    let threshold = total as f64 * percentile / 100.0;
    let mut sum = 0;
    for (tip, gas) in &tips {
        sum += gas;
        if sum as f64 >= threshold {
            return *tip;
        }
    }
    tips.last().map_or(0, |(tip, _)| *tip)
}
