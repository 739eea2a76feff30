//! What a seed draws: the upstreams, their faults over time, and the calls.

use std::time::Duration;

use plimsoll_measure::rng::{Key, Sequence};

use super::sends::{self, SendFault};

/// The time between two blocks.
pub(super) const BLOCK: Duration = Duration::from_secs(2);

/// How long callers call.
pub(super) const CALLING: Duration = Duration::from_secs(24);

/// Faults end before this time, so that recovery can be checked.
pub(super) const FAULTS_END: Duration = Duration::from_secs(15);

/// A process takes at most this long to restart, and may come back on another chain; at least 5 ms.
const RESTART_MAX: u64 = 600;

/// At least three upstreams: one of them alone is wrong.
const MANY: usize = 3;

/// The usual timeout of a call.
pub(super) const TIMEOUT: Duration = Duration::from_secs(4);

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
    /// It is on another chain from one moment to the next, behind connections that stay open: the only
    /// fault of its upstream.
    Switched,
    /// It is on a branch of its own, as high as the others'. One of at least three.
    Forked,
    /// Its heads are this much too high. One of at least three.
    Ahead(u64),
    /// It is two nodes, one of which is a block behind. This is no fault: callers must not notice.
    Uneven,
    /// It answers some reads with something else than the others; only where several must agree.
    Lying,
    /// It answers 429, with this Retry-After in seconds.
    Limiting(u64),
    /// The same, for `eth_call` only.
    LimitingCalls(u64),
    /// It answers 503, with this Retry-After in seconds, which is longer than the fault.
    Overloaded(u64),
    /// It answers health checks, and no calls.
    Hanging,
    /// It closes each connection at the second request.
    Closing,
}

/// A fault of an upstream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) from: Duration,
    pub(super) to: Duration,
    pub(super) kind: Kind,
}

/// A scripted upstream.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeScript {
    /// The time of an answer, in microseconds.
    pub(super) latency_us: u64,
    pub(super) faults: Vec<Fault>,
    pub(super) sends: Vec<SendFault>,
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
    /// The timeout of a call.
    pub(super) timeout: Duration,
    /// Retries per second in any case.
    pub(super) retry_floor: f64,
    /// Whether all upstreams answer more slowly than health checks are due.
    pub(super) is_slow: bool,
}

impl Script {
    /// Whether calls are hedged. Without hedges, a call that a stalled upstream has is late before it
    /// is saved.
    pub(super) fn is_hedged(&self) -> bool {
        self.timeout == TIMEOUT
    }

    pub(super) fn new(seed: u64) -> Script {
        let mut random = Key::new(seed).sequence();
        let count = 2 + random.below(4) as usize;
        let mut nodes: Vec<NodeScript> = (0..count)
            .map(|_| NodeScript { latency_us: 500 + random.below(20_000), ..NodeScript::default() })
            .collect();
        let (mut timeout, mut retry_floor) = (TIMEOUT, 10.0);
        let mut busy = None;
        let mut is_everywhere = false;
        // One seed in eight each: no faults, an outage of everything at once, the same fault of
        // everything at once, and a busy service with a small budget of which one upstream stalls.
        match random.below(8) {
            0 => {}
            1 => {
                is_everywhere = true;
                outage(&mut nodes, &mut random);
            }
            2 => {
                (retry_floor, is_everywhere) = (1.0, true);
                storm(&mut nodes, &mut random);
            }
            3 => {
                (timeout, retry_floor) = (Duration::from_secs(6), 0.5);
                let from = random.below(8_000);
                let kind = if random.below(2) == 0 { Kind::Stalled } else { Kind::Hanging };
                nodes[0].faults.push(fault(from, from + 7_000, kind));
                busy = Some(Duration::from_millis(from));
            }
            _ => {
                for node in &mut nodes {
                    (0..random.below(4)).for_each(|_| add_fault(node, &mut random));
                }
            }
        }
        if busy.is_none() && random.below(2) == 0 {
            // Where all fail, one that is wrong may be the only one left.
            let is_many = nodes.len() >= MANY && !is_everywhere;
            add_special(&mut nodes, is_many, &mut random);
        }
        let mut arrivals = arrivals(busy, &mut random);
        let agree = if count > 3 && busy.is_none() && random.below(4) == 0 { 2 } else { 1 };
        if agree > 1 {
            let from = random.below(10_000);
            nodes[0].faults.push(fault(from, from + 4_000, Kind::Lying));
        }
        let sends_to_all = random.below(4) == 0;
        let is_slow = busy.is_none() && random.below(32) == 0;
        if is_slow {
            // All are slower than the interval of health checks, and nothing else is wrong.
            for node in &mut nodes {
                node.latency_us = 1_050_000 + random.below(250_000);
                node.faults.clear();
            }
        } else {
            sends::draw(seed, &mut nodes, &mut arrivals);
        }
        Script { seed, nodes, arrivals, agree, sends_to_all, is_slow, timeout, retry_floor }
    }
}

/// All upstreams die at about the same time and come back, some of them later.
fn outage(nodes: &mut [NodeScript], random: &mut Sequence) {
    let from = 2_000 + random.below(3_000);
    for node in nodes {
        let from = from + random.below(500);
        let to = from + RESTART_MAX + random.below(6_000);
        node.faults.push(fault(from, to, Kind::Dead));
    }
}

/// All upstreams fail the same way at the same time.
fn storm(nodes: &mut [NodeScript], random: &mut Sequence) {
    let from = 2_000 + random.below(3_000);
    let to = from + 2_000 + random.below(6_000);
    let kind = match random.below(6) {
        0 => Kind::Resetting(100),
        1 => Kind::Garbling(100),
        2 => Kind::Unavailable,
        3 => Kind::Closing,
        4 => Kind::Overloaded(60),
        _ => Kind::LimitingCalls(1 + random.below(3)),
    };
    for node in nodes {
        node.faults.push(fault(from, to, kind));
    }
}

fn fault(from: u64, to: u64, kind: Kind) -> Fault {
    let (from, to) = (Duration::from_millis(from), Duration::from_millis(to));
    Fault { from, to: to.min(FAULTS_END), kind }
}

fn add_fault(node: &mut NodeScript, random: &mut Sequence) {
    let from = random.below(FAULTS_END.as_millis() as u64 - 3_000);
    let to = from + 300 + random.below(7_000);
    match random.below(16) {
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
            // Often within milliseconds, so that nobody notices.
            let restart = match random.below(2) {
                0 => 5 + random.below(20),
                _ => RESTART_MAX,
            };
            let back = from + restart;
            let end = (back + to - from).min(FAULTS_END.as_millis() as u64 - restart);
            node.faults.push(fault(from, back, Kind::Dead));
            node.faults.push(fault(back, end, Kind::WrongChain));
            // It is restarted on its own chain.
            node.faults.push(fault(end, end + restart, Kind::Dead));
        }
        3 => node.faults.push(fault(from, to, Kind::Stalled)),
        4 => node.faults.push(fault(from, to, Kind::Slow(50 + random.below(2_000)))),
        5 => node.faults.push(fault(from, to, Kind::Resetting(20 + random.below(80)))),
        6 => node.faults.push(fault(from, to, Kind::Garbling(20 + random.below(80)))),
        7 => node.faults.push(fault(from, to, Kind::Unavailable)),
        8 => node.faults.push(fault(from, to, Kind::Lagging(1 + random.below(20)))),
        9 => node.faults.push(fault(from, to, Kind::Reorganised(1 + random.below(4)))),
        10 => node.faults.push(fault(from, to, Kind::LimitingCalls(1 + random.below(3)))),
        11 => node.faults.push(fault(from, to, Kind::Overloaded(60))),
        12 => node.faults.push(fault(from, to, Kind::Hanging)),
        13 => node.faults.push(fault(from, to, Kind::Closing)),
        _ => node.faults.push(fault(from, to, Kind::Limiting(1 + random.below(2)))),
    }
}

/// Makes the last upstream special.
fn add_special(nodes: &mut [NodeScript], is_many: bool, random: &mut Sequence) {
    let Some(node) = nodes.last_mut() else { return };
    let from = 1_000 + random.below(5_000);
    let to = from + 3_000 + random.below(6_000);
    let kind = match random.below(4) {
        0 => Kind::Switched,
        1 if is_many => Kind::Forked,
        2 if is_many => Kind::Ahead([1, 20, 60, 64, 70, 1_000_000_000][random.below(6) as usize]),
        _ => Kind::Uneven,
    };
    let (from, to) = if kind == Kind::Uneven { (0, 15_000) } else { (from, to) };
    // An upstream that is only uneven may also fail.
    if kind != Kind::Uneven {
        node.faults.clear();
    }
    node.faults.push(fault(from, to, kind));
}

/// Calls at a steady rate, and `busy`: at 40 per second for some seconds around this time.
fn arrivals(busy: Option<Duration>, random: &mut Sequence) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    let mean_us = 1_000_000 / (4 + random.below(10));
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
        let is_busy = busy.is_some_and(|busy| {
            at + Duration::from_secs(2) > busy && at < busy + Duration::from_secs(3)
        });
        let mean_us = if is_busy { 25_000 } else { mean_us };
        at += Duration::from_micros(random.below(2 * mean_us));
    }
    arrivals
}
