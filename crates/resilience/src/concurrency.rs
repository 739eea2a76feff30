//! How many calls an upstream is sent at a time: a limit that finds the upstream's own capacity.
//!
//! # Why
//! Beyond its capacity an upstream answers no more calls, only later: the surplus waits there, unseen,
//! in first-come order, for whoever sent most. At the limit found here it works at full speed and
//! nearly nothing waits at it; the caller keeps the surplus, where it can be ordered and refused.
//!
//! # How
//! With `n` calls in flight all the time, an upstream with `c` servers answers `min(n, c)` calls per
//! service time (Little 1961). Below `c` the latency does not depend on `n`; above it, it grows in
//! proportion. So while the limit is in use, it alternates between two values, and the latencies are
//! compared: if they differ as they do with a queue, both values move down, otherwise up. At the goal
//! the knee lies between the two. BBR probes a link in this way (Cardwell et al. 2016).
//!
//! Vegas (Brakmo and Peterson 1995) and Gradient2 (Netflix, concurrency-limits, 2018) compare the
//! latency with one that is remembered from times without a queue. That was tried first, and simulated:
//! the memory is wrong as soon as the upstream becomes slower or the first calls already meet a queue,
//! and each wrong memory either starves the upstream or lets the queue grow without bound. A comparison
//! of two neighbouring limits needs no memory, and a wrong decision is corrected by the next one.
//!
//! **Ratios.** A call's latency is divided by the usual one of its kind (its method), so that a window
//! with more calls of a slow method does not look slow. The ratio of a window is the geometric mean
//! over its calls: of heavy-tailed latencies, few calls would decide an arithmetic mean. What is usual
//! follows the calls, divided by the ratio that is expected at the present limit; an error in it
//! cancels out in the comparison.
//!
//! **Windows.** After each change of the limit, as many calls are left out as the limit permits,
//! counted from the first that was sent at the new limit: then the queue of the old one is gone. The
//! calls that end are counted, not those that begin, because the first to end of those that begin are
//! the fast ones.
//!
//! **Ramp.** At first nothing is known, and calls of a good upstream must not be refused for that. So
//! until the latency at the limit exceeds the one of calls with at most half as many in flight, the limit
//! doubles with each window. When it does, the excess says where the knee is, by the law above, and the
//! search begins a little above it. The latency of the first calls is used only once, so that
//! it does not matter for long if it was a wrong one.
//!
//! **Decisions** are made when the difference exceeds its standard error, so that an upstream with
//! constant latencies is followed fast and a noisy one slowly. Steps in the same direction double, up
//! to a factor of two; a turn halves them. A latency that jumps begins the search anew.
//!
//! # What does not raise the limit
//! Errors: an upstream that fails fast looks idle. They are no part of a ratio, and while more than one
//! call in eight fails, nothing is decided. Nor is the limit raised while it is not in use, or while
//! calls are given up. If most calls time out at the limit, their latencies say nothing any more, and it
//! is halved. Time alone changes nothing: there is no decay in a pause, and a jump of the
//! clock ends a window at most.
//!
//! # Limits
//! A comparison needs a few hundred calls, so an upstream that answers ten calls a second is followed
//! within minutes, and one with a handful of servers takes seconds to be found again after its capacity
//! has grown tenfold. The figures of the simulation are in `docs/design/overload.md`.
//!
//! # Sharing
//! By all workers. Reading the limit is a load; [`Concurrency::record`] is a few relaxed additions and
//! an approximate logarithm. The thread that happens to end a window computes the new limit under a
//! lock that nobody waits for. Samples that race with the end of a window may be lost.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, AtomicU64};
use std::sync::{Mutex, MutexGuard, TryLockError};

use plimsoll_measure::Nanos;

mod control;

use control::{Control, Window};

/// The shortest window: shorter ones would react to the bursts of a scheduler.
const WINDOW_MIN: Nanos = Nanos::from_millis(50);

/// The calls that a window needs: as many as the limit, within these bounds.
const CALLS_MIN: u32 = 64;
const CALLS_MAX: u32 = 512;

/// A window ends without a result after this many times the calls that it needs: the limit is not in
/// use.
const IDLE: u32 = 4;

/// The usual latency of a kind is the mean over its first calls, as many as this; from then on it moves
/// by one in this many of what a call differs.
const LEARN: u32 = 1_024;

/// The calls that a window of the ramp needs.
const RAMP_CALLS: u32 = 32;

/// Ratios are binary logarithms with this many fractional bits.
const BITS: u32 = 16;
const ONE: i32 = 1 << BITS;

/// No ratio.
const UNKNOWN: i32 = i32::MIN;

/// The largest ratio that a call contributes: 256 times. One call that hung must not outweigh a window.
const RATIO_MAX: i32 = 8 * ONE;

/// The bounds of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// At least 1.
    pub min: u32,
    /// Before anything is known. Calls of a quiet upstream never exceed it, so it does not limit them.
    pub start: u32,
    /// At least `min`.
    pub max: u32,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { min: 2, start: 32, max: 1_000 }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was answered.
    Answered,
    /// It was given up before it was answered: its latency is at least this.
    GivenUp,
    /// It timed out, after the longest time that a call may take.
    TimedOut,
    /// It failed, for a reason that says nothing about the load.
    Failed,
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Its method, below the number that the limit was created with.
    pub kind: usize,
    /// When it was sent.
    pub started: Nanos,
    /// When it ended.
    pub ended: Nanos,
    /// The calls in flight when it was sent, including itself.
    pub in_flight: u32,
    /// How it ended.
    pub ending: Ending,
}

/// See the [module](self).
#[derive(Debug)]
#[repr(align(128))] // two cache lines: what lies beside it is not slowed down
pub struct Concurrency {
    limit: AtomicU32,
    /// When the window began.
    began: AtomicU64,
    /// Calls at the start of the window that do not count, because they were sent before it.
    skipped: AtomicU32,
    /// The calls that count, and the sum of their ratios.
    counted: AtomicU32,
    sum: AtomicI64,
    /// Calls in the low half, those that were sent at the limit in the high half.
    calls: AtomicU64,
    /// The sum of the squares of the ratios, with half of the fractional bits.
    squares: AtomicI64,
    /// Calls that were given up in the low half, failed ones in the high half.
    lost: AtomicU64,
    /// Calls that timed out at the limit.
    timed_out: AtomicU32,
    /// Whether the limit still grows until there is a queue.
    is_ramp: AtomicBool,
    /// The ratio that is expected at the present limit, or [`UNKNOWN`].
    ratio: AtomicI32,
    /// By kind: the logarithm of the usual latency in the low half; of how many calls it is the mean in
    /// the high half.
    usual: Box<[AtomicU64]>,
    bounds: Bounds,
    control: Mutex<Control>,
}

impl Concurrency {
    /// A limit over calls of this many kinds.
    ///
    /// # Panics
    /// The bounds are not in order.
    pub fn new(bounds: Bounds, kinds: usize) -> Concurrency {
        let Bounds { min, start, max } = bounds;
        assert!(min >= 1 && min <= max, "bounds from {min} to {max}");
        let start = start.clamp(min, max);
        Concurrency {
            limit: AtomicU32::new(start),
            began: AtomicU64::new(0),
            skipped: AtomicU32::new(0),
            counted: AtomicU32::new(0),
            sum: AtomicI64::new(0),
            squares: AtomicI64::new(0),
            calls: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            timed_out: AtomicU32::new(0),
            is_ramp: AtomicBool::new(true),
            ratio: AtomicI32::new(0),
            usual: (0..kinds).map(|_| AtomicU64::new(0)).collect(),
            bounds,
            control: Mutex::new(Control::new(start)),
        }
    }

    /// The present limit.
    #[inline]
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// Whether the limit is the result of a search: before, it says little about the upstream.
    pub fn is_known(&self) -> bool {
        !self.is_ramp.load(Relaxed)
    }

    /// Records a call that has ended; returns whether the limit has changed.
    #[inline]
    pub fn record(&self, sample: &Sample) -> bool {
        let Sample { kind, started, ended, in_flight, ending } = *sample;
        if ending == Ending::Failed {
            self.lost.fetch_add(1 << 32, Relaxed);
            return false;
        }
        let limit = self.limit();
        let is_at_limit = in_flight <= limit && u64::from(in_flight) * 5 >= u64::from(limit) * 4;
        let is_ramp = self.is_ramp.load(Relaxed);
        let ratio = self.ratio.load(Relaxed);
        // In the ramp, calls with few others show what is usual.
        let shows_usual = !is_ramp || u64::from(in_flight) * 2 <= u64::from(limit);
        let latency = log2(ended - started);
        let Some(excess) = self.excess(kind, latency, ratio, (ending, shows_usual)) else {
            return false;
        };
        if matches!(ending, Ending::GivenUp | Ending::TimedOut) {
            self.lost.fetch_add(1, Relaxed);
            self.timed_out.fetch_add((is_at_limit && ending == Ending::TimedOut).into(), Relaxed);
        }
        let needed = if is_ramp { RAMP_CALLS } else { limit.clamp(CALLS_MIN, CALLS_MAX) };
        let skipped = self.skipped.load(Relaxed);
        let add = 1 + (u64::from(is_at_limit) << 32);
        let word = self.calls.fetch_add(add, Relaxed) + add;
        let (calls, at_limit) = (word as u32, (word >> 32) as u32);
        let mut is_enough = calls > (skipped + needed) * IDLE;
        if at_limit > skipped {
            self.sum.fetch_add(excess.into(), Relaxed);
            let short = i64::from(excess >> (BITS / 2));
            self.squares.fetch_add(short * short, Relaxed);
            let counted = self.counted.fetch_add(1, Relaxed) + 1;
            is_enough |= counted >= needed;
        }
        is_enough && ended - Nanos(self.began.load(Relaxed)) >= WINDOW_MIN && self.end_window(ended)
    }

    /// The ratio of a call to what is usual for its kind, which follows it; `None` if it says nothing.
    #[inline]
    fn excess(
        &self,
        kind: usize,
        latency: i32,
        ratio: i32,
        (ending, shows_usual): (Ending, bool),
    ) -> Option<i32> {
        let usual = &self.usual[kind];
        let word = usual.load(Relaxed);
        let (known, base) = ((word >> 32) as u32, word as u32 as i32);
        if ending == Ending::TimedOut {
            return Some(if known == 0 { 0 } else { (latency - base).clamp(0, RATIO_MAX) });
        }
        if known == 0 {
            if ending == Ending::GivenUp {
                return None;
            }
            let ratio = if ratio == UNKNOWN { 0 } else { ratio };
            usual.store(1 << 32 | u64::from((latency - ratio) as u32), Relaxed);
            return Some(ratio);
        }
        let excess = (latency - base).clamp(-RATIO_MAX, RATIO_MAX);
        if ending == Ending::GivenUp {
            // It may have been given up before it could have been answered.
            return (excess > ratio.max(0)).then_some(excess);
        }
        if ratio != UNKNOWN && shows_usual {
            let known = (known + 1).min(LEARN);
            let base = base + (excess - ratio) / known as i32;
            usual.store(u64::from(known) << 32 | u64::from(base as u32), Relaxed);
        }
        Some(excess)
    }

    /// Ends the window and sets the limit for the next one.
    #[cold]
    fn end_window(&self, now: Nanos) -> bool {
        let Some(mut control) = self.lock() else { return false };
        let began = Nanos(self.began.load(Relaxed));
        let word = self.calls.load(Relaxed);
        let (calls, at_limit) = (word as u32, (word >> 32) as u32);
        let is_ramp = self.is_ramp.load(Relaxed);
        let calls_min = if is_ramp { RAMP_CALLS } else { CALLS_MIN };
        if now - began < WINDOW_MIN || calls < calls_min {
            // Another thread was faster.
            return false;
        }
        self.calls.store(0, Relaxed);
        let counted = self.counted.swap(0, Relaxed);
        let sum = self.sum.swap(0, Relaxed);
        let lost = self.lost.swap(0, Relaxed);
        let squares = self.squares.swap(0, Relaxed);
        let timed_out = self.timed_out.swap(0, Relaxed);
        let mean = |sum: i64| sum as f64 / f64::from(counted.max(1)) / f64::from(ONE);
        let ratio = mean(sum);
        let window = Window {
            now,
            calls: counted,
            ratio,
            variance: (mean(squares) - ratio * ratio).max(0.0),
            is_limited: counted >= calls_min && at_limit * 4 >= calls,
            is_failing: (lost >> 32) * 8 > u64::from(calls),
            is_given_up: u64::from(lost as u32) * 4 > u64::from(calls),
            is_timed_out: timed_out * 2 > counted,
        };
        let limit = if is_ramp {
            let (limit, is_over) = control.ramp(&window, self.bounds);
            self.is_ramp.store(!is_over, Relaxed);
            limit
        } else {
            control.step(&window, self.bounds)
        };
        let expected = control.expected().map_or(UNKNOWN, |ratio| (ratio * f64::from(ONE)) as i32);
        self.ratio.store(expected, Relaxed);
        self.began.store(now.0, Relaxed);
        // Those in flight were sent under the old limit. As many have ended when the queue that they
        // met is gone.
        let before = self.limit.swap(limit, Relaxed);
        // In the ramp there was no queue yet.
        let is_clean = before == limit || is_ramp && limit > before;
        self.skipped.store(if is_clean { 0 } else { limit }, Relaxed);
        before != limit
    }

    /// The control, unless another thread has it.
    fn lock(&self) -> Option<MutexGuard<'_, Control>> {
        match self.control.try_lock() {
            Ok(control) => Some(control),
            Err(TryLockError::Poisoned(control)) => Some(control.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// The binary logarithm of a duration in nanoseconds, within 0.01, as a number with [`BITS`] fractional
/// bits.
#[inline]
fn log2(span: Nanos) -> i32 {
    let nanos = span.0.max(2);
    let whole = nanos.ilog2();
    // The fraction, from 0 to 1.
    let part = ((nanos << (63 - whole) << 1) >> (64 - BITS)) as i64;
    // log2(1 + x) is x + 0.344 x (1 - x), within 0.008.
    let bent = part + ((part * (i64::from(ONE) - part)) >> BITS) * 22_544 / i64::from(ONE);
    (whole << BITS) as i32 + bent as i32
}

#[cfg(test)]
mod tests;
