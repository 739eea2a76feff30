//! Two replicas with one second level before a chain that reorganises, under mixed load.
//!
//! The real relay, cache, flights, health checks and heads run on virtual time; the nodes, the sockets
//! and the second level are simulated ([`chain`], [`store`]). Nodes follow the chain each at its own
//! time; replicas poll them, learn of a reorganisation late, and ask nodes that have moved on since.
//! Clients alternate between the replicas. Every answer is compared with the chain's own truth:
//! - not stale: a block, receipt, log or state is that of the branch that the replica served when the
//!   call arrived, or of a later one;
//! - not backward: the latest, safe and finalized block is at least the one of any answer that any
//!   client had received from any replica before the call was sent.

mod chain;
mod store;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_measure::Nanos;
use plimsoll_measure::rng::{Key, Sequence};
use plimsoll_registry::model::{self, Definitions, Prefetch};
use plimsoll_registry::settings::{CacheSettings, Settings};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{host, upstream};
use crate::cache::lease;
use crate::cache::shared::Shared as SecondLevel;
use crate::call::message::{Answer, Body, JSON};
use crate::call::relay;
use crate::call::routing::Routing;
use crate::call::target::Target;
use crate::call::worker::{Shared, State, Worker};
use crate::call::{health, shared_heads};
use crate::heads::Served;
use crate::keeper::dns::{Resolver, of_host};
use crate::local::Time;
use crate::observe::access_log::AccessLog;
use crate::observe::stats::CacheUse;
use crate::payload::Payload;
use crate::transport::memory::Connect;
use crate::upstream::Network;
use chain::{BLOCK, CHAIN, Chain, ChainNode, NODES, hash_text};
use store::Store;

const REPLICAS: usize = 2;
const WORKERS: usize = 2;
const CLIENTS: u64 = 24;

/// What a run has counted.
#[derive(Default)]
struct Tally {
    calls: u64,
    /// By the use of the cache.
    uses: [u64; 5],
    errors: u64,
    reorganisations: u64,
    stale: Vec<String>,
    backward: Vec<String>,
}

struct Replica {
    workers: Vec<Rc<Worker>>,
}

struct World {
    start: Instant,
    chain: Rc<Chain>,
    replicas: Vec<Replica>,
    tally: RefCell<Tally>,
    /// For latest, safe and finalized: the highest number that an answer has shown so far.
    highest: [Cell<u64>; 3],
    calls: u64,
}

/// Runs on virtual time.
fn run<T>(simulated: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, simulated)
}

/// Starts the nodes and the replicas.
fn start(seed: u64, calls: u64, store: Arc<dyn SecondLevel>, prefetch: &[Prefetch]) -> Rc<World> {
    #[allow(clippy::disallowed_methods)] // the virtual clock
    let start = Instant::now();
    let chain = Rc::new(Chain::new(seed));
    tokio::task::spawn_local(chain.clone().grow());
    let nodes: Vec<Rc<ChainNode>> =
        (0..NODES).map(|place| ChainNode::new(place, seed, &chain)).collect();
    for node in &nodes {
        tokio::task::spawn_local(node.clone().follow());
    }
    let connect: Connect = Rc::new(move |address: SocketAddr| {
        Box::pin(std::future::ready(Ok(nodes[usize::from(address.port()) - 1].clone().accept())))
    });
    let replicas = (0..REPLICAS).map(|_| replica(seed, &connect, &store, prefetch)).collect();
    let tally = RefCell::default();
    Rc::new(World { start, chain, replicas, tally, highest: Default::default(), calls })
}

/// Makes this many calls.
async fn simulate(seed: u64, calls: u64) -> Tally {
    let world = start(seed, calls, Arc::new(Store::new(seed)), &[]);
    let clients = (0..CLIENTS).map(|number| {
        let random = Key::new(seed).with(1_000 + number).sequence();
        tokio::task::spawn_local(world.clone().client(random))
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("no client panics");
    }
    let mut tally = std::mem::take(&mut *world.tally.borrow_mut());
    tally.reorganisations = world.chain.newest() as u64;
    tally
}

fn replica(
    seed: u64,
    connect: &Connect,
    store: &Arc<dyn SecondLevel>,
    prefetch: &[Prefetch],
) -> Replica {
    let service = model::Service {
        chain_id: Some(CHAIN),
        block_time: Some(Nanos::from(BLOCK)),
        sync_allowance: Some(4),
        prefetch: prefetch.to_vec(),
        ..model::Service::named("sim")
    };
    let definitions = Definitions {
        services: vec![service],
        upstreams: (0..NODES).map(upstream).collect(),
        endpoints: Vec::new(),
    };
    let cache = CacheSettings { memory: 4 << 20, entry: 64 << 10, ..CacheSettings::default() };
    let settings = Settings { workers: WORKERS, cache, ..Settings::default() };
    let routing = Routing::compile(&definitions, &Routing::empty(0), WORKERS, &mut 0);
    let state = State { settings, routing: routing.expect("compiles") };
    let resolver = Resolver::new(of_host(), tokio::runtime::Handle::current());
    let (log, time) = (AccessLog::new(None), Time::start_virtual(seed));
    let shared = Arc::new(Shared::new(state, log, resolver, host(), time, Some(store.clone())));
    let worker =
        |number| Rc::new(Worker::new(shared.clone(), number, Network::Simulated(connect.clone())));
    let keeper = worker(WORKERS);
    tokio::task::spawn_local(health::watch(keeper.clone()));
    tokio::task::spawn_local(shared_heads::watch(keeper));
    Replica { workers: (0..WORKERS).map(worker).collect() }
}

/// What an answer is compared with.
enum Truth {
    /// The head with this index: latest, safe, finalized.
    Head(usize),
    /// A part of the block with this number.
    Block(u64),
    /// The block with this hash.
    Hash(String),
    Nothing,
}

impl World {
    /// The latest block that each replica serves.
    fn served(&self) -> Vec<u64> {
        let latest = |replica: &Replica| {
            let view = replica.workers[0].view();
            let heads = view.routing.service("sim").and_then(|service| service.heads.clone());
            heads.and_then(|heads| heads.board.served().latest).unwrap_or_default()
        };
        self.replicas.iter().map(latest).collect()
    }

    async fn client(self: Rc<World>, mut random: Sequence) {
        // Until the nodes have been polled for the first time.
        tokio::time::sleep_until(self.start + Duration::from_millis(1_500)).await;
        while self.tally.borrow().calls < self.calls {
            self.tally.borrow_mut().calls += 1;
            tokio::time::sleep(Duration::from_micros(random.below(200_000))).await;
            self.call(&mut random).await;
        }
    }

    /// A call's method, its parameters, and the truth that its answer must show.
    fn choose(&self, random: &mut Sequence, latest: u64) -> (&'static str, Value, Truth) {
        const TAGS: [&str; 3] = ["latest", "safe", "finalized"];
        let number = latest.saturating_sub(random.below(8));
        let hex = format!("{number:#x}");
        match random.below(12) {
            0 | 1 => ("eth_blockNumber", json!([]), Truth::Head(0)),
            2 | 3 => ("eth_getBlockByNumber", json!(["latest", false]), Truth::Head(0)),
            4 => {
                let tag = 1 + random.below(2) as usize;
                ("eth_getBlockByNumber", json!([TAGS[tag], false]), Truth::Head(tag))
            }
            5 | 6 => ("eth_getBlockByNumber", json!([hex, false]), Truth::Block(number)),
            7 => ("eth_getCode", json!([format!("{:#042x}", 1), hex]), Truth::Block(number)),
            8 => {
                let transaction = format!("{number:#066x}");
                ("eth_getTransactionReceipt", json!([transaction]), Truth::Block(number))
            }
            9 => {
                let range = json!([{ "fromBlock": hex, "toBlock": hex }]);
                ("eth_getLogs", range, Truth::Block(number))
            }
            10 => ("eth_gasPrice", json!([]), Truth::Nothing),
            _ => {
                let branch = random.below(self.chain.newest() as u64 + 1) as usize;
                let hash = hash_text(self.chain.hash(branch, number));
                ("eth_getBlockByHash", json!([hash, false]), Truth::Hash(hash))
            }
        }
    }

    async fn call(&self, random: &mut Sequence) {
        let replica = &self.replicas[random.below(REPLICAS as u64) as usize];
        let worker = &replica.workers[random.below(WORKERS as u64) as usize];
        let view = worker.view();
        let service = view.routing.service("sim").expect("the service").clone();
        let heads = service.heads.as_ref().expect("heads");
        let latest = heads.board.served().latest.unwrap_or_default();
        // The branch that the replica serves: that of the highest block whose hash it knows.
        let known = {
            let tracker = heads.tracker();
            let hash = (0..=latest).rev().take(64).find_map(|number| tracker.hash(number));
            hash.map_or(0, |hash| Chain::branch_of(&hash))
        };
        let before = self.highest.each_ref().map(Cell::get);
        let (method, params, truth) = self.choose(random, latest);
        let request = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
        let (answered, used) = ask(worker, &request).await;
        let mut tally = self.tally.borrow_mut();
        tally.uses[used as usize] += 1;
        if answered["error"].is_object() {
            tally.errors += 1;
            return;
        }
        let shown = |what: &str| {
            let now = self.start.elapsed();
            format!("{what}, {}: {request} at {now:?}, branch {known}: {answered}", used.name())
        };
        match &truth {
            Truth::Head(tag) => {
                let height = height(&answered["result"]).unwrap_or_default();
                if height < before[*tag] {
                    tally.backward.push(shown(&format!("after {}", before[*tag])));
                }
                self.highest[*tag].set(self.highest[*tag].get().max(height));
                if let Some(hash) = answered["result"]["hash"].as_str()
                    && !self.is_true(height, known, hash)
                {
                    tally.stale.push(shown("stale"));
                }
            }
            Truth::Block(number) => {
                let hash = shown_hash(&answered["result"]);
                if hash.is_some_and(|hash| !self.is_true(*number, known, hash)) {
                    tally.stale.push(shown("stale"));
                }
            }
            Truth::Hash(hash) => {
                let shown_hash = answered["result"]["hash"].as_str();
                if shown_hash.is_some_and(|shown| shown != hash) {
                    tally.stale.push(shown("another block"));
                }
            }
            Truth::Nothing => {}
        }
    }

    /// Whether a block's hash is that of a branch from this one on.
    fn is_true(&self, number: u64, known: usize, hash: &str) -> bool {
        (known..=self.chain.newest()).any(|one| hash_text(self.chain.hash(one, number)) == hash)
    }
}

/// Makes a call; returns its answer, and how it used the cache.
async fn ask(worker: &Rc<Worker>, request: &Value) -> (Value, CacheUse) {
    let view = worker.view();
    let service = view.routing.service("sim").expect("the service");
    let target = Target::of(worker, &view, service);
    let (text, mut answer) = (request.to_string(), Answer::new(200, JSON, Vec::new()));
    relay::answer(&target, &Body::Short(text.as_bytes()), &mut answer).await;
    let Payload::Whole(body) = &answer.body else { panic!("answers are short") };
    let answered: Value = serde_json::from_slice(body).expect("an answer is JSON");
    answer.settlement.settle(body.len() as u64, true);
    (answered, answer.summary.cache.unwrap_or_default())
}

/// The number that a result shows.
fn height(result: &Value) -> Option<u64> {
    let text = result.as_str().or(result["number"].as_str())?;
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The block hash that a result shows: a block's, a receipt's, the first log's, or the state itself.
fn shown_hash(result: &Value) -> Option<&str> {
    let of = |object: &'_ Value| object["blockHash"].is_string();
    match result {
        Value::String(state) => Some(state),
        Value::Array(logs) => logs.first()?["blockHash"].as_str(),
        object if of(object) => object["blockHash"].as_str(),
        object => object["hash"].as_str(),
    }
}

/// Calls of each seed in a normal test run; `PLIMSOLL_CACHE_CALLS` sets another number.
const CALLS: u64 = 60_000;

#[test]
fn nothing_stale_or_backward_is_answered() {
    let number = |name: &str, default: u64| {
        let given = std::env::var(name).ok();
        given.map_or(default, |given| given.parse().expect("a number"))
    };
    let calls = number("PLIMSOLL_CACHE_CALLS", CALLS);
    let seeds = number("PLIMSOLL_CACHE_SEEDS", 4);
    // To repeat a single one.
    let first = number("PLIMSOLL_CACHE_SEED", 0);
    let end = if first > 0 { first + 1 } else { seeds };
    let tallies: Vec<(u64, Tally)> = std::thread::scope(|scope| {
        let runs: Vec<_> = (first..end)
            .map(|seed| scope.spawn(move || (seed, run(simulate(seed, calls)))))
            .collect();
        runs.into_iter().map(|run| run.join().expect("no panic")).collect()
    });
    let (mut failures, mut failed) = (Vec::new(), Vec::new());
    for (seed, tally) in tallies {
        let uses: BTreeMap<&str, u64> = CacheUse::NAMES.into_iter().zip(tally.uses).collect();
        println!(
            "seed {seed}: {} calls, {uses:?}, {} errors, {} reorganisations, {} stale, {} backward",
            tally.calls,
            tally.errors,
            tally.reorganisations,
            tally.stale.len(),
            tally.backward.len()
        );
        for (wrong, what) in [(&tally.stale, "stale"), (&tally.backward, "backward")] {
            let Some(first) = wrong.first() else { continue };
            failures.push(format!("{} × {what}\nseed {seed}: {first}", wrong.len()));
            failed.push(seed);
        }
        let [hit, shared, coalesced, ..] = tally.uses;
        assert!(hit > tally.calls / 4 && shared > 0 && coalesced > 0, "the cache is not used");
        assert!(tally.reorganisations > 0 && tally.errors < tally.calls / 20);
    }
    failed.dedup();
    assert!(failures.is_empty(), "{}\nseeds failed: {failed:?}", failures.join("\n"));
}

/// Without this, a wrong head in the second level would be served until the chain reaches it, also
/// after all replicas have been restarted.
#[test]
fn a_head_that_no_node_has_is_taken_back_by_all_replicas() {
    const LIE: u64 = 1 << 40;
    run(async {
        let store = Arc::new(Store::new(1));
        let register = lease::register(&format!("sim@{CHAIN}#1"));
        let heads = Served { latest: Some(LIE), safe: None, finalized: None };
        let served = lease::Heads { corrections: 4, heads };
        let text = lease::Record { served, next: None }.write(&register);
        store.set(&register, text.into_bytes());
        let world = start(1, 0, store, &[]);
        let served = || world.served();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(served(), [LIE, LIE], "the lie is believed at first");
        tokio::time::sleep(Duration::from_secs(30)).await;
        let height = *world.chain.height.borrow();
        assert!(served().iter().all(|latest| height - latest < 3), "{:?}, {height}", served());
    });
}

/// A full Redis lets replicas read the old heads, but not propose new ones.
#[test]
fn heads_go_on_while_the_second_level_is_full() {
    run(async {
        let store = Arc::new(Store::new(1));
        let world = start(1, 0, store.clone(), &[]);
        for is_full in [false, true, false] {
            store.set_full(is_full);
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let request = json!({"jsonrpc": "2.0", "id": 7, "method": "eth_blockNumber"});
                for replica in &world.replicas {
                    ask(&replica.workers[0], &request).await;
                }
            }
            let (served, height) = (world.served(), *world.chain.height.borrow());
            assert!(
                served.iter().all(|latest| height - latest < 3),
                "full: {is_full}, {served:?}, {height}"
            );
        }
    });
}

#[test]
fn the_calls_of_each_new_block_are_made_before_callers_make_them() {
    /// How many of 200 calls for the latest block were relayed, or waited.
    fn relayed(prefetch: &[Prefetch]) -> usize {
        run(async {
            let world = start(1, 0, Arc::new(Store::new(1)), prefetch);
            let mut random = Key::new(1).with(9).sequence();
            tokio::time::sleep(Duration::from_secs(3)).await;
            let mut relayed = 0;
            for _ in 0..200 {
                tokio::time::sleep(Duration::from_micros(random.below(4_000_000))).await;
                let request = json!({"jsonrpc": "2.0", "id": 7, "method": "eth_getBlockByNumber",
                                     "params": ["latest", true]});
                let (answer, used) = ask(&world.replicas[0].workers[0], &request).await;
                assert!(answer["result"].is_object(), "{answer}");
                relayed += usize::from(used == CacheUse::Miss);
            }
            relayed
        })
    }
    let params = Some("[\"latest\", true]".into());
    let call = Prefetch { method: "eth_getBlockByNumber".into(), params };
    let (without, with) = (relayed(&[]), relayed(&[call]));
    assert!(without > 100 && with < 20, "{without} relayed without prefetch, {with} with it");
}
