//! How many calls are sent to an upstream at a time: its gate, which all workers share.
//!
//! A call holds a [`Slot`] from before it is sent until its answer has been read. The limit is found by
//! [`plimsoll_resilience::concurrency`], or set by the operator; `limits.upstream_connections` bounds
//! it in any case, so it also bounds the connections. While slots are free and nobody waits, taking one
//! is a load and a compare-and-exchange, and a second addition for the account. A call that finds no
//! slot waits ([`super::waiting`]).
//!
//! # Hand-over
//! A slot that is returned goes to a waiting call, if there is one, and never to a call that has just
//! arrived. The order of operations guarantees that none is lost: a call that is to wait first counts
//! itself in `waiting` and then looks for a free slot; whoever returns a slot first frees it and then
//! looks at `waiting`. Both orders are sequentially consistent, so at least one of the two sees the
//! other. All slots of waiting calls are assigned under the lock of the queue.
//!
//! # Calls that hang
//! A call whose upstream has answered nothing since the call was sent, for longer than the patience
//! with it, says nothing about the upstream's capacity, and would hold its slot until its timeout. Its
//! slot is returned ([`Slot::hangs`]), so that an upstream that works again is used at once, but it
//! still counts towards the connections. So an upstream that hangs gets at most its limit of calls per
//! patience.
//!
//! # What has no slot
//! Health checks and checks of the chain id: at most one of each for an upstream and service, in this
//! process. Look-ups of a transaction in doubt take a slot beyond the limit.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};

use plimsoll_measure::Nanos;
use plimsoll_registry::model;
use plimsoll_resilience::concurrency::{Bounds, Concurrency, Ending, Sample};
use plimsoll_rpc::method::{self, Method};

use super::waiting::Waiting;
use crate::account::InUse;
use crate::error::ErrorKind;
use crate::local::Local;
use crate::observe::stats::RelayOutcome;
use crate::protocol::Category;

/// The smallest limit that is found: with fewer, one slow call would stop all others.
const LIMIT_MIN: u32 = 4;

/// The limit of an upstream of which nothing is known. It is raised once calls would use more.
const LIMIT_START: u32 = 32;

/// The weight of a call in the mean time of an answer.
const TIME_SHARE: u64 = 16;

/// A gate; outlives the replacement of the `Routing` as long as the upstream's address stays the same.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Slots in use.
    in_use: AtomicU32,
    /// Calls that hang and have returned their slots.
    hanging: AtomicU32,
    /// Calls that wait for a slot of this gate, perhaps among others.
    pub(super) waiting: AtomicU32,
    /// The mean time of an answer, in nanoseconds; 0 if there was none.
    time: AtomicU64,
    setting: model::Concurrency,
    found: Concurrency,
    pub(super) queue: Arc<Waiting>,
}

impl Gate {
    pub(crate) fn new(setting: model::Concurrency, queue: &Arc<Waiting>) -> Gate {
        let max = queue.connections_max();
        let bounds = Bounds { min: LIMIT_MIN.min(max), start: LIMIT_START, max };
        Gate {
            in_use: AtomicU32::new(0),
            hanging: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            time: AtomicU64::new(0),
            setting,
            found: Concurrency::new(bounds, method::NAMES.len() + 1),
            queue: queue.clone(),
        }
    }

    /// The most slots at present.
    #[inline]
    pub(crate) fn limit(&self) -> u32 {
        let rest = self.queue.connections_max().saturating_sub(self.hanging.load(Relaxed));
        match self.setting {
            model::Concurrency::Auto => self.found.limit().min(rest),
            model::Concurrency::Fixed(limit) => limit.min(rest),
            model::Concurrency::Off => rest,
        }
    }

    /// Calls in flight, with those that hang.
    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_use.load(Relaxed) + self.hanging.load(Relaxed)
    }

    /// The mean time of an answer.
    pub(super) fn time(&self) -> Option<Nanos> {
        Some(Nanos(self.time.load(Relaxed))).filter(|time| *time > Nanos::ZERO)
    }

    /// Takes a slot if one is free and no call waits for it.
    #[inline]
    pub(crate) fn enter<'a>(
        self: &'a Arc<Gate>,
        account: &'a Arc<InUse>,
        local: &'a Local,
    ) -> Option<Slot<'a>> {
        if self.waiting.load(SeqCst) > 0 {
            return None;
        }
        let number = self.take()?;
        account.slots.fetch_add(1, Relaxed);
        Some(Slot { gate: self, account, local, number, is_hanging: false })
    }

    /// Takes a slot even if none is free.
    #[cold]
    pub(crate) fn force<'a>(
        self: &'a Arc<Gate>,
        account: &'a Arc<InUse>,
        local: &'a Local,
    ) -> Slot<'a> {
        let number = self.in_use.fetch_add(1, SeqCst) + 1;
        account.slots.fetch_add(1, Relaxed);
        Slot { gate: self, account, local, number, is_hanging: false }
    }

    /// Takes a slot if one is free; returns the number of slots in use.
    #[inline]
    pub(super) fn take(&self) -> Option<u32> {
        let mut in_use = self.in_use.load(SeqCst);
        loop {
            if in_use >= self.limit() {
                return None;
            }
            match self.in_use.compare_exchange_weak(in_use, in_use + 1, SeqCst, SeqCst) {
                Ok(_) => return Some(in_use + 1),
                Err(now) => in_use = now,
            }
        }
    }

    /// Returns a slot without looking for a waiting call.
    pub(super) fn put_back(&self) {
        self.in_use.fetch_sub(1, SeqCst);
    }

    /// Returns a slot; a waiting call gets it.
    #[inline]
    pub(super) fn leave(self: &Arc<Gate>, now: impl FnOnce() -> Nanos) {
        self.put_back();
        self.offer(now);
    }

    #[inline]
    fn offer(self: &Arc<Gate>, now: impl FnOnce() -> Nanos) {
        if self.waiting.load(SeqCst) > 0 {
            self.queue.hand_over(self, now());
        }
    }

    /// Records the end of a call that was sent when this many slots were in use.
    #[inline]
    pub(crate) fn ended(
        self: &Arc<Gate>,
        method: Option<Method>,
        in_use: u32,
        (started, ended): (Nanos, Nanos),
        outcome: RelayOutcome,
    ) {
        let ending = ending(outcome);
        if ending == Ending::Answered {
            let (before, span) = (self.time.load(Relaxed), (ended - started).0);
            let mean = match before {
                0 => span,
                _ => before - before / TIME_SHARE + span / TIME_SHARE,
            };
            self.time.store(mean.max(1), Relaxed);
        }
        if self.setting != model::Concurrency::Auto {
            return;
        }
        let kind = method.map_or(method::NAMES.len(), Method::place);
        let sample = Sample { kind, started, ended, in_flight: in_use, ending };
        if self.found.record(&sample) {
            // It may have been raised.
            self.offer(|| ended);
        }
    }
}

/// Permission to send a call to an upstream, for as long as it is held.
pub(crate) struct Slot<'a> {
    gate: &'a Arc<Gate>,
    account: &'a Arc<InUse>,
    local: &'a Local,
    /// The slots in use when this one was taken, including it.
    pub(crate) number: u32,
    is_hanging: bool,
}

impl<'a> Slot<'a> {
    /// The slot that a wait has ended with.
    pub(crate) fn granted(
        gate: &'a Arc<Gate>,
        account: &'a Arc<InUse>,
        local: &'a Local,
        number: u32,
    ) -> Slot<'a> {
        Slot { gate, account, local, number, is_hanging: false }
    }

    /// Returns the slot although the call goes on, because the upstream hangs.
    #[cold]
    pub(crate) fn hangs(&mut self) {
        if !std::mem::replace(&mut self.is_hanging, true) {
            self.gate.hanging.fetch_add(1, SeqCst);
            self.account.slots.fetch_sub(1, Relaxed);
            self.gate.leave(|| self.local.recent());
        }
    }
}

impl Drop for Slot<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.is_hanging {
            self.gate.hanging.fetch_sub(1, SeqCst);
            // The connections may have been the limit.
            return self.gate.offer(|| self.local.recent());
        }
        self.account.slots.fetch_sub(1, Relaxed);
        self.gate.leave(|| self.local.recent());
    }
}

/// What an outcome says about the upstream's capacity.
#[inline]
fn ending(outcome: RelayOutcome) -> Ending {
    use Category::{Internal, RateLimited, Timeout, Unauthorized, Unavailable};
    match outcome {
        RelayOutcome::Cancelled | RelayOutcome::Failed(ErrorKind::TimedOut) => Ending::GivenUp,
        RelayOutcome::Failed(_)
        | RelayOutcome::Rpc(Internal | RateLimited | Timeout | Unauthorized | Unavailable) => {
            Ending::Failed
        }
        RelayOutcome::Ok | RelayOutcome::Rpc(_) => Ending::Answered,
    }
}
