//! Mistakes in method rules.
//!
//! A pattern that matches nothing is worst in `deny`: the operator believes that a method is denied. But
//! nodes have custom methods, so a pattern is reported only if it resembles a known name, or if it is
//! written as another notation would have it (`debug`, `personal_`, `admin_.*`).

use plimsoll_config::{nearest, nearest_within};
use plimsoll_registry::model::MethodRules;
use plimsoll_rpc::method::NAMES;

use super::names::{DOTTED, METHODS, NAMESPACES, REST};

/// How many letters of a name may be wrong. More would take real methods for others: between
/// `eth_signTransaction` and `eth_sendTransaction` three differ.
const WRONG_MAX: usize = 2;

/// Shorter words are never taken for a misspelt namespace: Bitcoin's and Solana's methods have none,
/// and `set*` differs from `net` by one letter.
const NAMESPACE_MIN: usize = 5;

/// The mistakes in an entry's rules. `no_rest`: why no REST request is subject to them, if so.
pub(super) fn mistakes(rules: &MethodRules, no_rest: Option<&str>) -> Vec<String> {
    let mut found = Vec::new();
    let named = |key: &'static str, list: &'_ [String]| {
        list.iter().map(move |pattern| (key, pattern.clone())).collect::<Vec<_>>()
    };
    for (key, pattern) in [named("allow", &rules.allow), named("deny", &rules.deny)].concat() {
        if let Some(meant) = unmatched(&pattern) {
            let hint = meant.map(|meant| format!("; did you mean \"{meant}\"?"));
            found.push(format!(
                "methods.{key} \"{pattern}\" matches no known method{} (names are case-sensitive)",
                hint.as_deref().unwrap_or_default()
            ));
        } else if let Some(why) = no_rest.filter(|_| pattern.trim_end_matches('*') == REST) {
            found.push(format!("methods.{key} \"{pattern}\" has no effect: {why}"));
        }
    }
    if rules.deny.iter().any(|pattern| pattern == "*") {
        found.push("methods.deny \"*\" overrides all other rules: no method is permitted".into());
        return found;
    }
    let mut overridden = Vec::new();
    for pattern in &rules.allow {
        let covers = |wide: &&String| match wide.strip_suffix('*') {
            Some(start) => pattern.starts_with(start),
            None => *wide == pattern,
        };
        if let Some(wide) = rules.deny.iter().find(covers) {
            overridden.push(format!(
                "methods.allow \"{pattern}\" has no effect; methods.deny \"{wide}\" overrides it"
            ));
        }
    }
    if !rules.allow.is_empty() && overridden.len() == rules.allow.len() {
        overridden
            .push("methods.deny overrides all of methods.allow: no method is permitted".into());
    }
    found.extend(overridden);
    found
}

/// `Some` if a pattern probably matches nothing, with the pattern that was probably meant.
fn unmatched(pattern: &str) -> Option<Option<String>> {
    match pattern.strip_suffix('*') {
        Some(start) => unmatched_start(start),
        None => unmatched_name(pattern).map(Some),
    }
}

/// The pattern that was probably meant by a name without `*`.
fn unmatched_name(name: &str) -> Option<String> {
    if methods().any(|known| known == name) {
        return None;
    }
    let same = |known: &&str| known.eq_ignore_ascii_case(name);
    if let Some(known) = methods().find(same) {
        return Some(known.into());
    }
    let bare = name.trim_end_matches(SEPARATORS);
    if let Some(namespace) = namespace(bare) {
        return Some(format!("{namespace}_*"));
    }
    if name.ends_with('_') {
        return Some(format!("{name}*"));
    }
    if let Some((start, rest)) = name.split_once('_')
        && let Some(known) = namespace(start)
    {
        let is_listed = methods().any(|method| in_namespace(method) == Some(known));
        if known != start {
            return Some(format!("{known}_{rest}"));
        }
        if !is_listed && is_word(rest) {
            return None;
        }
    }
    nearest_within(WRONG_MAX, name, methods()).map(str::to_string)
}

/// Like [`unmatched`], for a pattern without its `*`.
fn unmatched_start(start: &str) -> Option<Option<String>> {
    if methods().chain(NAMESPACES.iter().copied()).any(|known| known.starts_with(start)) {
        return None;
    }
    let front = |known: &'static str| known.get(..start.len());
    if let Some(known) = methods().filter_map(front).find(|k| k.eq_ignore_ascii_case(start)) {
        return Some(Some(format!("{known}*")));
    }
    let bare = start.trim_end_matches(SEPARATORS);
    if start.ends_with(['.', '-', ':']) {
        if start.strip_suffix('.').is_some_and(|word| DOTTED.contains(&word)) {
            return None;
        }
        let meant = namespace(bare).map(|known| format!("{known}_*"));
        let is_start = methods().any(|known| known.starts_with(bare));
        return Some(meant.or_else(|| is_start.then(|| format!("{bare}*"))));
    }
    let Some((first, rest)) = start.split_once('_') else {
        let known = namespace(start).or_else(|| {
            nearest_within(1, start, namespaces()).filter(|_| start.len() >= NAMESPACE_MIN)
        });
        return known.map(|known| Some(format!("{known}_*")));
    };
    match namespace(first) {
        Some(known) if known != first => Some(Some(format!("{known}_{rest}*"))),
        // Of these, not all methods are listed.
        Some(known) if NAMESPACES.contains(&known) && (rest.is_empty() || is_word(rest)) => None,
        Some(_) => Some(None),
        None => Some(nearest(first, namespaces()).map(|known| format!("{known}_*"))),
    }
}

/// What separates a namespace from a method, in one notation or another.
const SEPARATORS: [char; 4] = ['_', '.', '-', ':'];

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn methods() -> impl Iterator<Item = &'static str> + Clone {
    NAMES.iter().chain(METHODS).copied().chain([REST])
}

fn namespaces() -> impl Iterator<Item = &'static str> + Clone {
    methods().filter_map(in_namespace).chain(NAMESPACES.iter().copied())
}

fn in_namespace(method: &str) -> Option<&str> {
    method.split_once('_').map(|(namespace, _)| namespace)
}

/// The namespace with this name, in any case.
fn namespace(name: &str) -> Option<&'static str> {
    let exact = namespaces().find(|known| *known == name);
    exact.or_else(|| namespaces().find(|known| known.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_match_nothing() {
        let check = |pattern: &str, expected: Option<&str>| {
            let found = unmatched(pattern);
            let found = found.map(|meant| meant.unwrap_or_default());
            assert_eq!(found.as_deref(), expected, "{pattern}");
        };
        // A namespace alone.
        check("debug", Some("debug_*"));
        check("admin", Some("admin_*"));
        check("Txpool", Some("txpool_*"));
        check("personal_", Some("personal_*"));
        check("mychain_", Some("mychain_*"));
        check("bor.", Some("bor_*"));
        // Regular expressions and other notations.
        check("admin_.*", Some("admin_*"));
        check("admin.*", Some("admin_*"));
        check("debug:*", Some("debug_*"));
        check("debug-*", Some("debug_*"));
        check("eth_get.*", Some("eth_get*"));
        check("mychain_.*", Some(""));
        check("admin_add.Peer", Some("admin_addPeer"));
        check("debug_a.b*", Some(""));
        // Another case.
        check("Admin_*", Some("admin_*"));
        check("ADMIN*", Some("admin*"));
        check("admin_addpeer", Some("admin_addPeer"));
        check("admin_addp*", Some("admin_addP*"));
        check("ETH_CALL", Some("eth_call"));
        check("eth_Get*", Some("eth_get*"));
        check("Eth_sign*", Some("eth_sign*"));
        check("Bor_getAuthor", Some("bor_getAuthor"));
        check("Bor_get*", Some("bor_get*"));
        check("rest", Some("REST"));
        // Misspelt.
        check("debgu_*", Some("debug_*"));
        check("debgu*", Some("debug_*"));
        check("eth_getLog", Some("eth_getLogs"));
        check("amdin_peers", Some("admin_peers"));
        check("personal_unlokAccount", Some("personal_unlockAccount"));
        // Unknown.
        check("quux_*", Some(""));
        check("eth_quux*", Some(""));
    }

    /// Methods of execution-apis, geth, Erigon, Bor, zkSync and others, and of chains of other kinds.
    #[test]
    fn real_methods_are_not_reported() {
        let real = "* e* eth* eth_* eth_get* eth_call admin_* admin* admin_start* debug_trace* bor_getAuthor REST REST*
            eth_blobBaseFee eth_capabilities eth_config eth_createAccessList eth_getBlockAccessList eth_getStorageValues
            eth_sendRawTransactionSync eth_sign eth_signTransaction eth_simulateV1 eth_syncing
            engine_exchangeCapabilities engine_forkchoiceUpdatedV3 engine_getBlobsV1 engine_getPayloadBodiesByHashV1
            engine_getPayloadV5 engine_newPayloadV4 testing_buildBlockV1 engine_new* engine_getPayload*
            admin_addPeer admin_nodeInfo admin_startHTTP admin_sleepBlocks debug_chaindbCompact debug_dbGet
            debug_getRawBlock debug_intermediateRoots debug_setHead debug_stateSize debug_syncTarget debug_traceChain
            debug_traceBadBlock debug_vmodule miner_setGasPrice miner_start personal_sign personal_unlockAccount
            eth_signTypedData_v4 eth_getProof txpool_contentFrom web3_sha3 rpc_modules clique_getSigners les_serverInfo
            erigon_getHeaderByNumber erigon_getLogsByHash erigon_forks erigon_blockNumber erigon_nodeInfo
            eth_getTransactionReceiptsByBlock trace_rawTransaction trace_callMany ots_getApiLevel ots_*
            overlay_getLogs internal_getTxNonce parity_listStorageKeys eth_callMany debug_accountRange
            bor_getSnapshot bor_getRootHash bor_getCurrentValidators bor_getSignersAtHash eth_getRootHash bor_*
            zks_L1BatchNumber zks_getBlockDetails zks_estimateFee zks_getL2ToL1LogProof zks_* en_syncL2Block unstable_*
            zkevm_consolidatedBlockNumber linea_estimateGas optimism_syncStatus opp2p_peers rollup_getInfo
            arb_getRawBlockMetadata arbtrace_block timeboost_sendExpressLaneTransaction scroll_estimateL1DataFee
            alchemy_getTokenBalances qn_fetchNFTs ankr_getAccountBalance tenderly_simulateTransaction
            pm_getPaymasterStubData pimlico_getUserOperationGasPrice eth_sendUserOperation eth_supportedEntryPoints
            debug_bundler_clearState rundler_maxPriorityFeePerGas eth_callBundle eth_sendBundle mev_sendBundle
            anvil_mine evm_snapshot evm_increaseTime hardhat_setBalance wallet_sendCalls wallet_getCapabilities
            kaia_getReward klay_blockNumber governance_chainConfig hmy_getBalance hmyv2_getBalance cfx_epochNumber
            starknet_getBlockWithTxs starknet_* sui_getObject suix_getBalance unsafe_moveCall perm_getNodesAllowlist
            priv_getTransaction ibft_getPendingVotes parlia_getSnapshot taiko_headL1Origin sei_getLogs
            author_submitExtrinsic chain_getBlock state_getStorage system_health chainHead_v1_follow payment_queryInfo
            abci_info abci_query block_results broadcast_tx_sync broadcast_tx_* net_info tx_search status health block
            EXPERIMENTAL_changes EXPERIMENTAL_* Filecoin.ChainHead Filecoin.* platform.getHeight avm.* info.peers
            getblock getblockhash getrawtransaction sendrawtransaction getb* get* send* dump* set* list* stop help
            importprivkey z_getbalance walletpassphrase wallet* testmempoolaccept
            getBlock getAccountInfo getHealth getSlot getProgramAccounts simulateTransaction minimumLedger* is*
            requestAirdrop ledger account_info account_* server_info submit_multisigned book_offers fee ping
            mychain_doSomethingUnusual";
        for pattern in real.split_whitespace() {
            assert_eq!(unmatched(pattern), None, "{pattern}");
        }
        for pattern in NAMES.iter().chain(METHODS) {
            assert_eq!(unmatched(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn rules_without_effect() {
        let check = |allow: &[&str], deny: &[&str], no_rest: Option<&str>, expected: &[&str]| {
            let list = |patterns: &[&str]| patterns.iter().map(|one| one.to_string()).collect();
            let rules = MethodRules { allow: list(allow), deny: list(deny) };
            assert_eq!(mistakes(&rules, no_rest), expected, "{rules:?}");
        };
        let call = "methods.allow \"eth_call\" has no effect; methods.deny \"eth_c*\" overrides it";
        check(&["eth_call", "eth_getLogs"], &["eth_c*"], None, &[call]);
        let nothing = "methods.deny overrides all of methods.allow: no method is permitted";
        check(&["eth_call"], &["eth_c*"], None, &[call, nothing]);
        let all = "methods.deny \"*\" overrides all other rules: no method is permitted";
        check(&[], &["*"], None, &[all]);
        check(&["eth_call"], &["eth_*", "*"], None, &[all]);
        check(&["*"], &["debug_*"], None, &[]);
        check(&[], &["REST"], None, &[]);
        let rest = "methods.deny \"REST\" has no effect: no reason";
        check(&[], &["REST", "debug_*"], Some("no reason"), &[rest]);
        check(&["*"], &[], Some("no reason"), &[]);
        let wrong = "methods.deny \"personal_\" matches no known method; did you mean \"personal_*\"? \
                     (names are case-sensitive)";
        check(&[], &["personal_"], None, &[wrong]);
    }
}
