//! `plimsoll gateway cache`, the header `x-cache`, and the settings of the cache.

use super::*;
use crate::gateway::eth;
use crate::run::{Done, plimsoll};
use nix::sys::signal::Signal;
use plimsoll_sim::Sim;

/// A gateway before this chain, with its address.
fn start(folder: &Folder, sim: &Sim, config: &str) -> (Process, String) {
    let url = sim.url("eth");
    let upstream = format!("[[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"{url}\"\n");
    let process = gateway(folder, &format!("{config}\n{upstream}"));
    let address = process.address("");
    // Until the gateway knows the head, calls by number bypass the cache.
    until("caching", || used(&call(&address, "eth_gasPrice", json!([]))) != "bypass");
    (process, address)
}

/// A final block of the chain, by its number.
fn old(sim: &Sim, age: u64) -> Value {
    json!([format!("{:#x}", sim.head("eth") - 100 - age), false])
}

#[track_caller]
fn check_use(address: &str, method: &str, params: &Value, expected: &str) {
    let answer = call(address, method, params.clone());
    assert!(answer.json()["error"].is_null(), "{}", answer.body);
    assert_eq!(used(&answer), expected, "{method} {params}");
}

fn cache(args: &[&str]) -> Done {
    plimsoll(&[&["gateway", "cache"], args].concat())
}

#[test]
fn answers_are_removed_by_service_method_and_key() {
    let (sim, redis) = (eth(), Redis::start());
    redis.command("PING");
    let folders = [Folder::new(), Folder::new()];
    let settings = format!(
        "cache = {{ redis = \"{}\", redis_timeout = \"200ms\" }}\n\
         [[service]]\nid = \"eth\"\nchain_id = 1\nblock_time = \"12s\"\n\
         [[service]]\nid = \"other\"\nchain_id = 2\n",
        redis.url()
    );
    let gateways = folders.each_ref().map(|folder| start(folder, &sim, &settings));
    let [one, other] = gateways.each_ref().map(|(_, address)| address.as_str());
    until("used", || is_used(one) && is_used(other));
    let drop = |args: &[&str]| -> Value {
        let done = cache(&[&["drop", "--address", one], args].concat());
        assert_eq!(done.code, 0, "{}", done.stderr);
        serde_json::from_str(&done.stdout).unwrap()
    };
    let (block, next) = (old(&sim, 0), old(&sim, 1));
    let by_number = "eth_getBlockByNumber";
    let written = |count: usize| {
        until("written", || {
            let keys = redis.keys();
            let is_answer =
                |key: &&Vec<u8>| !key.ends_with(b"#1") && !key.starts_with(b"plimsoll:1:limits:");
            keys.iter().filter(is_answer).count() == count
        });
    };
    let first = drop(&[])["memory"].as_u64().unwrap();
    written(0);
    let fill = || {
        check_use(one, by_number, &block, "miss");
        check_use(one, by_number, &next, "miss");
        check_use(one, "eth_getBlockReceipts", &json!([block[0]]), "miss");
        check_use(one, by_number, &block, "hit");
        written(3);
    };
    fill();
    check_use(other, by_number, &block, "shared");
    check_use(other, by_number, &block, "hit");
    // Another spelling of the same call.
    let key =
        format!("[ \"{}\" ,false]", block[0].as_str().unwrap().to_uppercase().replace('X', "x"));
    let selected = ["--service", "eth", "--method", by_number];
    let one_key = [&selected[..], &["--key", &key]].concat();
    assert_eq!(drop(&one_key), json!({"memory": 1, "redis": 1}));
    assert_eq!(drop(&one_key), json!({"memory": 0, "redis": 0}));
    assert_eq!(drop(&["--service", "other"]), json!({"memory": 0, "redis": 0}));
    // The other replica keeps its own.
    check_use(other, by_number, &block, "hit");
    check_use(one, by_number, &block, "miss");
    written(3);
    assert_eq!(drop(&["--method", by_number]), json!({"memory": 2, "redis": 2}));
    check_use(one, "eth_getBlockReceipts", &json!([block[0]]), "hit");
    assert_eq!(drop(&["--service", "eth"]), json!({"memory": 1, "redis": 1}));
    fill();
    assert_eq!(drop(&[]), json!({"memory": 3, "redis": 3}));
    check_use(one, by_number, &block, "miss");
    // A tag is the block that is served.
    check_use(one, by_number, &json!(["finalized", false]), "miss");
    let key = [&selected[..], &["--key", "[\"finalized\", false]"]].concat();
    assert_eq!(drop(&key)["memory"], 1);
    let stats = cache(&["stats", "--address", one]);
    let stats: Value = serde_json::from_str(&stats.stdout).expect(&stats.stderr);
    assert_eq!(
        (&stats["memory"]["dropped"], &stats["redis"]["used"]),
        (&json!(first + 8), &json!(true))
    );
    let eth = stats["services"].as_array().unwrap().iter().find(|one| one["service"] == "eth");
    assert_eq!(eth.unwrap()["methods"]["eth_getBlockReceipts"]["miss"], 2);

    let refused = |args: &[&str], message: &str| {
        let done = cache(args);
        assert_ne!(done.code, 0, "{args:?}: {}", done.stdout);
        assert!(
            done.stderr.contains(message) && done.stdout.is_empty(),
            "{args:?}: {}",
            done.stderr
        );
    };
    let to = ["drop", "--address", one];
    let with = |args: &[&'static str]| [&to[..], args].concat();
    refused(&with(&["--service", "et"]), "there is no service \"et\"");
    refused(&with(&["--service", ""]), "there is no service \"\"");
    refused(&with(&["--service", "a&method=x#\u{e9}\n"]), "there is no service");
    refused(&with(&["--method", "eth_getblockbynumber"]), "no answers of");
    refused(&with(&["--key", "[]"]), "--service");
    refused(&with(&["--key", "[]", "--method", "eth_call"]), "--service");
    let call = ["--service", "eth", "--method", "eth_call", "--key"];
    let long = format!("[\"{}\"]", "a".repeat(20_000));
    for key in
        ["", "5", "\"a\"", "[", "[1]]", "[],\"x\":1", "null", "[1,]", &long[..long.len() - 1]]
    {
        refused(&[&to[..], &call, &[key]].concat(), "a key is the call's params");
    }
    let node = sim.address().to_string();
    refused(&["stats", "--address", &node], "not found");
    refused(&["stats", "--address", "nonsense"], "--address");
    refused(&["stats", "--address", "127.0.0.1:1"], "start the gateway");
    for (process, _) in gateways {
        process.stop();
    }
}

#[test]
fn without_a_cache_every_call_is_relayed() {
    let (folder, sim) = (Folder::new(), eth());
    let url = sim.url("eth");
    let process = gateway(
        &folder,
        &format!(
            "cache = {{ memory = 0 }}\n[[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"{url}\"\n"
        ),
    );
    let address = process.address("");
    for _ in 0..3 {
        check_use(&address, "eth_getBlockByNumber", &old(&sim, 0), "bypass");
    }
    let stats = cache(&["stats", "--address", &address]);
    let stats: Value = serde_json::from_str(&stats.stdout).expect(&stats.stderr);
    assert_eq!((&stats["memory"]["limit"], &stats["redis"]), (&json!(0), &Value::Null));
    let done = cache(&["drop", "--address", &address]);
    assert!(done.code != 0 && done.stderr.contains("the cache is off"), "{}", done.stderr);
    assert!(
        metric(&address, "plimsoll_cache_bypassed_total{service=\"eth\",reason=\"off\"}") >= 3.0
    );
    process.stop();
}

#[test]
fn callers_may_refuse_cached_answers_where_the_endpoint_lets_them() {
    let (folder, sim) = (Folder::new(), eth());
    let endpoint =
        |id: &str, more: &str| format!("[[endpoint]]\nid = \"{id}\"\nservice = \"eth\"\n{more}\n");
    let config = endpoint("open", "no_cache = true")
        + &endpoint("strict", "")
        + &endpoint("denied", "methods = { deny = [\"eth_getBlockByNumber\"] }");
    let (process, address) = start(&folder, &sim, &config);
    let block = old(&sim, 0);
    let ask = |endpoint: &str, headers: &str| {
        let mut caller = Caller::connect(&address).unwrap();
        let request = format!("POST /api/gateway?endpoint={endpoint}");
        let body = body("eth_getBlockByNumber", &block);
        let answer = caller.send_with(&request, headers, &body).unwrap();
        (answer.status, used(&answer).to_string())
    };
    let is = |status: u16, used: &str| (status, used.to_string());
    assert_eq!(ask("strict", "Cache-Control: no-cache\r\n"), is(200, "miss"));
    assert_eq!(ask("strict", "Cache-Control: no-cache\r\n"), is(200, "hit"));
    for refusal in ["no-cache", "max-age=0, no-cache", "No-Cache", "foo,  no-cache ,bar"] {
        let header = format!("cache-control: {refusal}\r\n");
        assert_eq!(ask("open", &header), is(200, "bypass"), "{refusal}");
    }
    let several = "Cache-Control: private\r\nCache-Control: no-cache\r\n";
    assert_eq!(ask("open", several), is(200, "bypass"));
    for other in ["max-age=3", "", "x-no-cache", "\"no-cache\"x"] {
        let header = format!("Cache-Control: {other}\r\n");
        assert_eq!(ask("open", &header), is(200, "hit"), "{other}");
    }
    assert_eq!(ask("open", ""), is(200, "hit"), "an answer of another endpoint of the service");
    // What an endpoint denies is not answered from the cache, either.
    assert_eq!(ask("denied", "").0, 403);
    process.stop();
}

#[test]
fn a_batch_and_a_stream_show_how_they_used_the_cache() {
    let (folder, sim) = (Folder::new(), eth());
    let (process, address) = start(&folder, &sim, "");
    let [first, second, third] = [0, 1, 2].map(|age| old(&sim, age));
    let item = |method: &str, params: &Value| body(method, params);
    let batch = |items: &[String], expected: &str| {
        let answer = ask(&address, "POST /v1", &format!("[{}]", items.join(",")));
        assert_eq!(answer.json().as_array().unwrap().len(), items.len(), "{}", answer.body);
        assert!(!answer.body.contains("\"error\""), "{}", answer.body);
        assert_eq!(used(&answer), expected);
    };
    let by_number = "eth_getBlockByNumber";
    batch(&[item(by_number, &first)], "miss");
    batch(&[item(by_number, &first), item(by_number, &first)], "hit");
    batch(&[item(by_number, &first), item(by_number, &second)], "miss");
    batch(&[item(by_number, &first), item("eth_syncing", &json!([]))], "bypass");
    batch(&[item("eth_syncing", &json!([])), item(by_number, &first)], "bypass");
    // The same call, as often as a batch may have it, is relayed once.
    let before = sim.counts().requests;
    let same = vec![item(by_number, &third); 1_000];
    let answer = ask(&address, "POST /v1", &format!("[{}]", same.join(",")));
    let answers = answer.json();
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), 1_000);
    assert!(answers.iter().all(|one| one["result"]["number"] == third[0]), "{}", answers[0]);
    // Health checks may ask something meanwhile.
    assert!(sim.counts().requests - before < 100, "{}", sim.counts().requests - before);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(&*address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
        tokio::spawn(connection);
        for (method, params, expected) in [
            (by_number, first, "hit"),
            (by_number, old(&sim, 3), "miss"),
            (by_number, old(&sim, 3), "hit"),
            ("eth_syncing", json!([]), "bypass"),
        ] {
            client = client.ready().await.unwrap();
            let request = http::Request::post("http://h/v1").header("target-service-id", "eth");
            let request = request.body(()).unwrap();
            let (response, mut stream) = client.send_request(request, false).unwrap();
            stream.send_data(body(method, &params).into(), true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.headers()["x-cache"], expected, "{method} {params}");
        }
    });
    process.stop();
}

#[test]
fn times_to_live_of_a_service_replace_those_of_the_process() {
    let (folder, sim) = (Folder::new(), eth());
    let service = |cache: &str| {
        format!(
            "reveal = true\n[[service]]\nid = \"eth\"\nchain_id = 1\nblock_time = \"12s\"\n\
             cache = {{ {cache} }}\n"
        )
    };
    let (process, address) = start(&folder, &sim, &service("final = \"0s\""));
    let block = old(&sim, 0);
    let hash =
        call(&address, "eth_getBlockByNumber", block.clone()).json()["result"]["hash"].clone();
    let by_hash = json!([hash, false]);
    let young = json!([format!("{:#x}", sim.head("eth") - 10), false]);
    check_use(&address, "eth_getBlockByNumber", &block, "bypass");
    check_use(&address, "eth_getBlockByHash", &by_hash, "miss");
    check_use(&address, "eth_getBlockByHash", &by_hash, "hit");
    check_use(&address, "eth_getBlockByNumber", &young, "miss");
    check_use(&address, "eth_getBlockByNumber", &young, "hit");
    let change = |cache: &str, reveal: &str| {
        let url = sim.url("eth");
        let upstream = format!("[[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"{url}\"\n");
        let config = service(cache).replace("reveal = true", &format!("reveal = {reveal}"));
        folder.file(
            "gateway.toml",
            format!("listen = [\"127.0.0.1:0\"]\ndatabase = \"off\"\n{config}{upstream}"),
        );
        process.signal(Signal::SIGHUP);
    };
    change("immutable = \"0s\", young = \"0s\"", "true");
    process.wait_for_next("reloaded: ");
    check_use(&address, "eth_getBlockByNumber", &block, "miss");
    check_use(&address, "eth_getBlockByNumber", &block, "hit");
    // What is already stored by its hash is not used any more, either.
    check_use(&address, "eth_getBlockByHash", &by_hash, "bypass");
    check_use(&address, "eth_gasPrice", &json!([]), "bypass");
    change("immutable = \"0s\", young = \"13s\"", "true");
    process.wait_for_next("config change rejected");
    change("final = \"1h\"", "false");
    process.wait_for_next("reloaded: ");
    let answer = call(&address, "eth_getBlockByNumber", block);
    assert_eq!((answer.status, answer.header("x-cache")), (200, None));
    process.stop();
}
