//! The methods of a node.

use plimsoll_rpc::request::Call;

use super::failure::Failure;
use super::{Node, View, write};

macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The methods that a node supports.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Method {
            $($variant,)*
        }

        impl Method {
            /// Every method's name.
            pub(crate) const NAMES: &[&str] = &[$($name,)*];

            /// The method with this name.
            pub(crate) fn of(name: &str) -> Option<Method> {
                match name {
                    $($name => Some(Method::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

methods! {
    Echo = "echo",
    ClientVersion = "web3_clientVersion",
    NetVersion = "net_version",
    NetListening = "net_listening",
    ChainId = "eth_chainId",
    Syncing = "eth_syncing",
    BlockNumber = "eth_blockNumber",
    BlockByNumber = "eth_getBlockByNumber",
    BlockByHash = "eth_getBlockByHash",
    BlockReceipts = "eth_getBlockReceipts",
    CountByNumber = "eth_getBlockTransactionCountByNumber",
    CountByHash = "eth_getBlockTransactionCountByHash",
    TransactionByHash = "eth_getTransactionByHash",
    TransactionByNumberAndIndex = "eth_getTransactionByBlockNumberAndIndex",
    TransactionByHashAndIndex = "eth_getTransactionByBlockHashAndIndex",
    Receipt = "eth_getTransactionReceipt",
    Logs = "eth_getLogs",
    Nonce = "eth_getTransactionCount",
    Balance = "eth_getBalance",
    Code = "eth_getCode",
    Storage = "eth_getStorageAt",
    Call = "eth_call",
    EstimateGas = "eth_estimateGas",
    GasPrice = "eth_gasPrice",
    PriorityFee = "eth_maxPriorityFeePerGas",
    FeeHistory = "eth_feeHistory",
    Send = "eth_sendRawTransaction",
}

impl Node {
    /// Writes the result of a call.
    ///
    /// # Errors
    /// Returns the error object to answer with; `out` may then contain part of a result.
    pub(crate) fn answer(
        &self,
        call: &Call<'_>,
        view: &View,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let Some(method) = Method::of(&call.method) else {
            return Err(Failure::no_method(&call.method));
        };
        let params = call.params;
        match method {
            Method::Echo => out.extend_from_slice(params.unwrap_or(b"null")),
            Method::ClientVersion => write::text(
                out,
                &format!("plimsoll-sim/{}/{}", env!("CARGO_PKG_VERSION"), self.service.name),
            ),
            Method::NetVersion => write::text(out, &view.chain_id.to_string()),
            Method::NetListening => out.extend_from_slice(b"true"),
            Method::ChainId => write::quantity(out, view.chain_id.into()),
            Method::Syncing => out.extend_from_slice(b"false"),
            Method::BlockNumber => write::quantity(out, view.head.into()),
            Method::BlockByNumber | Method::BlockByHash => {
                return self.get_block(method == Method::BlockByHash, params, view, out);
            }
            Method::BlockReceipts => return self.get_block_receipts(params, view, out),
            Method::CountByNumber | Method::CountByHash => {
                return self.count_transactions(method == Method::CountByHash, params, view, out);
            }
            Method::TransactionByHash => return self.get_transaction(params, view, out),
            Method::TransactionByNumberAndIndex | Method::TransactionByHashAndIndex => {
                let by_hash = method == Method::TransactionByHashAndIndex;
                return self.get_transaction_in_block(by_hash, params, view, out);
            }
            Method::Receipt => return self.get_receipt(params, view, out),
            Method::Logs => return self.get_logs(params, view, out),
            Method::Nonce => return self.get_nonce(params, view, out),
            Method::Balance => return self.get_balance(params, view, out),
            Method::Code => return self.get_code(params, view, out),
            Method::Storage => return self.get_storage(params, view, out),
            Method::Call => return self.call(params, view, out),
            Method::EstimateGas => return self.estimate_gas(params, view, out),
            Method::GasPrice => {
                write::quantity(out, self.chain.base_fee(view.head) + TIP);
            }
            Method::PriorityFee => write::quantity(out, TIP),
            Method::FeeHistory => return self.fee_history(params, view, out),
            Method::Send => return self.send(params, view, out),
        }
        Ok(())
    }
}

/// The suggested priority fee per unit of gas: 1 gwei.
pub(super) const TIP: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Service;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Valid and invalid parameter values.
    fn any_value() -> impl Strategy<Value = Value> {
        let tags =
            vec!["latest", "earliest", "pending", "safe", "finalized", "0x", "", "zz", "0x3e8"];
        let keys = vec![
            "blockHash",
            "blockNumber",
            "requireCanonical",
            "fromBlock",
            "toBlock",
            "address",
            "topics",
            "from",
            "to",
            "value",
            "gas",
            "data",
            "input",
        ];
        let bytes = |len| {
            prop::collection::vec(any::<u8>(), len).prop_map(|bytes: Vec<u8>| {
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                json!(format!("0x{digits}"))
            })
        };
        let known = vec![
            json!("0x1000000000000000000000000000000000000001"),
            json!("0x1000000000000000000000000000000000000003"),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<u64>().prop_map(|n| json!(format!("{n:#x}"))),
            (0..1100u64).prop_map(|n| json!(format!("{n:#x}"))),
            prop::sample::select(tags).prop_map(Value::from),
            prop::sample::select(known),
            bytes(20..21),
            bytes(32..33),
            bytes(0..80),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((prop::sample::select(keys.clone()), inner), 0..4).prop_map(
                    |members| members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
                ),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        /// The answer to any call is valid JSON, and nothing panics.
        #[test]
        fn any_call_is_answered(
            method in prop::sample::select(Method::NAMES),
            params in prop::collection::vec(any_value(), 0..4),
        ) {
            let node = Node::new(1, Service::named("eth").expect("it is known"));
            let view = View { tip: 1000, head: 1000, chain_id: 1 };
            let params = json!(params).to_string();
            let call = Call { id: None, method: method.into(), params: Some(params.as_bytes()) };
            let mut out = Vec::new();
            if let Err(failure) = node.answer(&call, &view, &mut out) {
                out.clear();
                failure.write(&mut out);
            }
            prop_assert!(plimsoll_rpc::json::validate(&out).is_ok(), "{method}{params}");
        }
    }
}
