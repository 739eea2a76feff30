//! A worker's wake-up timer: a timerfd with nanosecond resolution and minimal slack.
//!
//! The timer is re-armed lazily: firing too early costs one wake-up, but a busy loop saves a system
//! call per iteration.

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use plimsoll_measure::Nanos;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// A one-shot timer registered with a poll.
pub(crate) struct Timer {
    fd: TimerFd,
    armed: Nanos,
}

impl Timer {
    /// A timer that the poll of `registry` reports as `token`.
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Timer> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        registry.register(&mut SourceFd(&fd.as_fd().as_raw_fd()), token, Interest::READABLE)?;
        Ok(Timer { fd, armed: Nanos::MAX })
    }

    /// Ensures that the timer fires at `at` or earlier.
    pub(crate) fn arm(&mut self, at: Nanos, now: Nanos) -> io::Result<()> {
        if at >= self.armed && self.armed > now {
            return Ok(());
        }
        let span = Duration::from(at - now).max(Duration::from_nanos(1));
        self.fd
            .set(Expiration::OneShot(TimeSpec::from_duration(span)), TimerSetTimeFlags::empty())?;
        self.armed = at;
        Ok(())
    }
}

/// Sets this thread's timer slack to 1 ns; the kernel's default of 50 µs would delay timers.
pub(crate) fn minimize_slack() {
    // Fails only if a sandbox forbids prctl; the resulting lag is measured and reported.
    let _ = nix::sys::prctl::set_timerslack(1);
}
