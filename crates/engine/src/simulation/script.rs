//! The script of a seed: a plan, a network with its failures, and the side at fault.

mod http2;
mod kind;
mod setup;
mod standing;

use super::draft::Draft;
use super::net::World;
use super::peer::Peer;
use crate::control::{Assignments, Command};
pub(super) use kind::{HTTP2_EVENTS, Kind};
use plimsoll_measure::rng::{Key, Sequence};
use plimsoll_measure::{FindingId, Nanos};
use plimsoll_plan::{Part, Plan, Shards};
use std::net::SocketAddr;
use std::sync::Arc;

/// The side that the verdict must blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtFault {
    None,
    Generator,
    Network,
    Target,
    /// A minor problem; only blaming the wrong side is an error.
    NotTheTarget,
    NotTheGenerator,
}

/// The script of a seed.
pub(super) struct Script {
    pub(super) kind: Kind,
    pub(super) plan: Arc<Plan>,
    pub(super) world: World,
    pub(super) at_fault: AtFault,
    /// Targets whose arrivals must all be answered as expected.
    pub(super) all_ok: Vec<usize>,
    /// Minimum share of arrivals answered as expected, in thousandths.
    pub(super) ok_at_least: u64,
    /// Addresses for which the connection limit is checked.
    pub(super) addresses: Vec<SocketAddr>,
    /// The worker's budget for incomplete bodies, in bytes.
    pub(super) held_max: Option<u64>,
    /// The planned number of arrivals, if commands changed it during the run.
    pub(super) planned: Option<u64>,
    /// A finding that the verdict must have.
    pub(super) must_find: Option<FindingId>,
}

const SECOND: u64 = 1_000_000_000;
const MILLI: u64 = 1_000_000;

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

/// Draws from an inclusive range.
fn within(random: &mut Sequence, least: u64, most: u64) -> u64 {
    least + random.below(most - least + 1)
}

impl Script {
    /// The script of a seed.
    pub(super) fn new(seed: u64) -> Script {
        let key = Key::new(seed);
        let kind = Kind::of(seed);
        let mut random = key.with(1).sequence();
        let c = &mut random;
        let secs = within(c, 3, 7);
        let rate = within(c, 40, 260);
        let arrivals = if c.below(2) == 0 { "constant" } else { "poisson" };
        let mut draft = Draft {
            load: format!(
                "rate = \"{rate}/s\"\narrivals = \"{arrivals}\"\nduration = \"{secs}s\"\n"
            ),
            timeout_ms: within(c, 300, 3000),
            connections: "max = 500".into(),
            rest: String::new(),
            target: String::new(),
            targets: vec![("http://10.0.0.1".into(), 0)],
            streams: None,
            raw: None,
        };
        let mut peer = Peer::healthy(within(c, 200, 30_000) * 1_000);
        peer.fragmented = c.below(3) == 0;
        let mut parts = Parts {
            world: World::new(key.with(2)),
            at_fault: AtFault::None,
            all_ok: vec![0],
            ok_at_least: 0,
            addresses: vec![address(1)],
            held_max: None,
            change: Change::None,
            must_find: None,
        };
        let base = BaseLoad { secs, rate };
        setup::set_up(kind, c, base, &mut draft, &mut peer, &mut parts);
        parts.world.peer(address(1), peer);
        let plan = draft.read(seed);
        let planned = parts.command(&plan, secs, c);
        Script {
            kind,
            plan,
            world: parts.world,
            at_fault: parts.at_fault,
            all_ok: parts.all_ok,
            ok_at_least: parts.ok_at_least,
            addresses: parts.addresses,
            held_max: parts.held_max,
            planned,
            must_find: parts.must_find,
        }
    }
}

struct BaseLoad {
    secs: u64,
    rate: u64,
}

enum Change {
    None,
    Rate,
    Shards,
}

struct Parts {
    world: World,
    at_fault: AtFault,
    all_ok: Vec<usize>,
    ok_at_least: u64,
    addresses: Vec<SocketAddr>,
    held_max: Option<u64>,
    change: Change,
    must_find: Option<FindingId>,
}

impl Parts {
    fn blame(&mut self, at_fault: AtFault) {
        self.at_fault = at_fault;
        self.all_ok.clear();
    }

    /// Schedules commands and returns the resulting number of arrivals.
    fn command(&mut self, plan: &Arc<Plan>, secs: u64, c: &mut Sequence) -> Option<u64> {
        let schedules: Vec<_> =
            plan.streams.iter().map(|stream| stream.schedules(plan.warmup)).collect();
        let mut assignments = Assignments::new(plan.clone(), &schedules, vec![Part::whole(plan)]);
        let at = Nanos(within(c, SECOND / 2, (secs - 1) * SECOND));
        let commands = match self.change {
            Change::None => return None,
            Change::Rate => assignments.set_rate(0, within(c, 10, 400) as f64, at).unwrap(),
            Change::Shards => {
                let given = Part::whole(plan).share(0, within(c, 1, 7) as usize);
                let back = Nanos(within(c, at.0, secs * SECOND));
                let mut commands = assignments.hand_over(&given, at).unwrap();
                commands.extend(assignments.take_over(&given, back).unwrap());
                commands
            }
        };
        // Counts the arrivals independently: each change takes effect at its instant.
        let main = &schedules[0].as_ref().expect("an open stream").main;
        let mut in_force = main.pacer(&Shards::all(), Nanos::ZERO);
        let (mut count, mut received) = (0, Nanos::ZERO);
        for (_, command) in commands {
            let Command::Pace { at, pacer, .. } = &command else { unreachable!("an open stream") };
            while in_force.peek().is_some_and(|arrival| arrival.at < *at) {
                in_force.advance();
                count += 1;
            }
            in_force = (**pacer).clone();
            // Commands arrive some time before they take effect, in the order they were issued.
            received = Nanos(at.0 - within(c, 1, at.0.min(SECOND / 2))).max(received);
            self.world.command(received, command);
        }
        while in_force.peek().is_some() {
            in_force.advance();
            count += 1;
        }
        Some(count)
    }
}
