//! What each kind of failure changes in the plan, the network and the server; those over HTTP/2 and those that
//! stay open are in files of their own.

use super::super::draft::Draft;
use super::super::peer::{Accept, Flaw, Peer};
use super::{
    AtFault, BaseLoad, Change, Kind, MILLI, Parts, SECOND, address, http2, standing, within,
};
use plimsoll_measure::Nanos;
use plimsoll_measure::rng::Sequence;

/// Sets up a kind of failure.
pub(super) fn set_up(
    kind: Kind,
    c: &mut Sequence,
    base: BaseLoad,
    draft: &mut Draft,
    peer: &mut Peer,
    parts: &mut Parts,
) {
    let BaseLoad { secs, rate } = base;
    match kind {
        Kind::Clean => {
            if c.below(3) == 0 {
                draft.load = format!("users = {}\nduration = \"{secs}s\"\n", within(c, 1, 20));
                peer.service = peer.service.max(3 * MILLI);
            }
        }
        Kind::IdleCloses => {
            peer.idle_close = Some(within(c, 1, 50) * MILLI);
            parts.blame(AtFault::NotTheGenerator);
            parts.ok_at_least = 500;
        }
        Kind::Flawed | Kind::FewFlaws => {
            let flaws = [
                Flaw::Reset,
                Flaw::Truncate,
                Flaw::Garbage,
                Flaw::Silence,
                Flaw::RpcError,
                Flaw::Status500,
                Flaw::Stray,
            ];
            // Stray bytes break the connection but not the answer.
            let few = u64::from(kind == Kind::FewFlaws);
            let flaw = flaws[c.below(flaws.len() as u64 - 1 + few) as usize];
            if kind == Kind::Flawed {
                peer.flaw = (flaw, within(c, 50, 400), 0);
                parts.blame(AtFault::Target);
            } else {
                peer.flaw = (flaw, 2, 0);
                parts.blame(AtFault::NotTheGenerator);
                parts.ok_at_least = 970;
            }
        }
        Kind::Stalled => {
            draft.timeout_ms = within(c, 200, 600);
            let from = within(c, SECOND, 2 * SECOND);
            peer.stalls = Some((from, from + within(c, 900, 1500) * MILLI));
            parts.blame(AtFault::Target);
        }
        Kind::Refusing => {
            peer.accept = Accept::Refuse;
            parts.blame(AtFault::Target);
        }
        Kind::RefusingLater => {
            // Connections close after each answer, so that later ones are refused.
            draft.connections = "max = 500, reuse = false".into();
            peer.accept = Accept::Until(secs * SECOND / 2);
            parts.blame(AtFault::Target);
            parts.ok_at_least = 300;
        }
        Kind::BlackHole => {
            draft.timeout_ms = within(c, 300, 1500);
            peer.accept = Accept::BlackHole;
            parts.blame(AtFault::Network);
        }
        Kind::OneDeadAddress => two_addresses(c, draft, parts, true),
        Kind::ManyAddresses => two_addresses(c, draft, parts, false),
        Kind::MovedName => moved_name(c, draft, peer, parts),
        Kind::FailedRefresh => {
            named(draft, "dns_ttl = \"1s\"");
            parts.world.name("node", Nanos::ZERO, Ok(vec![address(1)]));
            parts.world.name("node", Nanos(1), Err("server failure".into()));
        }
        Kind::Capped | Kind::CappedNextToHealthy => {
            // The limit carries 30 to 70 % of the rate.
            let limit = within(c, 2, 8);
            peer.service = limit * SECOND * 100 / (rate * within(c, 30, 70));
            peer.jitter = peer.service / 20;
            draft.connections = format!("max = {limit}");
            draft.timeout_ms = [300, 1000, 3000, 60_000][c.below(4) as usize];
            draft.timeout_ms = draft.timeout_ms.max(3 * peer.service / MILLI);
            parts.blame(AtFault::Generator);
            if kind == Kind::CappedNextToHealthy {
                draft.targets.push(("http://10.0.0.2".into(), 0));
                peer.service *= 2;
                peer.jitter *= 2;
                parts.world.peer(address(2), Peer::healthy(limit * SECOND / (4 * rate)));
                parts.addresses.push(address(2));
                parts.all_ok = vec![1];
            }
        }
        Kind::SlowedDown => {
            let limit = within(c, 4, 16);
            // The limit first carries three times the rate, then half of it.
            peer.service = limit * SECOND / (3 * rate);
            peer.jitter = peer.service / 10;
            let slow = 2 * limit * SECOND / rate;
            peer.slows = Some((within(c, SECOND, 2 * SECOND), slow));
            draft.connections = format!("max = {limit}");
            draft.timeout_ms = [500, 2000, 60_000][c.below(3) as usize].max(3 * slow / MILLI);
            parts.blame(AtFault::Target);
        }
        Kind::Paused | Kind::PausedAtStart => {
            draft.timeout_ms = within(c, 200, 600);
            let length = draft.timeout_ms + within(c, 200, 1200);
            let from = match kind {
                Kind::Paused => within(c, SECOND, 2 * SECOND),
                _ => within(c, 0, 20 * MILLI),
            };
            parts.world.pause(Nanos(from), Nanos(length * MILLI));
            if c.below(2) == 0 {
                // Some requests are waiting for a connection during the pause.
                draft.connections = "max = 500, reuse = false".into();
                peer.rtt = within(c, 10, 60) * MILLI;
            }
            parts.blame(AtFault::Generator);
        }
        Kind::PausedWhileStalled => {
            // Answers arrive while the worker is away, but too late.
            draft.timeout_ms = within(c, 200, 400);
            peer.service = within(c, 20, 100) * MILLI;
            let from = within(c, SECOND, 2 * SECOND);
            let back = from + (draft.timeout_ms + within(c, 10, 100)) * MILLI;
            peer.stalls = Some((from, back));
            parts.world.pause(Nanos(from), Nanos(back - from + within(c, 50, 300) * MILLI));
            parts.blame(AtFault::Generator);
        }
        Kind::InFlight | Kind::InFlightStalled => {
            // This limit carries 30 to 70 % of the rate or, beside a stall, three times the rate.
            let is_stalled = kind == Kind::InFlightStalled;
            let limit = if is_stalled { within(c, 100, 150) } else { within(c, 2, 8) };
            let share = if is_stalled { 300 } else { within(c, 30, 70) };
            peer.service = limit * SECOND * 100 / (rate * share);
            peer.jitter = peer.service / 20;
            draft.rest = format!("timeout_from = \"start\"\nmax_in_flight = {limit}\n");
            draft.timeout_ms = 3 * peer.service / MILLI + 200;
            parts.blame(AtFault::Generator);
            if is_stalled {
                let (from, stall) = (within(c, SECOND / 2, SECOND), within(c, 300, 1000));
                peer.stalls = Some((from, from + stall * MILLI));
                // More than the stall: no request times out, although some arrivals wait longer.
                draft.timeout_ms += stall;
                parts.blame(AtFault::NotTheGenerator);
                parts.ok_at_least = 1000;
            }
        }
        Kind::Retried => {
            peer.idle_close = Some(within(c, 1, 50) * MILLI);
            draft.connections = "max = 500, retry_stale = true".into();
            draft.target = "headers = { Idempotency-Key = \"{{seq}}\" }\n".into();
        }
        Kind::ReadsNothing => {
            // No byte of a request leaves this host; some of these targets answer anyway.
            peer.answers_first = c.below(2) == 0;
            parts.world.room(0);
            parts.blame(AtFault::Target);
        }
        Kind::ShortPauses => {
            for _ in 0..within(c, 1, 20) {
                let at = within(c, 0, secs * SECOND);
                parts.world.pause(Nanos(at), Nanos(within(c, 1, 60) * MILLI));
            }
            parts.blame(AtFault::NotTheTarget);
            parts.ok_at_least = 1000;
        }
        Kind::Hostile => {
            draft.targets.push(("http://10.0.0.2".into(), 0));
            draft.timeout_ms = within(c, 1000, 2000);
            let hostile = Peer { flaw: (Flaw::Endless, 20, 0), ..Peer::healthy(MILLI) };
            parts.world.peer(address(2), hostile);
            parts.addresses.push(address(2));
            parts.blame(AtFault::NotTheGenerator);
            parts.all_ok = vec![0];
        }
        Kind::OutOfPorts => {
            draft.connections = "max = 500, reuse = false".into();
            parts.world.ports(within(c, 10, rate * secs / 2));
            parts.blame(AtFault::Generator);
        }
        Kind::SlowHandshakes => {
            peer.accept = Accept::Yes { again: within(c, 50, 300) };
            draft.timeout_ms = within(c, 1500, 3000);
        }
        Kind::SilentTls => {
            draft.targets = vec![("https://10.0.0.1:80".into(), 0)];
            draft.rest = "tls = { insecure = true }\n".into();
            draft.timeout_ms = within(c, 300, 1000);
            parts.blame(AtFault::Target);
        }
        Kind::PartialWrites => {
            parts.world.room(within(c, 500, 5000) as usize);
            draft.targets = vec![("http://10.0.0.1".into(), within(c, 5_000, 30_000) as usize)];
            peer.result = within(c, 10, 20_000) as usize;
        }
        Kind::SlowWorker => {
            // Reading the clock costs 2.5 to 4.5 ms: the worker cannot keep up.
            parts.world.clock_cost(within(c, 5, 9) * MILLI / 2);
            draft.timeout_ms = 60_000;
            parts.blame(AtFault::Generator);
        }
        Kind::TwoStreams => {
            // Each stream alone would keep a slow worker busy.
            parts.world.clock_cost(within(c, 5, 9) * MILLI / 2);
            draft.timeout_ms = 60_000;
            draft.streams = Some((rate, secs));
            parts.blame(AtFault::Generator);
        }
        Kind::IncompleteBodies => {
            peer.flaw = (Flaw::HalfBody, within(c, 100, 300), 0);
            peer.result = within(c, 5_000, 10_000) as usize;
            parts.held_max = Some(within(c, 20, 60) << 10);
            draft.timeout_ms = within(c, 1000, 3000);
            parts.blame(AtFault::Generator);
        }
        Kind::Http2
        | Kind::Http2Flawed
        | Kind::Http2Goaway
        | Kind::Http2Refusing
        | Kind::Http2Calm
        | Kind::Http2PeerLimit
        | Kind::Http2Capped
        | Kind::Http2Window
        | Kind::Http2Hostile
        | Kind::Http2NotSpoken
        | Kind::Http2Silent
        | Kind::Http2Partial
        | Kind::Http2Stalled => http2::set_up(kind, c, base, draft, peer, parts),
        Kind::Idle
        | Kind::IdleDead
        | Kind::Subscribed
        | Kind::SubscribedOdd
        | Kind::SubscribedHostile
        | Kind::Events
        | Kind::EventsOdd
        | Kind::EventsHostile
        | Kind::Http2Events
        | Kind::Http2EventsOdd
        | Kind::Http2EventsHostile
        | Kind::Http2EventsBroken => standing::set_up(kind, c, draft, peer, parts),
        Kind::ChangedRate => parts.change = Change::Rate,
        Kind::HandedOver => parts.change = Change::Shards,
    }
}

fn named(draft: &mut Draft, more: &str) {
    draft.targets = vec![("http://node".into(), 0)];
    draft.connections = format!("max = 500, {more}");
}

/// A name with two addresses, the first possibly dead.
fn two_addresses(c: &mut Sequence, draft: &mut Draft, parts: &mut Parts, dead: bool) {
    named(draft, "dns_ttl = \"60s\"");
    draft.timeout_ms = within(c, 800, 3000);
    if dead && c.below(2) == 0 {
        // So few arrivals that each waits for a new connection.
        draft.load = "rate = \"1/s\"\nduration = \"4s\"\n".into();
    }
    let first = Peer::healthy(5 * MILLI);
    let accept = if dead { Accept::BlackHole } else { first.accept };
    parts.world.peer(address(2), Peer { accept, ..first });
    parts.world.name("node", Nanos::ZERO, Ok(vec![address(2), address(1)]));
    parts.addresses = if dead { vec![] } else { vec![address(1), address(2)] };
}

/// A name that moves to another address; the old one stops answering later.
fn moved_name(c: &mut Sequence, draft: &mut Draft, peer: &mut Peer, parts: &mut Parts) {
    named(draft, "dns_ttl = \"1s\"");
    let moves = within(c, SECOND / 3, 3 * SECOND / 2);
    parts.world.name("node", Nanos::ZERO, Ok(vec![address(1)]));
    parts.world.name("node", Nanos(moves), Ok(vec![address(2)]));
    let new = Peer::healthy(peer.service);
    parts.world.peer(address(2), new);
    parts.addresses = vec![address(2)];
    // The old address stops answering once there was time to resolve the name again.
    peer.stalls = Some((moves + 1_200 * MILLI + peer.service, u64::MAX / 2));
}
