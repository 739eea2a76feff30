//! What limits and keys refuse, counted by reason for each endpoint and key.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::calendar::Span;

/// What was refused, by reason.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    /// Calls that a limit did not admit.
    pub(crate) limited: [AtomicU64; Limited::NAMES.len()],
    /// Requests without a valid key. Of an endpoint; its keys have none.
    pub(crate) wrong_keys: [AtomicU64; WrongKey::NAMES.len()],
    /// When a wrong key was last logged.
    pub(crate) logged_at: AtomicU64,
}

impl Refused {
    /// How many of each, the limits first.
    pub(crate) fn counts(&self) -> [u64; Refused::REASONS] {
        let all = self.limited.iter().chain(&self.wrong_keys);
        let mut counts = [0; Refused::REASONS];
        counts.iter_mut().zip(all).for_each(|(count, one)| *count = one.load(Relaxed));
        counts
    }

    /// The number of reasons.
    pub(crate) const REASONS: usize = Limited::NAMES.len() + WrongKey::NAMES.len();
}

/// A limit that did not admit a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limited {
    Calls,
    ComputeUnits,
    Daily,
    Monthly,
}

impl Limited {
    pub(crate) const NAMES: [&str; 4] = ["calls", "compute_units", "daily", "monthly"];

    pub(crate) const ALL: [Limited; Limited::NAMES.len()] =
        [Limited::Calls, Limited::ComputeUnits, Limited::Daily, Limited::Monthly];

    /// The quota over this span.
    pub(crate) fn of(span: Span) -> Limited {
        match span {
            Span::Day => Limited::Daily,
            Span::Month => Limited::Monthly,
        }
    }
}

/// Why a request has no valid key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WrongKey {
    Missing,
    Malformed,
    Conflicting,
    Unknown,
    Expired,
    Foreign,
}

impl WrongKey {
    pub(crate) const NAMES: [&str; 6] =
        ["missing", "malformed", "conflicting", "unknown", "expired", "foreign"];

    pub(crate) const ALL: [WrongKey; WrongKey::NAMES.len()] = [
        WrongKey::Missing,
        WrongKey::Malformed,
        WrongKey::Conflicting,
        WrongKey::Unknown,
        WrongKey::Expired,
        WrongKey::Foreign,
    ];

    /// What is logged of the request.
    pub(crate) fn words(self) -> &'static str {
        match self {
            WrongKey::Missing => "has no key",
            WrongKey::Malformed => "has a malformed key",
            WrongKey::Conflicting => "has several keys",
            WrongKey::Unknown => "has an unknown key",
            WrongKey::Expired => "has a key that has expired",
            WrongKey::Foreign => "has a key of another endpoint",
        }
    }
}
