//! The waiting calls of a service: how long they may wait, and how fast they are served.
//!
//! # How long calls wait
//! A burst may wait, and so may calls during a stall of the upstreams or of the whole machine; a
//! standing queue must not: it makes every call late and serves no more of them. That is the idea of CoDel
//! (Nichols and Jacobson 2012) and of its use in servers (Maurer, "Fail at scale", 2015), whose times
//! of 5 and 100 ms would refuse calls of a healthy system on a busy machine, though.
//!
//! Calls wait up to [`WAIT_LONG`], and a queue in which a call waits for less than [`LATE`], or two
//! answers, is none to be concerned about: so a fixed number of callers, each of which waits for its
//! answer, is not refused. Once no call of an account has been served within that for [`STANDS`], its
//! queue stands: then calls wait up to [`WAIT_SHORT`], or two answers. This ends when less than one
//! call in [`CALM_SHARE`] is refused: the demand is no longer above the capacity. Each account has its own
//! state, as each flow has in FQ-CoDel (RFC 8290), so that an account that sends bursts within its
//! share is not treated as the one whose queue stands. A wait never takes more than half of the time
//! that a call has left.
//!
//! # Pace
//! The interval between two slots that the service's calls are given is measured while calls wait. A
//! call is expected to wait for as many intervals as there are calls before it, and as long again as
//! no slot has been given: a stall that has lasted for some time will last about as long again. So a
//! queue at upstreams that hang is recognized.
//!
//! Written under the lock of the queue (`upstream/waiting.rs`); read by anyone.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use plimsoll_measure::Nanos;

/// The longest wait, unless the queue stands: a stall of a second, and the calls that have come
/// meanwhile.
pub(crate) const WAIT_LONG: Nanos = Nanos::from_secs(3);

/// The longest wait while the limit of an upstream is a guess.
pub(crate) const WAIT_UNKNOWN: Nanos = Nanos::from_secs(10);

/// The longest wait in a standing queue, unless two answers take longer: callers hardly notice it, and
/// it is more than the scheduler of a busy machine takes.
pub(crate) const WAIT_SHORT: Nanos = Nanos::from_millis(100);

/// A queue in which calls wait for less does not stand, nor if they wait for less than two answers.
const LATE: Nanos = Nanos::from_secs(1);

/// A queue whose calls have been late for this long stands. Longer than a stall of a second and the
/// queue that it leaves behind at half of the capacity.
pub(crate) const STANDS: Nanos = Nanos::from_secs(4);

/// How often it is checked whether a queue still stands.
const CALM: Nanos = Nanos::from_secs(1);

/// It does not if less than one call in this many is refused.
const CALM_SHARE: u32 = 32;

/// Calls that waited longer ago than this say nothing about the pace of a new queue.
const PACE_KEPT: Nanos = Nanos::from_secs(1);

/// An interval counts as at most this many times the mean, so that a single stall does not make the
/// queue look slow.
const INTERVAL_GROWTH: u64 = 4;

/// The weight of a grant in the mean interval between two.
const INTERVAL_SHARE: u64 = 8;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// With a slot.
    Served,
    /// The call was refused at once, because its turn would have come too late.
    Early,
    /// Its turn did not come in time.
    Late,
    /// Too many calls were waiting.
    Full,
    /// The caller left.
    Left,
}

impl Waited {
    /// All variants, in declaration order.
    pub(crate) const ALL: [Waited; 5] =
        [Waited::Served, Waited::Early, Waited::Late, Waited::Full, Waited::Left];

    /// The name in metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Waited::Served => "served",
            Waited::Early => "early",
            Waited::Late => "late",
            Waited::Full => "full",
            Waited::Left => "left",
        }
    }
}

/// Calls that wait, and whether their queue stands.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    waiting: AtomicU32,
    /// Since when calls have been waiting.
    since: AtomicU64,
    /// When the last one went.
    emptied: AtomicU64,
    /// When none waited, or one was served in time.
    good: AtomicU64,
    /// Whether the queue stands.
    is_standing: AtomicBool,
    /// When calls were first counted as arrived and refused, and how many were; while the queue stands.
    counted_from: AtomicU64,
    arrived: AtomicU32,
    refused: AtomicU32,
}

impl Crowd {
    /// The longest wait of a call that arrives now.
    pub(crate) fn allowed(&self, time: Nanos, now: Nanos) -> Nanos {
        if self.waiting.load(Relaxed) == 0 {
            self.good.store(now.0, Relaxed);
        }
        let good = Nanos(self.good.load(Relaxed));
        if self.is_standing.load(Relaxed) {
            self.calm_down(now);
        } else if now - good >= STANDS {
            self.is_standing.store(true, Relaxed);
            self.count_from(now);
        }
        self.arrived.fetch_add(1, Relaxed);
        let least = if self.is_standing.load(Relaxed) { WAIT_SHORT } else { WAIT_LONG };
        least.max(Nanos(time.0 * 2))
    }

    /// Whether a call has waited for longer than a standing queue permits, because it came before the
    /// queue stood: it is refused rather than served, or it would keep the queue standing.
    pub(crate) fn is_stale(&self, waited: Nanos, time: Nanos) -> bool {
        self.is_standing.load(Relaxed) && waited > WAIT_SHORT.max(Nanos(time.0 * 2))
    }

    /// Ends the shedding if hardly any call was refused.
    fn calm_down(&self, now: Nanos) {
        let span = now - Nanos(self.counted_from.load(Relaxed));
        if span < CALM {
            return;
        }
        let (arrived, refused) = (self.arrived.load(Relaxed), self.refused.load(Relaxed));
        // Those of a moment long ago say nothing.
        if refused * CALM_SHARE < arrived || span >= CALM + CALM {
            self.is_standing.store(false, Relaxed);
            self.good.store(now.0, Relaxed);
        }
        self.count_from(now);
    }

    fn count_from(&self, now: Nanos) {
        self.counted_from.store(now.0, Relaxed);
        self.arrived.store(0, Relaxed);
        self.refused.store(0, Relaxed);
    }

    /// A call was refused.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// A call got a slot after this time.
    pub(crate) fn served(&self, waited: Nanos, time: Nanos, now: Nanos) {
        if waited <= LATE.max(Nanos(time.0 * 2)) {
            self.good.store(now.0, Relaxed);
        }
    }

    pub(crate) fn added(&self, now: Nanos) {
        if self.waiting.fetch_add(1, Relaxed) == 0 {
            self.since.store(now.0, Relaxed);
        }
    }

    pub(crate) fn removed(&self, now: Nanos) {
        if self.waiting.fetch_sub(1, Relaxed) == 1 {
            self.emptied.store(now.0, Relaxed);
        }
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Line {
    pub(crate) crowd: Crowd,
    /// The last grant.
    granted: AtomicU64,
    /// The mean interval between two grants; 0 if it is not known.
    pub(crate) interval: AtomicU64,
    ended: [AtomicU64; Waited::ALL.len()],
    /// The time that calls waited that got a slot, in nanoseconds.
    waited: AtomicU64,
}

impl Line {
    /// The calls that wait.
    pub(crate) fn waiting(&self) -> u32 {
        self.crowd.waiting.load(Relaxed)
    }

    /// The waits that ended so.
    pub(crate) fn ended(&self, how: Waited) -> u64 {
        self.ended[how as usize].load(Relaxed)
    }

    /// The time that calls waited that got a slot.
    pub(crate) fn waited(&self) -> Nanos {
        Nanos(self.waited.load(Relaxed))
    }

    pub(crate) fn count(&self, how: Waited) {
        self.ended[how as usize].fetch_add(1, Relaxed);
    }

    /// A call begins to wait.
    pub(crate) fn added(&self, now: Nanos) {
        if self.waiting() == 0 && now - Nanos(self.crowd.emptied.load(Relaxed)) >= PACE_KEPT {
            self.interval.store(0, Relaxed);
        }
        self.crowd.added(now);
    }

    /// The usual interval between two grants.
    pub(crate) fn pace(&self, usual: Nanos) -> Nanos {
        match self.interval.load(Relaxed) {
            0 => usual,
            mean => Nanos(mean),
        }
    }

    /// For how long calls have been waiting without a grant.
    pub(crate) fn stalled(&self, now: Nanos) -> Nanos {
        if self.waiting() == 0 {
            return Nanos::ZERO;
        }
        now - Nanos(self.granted.load(Relaxed).max(self.crowd.since.load(Relaxed)))
    }

    pub(crate) fn granted(&self, waited: Nanos, now: Nanos) {
        let before = self.granted.swap(now.0, Relaxed).max(self.crowd.since.load(Relaxed));
        let interval = (now - Nanos(before)).0;
        let mean = match self.interval.load(Relaxed) {
            0 => interval,
            mean => {
                let interval = interval.min(INTERVAL_GROWTH * mean);
                mean - mean / INTERVAL_SHARE + interval / INTERVAL_SHARE
            }
        };
        self.interval.store(mean.max(1), Relaxed);
        self.waited.fetch_add(waited.0, Relaxed);
        self.count(Waited::Served);
    }
}
