//! Scripts of HTTP/2 servers.

use super::super::draft::Draft;
use super::super::http2::{Hostile, Http2Script};
use super::super::peer::{Flaw, Peer};
use super::{AtFault, BaseLoad, Kind, MILLI, Parts, SECOND, address, within};
use plimsoll_measure::FindingId;
use plimsoll_measure::rng::Sequence;

pub(super) fn set_up(
    kind: Kind,
    c: &mut Sequence,
    BaseLoad { secs, rate }: BaseLoad,
    draft: &mut Draft,
    peer: &mut Peer,
    parts: &mut Parts,
) {
    draft.rest = "protocol = \"http2\"\n".into();
    let (connections, streams) = (within(c, 2, 8), within(c, 20, 100));
    draft.connections = http2_limits(connections, streams);
    let streams_allowed = (c.below(2) == 0).then(|| within(c, 50, 300) as u32);
    let mut script = Http2Script { streams: streams_allowed, ..Http2Script::default() };
    peer.service = peer.service.min(20 * MILLI);
    match kind {
        Kind::Http2 => {
            if c.below(3) == 0 {
                draft.load = format!("users = {}\nduration = \"{secs}s\"\n", within(c, 1, 40));
                peer.service = peer.service.max(3 * MILLI);
            }
        }
        Kind::Http2Flawed => {
            let flaws = [
                Flaw::Reset,
                Flaw::Truncate,
                Flaw::Garbage,
                Flaw::Silence,
                Flaw::RpcError,
                Flaw::Status500,
                Flaw::HalfBody,
            ];
            peer.flaw = (flaws[c.below(flaws.len() as u64) as usize], within(c, 50, 400), 0);
            // Streams that are never answered take up a part of the limit.
            draft.connections = http2_limits(20, 500);
            script.streams = None;
            parts.blame(AtFault::Target);
        }
        Kind::Http2Goaway => {
            script.goaway_after = Some(within(c, 30, 300));
            parts.blame(AtFault::NotTheGenerator);
            parts.ok_at_least = 970;
        }
        Kind::Http2Refusing => {
            script.refuses = within(c, 50, 400);
            parts.blame(AtFault::Target);
            parts.must_find = Some(FindingId::TargetGoaway);
        }
        Kind::Http2Calm => {
            script.calm_after = Some(within(c, 5, 60));
            parts.blame(AtFault::Target);
            parts.must_find = Some(FindingId::TargetGoaway);
        }
        Kind::Http2PeerLimit | Kind::Http2Capped => {
            // The limit carries 30 to 70 % of the rate.
            let (connections, streams) = (within(c, 1, 2), within(c, 1, 5));
            let limit = connections * streams;
            peer.service = limit * SECOND * 100 / (rate * within(c, 30, 70));
            peer.jitter = peer.service / 20;
            let is_peers = kind == Kind::Http2PeerLimit;
            draft.connections = http2_limits(connections, if is_peers { 100 } else { streams });
            script.streams = is_peers.then_some(streams as u32);
            draft.timeout_ms = [300, 1000, 3000, 60_000][c.below(4) as usize];
            draft.timeout_ms = draft.timeout_ms.max(3 * peer.service / MILLI);
            parts.blame(AtFault::Generator);
            parts.must_find = Some(match kind {
                Kind::Http2PeerLimit => FindingId::PeerStreamLimit,
                _ => FindingId::ConnectionsCapped,
            });
        }
        Kind::Http2Window => {
            // The first part of each request is sent, the rest never.
            script.window = Some(within(c, 0, 50) as u32);
            script.streams = None;
            draft.connections = http2_limits(100, 1_000);
            draft.timeout_ms = within(c, 300, 1000);
            parts.blame(AtFault::Target);
        }
        Kind::Http2Hostile => {
            draft.targets.push(("http://10.0.0.2".into(), 0));
            draft.timeout_ms = within(c, 1000, 2000);
            let hostile = Hostile::ALL[c.below(Hostile::ALL.len() as u64) as usize];
            let hostile = Http2Script { hostile: Some(hostile), ..Http2Script::default() };
            let hostile = Peer { http2: Some(hostile), ..Peer::healthy(MILLI) };
            parts.world.peer(address(2), hostile);
            parts.addresses.clear();
            parts.blame(AtFault::NotTheGenerator);
            parts.all_ok = vec![0];
        }
        Kind::Http2NotSpoken => {
            parts.addresses.clear();
            peer.answers_first = c.below(2) == 0;
            parts.blame(AtFault::Target);
            return;
        }
        Kind::Http2Silent => {
            script.silent = true;
            draft.timeout_ms = within(c, 300, 1000);
            parts.blame(AtFault::Target);
        }
        Kind::Http2Partial => {
            parts.world.room(within(c, 500, 5000) as usize);
            draft.targets = vec![("http://10.0.0.1".into(), within(c, 5_000, 30_000) as usize)];
            draft.connections = http2_limits(8, 100);
            peer.result = within(c, 10, 20_000) as usize;
            draft.timeout_ms = draft.timeout_ms.max(1_000);
        }
        _ => {
            draft.timeout_ms = within(c, 200, 600);
            draft.connections = http2_limits(20, 500);
            script.streams = None;
            let from = within(c, SECOND, 2 * SECOND);
            peer.stalls = Some((from, from + within(c, 900, 1500) * MILLI));
            parts.blame(AtFault::Target);
        }
    }
    peer.http2 = Some(script);
}

fn http2_limits(connections: u64, streams: u64) -> String {
    format!("http2 = {{ connections = {connections}, streams = {streams} }}")
}
