//! A timer with microsecond resolution.
//!
//! The runtime's own timers have a resolution of a millisecond, which would distort service times
//! that are compared with formulas. This one arms a timerfd for the earliest of all waits. There is
//! one timer per runtime. The entry of a cancelled wait stays until its time has passed.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use plimsoll_measure::{Clock, Nanos};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// The timer of one runtime.
#[derive(Clone)]
pub(crate) struct Timer {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Clock,
    fd: AsyncFd<Descriptor>,
    waits: Mutex<BinaryHeap<Wait>>,
}

struct Descriptor(TimerFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

struct Wait {
    until: Nanos,
    over: oneshot::Sender<()>,
}

/// Reversed, so that the heap returns the earliest wait first.
impl Ord for Wait {
    fn cmp(&self, other: &Self) -> Ordering {
        other.until.cmp(&self.until)
    }
}

impl PartialOrd for Wait {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Wait {
    fn eq(&self, other: &Self) -> bool {
        self.until == other.until
    }
}

impl Eq for Wait {}

impl Timer {
    /// A timer of the current runtime; its driver runs until the runtime ends.
    #[allow(deprecated)] // unsound only for types that do not own their descriptor; a TimerFd does
    pub(crate) fn start(clock: Clock) -> io::Result<Timer> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let fd = Descriptor(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
        let inner = Inner { clock, fd: AsyncFd::new(fd)?, waits: Mutex::default() };
        let timer = Timer { inner: Arc::new(inner) };
        tokio::spawn(timer.clone().drive());
        Ok(timer)
    }

    /// Waits until `until`; returns immediately if that has passed.
    pub(crate) async fn until(&self, until: Nanos) {
        if until <= self.inner.clock.now() {
            return;
        }
        let (over, wait) = oneshot::channel();
        {
            let mut waits = self.inner.waits.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = waits.peek().is_none_or(|first| until < first.until);
            waits.push(Wait { until, over });
            if earliest {
                self.inner.arm(until);
            }
        }
        // The sender lives as long as the runtime, so this cannot fail while the runtime runs.
        let _ = wait.await;
    }

    async fn drive(self) {
        loop {
            let Ok(mut ready) = self.inner.fd.readable().await else { return };
            ready.clear_ready();
            let _ = self.inner.fd.get_ref().0.wait();
            let mut waits = self.inner.waits.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.inner.clock.now();
            while waits.peek().is_some_and(|wait| wait.until <= now) {
                if let Some(wait) = waits.pop() {
                    let _ = wait.over.send(());
                }
            }
            if let Some(next) = waits.peek() {
                self.inner.arm(next.until);
            }
        }
    }
}

impl Inner {
    fn arm(&self, until: Nanos) {
        // Zero would disarm the timerfd.
        let span = (until - self.clock.now()).max(Nanos(1));
        let expiration = Expiration::OneShot(TimeSpec::from(Duration::from(span)));
        let armed = self.fd.get_ref().0.set(expiration, TimerSetTimeFlags::empty());
        debug_assert!(armed.is_ok(), "a positive span within range can be set");
    }
}
