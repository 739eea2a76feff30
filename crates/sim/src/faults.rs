//! Faults: what goes wrong with a node, when, and for which of its calls.
//!
//! A fault is a kind, a window of time, and a share of the requests that it strikes within. Which
//! requests those are follows from the seed and from how many matching requests came before, so the
//! same sequence of requests meets the same faults. The list can be changed at any time.
//!
//! # Layout
//! - this file: the types
//! - `read`: from TOML and JSON
//! - `armed`: the list in force, and what it does to one request

pub(crate) mod armed;
pub(crate) mod read;

use plimsoll_measure::Nanos;

pub use read::{from_json, from_toml};

/// How many faults may be set at a time.
pub const FAULTS_MAX: usize = 100;

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// When.
    pub window: Window,
    /// For which share of the matching requests, 0 to 1. Without meaning for kinds that change the
    /// node as a whole: lag, reorganisation, chain id, stall, refusal.
    pub share: f64,
    /// Only for this service.
    pub service: Option<String>,
    /// Only for calls of this method; for a batch: if any of its calls is.
    pub method: Option<String>,
}

impl Fault {
    /// A fault of all requests, from now on until it is cleared.
    pub fn new(kind: FaultKind) -> Fault {
        Fault { kind, window: Window::default(), share: 1.0, service: None, method: None }
    }

    /// The same, only for calls of `method`.
    pub fn for_method(self, method: &str) -> Fault {
        Fault { method: Some(method.into()), ..self }
    }

    /// The same, only for this service.
    pub fn for_service(self, service: &str) -> Fault {
        Fault { service: Some(service.into()), ..self }
    }

    /// The same, for a share of the requests, 0 to 1.
    pub fn for_share(self, share: f64) -> Fault {
        Fault { share, ..self }
    }

    /// The same, from `at` after it was set for `length`.
    pub fn during(self, at: Nanos, length: Nanos) -> Fault {
        Fault { window: Window { at, length: Some(length), every: None }, ..self }
    }
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum FaultKind {
    /// A JSON-RPC error in a response with status 200.
    Error {
        /// Its code.
        code: i64,
        /// Its message.
        message: String,
    },
    /// A response with this HTTP status and no JSON-RPC.
    Status {
        /// 400 to 599.
        status: u16,
        /// Seconds for `Retry-After`.
        retry_after: Option<u64>,
    },
    /// Every answer is held until the window ends.
    Stall,
    /// Answers come this much later.
    Delay {
        /// How much.
        by: Nanos,
    },
    /// The node's head stays behind.
    Lag {
        /// By how many blocks.
        blocks: u64,
    },
    /// The newest blocks are replaced by others, once at the start of each window.
    Reorganise {
        /// How many blocks.
        depth: u64,
    },
    /// The node claims to be of another chain.
    ChainId {
        /// Which.
        id: u64,
    },
    /// The connection is reset while the response is sent.
    Reset {
        /// After this many bytes of it.
        after: usize,
    },
    /// The connection is closed while the response is sent.
    Truncate {
        /// After this many bytes of it; `None`: about half.
        after: Option<usize>,
    },
    /// The response comes in small pieces.
    Slow {
        /// Bytes in a piece, at least 1.
        bytes: usize,
        /// From piece to piece.
        every: Nanos,
    },
    /// New connections are refused.
    Refuse,
    /// The answer has an id that nobody asked with.
    WrongId,
    /// The response is no JSON.
    Garbage,
}

impl FaultKind {
    /// Its name in files and counts.
    pub fn name(&self) -> &'static str {
        match self {
            FaultKind::Error { .. } => "error",
            FaultKind::Status { .. } => "status",
            FaultKind::Stall => "stall",
            FaultKind::Delay { .. } => "delay",
            FaultKind::Lag { .. } => "lag",
            FaultKind::Reorganise { .. } => "reorganise",
            FaultKind::ChainId { .. } => "chain_id",
            FaultKind::Reset { .. } => "reset",
            FaultKind::Truncate { .. } => "truncate",
            FaultKind::Slow { .. } => "slow",
            FaultKind::Refuse => "refuse",
            FaultKind::WrongId => "wrong_id",
            FaultKind::Garbage => "garbage",
        }
    }
}

/// When a fault is in force, counted from when it was set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// From here on.
    pub at: Nanos,
    /// How long it lasts; `None`: until it is cleared.
    pub length: Option<Nanos>,
    /// And again each time so much later; longer than `length`.
    pub every: Option<Nanos>,
}

impl Window {
    /// Which of its turns is in force `since` it was set, and when that one ends.
    pub(crate) fn turn(&self, since: Nanos) -> Option<(u64, Nanos)> {
        let (turn, start) = self.started(since)?;
        let end = self.length.map_or(Nanos::MAX, |length| start + length);
        (since < end).then_some((turn, end))
    }

    /// The newest turn that has begun, and when it did.
    pub(crate) fn started(&self, since: Nanos) -> Option<(u64, Nanos)> {
        let into = since.0.checked_sub(self.at.0)?;
        let turn = self.every.map_or(0, |every| into / every.0);
        let start = self.every.map_or(self.at, |every| Nanos(self.at.0 + turn * every.0));
        Some((turn, start))
    }

    /// When it next begins, from `since` on.
    pub(crate) fn next_start(&self, since: Nanos) -> Option<Nanos> {
        match (self.started(since), self.every) {
            (None, _) => Some(self.at),
            (Some(_), None) => None,
            (Some((_, start)), Some(every)) => Some(start + every),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        let ms = Nanos::from_millis;
        let window = |at, length: Option<u64>, every: Option<u64>| Window {
            at: ms(at),
            length: length.map(ms),
            every: every.map(ms),
        };
        let check = |window: Window, since, turn: Option<(u64, u64)>, next: Option<u64>| {
            let turn = turn.map(|(turn, end)| (turn, ms(end)));
            assert_eq!(window.turn(ms(since)), turn, "{window:?} at {since}");
            assert_eq!(window.next_start(ms(since)), next.map(ms), "{window:?} at {since}");
        };
        assert_eq!(window(0, None, None).turn(Nanos::ZERO), Some((0, Nanos::MAX)));
        let once = window(20, Some(5), None);
        check(once, 19, None, Some(20));
        check(once, 20, Some((0, 25)), None);
        check(once, 25, None, None);
        let again = window(20, Some(5), Some(10));
        check(again, 24, Some((0, 25)), Some(30));
        check(again, 26, None, Some(30));
        check(again, 51, Some((3, 55)), Some(60));
    }
}
