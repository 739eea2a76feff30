//! Calls at the same time: one relay, whatever happens to the caller that caused it.

use super::node::{Answer, Chain, Gate, asked, figure, node, service, start};
use super::*;
use crate::server::Server;
use nix::sys::signal::Signal;
use std::sync::Arc;
use std::thread::JoinHandle;

const CODE: &str = "eth_getCode";

/// A node that answers [`CODE`] once the gate is open, and everything else at once.
fn gated(chain: &Arc<Chain>, gate: &Gate) -> Server {
    let gate = gate.clone();
    node(chain, move |_, method, _, _| {
        if matches!(method, CODE | "eth_getLogs") {
            gate.wait();
            return Answer::Result(json!(if method == CODE { json!("0xc0de") } else { json!([]) }));
        }
        Answer::Usual
    })
}

/// Makes a call on a thread.
fn in_background(address: &str, method: &'static str, params: Value) -> JoinHandle<Response> {
    let address = address.to_string();
    std::thread::spawn(move || call(&address, method, params))
}

fn code(number: u64) -> Value {
    json!(["0x00000000000000000000000000000000000000aa", format!("{number:#x}")])
}

#[test]
fn ten_thousand_callers_of_a_cold_key_cause_one_relay() {
    let (folder, chain, gate) = (Folder::new(), Chain::at(1_000), Gate::default());
    let node = gated(&chain, &gate);
    let limits = "limits = { calls_per_connection = 1000, calls = 20000, \
                  calls_per_endpoint = 20000 }\n";
    let (process, address) = start(&folder, &format!("{limits}{}", service("", &[&node])));
    let batch = format!("[{}]", vec![body(CODE, &code(900)); 1_000].join(","));
    let batches: Vec<_> = (0..10)
        .map(|_| {
            let (address, batch) = (address.clone(), batch.clone());
            std::thread::spawn(move || {
                let answers = ask(&address, "POST /v1", &batch).json();
                let answers = answers.as_array().unwrap();
                answers.iter().filter(|one| one["result"] == "0xc0de").count()
            })
        })
        .collect();
    // Of each batch, as many calls as are made at once.
    until("waiting", || figure(&address, "/flights/waiting") >= 10);
    assert_eq!(figure(&address, "/flights/now"), 1);
    gate.open();
    let answered: usize = batches.into_iter().map(|one| one.join().unwrap()).sum();
    assert_eq!(answered, 10_000);
    assert_eq!(asked(&node, CODE).len(), 1, "relays");
    assert_eq!(figure(&address, "/flights/waiting") + figure(&address, "/flights/full"), 0);
    process.stop();
}

#[test]
fn callers_that_leave_do_not_take_the_answer_from_others() {
    let (folder, chain, gate) = (Folder::new(), Chain::at(1_000), Gate::default());
    let node = gated(&chain, &gate);
    let (process, address) = start(&folder, &service("", &[&node]));
    let leaving = |headers: &str| {
        let mut caller = Caller::connect(&address).unwrap();
        caller.write("POST /v1", headers, &body(CODE, &code(900))).unwrap();
        caller
    };
    let first = leaving("");
    until("relayed", || asked(&node, CODE).len() == 1);
    let others: Vec<_> = (0..5).map(|_| leaving("")).collect();
    let staying: Vec<_> = (0..5).map(|_| in_background(&address, CODE, code(900))).collect();
    until("waiting", || figure(&address, "/flights/waiting") == 11);
    drop((first, others));
    until("gone", || figure(&address, "/flights/waiting") == 5);
    gate.open();
    for caller in staying {
        let answer = caller.join().unwrap();
        assert_eq!((&answer.json()["result"], used(&answer)), (&json!("0xc0de"), "coalesced"));
    }
    // The flight of a call whose only caller has left ends, too, and its answer is stored.
    assert_eq!(used(&call(&address, CODE, code(900))), "hit");
    assert_eq!(asked(&node, CODE).len(), 1);
    process.stop();
}

/// A call that joins a flight late has its own time, not the rest of the first caller's.
#[test]
fn a_flight_that_times_out_does_not_take_the_time_of_later_callers() {
    let (folder, chain) = (Folder::new(), Chain::at(1_000));
    let node = node(&chain, |number, method, _, _| match (method, number) {
        (CODE, 0) => Answer::Never,
        (CODE, _) => Answer::Result(json!("0xc0de")),
        _ => Answer::Usual,
    });
    let (process, address) = start(&folder, &service("timeout = \"1500ms\"", &[&node]));
    let first = in_background(&address, CODE, code(900));
    until("relayed", || asked(&node, CODE).len() == 1);
    let never = std::sync::mpsc::channel::<()>();
    let _ = never.1.recv_timeout(Duration::from_millis(700));
    let others: Vec<_> = (0..20).map(|_| in_background(&address, CODE, code(900))).collect();
    let first = first.join().unwrap();
    assert_eq!(first.json()["error"]["data"]["kind"], "timed_out", "{}", first.body);
    for caller in others {
        let answer = caller.join().unwrap();
        assert_eq!(answer.json()["result"], "0xc0de", "{}", answer.body);
    }
    assert_eq!(asked(&node, CODE).len(), 2, "relays");
    process.stop();
}

#[test]
fn flights_end_well_while_the_gateway_is_reloaded_and_shut_down() {
    let (folder, chain, gate) = (Folder::new(), Chain::at(1_000), Gate::default());
    let node = gated(&chain, &gate);
    let config = service("", &[&node]);
    let (process, address) = start(&folder, &config);
    let flying = |number: u64| {
        let before = asked(&node, CODE).len();
        let callers = [0; 3].map(|_| in_background(&address, CODE, code(number)));
        until("relayed", || asked(&node, CODE).len() == before + 1);
        callers
    };
    let head = "listen = [\"127.0.0.1:0\"]\ndatabase = \"off\"\n";
    let reload = |config: &str| {
        folder.file("gateway.toml", format!("{head}{config}"));
        process.signal(Signal::SIGHUP);
        process.wait_for_next("reloaded: ");
    };
    let mut callers = Vec::from(flying(900));
    reload(&config.replace("block_time", "cache = { immutable = \"0s\" }\nblock_time"));
    callers.extend(flying(901));
    reload(&config.replace("12s", "13s"));
    callers.extend(flying(902));
    // The same service, but its upstream is another one now.
    let other = super::node::node(&chain, |_, method, _, _| match method {
        CODE => Answer::Result(json!("0xbeef")),
        _ => Answer::Usual,
    });
    reload(&service("", &[&other]));
    callers.extend([0; 3].map(|_| in_background(&address, CODE, code(903))));
    callers.drain(9..).for_each(|caller| {
        assert_eq!(caller.join().unwrap().json()["result"], "0xbeef");
    });
    reload("[[service]]\nid = \"other\"\nchain_id = 1\n");
    assert!(call(&address, CODE, code(900)).json()["error"].is_object(), "the service is gone");
    reload(&config);
    callers.extend(flying(904));
    process.signal(Signal::SIGTERM);
    process.wait_for_line("20", "stopping");
    gate.open();
    for caller in callers {
        let answer = caller.join().unwrap();
        assert_eq!(answer.json()["result"], "0xc0de", "{}", answer.body);
    }
    process.end();
}

/// Two replicas on one Redis.
fn replicas(node: &Server, redis: &Redis, folders: &[Folder; 2]) -> [(Process, String); 2] {
    redis.command("PING");
    let config = format!(
        "cache = {{ redis = \"{}\", redis_timeout = \"200ms\" }}\n{}",
        redis.url(),
        service("timeout = \"4s\"", &[node])
    );
    let replicas = folders.each_ref().map(|folder| start(folder, &config));
    until("used", || replicas.iter().all(|(_, address)| is_used(address)));
    replicas
}

fn logs() -> Value {
    json!([{"fromBlock": "0x10", "toBlock": "0x20"}])
}

#[test]
fn an_expensive_call_is_relayed_by_one_replica() {
    let (chain, gate, redis) = (Chain::at(1_000), Gate::default(), Redis::start());
    let node = gated(&chain, &gate);
    let folders = [Folder::new(), Folder::new()];
    let replicas = replicas(&node, &redis, &folders);
    let callers: Vec<_> =
        (0..20).map(|n| in_background(&replicas[n % 2].1, "eth_getLogs", logs())).collect();
    until("waiting", || {
        replicas.iter().all(|(_, address)| figure(address, "/flights/waiting") == 10)
    });
    gate.open();
    let mut uses: Vec<String> = Vec::new();
    for caller in callers {
        let answer = caller.join().unwrap();
        assert_eq!(answer.json()["result"], json!([]), "{}", answer.body);
        uses.push(used(&answer).into());
    }
    uses.sort();
    uses.dedup();
    assert_eq!(uses, ["coalesced", "miss", "shared"]);
    assert_eq!(asked(&node, "eth_getLogs").len(), 1, "relays");
    let is_claim = |key: &Vec<u8>| key.ends_with(b":claim");
    until("released", || !redis.keys().iter().any(is_claim));
    replicas.into_iter().for_each(|(process, _)| drop(process.stop()));
}

#[test]
fn the_claim_of_a_replica_that_dies_does_not_hold_the_other() {
    let (chain, gate, redis) = (Chain::at(1_000), Gate::default(), Redis::start());
    let first = gate.clone();
    let node = node(&chain, move |number, method, _, _| match (method, number) {
        ("eth_getLogs", 0) => {
            first.wait();
            Answer::Never
        }
        ("eth_getLogs", _) => Answer::Result(json!([])),
        _ => Answer::Usual,
    });
    let folders = [Folder::new(), Folder::new()];
    let [one, other] = replicas(&node, &redis, &folders);
    let address = one.1.clone();
    let dying = std::thread::spawn(move || {
        let mut caller = Caller::connect(&address).unwrap();
        caller.send("POST /v1", &body("eth_getLogs", &logs())).is_err()
    });
    until("relayed", || asked(&node, "eth_getLogs").len() == 1);
    let waiting = in_background(&other.1, "eth_getLogs", logs());
    until("waiting", || figure(&other.1, "/flights/now") == 1);
    one.0.signal(Signal::SIGKILL);
    let answer = waiting.join().unwrap();
    assert_eq!(answer.json()["result"], json!([]), "{}", answer.body);
    assert_eq!(asked(&node, "eth_getLogs").len(), 2, "relays");
    assert!(dying.join().unwrap());
    gate.open();
    other.0.stop();
}
