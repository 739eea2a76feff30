//! What a seed draws: the upstreams, their faults over time, and the calls.

use std::time::Duration;

use plimsoll_measure::rng::{Key, Sequence};

/// The time between two blocks.
pub(super) const BLOCK: Duration = Duration::from_secs(2);

/// How long callers call.
pub(super) const CALLING: Duration = Duration::from_secs(24);

/// Faults end before this time, so that recovery can be checked.
pub(super) const FAULTS_END: Duration = Duration::from_secs(15);

/// A process takes at least this long to restart, and thus to come back on another chain.
const RESTART_MIN: u64 = 600;

/// What is wrong with an upstream for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// The process is dead: connections are reset, and new ones refused.
    Dead,
    /// It is on a different chain. Always preceded by [`Kind::Dead`]: a process is restarted for it.
    WrongChain,
    /// It reads requests and answers none.
    Stalled,
    /// It is this many milliseconds slower.
    Slow(u64),
    /// It resets this share of its connections, in percent, instead of answering.
    Resetting(u64),
    /// It garbles this share of its answers, in percent.
    Garbling(u64),
    /// It answers with JSON-RPC errors that mean that it cannot work.
    Unavailable,
    /// It is this many blocks behind.
    Lagging(u64),
    /// Its chain was reorganised: it is this many blocks lower for a while, with other hashes.
    Reorganised(u64),
    /// It answers some reads with something else than the others; only where several must agree.
    Lying,
    /// It answers 429, with this Retry-After in seconds.
    Limiting(u64),
}

/// A fault of an upstream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) from: Duration,
    pub(super) to: Duration,
    pub(super) kind: Kind,
}

/// A scripted upstream.
#[derive(Clone, Debug)]
pub(super) struct NodeScript {
    /// The time of an answer, in microseconds.
    pub(super) latency_us: u64,
    pub(super) faults: Vec<Fault>,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Ask {
    /// Returns its parameter.
    Echo,
    Reverting,
    BlockNumber,
    /// The block with this tag: an index of [`TAGS`].
    Tagged(usize),
    /// A block below the highest that any caller has seen.
    Numbered,
    /// The receipt of a transaction that is not included yet: null.
    Pending,
    ChainId,
    Send,
    Nonce,
}

/// The tags that callers use.
pub(super) const TAGS: [&str; 3] = ["latest", "safe", "finalized"];

/// A call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) at: Duration,
    pub(super) ask: Ask,
    /// When the caller leaves, if it does not wait.
    pub(super) leaves_after: Option<Duration>,
}

/// What a seed draws.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) seed: u64,
    pub(super) nodes: Vec<NodeScript>,
    pub(super) arrivals: Vec<Arrival>,
    /// How many upstreams must agree on reads.
    pub(super) agree: u8,
    /// Whether transactions are sent to all upstreams.
    pub(super) sends_to_all: bool,
}

impl Script {
    pub(super) fn new(seed: u64) -> Script {
        let mut random = Key::new(seed).sequence();
        let count = 2 + random.below(4) as usize;
        let mut nodes: Vec<NodeScript> = (0..count)
            .map(|_| NodeScript { latency_us: 500 + random.below(20_000), faults: Vec::new() })
            .collect();
        // One seed in eight has no faults, one in eight an outage of everything at once.
        match random.below(8) {
            0 => {}
            1 => outage(&mut nodes, &mut random),
            _ => {
                for node in &mut nodes {
                    (0..random.below(4)).for_each(|_| add_fault(node, &mut random));
                }
            }
        }
        let arrivals = arrivals(&mut random);
        let agree = if count > 3 && random.below(4) == 0 { 2 } else { 1 };
        if agree > 1 {
            let from = random.below(10_000);
            nodes[0].faults.push(fault(from, from + 4_000, Kind::Lying));
        }
        let sends_to_all = random.below(4) == 0;
        Script { seed, nodes, arrivals, agree, sends_to_all }
    }
}

/// All upstreams die at about the same time and come back, some of them later.
fn outage(nodes: &mut [NodeScript], random: &mut Sequence) {
    let from = 2_000 + random.below(3_000);
    for node in nodes {
        let from = from + random.below(500);
        let to = from + RESTART_MIN + random.below(6_000);
        node.faults.push(fault(from, to, Kind::Dead));
    }
}

fn fault(from: u64, to: u64, kind: Kind) -> Fault {
    let (from, to) = (Duration::from_millis(from), Duration::from_millis(to));
    Fault { from, to: to.min(FAULTS_END), kind }
}

fn add_fault(node: &mut NodeScript, random: &mut Sequence) {
    let from = random.below(FAULTS_END.as_millis() as u64 - 3_000);
    let to = from + 300 + random.below(7_000);
    match random.below(12) {
        0 => node.faults.push(fault(from, to, Kind::Dead)),
        1 => {
            // Flapping.
            let mut at = from;
            while at < to {
                let down = 100 + random.below(900);
                node.faults.push(fault(at, at + down, Kind::Dead));
                at += down + 100 + random.below(900);
            }
        }
        2 => {
            let back = from + RESTART_MIN;
            let end = (back + to - from).min(FAULTS_END.as_millis() as u64 - RESTART_MIN);
            node.faults.push(fault(from, back, Kind::Dead));
            node.faults.push(fault(back, end, Kind::WrongChain));
            // It is restarted on its own chain.
            node.faults.push(fault(end, end + RESTART_MIN, Kind::Dead));
        }
        3 => node.faults.push(fault(from, to, Kind::Stalled)),
        4 => node.faults.push(fault(from, to, Kind::Slow(50 + random.below(2_000)))),
        5 => node.faults.push(fault(from, to, Kind::Resetting(20 + random.below(80)))),
        6 => node.faults.push(fault(from, to, Kind::Garbling(20 + random.below(80)))),
        7 => node.faults.push(fault(from, to, Kind::Unavailable)),
        8 => node.faults.push(fault(from, to, Kind::Lagging(1 + random.below(20)))),
        9 => node.faults.push(fault(from, to, Kind::Reorganised(1 + random.below(4)))),
        _ => node.faults.push(fault(from, to, Kind::Limiting(1 + random.below(2)))),
    }
}

fn arrivals(random: &mut Sequence) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    let mean_us = 1_000_000 / (4 + random.below(14));
    let mut at = Duration::from_millis(random.below(500));
    while at < CALLING {
        let ask = match random.below(100) {
            0..40 => Ask::Echo,
            40..44 => Ask::Reverting,
            44..60 => Ask::BlockNumber,
            60..72 => Ask::Tagged(0),
            72..78 => Ask::Tagged(1 + random.below(2) as usize),
            78..84 => Ask::Numbered,
            84..88 => Ask::Pending,
            88..91 => Ask::ChainId,
            91..96 => Ask::Send,
            _ => Ask::Nonce,
        };
        let leaves = random.below(50) == 0;
        let leaves_after = leaves.then(|| Duration::from_micros(random.below(20_000)));
        arrivals.push(Arrival { at, ask, leaves_after });
        at += Duration::from_micros(random.below(2 * mean_us));
    }
    arrivals
}
