//! What a read is about: a transaction, or an account's pending state.
//!
//! Such reads should go to the upstream that accepted the transaction: it is the first that has it.

use plimsoll_rpc::json;

use super::{Address, Hash};
use crate::protocol::evm::block_param::{Block, BlockParam, Tag};
use plimsoll_rpc::method::Method;

/// What a read is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// A transaction by its hash.
    Transaction(Hash),
    /// The nonce or the pending state of an account.
    Account(Address),
}

impl Sought {
    /// What a call is about, if it is one of these reads: a transaction or its receipt; the number of
    /// an account's transactions, now or including pending ones; or anything else about the pending
    /// state of one account or its next call.
    pub fn of(method: &str, params: Option<&[u8]>) -> Option<Sought> {
        let params = params?;
        let item = |place: usize| json::items(params).map_while(Result::ok).nth(place);
        let is_at = |tags: &[Tag]| {
            let blocks =
                Method::find(method).map(|method| BlockParam::of(method).blocks(Some(params)));
            blocks
                .into_iter()
                .flatten()
                .any(|block| tags.iter().any(|tag| block == Block::Tag(*tag)))
        };
        let account = |raw: &[u8]| Some(Sought::Account(super::sized(raw)?));
        match method {
            "eth_getTransactionByHash"
            | "eth_getTransactionReceipt"
            | "eth_getRawTransactionByHash"
            | "debug_getRawTransaction" => Some(Sought::Transaction(super::sized(item(0)?)?)),
            "eth_getTransactionCount" if is_at(&[Tag::Latest, Tag::Pending]) => account(item(0)?),
            "eth_getBalance" | "eth_getCode" | "eth_getStorageAt" | "eth_getProof"
                if is_at(&[Tag::Pending]) =>
            {
                account(item(0)?)
            }
            "eth_call" | "eth_estimateGas" | "eth_createAccessList" if is_at(&[Tag::Pending]) => {
                account(json::member(item(0)?, "from")?)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_about_transactions_are_recognized() {
        // `@` is an address, `#` a hash.
        let check = |method: &str, params: &str, sought: Option<Sought>| {
            let text = params
                .replace('@', &format!("0x{}", "aB".repeat(20)))
                .replace('#', &format!("0x{}", "12".repeat(32)));
            assert_eq!(Sought::of(method, Some(text.as_bytes())), sought, "{method} {params}");
        };
        let account = Some(Sought::Account([0xab; 20]));
        let transaction = Some(Sought::Transaction([0x12; 32]));
        check("eth_getTransactionByHash", r##"["#"]"##, transaction);
        check("eth_getTransactionReceipt", r##"[ "#" ]"##, transaction);
        check("eth_getTransactionCount", r#"["@","pending"]"#, account);
        check("eth_getTransactionCount", r#"["@","latest"]"#, account);
        check("eth_getTransactionCount", r#"["@"]"#, account);
        check("eth_getTransactionCount", r#"["@","0x10"]"#, None);
        check("eth_getTransactionCount", r#"["@","finalized"]"#, None);
        check("eth_getBalance", r#"["@","pending"]"#, account);
        check("eth_getBalance", r#"["@","latest"]"#, None);
        check("eth_getStorageAt", r#"["@","0x0","pending"]"#, account);
        check("eth_call", r#"[{"to":"0x","from":"@"},"pending"]"#, account);
        check("eth_call", r#"[{"to":"@"},"pending"]"#, None);
        check("eth_call", r#"[{"from":"@"}]"#, None);
        // malformed
        check("eth_getTransactionByHash", r#"["@"]"#, None);
        check("eth_getTransactionByHash", "[]", None);
        check("eth_getTransactionCount", r#"{"address":"@"}"#, None);
        check("eth_getBalance", r##"["#","pending"]"##, None);
        check("unheard_of", r##"["#"]"##, None);
        assert_eq!(Sought::of("eth_getTransactionByHash", None), None);
    }
}
