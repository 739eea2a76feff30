//! Which answers the cache may give, against nodes that lag, lie, reorganise and change their mind.

use super::node::{Answer, Chain, Gate, asked, figure, node, parsed, service, start};
use super::*;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

const CODE: &str = "eth_getCode";
const ACCOUNT: &str = "0x00000000000000000000000000000000000000aa";
const TRANSACTION: &str = "0x1111111111111111111111111111111111111111111111111111111111111111";

/// A mined transaction, its receipt, or a trace of it.
fn place(chain: &Chain, number: u64) -> Value {
    json!({
        "hash": TRANSACTION,
        "transactionHash": TRANSACTION,
        "blockNumber": format!("{number:#x}"),
        "blockHash": chain.hash(number),
    })
}

fn pending() -> Value {
    json!({"hash": TRANSACTION, "blockNumber": null, "blockHash": null})
}

/// A transaction appears while another caller's question about it is in flight. A caller who asks
/// after that, perhaps because it has sent it, must not get the other's earlier answer.
#[test]
fn what_has_appeared_is_not_hidden_by_an_earlier_question() {
    let trace = |chain: &Chain| json!([place(chain, 1_000)]);
    for (method, early, late) in [
        ("eth_getTransactionReceipt", Value::Null, place(&Chain::at(0), 1_000)),
        ("eth_getTransactionByHash", Value::Null, place(&Chain::at(0), 1_000)),
        ("eth_getTransactionByHash", pending(), place(&Chain::at(0), 1_000)),
        ("trace_transaction", json!([]), trace(&Chain::at(0))),
        ("eth_getRawTransactionByHash", json!("0x"), json!("0x02ab")),
    ] {
        let (folder, chain, gate) = (Folder::new(), Chain::at(1_000), Gate::default());
        let has_appeared = Arc::new(AtomicBool::new(false));
        let (waits, appeared, before, after) =
            (gate.clone(), has_appeared.clone(), early.clone(), late.clone());
        let node = node(&chain, move |number, asked, _, _| {
            if asked != method {
                return Answer::Usual;
            }
            // The first question in flight has been answered by the node before the transaction came.
            let answer = if appeared.load(SeqCst) { after.clone() } else { before.clone() };
            if number == 1 {
                waits.wait();
            }
            Answer::Result(answer)
        });
        let (process, address) = start(&folder, &service("", &[&node]));
        let params = json!([TRANSACTION]);
        let answer = call(&address, method, params.clone());
        assert_eq!((&answer.json()["result"], used(&answer)), (&early, "miss"), "{method}");
        let first = {
            let (address, params) = (address.clone(), params.clone());
            std::thread::spawn(move || call(&address, method, params))
        };
        until("relayed", || asked(&node, method).len() == 2);
        has_appeared.store(true, SeqCst);
        let later: Vec<_> = (0..4)
            .map(|_| {
                let (address, params) = (address.clone(), params.clone());
                std::thread::spawn(move || call(&address, method, params))
            })
            .collect();
        until("waiting", || figure(&address, "/flights/waiting") == 5);
        gate.open();
        assert_eq!(first.join().unwrap().json()["result"], early, "{method}");
        for caller in later {
            let answer = caller.join().unwrap();
            assert_eq!(answer.json()["result"], late, "{method} after {early}");
        }
        assert_eq!(asked(&node, method).len(), 3, "one more relay for all that came later");
        assert_eq!(used(&call(&address, method, params)), "hit", "{method}");
        process.stop();
    }
}

/// Wrong answers are returned, because the gateway cannot know better, but not repeated.
#[test]
fn an_answer_about_something_else_is_not_stored() {
    let (folder, chain) = (Folder::new(), Chain::at(1_000));
    let script: Arc<Mutex<(String, Value)>> = Arc::default();
    let scripted = script.clone();
    let node = node(&chain, move |_, method, params, _| {
        let (scripted, answer) = &*scripted.lock().unwrap();
        // Not the calls of the gateway itself.
        let is_own = ["latest", "safe", "finalized"].iter().any(|tag| params[0] == *tag);
        if method == scripted && !is_own { Answer::Result(answer.clone()) } else { Answer::Usual }
    });
    let (process, address) = start(&folder, &service("", &[&node]));
    let check = |method: &str, params: Value, wrong: Value, right: Value| {
        for answer in [wrong, right] {
            let is_right = answer == script.lock().unwrap().1;
            *script.lock().unwrap() = (method.into(), answer.clone());
            let _ = is_right;
            let first = call(&address, method, params.clone());
            assert_eq!(first.json()["result"], answer, "{method} {params}");
            assert_eq!(used(&first), "miss", "{method} {params}: the wrong answer was stored");
        }
        assert_eq!(used(&call(&address, method, params.clone())), "hit", "{method} {params}");
    };
    let hash = |number| json!(chain.hash(number));
    let at = |number: u64| json!(format!("{number:#x}"));
    check("eth_getBlockByNumber", json!(["0x384", false]), chain.block(901), chain.block(900));
    check("eth_getBlockByHash", json!([hash(900), false]), chain.block(901), chain.block(900));
    check(
        "eth_getBlockByHash",
        json!([hash(902), true]),
        json!({"number": "0x386"}),
        chain.block(902),
    );
    let other = json!({"hash": TRANSACTION.replace('1', "2"), "transactionHash":
        TRANSACTION.replace('1', "2"), "blockNumber": "0x1", "blockHash": hash(1)});
    check("eth_getTransactionByHash", json!([TRANSACTION]), other.clone(), place(&chain, 900));
    check("eth_getTransactionReceipt", json!([TRANSACTION]), other, place(&chain, 900));
    // Above the served head, and a lie about the head.
    let receipt = "eth_getTransactionReceipt";
    let upper = TRANSACTION.replace('1', "A");
    let of_upper = |number: u64| json!({"transactionHash": upper.to_lowercase(), "blockNumber": at(number), "blockHash": hash(number)});
    check(receipt, json!([upper]), of_upper(1_002), of_upper(1_000));
    let log = |number: u64| json!([{"blockNumber": at(number), "blockHash": hash(number)}]);
    let range = json!([{"fromBlock": "0x384", "toBlock": "0x385"}]);
    check("eth_getLogs", range, log(902), log(901));
    let by_hash = |number: u64| json!([{"blockHash": hash(number)}]);
    check("eth_getLogs", by_hash(900), log(901), log(900));
    check("eth_getLogs", by_hash(901), json!([]), log(901));
    let mut removed = log(902);
    removed[0]["removed"] = json!(true);
    check("eth_getLogs", by_hash(902), removed, log(902));
    check("eth_getBlockReceipts", json!(["0x384"]), log(901), log(900));
    check("eth_getBlockReceipts", json!([hash(900)]), log(901), log(900));
    let mut unsent = log(902);
    unsent[0]["blockNumber"] = Value::Null;
    check("eth_getBlockReceipts", json!([hash(902)]), unsent, log(902));
    check("eth_getUncleCountByBlockHash", json!([hash(900)]), Value::Null, json!("0x0"));
    check(CODE, json!([ACCOUNT, "0x384"]), Value::Null, json!("0x"));
    process.stop();
}

/// The node's answer is a part of the call as it arrived there, so that shared answers show.
#[test]
fn calls_share_an_answer_only_if_they_mean_the_same() {
    let (folder, chain) = (Folder::new(), Chain::at(1_000));
    let node = node(&chain, |number, method, _, _| match method {
        "eth_call" | "eth_getStorageAt" | CODE => Answer::Result(json!(format!("0x{number:x}"))),
        _ => Answer::Usual,
    });
    let (process, address) = start(&folder, &service("", &[&node]));
    let ask_text = |text: &str| {
        let answer = ask(&address, "POST /v1", text);
        assert!(answer.json()["result"].is_string(), "{text}: {}", answer.body);
        used(&answer).to_string()
    };
    let text = |method: &str, params: &str| {
        format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\",\"params\":{params}}}")
    };
    let hash = chain.hash(900);
    let long = format!("[{{\"data\":\"0x{}\"}},\"0x384\"]", "ab".repeat(33 << 10));
    let almost = format!("[{{\"data\":\"0x{}\"}},\"0x384\"]", "ab".repeat(31 << 10));
    // Each call after the first of a group shares its answer, or not.
    let groups: &[(&str, &[(&str, &str)])] = &[
        (
            "eth_call",
            &[
                ("[{\"to\":\"0xaB\",\"data\":\"0x01\"},\"0x384\"]", "miss"),
                ("[{\"data\":\"0x01\",\"to\":\"0xAb\"},\"0x384\"]", "hit"),
                (" [ {\"\\u0064ata\":\"0x\\u00301\" , \"to\":\"0xab\"}\t,\n\"0x384\" ]", "hit"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"},\"0x0384\"]", "miss"),
                (
                    "[{\"data\":\"0x01\",\"to\":\"0xab\"},\"0x384\",{\"0xab\":{\"balance\":\"0x1\"}}]",
                    "miss",
                ),
                (
                    "[{\"data\":\"0x01\",\"to\":\"0xab\"},\"0x384\",{\"0xab\":{\"balance\":\"0x2\"}}]",
                    "miss",
                ),
                (
                    "[{\"data\":\"0x01\",\"to\":\"0xab\"},\"0x384\",{\"0xAB\":{\"balance\":\"0x2\"}}]",
                    "hit",
                ),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"},\"0x384\",{},{\"number\":\"0x1\"}]", "miss"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"},\"0x384\",null]", "miss"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\",\"data\":\"0x02\"},\"0x384\"]", "miss"),
                ("[{\"data\":\"0x02\",\"to\":\"0xab\",\"data\":\"0x01\"},\"0x384\"]", "miss"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\",\"gas\":1},\"0x384\"]", "miss"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\",\"gas\":1.0},\"0x384\"]", "miss"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\",\"gas\":1e0},\"0x384\"]", "miss"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\",\"gas\":null},\"0x384\"]", "miss"),
                ("[{\"data\":\"0X01\",\"to\":\"0xab\"},\"0x384\"]", "miss"),
                ("[{\"data\":\"0x1\",\"to\":\"0xab\"},\"0x384\"]", "miss"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"},{\"blockNumber\":\"0x384\"}]", "miss"),
                (
                    "[{\"data\":\"0x01\",\"to\":\"0xab\"},{\"blockNumber\":\"0x384\",\"blockNumber\":\"0x1\"}]",
                    "bypass",
                ),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"},900]", "bypass"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"},\"900\"]", "bypass"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"},\"0x\"]", "bypass"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"},\"pending\"]", "bypass"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"},\"0x3e9\"]", "bypass"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"},\"latest\"]", "miss"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"}]", "hit"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"},null]", "hit"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"},\"0x3e8\"]", "hit"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"},\"safe\"]", "miss"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"},\"0x3e6\"]", "hit"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"},\"finalized\"]", "miss"),
                ("[{\"data\":\"0x01\",\"to\":\"0xab\"},\"0x3e4\"]", "hit"),
                (&almost, "miss"),
                (&almost, "hit"),
                (&long, "bypass"),
            ],
        ),
        (
            "eth_getStorageAt",
            &[
                ("[\"0xab\",\"0x0\",\"0x384\"]", "miss"),
                (
                    "[\"0xab\",\"0x0000000000000000000000000000000000000000000000000000000000000000\",\"0x384\"]",
                    "hit",
                ),
                ("[\"0xab\",\"0x00\",\"0x384\"]", "hit"),
                ("[\"0xab\",\"0x\",\"0x384\"]", "miss"),
                ("[\"0x0ab\",\"0x0\",\"0x384\"]", "miss"),
            ],
        ),
        ("eth_\\u0067etStorageAt", &[("[\"0xab\",\"0x0\",\"0x384\"]", "hit")]),
        ("eth_getstorageat", &[("[\"0xab\",\"0x0\",\"0x384\"]", "bypass")]),
    ];
    for (method, calls) in groups {
        for (params, expected) in *calls {
            let shown = &params[..params.len().min(120)];
            assert_eq!(ask_text(&text(method, params)), *expected, "{method} {shown}");
        }
    }
    for (block, expected) in [
        (format!("\"{hash}\""), "miss"),
        (format!("{{\"blockHash\":\"{hash}\"}}"), "miss"),
        (format!("{{\"blockHash\":\"{hash}\",\"requireCanonical\":false}}"), "miss"),
        (format!("{{\"requireCanonical\":false,\"blockHash\":\"{hash}\"}}"), "hit"),
        (format!("{{\"blockHash\":\"{hash}\",\"requireCanonical\":true}}"), "miss"),
        (format!("{{\"blockHash\":\"{hash}\",\"blockNumber\":\"0x384\"}}"), "bypass"),
    ] {
        assert_eq!(ask_text(&text("eth_call", &format!("[{{}},{block}]"))), expected, "{block}");
    }
    // The id is the caller's own, whatever it is.
    for id in ["1", "\"a\\u0062\\\"\"", "-1.5e3", "123456789012345678901234567890", "null"] {
        let request = format!(
            "{{\"id\":{id},\"params\":[\"0xab\",\"0x0\",\"0x384\"],\"method\":\"eth_getStorageAt\",\"jsonrpc\":\"2.0\"}}"
        );
        let answer = ask(&address, "POST /v1", &request);
        assert!(answer.body.contains(&format!("\"id\":{id},")), "{id}: {}", answer.body);
        assert_eq!(used(&answer), "hit");
    }
    process.stop();
}

#[test]
fn a_reorganisation_ends_what_it_replaces() {
    let (folder, chain) = (Folder::new(), Chain::at(1_000));
    let (truth, calls) = (chain.clone(), Arc::new(AtomicBool::new(true)));
    let orphan = chain.hash(998);
    let known = orphan.clone();
    let is_canonical = calls.clone();
    let node = node(&chain, move |_, method, params, _| match method {
        CODE if params[1]["requireCanonical"] == json!(true) => match is_canonical.load(SeqCst) {
            true => Answer::Result(json!("0xc0de")),
            false => Answer::Error(-32_000, "hash is not currently canonical"),
        },
        CODE => Answer::Result(json!(truth.hash(parsed(params[1].as_str().unwrap_or_default())))),
        "eth_getTransactionReceipt" => Answer::Result(place(&truth, 998)),
        "eth_getLogs" if params[0]["blockHash"].is_string() => {
            Answer::Result(json!([{"blockNumber": "0x3e6", "blockHash": known}]))
        }
        "eth_getLogs" => {
            Answer::Result(json!([{"blockNumber": "0x3e6", "blockHash": truth.hash(998)}]))
        }
        _ => Answer::Usual,
    });
    let config = service("", &[&node]).replace("12s", "2s");
    let (process, address) = start(&folder, &config);
    let canonical = json!([ACCOUNT, {"blockHash": orphan, "requireCanonical": true}]);
    let calls_by_number = [
        ("eth_getBlockByNumber", json!(["0x3e6", false])),
        (CODE, json!([ACCOUNT, "0x3e6"])),
        ("eth_getTransactionReceipt", json!([TRANSACTION])),
        ("eth_getLogs", json!([{"fromBlock": "0x3e6", "toBlock": "0x3e6"}])),
    ];
    let of_orphan = ("eth_getLogs", json!([{"blockHash": orphan}]));
    for (method, params) in calls_by_number.iter().chain([&of_orphan]) {
        let answer = call(&address, method, params.clone());
        assert!(answer.body.contains(&orphan), "{method}: {}", answer.body);
    }
    assert_eq!(call(&address, CODE, canonical.clone()).json()["result"], "0xc0de");
    chain.reorganise(996);
    calls.store(false, SeqCst);
    chain.head.store(1_001, SeqCst);
    let latest = || call(&address, "eth_getBlockByNumber", json!(["latest", false])).json();
    until("served", || latest()["result"]["hash"] == json!(chain.hash(1_001)));
    for (method, params) in &calls_by_number {
        for _ in 0..2 {
            let answer = call(&address, method, params.clone());
            let (is_new, is_old) = (chain.hash(998), &orphan);
            let body = &answer.body;
            assert!(body.contains(&is_new) && !body.contains(is_old), "{method}: {body}");
        }
    }
    // What was called by its hash is still true of that block, but no longer canonical.
    let (method, params) = of_orphan;
    assert!(call(&address, method, params).body.contains(&orphan));
    let answer = call(&address, CODE, canonical);
    assert!(answer.json()["error"].is_object(), "{}", answer.body);
    process.stop();
}

/// A node that is several behind one address, some of which lag.
#[test]
fn a_lagging_node_does_not_take_the_head_back() {
    let (folder, chain) = (Folder::new(), Chain::at(1_000));
    let truth = chain.clone();
    let node = node(&chain, move |number, method, params, _| {
        // Half of the time, in no order that could fit the gateway's own.
        let lags = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 == 1;
        let head = truth.head.load(SeqCst);
        match (method, params[0].as_str()) {
            ("eth_blockNumber", _) if lags => Answer::Result(json!(format!("{:#x}", head - 3))),
            ("eth_getBlockByNumber", Some("latest")) if lags => {
                Answer::Result(truth.block(head - 3))
            }
            ("eth_getBlockByNumber", Some(block))
                if lags && block.starts_with("0x") && parsed(block) + 2 >= head =>
            {
                Answer::Result(Value::Null)
            }
            ("eth_gasPrice", _) => Answer::Result(json!(format!("{head:#x}"))),
            _ => Answer::Usual,
        }
    });
    let config = service("retry_floor = \"1000/s\"", &[&node]).replace("12s", "2s");
    let (process, address) = start(&folder, &config);
    let mut highest = 0;
    for round in 0..24 {
        if round % 4 == 3 {
            chain.head.fetch_add(1, SeqCst);
        }
        let number = call(&address, "eth_blockNumber", json!([])).json();
        let block = call(&address, "eth_getBlockByNumber", json!(["latest", false])).json();
        for shown in [&number["result"], &block["result"]["number"]] {
            let shown = parsed(shown.as_str().unwrap_or_else(|| panic!("{number} {block}")));
            assert!(shown >= highest && shown <= 1_006, "{shown} after {highest}");
            highest = shown;
        }
        assert_eq!(block["result"], chain.block(highest));
    }
    let latest =
        || parsed(call(&address, "eth_blockNumber", json!([])).json()["result"].as_str().unwrap());
    until("at the head", || latest() == 1_006);
    // An answer about the head ends with it.
    until("new", || call(&address, "eth_gasPrice", json!([])).json()["result"] == "0x3ee");
    process.stop();
}

#[test]
fn an_answer_of_one_upstream_is_not_given_where_two_must_agree() {
    let (folder, chain) = (Folder::new(), Chain::at(1_000));
    let nodes = ["0xaa", "0xbb"].map(|code| {
        node(&chain, move |_, method, _, _| match method {
            CODE => Answer::Result(json!(code)),
            _ => Answer::Usual,
        })
    });
    let endpoint = |id: &str, agree: u8| {
        format!("[[endpoint]]\nid = \"{id}\"\nservice = \"eth\"\nagree = {agree}\n")
    };
    let config = service("", &[&nodes[0], &nodes[1]]) + &endpoint("one", 1) + &endpoint("two", 2);
    let (process, address) = start(&folder, &config);
    let ask = |endpoint: &str, block: &str| {
        let request = format!("POST /api/gateway?endpoint={endpoint}");
        ask(&address, &request, &body(CODE, &json!([ACCOUNT, block])))
    };
    assert_eq!(used(&ask("one", "0x384")), "miss");
    assert_eq!(used(&ask("one", "0x384")), "hit");
    for _ in 0..2 {
        let answer = ask("two", "0x384");
        assert!(answer.json()["error"].is_object(), "{}", answer.body);
    }
    // Errors are not stored, and the first endpoint is not affected.
    assert_eq!(used(&ask("one", "0x384")), "hit");
    process.stop();
}

#[test]
fn answers_that_depend_on_a_callers_headers_are_not_shared() {
    let (folder, chain) = (Folder::new(), Chain::at(1_000));
    let node = node(&chain, |_, method, _, head| match method {
        CODE => {
            let line = head.lines().find(|line| line.to_lowercase().starts_with("x-tenant"));
            Answer::Result(json!(line.map_or("nobody", |line| line.split(": ").nth(1).unwrap())))
        }
        _ => Answer::Usual,
    });
    let config = format!("pass_headers = [\"X-Tenant\"]\n{}", service("", &[&node]));
    let (process, address) = start(&folder, &config);
    for (who, expected) in
        [("a", "bypass"), ("", "miss"), ("", "hit"), ("b", "bypass"), ("a", "bypass")]
    {
        let header = if who.is_empty() { "".into() } else { format!("X-TENANT: {who}\r\n") };
        let mut caller = Caller::connect(&address).unwrap();
        let body = body(CODE, &json!([ACCOUNT, "0x384"]));
        let answer = caller.send_with("POST /v1", &header, &body).unwrap();
        let who = if who.is_empty() { "nobody" } else { who };
        assert_eq!((&answer.json()["result"], used(&answer)), (&json!(who), expected));
    }
    process.stop();
}

#[test]
fn errors_and_answers_that_are_not_results_are_not_stored() {
    let (folder, chain) = (Folder::new(), Chain::at(1_000));
    let node = node(&chain, |number, method, params, _| match (method, params[0].as_str()) {
        ("eth_getCode", Some("0xe0")) if number % 2 == 0 => Answer::Error(3, "execution reverted"),
        ("eth_getCode", Some("0xe0")) => Answer::Error(-32_000, "header not found"),
        ("eth_getCode", Some("0xe1")) => Answer::Raw("{\"a\":[".into()),
        ("eth_getCode", Some("0xe2")) => Answer::Raw("".into()),
        ("eth_getCode", Some("0xe3")) => Answer::Raw("\"\\ud800\"".into()),
        ("eth_getCode", Some("0xe4")) => Answer::Raw("NaN".into()),
        _ => Answer::Usual,
    });
    let (process, address) = start(&folder, &service("", &[&node]));
    for account in ["0xe0", "0xe1", "0xe2", "0xe4"] {
        for _ in 0..3 {
            let answer = call(&address, CODE, json!([account, "0x384"]));
            assert!(answer.json()["error"].is_object(), "{account}: {}", answer.body);
            assert_ne!(used(&answer), "hit", "{account}");
        }
    }
    // A result that is valid JSON is stored as it is.
    for _ in 0..2 {
        let answer = call(&address, CODE, json!(["0xe3", "0x384"]));
        assert!(answer.body.contains("\"result\":\"\\ud800\""), "{}", answer.body);
    }
    process.stop();
}
