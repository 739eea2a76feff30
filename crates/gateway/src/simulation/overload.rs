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

mod bars;

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

fn healthy(_: f64) -> Work {
    Work::Times(1.0)
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
