//! Watching the host for a moment: how late a sleeping thread is woken, and what its CPUs do.

use crate::doctor::Observed;
use crate::facts::cpu_times;
use crate::{Source, WakeUp};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use plimsoll_measure::{Clock, Nanos};
use std::io;
use std::time::Duration;

/// The interval of the bare timer: that of 1,000 requests per second.
const INTERVAL: Nanos = Nanos::from_millis(1);

/// Observes this host for `span`. Fails never: what cannot be observed is missing.
pub fn observe(source: &Source, span: Nanos) -> Observed {
    let before = cpu_times(source);
    let wake_up = wake_up(span).ok();
    let after = cpu_times(source);
    Observed { cpu: after.zip(before).map(|(after, before)| after.since(before)), wake_up }
}

/// Measures how late a thread that sleeps until each tick of a timer wakes up.
fn wake_up(span: Nanos) -> io::Result<WakeUp> {
    // As the engine's workers do; without it the kernel adds 50 µs on purpose.
    let _ = nix::sys::prctl::set_timerslack(1);
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
    let clock = Clock::start();
    let mut late = Vec::new();
    while clock.now() < span {
        let from = clock.now();
        let interval = TimeSpec::from_duration(Duration::from(INTERVAL));
        timer.set(Expiration::OneShot(interval), TimerSetTimeFlags::empty())?;
        timer.wait()?;
        late.push((clock.now() - from) - INTERVAL);
    }
    late.sort_unstable();
    let at = |share: f64| {
        let place = ((late.len() as f64 * share) as usize).min(late.len().saturating_sub(1));
        late.get(place).copied().unwrap_or_default()
    };
    Ok(WakeUp { p50: at(0.5), p99: at(0.99), max: at(1.0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_observed() {
        let observed = observe(&Source::host(), Nanos::from_millis(50));
        let wake_up = observed.wake_up.expect("there are timers");
        assert!(wake_up.p50 <= wake_up.p99 && wake_up.p99 <= wake_up.max);
        assert!(observed.cpu.is_some());
    }
}
