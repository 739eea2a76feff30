//! Per-worker state: clock, buffers, random numbers, counters.
//!
//! Nothing here needs a lock: threads share only the process's capacity and read access to the
//! counters.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_measure::rng::{Key, Sequence};
use plimsoll_measure::{Clock, Nanos, WallClock};
use tokio::time::Instant;

use crate::meter::Meter;
use crate::observe::stats::{Counts, Sharded};
use crate::permit::{Capacity, Purpose, Share};
use crate::transport::timer::Timer;

/// The initial size of a buffer; fits a typical request or answer.
pub(crate) const BUFFER_SIZE: usize = 8 << 10;

/// Larger buffers are freed instead of pooled.
pub(crate) const BUFFER_POOLED_MAX: usize = 16 << 10;

/// Maximum number of pooled buffers, 1 MiB to 2 MiB in total.
const BUFFERS_POOLED_MAX: usize = 128;

/// Maximum number of pooled timers, 128 bytes each.
const TIMERS_POOLED_MAX: usize = 1_024;

/// The clock of all threads, its origin on tokio's clock, and the seed of random choices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time {
    clock: Clock,
    origin: Instant,
    seed: u64,
    /// Whether tokio's clock, which a test may have paused, is read instead.
    #[cfg(test)]
    is_virtual: bool,
}

impl Time {
    pub(crate) fn start() -> Time {
        #[allow(clippy::disallowed_methods)] // tokio's clock, read once together with our own
        let origin = Instant::now();
        Time {
            clock: Clock::start(),
            origin,
            seed: WallClock::now().unix_ns,
            #[cfg(test)]
            is_virtual: false,
        }
    }

    /// The time of a runtime whose clock is paused.
    #[cfg(test)]
    pub(crate) fn start_virtual(seed: u64) -> Time {
        Time { seed, is_virtual: true, ..Time::start() }
    }

    /// The clock.
    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// The seed of random choices.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    #[inline]
    pub(crate) fn now(&self) -> Nanos {
        #[cfg(test)]
        #[allow(clippy::disallowed_methods)] // tokio's clock is the virtual one
        if self.is_virtual {
            return Instant::now().saturating_duration_since(self.origin).into();
        }
        self.clock.now()
    }

    /// Converts a time on our clock to tokio's.
    #[inline]
    pub(crate) fn instant(&self, at: Nanos) -> Instant {
        self.origin + Duration::from(at)
    }
}

/// The state of one worker.
pub(crate) struct Local {
    /// The worker's index.
    pub(crate) number: usize,
    pub(crate) capacity: Arc<Capacity>,
    counts: Arc<Sharded<Counts>>,
    pub(crate) meter: Meter,
    time: Time,
    recent: Cell<Nanos>,
    buffers: RefCell<Vec<Vec<u8>>>,
    timers: RefCell<Vec<Timer>>,
    random: RefCell<Sequence>,
    /// The second, on our clock, for which `Date` was last formatted, and its text.
    date: RefCell<(u64, String)>,
}

impl Local {
    pub(crate) fn new(
        number: usize,
        time: Time,
        capacity: Arc<Capacity>,
        counts: Arc<Sharded<Counts>>,
    ) -> Local {
        let seed = Key::new(time.seed).with(number as u64);
        Local {
            number,
            capacity,
            counts,
            meter: Meter::new(None, Arc::new(WallClock::now)),
            time,
            recent: Cell::new(time.now()),
            buffers: RefCell::default(),
            timers: RefCell::default(),
            random: RefCell::new(seed.sequence()),
            date: RefCell::new((u64::MAX, String::new())),
        }
    }

    /// The same with this meter.
    pub(crate) fn metered(self, meter: Meter) -> Local {
        Local { meter, ..self }
    }

    #[inline]
    pub(crate) fn now(&self) -> Nanos {
        let now = self.time.now();
        self.recent.set(now);
        now
    }

    /// The last reading of the clock: accurate enough within one iteration of the event loop.
    #[inline]
    pub(crate) fn recent(&self) -> Nanos {
        self.recent.get()
    }

    #[inline]
    pub(crate) fn instant(&self, at: Nanos) -> Instant {
        self.time.instant(at)
    }

    #[inline]
    pub(crate) fn counts(&self) -> &Counts {
        self.counts.of(self.number)
    }

    /// A random number from 0 to 1.
    pub(crate) fn random(&self) -> f64 {
        self.random.borrow_mut().unit()
    }

    /// Appends the value of the Date header. The wall clock is read once a second, so that a clock
    /// adjustment shows within a second.
    pub(crate) fn write_date(&self, now: Nanos, out: &mut Vec<u8>) {
        let second = now.0 / 1_000_000_000;
        let mut date = self.date.borrow_mut();
        if date.0 != second {
            let at = std::time::UNIX_EPOCH + Duration::from_nanos(WallClock::now().unix_ns);
            *date = (second, httpdate::fmt_http_date(at));
        }
        out.extend_from_slice(date.1.as_bytes());
    }

    /// An empty buffer of at least [`BUFFER_SIZE`].
    #[inline]
    pub(crate) fn take_buffer(&self) -> Vec<u8> {
        let pooled = self.buffers.borrow_mut().pop();
        pooled.unwrap_or_else(|| Vec::with_capacity(BUFFER_SIZE))
    }

    #[inline]
    pub(crate) fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut pooled = self.buffers.borrow_mut();
        let fits = (BUFFER_SIZE..=BUFFER_POOLED_MAX).contains(&buffer.capacity());
        if fits && pooled.len() < BUFFERS_POOLED_MAX {
            buffer.clear();
            pooled.push(buffer);
        }
    }

    /// A timer; one from the pool may still be registered for an earlier deadline.
    #[inline]
    pub(crate) fn take_timer(&self, until: Nanos) -> Timer {
        let pooled = self.timers.borrow_mut().pop();
        pooled.unwrap_or_else(|| Timer::new(self.instant(until)))
    }

    #[inline]
    pub(crate) fn give_timer(&self, timer: Timer) {
        let mut pooled = self.timers.borrow_mut();
        if pooled.len() < TIMERS_POOLED_MAX {
            pooled.push(timer);
        }
    }

    /// An empty share of the process's memory.
    pub(crate) fn share(&self, purpose: Purpose) -> Share {
        Share::new(&self.capacity, purpose)
    }
}
