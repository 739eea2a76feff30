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
//! # Abandoned calls
//! An upstream goes on working on a call whose caller has left: closing an HTTP/1.1 connection does not
//! stop it. Such a call keeps its slot until its answer has arrived ([`super::slot`],
//! `call/abandoned.rs`).
//!
//! # Slots for accounts that hold few
//! Slow calls of one account could hold all slots, and a call of another one would wait until the first
//! of them ends. So for each [`KEPT_SHARE`] slots (at least one, from a limit of 2) there is one for
//! accounts that hold fewer than that, on average over the upstreams of their service; only while such accounts
//! call, so that an account that is alone gets all. They are kept from a limit that was set, and added to one that is found: the search would make up
//! for slots that are not used. What waits at the upstream itself still is before such a call.
//!
//! # Calls that hang
//! A call whose upstream has answered nothing since the call was sent, for longer than the patience
//! with it, says nothing about the upstream's capacity, and would hold its slot until its timeout. Its
//! slot is returned ([`Slot::hangs`]), so that an upstream that works again is used at once, but it
//! still counts towards the connections. So an upstream that hangs gets at most its limit of calls per
//! patience. The same holds for a call that is late although the upstream answers others again, if it
//! was sent before the hang ended: most such calls were swallowed. Otherwise they would hold all slots
//! until they time out, and the upstream would be idle for as long.
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

use super::slot::Slot;
use super::waiting::Waiting;
use crate::account::InUse;
use crate::error::ErrorKind;
use crate::local::Local;
use crate::observe::stats::RelayOutcome;
use crate::protocol::Category;

/// The smallest limit that is found: with fewer, one slow call would stop all others.
const LIMIT_MIN: u32 = 4;

/// The limit of an upstream of which nothing is known. It grows as long as the upstream is no slower
/// for it.
const LIMIT_START: u32 = 64;

/// One slot in this many is kept for accounts that hold few.
const KEPT_SHARE: u32 = 8;

/// For how long after a call of such an account.
const KEPT_TIME: Nanos = Nanos::from_secs(60);

/// An upstream of which calls hang and which has answered none for this long hangs.
const SILENCE: Nanos = Nanos::from_millis(500);

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
    /// When a call was last answered.
    answered_at: AtomicU64,
    /// When a call was answered for the first time after a hang.
    resumed_at: AtomicU64,
    /// Until when slots are kept for accounts that hold few.
    kept_until: AtomicU64,
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
            answered_at: AtomicU64::new(0),
            resumed_at: AtomicU64::new(0),
            kept_until: AtomicU64::new(0),
            setting,
            found: Concurrency::new(bounds, method::NAMES.len() + 1),
            queue: queue.clone(),
        }
    }

    /// The most slots at present.
    #[inline]
    pub(crate) fn limit(&self) -> u32 {
        let rest = self.connections();
        match self.setting {
            model::Concurrency::Auto => self.found.limit().min(rest),
            model::Concurrency::Fixed(limit) => limit.min(rest),
            model::Concurrency::Off => rest,
        }
    }

    /// The connections that calls which do not hang may use.
    #[inline]
    fn connections(&self) -> u32 {
        self.queue.connections_max().saturating_sub(self.hanging.load(Relaxed))
    }

    /// Whether the limit says something about the upstream. Calls are not refused for one that is a guess.
    pub(super) fn is_known(&self) -> bool {
        let is_auto = self.setting == model::Concurrency::Auto;
        !is_auto || self.found.is_known() || self.found.limit() >= self.queue.connections_max()
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

    /// A call was answered, perhaps after its caller had left.
    #[inline]
    pub(crate) fn answered(&self, at: Nanos) {
        // While no call hangs, nothing was swallowed.
        if self.hanging.load(Relaxed) > 0 {
            self.resume(at);
        }
        self.answered_at.store(at.0, Relaxed);
    }

    #[cold]
    fn resume(&self, at: Nanos) {
        if at - Nanos(self.answered_at.load(Relaxed)) >= SILENCE {
            self.resumed_at.store(at.0, Relaxed);
        }
    }

    /// Whether a call that is late was swallowed: it was sent before or while the upstream hung. It
    /// does not matter that the upstream answers others by now.
    pub(crate) fn has_swallowed(&self, start: Nanos) -> bool {
        !self.has_answered_since(start) || start.0 < self.resumed_at.load(Relaxed)
    }

    /// For how long it has answered nothing, if it hangs.
    pub(crate) fn silence(&self, now: Nanos) -> Option<Nanos> {
        let silence = now - Nanos(self.answered_at.load(Relaxed));
        (self.in_flight() > 0 && silence >= SILENCE).then_some(silence)
    }

    /// Whether a call has been answered since this time.
    pub(crate) fn has_answered_since(&self, start: Nanos) -> bool {
        self.answered_at.load(Relaxed) >= start.0.max(1)
    }

    /// Takes a slot if one is free and no call waits for it.
    #[inline]
    pub(crate) fn enter<'a>(
        self: &'a Arc<Gate>,
        account: &'a Arc<InUse>,
        local: &'a Local,
    ) -> Option<Slot<'a>> {
        let now = local.recent();
        self.called(account, now);
        if self.waiting.load(SeqCst) > 0 {
            return None;
        }
        let number = self.take(account, now)?;
        account.slots.fetch_add(1, Relaxed);
        Some(Slot::new(self, account, local, number))
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
        Slot::new(self, account, local, number)
    }

    /// Keeps slots for accounts like this one, if it holds few while others hold some.
    #[inline]
    fn called(&self, account: &InUse, now: Nanos) {
        let in_use = u64::from(self.in_use.load(Relaxed));
        if in_use > account.slots.load(Relaxed) && account.holds_less_than(share(self.limit())) {
            let until = now + KEPT_TIME;
            // Calls of all threads read this, so it is not written for each.
            if until - Nanos(self.kept_until.load(Relaxed)) >= Nanos::from_secs(1) {
                self.kept_until.store(until.0, Relaxed);
            }
        }
    }

    /// The most slots in use, for accounts that hold many and for those that hold few.
    #[inline]
    pub(super) fn bounds(&self, now: Nanos) -> (u32, u32) {
        let limit = self.limit();
        if now >= Nanos(self.kept_until.load(Relaxed)) {
            return (limit, limit);
        }
        match self.setting {
            // The search would make up for slots that are not used.
            model::Concurrency::Auto => (limit, (limit + share(limit)).min(self.connections())),
            _ => (limit - share(limit), limit),
        }
    }

    /// The most slots that may be in use after one more call of this account.
    #[inline]
    fn bound(&self, account: &InUse, now: Nanos) -> u32 {
        let (most, few) = self.bounds(now);
        if account.holds_less_than(few.saturating_sub(most)) { few } else { most }
    }

    /// Whether a slot is free for this account.
    pub(super) fn has_room(&self, account: &InUse, now: Nanos) -> bool {
        self.in_use.load(SeqCst) < self.bound(account, now)
    }

    /// Takes a slot if one is free for this account; returns the number of slots in use.
    #[inline]
    pub(super) fn take(&self, account: &InUse, now: Nanos) -> Option<u32> {
        let mut in_use = self.in_use.load(SeqCst);
        loop {
            if in_use >= self.bound(account, now) {
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

    /// A call that hung has ended.
    #[cold]
    pub(super) fn no_longer_hangs(self: &Arc<Gate>, now: impl FnOnce() -> Nanos) {
        self.hanging.fetch_sub(1, SeqCst);
        // The connections may have been the limit.
        self.offer(now);
    }

    /// Returns the slot of a call that hangs; it still counts towards the connections.
    #[cold]
    pub(super) fn hangs(self: &Arc<Gate>, now: impl FnOnce() -> Nanos) {
        self.hanging.fetch_add(1, SeqCst);
        self.leave(now);
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
        if ending == Ending::TimedOut && self.has_swallowed(started) {
            // It hung, which says nothing about its capacity.
            return;
        }
        if ending == Ending::Answered {
            let (before, span) = (self.time.load(Relaxed), (ended - started).0);
            let mean = match before {
                0 => span,
                _ => before - before / TIME_SHARE + span / TIME_SHARE,
            };
            self.time.store(mean.max(1), Relaxed);
            self.answered(ended);
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

/// The slots of a limit that may be kept for accounts that hold fewer.
#[inline]
fn share(limit: u32) -> u32 {
    if limit < 2 { 0 } else { (limit / KEPT_SHARE).max(1) }
}

/// What an outcome says about the upstream's capacity.
#[inline]
fn ending(outcome: RelayOutcome) -> Ending {
    use Category::{Internal, RateLimited, Timeout, Unauthorized, Unavailable};
    match outcome {
        RelayOutcome::Cancelled => Ending::GivenUp,
        RelayOutcome::Failed(ErrorKind::TimedOut) => Ending::TimedOut,
        RelayOutcome::Failed(_)
        | RelayOutcome::Rpc(Internal | RateLimited | Timeout | Unauthorized | Unavailable) => {
            Ending::Failed
        }
        RelayOutcome::Ok | RelayOutcome::Rpc(_) => Ending::Answered,
    }
}
