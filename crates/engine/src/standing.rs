//! Exchanges that stay open: what is remembered of each, and how its messages are compared.
//!
//! A message is compared with the last [`RECENT`] that the same exchange has received, and with the newest
//! number among them. What a message says of itself (number, time, hash) is read from its JSON as far as it
//! is there; a message without a number has no place in an order and leaves no gap.
//!
//! # After a reconnect
//! The comparison continues where the exchange before ended, so that messages that were sent meanwhile and
//! are not repeated count as gaps: the client has missed them.
//!
//! # Limits
//! A duplicate is recognised among the last [`RECENT`] messages of its exchange. A message is identified by
//! 64 bits of its hash, its id or its text.

use plimsoll_measure::{Nanos, Order};
use plimsoll_plan::Topic;
use plimsoll_rpc::json;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many messages an exchange remembers, at 16 bytes each.
const RECENT: usize = 16;
/// How many numbers a target remembers the first receipt of.
const FIRSTS: usize = 64;
/// Bits of the time of a first receipt: microseconds of twelve days.
const TIME_BITS: u32 = 40;

/// The state of an exchange that has opened and stays open.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) opened_at: Nanos,
    /// When the last message was read; at first, when it opened.
    pub(crate) last_at: Nanos,
    /// When the last sign of life was read: a message, or a comment in an event stream.
    pub(crate) last_seen_at: Nanos,
    /// How many messages were received.
    pub(crate) received: u32,
    /// Whether the present silence was counted.
    pub(crate) is_silent: bool,
    /// When the next ping is due.
    pub(crate) ping_at: Nanos,
    /// When the last ping was sent, until it is answered.
    pub(crate) pinged_at: Option<Nanos>,
    /// How often its user failed before, since the last exchange that lasted.
    pub(crate) failures: u32,
    /// The HTTP status with which it opened; zero over WebSocket.
    pub(crate) status: u16,
    pub(crate) track: Box<Track>,
}

/// What is remembered of the messages of one user.
#[derive(Clone, Debug, Default)]
pub(crate) struct Track {
    newest: Option<u64>,
    /// Numbers and identities; empty places have the identity zero.
    recent: [(u64, u64); RECENT],
    next: usize,
    /// The id of the last event of an event stream, if it has one.
    pub(crate) last_event: Vec<u8>,
    /// How long its server asks to wait before it is opened again.
    pub(crate) retry: Option<Nanos>,
}

/// What a message says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) number: Option<u64>,
    /// Its own timestamp.
    pub(crate) unix: Option<Nanos>,
    /// 64 bits of what distinguishes it from others; never zero.
    identity: u64,
    /// Whether it says that an earlier message no longer holds.
    is_removal: bool,
}

/// What is known of the messages of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Consecutive numbers, each once.
    Numbered,
    /// Several for a number.
    Grouped,
    /// No order.
    Plain,
}

impl From<Topic> for Kind {
    fn from(topic: Topic) -> Kind {
        match topic {
            Topic::Heads => Kind::Numbered,
            Topic::Logs => Kind::Grouped,
            Topic::Other => Kind::Plain,
        }
    }
}

impl Track {
    /// The place of a message among those before.
    pub(crate) fn order(&mut self, kind: Kind, said: &Said) -> Order {
        let Said { number, identity, is_removal, .. } = *said;
        let own = number.unwrap_or(0);
        if self.recent.contains(&(own, identity)) {
            return Order::Duplicate;
        }
        let had_other = self.recent.iter().any(|(other, identity)| *other == own && *identity != 0);
        self.recent[self.next % RECENT] = (own, identity);
        self.next += 1;
        let (Some(own), Kind::Numbered | Kind::Grouped) = (number, kind) else {
            return Order::InOrder { missing: 0 };
        };
        let newest = self.newest.unwrap_or(own);
        let is_first = self.newest.is_none();
        self.newest = Some(newest.max(own));
        if is_removal {
            Order::Replaced
        } else if is_first || own > newest {
            let missing = if kind == Kind::Numbered { (own - newest).saturating_sub(1) } else { 0 };
            Order::InOrder { missing }
        } else if kind == Kind::Grouped && own == newest {
            Order::InOrder { missing: 0 }
        } else if kind == Kind::Numbered && had_other {
            Order::Replaced
        } else {
            Order::Reordered
        }
    }
}

impl Said {
    /// Reads the result of a notification: an object with a block's number and time, or anything else.
    pub(crate) fn of_result(kind: Kind, result: &[u8]) -> Said {
        let mut said = Said::default();
        let mut hash = None;
        if result.first() == Some(&b'{') {
            for member in json::members(result).map_while(Result::ok) {
                match &*member.plain() {
                    b"number" | b"blockNumber" => said.number = quantity(member.value),
                    b"timestamp" | b"blockTimestamp" => {
                        said.unix = quantity(member.value).and_then(unix);
                    }
                    b"hash" => hash = Some(member.value),
                    b"removed" => said.is_removal = member.value == b"true",
                    _ => {}
                }
            }
        }
        // Logs have no hash of their own.
        said.identity = fingerprint(hash.filter(|_| kind == Kind::Numbered).unwrap_or(result));
        said
    }

    /// Reads an event: its id decides its number and what distinguishes it. `count` numbers events without
    /// an id, which are all different.
    pub(crate) fn of_event(kind: Kind, id: Option<&[u8]>, data: &[u8], count: u64) -> Said {
        let mut said = Said::of_result(Kind::Plain, data);
        said.is_removal = false;
        said.identity = match id {
            Some(id) => fingerprint(id),
            None => fingerprint(&count.to_be_bytes()),
        };
        said.number = match kind {
            Kind::Numbered => id.and_then(|id| str::from_utf8(id).ok()?.parse().ok()),
            _ => None,
        };
        said
    }

    /// What distinguishes it from other messages of its target.
    fn key(&self) -> Option<(u64, u64)> {
        self.number.map(|number| (number, self.identity))
    }
}

/// When each of the last numbers was first received by any exchange of a target, on any worker.
///
/// Workers share it without a lock, since one word has both the time and 24 bits of a hash of the message. Two messages
/// whose numbers differ by a multiple of [`FIRSTS`] and that have the same hash, one in 16 million, are taken
/// for one.
#[derive(Debug)]
pub(crate) struct Firsts(Box<[AtomicU64]>);

impl Firsts {
    pub(crate) fn new() -> Firsts {
        Firsts((0..FIRSTS).map(|_| AtomicU64::new(0)).collect())
    }

    /// The time since the first receipt of a message by another exchange; `None` if this is the first.
    #[inline]
    pub(crate) fn since(&self, said: &Said, now: Nanos) -> Option<Nanos> {
        let (number, identity) = said.key()?;
        let place = &self.0[(number % FIRSTS as u64) as usize];
        let hash = (number ^ identity.rotate_left(32)).wrapping_mul(SPREAD) >> TIME_BITS;
        // Zero is for nothing received.
        let hash = hash.max(1);
        let time_of = |word: u64| {
            let micros = word & ((1 << TIME_BITS) - 1);
            (word >> TIME_BITS == hash).then(|| now - Nanos(micros * 1_000))
        };
        let word = place.load(Ordering::Relaxed);
        if let Some(since) = time_of(word) {
            return Some(since);
        }
        let own = hash << TIME_BITS | (now.0 / 1_000) & ((1 << TIME_BITS) - 1);
        match place.compare_exchange(word, own, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => None,
            // Another worker was first.
            Err(word) => time_of(word),
        }
    }
}

/// A quantity of the Ethereum API (`"0x1b4"`), or a decimal number.
fn quantity(raw: &[u8]) -> Option<u64> {
    let text = str::from_utf8(raw).ok()?.trim_matches('"');
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A timestamp in seconds or, as some chains have it, in milliseconds: no second before the year 5138 is
/// this large.
fn unix(stamp: u64) -> Option<Nanos> {
    const MILLIS_FROM: u64 = 100_000_000_000;
    let scale = if stamp < MILLIS_FROM { 1_000_000_000 } else { 1_000_000 };
    stamp.checked_mul(scale).map(Nanos)
}

/// Multiplied with it, a number is spread over all bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// 64 bits of a text; never zero. A multiplication for each 8 bytes spreads them.
fn fingerprint(text: &[u8]) -> u64 {
    let mix = |hash: u64, word: u64| (hash.rotate_left(29) ^ word).wrapping_mul(SPREAD);
    let (words, rest) = text.as_chunks::<8>();
    let hash =
        words.iter().fold(text.len() as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let hash = rest.iter().fold(hash, |hash, byte| mix(hash, u64::from(*byte)));
    (hash ^ hash >> 32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(number: u64, hash: &str) -> Said {
        let text = format!(r#"{{"number":"{number:#x}","hash":"{hash}","timestamp":"0x10"}}"#);
        Said::of_result(Kind::Numbered, text.as_bytes())
    }

    #[test]
    fn heads_have_gaps_duplicates_replacements_and_an_order() {
        let mut track = Track::default();
        let mut check = |number: u64, hash: &str, order: Order| {
            assert_eq!(track.order(Kind::Numbered, &head(number, hash)), order, "{number} {hash}");
        };
        check(100, "a", Order::InOrder { missing: 0 });
        check(101, "b", Order::InOrder { missing: 0 });
        check(101, "b", Order::Duplicate);
        check(105, "f", Order::InOrder { missing: 3 });
        check(103, "d", Order::Reordered);
        check(105, "g", Order::Replaced); // a reorganisation
        check(106, "h", Order::InOrder { missing: 0 });
        check(100, "a", Order::Duplicate);
        // Beyond what is remembered, a repeated message counts as out of order.
        for number in 107..107 + RECENT as u64 {
            check(number, "x", Order::InOrder { missing: 0 });
        }
        check(101, "b", Order::Reordered);
    }

    #[test]
    fn logs_share_a_number_and_may_be_removed() {
        let mut track = Track::default();
        let mut check = |text: &str, order: Order| {
            let said = Said::of_result(Kind::Grouped, text.as_bytes());
            assert_eq!(track.order(Kind::Grouped, &said), order, "{text}");
        };
        let ordered = Order::InOrder { missing: 0 };
        check(r#"{"blockNumber":"0x5","logIndex":"0x0"}"#, ordered);
        check(r#"{"blockNumber":"0x5","logIndex":"0x1"}"#, ordered);
        check(r#"{"blockNumber":"0x5","logIndex":"0x1"}"#, Order::Duplicate);
        check(r#"{"blockNumber":"0x9","logIndex":"0x0"}"#, ordered); // not every block has logs
        check(r#"{"blockNumber":"0x7","logIndex":"0x0"}"#, Order::Reordered);
        check(r#"{"blockNumber":"0x9","logIndex":"0x0","removed":true}"#, Order::Replaced);
    }

    #[test]
    fn anything_else_is_only_compared() {
        let mut track = Track::default();
        let mut check = |text: &str, order: Order| {
            let said = Said::of_result(Kind::Plain, text.as_bytes());
            assert_eq!(track.order(Kind::Plain, &said), order, "{text}");
        };
        check(r#""0xaa""#, Order::InOrder { missing: 0 });
        check(r#""0xab""#, Order::InOrder { missing: 0 });
        check(r#""0xaa""#, Order::Duplicate);
        check("", Order::InOrder { missing: 0 });
        check("{\"number\":\"0x1\"", Order::InOrder { missing: 0 });
    }

    #[test]
    fn events_are_known_by_their_ids() {
        let mut track = Track::default();
        let mut check = |kind, id: Option<&str>, count, order: Order| {
            let said = Said::of_event(kind, id.map(str::as_bytes), b"{}", count);
            assert_eq!(track.order(kind, &said), order, "{id:?}");
        };
        let ordered = Order::InOrder { missing: 0 };
        check(Kind::Plain, None, 1, ordered);
        check(Kind::Plain, None, 2, ordered);
        check(Kind::Plain, Some("9"), 3, ordered);
        check(Kind::Plain, Some("9"), 4, Order::Duplicate);
        let mut track = Track::default();
        let mut check = |id: &str, order: Order| {
            let said = Said::of_event(Kind::Numbered, Some(id.as_bytes()), b"x", 0);
            assert_eq!(track.order(Kind::Numbered, &said), order, "{id}");
        };
        check("7", ordered);
        check("9", Order::InOrder { missing: 1 });
        check("8", Order::Reordered);
        check("8", Order::Duplicate);
        check("0x5", ordered); // no decimal number
    }

    #[test]
    fn timestamps_and_first_receipts() {
        let said = head(5, "a");
        assert_eq!(said.unix, Some(Nanos::from_secs(16)));
        assert_eq!(unix(1_700_000_000_123), Some(Nanos::from_millis(1_700_000_000_123)));
        assert_eq!(unix(u64::MAX), None);
        let firsts = Firsts::new();
        assert_eq!(firsts.since(&said, Nanos(10_000)), None);
        assert_eq!(firsts.since(&said, Nanos(25_500)), Some(Nanos(15_500)));
        assert_eq!(firsts.since(&head(5, "b"), Nanos(30_000)), None, "another block");
        assert_eq!(firsts.since(&head(5, "b"), Nanos(29_000)), Some(Nanos::ZERO), "read before");
        assert_eq!(firsts.since(&head(5 + 64, "b"), Nanos(40_000)), None, "another number");
        assert_eq!(firsts.since(&Said::default(), Nanos(30_000)), None, "no number");
    }

    /// Of the workers that receive a message at the same time, one is the first.
    #[test]
    fn one_worker_is_the_first() {
        let firsts = Firsts::new();
        let work =
            || (0..1_000).filter(|n| firsts.since(&head(*n, "a"), Nanos(*n)).is_none()).count();
        let count: usize = std::thread::scope(|scope| {
            let workers = [(); 4].map(|()| scope.spawn(work));
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert!(count >= 1_000, "{count}");
        let again =
            (1_000 - 64..1_000).filter_map(|n| firsts.since(&head(n, "a"), Nanos(n + 5_000)));
        assert_eq!(again.count(), 64, "all are known");
    }
}
