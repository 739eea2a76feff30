//! Spellings of blocks in parameters.

use super::*;
use proptest::prelude::*;

const HASH: &str = "0xdb785f2444d7f68bc2bc04860c27ad059217192d17e2889ec801bcae9209b204";

fn param(method: &str) -> BlockParam {
    BlockParam::of(Method::find(method).expect("a method"))
}

/// Latest is 0x64, finalized is 0x3c; safe is not known.
fn head(tag: Tag) -> Option<u64> {
    match tag {
        Tag::Latest => Some(100),
        Tag::Finalized => Some(60),
        _ => None,
    }
}

#[test]
fn moving_tags_are_bound_wherever_they_are() {
    // `$` in the parameters is the hash of a block.
    let check = |method: &str, params: &str, bound: &str| {
        let [params, bound] = [params, bound].map(|text| text.replace('$', HASH));
        let mut found = Vec::new();
        param(method).bind(params.as_bytes(), head, &mut found);
        let found = String::from_utf8(found).expect("UTF-8");
        let found = if found.is_empty() { params.clone() } else { found };
        assert_eq!(found, bound, "{method} {params}");
        assert!(json::validate(found.as_bytes()).is_ok(), "{found}");
    };
    let same = |method: &str, params: &str| check(method, params, params);
    check("eth_getBlockByNumber", r#"["latest",false]"#, r#"["0x64",false]"#);
    check("eth_getBlockByNumber", r#"[ "finalized" , true ]"#, r#"[ "0x3c" , true ]"#);
    check("eth_getBlockByNumber", r#"["l\u0061test",false]"#, r#"["0x64",false]"#);
    check("eth_getStorageAt", r#"["0xab","0x0","latest"]"#, r#"["0xab","0x0","0x64"]"#);
    check("eth_getProof", r#"["0xab",["latest"],"latest"]"#, r#"["0xab",["latest"],"0x64"]"#);
    check("trace_call", r#"[{},["trace"],"latest"]"#, r#"[{},["trace"],"0x64"]"#);
    // omitted, or null
    check("eth_call", r#"[{"to":"0xab"}]"#, r#"[{"to":"0xab"},"0x64"]"#);
    check("eth_call", r#"[{"to":"]"} ] "#, r#"[{"to":"]"} ,"0x64"] "#);
    check("eth_call", r#"[{},null,{"overrides":1}]"#, r#"[{},"0x64",{"overrides":1}]"#);
    check("eth_getBalance", r#"["0xab"]"#, r#"["0xab","0x64"]"#);
    // required: the node refuses it
    same("eth_getBlockByNumber", "[]");
    same("eth_feeHistory", r#"["0x1"]"#);
    same("eth_getBlockByNumber", "[null]");
    // too few to omit only the block
    same("eth_getStorageAt", r#"["0xab"]"#);
    same("eth_call", "[]");
    // by name, which nodes do not know
    same("eth_call", r#"{"block":"latest"}"#);
    // tags that do not move for us, unknown heads, numbers, hashes, other values
    for block in ["pending", "earliest", "safe", "0x10", "lat est", "", "$"] {
        same("eth_getBlockByNumber", &format!("[\"{block}\",false]"));
    }
    same("eth_getBlockByNumber", "[5,false]");
    // in another letter case, which some nodes accept
    for tag in ["Latest", "LATEST", "lAtEsT"] {
        check("eth_getBlockByNumber", &format!("[\"{tag}\"]"), r#"["0x64"]"#);
    }
    check("eth_getBlockByNumber", r#"["Finalized"]"#, r#"["0x3c"]"#);
    // of one family of nodes only
    for method in ["erigon_getHeaderByNumber", "ots_getBlockDetails", "bor_getAuthor"] {
        check(method, r#"["latest"]"#, r#"["0x64"]"#);
    }
    check("ots_hasCode", r#"["0xab","latest"]"#, r#"["0xab","0x64"]"#);
    check("bor_getSigners", "[]", r#"["0x64"]"#);
    let method = "eth_getRawTransactionByBlockNumberAndIndex";
    check(method, r#"["latest","0x0"]"#, r#"["0x64","0x0"]"#);
    // EIP-1898
    same("eth_call", r#"[{},{"blockHash":"$","requireCanonical":true}]"#);
    same("eth_call", r#"[{},{"blockNumber":"0x10"}]"#);
    check("eth_call", r#"[{},{"blockNumber":"latest"}]"#, r#"[{},{"blockNumber":"0x64"}]"#);
    same("eth_call", r#"[{},{"blockNumber":"latest","blockHash":"$"}]"#);
    same("eth_call", r#"[{},{"blockNumber":"latest","blockNumber":"0x1"}]"#);
    same("eth_call", "[{},{}]");
    check("eth_callMany", r#"[[],{"blockNumber":"latest"}]"#, r#"[[],{"blockNumber":"0x64"}]"#);
    // logs
    check(
        "eth_getLogs",
        r#"[{"fromBlock":"finalized","toBlock":"latest"}]"#,
        r#"[{"fromBlock":"0x3c","toBlock":"0x64"}]"#,
    );
    check("eth_getLogs", r#"[{"fromBlock":"0x1"}]"#, r#"[{"fromBlock":"0x1","toBlock":"0x64"}]"#);
    check("eth_getLogs", r#"[{"toBlock":"latest"}]"#, r#"[{"toBlock":"0x64","fromBlock":"0x64"}]"#);
    check("eth_getLogs", "[{}]", r#"[{"fromBlock":"0x64","toBlock":"0x64"}]"#);
    check(
        "eth_getLogs",
        r#"[{ "address": [] , "toBlock" : null }]"#,
        r#"[{ "address": [] , "toBlock" : "0x64" ,"fromBlock":"0x64"}]"#,
    );
    same("eth_getLogs", r#"[{"blockHash":"$"}]"#);
    same("eth_getLogs", "[]");
    check("trace_filter", r#"[{"toBlock":"latest"}]"#, r#"[{"toBlock":"0x64"}]"#);
    // a number would end the filter there
    same("eth_newFilter", r#"[{"fromBlock":"latest"}]"#);
    same("eth_getBlockByHash", r#"["$",false]"#);
    same("eth_gasPrice", r#"["latest"]"#);
}

#[test]
fn blocks_are_found() {
    let check = |method: &str, params: &str, blocks: &[Block]| {
        let params = params.replace('$', HASH);
        let found: Vec<Block> = param(method).blocks(Some(params.as_bytes())).collect();
        assert_eq!(found, blocks, "{method} {params}");
    };
    let latest = Block::Tag(Tag::Latest);
    check("eth_getBlockByNumber", r#"["0x10",false]"#, &[Block::Number(16)]);
    check("eth_getBlockByNumber", r#"["0x",false]"#, &[Block::Unknown]);
    check("eth_getBlockByNumber", r#"["0x10000000000000000"]"#, &[Block::Unknown]);
    check("eth_getBlockByNumber", r#"["0x+1"]"#, &[Block::Unknown]);
    check("eth_getBlockByNumber", r#"["pending",false]"#, &[Block::Tag(Tag::Pending)]);
    check("eth_getBlockReceipts", r#"["$"]"#, &[Block::Hash]);
    check("eth_getBlockByHash", r#"["$",true]"#, &[Block::Hash]);
    check("eth_getBlockByHash", r#"["0x1",true]"#, &[Block::Unknown]);
    check("eth_call", "[{}]", &[latest]);
    check("eth_call", r#"[{},{"blockHash":"$"}]"#, &[Block::Hash]);
    check("eth_getLogs", r#"[{"fromBlock":"0x1"}]"#, &[Block::Number(1), latest]);
    check("eth_getLogs", r#"[{"blockHash":"$"}]"#, &[Block::Hash]);
    check("eth_gasPrice", "[]", &[]);
    assert_eq!(param("eth_call").blocks(None).next(), None);
}

/// Every method of ethereum/execution-apis (snapshot of 2026-08).
pub(crate) const EXECUTION_APIS: &str = "debug_getBadBlocks debug_getRawBlock debug_getRawBlockAccessList debug_getRawHeader \
    debug_getRawReceipts debug_getRawTransaction debug_traceBlockByHash \
    debug_traceBlockByNumber debug_traceTransaction eth_accounts eth_baseFee eth_blobBaseFee \
    eth_blockNumber eth_call eth_capabilities eth_chainId eth_coinbase eth_config \
    eth_createAccessList eth_estimateGas eth_feeHistory eth_fillTransaction eth_gasPrice \
    eth_getBalance eth_getBlockAccessList eth_getBlockByHash eth_getBlockByNumber \
    eth_getBlockReceipts eth_getBlockTransactionCountByHash \
    eth_getBlockTransactionCountByNumber eth_getCode eth_getFilterChanges eth_getFilterLogs \
    eth_getLogs eth_getProof eth_getStorageAt eth_getStorageValues \
    eth_getTransactionByBlockHashAndIndex eth_getTransactionByBlockNumberAndIndex \
    eth_getTransactionByHash eth_getTransactionCount eth_getTransactionReceipt \
    eth_maxPriorityFeePerGas eth_newBlockFilter eth_newFilter eth_newPendingTransactionFilter \
    eth_sendRawTransaction eth_sendTransaction eth_sign eth_signTransaction eth_simulateV1 \
    eth_syncing eth_uninstallFilter net_version txpool_content txpool_contentFrom txpool_status";

#[test]
fn every_method_of_execution_apis_is_known() {
    for name in EXECUTION_APIS.split_whitespace() {
        assert!(Method::find(name).is_some(), "{name}");
    }
}

/// Random JSON values that resemble parameters.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("\"latest\"".to_string()),
        Just("\"finalized\"".to_string()),
        Just("\"0x1\"".to_string()),
        Just(format!("\"{HASH}\"")),
        Just("null".to_string()),
        Just("7".to_string()),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let name =
            proptest::sample::select(vec!["fromBlock", "toBlock", "blockHash", "blockNumber"]);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| format!("[{}]", items.join(" , "))),
            proptest::collection::vec((name, inner), 0..4).prop_map(|members| {
                let members: Vec<String> =
                    members.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
                format!("{{ {} }}", members.join(","))
            }),
        ]
    })
}

proptest! {
    /// Bound parameters are valid, name no moving tag whose head is known, and stay as they are when
    /// they are bound again.
    #[test]
    fn binding_is_valid_and_complete(
        items in proptest::collection::vec(value(), 0..4),
        place in 0..NAMES.len(),
    ) {
        let param = TABLE[place];
        let params = format!("[{}]", items.join(","));
        let known = |tag: Tag| matches!(tag, Tag::Latest | Tag::Finalized | Tag::Safe).then_some(9);
        let mut bound = Vec::new();
        param.bind(params.as_bytes(), known, &mut bound);
        if bound.is_empty() {
            return Ok(());
        }
        prop_assert!(json::validate(&bound).is_ok(), "{}", String::from_utf8_lossy(&bound));
        for block in param.blocks(Some(&bound)) {
            prop_assert!(!matches!(block, Block::Tag(_)), "{}", String::from_utf8_lossy(&bound));
        }
        let mut again = Vec::new();
        param.bind(&bound, known, &mut again);
        prop_assert!(again.is_empty());
    }
}
