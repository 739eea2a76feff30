//! Calls and subscriptions over WebSocket, their faults, and peers that break the protocol.

mod plain;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use plain::Plain;
use plimsoll_measure::Nanos;
use plimsoll_sim::{Date, Distribution, Fault, FaultKind, ManualDate, Service, Settings, Sim};
use plimsoll_websocket::{
    COMPRESSION, Deflate, Inflate, Message, Opcode, Reader, Role, accept_of, put, put_compressed,
};
use serde_json::{Value, json};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

/// eth at block 1000.
fn start(latency: Option<Distribution>) -> (Sim, ManualDate) {
    let date = ManualDate::after_genesis(Nanos::from_secs(12_005));
    let date_setting = Date::Manual(date.clone());
    let settings = Settings::for_tests(7, Service::known());
    let settings = Settings { date: date_setting, latency, ..settings };
    (Sim::start(settings).expect("a port is free"), date)
}

struct Socket {
    stream: TcpStream,
    reader: Reader,
    input: Vec<u8>,
}

impl Socket {
    fn open(sim: &Sim) -> Socket {
        Socket::open_with(sim, "").0
    }

    /// A socket whose opening has more headers, and the head of the answer in lower case.
    fn open_with(sim: &Sim, headers: &str) -> (Socket, String) {
        let mut stream = TcpStream::connect(sim.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = format!(
            "GET /eth HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            read.push(byte[0]);
        }
        let head = String::from_utf8(read).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        let accept = format!("sec-websocket-accept: {}", accept_of(KEY).to_ascii_lowercase());
        assert!(head.contains(&accept), "{head}");
        (Socket { stream, reader: Reader::new(Role::Client, 1 << 20), input: Vec::new() }, head)
    }

    fn put(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut out = Vec::new();
        put(&mut out, opcode, true, MASK, payload);
        self.stream.write_all(&out).unwrap();
    }

    fn send(&mut self, id: u64, method: &str, params: Value) {
        let call = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.put(Opcode::Text, call.to_string().as_bytes());
    }

    /// The next message: a text as it is, others by their kind.
    fn next(&mut self) -> String {
        loop {
            let mut input = &self.input[..];
            let message = self.reader.next(&mut input, &mut Inflate::default()).unwrap();
            let message = message.map(|message| match message {
                Message::Text(text) => text.to_owned(),
                other => format!("{other:?}"),
            });
            self.input = input.to_vec();
            if let Some(message) = message {
                return message;
            }
            let mut buffer = [0; 4096];
            let n = self.stream.read(&mut buffer).expect("a message in time");
            if n == 0 {
                return "end".into();
            }
            self.input.extend_from_slice(&buffer[..n]);
        }
    }

    fn json(&mut self) -> Value {
        let text = self.next();
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.send(1, method, params);
        let answer = self.json();
        assert_eq!(answer["id"], 1, "{answer}");
        answer
    }

    /// The result of the next notification, which is of this subscription.
    fn notified(&mut self, subscription: &Value) -> Value {
        let message = self.json();
        assert_eq!(message["method"], "eth_subscription", "{message}");
        assert_eq!(message["params"]["subscription"], *subscription);
        message["params"]["result"].clone()
    }

    /// The number of the block of the next notification.
    fn head(&mut self, subscription: &Value) -> u64 {
        let head = self.notified(subscription);
        u64::from_str_radix(&head["number"].as_str().unwrap()[2..], 16).unwrap()
    }
}

fn fault(sim: &Sim, kind: FaultKind) {
    sim.set_faults(vec![Fault::new(kind)]);
}

/// The date advances by one block at a time, after the announcement of the one before.
const BLOCK: Nanos = Nanos::from_secs(12);

#[test]
fn calls_are_answered_by_id_and_pings_by_pongs() {
    let (sim, _) =
        start(Some(Distribution::Uniform { from: Nanos::ZERO, to: Nanos::from_millis(20) }));
    let mut socket = Socket::open(&sim);
    for id in 0..50 {
        socket.send(id, "echo", json!([id]));
    }
    socket.put(Opcode::Ping, b"there?");
    let (mut ids, mut pongs) = (Vec::new(), 0);
    while ids.len() < 50 || pongs == 0 {
        let message = socket.next();
        if message.starts_with("Pong") {
            pongs += 1;
            continue;
        }
        let answer: Value = serde_json::from_str(&message).unwrap();
        assert_eq!(answer["result"], json!([answer["id"]]));
        ids.push(answer["id"].as_u64().unwrap());
    }
    assert!(!ids.is_sorted(), "each is answered when it is done");
    ids.sort_unstable();
    assert_eq!(ids, (0..50).collect::<Vec<_>>());
    assert_eq!(sim.seen().len(), 50);
    // A batch, an error, and text that is not JSON.
    let batch = json!([{"jsonrpc": "2.0", "id": 7, "method": "eth_chainId"}, 3]);
    socket.put(Opcode::Text, batch.to_string().as_bytes());
    assert_eq!(socket.json()[0]["result"], "0x1");
    assert_eq!(socket.ask("eth_nothing", json!([]))["error"]["code"], -32601);
    socket.put(Opcode::Binary, b"{");
    assert_eq!(socket.json()["error"]["code"], -32700);
    socket.put(Opcode::Close, &[3, 232]);
    assert_eq!(socket.next(), "Close { code: Some(1000), reason: \"\" }");
    assert_eq!(socket.next(), "end");
}

#[test]
fn compression_is_for_those_who_offer_it() {
    let (sim, _) = start(None);
    let offer = |value: &str| format!("Sec-WebSocket-Extensions: {value}\r\n");
    for value in ["permessage-deflate; server_max_window_bits=10", "x-other"] {
        let (mut socket, head) = Socket::open_with(&sim, &offer(value));
        assert!(!head.contains("extensions"), "{head}");
        assert_eq!(socket.ask("echo", json!(["x".repeat(5_000)]))["result"][0], "x".repeat(5_000));
    }
    let (mut socket, head) =
        Socket::open_with(&sim, &offer("permessage-deflate; client_max_window_bits"));
    assert!(head.contains(&format!("sec-websocket-extensions: {COMPRESSION}\r\n")), "{head}");
    socket.reader.allow_compression();
    let long = "x".repeat(100_000);
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "echo", "params": [long]}).to_string();
    let mut out = Vec::new();
    let mut deflate = Deflate::default();
    put_compressed(&mut out, Opcode::Text, MASK, deflate.message(call.as_bytes()).unwrap());
    assert!(out.len() < 1_000, "{}", out.len());
    for _ in 0..2 {
        socket.stream.write_all(&out).unwrap();
        let mut first = [0; 1];
        socket.stream.read_exact(&mut first).unwrap();
        socket.input.extend(first);
        assert_eq!(first, [0xc1], "the answer is compressed");
        assert_eq!(socket.json()["result"][0], long);
    }
    // A short one is not.
    assert_eq!(socket.ask("eth_chainId", json!([]))["result"], "0x1");
    socket.stream.write_all(b"\xc1\x81\0\0\0\0\xff").unwrap();
    assert_eq!(socket.next(), "Close { code: Some(1007), reason: \"\" }");
}

#[test]
fn subscriptions_agree_with_the_methods() {
    let (sim, date) = start(None);
    let mut plain = Plain::connect(sim.address()).unwrap();
    let mut socket = Socket::open(&sim);
    let token = "0x1000000000000000000000000000000000000001";
    let heads = socket.ask("eth_subscribe", json!(["newHeads"]))["result"].clone();
    date.advance(BLOCK);
    let head = socket.notified(&heads);
    let block = plain.result("eth", "eth_getBlockByNumber", r#"["0x3e9",true]"#);
    let block: Value = serde_json::from_str(&block).unwrap();
    for (name, value) in head.as_object().unwrap() {
        assert_eq!(block[name], *value, "{name}");
    }
    // A reorganisation announces the blocks that replace others.
    fault(&sim, FaultKind::Reorganise { depth: 2 });
    plain.result("eth", "eth_blockNumber", "[]");
    sim.set_faults(Vec::new());
    date.advance(BLOCK);
    assert_eq!([(); 3].map(|()| socket.head(&heads)), [1000, 1001, 1002]);
    assert_eq!(socket.ask("eth_unsubscribe", json!([heads]))["result"], true);
    assert_eq!(socket.ask("eth_unsubscribe", json!([heads]))["error"]["code"], -32000);
    let logs = socket.ask("eth_subscribe", json!(["logs", {"address": token}]))["result"].clone();
    date.advance(BLOCK);
    let all = plain.result(
        "eth",
        "eth_getLogs",
        &format!(r#"[{{"fromBlock":"0x3eb","toBlock":"0x3eb","address":"{token}"}}]"#),
    );
    let all: Vec<Value> = serde_json::from_str(&all).unwrap();
    assert!(!all.is_empty());
    for log in all {
        assert_eq!(socket.notified(&logs), log);
    }
    socket.ask("eth_unsubscribe", json!([logs]));
    let pending = socket.ask("eth_subscribe", json!(["newPendingTransactions"]))["result"].clone();
    date.advance(BLOCK);
    let first = socket.notified(&pending);
    date.advance(BLOCK);
    let block = plain.result("eth", "eth_getBlockByNumber", r#"["0x3ed",false]"#);
    let block: Value = serde_json::from_str(&block).unwrap();
    assert_eq!(block["transactions"][0], first);
    for params in [json!(["news"]), json!([]), json!([7]), json!(["logs", 3])] {
        let mut socket = Socket::open(&sim);
        assert!(socket.ask("eth_subscribe", params.clone())["error"].is_object(), "{params}");
    }
    assert!(sim.counts().notifications > 4);
}

#[test]
fn faults_of_notifications() {
    let (sim, date) = start(None);
    let mut socket = Socket::open(&sim);
    let heads = socket.ask("eth_subscribe", json!(["newHeads"]))["result"].clone();
    let block = |socket: &mut Socket, expected: &[u64]| {
        date.advance(BLOCK);
        for number in expected {
            assert_eq!(socket.head(&heads), *number);
        }
    };
    block(&mut socket, &[1001]);
    fault(&sim, FaultKind::Duplicate);
    block(&mut socket, &[1002, 1002]);
    // The date is 5 s after the newest block; it may advance before the first notification is counted.
    let counts = Plain::connect(sim.address()).unwrap().ask("GET", "/sim/counts", "", "");
    let counts: Value = serde_json::from_str(&counts.unwrap().body).unwrap();
    let delay = counts["notification_delay_us"]["p99"].as_u64();
    assert!(delay.is_some_and(|delay| (4_950_000..17_200_000).contains(&delay)), "{counts}");
    fault(&sim, FaultKind::Reorder);
    block(&mut socket, &[]);
    while sim.counts().faults.get("reorder") != Some(&1) {
        std::thread::yield_now();
    }
    sim.set_faults(Vec::new());
    block(&mut socket, &[1004, 1003]);
    for (kind, name) in [(FaultKind::Drop, "drop"), (FaultKind::Silence, "silence")] {
        fault(&sim, kind);
        block(&mut socket, &[]);
        while sim.counts().faults.get(name) != Some(&1) {
            std::thread::yield_now();
        }
    }
    sim.set_faults(Vec::new());
    block(&mut socket, &[1007]);
    fault(&sim, FaultKind::Close { code: 1013 });
    block(&mut socket, &[]);
    assert_eq!(socket.next(), "Close { code: Some(1013), reason: \"simulated fault\" }");
    assert_eq!(socket.next(), "end");
    // Instead of an answer.
    let mut socket = Socket::open(&sim);
    socket.send(1, "eth_chainId", json!([]));
    assert_eq!(socket.next(), "Close { code: Some(1013), reason: \"simulated fault\" }");
    fault(&sim, FaultKind::Garbage);
    let mut socket = Socket::open(&sim);
    socket.send(1, "eth_chainId", json!([]));
    assert!(socket.next().starts_with("<html>"));
    fault(&sim, FaultKind::Status { status: 503, retry_after: None });
    socket.send(1, "eth_chainId", json!([]));
    assert_eq!(socket.json()["error"]["message"], "simulated status 503");
    fault(&sim, FaultKind::Reset { after: 0 });
    socket.send(1, "eth_chainId", json!([]));
    let mut byte = [0];
    assert!(socket.stream.read(&mut byte).is_err());
}

#[test]
fn requests_that_are_refused_and_peers_that_break_the_protocol() {
    let (sim, _) = start(None);
    let mut plain = Plain::connect(sim.address()).unwrap();
    let mut ask = |path: &str, head: &str| {
        let head = format!("upgrade: websocket\r\nconnection: upgrade\r\n{head}");
        plain.ask("GET", path, &head, "").unwrap()
    };
    let key = format!("sec-websocket-key: {KEY}\r\n");
    assert_eq!(ask("/eth", &key).status, 426);
    assert_eq!(ask("/eth", "sec-websocket-version: 13\r\n").status, 400);
    assert_eq!(ask("/none", &format!("sec-websocket-version: 13\r\n{key}")).status, 404);
    for (bytes, code) in [
        (&b"\x81\x01x"[..], 1002),                     // not masked
        (b"\x83\x80\0\0\0\0", 1002),                   // an unknown opcode
        (b"\x81\x82\0\0\0\0\xc3\x28", 1007),           // not UTF-8
        (b"\x82\xff\0\0\0\0\x10\0\0\0\0\0\0\0", 1009), // 256 MiB
    ] {
        let mut socket = Socket::open(&sim);
        socket.stream.write_all(bytes).unwrap();
        let expected = format!("Close {{ code: Some({code}), reason: \"\" }}");
        assert_eq!(socket.next(), expected, "{}", bytes.escape_ascii());
    }
}

/// A peer that subscribes and never reads is disconnected; another is notified all the while.
#[test]
fn slow_readers_are_disconnected() {
    let date = ManualDate::after_genesis(Nanos::from_secs(12_005));
    let sim = Sim::start(Settings {
        date: Date::Manual(date.clone()),
        slow_reader: Nanos::from_millis(100),
        ..Settings::for_tests(7, Service::known())
    });
    let sim = sim.expect("a port is free");
    let mut slow = Socket::open(&sim);
    for id in 0..900 {
        slow.send(id, "eth_subscribe", json!(["newPendingTransactions", true]));
    }
    let mut quick = Socket::open(&sim);
    let heads = quick.ask("eth_subscribe", json!(["newHeads"]))["result"].clone();
    let mut number = 1000;
    while sim.counts().slow_readers == 0 {
        date.advance(BLOCK);
        number += 1;
        assert_eq!(quick.head(&heads), number);
    }
    assert_eq!(sim.counts().slow_readers, 1);
}
