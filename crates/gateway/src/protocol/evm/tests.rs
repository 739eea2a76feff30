//! A table of errors and their categories.

use super::*;

#[test]
fn errors_are_categorized_by_message_then_code() {
    let check = |code: i64, message: &str, category: Category, shown: i64| {
        let found = Category::of(code, message.as_bytes());
        assert_eq!(found, category, "{code} {message}");
        assert_eq!(found.normalized_code(code).unwrap_or(code), shown, "{code} {message}");
    };
    // geth
    check(3, "execution reverted: no", Category::Reverted, 3);
    check(3, "execution reverted: rate limit exceeded", Category::Reverted, 3);
    check(-32000, "execution reverted: nonce too low", Category::Reverted, -32000);
    check(3, "unauthorized", Category::Reverted, 3);
    check(-32000, "already known", Category::AlreadyKnown, -32000);
    check(-32000, "unknown transaction type", Category::Other, -32000);
    check(-32000, "nonce too low: next nonce 5, tx nonce 3", Category::Nonce, -32000);
    check(-32000, "header not found", Category::MissingData, -32000);
    check(-32000, "missing trie node 1f", Category::MissingData, -32000);
    check(
        -32601,
        "the method foo does not exist/is not available",
        Category::UnsupportedMethod,
        -32601,
    );
    check(-32602, "missing value for required argument 0", Category::InvalidParams, -32602);
    // Nethermind; the data holds the contract's message
    check(-32015, "VM execution error.", Category::Reverted, -32015);
    check(-32015, "execution reverted", Category::Reverted, -32015);
    check(-32000, " VM execution error: over capacity", Category::Reverted, -32000);
    // the contract's message may resemble a limit
    check(-32015, "revert: rate limit exceeded", Category::Reverted, -32015);
    check(-32015, "Reverted 0x08c379a0, timeout", Category::Reverted, -32015);
    check(-32000, "evm: execution reverted: quota", Category::Reverted, -32000);
    check(-32000, "rpc error: evm: Reverted", Category::Reverted, -32000);
    check(
        -32603,
        "Error: VM Exception while processing transaction: reverted with reason string 'quota'",
        Category::Reverted,
        -32603,
    );
    // behind what clients and proxies put in front
    for message in [
        "rpc error: code = Internal desc = execution reverted: rate limit exceeded",
        "err: execution reverted: quota (supplied gas 1)",
        "failed to estimate gas: execution reverted: over quota",
        "[Request ID: 1] execution reverted: quota",
        "VM Exception while executing eth_call: reverted: rate limit exceeded",
        "Transaction reverted: rate limit",
        "Returned error: VM Exception while processing transaction: revert quota",
        "Internal JSON-RPC error: execution reverted: forbidden",
        r"\u0065xecution reverted: quota",
        r"execution\u0020reverted: quota",
        r"\u005bID\u005D execution reverted: quota",
    ] {
        check(-32000, message, Category::Reverted, -32000);
        check(-32000, &format!("\"{message}\""), Category::Reverted, -32000);
        check(-32000, &format!("{message} {}\\u00e9", "é".repeat(400)), Category::Reverted, -32000);
    }
    // … but not the other way round
    check(-32000, "rate limit: execution reverted", Category::RateLimited, -32000);
    check(-32000, "quota for 'execution reverted'", Category::RateLimited, -32000);
    check(-32000, "unauthorized: transaction reverted", Category::Unauthorized, -32000);
    check(-32000, "not 'execution reverted': quota", Category::RateLimited, -32000);
    check(-32000, "reverting to the archive node: rate limit", Category::RateLimited, -32000);
    check(-32015, "error: rate limit exceeded", Category::RateLimited, -32005);
    check(-32000, "error: ", Category::Other, -32000);
    // one gateway's codes…
    check(-32012, "block range is too large, max 5000", Category::RangeTooLarge, -32005);
    check(-32014, "missing data for this block", Category::MissingData, -32001);
    check(-32015, "node timeout", Category::Timeout, -32002);
    check(-32016, "unauthorized", Category::Unauthorized, -32002);
    // …and the same codes at another gateway
    check(-32012, "over capacity", Category::RateLimited, -32005);
    check(-32015, "gateway timeout", Category::Timeout, -32002);
    check(-32016, "over rate limit", Category::RateLimited, -32005);
    check(-32011, "no backends available for method", Category::Unavailable, -32002);
    // an HTTP status as the code
    check(429, "slow down", Category::RateLimited, -32005);
    // unknown
    check(-32099, "42", Category::Other, -32099);
    check(-32014, "42", Category::Other, -32000);
}

#[test]
fn all_lists_the_categories_in_order() {
    for (at, category) in Category::ALL.iter().enumerate() {
        assert_eq!(*category as usize, at);
    }
    assert!(Category::of(0, &[b'a'; 4096]) == Category::Other);
}
