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
use crate::call::abandoned;
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

/// The servers of a node, unless a scenario has others.
const SERVERS: usize = 4;

/// The mean service time; it is exponential.
const SERVICE_MS: f64 = 40.0;

/// Calls a second that all nodes can answer.
const CAPACITY: f64 = capacity(SERVERS);

const fn capacity(servers: usize) -> f64 {
    (NODES * servers) as f64 / SERVICE_MS * 1e3
}

/// The service's timeout.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A method that takes this many times as long as the others.
const SLOW: &str = "debug_traceCall";
const SLOW_TIMES: f64 = 50.0;

/// How the nodes work, by second.
#[derive(Clone, Copy)]
enum Work {
    /// This many times the service time.
    Times(f64),
    /// They read calls and never answer them.
    Hang,
    /// Nothing goes on until this second.
    Stall(f64),
}

/// How a customer calls.
#[derive(Clone, Copy)]
enum Load {
    /// Calls a second, at random.
    Rate(f64),
    /// As many at once, every so many seconds from the first one on.
    Bursts(usize, f64),
    /// As many callers, each of which calls again when it is answered.
    Users(usize),
}

/// The calls of a customer.
#[derive(Clone, Copy)]
struct Customer {
    load: Load,
    method: &'static str,
    /// After this time, the caller leaves.
    leaves_after: Option<Duration>,
}

impl Customer {
    const fn of(load: Load) -> Customer {
        Customer { load, method: "eth_call", leaves_after: None }
    }
}

const fn rate(rate: f64) -> Customer {
    Customer::of(Load::Rate(rate))
}

/// Customers and nodes.
#[derive(Clone)]
struct Scenario {
    customers: Vec<Customer>,
    servers: usize,
    concurrency: model::Concurrency,
    work: fn(f64) -> Work,
    /// Whether callers stall with the nodes, as all do on one machine.
    is_machine: bool,
    secs: u64,
}

impl Scenario {
    fn of(customers: &[Customer], secs: u64) -> Scenario {
        Scenario {
            customers: customers.to_vec(),
            servers: SERVERS,
            concurrency: model::Concurrency::Auto,
            work: healthy,
            is_machine: false,
            secs,
        }
    }
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
    /// Calls that the node works on or has not begun with, and the most that ever were.
    present: Cell<usize>,
    most: Cell<usize>,
    /// Connections that were opened.
    opened: Cell<usize>,
}

fn now() -> Instant {
    #[allow(clippy::disallowed_methods)] // the virtual clock
    Instant::now()
}

/// Sleeps until the end of a stall, if there is one.
async fn stalled(work: fn(f64) -> Work, start: Instant) {
    if let Work::Stall(end) = work(now().duration_since(start).as_secs_f64()) {
        tokio::time::sleep_until(start + Duration::from_secs_f64(end)).await;
    }
}

impl Node {
    /// Serves a connection. Like a real node, it goes on working when the connection is closed.
    async fn serve(self: Rc<Node>, mut socket: MemorySocket) {
        self.opened.set(self.opened.get() + 1);
        let mut received = Vec::new();
        while let Some(request) = read_request(&mut socket, &mut received).await {
            self.present.set(self.present.get() + 1);
            self.most.set(self.most.get().max(self.present.get()));
            let is_answered = self.work(request["method"] == SLOW).await;
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
    async fn work(&self, is_slow: bool) -> bool {
        let _server = self.servers.acquire().await.expect("never closed");
        stalled(self.work, self.start).await;
        let times = match (self.work)(now().duration_since(self.start).as_secs_f64()) {
            Work::Times(times) => times,
            Work::Hang => return false,
            Work::Stall(_) => 1.0,
        };
        let times = if is_slow { times * SLOW_TIMES } else { times };
        let unit = -(1.0 - self.random.borrow_mut().unit()).ln();
        tokio::time::sleep(Duration::from_secs_f64(unit * times * SERVICE_MS / 1e3)).await;
        stalled(self.work, self.start).await;
        true
    }
}

/// What is left of a run.
struct Ran {
    records: Vec<Record>,
    /// By node: the most calls at a time.
    most: Vec<usize>,
    /// By node: connections.
    opened: Vec<usize>,
}

/// Runs a scenario.
fn run(scenario: &Scenario, seed: u64) -> Ran {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, simulate(scenario, seed))
}

async fn simulate(scenario: &Scenario, seed: u64) -> Ran {
    let start = now();
    let node = |place: usize| {
        Rc::new(Node {
            servers: Semaphore::new(scenario.servers),
            random: RefCell::new(Key::new(seed).with(place as u64).sequence()),
            work: scenario.work,
            start,
            present: Cell::new(0),
            most: Cell::new(0),
            opened: Cell::new(0),
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
    for worker in workers.iter() {
        tokio::task::spawn_local(abandoned::run(worker.clone()));
    }
    let end = start + Duration::from_secs(scenario.secs);
    let records: Rc<RefCell<Vec<Record>>> = Rc::default();
    for (endpoint, customer) in scenario.customers.iter().copied().enumerate() {
        let random = Key::new(seed).with(100 + endpoint as u64).sequence();
        let (workers, records) = (workers.clone(), records.clone());
        let callers = Rc::new(Callers { workers, records, customer, endpoint, start, end });
        let stalls = scenario.is_machine.then_some(scenario.work);
        tokio::task::spawn_local(callers.call_all(random, stalls));
    }
    tokio::time::sleep_until(end + TIMEOUT * 2).await;
    let in_flight: u64 = shared.state().routing.upstreams().iter().map(|one| one.in_flight()).sum();
    assert_eq!(in_flight, 0, "every slot is returned");
    let service = shared.state().routing.service("sim").expect("the service").clone();
    assert_eq!(service.state.line.waiting(), 0, "nobody waits any more");
    let figures = |figure: fn(&Node) -> usize| nodes.iter().map(|node| figure(node)).collect();
    Ran {
        records: records.take(),
        most: figures(|node| node.most.get()),
        opened: figures(|node| node.opened.get()),
    }
}

/// The callers of a customer.
struct Callers {
    workers: Rc<Vec<Rc<Worker>>>,
    records: Rc<RefCell<Vec<Record>>>,
    customer: Customer,
    endpoint: usize,
    start: Instant,
    end: Instant,
}

impl Callers {
    async fn call_all(self: Rc<Callers>, mut random: Sequence, stalls: Option<fn(f64) -> Work>) {
        let mut at = self.start;
        let mut number = 0;
        while at < self.end {
            let calls = match self.customer.load {
                Load::Rate(rate) => {
                    at += Duration::from_secs_f64(-(1.0 - random.unit()).ln() / rate);
                    tokio::time::sleep_until(at).await;
                    1
                }
                Load::Bursts(calls, every) => {
                    tokio::time::sleep_until(at).await;
                    at += Duration::from_secs_f64(every);
                    calls
                }
                Load::Users(users) => {
                    at = self.end;
                    users
                }
            };
            if let Some(work) = stalls {
                stalled(work, self.start).await;
            }
            for _ in 0..calls {
                number += 1;
                let (callers, due) = (self.clone(), now().min(self.end));
                tokio::task::spawn_local(async move { callers.call(number, due).await });
            }
        }
    }

    async fn call(&self, mut number: usize, mut due: Instant) {
        while due < self.end {
            let worker = &self.workers[number % WORKERS];
            let calling = call(worker, self.endpoint, self.customer.method, number);
            let patience = self.customer.leaves_after.unwrap_or(2 * TIMEOUT);
            if let Ok(answer) = tokio::time::timeout(patience, calling).await {
                self.records.borrow_mut().push(Record {
                    endpoint: self.endpoint,
                    start: due.duration_since(self.start).as_secs_f64(),
                    latency_ms: now().duration_since(due).as_secs_f64() * 1e3,
                    is_ok: answer["result"] == json!([number]),
                    is_shed: answer["error"]["data"]["kind"] == "overloaded",
                });
                if answer["error"]["data"]["kind"] == "overloaded" {
                    // As callers do, which are asked to.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            if !matches!(self.customer.load, Load::Users(_)) {
                return;
            }
            (number, due) = (number + 1_000_000, now());
        }
    }
}

fn shared(scenario: &Scenario, seed: u64) -> Shared {
    let service = model::Service {
        health_checks: false,
        timeout: Nanos::from(TIMEOUT),
        ..model::Service::named("sim")
    };
    let endpoint = |at: usize| model::Endpoint::named(format!("customer-{at}"), "sim");
    let concurrency = scenario.concurrency;
    let measured = |place| model::Upstream { concurrency, ..upstream(place) };
    let definitions = Definitions {
        services: vec![service],
        upstreams: (0..NODES).map(measured).collect(),
        endpoints: (0..scenario.customers.len()).map(endpoint).collect(),
    };
    let settings = Settings { workers: WORKERS, ..Settings::default() };
    let routing = Routing::compile(&definitions, &Routing::empty(seed), WORKERS, &mut 0);
    let routing = routing.expect("compiles");
    let resolver = Resolver::new(of_host(), tokio::runtime::Handle::current());
    let time = Time::start_virtual(seed);
    Shared::new(State { settings, routing }, AccessLog::new(None), resolver, host(), time, None)
}

async fn call(worker: &Rc<Worker>, endpoint: usize, method: &str, number: usize) -> Value {
    let view = worker.view();
    let endpoint = view.routing.endpoint(&format!("customer-{endpoint}")).expect("an endpoint");
    let account = &endpoint.access.account;
    let target = Target { account, ..Target::of(worker, &view, &endpoint.service) };
    let text = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": [number]});
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
        let last = all.len().checked_sub(1).expect("none was answered");
        all[(last as f64 * share) as usize]
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
        let at = |load| {
            let records = run(&Scenario::of(&[rate(load)], 50), seed).records;
            Part::of(&records, 0, 25.0, 50.0)
        };
        let full = at(CAPACITY);
        let over = at(2.0 * CAPACITY);
        let (p99, p99_full) = (over.quantile(0.99), full.quantile(0.99));
        let (goodput, shed) = (over.goodput() / CAPACITY, over.longest_shed());
        println!("seed {seed}: {goodput:.3}, p99 {p99:.0} ms, {p99_full:.0} ms, shed {shed:.0} ms");
        assert!(goodput >= 0.95, "seed {seed}: {goodput}");
        assert!(p99 <= 2.0 * p99_full, "seed {seed}: {p99} ms, {p99_full} ms at capacity");
        // Two answers' time, which varies.
        assert!(shed <= 400.0, "seed {seed}: shed after {shed} ms");
    }
}

#[test]
fn a_customer_within_its_share_does_not_notice_the_flood_of_another() {
    for seed in 0..SEEDS {
        let at = |customers: &[Customer]| run(&Scenario::of(customers, 35), seed).records;
        let quiet = rate(CAPACITY / 4.0);
        let alone = Part::of(&at(&[quiet]), 0, 20.0, 35.0);
        let both = at(&[quiet, rate(10.0 * CAPACITY)]);
        let (beside, flood) = (Part::of(&both, 0, 20.0, 35.0), Part::of(&both, 1, 20.0, 35.0));
        let (success, p99, before) =
            (beside.success(), beside.quantile(0.99), alone.quantile(0.99));
        let all = (beside.goodput() + flood.goodput()) / CAPACITY;
        println!("seed {seed}: {success:.4}, p99 {p99:.0} ms, alone {before:.0} ms, all {all:.3}");
        assert!(success >= 0.999, "seed {seed}: {success}");
        assert!(p99 <= 1.5 * before, "seed {seed}: {p99} ms, {before} ms alone");
        assert!(all >= 0.95, "seed {seed}: {all}");
        let start = Part::of(&both, 0, 0.0, 20.0).success();
        assert!(start >= 0.999, "seed {seed}: {start} from the start");
    }
}

#[test]
fn slow_calls_of_one_customer_do_not_hold_up_fast_ones_of_another() {
    let fast = rate(capacity(16) / 20.0);
    let slow = Customer { method: SLOW, ..rate(2.5 * capacity(16) / SLOW_TIMES) };
    for (name, concurrency) in
        [("measured", model::Concurrency::Auto), ("fixed", model::Concurrency::Fixed(16))]
    {
        for seed in 0..SEEDS {
            let at = |customers: &[Customer]| {
                let scenario = Scenario::of(customers, 60);
                let records = run(&Scenario { servers: 16, concurrency, ..scenario }, seed).records;
                Part::of(&records, 0, 30.0, 60.0)
            };
            let (alone, beside) = (at(&[fast]), at(&[fast, slow]));
            let (p50, p99) = (beside.quantile(0.5), beside.quantile(0.99));
            let before = (alone.quantile(0.5), alone.quantile(0.99));
            println!("{name}, seed {seed}: p50 {p50:.0} ms, p99 {p99:.0} ms, alone {before:?}");
            assert!(beside.success() >= 0.999, "{name}, seed {seed}: {}", beside.success());
            let is_near = p50 <= times.0 * before.0 && p99 <= times.1 * before.1;
            assert!(is_near, "{name}, seed {seed}: {p50} and {p99} ms, {before:?} alone");
        }
    }
}

#[test]
fn callers_that_leave_do_not_exceed_the_limit() {
    let leaving =
        Customer { leaves_after: Some(Duration::from_millis(10)), ..rate(10.0 * CAPACITY) };
    let quiet = rate(CAPACITY / 4.0);
    let concurrency = model::Concurrency::Fixed(SERVERS as u32);
    for seed in 0..SEEDS {
        let alone = Scenario { concurrency, ..Scenario::of(&[quiet], 20) };
        let alone = Part::of(&run(&alone, seed).records, 0, 5.0, 20.0);
        let scenario = Scenario { concurrency, ..Scenario::of(&[quiet, leaving], 20) };
        let Ran { records, most, opened } = run(&scenario, seed);
        let beside = Part::of(&records, 0, 5.0, 20.0);
        let (success, p99) = (beside.success(), beside.quantile(0.99));
        let before = alone.quantile(0.99);
        println!(
            "seed {seed}: {success:.4}, p99 {p99:.0} ms, alone {before:.0} ms, {most:?} {opened:?}"
        );
        assert!(most.iter().all(|most| *most <= SERVERS), "seed {seed}: {most:?} at a node");
        // Connections are used again, too.
        assert!(opened.iter().all(|opened| *opened <= 4 * SERVERS), "seed {seed}: {opened:?}");
        assert!(success >= 0.999, "seed {seed}: {success}");
        assert!(p99 <= 2.0 * before, "seed {seed}: {p99} ms, {before} ms alone");
    }
}

/// Stalls of 0.2 to 1 s, one in each 4 s.
fn stalls(at: f64) -> Work {
    let mut random = Key::new(7).with((at / 4.0) as u64).sequence();
    let begin = (at / 4.0).floor() * 4.0 + 1.5 * random.unit();
    let end = begin + 0.2 + 0.8 * random.unit();
    if (begin..end).contains(&at) { Work::Stall(end) } else { Work::Times(1.0) }
}

fn slower_for_a_second(at: f64) -> Work {
    Work::Times(if (5.0..6.0).contains(&at) { 10.0 } else { 1.0 })
}

#[test]
fn a_healthy_system_is_refused_nothing() {
    let big = |customers: &[Customer]| Scenario { servers: 16, ..Scenario::of(customers, 30) };
    let (half, half_of_big) = (rate(CAPACITY / 2.0), rate(capacity(16) / 2.0));
    let at_once = Customer::of(Load::Bursts(1_000, 1e3));
    let rows = [
        ("half of the capacity", Scenario::of(&[half], 30)),
        ("0.9 of the capacity", Scenario::of(&[rate(0.9 * CAPACITY)], 60)),
        ("upstreams that stall", Scenario { work: stalls, ..Scenario::of(&[half], 40) }),
        (
            "a machine that stalls",
            Scenario { work: stalls, is_machine: true, ..Scenario::of(&[half], 40) },
        ),
        (
            "the same, 16 servers",
            Scenario { work: stalls, is_machine: true, ..big(&[half_of_big]) },
        ),
        ("bursts of 500", big(&[Customer::of(Load::Bursts(500, 5.0))])),
        ("1,000 calls at the start", big(&[at_once, half_of_big])),
        ("slower for 1 s", Scenario { work: slower_for_a_second, ..Scenario::of(&[half], 20) }),
        ("slower for 1 s, 16", Scenario { work: slower_for_a_second, ..big(&[half_of_big]) }),
        ("64 users, 16 servers", big(&[Customer::of(Load::Users(64))])),
        ("64 users", Scenario::of(&[Customer::of(Load::Users(64))], 30)),
        (
            "64 users, limit of 4",
            Scenario {
                concurrency: model::Concurrency::Fixed(4),
                ..Scenario::of(&[Customer::of(Load::Users(64))], 30)
            },
        ),
    ];
    for (name, scenario) in &rows {
        for seed in 0..SEEDS {
            let ran = run(scenario, seed);
            let lost = ran.records.iter().filter(|one| !one.is_ok).count();
            let shed = ran.records.iter().filter(|one| one.is_shed).count();
            let latest = ran.records.iter().map(|one| one.latency_ms).fold(0.0, f64::max);
            let all = ran.records.len();
            let full = capacity(scenario.servers) * scenario.secs as f64;
            let throughput = all as f64 / full;
            println!(
                "{name}, seed {seed}: {lost} of {all} lost ({shed} shed), {latest:.0} ms, {throughput:.3}"
            );
            assert_eq!(lost, 0, "{name}, seed {seed}: of {all}, {shed} of them shed");
            if matches!(scenario.customers[0].load, Load::Users(_)) {
                assert!(throughput >= 0.93, "{name}, seed {seed}: {throughput}");
            }
        }
    }
}

#[test]
fn a_capacity_that_drops_and_returns_is_followed() {
    fn tenth(at: f64) -> Work {
        Work::Times(if (25.0..55.0).contains(&at) { 10.0 } else { 1.0 })
    }
    let scenario = Scenario { work: tenth, ..Scenario::of(&[rate(1.5 * CAPACITY)], 85) };
    let records = run(&scenario, 1).records;
    let during = Part::of(&records, 0, 35.0, 55.0).goodput() / (CAPACITY / 10.0);
    let after = Part::of(&records, 0, 70.0, 85.0).goodput() / CAPACITY;
    println!("during {during:.3}, after {after:.3}");
    assert!(during >= 0.8, "{during}");
    assert!(after >= 0.85, "{after}");
    let longest = Part::of(&records, 0, 0.0, 85.0).longest_shed();
    assert!(longest <= TIMEOUT.as_secs_f64() * 1e3 / 2.0 + 1.0, "shed after {longest} ms");
}

#[test]
fn upstreams_that_have_hung_are_used_again() {
    fn hang(at: f64) -> Work {
        if (10.0..20.0).contains(&at) { Work::Hang } else { Work::Times(1.0) }
    }
    let scenario = Scenario { work: hang, ..Scenario::of(&[rate(0.7 * CAPACITY)], 40) };
    let Ran { records, most, .. } = run(&scenario, 1);
    let during = Part::of(&records, 0, 11.0, 19.0);
    let after = Part::of(&records, 0, 26.0, 40.0);
    println!("success {:.3} during, {:.3} after, {most:?}", during.success(), after.success());
    assert!(after.success() >= 0.98, "{}", after.success());
    assert!(Part::of(&records, 0, 0.0, 10.0).success() >= 0.99);
}
