//! The waiting calls of a service: how long they may wait, and how fast they are served.
//!
//! # How long calls wait
//! A burst may wait, a standing queue must not: it makes every call late and serves no more of them.
//! That is the idea of CoDel (Nichols and Jacobson 2012) and of its use in servers (Maurer, "Fail at
//! scale", 2015). Calls wait up to [`WAIT_LONG`], or four times the time of an answer; once calls of
//! their account have been waiting for [`INTERVAL`], or two answers, without a pause, up to half the
//! time of an answer, at least [`WAIT_SHORT`], until none has waited for as long. Each account has its
//! own state, as each flow has in FQ-CoDel (RFC 8290), so that an account that sends bursts within its
//! share is not treated as the one whose queue stands. A wait never takes more than half of the time
//! that a call has left.
//!
//! # Pace
//! The interval between two slots that the service's calls are given is measured while calls wait. When
//! it is longer since the last one than usual, that counts instead, so that a queue at upstreams that
//! hang is recognized at once.
//!
//! Written under the lock of the queue (`upstream/waiting.rs`); read by anyone.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use plimsoll_measure::Nanos;

/// The longest wait in a burst, unless four answers take longer.
pub(crate) const WAIT_LONG: Nanos = Nanos::from_millis(500);

/// The longest wait in a standing queue, unless half an answer takes longer: enough for the scheduler
/// of a busy machine.
pub(crate) const WAIT_SHORT: Nanos = Nanos::from_millis(5);

/// A queue that stands for this long, or for two answers, is no burst.
pub(crate) const INTERVAL: Nanos = Nanos::from_millis(100);

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

/// Calls that wait, and whether that is a burst.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    waiting: AtomicU32,
    /// Since when calls have been waiting.
    since: AtomicU64,
    /// When the last one went.
    emptied: AtomicU64,
    /// Whether the queue stands.
    is_standing: AtomicBool,
}

impl Crowd {
    /// The longest wait of a call that arrives now.
    pub(crate) fn allowed(&self, time: Nanos, now: Nanos) -> Nanos {
        let interval = INTERVAL.max(time + time);
        if self.waiting.load(Relaxed) == 0 {
            if now - Nanos(self.emptied.load(Relaxed)) >= interval {
                self.is_standing.store(false, Relaxed);
            }
        } else if now - Nanos(self.since.load(Relaxed)) >= interval {
            self.is_standing.store(true, Relaxed);
        }
        if self.is_standing.load(Relaxed) {
            WAIT_SHORT.max(Nanos(time.0 / 2))
        } else {
            WAIT_LONG.max(Nanos(time.0 * 4))
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

    /// How long until the next grant, by those before.
    pub(crate) fn pace(&self, usual: Nanos, now: Nanos) -> Nanos {
        let mean = match self.interval.load(Relaxed) {
            0 => usual,
            mean => Nanos(mean),
        };
        if self.waiting() == 0 {
            return mean;
        }
        let last = self.granted.load(Relaxed).max(self.crowd.since.load(Relaxed));
        mean.max(now - Nanos(last))
    }

    pub(crate) fn granted(&self, waited: Nanos, now: Nanos) {
        let before = self.granted.swap(now.0, Relaxed).max(self.crowd.since.load(Relaxed));
        let interval = (now - Nanos(before)).0;
        let mean = match self.interval.load(Relaxed) {
            0 => interval,
            mean => mean - mean / INTERVAL_SHARE + interval / INTERVAL_SHARE,
        };
        self.interval.store(mean.max(1), Relaxed);
        self.waited.fetch_add(waited.0, Relaxed);
        self.count(Waited::Served);
    }
}
