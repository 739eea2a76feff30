//! Two replicas on one Redis, before a simulated chain, under load, while Redis fails in every way.
//!
//! Every answer is compared with the chain's own. No call fails, each process's head never goes back,
//! and the heads of both go on whatever Redis does. While Redis works, they never go back for a client
//! that alternates between the replicas, except for calls that the gateways counted as late.

use super::*;
use nix::sys::signal::Signal;
use plimsoll_measure::Nanos;
use plimsoll_sim::{Service, Settings, Sim};
use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// Old blocks that are asked for.
const BLOCKS: u64 = 150;

fn chain() -> Sim {
    let service = Service {
        block_time: Nanos::from_millis(500),
        safe_depth: 4,
        finalized_depth: 8,
        transactions: 4,
        ..Service::named("eth").unwrap()
    };
    Sim::start(Settings { record_max: 0, ..Settings::for_tests(7, [service]) }).unwrap()
}

fn replica(folder: &Folder, sim: &Sim, redis: &str) -> Process {
    let url = sim.url("eth");
    let config = format!(
        "cache = {{ redis = \"{redis}\", redis_timeout = \"50ms\", memory = \"64KiB\", \
         entry = \"16KiB\" }}\n\
         [[service]]\nid = \"eth\"\nchain_id = 1\nblock_time = \"500ms\"\n\
         [[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"{url}\"\n"
    );
    gateway(folder, &config)
}

/// Callers that alternate between the replicas.
struct Load {
    addresses: [String; 2],
    /// Calls and their true results.
    truths: Vec<(&'static str, Value, Value)>,
    ends: AtomicBool,
    /// Whether Redis works, and has for a while.
    is_shared: AtomicBool,
    calls: AtomicU64,
    /// The highest head that any answer has shown.
    highest: AtomicU64,
    /// The same for each replica.
    own: [AtomicU64; 2],
    backward: Mutex<Vec<String>>,
}

impl Load {
    fn new(addresses: [String; 2], sim: &Sim) -> Load {
        let mut node = Caller::connect(&sim.address().to_string()).unwrap();
        let mut truth = |method: &'static str, params: Value| {
            let answer = node.send("POST /eth", &body(method, &params)).unwrap().json();
            (method, params, answer["result"].clone())
        };
        let head = sim.head("eth");
        let mut truths = Vec::new();
        for number in head - 20 - BLOCKS..head - 20 {
            let block = truth("eth_getBlockByNumber", json!([format!("{number:#x}"), false]));
            let hash = block.2["hash"].clone();
            truths.extend([block, truth("eth_getBlockByHash", json!([hash, false]))]);
            let range =
                json!([{"fromBlock": format!("{number:#x}"), "toBlock": format!("{number:#x}")}]);
            truths.push(truth("eth_getLogs", range));
        }
        Load {
            addresses,
            truths,
            ends: AtomicBool::new(false),
            is_shared: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            highest: AtomicU64::new(0),
            own: Default::default(),
            backward: Mutex::default(),
        }
    }

    /// Makes calls until the end.
    fn run(&self, seed: usize) {
        let mut callers = self.addresses.each_ref().map(|at| Caller::connect(at).unwrap());
        let mut number = seed;
        while !self.ends.load(SeqCst) {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            let random = number >> 33;
            let replica = random % 2;
            if (random / 2).is_multiple_of(3) {
                self.head(&mut callers[replica], replica, random);
            } else {
                let (method, params, truth) = &self.truths[random / 6 % self.truths.len()];
                let answer = call_over(&mut callers[replica], method, params);
                assert_eq!(answer.json()["result"], *truth, "{method} {params}: {}", answer.body);
            }
            self.calls.fetch_add(1, SeqCst);
        }
    }

    fn head(&self, caller: &mut Caller, replica: usize, random: usize) {
        let (shared, before) = (self.is_shared.load(SeqCst), self.highest.load(SeqCst));
        let own = self.own[replica].load(SeqCst);
        let (method, params) = match random / 6 % 2 {
            0 => ("eth_blockNumber", json!([])),
            _ => ("eth_getBlockByNumber", json!(["latest", false])),
        };
        let answer = call_over(caller, method, &params).json();
        let shown = answer["result"].as_str().or(answer["result"]["number"].as_str());
        let shown = shown.and_then(|text| u64::from_str_radix(&text[2..], 16).ok());
        let shown = shown.unwrap_or_else(|| panic!("{method}: {answer}"));
        assert!(shown >= own, "replica {replica} went back from {own}: {method}: {answer}");
        self.own[replica].fetch_max(shown, SeqCst);
        self.highest.fetch_max(shown, SeqCst);
        if shared && self.is_shared.load(SeqCst) && shown < before {
            self.backward.lock().unwrap().push(format!("{method} after {before}: {answer}"));
        }
    }

    /// Waits until both replicas serve later heads than now, and callers have made some calls.
    #[track_caller]
    fn goes_on(&self, what: &str, sim: &Sim) {
        let (head, calls) = (sim.head("eth"), self.calls.load(SeqCst));
        until_within(Duration::from_secs(20), &format!("serving new heads {what}"), || {
            self.own.iter().all(|own| own.load(SeqCst) > head)
                && self.calls.load(SeqCst) > calls + 50
        });
    }

    #[track_caller]
    fn is_used(&self, is: bool) {
        until("used, or not used", || self.addresses.iter().all(|at| is_used(at) == is));
    }

    /// The sum of a metric over both replicas.
    fn sum(&self, name: &str) -> f64 {
        self.addresses.iter().map(|at| metric(at, name)).sum()
    }
}

/// Runs `fails` while callers alternate between two replicas.
fn under_load(fails: impl FnOnce(&Load, &Sim, &mut Redis)) {
    let (sim, mut redis) = (chain(), Redis::start());
    redis.command("PING");
    let folders = [Folder::new(), Folder::new()];
    let processes = folders.each_ref().map(|folder| replica(folder, &sim, &redis.url()));
    let load = Load::new(processes.each_ref().map(|process| process.address("")), &sim);
    load.is_used(true);
    std::thread::scope(|scope| {
        let load = &load;
        let callers: Vec<_> =
            (0..3).map(|seed| scope.spawn(move || load.run(seed * 7 + 1))).collect();
        let _end = crate::attack::EndAttackOnDrop(&load.ends);
        load.goes_on("at first", &sim);
        fails(load, &sim, &mut redis);
        load.goes_on("at last", &sim);
        load.ends.store(true, SeqCst);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    });
    let late = load.sum("plimsoll_shared_heads_late_total");
    let backward = load.backward.lock().unwrap();
    assert!(backward.len() as f64 <= late, "{late} calls were late: {backward:#?}");
    assert!(load.sum("plimsoll_redis_operations_total{result=\"hit\"}") > 0.0, "nothing shared");
    for process in processes {
        process.stop();
    }
}

#[test]
fn a_redis_that_is_killed_or_stopped_fails_no_call_and_is_used_again() {
    under_load(|load, sim, redis| {
        load.is_shared.store(true, SeqCst);
        load.goes_on("with Redis", sim);
        load.is_shared.store(false, SeqCst);
        redis.kill();
        load.is_used(false);
        load.goes_on("without Redis", sim);
        redis.restart();
        load.is_used(true);
        load.goes_on("with Redis again", sim);
        redis.signal(Signal::SIGSTOP);
        load.is_used(false);
        load.goes_on("while Redis is stopped", sim);
        redis.signal(Signal::SIGCONT);
        load.is_used(true);
    });
}

#[test]
fn a_redis_that_is_emptied_or_has_foreign_values_changes_no_answer() {
    under_load(|load, sim, redis| {
        load.is_shared.store(true, SeqCst);
        redis.command("FLUSHALL");
        load.goes_on("after FLUSHALL", sim);
        for round in 0..5 {
            let keys = redis.keys();
            let values: Vec<Reply> = keys.iter().map(|key| redis.send(&[b"GET", key])).collect();
            for (place, key) in keys.iter().enumerate() {
                let is_text = matches!(values[place], Reply::Text(_));
                let Reply::Text(value) = &values[(place + 1) % keys.len()] else { continue };
                let Reply::Text(mut own) = redis.send(&[b"GETRANGE", key, b"0", b"-1"]) else {
                    continue;
                };
                if own.is_empty() || !is_text {
                    continue;
                }
                redis.send(&[b"DEL", key]);
                let set = |value: &[u8]| redis.send(&[b"SET", key, value, b"PX", b"60000"]);
                match (place + round) % 8 {
                    0 => redis.send(&[b"RPUSH", key, b"a"]),
                    1 => redis.send(&[b"HSET", key, b"a", b"b"]),
                    2 => set(b"{\"result\":\"0x1\"}"),
                    3 => set(&own[..own.len() / 2]),
                    4 | 5 => {
                        let at = own.len() * (round + 1) / 7;
                        own[at] ^= 1 << (place % 8);
                        set(&own)
                    }
                    6 => redis.send(&[b"SET", key, value]),
                    _ => set(value),
                };
            }
            load.goes_on("with foreign values", sim);
        }
        assert!(load.sum("plimsoll_redis_operations_total{result=\"foreign\"}") > 0.0);
        // The heads' own register as well.
        let register = b"plimsoll:1:heads:eth@1#1";
        for text in [&b"plimsoll-heads/1 0 9 9 9 9"[..], b"", b"\xff"] {
            redis.send(&[b"SET", register, text]);
            load.goes_on("with a foreign register", sim);
        }
        redis.send(&[b"DEL", register]);
        redis.send(&[b"HSET", register, b"a", b"b"]);
        load.goes_on("with a register of another type", sim);
        until("the register replaced", || {
            matches!(redis.send(&[b"GET", register]), Reply::Text(_))
        });
    });
}

/// A replica that cannot announce a head would otherwise serve the last one that it could.
#[test]
fn a_redis_that_refuses_writes_does_not_stop_the_head() {
    under_load(|load, sim, redis| {
        redis.command("CONFIG SET maxmemory 1mb");
        redis.command("CONFIG SET maxmemory-policy noeviction");
        let refused = redis.command("SET x 1");
        assert!(matches!(&refused, Reply::Error(why) if why.starts_with("OOM")), "{refused:?}");
        load.goes_on("while Redis is full", sim);
        load.goes_on("while Redis is still full", sim);
        redis.command("CONFIG SET maxmemory 0");
        load.goes_on("with space", sim);
        redis.command("REPLICAOF 127.0.0.1 1");
        load.goes_on("while Redis is read-only", sim);
        redis.command("REPLICAOF NO ONE");
        load.goes_on("with writes", sim);
        redis.command("ACL SETUSER default -eval");
        load.goes_on("without EVAL", sim);
        redis.command("ACL SETUSER default +eval -get");
        load.goes_on("without GET", sim);
        redis.command("ACL SETUSER default +get");
        let written = load.sum("plimsoll_redis_operations_total{result=\"written\"}");
        until("written again", || {
            load.sum("plimsoll_redis_operations_total{result=\"written\"}") > written
        });
    });
}

#[test]
fn what_is_not_a_usable_redis_is_skipped_and_named() {
    let sim = chain();
    let redis = Redis::start();
    redis.command("CONFIG SET requirepass secret");
    let scripted = |answer: &'static [u8]| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(n @ 1..) = socket.read(&mut bytes) {
                        let text = String::from_utf8_lossy(&bytes[..n]);
                        let reply =
                            if text.contains("\r\nINFO\r\n") { answer } else { b"+OK\r\n+OK\r\n" };
                        let reply = if answer.starts_with(b"HTTP") { answer } else { reply };
                        if socket.write_all(reply).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        format!("redis://{address}")
    };
    let check = |url: &str, trouble: &str| {
        let folder = Folder::new();
        let process = replica(&folder, &sim, url);
        let address = process.address("");
        process.wait_for(trouble);
        let block = json!([format!("{:#x}", sim.head("eth") - 30), false]);
        for uses in ["miss", "hit", "hit"] {
            let answer = call(&address, "eth_getBlockByNumber", block.clone());
            assert_eq!((answer.status, used(&answer)), (200, uses), "{}", answer.body);
            assert!(call(&address, "eth_blockNumber", json!([])).json()["result"].is_string());
        }
        assert!(!is_used(&address));
        let figures = plimsoll(&["gateway", "cache", "stats", "--address", &address]);
        let figures: Value = serde_json::from_str(&figures.stdout).unwrap();
        let shown = figures["redis"]["trouble"].as_str().unwrap();
        assert!(figures["redis"]["used"] == json!(false) && shown.contains(trouble), "{shown}");
        let output = process.stop();
        assert!(!output.contains("wr0ng"), "{output}");
    };
    let path = redis.url().trim_start_matches("unix://").to_string();
    std::thread::scope(|scope| {
        let check = &check;
        let _: Vec<_> = [
            (redis.url(), "it requires a password, and the URL has none"),
            (
                format!("unix://{path}?pass=wr0ng"),
                "it does not accept the user and password in the URL",
            ),
            (scripted(b"$31\r\n# Server\r\nredis_version:5.0.0\r\n\r\n"), "version 6 or later"),
            (scripted(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "does not answer like a Redis"),
            (scripted(b""), "calls are relayed without it"),
        ]
        .into_iter()
        .map(|(url, trouble)| scope.spawn(move || check(&url, trouble)))
        .collect();
    });
}

use crate::run::plimsoll;
