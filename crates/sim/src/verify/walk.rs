//! Checks one block through every method that returns part of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Checker, VerifyError, hex, number};
use crate::chain::keccak::{Bloom, keccak};
use crate::node::params::parse_bytes;

/// `Transfer(address,address,uint256)`
const TRANSFER: &str = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";
/// `balanceOf(address)`
const BALANCE_OF: &str = "0x70a08231";

impl Checker {
    pub(super) async fn walk(&mut self, at: u64) -> Result<(), VerifyError> {
        let full = self.get("eth_getBlockByNumber", json!([hex(at), true])).await?;
        if full["number"] != hex(at) {
            self.agree(&format!("the number of block {at}"), &full["number"], &json!(hex(at)));
            return Ok(());
        }
        self.same_block(at, &full).await?;
        let transactions = full["transactions"].as_array().cloned().unwrap_or_default();
        let receipts = self.ask("eth_getBlockReceipts", json!([hex(at)])).await?;
        let by_hash = self.ask("eth_getBlockReceipts", json!([full["hash"]])).await?;
        self.agree(&format!("block {at}: receipts by number and hash"), &receipts, &by_hash);
        let receipts = receipts.as_array().cloned().unwrap_or_default();
        let as_many = transactions.len() == receipts.len();
        self.hold(&format!("block {at}: as many receipts as transactions"), as_many);
        for (index, transaction) in transactions.iter().enumerate() {
            self.transaction(&full, index, transaction).await?;
            if let Some(receipt) = receipts.get(index) {
                self.receipt(at, index, transaction, receipt).await?;
            }
        }
        self.sums(at, &full, &receipts);
        self.logs(at, &full, &receipts).await?;
        self.nonces(at, &transactions).await?;
        self.fees(at, &full).await?;
        if self.outcome.balances && at > 0 {
            self.balances(at, &transactions, &receipts).await?;
        }
        self.outcome.transactions += transactions.len() as u64;
        Ok(())
    }

    /// Compares the block by hash and by number, with full transactions and with hashes only, and
    /// checks its parent.
    async fn same_block(&mut self, at: u64, full: &Value) -> Result<(), VerifyError> {
        let hash = &full["hash"];
        let again = self.ask("eth_getBlockByHash", json!([hash, true])).await?;
        self.agree(&format!("block {at} by number and by hash"), full, &again);
        let mut short = full.clone();
        for transaction in short["transactions"].as_array_mut().into_iter().flatten() {
            *transaction = transaction["hash"].take();
        }
        let count = json!(hex(full["transactions"].as_array().map_or(0, Vec::len) as u64));
        for (which, named) in [("Number", json!(hex(at))), ("Hash", hash.clone())] {
            let method = format!("eth_getBlockBy{which}");
            let other = self.ask(&method, json!([named, false])).await?;
            self.agree(&format!("block {at}: {method} with hashes only"), &short, &other);
            let method = format!("eth_getBlockTransactionCountBy{which}");
            let counted = self.ask(&method, json!([named])).await?;
            self.agree(&format!("block {at}: {method}"), &count, &counted);
        }
        if let Some(before) = at.checked_sub(1) {
            let parent = self.ask("eth_getBlockByNumber", json!([hex(before), false])).await?;
            self.agree(&format!("block {at}: parentHash"), &full["parentHash"], &parent["hash"]);
            let later = number(&full["timestamp"]) >= number(&parent["timestamp"]);
            self.hold(&format!("block {at}: timestamp is not before the parent's"), later);
        }
        Ok(())
    }

    async fn transaction(
        &mut self,
        block: &Value,
        index: usize,
        transaction: &Value,
    ) -> Result<(), VerifyError> {
        let name = format!("block {}, transaction {index}", block["number"]);
        let (hash, place) = (&transaction["hash"], json!(hex(index as u64)));
        for (key, expected) in [
            ("blockHash", &block["hash"]),
            ("blockNumber", &block["number"]),
            ("transactionIndex", &place),
        ] {
            self.agree(&format!("{name}: {key}"), &transaction[key], expected);
        }
        if !transaction["chainId"].is_null() {
            let chain_id = self.chain_id.clone();
            self.agree(&format!("{name}: chainId"), &transaction["chainId"], &chain_id);
        }
        for (method, params) in [
            ("eth_getTransactionByHash", json!([hash])),
            ("eth_getTransactionByBlockHashAndIndex", json!([block["hash"], place])),
            ("eth_getTransactionByBlockNumberAndIndex", json!([block["number"], place])),
        ] {
            let other = self.ask(method, params).await?;
            self.agree(&format!("{name} by {method}"), transaction, &other);
        }
        Ok(())
    }

    async fn receipt(
        &mut self,
        at: u64,
        index: usize,
        transaction: &Value,
        receipt: &Value,
    ) -> Result<(), VerifyError> {
        let name = format!("block {at}, receipt {index}");
        let single = self.ask("eth_getTransactionReceipt", json!([transaction["hash"]])).await?;
        self.agree(&format!("{name}: by block and by transaction"), receipt, &single);
        for (of_receipt, of_transaction) in [
            ("transactionHash", "hash"),
            ("transactionIndex", "transactionIndex"),
            ("blockHash", "blockHash"),
            ("blockNumber", "blockNumber"),
            ("from", "from"),
            ("to", "to"),
            ("type", "type"),
            ("effectiveGasPrice", "gasPrice"),
        ] {
            let (one, other) = (&receipt[of_receipt], &transaction[of_transaction]);
            self.agree(&format!("{name}: {of_receipt}"), one, other);
        }
        let within = number(&receipt["gasUsed"]) <= number(&transaction["gas"]);
        self.hold(&format!("{name}: gasUsed is at most the transaction's gas"), within);
        let created = &receipt["contractAddress"];
        if created.is_null() || receipt["status"] != "0x1" {
            return Ok(());
        }
        self.hold(&format!("{name}: a creation has no recipient"), transaction["to"].is_null());
        let code = self.ask("eth_getCode", json!([created, hex(at)])).await?;
        self.hold(
            &format!("{name}: the created contract has code"),
            code != "0x" && !code.is_null(),
        );
        if let Some(before) = at.checked_sub(1) {
            let code = self.ask("eth_getCode", json!([created, hex(before)])).await?;
            self.agree(&format!("{name}: code before the creation"), &code, &json!("0x"));
        }
        Ok(())
    }

    /// Checks cumulative gas, log indices and bloom filters.
    fn sums(&mut self, at: u64, block: &Value, receipts: &[Value]) {
        let (mut gas, mut log_index) = (0, 0u64);
        let mut bloom = Bloom::empty();
        for (index, receipt) in receipts.iter().enumerate() {
            let name = format!("block {at}, receipt {index}");
            gas += number(&receipt["gasUsed"]).unwrap_or_default();
            let sum = number(&receipt["cumulativeGasUsed"]);
            self.hold(&format!("{name}: cumulativeGasUsed is the sum"), sum == Some(gas));
            let mut own = Bloom::empty();
            for log in receipt["logs"].as_array().into_iter().flatten() {
                let counted = json!(hex(log_index));
                self.agree(&format!("{name}: logIndex"), &log["logIndex"], &counted);
                log_index += 1;
                for key in ["blockHash", "blockNumber", "transactionHash", "transactionIndex"] {
                    self.agree(&format!("{name}: {key} of a log"), &log[key], &receipt[key]);
                }
                let topics = log["topics"].as_array().into_iter().flatten();
                for entry in topics.chain([&log["address"]]) {
                    let entry = parse_bytes(entry.as_str().unwrap_or_default()).unwrap_or_default();
                    own.add(&entry);
                    bloom.add(&entry);
                }
            }
            self.agree(&format!("{name}: logsBloom"), &receipt["logsBloom"], &bloom_text(&own));
        }
        self.outcome.logs += log_index;
        let total = number(&block["gasUsed"]);
        self.hold(&format!("block {at}: gasUsed is the sum of its receipts"), total == Some(gas));
        self.agree(&format!("block {at}: logsBloom"), &block["logsBloom"], &bloom_text(&bloom));
    }

    async fn logs(
        &mut self,
        at: u64,
        block: &Value,
        receipts: &[Value],
    ) -> Result<(), VerifyError> {
        let of_receipts = receipts.iter().filter_map(|receipt| receipt["logs"].as_array());
        let all: Vec<Value> = of_receipts.flatten().cloned().collect();
        let listed = json!(all);
        let range = json!({"fromBlock": hex(at), "toBlock": hex(at)});
        for filter in [range, json!({"blockHash": block["hash"]})] {
            let logs = self.ask("eth_getLogs", json!([filter])).await?;
            self.agree(&format!("block {at}: logs of receipts and by {filter}"), &listed, &logs);
        }
        // A filter for each kind of log finds exactly the logs of that kind.
        let mut asked = BTreeSet::new();
        for log in &all {
            let (address, topics) = (&log["address"], &log["topics"]);
            if !asked.insert(format!("{address}{topics}")) {
                continue;
            }
            let filter = json!({
                "fromBlock": hex(at), "toBlock": hex(at), "address": address, "topics": topics,
            });
            let found = self.ask("eth_getLogs", json!([filter])).await?;
            let wanted = topics.as_array().map(Vec::as_slice).unwrap_or_default();
            let matches = |other: &&Value| {
                let own = other["topics"].as_array().map(Vec::as_slice).unwrap_or_default();
                other["address"] == *address && own.starts_with(wanted)
            };
            let expected: Vec<&Value> = all.iter().filter(matches).collect();
            self.agree(&format!("block {at}: logs by {filter}"), &found, &json!(expected));
        }
        Ok(())
    }

    /// Checks that a sender's nonce after the block is one above its last transaction's, with the block
    /// given by number and by object.
    async fn nonces(&mut self, at: u64, transactions: &[Value]) -> Result<(), VerifyError> {
        let mut last = BTreeMap::new();
        for transaction in transactions {
            last.insert(transaction["from"].as_str().unwrap_or_default(), transaction);
        }
        for (from, transaction) in last {
            let next = number(&transaction["nonce"]).map(|nonce| hex(nonce as u64 + 1));
            for named in [
                json!(hex(at)),
                json!({"blockNumber": hex(at)}),
                json!({"blockHash": transaction["blockHash"], "requireCanonical": true}),
            ] {
                let nonce = self.ask("eth_getTransactionCount", json!([from, named])).await?;
                let what = format!("block {at}: nonce of {from} at {named}");
                self.agree(&what, &nonce, &json!(next));
            }
        }
        Ok(())
    }

    async fn fees(&mut self, at: u64, block: &Value) -> Result<(), VerifyError> {
        if block["baseFeePerGas"].is_null() {
            return Ok(());
        }
        let history = self.ask("eth_feeHistory", json!([hex(1), hex(at), [10, 90]])).await?;
        let name = format!("block {at}: fee history");
        self.agree(&name, &history["oldestBlock"], &block["number"]);
        self.agree(&name, &history["baseFeePerGas"][0], &block["baseFeePerGas"]);
        let gas = |key: &str| number(&block[key]).unwrap_or(1) as f64;
        let ratio = history["gasUsedRatio"][0].as_f64().unwrap_or(-1.0);
        let near = (ratio - gas("gasUsed") / gas("gasLimit")).abs() < 1e-9;
        self.hold(&format!("{name}: gasUsedRatio"), near);
        Ok(())
    }

    /// Checks that the balances of all accounts in the block change as its transactions and logs imply.
    async fn balances(
        &mut self,
        at: u64,
        transactions: &[Value],
        receipts: &[Value],
    ) -> Result<(), VerifyError> {
        let mut ether: BTreeMap<String, i128> = BTreeMap::new();
        let mut tokens: BTreeMap<(String, String), i128> = BTreeMap::new();
        let amount = |value: &Value| number(value).unwrap_or_default() as i128;
        let name = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for (transaction, receipt) in transactions.iter().zip(receipts) {
            let value = if receipt["status"] == "0x1" { amount(&transaction["value"]) } else { 0 };
            let fee = amount(&receipt["gasUsed"]) * amount(&receipt["effectiveGasPrice"]);
            *ether.entry(name(&transaction["from"])).or_default() -= value + fee;
            let to = [&transaction["to"], &receipt["contractAddress"]];
            if let Some(to) = to.into_iter().find(|to| !to.is_null()) {
                *ether.entry(name(to)).or_default() += value;
            }
            let logs = receipt["logs"].as_array().into_iter().flatten();
            for log in logs.filter(|log| log["topics"][0] == TRANSFER) {
                let holder = |at: usize| {
                    let word = name(&log["topics"][at]);
                    (name(&log["address"]), format!("0x{}", word.get(26..).unwrap_or_default()))
                };
                *tokens.entry(holder(1)).or_default() -= amount(&log["data"]);
                *tokens.entry(holder(2)).or_default() += amount(&log["data"]);
            }
        }
        let blocks = [hex(at - 1), hex(at)];
        for (address, change) in ether {
            let mut held = Vec::new();
            for block in &blocks {
                held.push(amount(&self.ask("eth_getBalance", json!([address, block])).await?));
            }
            self.changed(&format!("block {at}: ether of {address}"), &held, change);
        }
        for ((token, address), change) in tokens {
            let call = json!({"to": token, "data": format!("{BALANCE_OF}{:0>64}", &address[2..])});
            let mut held = Vec::new();
            for block in &blocks {
                held.push(amount(&self.ask("eth_call", json!([call, block])).await?));
            }
            self.changed(&format!("block {at}: tokens of {address}"), &held, change);
            self.slot(at, &token, &address, held[1]).await?;
        }
        Ok(())
    }

    /// Checks a holder's balance in the token's storage: a mapping at slot 0, in Solidity's layout.
    async fn slot(
        &mut self,
        at: u64,
        token: &str,
        address: &str,
        held: i128,
    ) -> Result<(), VerifyError> {
        let holder = parse_bytes(address).unwrap_or_default();
        let slot = keccak(&[&[0; 12], &holder[..], &[0; 32]].concat());
        let slot: String = slot.iter().map(|byte| format!("{byte:02x}")).collect();
        let params = json!([token, format!("0x{slot}"), hex(at)]);
        let stored = number(&self.ask("eth_getStorageAt", params).await?);
        let what = format!("block {at}: storage of the tokens of {address}");
        self.hold(&what, stored == Some(held as u128));
        Ok(())
    }

    fn changed(&mut self, what: &str, held: &[i128], change: i128) {
        let difference = held[1].wrapping_sub(held[0]);
        self.agree(what, &json!(difference.to_string()), &json!(change.to_string()));
    }
}

fn bloom_text(bloom: &Bloom) -> Value {
    let digits: String = bloom.0.iter().map(|byte| format!("{byte:02x}")).collect();
    json!(format!("0x{digits}"))
}
