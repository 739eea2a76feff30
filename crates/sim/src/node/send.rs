//! eth_sendRawTransaction: checks transactions before they enter the pool, and computes their
//! outcomes.

use super::failure::Failure;
use super::params::Params;
use super::state::{gas_used, transfer};
use super::write::data;
use super::{Node, View, raw};
use crate::chain::TOKENS_AT_GENESIS;
use crate::chain::block::GAS_LIMIT;
use crate::chain::transaction::{Fees, Outcome, REVERTER, TOKEN, Transaction};

impl Node {
    pub(super) fn send(
        &self,
        params: Option<&[u8]>,
        view: &View,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let params = Params::read(params, 1)?;
        let transaction = raw::decode(&params.need(0)?.bytes()?)?;
        self.check(&transaction, view)?;
        let finalized = view.tip.saturating_sub(self.service.finalized_depth);
        let mut pool = self.pool();
        // The sender's pending transactions count against its balance.
        let held = self.ether_at_genesis(&transaction.from);
        let held = held.saturating_add_signed(pool.total(&transaction.from).ether);
        let cost = transaction.fees.max().saturating_mul(transaction.gas.into());
        let cost = cost.saturating_add(transaction.value);
        if cost > held && pool.find(&transaction.hash).is_none() {
            return Err(Failure::server(format!(
                "insufficient funds for gas * price + value: balance {held}, tx cost {cost}, overshot {}",
                cost - held
            )));
        }
        let tokens = TOKENS_AT_GENESIS.saturating_add_signed(pool.total(&transaction.from).tokens);
        let place = |transaction: &mut Transaction, number| {
            let gas_price = transaction.fees.effective(self.chain.base_fee(number));
            transaction.outcome = self.outcome(transaction, gas_price, tokens);
        };
        let hash = pool.add(transaction, view.tip, finalized, place)?;
        data(out, &hash);
        Ok(())
    }

    fn check(&self, transaction: &Transaction, view: &View) -> Result<(), Failure> {
        let chain_id = self.service.chain_id;
        if let Some(other) = transaction.chain_id.filter(|id| *id != chain_id) {
            return Err(Failure::server(format!(
                "invalid chain id for signer: have {other} want {chain_id}"
            )));
        }
        let Transaction { gas, fees, .. } = transaction;
        if *gas > GAS_LIMIT {
            return Err(Failure::server("exceeds block gas limit"));
        }
        let need = gas_used(transaction.to.as_ref(), &transaction.input);
        if *gas < need {
            return Err(Failure::server(format!(
                "intrinsic gas too low: gas {gas}, minimum needed {need}"
            )));
        }
        if let Fees::Dynamic { max, tip, .. } = fees
            && tip > max
        {
            return Err(Failure::server(format!(
                "max priority fee per gas higher than max fee per gas: maxPriorityFeePerGas: {tip}, maxFeePerGas: {max}"
            )));
        }
        let base_fee = self.chain.base_fee(view.tip + 1);
        if fees.max() < base_fee {
            return Err(Failure::server(format!(
                "max fee per gas less than block base fee: maxFeePerGas: {}, baseFee: {base_fee}",
                fees.max()
            )));
        }
        Ok(())
    }

    /// The outcome of a transaction whose sender holds `tokens`.
    fn outcome(&self, transaction: &Transaction, gas_price: u128, tokens: u128) -> Outcome {
        let Transaction { from, to, input, nonce, .. } = transaction;
        let mut logs = Vec::new();
        let succeeded = match to {
            Some(REVERTER) => false,
            Some(to) if *to == TOKEN => match transfer(input) {
                Some((receiver, amount)) if amount <= tokens && transaction.value == 0 => {
                    logs.push(self.chain.transfer_log(from, &receiver, amount));
                    true
                }
                _ => false,
            },
            _ => true,
        };
        Outcome {
            succeeded,
            gas_used: gas_used(to.as_ref(), input),
            gas_price,
            logs,
            created: to.is_none().then(|| raw::created_by(from, *nonce)),
        }
    }
}
