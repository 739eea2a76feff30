//! What wakes a worker: the kernel's timer, at nanosecond resolution and minimal slack.
//!
//! The timer is armed lazily: an armed instant that turns out to be too early costs one wake-up, and
//! saves a system call on each turn of a busy loop.

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use plimsoll_measure::Nanos;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// A one-shot timer that a poll waits for.
pub(crate) struct Timer {
    fd: TimerFd,
    armed: Nanos,
}

impl Timer {
    /// A timer that wakes the poll of `registry` under `token`.
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Timer> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        registry.register(&mut SourceFd(&fd.as_fd().as_raw_fd()), token, Interest::READABLE)?;
        Ok(Timer { fd, armed: Nanos::MAX })
    }

    /// Makes sure that it fires at `at` or earlier.
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

/// Lets this thread's timers fire when they are due; the kernel's default is up to 50 µs late.
pub(crate) fn minimize_slack() {
    // Refused only where a sandbox forbids prctl; the lag that follows is measured and shown.
    let _ = nix::sys::prctl::set_timerslack(1);
}
