//! The upstream side of the gateway on virtual time, thousands of seeds.
//!
//! The real dispatcher, attempts, client, health checks and counters run on a paused clock; only the
//! clock and the sockets are replaced (`local::Time`, `upstream::Network`). A seed draws two to five
//! upstreams, their faults over time, and calls (`script`); `node` acts as the upstreams, `calls`
//! as the callers. After a run, `checks` asserts what must hold whatever fails.
//!
//! A failure prints its seed; `PLIMSOLL_SEED=N cargo test -p plimsoll-gateway one_seed` replays that
//! seed and prints the details. `PLIMSOLL_SEEDS=N` runs the first N seeds.

mod calls;
mod checks;
mod node;
mod overload;
mod reorganising;
mod script;
mod sends;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_config::Text;
use plimsoll_measure::Nanos;
use plimsoll_registry::model::{self, Address, Definitions, Kind};
use plimsoll_registry::settings::Settings;
use tokio::time::Instant;

use crate::call::abandoned;
use crate::call::health;
use crate::call::routing::{Routing, Service};
use crate::call::worker::{Shared, State, Worker};
use crate::heads::Served;
use crate::host::{Host, Process};
use crate::keeper::dns::{Resolver, of_host};
use crate::local::Time;
use crate::observe::access_log::AccessLog;
use crate::transport::memory::Connect;
use crate::upstream::Network;
use calls::{CallRecord, Callers};
use node::{Node, World};
use script::{CALLING, Script};

/// The workers of a run.
const WORKERS: usize = 2;

/// What happened in a run.
struct Outcome {
    script: Script,
    records: Vec<CallRecord>,
    nodes: Vec<Rc<Node>>,
    world: Rc<World>,
    service: Arc<Service>,
    /// What was wrong with the heads on the board, seen from outside.
    seen: Vec<String>,
}

/// Runs a script.
fn run(script: Script) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, simulate(script))
}

async fn simulate(script: Script) -> Outcome {
    #[allow(clippy::disallowed_methods)] // the virtual clock
    let start = Instant::now();
    let world = Rc::new(World::default());
    let nodes: Vec<Rc<Node>> = script
        .nodes
        .iter()
        .enumerate()
        .map(|(place, node)| Node::new(place, node.clone(), script.seed, start, &world))
        .collect();
    for node in &nodes {
        tokio::task::spawn_local(node.clone().live());
    }
    let connect: Connect = {
        let nodes = nodes.clone();
        Rc::new(move |address: SocketAddr| {
            Box::pin(nodes[usize::from(address.port()) - 1].clone().accept())
        })
    };
    let shared = Arc::new(shared(&script));
    let worker =
        |number| Rc::new(Worker::new(shared.clone(), number, Network::Simulated(connect.clone())));
    tokio::task::spawn_local(health::watch(worker(WORKERS)));
    let workers: Vec<Rc<Worker>> = (0..WORKERS).map(worker).collect();
    for worker in &workers {
        tokio::task::spawn_local(worker.clone().tidy());
        tokio::task::spawn_local(abandoned::run(worker.clone()));
    }
    let board = Rc::new(RefCell::new(Vec::new()));
    tokio::task::spawn_local(observe(start, shared.clone(), board.clone()));
    let callers = Rc::new(Callers::new(start, workers));
    for (number, arrival) in script.arrivals.iter().enumerate() {
        tokio::time::sleep_until(start + arrival.at).await;
        tokio::task::spawn_local(callers.clone().call(number, *arrival));
    }
    // Until the last call has been answered or has timed out.
    tokio::time::sleep_until(start + CALLING + script.timeout * 5 / 4).await;
    let service = shared.state().routing.service("sim").expect("the service").clone();
    let records = std::mem::take(&mut *callers.records.borrow_mut());
    let mut outcome = Outcome { script, records, nodes, world, service, seen: Vec::new() };
    outcome.seen = seen(&outcome, &board.borrow());
    outcome
}

/// The heads on the board at a time, and which upstreams have the latest one.
type Sight = (Duration, Served, Vec<usize>);

/// Looks at the board, as a worker may at any time.
async fn observe(start: Instant, shared: Arc<Shared>, board: Rc<RefCell<Vec<Sight>>>) {
    let service = shared.state().routing.service("sim").expect("the service").clone();
    let heads = &service.heads.as_ref().expect("heads").board;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        let at = tick.tick().await.duration_since(start);
        let served = heads.served();
        let have = |place: &usize| served.latest.is_some_and(|number| heads.has(*place, number));
        let have = (0..service.routes.len()).filter(have).collect();
        board.borrow_mut().push((at, served, have));
    }
}

/// What was wrong on the board: a head that fell, or an upstream that was said to have the head
/// although it was on a branch of its own.
fn seen(outcome: &Outcome, board: &[Sight]) -> Vec<String> {
    let fell = board.windows(2).filter_map(|two| {
        let [(_, before, _), (at, after, _)] = two else { return None };
        let is_lower = after.latest < before.latest
            || after.safe < before.safe
            || after.finalized < before.finalized;
        is_lower.then(|| format!("a served head fell: at {at:?}: {before:?} {after:?}"))
    });
    let last = outcome.nodes.len() - 1;
    let wrong = board.iter().filter_map(|(at, served, have)| {
        let is_wrong = have.contains(&last) && checks::alone_at(outcome, *at).is_some();
        is_wrong.then(|| format!("a forked upstream has the head: at {at:?}: {served:?}"))
    });
    fell.chain(wrong).collect()
}

/// The upstream of a simulated node: its address has the node's place, from 1, as its port.
fn upstream(place: usize) -> model::Upstream {
    let url = format!("http://127.0.0.1:{}/", place + 1);
    let address = Address::parse(&url).expect("a URL");
    let id = format!("node-{place}");
    model::Upstream {
        service: Some("sim".into()),
        ..model::Upstream::at(id, Kind::Evm, Text::plain(url), address)
    }
}

fn shared(script: &Script) -> Shared {
    let service = model::Service {
        chain_id: Some(node::CHAIN),
        block_time: Some(Nanos::from(script::BLOCK)),
        sync_allowance: Some(2),
        timeout: Nanos::from(script.timeout),
        resilience: model::Resilience {
            hedge: script.is_hedged().then_some(0.95),
            retry_floor: script.retry_floor,
            patience: script.is_slow.then(|| Nanos::from_millis(2_000)),
            ..model::Resilience::default()
        },
        agree: model::Agree { default: script.agree, methods: Vec::new() },
        send: if script.sends_to_all { model::Sending::All } else { model::Sending::One },
        ..model::Service::named("sim")
    };
    let definitions = Definitions {
        services: vec![service],
        upstreams: (0..script.nodes.len()).map(upstream).collect(),
        endpoints: Vec::new(),
    };
    let settings = Settings { workers: WORKERS, ..Settings::default() };
    let routing = Routing::compile(&definitions, &Routing::empty(0), WORKERS, &mut 0);
    let routing = routing.expect("compiles");
    // No name is looked up: upstreams are given by address.
    let resolver = Resolver::new(of_host(), tokio::runtime::Handle::current());
    let time = Time::start_virtual(script.seed);
    Shared::new(State { settings, routing }, AccessLog::new(None), resolver, host(), time, None)
}

fn host() -> Host {
    Host {
        process: Arc::new(Process::default),
        database: Arc::default(),
        usage: None,
        admin: None,
        resolve: None,
        wall_clock: None,
    }
}

/// Runs seeds on all processors; returns those that failed, with the checks.
fn run_seeds(seeds: std::ops::Range<u64>) -> Vec<(u64, Vec<String>)> {
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    let failed = std::sync::Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let failures = checks::failures(&run(Script::new(seed)));
                    if !failures.is_empty() {
                        failed.lock().expect("no panic").push((seed, failures));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().expect("no panic");
    failed.sort();
    failed
}

/// The number of seeds of a normal test run.
const SEEDS: u64 = 400;

#[test]
fn callers_are_served_whatever_fails() {
    let seeds = std::env::var("PLIMSOLL_SEEDS").ok();
    let seeds = seeds.map_or(SEEDS, |seeds| seeds.parse().expect("PLIMSOLL_SEEDS is a number"));
    let failed = run_seeds(0..seeds);
    for (seed, failures) in failed.iter().take(100) {
        eprintln!("seed {seed}: {}", failures[..failures.len().min(3)].join("\n  "));
    }
    let mut by_check = std::collections::BTreeMap::<&str, usize>::new();
    for failure in failed.iter().flat_map(|(_, failures)| failures) {
        *by_check.entry(failure.split(':').next().unwrap_or_default()).or_default() += 1;
    }
    by_check.iter().for_each(|(check, count)| eprintln!("{count} × {check}"));
    let all: Vec<u64> = failed.iter().map(|(seed, _)| *seed).collect();
    assert!(
        failed.is_empty(),
        "{} of {seeds} seeds failed: {all:?}; replay one with PLIMSOLL_SEED=N cargo test -p \
         plimsoll-gateway one_seed",
        failed.len()
    );
}

#[test]
fn runs_are_deterministic() {
    for seed in [1, 2, 3, 5] {
        let [first, second] = [(); 2].map(|()| {
            let mut records = run(Script::new(seed)).records;
            // Callers that waited for the same thing go on at the same time, in any order.
            records.sort_by_key(|record| (record.end, record.number));
            records.iter().map(|record| format!("{record:?}")).collect::<Vec<_>>()
        });
        let differing = first.iter().zip(&second).find(|(one, other)| one != other);
        assert!(differing.is_none() && first.len() == second.len(), "seed {seed}: {differing:?}");
    }
}

/// Replays one seed and prints the details.
#[test]
fn one_seed() {
    let Ok(seed) = std::env::var("PLIMSOLL_SEED") else { return };
    let outcome = run(Script::new(seed.parse().expect("PLIMSOLL_SEED is a number")));
    for (place, node) in outcome.script.nodes.iter().enumerate() {
        eprintln!("node {place}: {} µs", node.latency_us);
        for fault in &node.faults {
            eprintln!("  {:?} to {:?}: {:?}", fault.from, fault.to, fault.kind);
        }
        for fault in &node.sends {
            eprintln!("  {:?} to {:?}: transactions: {:?}", fault.from, fault.to, fault.kind);
        }
    }
    for record in &outcome.records {
        let CallRecord { number, ask, start, end, answer, .. } = record;
        let answer = answer.as_ref().map(|answer| match &answer["error"] {
            serde_json::Value::Null => answer["result"].to_string(),
            error => error.to_string(),
        });
        eprintln!("{number}: {start:?} to {end:?}: {ask:?}: {}", answer.unwrap_or_default());
    }
    for (place, route) in outcome.service.routes.iter().enumerate() {
        let (state, head) = (&route.state, outcome.service.head_of(place));
        let (breaker, excluded) = (state.breaker.state(), state.exclusion());
        let is_confirmed = route.is_confirmed();
        eprintln!("at the end: {place}: {breaker:?} {excluded:?} {head:?} {is_confirmed}");
    }
    let failures = checks::failures(&outcome);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
