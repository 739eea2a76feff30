//! More calls than the upstreams can answer, on virtual time.
//!
//! The real relay, dispatcher, gates and queue; the nodes have a known capacity: servers that work on
//! one call each, and an unbounded queue before them. Callers call at given rates, whatever is
//! answered.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_measure::Nanos;
use plimsoll_measure::rng::{Key, Sequence};
use plimsoll_registry::model::{self, Definitions};
use plimsoll_registry::settings::Settings;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::node::read_request;
use super::{WORKERS, host, upstream};
use crate::call::message::{Answer, Body, JSON};
use crate::call::relay;
use crate::call::routing::Routing;
use crate::call::target::Target;
use crate::call::worker::{Shared, State, Worker};
use crate::keeper::dns::{Resolver, of_host};
use crate::local::Time;
use crate::observe::access_log::AccessLog;
use crate::payload::Payload;
use crate::transport::memory::{Connect, MemorySocket};
use crate::upstream::Network;

const NODES: usize = 2;

/// The servers of a node.
const SERVERS: usize = 4;

/// The mean service time; it is exponential.
const SERVICE_MS: f64 = 40.0;

/// Calls a second that all nodes can answer.
const CAPACITY: f64 = (NODES * SERVERS) as f64 / SERVICE_MS * 1e3;

/// The service's timeout.
const TIMEOUT: Duration = Duration::from_secs(4);

/// How the nodes work, by second.
#[derive(Clone, Copy)]
enum Work {
    /// This many times the service time.
    Times(f64),
    /// They read calls and never answer them.
    Hang,
}

/// Customers and nodes.
struct Scenario {
    /// The rate of each endpoint, in calls a second.
    rates: &'static [f64],
    work: fn(f64) -> Work,
    secs: u64,
}

/// A call as its caller saw it.
#[derive(Clone, Copy)]
struct Record {
    endpoint: usize,
    start: f64,
    latency_ms: f64,
    is_ok: bool,
    is_shed: bool,
}

struct Node {
    servers: Semaphore,
    random: RefCell<Sequence>,
    work: fn(f64) -> Work,
    start: Instant,
    /// Calls at the node, and the most that ever were.
    present: Cell<usize>,
    most: Cell<usize>,
}

fn now() -> Instant {
    #[allow(clippy::disallowed_methods)] // the virtual clock
    Instant::now()
}

impl Node {
    async fn serve(self: Rc<Node>, mut socket: MemorySocket) {
        let mut received = Vec::new();
        while let Some(request) = read_request(&mut socket, &mut received).await {
            self.present.set(self.present.get() + 1);
            self.most.set(self.most.get().max(self.present.get()));
            let is_answered = self.work().await;
            self.present.set(self.present.get() - 1);
            if !is_answered {
                // For longer than anybody waits.
                tokio::time::sleep(2 * TIMEOUT).await;
                return;
            }
            let body = json!({"jsonrpc": "2.0", "id": request["id"], "result": request["params"]});
            let body = body.to_string();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if socket.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// Works on a call; false if it is never answered.
    async fn work(&self) -> bool {
        let _server = self.servers.acquire().await.expect("never closed");
        let times = match (self.work)(now().duration_since(self.start).as_secs_f64()) {
            Work::Times(times) => times,
            Work::Hang => return false,
        };
        let unit = -(1.0 - self.random.borrow_mut().unit()).ln();
        tokio::time::sleep(Duration::from_secs_f64(unit * times * SERVICE_MS / 1e3)).await;
        true
    }
}

/// Runs a scenario; returns the calls and the most that a node had at a time, by node.
fn run(scenario: &Scenario, seed: u64) -> (Vec<Record>, Vec<usize>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, simulate(scenario, seed))
}

async fn simulate(scenario: &Scenario, seed: u64) -> (Vec<Record>, Vec<usize>) {
    let start = now();
    let node = |place: usize| {
        Rc::new(Node {
            servers: Semaphore::new(SERVERS),
            random: RefCell::new(Key::new(seed).with(place as u64).sequence()),
            work: scenario.work,
            start,
            present: Cell::new(0),
            most: Cell::new(0),
        })
    };
    let nodes: Vec<Rc<Node>> = (0..NODES).map(node).collect();
    let connect: Connect = {
        let nodes = nodes.clone();
        Rc::new(move |address: SocketAddr| {
            let (ours, theirs) = MemorySocket::pair();
            tokio::task::spawn_local(nodes[usize::from(address.port()) - 1].clone().serve(ours));
            Box::pin(std::future::ready(Ok(theirs)))
        })
    };
    let shared = Arc::new(shared(scenario, seed));
    let worker =
        |number| Rc::new(Worker::new(shared.clone(), number, Network::Simulated(connect.clone())));
    let workers: Rc<Vec<Rc<Worker>>> = Rc::new((0..WORKERS).map(worker).collect());
    let records: Rc<RefCell<Vec<Record>>> = Rc::default();
    for (endpoint, rate) in scenario.rates.iter().copied().enumerate() {
        let (workers, records) = (workers.clone(), records.clone());
        let mut random = Key::new(seed).with(100 + endpoint as u64).sequence();
        let end = start + Duration::from_secs(scenario.secs);
        tokio::task::spawn_local(async move {
            let mut at = start;
            for number in 0.. {
                at += Duration::from_secs_f64(-(1.0 - random.unit()).ln() / rate);
                if at >= end {
                    break;
                }
                tokio::time::sleep_until(at).await;
                let (worker, records) = (workers[number % WORKERS].clone(), records.clone());
                tokio::task::spawn_local(async move {
                    let answer = call(&worker, endpoint, number).await;
                    let span = now().duration_since(at);
                    records.borrow_mut().push(Record {
                        endpoint,
                        start: at.duration_since(start).as_secs_f64(),
                        latency_ms: span.as_secs_f64() * 1e3,
                        is_ok: answer["result"] == json!([number]),
                        is_shed: answer["error"]["data"]["kind"] == "overloaded",
                    });
                });
            }
        });
    }
    tokio::time::sleep_until(start + Duration::from_secs(scenario.secs) + TIMEOUT * 2).await;
    let in_flight: u64 = shared.state().routing.upstreams().iter().map(|one| one.in_flight()).sum();
    assert_eq!(in_flight, 0, "every slot is returned");
    let service = shared.state().routing.service("sim").expect("the service").clone();
    assert_eq!(service.state.line.waiting(), 0, "nobody waits any more");
    (records.take(), nodes.iter().map(|node| node.most.get()).collect())
}

fn shared(scenario: &Scenario, seed: u64) -> Shared {
    let service = model::Service {
        health_checks: false,
        timeout: Nanos::from(TIMEOUT),
        ..model::Service::named("sim")
    };
    let endpoint = |at: usize| model::Endpoint::named(format!("customer-{at}"), "sim");
    let concurrency = model::Concurrency::Auto;
    let measured = |place| model::Upstream { concurrency, ..upstream(place) };
    let definitions = Definitions {
        services: vec![service],
        upstreams: (0..NODES).map(measured).collect(),
        endpoints: (0..scenario.rates.len()).map(endpoint).collect(),
    };
    let settings = Settings { workers: WORKERS, ..Settings::default() };
    let routing = Routing::compile(&definitions, &Routing::empty(seed), WORKERS, &mut 0);
    let routing = routing.expect("compiles");
    let resolver = Resolver::new(of_host(), tokio::runtime::Handle::current());
    let time = Time::start_virtual(seed);
    Shared::new(State { settings, routing }, AccessLog::new(None), resolver, host(), time, None)
}

async fn call(worker: &Rc<Worker>, endpoint: usize, number: usize) -> Value {
    let view = worker.view();
    let endpoint = view.routing.endpoint(&format!("customer-{endpoint}")).expect("an endpoint");
    let account = &endpoint.access.account;
    let target = Target { account, ..Target::of(worker, &view, &endpoint.service) };
    let text = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [number]});
    let (text, mut answer) = (text.to_string(), Answer::new(200, JSON, Vec::new()));
    relay::answer(&target, &Body::Short(text.as_bytes()), &mut answer).await;
    let Payload::Whole(body) = &answer.body else { panic!("answers are short") };
    let answered: Value = serde_json::from_slice(body).expect("an answer is JSON");
    if answered["error"]["data"]["kind"] == "overloaded" {
        assert_eq!((answer.status, answered["error"]["code"].as_i64()), (503, Some(-32_005)));
    }
    answer.settlement.settle(body.len() as u64, true);
    answered
}

/// The calls of an endpoint that started within some seconds.
struct Part {
    span: f64,
    calls: Vec<Record>,
}

impl Part {
    fn of(records: &[Record], endpoint: usize, from: f64, to: f64) -> Part {
        let is_in = |one: &&Record| one.endpoint == endpoint && one.start >= from && one.start < to;
        Part { span: to - from, calls: records.iter().filter(is_in).copied().collect() }
    }

    /// Answers a second.
    fn goodput(&self) -> f64 {
        self.calls.iter().filter(|one| one.is_ok).count() as f64 / self.span
    }

    /// The share of calls that were answered.
    fn success(&self) -> f64 {
        self.goodput() * self.span / self.calls.len() as f64
    }

    /// A quantile of the latency of those that were answered, in milliseconds.
    fn quantile(&self, share: f64) -> f64 {
        let answered = self.calls.iter().filter(|one| one.is_ok);
        let mut all: Vec<f64> = answered.map(|one| one.latency_ms).collect();
        all.sort_by(f64::total_cmp);
        all[((all.len() - 1) as f64 * share) as usize]
    }

    /// The longest time that a call took that was shed.
    fn longest_shed(&self) -> f64 {
        let shed = self.calls.iter().filter(|one| one.is_shed);
        shed.map(|one| one.latency_ms).fold(0.0, f64::max)
    }
}

fn healthy(_: f64) -> Work {
    Work::Times(1.0)
}

const SEEDS: u64 = 2;

#[test]
fn twice_the_capacity_costs_neither_throughput_nor_latency() {
    for seed in 0..SEEDS {
        let at = |rates| {
            let (records, most) = run(&Scenario { rates, work: healthy, secs: 40 }, seed);
            (Part::of(&records, 0, 15.0, 40.0), most)
        };
        let (full, _) = at(&[CAPACITY]);
        let (over, most) = at(&[2.0 * CAPACITY]);
        let (p99, p99_full) = (over.quantile(0.99), full.quantile(0.99));
        let (goodput, shed) = (over.goodput() / CAPACITY, over.longest_shed());
        println!("seed {seed}: {goodput:.3}, p99 {p99:.0} ms, {p99_full:.0} ms, shed {shed:.0} ms");
        assert!(goodput >= 0.9, "seed {seed}: {goodput}");
        assert!(p99 <= 2.0 * p99_full, "seed {seed}: {p99} ms, {p99_full} ms at capacity");
        // Half of an answer's time, which varies.
        assert!(shed <= 100.0, "seed {seed}: shed after {shed} ms");
        assert!(most.iter().all(|most| *most <= 2 * 32), "{most:?} calls at a node");
    }
}

#[test]
fn a_customer_within_its_share_does_not_notice_the_flood_of_another() {
    for seed in 0..SEEDS {
        let at = |rates: &'static [f64]| {
            let (records, _) = run(&Scenario { rates, work: healthy, secs: 25 }, seed);
            records
        };
        let alone = Part::of(&at(&[CAPACITY / 4.0]), 0, 10.0, 25.0);
        let both = at(&[CAPACITY / 4.0, 10.0 * CAPACITY]);
        let (beside, flood) = (Part::of(&both, 0, 10.0, 25.0), Part::of(&both, 1, 10.0, 25.0));
        let (success, p99, before) =
            (beside.success(), beside.quantile(0.99), alone.quantile(0.99));
        let all = (beside.goodput() + flood.goodput()) / CAPACITY;
        println!("seed {seed}: {success:.4}, p99 {p99:.0} ms, alone {before:.0} ms, all {all:.3}");
        assert!(success >= 0.99, "seed {seed}: {success}");
        assert!(p99 <= 1.5 * before, "seed {seed}: {p99} ms, {before} ms alone");
        assert!(all >= 0.9, "seed {seed}: {all}");
    }
}

#[test]
fn a_capacity_that_drops_and_returns_is_followed() {
    fn tenth(at: f64) -> Work {
        Work::Times(if (15.0..45.0).contains(&at) { 10.0 } else { 1.0 })
    }
    let scenario = Scenario { rates: &[1.5 * CAPACITY], work: tenth, secs: 75 };
    let (records, _) = run(&scenario, 1);
    let during = Part::of(&records, 0, 25.0, 45.0).goodput() / (CAPACITY / 10.0);
    let after = Part::of(&records, 0, 60.0, 75.0).goodput() / CAPACITY;
    println!("during {during:.3}, after {after:.3}");
    assert!(during >= 0.8, "{during}");
    assert!(after >= 0.85, "{after}");
    let longest = Part::of(&records, 0, 0.0, 75.0).longest_shed();
    assert!(longest <= TIMEOUT.as_secs_f64() * 1e3 / 2.0 + 1.0, "shed after {longest} ms");
}

#[test]
fn upstreams_that_have_hung_are_used_again() {
    fn hang(at: f64) -> Work {
        if (10.0..20.0).contains(&at) { Work::Hang } else { Work::Times(1.0) }
    }
    let rate = &[0.7 * CAPACITY];
    let (records, most) = run(&Scenario { rates: rate, work: hang, secs: 35 }, 1);
    let during = Part::of(&records, 0, 11.0, 19.0);
    let after = Part::of(&records, 0, 26.0, 35.0);
    println!("success {:.3} during, {:.3} after, {most:?}", during.success(), after.success());
    assert!(after.success() >= 0.98, "{}", after.success());
    assert!(Part::of(&records, 0, 0.0, 10.0).success() >= 0.99);
}
