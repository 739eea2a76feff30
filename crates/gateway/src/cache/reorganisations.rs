//! A simulated chain that reorganises under mixed load, behind two replicas with one second level.
//!
//! Nodes follow the chain each at its own time. Replicas poll them now and then, learn of a
//! reorganisation late, and ask nodes that have moved on since. Answers are stored some time after they
//! were given, as if their calls had been in flight. Checked against the chain's own truth: once a
//! replica serves the chain's newest branch, nothing that comes from the cache is from another one.
//!
//! What is simulated is the cache, not the detection of reorganisations, which [`crate::heads`] tests:
//! a poll shows which branch a node is on.

use std::sync::Arc;

use plimsoll_measure::rng::{self, Sequence};

use super::tests::{Map, now};
use super::*;
use crate::heads::{BlockId, Hash, Served};
use crate::protocol::evm::block_param::{BlockParam, Tag};

/// Branches of a chain: each starts at a number on the one before it.
struct Chain {
    starts_at: Vec<u64>,
    height: u64,
}

impl Chain {
    fn newest(&self) -> usize {
        self.starts_at.len() - 1
    }

    /// The block of a branch with this number.
    fn block(&self, branch: usize, number: u64) -> BlockId {
        let owner =
            (0..=branch).rev().find(|one| self.starts_at[*one] <= number).unwrap_or_default();
        let mut hash: Hash = [0; 32];
        hash[..8].copy_from_slice(&(owner as u64 + 1).to_be_bytes());
        hash[8..16].copy_from_slice(&number.to_be_bytes());
        BlockId { number, hash }
    }
}

/// A node, as far as it has followed the chain.
#[derive(Clone, Copy)]
struct Node {
    branch: usize,
    height: u64,
}

impl Node {
    /// Its answer to a call about a block.
    fn answer(&self, chain: &Chain, method: &str, number: u64, params: &str) -> String {
        if number > self.height {
            return "null".into();
        }
        let hash = text(&chain.block(self.branch, number).hash);
        match method {
            "eth_getTransactionReceipt" => format!(
                "{{\"transactionHash\":{},\"blockNumber\":\"{number:#x}\",\"blockHash\":{hash}}}",
                &params[1..params.len() - 1]
            ),
            "eth_getBlockByHash" => {
                let asked = &params[1..params.len() - ",false]".len()];
                format!("{{\"number\":\"{number:#x}\",\"hash\":{asked}}}")
            }
            "eth_getBlockByNumber" => format!("{{\"number\":\"{number:#x}\",\"hash\":{hash}}}"),
            _ => hash,
        }
    }
}

fn text(hash: &Hash) -> String {
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"0x{digits}\"")
}

const FINALITY: u64 = 30;
const NODES: usize = 3;

struct Replica {
    cache: Cache,
    /// The served branch, and its number for the cache.
    branch: usize,
    label: u64,
    latest: u64,
    /// The nodes when they were last polled.
    seen: [Node; NODES],
}

impl Replica {
    fn served(&self) -> Served {
        Served { latest: Some(self.latest), safe: None, finalized: Some(self.latest - FINALITY) }
    }

    fn poll(&mut self, place: usize, node: Node) {
        self.seen[place] = node;
        let followers = self.seen.iter().filter(|seen| seen.branch == node.branch).count();
        if node.branch > self.branch && followers * 2 > NODES {
            self.branch = node.branch;
            self.label += 1;
        }
        if node.branch == self.branch {
            self.latest = self.latest.max(node.height);
        }
    }
}

/// An answer that will be stored.
struct Late {
    replica: usize,
    method: &'static str,
    params: String,
    moment: Moment,
    ticket: Ticket,
    result: String,
    anchor: Option<Anchor>,
}

#[derive(Clone, Copy)]
enum Action {
    /// A node follows the chain.
    Follow(usize),
    Poll {
        replica: usize,
        node: usize,
    },
    /// An answer that was given earlier is stored.
    Store,
    Call,
}

struct World {
    chain: Chain,
    nodes: [Node; NODES],
    replicas: [Replica; 2],
    late: Vec<Late>,
    times: TimesToLive,
    now: Nanos,
    random: Sequence,
    calls: u64,
    hits: u64,
    shared: u64,
    /// Answers from the cache while the replica did not follow the newest branch yet.
    unaware: u64,
    reorganisations: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let shared = Arc::new(Map::default());
        let node = Node { branch: 0, height: 100 };
        let replica = |label: u64| Replica {
            cache: Cache::new(StoreLimits { bytes: 1 << 20, entry: 1 << 10 }, Some(shared.clone())),
            branch: 0,
            label,
            latest: 100,
            seen: [node; NODES],
        };
        World {
            chain: Chain { starts_at: vec![0], height: 100 },
            nodes: [node; NODES],
            replicas: [replica(0), replica(1_000_000)],
            late: Vec::new(),
            times: TimesToLive { young: Nanos::from_secs(12), ..TimesToLive::default() },
            now: Nanos::from_secs(1_000),
            random: rng::Key::new(seed).sequence(),
            calls: 0,
            hits: 0,
            shared: 0,
            unaware: 0,
            reorganisations: 0,
        }
    }

    fn choose(&mut self, of: u64) -> u64 {
        (self.random.unit() * of as f64) as u64
    }

    /// The time of one block: the chain grows or reorganises, each node follows, and each replica polls
    /// each node, all in a random order among calls.
    fn block(&mut self) {
        if self.choose(4) == 0 {
            let depth = self.choose(4);
            self.chain.starts_at.push(self.chain.height - depth);
            self.reorganisations += 1;
        }
        self.chain.height += 1;
        let mut actions: Vec<Action> = (0..NODES).map(Action::Follow).collect();
        for replica in 0..2 {
            actions.extend((0..NODES).map(|node| Action::Poll { replica, node }));
        }
        actions.extend([Action::Store; 150]);
        actions.extend([Action::Call; 200]);
        for place in (1..actions.len()).rev() {
            let other = self.choose(place as u64 + 1) as usize;
            actions.swap(place, other);
        }
        for action in actions {
            self.now += Nanos::from_millis(50);
            match action {
                Action::Follow(node) => {
                    let Chain { height, .. } = self.chain;
                    self.nodes[node] = Node { branch: self.chain.newest(), height };
                }
                Action::Poll { replica, node } => {
                    self.replicas[replica].poll(node, self.nodes[node]);
                }
                Action::Store => self.store_late(),
                Action::Call => self.call(),
            }
        }
    }

    fn store_late(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let place = self.choose(self.late.len() as u64) as usize;
        let late = self.late.swap_remove(place);
        let asked = Asked {
            space: "eth@1",
            method: Method::find(late.method),
            params: Some(late.params.as_bytes()),
            moment: late.moment,
            times: &self.times,
            sees_branches: true,
        };
        let cache = &self.replicas[late.replica].cache;
        let _ = cache.keep(&asked, &late.ticket, late.result.as_bytes(), late.anchor, self.now);
    }

    /// A call and the number of the block that it is about.
    fn choose_call(&mut self, latest: u64, finalized: u64) -> (&'static str, String, u64) {
        let number = latest.saturating_sub(self.choose(6));
        match self.choose(7) {
            0 => ("eth_getBlockByNumber", "[\"latest\",false]".into(), latest),
            1 => ("eth_getBlockByNumber", "[\"finalized\",false]".into(), finalized),
            2 => ("eth_getBlockByNumber", format!("[\"{number:#x}\",false]"), number),
            3 => ("eth_getCode", format!("[\"0xab\",\"{number:#x}\"]"), number),
            4 => ("eth_getTransactionReceipt", format!("[\"0x{number:064x}\"]"), number),
            5 => ("eth_gasPrice", "[]".into(), latest),
            _ => {
                let branch = self.choose(self.chain.starts_at.len() as u64) as usize;
                let hash = text(&self.chain.block(branch, number).hash);
                ("eth_getBlockByHash", format!("[{hash},false]"), number)
            }
        }
    }

    fn call(&mut self) {
        let at = self.choose(2) as usize;
        let Replica { latest, label, branch, .. } = self.replicas[at];
        let (name, given, number) = self.choose_call(latest, latest - FINALITY);
        let method = Method::find(name).expect("a method");
        let Replica { cache, seen, .. } = &self.replicas[at];
        let moment = Moment { served: self.replicas[at].served(), branch: label };
        let head = |tag| match tag {
            Tag::Latest => moment.served.latest,
            Tag::Finalized => moment.served.finalized,
            _ => None,
        };
        let mut params = Vec::new();
        BlockParam::of(method).bind(given.as_bytes(), head, &mut params);
        let params = if params.is_empty() { given.into_bytes() } else { params };
        let params = String::from_utf8(params).expect("UTF-8");
        let asked = Asked {
            space: "eth@1",
            method: Some(method),
            params: Some(params.as_bytes()),
            moment,
            times: &self.times,
            sees_branches: true,
        };
        self.calls += 1;
        let ticket = match cache.find(&asked, self.now, &mut Vec::new()) {
            Found::Bypass(_) => return,
            Found::Hit(result) => {
                self.hits += 1;
                return self.check(at, name, number, &result);
            }
            Found::Miss(ticket) => ticket,
        };
        let chain = &self.chain;
        let short = |number| short(&chain.block(branch, number).hash);
        let is_known = |block: Anchor| block.number <= latest && short(block.number) == block.hash;
        if let Some(result) = now(cache.find_shared(&asked, &ticket, is_known, self.now)) {
            self.shared += 1;
            return self.check(at, name, number, &result);
        }
        let has = |node: &usize| seen[*node].branch == branch && seen[*node].height >= number;
        let nodes: Vec<usize> = (0..NODES).filter(has).collect();
        if nodes.is_empty() {
            return;
        }
        let anchor = Some(Anchor { number: latest, hash: short(latest) });
        let node = self.nodes[nodes[self.choose(nodes.len() as u64) as usize]];
        let result = node.answer(&self.chain, name, number, &params);
        let late = Late { replica: at, method: name, params, moment, ticket, result, anchor };
        self.late.push(late);
    }

    /// Checks an answer from the cache.
    fn check(&mut self, at: usize, method: &str, number: u64, result: &[u8]) {
        let result = std::str::from_utf8(result).expect("UTF-8");
        if method == "eth_getBlockByHash" {
            return;
        }
        if self.replicas[at].branch != self.chain.newest() {
            self.unaware += 1;
            return;
        }
        let truth = text(&self.chain.block(self.chain.newest(), number).hash);
        assert!(result.contains(&truth), "stale: {method} of {number}: {result}, not {truth}");
    }
}

/// The part of a hash that an anchor has: here, what differs.
fn short(hash: &Hash) -> u64 {
    hash[..16].iter().fold(0, |all, byte| all.wrapping_mul(257).wrapping_add((*byte).into()))
}

#[test]
fn nothing_stale_is_served_after_a_reorganisation() {
    let blocks = std::env::var("PLIMSOLL_TEST_BLOCKS").ok().and_then(|blocks| blocks.parse().ok());
    for seed in 0..5 {
        let mut world = World::new(seed);
        for _ in 0..blocks.unwrap_or(40) {
            world.block();
        }
        let World { calls, hits, shared, unaware, reorganisations, .. } = world;
        println!(
            "seed {seed}: {calls} calls, {hits} hits, {shared} shared, {unaware} before the replica \
             knew, {reorganisations} reorganisations"
        );
        assert!(hits > calls / 10 && shared > 0 && reorganisations > 0);
    }
}
