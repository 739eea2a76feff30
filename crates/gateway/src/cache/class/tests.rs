//! Calls and answers of each class, and of each reason not to store them.

use plimsoll_rpc::method::{self, NAMES};
use proptest::prelude::*;

use super::*;
use crate::protocol::evm::block_param::tests::EXECUTION_APIS;

const HASH: &str = "0xdb785f2444d7f68bc2bc04860c27ad059217192d17e2889ec801bcae9209b204";
const OTHER: &str = "0x1111111111111111111111111111111111111111111111111111111111111111";

/// Latest is 0x64, finalized is 0x3c.
const SERVED: Served = Served { latest: Some(100), safe: Some(80), finalized: Some(60) };

const FINAL: Plan = Plan::Use(Scope::Fixed(Class::Final));
const IMMUTABLE: Plan = Plan::Use(Scope::Fixed(Class::Immutable));
const STATIC: Plan = Plan::Use(Scope::Fixed(Class::Static));
const BRANCH: Plan = Plan::Use(Scope::Branch);
const HEAD: Plan = Plan::Use(Scope::Head);

fn full(text: &str) -> String {
    text.replace('$', HASH).replace('%', OTHER)
}

#[test]
fn calls_are_planned_by_method_and_block() {
    use Plan::Bypass;
    // `$` is the hash of a block or transaction.
    let check = |method: &str, params: &str, expected: Plan| {
        let params = full(params);
        let planned = plan(Method::find(method), Some(params.as_bytes()), SERVED);
        assert_eq!(planned, expected, "{method} {params}");
    };
    check("eth_chainId", "[]", STATIC);
    check("net_version", "[]", STATIC);
    check("web3_sha3", r#"["0x00"]"#, STATIC);
    check("eth_gasPrice", "[]", HEAD);
    check("eth_blockNumber", "[]", HEAD);
    // by number: final up to the finalized head, young up to the latest, then nothing
    for (number, expected) in [
        ("0x0", FINAL),
        ("0x3c", FINAL),
        ("0x3C", FINAL),
        ("0x3d", BRANCH),
        ("0x64", BRANCH),
        ("0x65", Bypass(Reason::AboveHead)),
        ("0xffffffffffffffff", Bypass(Reason::AboveHead)),
        ("0x10000000000000000", Bypass(Reason::UnclearBlock)),
        ("0x", Bypass(Reason::UnclearBlock)),
        ("60", Bypass(Reason::UnclearBlock)),
        ("pending", Bypass(Reason::Pending)),
        ("earliest", BRANCH),
        // not bound, because its head is not known
        ("latest", Bypass(Reason::NoHead)),
        ("finalized", Bypass(Reason::NoHead)),
        ("Latest", Bypass(Reason::NoHead)),
    ] {
        check("eth_getBlockByNumber", &format!("[\"{number}\",false]"), expected);
        check("eth_call", &format!("[{{}},\"{number}\"]"), expected);
        check("eth_call", &format!("[{{}},{{\"blockNumber\":\"{number}\"}}]"), expected);
        check("eth_getStorageAt", &format!("[\"0xab\",\"0x0\",\"{number}\"]"), expected);
        check("eth_getProof", &format!("[\"0xab\",[],\"{number}\"]"), expected);
        check("eth_feeHistory", &format!("[\"0x5\",\"{number}\",[]]"), expected);
        check("trace_call", &format!("[{{}},[\"trace\"],\"{number}\"]"), expected);
        check("eth_callMany", &format!("[[],{{\"blockNumber\":\"{number}\"}}]"), expected);
        let range = format!("[{{\"fromBlock\":\"0x1\",\"toBlock\":\"{number}\"}}]");
        check("eth_getLogs", &range, expected);
        check("trace_filter", &range, expected);
    }
    // by hash
    check("eth_getBlockByHash", r#"["$",true]"#, IMMUTABLE);
    check("eth_getBlockByHash", r#"["0x1",true]"#, Bypass(Reason::UnclearBlock));
    check("eth_getBlockReceipts", r#"["$"]"#, IMMUTABLE);
    check("eth_getLogs", r#"[{"blockHash":"$"}]"#, IMMUTABLE);
    check("eth_call", r#"[{},{"blockHash":"$"}]"#, IMMUTABLE);
    check("eth_call", r#"[{},{"blockHash":"$","requireCanonical":false}]"#, IMMUTABLE);
    check("eth_call", r#"[{},{"blockHash":"$","requireCanonical":true}]"#, BRANCH);
    check("eth_call", r#"[{},{"blockHash":"$","\u0072equireCanonical":true}]"#, BRANCH);
    check(
        "eth_call",
        r#"[{},{"blockHash":"$","blockNumber":"0x1"}]"#,
        Bypass(Reason::UnclearBlock),
    );
    // a block that is missing where nothing is inserted for it
    check("eth_getBlockByNumber", "[]", Bypass(Reason::UnclearBlock));
    check("eth_call", "[]", Bypass(Reason::UnclearBlock));
    check("eth_call", r#"{"block":"0x1"}"#, Bypass(Reason::UnclearBlock));
    check("trace_filter", r#"[{"toBlock":"0x1"}]"#, Bypass(Reason::UnclearBlock));
    check("eth_callMany", "[[],{}]", Bypass(Reason::UnclearBlock));
    check("eth_call", "[{}]", Bypass(Reason::NoHead));
    check("eth_getLogs", "[{}]", Bypass(Reason::NoHead));
    // transactions
    check("eth_getTransactionReceipt", r#"["$"]"#, BRANCH);
    check("debug_traceTransaction", r#"["$"]"#, BRANCH);
    // never
    check("eth_unheardOf", "[]", Bypass(Reason::UnknownMethod));
    check("eth_getFilterLogs", r#"["0x1"]"#, Bypass(Reason::Stateful));
    check("eth_sendRawTransaction", r#"["0x00"]"#, Bypass(Reason::Sends));
    check("txpool_content", "[]", Bypass(Reason::Pending));
    check("eth_syncing", "[]", Bypass(Reason::Node));
}

#[test]
fn without_heads_only_what_never_changes_is_stored() {
    let check = |method: &str, params: &str, served: Served, expected: Plan| {
        let params = full(params);
        let planned = plan(Method::find(method), Some(params.as_bytes()), served);
        assert_eq!(planned, expected, "{method} {params}");
    };
    let none = Served::default();
    let no_head = Plan::Bypass(Reason::NoHead);
    check("eth_chainId", "[]", none, STATIC);
    check("eth_getBlockByHash", r#"["$",false]"#, none, IMMUTABLE);
    check("eth_call", r#"[{},{"blockHash":"$","requireCanonical":true}]"#, none, no_head);
    check("eth_getBlockByNumber", r#"["0x1",false]"#, none, no_head);
    check("eth_getBlockByNumber", r#"["earliest",false]"#, none, no_head);
    check("eth_gasPrice", "[]", none, no_head);
    check("eth_getTransactionReceipt", r#"["$"]"#, none, no_head);
    let only_latest = Served { latest: Some(100), ..none };
    check("eth_getBlockByNumber", r#"["0x1",false]"#, only_latest, BRANCH);
}

#[test]
fn answers_are_classified_by_what_they_show() {
    // `$` is the hash that the call names, `%` another one.
    let check = |method: &str, params: &str, result: &str, expected: Result<Class, Reason>| {
        let (params, result) = (full(params), full(result));
        let (method, params) = (Method::find(method).expect("a method"), params.as_bytes());
        let Plan::Use(scope) = plan(Some(method), Some(params), SERVED) else {
            panic!("{} bypasses the cache", method.name())
        };
        let class = classify(method, Some(params), scope, result.as_bytes(), SERVED);
        assert_eq!(class, expected, "{} {result}", method.name());
    };
    let missing = Err(Reason::Missing);
    let mismatch = Err(Reason::Mismatch);
    let pending = Err(Reason::Pending);
    let above = Err(Reason::AboveHead);

    check("eth_chainId", "[]", r#""0x1""#, Ok(Class::Static));
    check("eth_gasPrice", "[]", r#""0x1""#, Ok(Class::Young));
    check("eth_blockNumber", "[]", r#""0x64""#, Ok(Class::Young));
    check("eth_blockNumber", "[]", r#""0x65""#, above);
    check("eth_blockNumber", "[]", r#""0x63""#, mismatch);

    let by_number = |result, expected| {
        check("eth_getBlockByNumber", r#"["0x3c",false]"#, result, expected);
    };
    by_number(r#"{"number":"0x3c","hash":"$"}"#, Ok(Class::Final));
    by_number(r#"{ "hash" : "$", "n\u0075mber" : "0x3C" }"#, Ok(Class::Final));
    by_number("null", missing);
    by_number(r#"{"number":"0x3d","hash":"$"}"#, mismatch);
    by_number(r#"{"number":null,"hash":null}"#, pending);
    by_number(r#"{"number":"0x3c","hash":null}"#, pending);
    by_number("{}", mismatch);
    by_number("[]", mismatch);
    by_number("\"\"", mismatch);
    check(
        "eth_getBlockByNumber",
        r#"["0x64",false]"#,
        r#"{"number":"0x64","hash":"$"}"#,
        Ok(Class::Young),
    );

    let by_hash =
        |result, expected| check("eth_getBlockByHash", r#"["$",false]"#, result, expected);
    by_hash(r#"{"number":"0x1","hash":"$"}"#, Ok(Class::Immutable));
    by_hash(r#"{"number":"0x64","hash":"$"}"#, Ok(Class::Immutable));
    by_hash(r#"{"number":"0x65","hash":"$"}"#, above);
    by_hash(r#"{"number":"0x1","hash":"%"}"#, mismatch);
    by_hash("null", missing);

    let transaction = |result, expected| {
        check("eth_getTransactionByHash", r#"["$"]"#, result, expected);
    };
    transaction(r#"{"hash":"$","blockNumber":"0x3c","blockHash":"%"}"#, Ok(Class::Final));
    transaction(r#"{"hash":"$","blockNumber":"0x3d","blockHash":"%"}"#, Ok(Class::Young));
    transaction(r#"{"hash":"$","blockNumber":"0x65","blockHash":"%"}"#, above);
    transaction(r#"{"hash":"$","blockNumber":null,"blockHash":null}"#, pending);
    transaction(r#"{"hash":"%","blockNumber":"0x1","blockHash":"%"}"#, mismatch);
    transaction(r#"{"hash":"$"}"#, mismatch);
    transaction("null", missing);
    let receipt = |result, expected| {
        check("eth_getTransactionReceipt", r#"["$"]"#, result, expected);
    };
    receipt(r#"{"transactionHash":"$","blockNumber":"0x1","blockHash":"%"}"#, Ok(Class::Final));
    receipt(r#"{"transactionHash":"$","blockNumber":"0x64","blockHash":"%"}"#, Ok(Class::Young));
    // the answer does not show its block
    check("debug_traceTransaction", r#"["$"]"#, r#"{"gas":1}"#, Ok(Class::Young));
    check("eth_getRawTransactionByHash", r#"["$"]"#, r#""0x02f8""#, Ok(Class::Young));
    check("eth_getRawTransactionByHash", r#"["$"]"#, r#""0x""#, missing);
    let raw = |result, expected| {
        check("eth_getRawTransactionByBlockNumberAndIndex", r#"["0x3c","0x0"]"#, result, expected);
    };
    raw(r#""0x02f8""#, Ok(Class::Final));
    raw(r#""0x""#, missing);
    let trace = |result, expected| check("trace_transaction", r#"["$"]"#, result, expected);
    trace(r#"[{"transactionHash":"$","blockNumber":60,"blockHash":"%"}]"#, Ok(Class::Final));
    trace(r#"[{"transactionHash":"$","blockNumber":61,"blockHash":"%"}]"#, Ok(Class::Young));
    trace("[]", missing);

    let logs = |result, expected| {
        check("eth_getLogs", r#"[{"fromBlock":"0xa","toBlock":"0x14"}]"#, result, expected);
    };
    logs("[]", Ok(Class::Final));
    logs(
        r#"[{"blockNumber":"0xa","blockHash":"$"},{"blockNumber":"0x14","blockHash":"$"}]"#,
        Ok(Class::Final),
    );
    logs(
        r#"[{"blockNumber":"0xa","blockHash":"$"},{"blockNumber":"0x15","blockHash":"$"}]"#,
        mismatch,
    );
    logs(r#"[{"blockNumber":"0xa","blockHash":"$","removed":true}]"#, mismatch);
    logs(r#"[{"blockNumber":"0xa","blockHash":"$","removed":false}]"#, Ok(Class::Final));
    logs(r#"[{"blockNumber":null,"blockHash":null}]"#, pending);
    let logs = |result, expected| check("eth_getLogs", r#"[{"blockHash":"$"}]"#, result, expected);
    logs("[]", missing);
    logs("[ ]", missing);
    logs(r#"[{"blockNumber":"0xa","blockHash":"$"}]"#, Ok(Class::Immutable));
    logs(r#"[{"blockNumber":"0xa","blockHash":"%"}]"#, mismatch);
    check("eth_getLogs", r#"[{"fromBlock":"0x1","toBlock":"0x3d"}]"#, "[]", Ok(Class::Young));

    let receipts =
        |params, result, expected| check("eth_getBlockReceipts", params, result, expected);
    receipts(r#"["$"]"#, r#"[{"blockNumber":"0xa","blockHash":"$"}]"#, Ok(Class::Immutable));
    receipts(r#"["$"]"#, r#"[{"blockNumber":"0xa","blockHash":"%"}]"#, mismatch);
    receipts(r#"["0xa"]"#, r#"[{"blockNumber":"0xa","blockHash":"%"}]"#, Ok(Class::Final));
    receipts(r#"["0xb"]"#, r#"[{"blockNumber":"0xa","blockHash":"%"}]"#, mismatch);
    receipts(r#"[{"blockHash":"$"}]"#, r#"[{"blockNumber":"0xa","blockHash":"%"}]"#, mismatch);
    check("eth_call", r#"[{},"0x1"]"#, r#""0x""#, Ok(Class::Final));
    check("eth_call", r#"[{},{"blockHash":"$"}]"#, r#""0x""#, Ok(Class::Immutable));
}

#[test]
fn every_method_of_execution_apis_has_a_row() {
    let document = document::table();
    for name in EXECUTION_APIS.split_whitespace() {
        assert!(Method::find(name).is_some(), "{name} has no row");
        assert!(document.contains(&format!("| `{name}` |")), "{name} is not documented");
    }
}

#[test]
fn rows_agree_with_the_classes_of_methods() {
    for method in Method::all() {
        let rule = table::row(method).rule;
        let is_stored = !matches!(rule, Rule::Never(_));
        let can_be = matches!(method.class(), method::Class::Static | method::Class::Read);
        assert!(can_be || !is_stored, "{} is not a read", method.name());
        let names_block = BlockParam::of(method) != BlockParam::None;
        assert_eq!(rule == Rule::Block, names_block, "{}", method.name());
    }
}

proptest! {
    /// Whatever the answer, a stored one is not final above the finalized head, and nothing above the
    /// served head is stored.
    #[test]
    fn finality_is_never_exceeded(
        place in 0..NAMES.len(),
        asked in 0_u64..130,
        shown in 0_u64..130,
        is_array: bool,
    ) {
        let method = Method::find(NAMES[place]).expect("a method");
        let block = format!("{asked:#x}");
        let params = match BlockParam::of(method) {
            BlockParam::None => format!("[\"{HASH}\"]"),
            BlockParam::Hash(_) => format!("[\"{HASH}\",true]"),
            BlockParam::Block(position, _) => {
                format!("[{}\"{block}\"]", "\"0x0\",".repeat(position.into()))
            }
            BlockParam::Filter(..) => {
                format!("[{{\"fromBlock\":\"0x0\",\"toBlock\":\"{block}\"}}]")
            }
            BlockParam::Context(_) => format!("[[],{{\"blockNumber\":\"{block}\"}}]"),
        };
        let object = format!(
            "{{\"number\":\"{shown:#x}\",\"blockNumber\":\"{shown:#x}\",\"hash\":\"{HASH}\",\
             \"blockHash\":\"{HASH}\",\"transactionHash\":\"{HASH}\"}}"
        );
        let result = if is_array { format!("[{object}]") } else { object };
        let Plan::Use(scope) = plan(Some(method), Some(params.as_bytes()), SERVED) else {
            return Ok(());
        };
        let class = classify(method, Some(params.as_bytes()), scope, result.as_bytes(), SERVED);
        let row = table::row(method);
        if let Ok(class) = class {
            if !matches!(row.shows, Shows::Nothing | Shows::Raw) {
                prop_assert!(shown <= 100);
            }
            if class == Class::Final {
                let number = if row.rule == Rule::Transaction { shown } else { asked };
                prop_assert!(number <= 60, "{} {params} {result}", method.name());
            }
        }
    }

    /// Nothing that a caller or a node sends makes them panic.
    #[test]
    fn any_text_is_decided(place in 0..NAMES.len(), params in "[\\[\\]{}\",:0x1a-f ]{0,40}", result in "[\\[\\]{}\",:0x1a-f ]{0,40}") {
        let method = Method::find(NAMES[place]).expect("a method");
        let params = Some(params.as_bytes());
        plan(Some(method), params, SERVED);
        for scope in [Scope::Head, Scope::Branch, Scope::Fixed(Class::Immutable)] {
            let _ = classify(method, params, scope, result.as_bytes(), SERVED);
        }
    }
}
