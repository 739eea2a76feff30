//! Leases: tokens of a shared bucket that a replica holds and spends without asking.
//!
//! # Why
//! A bucket that every call asked Redis for would cost each call a round trip. A bucket of its own for
//! each replica would admit as many times the limit as there are replicas. So a replica takes tokens out
//! of the shared bucket in blocks, and spends them from its own memory.
//!
//! # Exactness
//! Only tokens that the shared bucket has given out are spent, and each once, so the replicas together
//! never admit more than `rate × time + burst`, however calls are spread over them. They admit less by
//! what is leased and not spent. A block is therefore sized by demand: its size doubles if the next one is
//! asked for within [`BLOCK_TIME_MIN`], and shrinks if that takes longer than [`BLOCK_TIME_MAX`], to at
//! least one token and at most an eighth of the burst ([`block_max`]). A replica returns what it has not spent
//! within [`IDLE_TIME`], and forgets what it could not return within [`HOLD_TIME`], for example because
//! it was stopped: a token that comes back after a minute must not be admitted in addition to that
//! minute's. A replica that is killed takes at most one block with it.
//!
//! # When a call waits
//! A lease is renewed when half of a block of at least [`AHEAD_MIN`] is left; smaller ones are not renewed ahead, because
//! a replica that holds the only token of a slow bucket would refuse the calls of the others. A call
//! finds no token in three cases: it is the first after a pause, the bucket is slow, or the limit is
//! reached. In the last one the store has said when there will be tokens again; until then, and for a
//! second at most, calls are refused without asking.
//!
//! # Costs
//! A call is admitted if at least one token is left, and charged in full; the balance may fall below
//! zero. The debt is part of the next block that is asked for.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use plimsoll_measure::Nanos;

/// If the next block is asked for sooner, it is twice as large.
const BLOCK_TIME_MIN: Nanos = Nanos::from_millis(25);

/// If the next block is asked for later, it is smaller.
const BLOCK_TIME_MAX: Nanos = Nanos::from_millis(100);

/// After how long the block after a smaller one will be asked for.
const BLOCK_TIME: Nanos = Nanos::from_millis(50);

/// The smallest block that is renewed before it is spent.
const AHEAD_MIN: i64 = 4;

/// A lease that was not renewed for this long is returned.
const IDLE_TIME: Nanos = Nanos::from_millis(500);

/// Tokens that are older are not spent.
const HOLD_TIME: Nanos = Nanos::from_secs(1);

/// While a limit is reached, tokens are awaited for up to this long, so that a block of them is asked for
/// and not each one.
const PAUSE_MAX: Nanos = Nanos::from_millis(10);

/// A bucket that was empty is asked again after this long at the latest.
const ASK_AFTER: Nanos = Nanos::from_secs(1);

/// The largest block of a bucket of this rate and burst.
pub(crate) fn block_max(rate: f64, burst: Nanos) -> i64 {
    ((rate * burst.as_secs_f64() / 8.0) as i64).max(1)
}

/// What a replica holds of a bucket.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Tokens; below 0: a debt.
    balance: AtomicI64,
    /// Until when the tokens may be spent.
    until: AtomicU64,
    /// Until when the shared bucket is expected to be empty.
    empty_until: AtomicU64,
    /// Until when it is not asked again: [`ASK_AFTER`] at most, because a store that was restarted has
    /// full buckets.
    unasked_until: AtomicU64,
    /// The balance at which the lease is renewed.
    low: AtomicI64,
    /// What the calls cost that wait for tokens.
    waiting: AtomicU64,
    block_max: i64,
    /// The longest pause while the limit is reached.
    pause_max: Nanos,
    /// Used by the keeper only.
    block: Mutex<Block>,
}

/// The size of the blocks, and when the last one was asked for.
#[derive(Debug)]
struct Block {
    tokens: i64,
    asked_at: Nanos,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is admitted; `is_low`: the lease is to be renewed, and there may be tokens.
    Yes { is_low: bool },
    /// It is admitted by this replica's own part of the limit.
    Locally,
    /// The limit is reached; how long until there are tokens.
    No(Nanos),
    /// The lease is empty; the shared bucket may have tokens.
    Empty,
}

/// What to ask the shared bucket for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// Tokens to take, or as many as there are.
    pub(crate) want: u64,
    /// Tokens to return before.
    pub(crate) back: u64,
}

/// What the shared bucket has given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) tokens: u64,
    /// How long until there will be a token; zero if there are more.
    pub(crate) wait: Nanos,
}

impl Lease {
    pub(crate) fn new(rate: f64, burst: Nanos) -> Lease {
        Lease {
            balance: AtomicI64::new(0),
            until: AtomicU64::new(0),
            empty_until: AtomicU64::new(0),
            unasked_until: AtomicU64::new(0),
            low: AtomicI64::new(i64::MIN),
            waiting: AtomicU64::new(0),
            block_max: block_max(rate, burst),
            pause_max: PAUSE_MAX.min(Nanos(burst.0 / 8)),
            block: Mutex::new(Block { tokens: 1, asked_at: Nanos::ZERO }),
        }
    }

    /// Spends tokens for a call of this cost.
    #[inline]
    pub(crate) fn take(&self, cost: u64, now: Nanos) -> Taken {
        if now.0 < self.until.load(Relaxed) {
            let spend = |balance: i64| (balance > 0).then(|| balance - cost as i64);
            if let Ok(before) = self.balance.fetch_update(Relaxed, Relaxed, spend) {
                let is_low = before - cost as i64 <= self.low.load(Relaxed)
                    && now.0 >= self.unasked_until.load(Relaxed);
                return Taken::Yes { is_low };
            }
        }
        if now.0 >= self.unasked_until.load(Relaxed) {
            return Taken::Empty;
        }
        Taken::No(Nanos(self.empty_until.load(Relaxed).saturating_sub(now.0)))
    }

    /// Whether no token is left, and the shared bucket had none when it was asked last.
    pub(crate) fn is_at_limit(&self, now: Nanos) -> bool {
        !self.is_held() && now.0 < self.empty_until.load(Relaxed)
    }

    /// Returns the tokens of a call that was not made.
    pub(crate) fn give_back(&self, cost: u64) {
        self.balance.fetch_add(cost as i64, Relaxed);
    }

    /// Records that a call of this cost waits for tokens.
    pub(crate) fn wait(&self, cost: u64) {
        self.waiting.fetch_add(cost, Relaxed);
    }

    /// What to ask for now.
    pub(crate) fn request(&self, now: Nanos) -> Request {
        let mut block = self.block.lock().unwrap_or_else(PoisonError::into_inner);
        let lasted = now - block.asked_at;
        if lasted < BLOCK_TIME_MIN {
            block.tokens = (block.tokens * 2).min(self.block_max);
        } else if lasted > BLOCK_TIME_MAX {
            let share = BLOCK_TIME.as_secs_f64() / lasted.as_secs_f64();
            block.tokens = ((block.tokens as f64 * share) as i64).max(1);
        }
        block.asked_at = now;
        let low = if block.tokens >= AHEAD_MIN { block.tokens / 2 } else { i64::MIN };
        self.low.store(low, Relaxed);
        let waiting = self.waiting.swap(0, Relaxed) as i64;
        if now.0 >= self.until.load(Relaxed) {
            self.drop_tokens();
        }
        let balance = self.balance.load(Relaxed);
        Request { want: (block.tokens.max(waiting) - balance).max(0) as u64, back: 0 }
    }

    /// Adds what the shared bucket has given to a request.
    pub(crate) fn granted(&self, request: Request, grant: Grant, now: Nanos) {
        let pause = grant.wait.max(self.pause_max);
        let is_empty = grant.tokens < request.want;
        let until = |pause: Nanos| if is_empty { (now + pause).0 } else { 0 };
        self.empty_until.store(until(pause), Relaxed);
        self.unasked_until.store(until(pause.min(ASK_AFTER)), Relaxed);
        if grant.tokens > 0 {
            self.until.store((now + HOLD_TIME).0, Relaxed);
            self.balance.fetch_add(grant.tokens as i64, Relaxed);
        }
    }

    /// Whether tokens are held.
    pub(crate) fn is_held(&self) -> bool {
        self.balance.load(Relaxed) > 0
    }

    /// Gives up tokens that are not needed: what to return, if they are not too old.
    pub(crate) fn tidy(&self, now: Nanos) -> Option<Request> {
        let block = self.block.lock().unwrap_or_else(PoisonError::into_inner);
        if now - block.asked_at < IDLE_TIME {
            return None;
        }
        let is_fresh = now.0 < self.until.load(Relaxed);
        let back = self.drop_tokens();
        (is_fresh && back > 0).then_some(Request { want: 0, back })
    }

    /// Takes all tokens out; a debt stays.
    fn drop_tokens(&self) -> u64 {
        let drop = |balance: i64| (balance > 0).then_some(0);
        self.balance.fetch_update(Relaxed, Relaxed, drop).unwrap_or(0) as u64
    }
}

#[cfg(test)]
mod tests;
