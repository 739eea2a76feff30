//! Faults that a simulated node injects.
//!
//! A fault has a kind, a time window, and the share of matching requests that it affects during the
//! window. The affected requests follow from the seed and the number of matching requests before, so
//! the same sequence of requests gets the same faults. The list can be changed at any time.
//!
//! # Layout
//! - this file: the types
//! - `read`: reading faults from TOML and JSON
//! - `armed`: the faults that are set, and their effects on a request

pub(crate) mod armed;
pub(crate) mod read;

use plimsoll_measure::Nanos;

pub use read::{from_json, from_toml};

/// Maximum number of faults at a time.
pub const FAULTS_MAX: usize = 100;

/// A fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// When it is in force.
    pub window: Window,
    /// Share of the matching requests that are affected, 0 to 1. Ignored by kinds that affect the
    /// whole node: lag, reorganisation, chain id, stall, refusal, GOAWAY.
    pub share: f64,
    /// Only requests for this service; `None`: all services.
    pub service: Option<String>,
    /// Only calls of this method; `None`: all methods. A batch matches if any of its calls does.
    pub method: Option<String>,
}

impl Fault {
    /// A fault that affects all requests, until it is cleared.
    pub fn new(kind: FaultKind) -> Fault {
        Fault { kind, window: Window::default(), share: 1.0, service: None, method: None }
    }

    /// Restricts the fault to calls of `method`.
    pub fn for_method(self, method: &str) -> Fault {
        Fault { method: Some(method.into()), ..self }
    }

    /// Restricts the fault to this service.
    pub fn for_service(self, service: &str) -> Fault {
        Fault { service: Some(service.into()), ..self }
    }

    /// Restricts the fault to a share of the requests, 0 to 1.
    pub fn for_share(self, share: f64) -> Fault {
        Fault { share, ..self }
    }

    /// Limits the fault to a window of `length` that starts `at` after the fault was set.
    pub fn during(self, at: Nanos, length: Nanos) -> Fault {
        Fault { window: Window { at, length: Some(length), every: None }, ..self }
    }
}

/// The kinds of faults.
#[derive(Debug, Clone, PartialEq)]
pub enum FaultKind {
    /// A JSON-RPC error in a response with status 200.
    Error {
        /// The error code.
        code: i64,
        /// The error message.
        message: String,
    },
    /// A response with this HTTP status and no JSON-RPC.
    Status {
        /// 400 to 599.
        status: u16,
        /// Seconds for `Retry-After`.
        retry_after: Option<u64>,
    },
    /// All answers are held until the window ends.
    Stall,
    /// Answers are delayed.
    Delay {
        /// The delay.
        by: Nanos,
    },
    /// The node's head lags behind the chain.
    Lag {
        /// By this number of blocks.
        blocks: u64,
    },
    /// The newest blocks are replaced by others, once at the start of each window.
    Reorganise {
        /// Number of blocks that are replaced.
        depth: u64,
    },
    /// The node reports another chain id.
    ChainId {
        /// The chain id.
        id: u64,
    },
    /// The connection is reset while the response is sent.
    Reset {
        /// After this many bytes of the response.
        after: usize,
    },
    /// The connection is closed while the response is sent.
    Truncate {
        /// After this many bytes of the response; `None`: about half.
        after: Option<usize>,
    },
    /// The response is sent in small chunks.
    Slow {
        /// Bytes per chunk, at least 1.
        bytes: usize,
        /// Pause between chunks.
        every: Nanos,
    },
    /// New connections are refused.
    Refuse,
    /// The answer has an id that was not sent.
    WrongId,
    /// The response is not JSON.
    Garbage,
    /// HTTP/2 connections end with GOAWAY after a number of streams; those in progress are answered.
    Goaway {
        /// Number of streams, at least 1.
        after: u64,
    },
    /// HTTP/2 streams are refused with REFUSED_STREAM.
    RefuseStream,
    /// HTTP/2 connections end with GOAWAY ENHANCE_YOUR_CALM, together with all their streams.
    Calm,
    /// WebSocket connections are closed instead of the answer or notification.
    Close {
        /// The code in the close frame: 1000 to 4999.
        code: u16,
    },
    /// Subscriptions are sent nothing.
    Silence,
    /// A notification is not sent.
    Drop,
    /// A notification is sent twice.
    Duplicate,
    /// A notification is sent after the next one of its subscription.
    Reorder,
}

impl FaultKind {
    /// The name in files and counts.
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
            FaultKind::Goaway { .. } => "goaway",
            FaultKind::RefuseStream => "refuse_stream",
            FaultKind::Calm => "enhance_your_calm",
            FaultKind::Close { .. } => "close",
            FaultKind::Silence => "silence",
            FaultKind::Drop => "drop",
            FaultKind::Duplicate => "duplicate",
            FaultKind::Reorder => "reorder",
        }
    }
}

/// When a fault is in force, counted from when it was set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Start of the window.
    pub at: Nanos,
    /// Length of the window; `None`: until the fault is cleared.
    pub length: Option<Nanos>,
    /// Repeats the window at this interval, which must be longer than `length`.
    pub every: Option<Nanos>,
}

impl Window {
    /// The number and the end of the repetition that is in force at `since`.
    pub(crate) fn turn(&self, since: Nanos) -> Option<(u64, Nanos)> {
        let (turn, start) = self.started(since)?;
        let end = self.length.map_or(Nanos::MAX, |length| start + length);
        (since < end).then_some((turn, end))
    }

    /// The number and the start of the latest repetition that has begun by `since`.
    pub(crate) fn started(&self, since: Nanos) -> Option<(u64, Nanos)> {
        let into = since.0.checked_sub(self.at.0)?;
        let turn = self.every.map_or(0, |every| into / every.0);
        let start = self.every.map_or(self.at, |every| Nanos(self.at.0 + turn * every.0));
        Some((turn, start))
    }

    /// The next start of the window after `since`.
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
