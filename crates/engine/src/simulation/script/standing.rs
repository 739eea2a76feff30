//! Scripts of what stays open.

use super::super::draft::Draft;
use super::super::http2::{Hostile, Http2Script};
use super::super::peer::{Accept, Peer};
use super::super::standing::{Oddity, StandingScript};
use super::{AtFault, Kind, MILLI, Parts, SECOND, within};
use plimsoll_measure::FindingId;
use plimsoll_measure::rng::Sequence;

pub(super) fn set_up(
    kind: Kind,
    c: &mut Sequence,
    draft: &mut Draft,
    peer: &mut Peer,
    parts: &mut Parts,
) {
    let sockets = within(c, 1, 40);
    let secs = within(c, 5, 9);
    // The limit of connections is that of requests.
    parts.addresses.clear();
    let is_events = kind.has_events();
    let target = match kind {
        Kind::Idle | Kind::IdleDead => "ws = \"ws://10.0.0.1:80/\"",
        _ if is_events => "sse = \"http://10.0.0.1:80/events\"\nnumbered = true",
        _ => {
            "ws = \"ws://10.0.0.1:80/\"\nsubscribe = { method = \"eth_subscribe\", params = [\"newHeads\"] }"
        }
    };
    let interval = within(c, 20, 400) * MILLI;
    let draw = |c: &mut Sequence, from: &[Oddity]| from[c.below(from.len() as u64) as usize];
    let oddity = match kind {
        Kind::SubscribedHostile => draw(c, &Oddity::HOSTILE),
        Kind::EventsHostile | Kind::Http2EventsHostile => draw(c, &Oddity::HOSTILE_EVENTS),
        Kind::SubscribedOdd => draw(c, &Oddity::ODD),
        Kind::EventsOdd | Kind::Http2EventsOdd => draw(c, &Oddity::ODD[..3]),
        Kind::IdleDead => Oddity::Dead,
        _ => Oddity::None,
    };
    let (messages, at) = (secs * SECOND / interval, within(c, 2, 4));
    peer.standing = Some(StandingScript { interval, messages, oddity, at });
    let mut protocol = "";
    if Kind::HTTP2_EVENTS.contains(&kind) {
        let hostile = (kind == Kind::Http2EventsBroken)
            .then(|| Hostile::ALL[c.below(Hostile::ALL.len() as u64) as usize]);
        // Several streams share a connection.
        let streams = Some(within(c, 1, 30) as u32);
        peer.http2 = Some(Http2Script { streams, hostile, ..Http2Script::default() });
        protocol = "protocol = \"http2\"\n";
    }
    let silence = match oddity {
        _ if matches!(kind, Kind::Idle | Kind::IdleDead) => "",
        Oddity::Silence | Oddity::HalfThenSilence => "silence = \"900ms\"\n",
        _ => "silence = \"5s\"\n",
    };
    let rate = within(c, 20, 400);
    let ping = if is_events { "" } else { "ping = \"1s\"\n" };
    draft.raw = Some(format!(
        "{protocol}max_body = \"10KiB\"\nsockets = {sockets}\nper_second = {rate}\n{ping}{silence}\
         duration = \"{secs}s\"\n[[target]]\n{target}\n"
    ));
    match kind {
        Kind::SubscribedHostile
        | Kind::EventsHostile
        | Kind::Http2EventsHostile
        | Kind::Http2EventsBroken => parts.blame(AtFault::Target),
        Kind::IdleDead => {
            peer.accept = Accept::Refuse;
            parts.blame(AtFault::Target);
        }
        Kind::SubscribedOdd | Kind::EventsOdd | Kind::Http2EventsOdd => {
            parts.must_find = Some(FindingId::TargetMessages);
        }
        _ => {}
    }
}
