//! Answers to requests: methods, errors, batches, paths, and the recorded requests.

mod plain;

use plain::Plain;
use plimsoll_measure::Nanos;
use plimsoll_sim::{Capacity, Date, Distribution, ManualDate, Service, Settings, Sim, StartError};

const SEED: u64 = 7;
/// Seconds after the first block: eth is at block 1000.
const SECS: u64 = 12_005;

fn start() -> (Sim, ManualDate, Plain) {
    let date = ManualDate::after_genesis(Nanos::from_secs(SECS));
    let date_setting = Date::Manual(date.clone());
    let settings = Settings { date: date_setting, ..Settings::for_tests(SEED, Service::known()) };
    let sim = Sim::start(settings).expect("a port is free");
    let plain = Plain::connect(sim.address()).expect("it listens");
    (sim, date, plain)
}

#[test]
fn identities_and_heads() {
    let (_sim, date, mut plain) = start();
    let mut check = |service, method, result: &str| {
        assert_eq!(plain.result(service, method, "[]"), result, "{service} {method}");
    };
    check("eth", "eth_chainId", r#""0x1""#);
    check("boba", "eth_chainId", r#""0x120""#);
    check("mantle", "eth_chainId", r#""0x1388""#);
    check("kava", "eth_chainId", r#""0x8ae""#);
    check("kava", "net_version", r#""2222""#);
    check("eth", "eth_syncing", "false");
    check("eth", "eth_blockNumber", r#""0x3e8""#);
    date.advance(Nanos::from_secs(6));
    check("eth", "eth_blockNumber", r#""0x3e8""#);
    date.advance(Nanos::from_secs(1));
    check("eth", "eth_blockNumber", r#""0x3e9""#);
    check("mantle", "eth_blockNumber", r#""0x1776""#); // every 2 s
}

#[test]
fn blocks_by_tag_and_number() {
    let (_sim, _, mut plain) = start();
    let mut number = |named: &str| {
        let block = plain.result("eth", "eth_getBlockByNumber", &format!("[{named},false]"));
        let number = block.split(r#""number":""#).nth(1).and_then(|rest| rest.split('"').next());
        number.map(str::to_owned)
    };
    for (named, expected) in [
        (r#""latest""#, Some("0x3e8")),
        (r#""safe""#, Some("0x3c8")),
        (r#""finalized""#, Some("0x3a8")),
        (r#""earliest""#, Some("0x0")),
        (r#""pending""#, Some("0x3e9")),
        (r#""0x3e8""#, Some("0x3e8")),
        (r#""0x3e9""#, None), // not yet
    ] {
        assert_eq!(number(named).as_deref(), expected, "{named}");
    }
}

#[test]
fn contract_calls() {
    let (_sim, _, mut plain) = start();
    let mut call = |to: u8, data: &str| {
        let to = format!("0x10{}{to:02x}", "00".repeat(18));
        plain.call("eth", "eth_call", &format!(r#"[{{"to":"{to}","data":"{data}"}},"latest"]"#))
    };
    // decimals()
    assert_eq!(call(1, "0x313ce567"), format!(r#""result":"0x{:064x}""#, 18));
    assert!(call(1, "0x95d89b41").contains("504c494d"), "its symbol is PLIM");
    assert_eq!(
        call(1, "0xffffffff"),
        r#""error":{"code":3,"message":"execution reverted","data":"0x"}"#
    );
    let reverted = call(3, "0x");
    assert!(
        reverted.starts_with(
            r#""error":{"code":3,"message":"execution reverted: this contract reverts every call","data":"0x08c379a0"#
        ),
        "{reverted}"
    );
}

#[test]
fn errors_have_geths_codes_and_messages() {
    let (_sim, _, mut plain) = start();
    let mut check = |method: &str, params: &str, code: i64, words: &str| {
        let answer = plain.call("eth", method, params);
        let expected = format!(r#""error":{{"code":{code},"message":"{words}"#);
        assert!(answer.starts_with(&expected), "{method}{params}: {answer}");
    };
    let bad = "invalid argument 0: ";
    check("eth_foo", "[]", -32601, "the method eth_foo does not exist/is not available");
    check("eth_getBalance", "[]", -32602, "missing value for required argument 0");
    check("eth_getBalance", "[1]", -32602, &format!("{bad}must be a string"));
    check(
        "eth_getBalance",
        r#"["0x12"]"#,
        -32602,
        &format!("{bad}hex string has length 2, want 40"),
    );
    check("eth_getBalance", r#"["12"]"#, -32602, &format!("{bad}hex string without 0x prefix"));
}

#[test]
fn more_errors() {
    let (_sim, _, mut plain) = start();
    let address = format!(r#""0x{}""#, "11".repeat(20));
    let mut check = |method: &str, params: &str, code: i64, words: &str| {
        let answer = plain.call("eth", method, params);
        let expected = format!(r#""error":{{"code":{code},"message":"{words}"#);
        assert!(answer.starts_with(&expected), "{method}{params}: {answer}");
    };
    check("eth_getBalance", &format!(r#"[{address},"0xffff"]"#), -32000, "header not found");
    check("eth_getBalance", &format!(r#"[{address},"newest"]"#), -32602, "invalid argument 1: ");
    check("eth_getBalance", &format!("[{address},\"latest\",1]"), -32602, "too many arguments");
    check(
        "eth_getBlockByNumber",
        r#"["latest",1]"#,
        -32602,
        "invalid argument 1: must be true or false",
    );
    check("eth_getBlockByHash", r#"["latest",true]"#, -32602, "invalid argument 0: ");
    check("eth_getLogs", r#"[{"fromBlock":"0x5","toBlock":"0x4"}]"#, -32602, "invalid block range");
    check(
        "eth_getLogs",
        r#"[{"fromBlock":"0x0","toBlock":"0x7d0"}]"#,
        -32005,
        "exceed maximum block range: 2000",
    );
    check(
        "eth_getLogs",
        r#"[{"fromBlock":"0x0"}]"#,
        -32005,
        "query returned more than 10000 results",
    );
    check("eth_getLogs", r#"[{"topics":[[],[],[],[],[]]}]"#, -32602, "exceed max topics");
    check("eth_feeHistory", r#"["0x1","0xffff"]"#, -32000, "request beyond head block");
    check("eth_sendRawTransaction", r#"["0x"]"#, -32000, "typed transaction too short");
    check("eth_sendRawTransaction", r#"["0x03"]"#, -32000, "transaction type not supported");
}

#[test]
fn bodies_that_are_not_calls() {
    let (_sim, _, mut plain) = start();
    let mut check = |body: &str, code: i64| {
        let answer = plain.post("eth", body).expect("an answer").body;
        assert!(
            answer.contains(&format!(r#""id":null,"error":{{"code":{code},"#)),
            "{body}: {answer}"
        );
    };
    check("", -32700);
    check("{", -32700);
    check("[]", -32600);
    check("7", -32600);
    check(r#"{"jsonrpc":"2.0","method":"m","id":[]}"#, -32600);
    check(&format!("[{}]", vec!["1"; 1001].join(",")), -32600);
}

#[test]
fn batches_are_answered_in_order() {
    let (_sim, _, mut plain) = start();
    let call = |id: &str, params: &str| {
        format!(r#"{{"jsonrpc":"2.0","method":"echo","params":{params},"id":{id}}}"#)
    };
    let notification = r#"{"jsonrpc":"2.0","method":"echo"}"#;
    let batch =
        format!("[{},{notification},5,{}]", call("\"b\"", "[2]"), call("\"a\"", "{\"x\":1}"));
    let answers = plain.post("eth", &batch).expect("an answer").body;
    let [first, refused, last] = [
        r#"{"jsonrpc":"2.0","id":"b","result":[2]}"#,
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"invalid request: a call must be an object"}}"#,
        r#"{"jsonrpc":"2.0","id":"a","result":{"x":1}}"#,
    ];
    assert_eq!(answers, format!("[{first},{refused},{last}]"));
    assert_eq!(plain.post("eth", notification).expect("an answer").body, "");
    assert_eq!(plain.post("eth", &format!("[{notification}]")).expect("an answer").body, "");
}

#[test]
fn paths_select_services() {
    let (sim, _, mut plain) = start();
    let call = r#"{"jsonrpc":"2.0","method":"eth_chainId","id":1}"#;
    let kava = "target-service-id: kava\r\n";
    let mut check = |method: &str, path: &str, head: &str, status: u16, part: &str| {
        let response = plain.ask(method, path, head, call).expect("an answer");
        assert_eq!(response.status, status, "{method} {path}: {response:?}");
        assert!(response.body.contains(part), "{method} {path}: {response:?}");
    };
    check("POST", "/v1", kava, 200, "0x8ae");
    check("POST", "/v1/anything", kava, 200, "0x8ae");
    check("POST", "/mantle/", "", 200, "0x1388");
    check("POST", "/v1", "", 400, r#"{"code":400,"message":"no service ID provided"#);
    check("POST", "/v1", "target-service-id: x\r\n", 400, r#""available_services":["eth","boba""#);
    check("POST", "/x", "", 404, r#""code":-32601,"message":"unknown service \"x\""#);
    check("POST", "/", "", 404, "one of eth, boba, mantle, kava");
    check("GET", "/ready/eth", "", 200, r#""perceived_block_height":1000"#);
    check(
        "GET",
        "/ready",
        "",
        200,
        r#""kava":{"ready":true,"endpoint_count":1,"has_session":true"#,
    );
    check("GET", "/ready/x", "", 503, r#""ready":false"#);
    check("GET", "/health", "", 200, "");
    check("GET", "/eth", "", 404, "hint: use POST /eth");
    let counts = sim.counts();
    assert_eq!((counts.connections, counts.requests, counts.calls["eth_chainId"]), (1, 3, 3));
}

#[test]
fn body_size_is_limited() {
    let settings = Settings { body_max: 1000, ..Settings::for_tests(SEED, Service::named("eth")) };
    let sim = Sim::start(settings).expect("a port is free");
    let mut plain = Plain::connect(sim.address()).expect("it listens");
    let response = plain.post("eth", &" ".repeat(1001)).expect("an answer");
    assert_eq!(response.status, 413);
    assert!(response.body.contains("the limit is 1000 bytes"), "{response:?}");
}

#[test]
fn requests_are_recorded() {
    let (sim, _, mut first) = start();
    let mut second = Plain::connect(sim.address()).expect("it listens");
    first.call("eth", "echo", "[1]");
    second.call("boba", "echo", "[2]");
    let head = "x-test: yes\r\n";
    first.ask("POST", "/eth?key=3", head, "not json").expect("an answer");
    let seen = sim.seen();
    let order: Vec<_> = seen.iter().map(|seen| (seen.order, seen.service.as_str())).collect();
    assert_eq!(order, [(0, "eth"), (1, "boba"), (2, "eth")]);
    assert_eq!(seen[0].connection, seen[2].connection);
    assert_ne!(seen[0].connection, seen[1].connection);
    assert!(seen[1].body.ends_with(br#""params":[2]}"#));
    assert_eq!((seen[2].path.as_str(), seen[2].header("x-test")), ("/eth?key=3", Some("yes")));
    sim.forget();
    assert_eq!((sim.seen().len(), sim.counts().requests), (0, 3));
    sim.stop();
    assert!(first.post("eth", "{}").is_err(), "connections are closed when the simulator stops");
}

#[test]
fn the_record_is_bounded() {
    let settings = Settings { record_max: 2, ..Settings::for_tests(SEED, Service::named("eth")) };
    let sim = Sim::start(settings).expect("a port is free");
    let mut plain = Plain::connect(sim.address()).expect("it listens");
    (0..5).for_each(|_| drop(plain.call("eth", "eth_chainId", "[]")));
    assert_eq!((sim.seen().len(), sim.counts().unrecorded), (2, 3));
}

#[test]
fn the_same_seed_gives_the_same_chains() {
    let ask = |seed: u64| {
        let date = Date::Manual(ManualDate::after_genesis(Nanos::from_secs(SECS)));
        let settings = Settings { date, ..Settings::for_tests(seed, Service::known()) };
        let sim = Sim::start(settings).expect("a port is free");
        let mut plain = Plain::connect(sim.address()).expect("it listens");
        ["eth", "kava"].map(|s| plain.result(s, "eth_getBlockByNumber", r#"["0x3e8",true]"#))
    };
    assert_eq!(ask(1), ask(1));
    let ([eth, _], [other, _]) = (ask(1), ask(2));
    assert_ne!(eth, other);
}

#[test]
fn a_full_queue_refuses_requests() {
    // One server that is busy for an hour, and no queue.
    let capacity = Capacity {
        servers: 1,
        service: Distribution::Constant(Nanos::from_secs(3600)),
        queue_max: Some(0),
    };
    let settings =
        Settings { capacity: Some(capacity), ..Settings::for_tests(SEED, Service::named("eth")) };
    let sim = Sim::start(settings).expect("a port is free");
    let address = sim.address();
    let held = std::thread::spawn(move || {
        Plain::connect(address).and_then(|mut plain| plain.post("eth", "{}")).is_err()
    });
    // Once recorded, the first request is in service.
    while sim.seen().is_empty() {
        std::thread::yield_now();
    }
    let mut plain = Plain::connect(sim.address()).expect("it listens");
    let response = plain.post("eth", "{}").expect("an answer");
    assert_eq!(response.status, 503);
    assert!(response.body.contains(r#""code":-32005,"message":"the node's queue is full""#));
    assert_eq!(sim.counts().overflowed, 1);
    sim.stop();
    assert!(held.join().expect("no panic"), "the request in service ended with the simulator");
}

#[test]
fn services_may_have_separate_listeners() {
    let mut services = Service::known();
    services[3].listen = Some("127.0.0.1:0".parse().expect("an address"));
    let sim = Sim::start(Settings { threads: 2, ..Settings::for_tests(SEED, services) });
    let sim = sim.expect("ports are free");
    let (name, address) = &sim.own_addresses()[0];
    let mut plain = Plain::connect(*address).expect("it listens");
    assert_eq!(plain.result("", "eth_chainId", "[]"), r#""0x8ae""#);
    assert_eq!(name, "kava");
}

#[test]
fn invalid_settings_are_refused() {
    let (sim, _, _) = start();
    let refused = |settings: Settings| Sim::start(settings).err().expect("an error");
    let taken = Settings { listen: sim.address(), ..Settings::default() };
    let error = refused(taken);
    assert!(matches!(error, StartError::Listen { address, .. } if address == sim.address()));
    assert!(error.to_string().contains(&sim.address().to_string()), "{error}");
    assert!(error.hint().contains("choose another port"), "{error}");
    let twice = Settings::for_tests(1, [Service::known(), Service::known()].concat());
    assert_eq!(refused(twice).to_string(), "duplicate service \"eth\"");
    let none = Settings::for_tests(1, []);
    assert_eq!(refused(none).to_string(), "at least one service is required");
    let idle = Settings { threads: 0, ..Settings::default() };
    assert_eq!(refused(idle).to_string(), "threads must be 1 to 256, not 0");
}
