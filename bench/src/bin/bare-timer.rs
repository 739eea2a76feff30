//! The lower bound for pacing: a loop that sleeps until each instant of a constant rate, and does nothing.
//!
//! Its lateness is that of the machine: timer, scheduler, host. Lag is recorded for each planned
//! instant, including those that one late wake-up finds overdue together, as for a load generator. Usage: `bare-timer RATE SECONDS`; one line of JSON on stdout, in µs.

use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use std::process::ExitCode;

const USAGE: &str = "usage: bare-timer RATE SECONDS, both above 0, at most 100 million instants";
/// Each instant's lag is kept in 8 bytes: at most 800 MB.
const INSTANTS_MAX: f64 = 1e8;
/// Delay of the first instant, so that nothing is overdue when the loop starts.
const LEAD_NS: i64 = 10_000_000;

fn now_ns() -> nix::Result<i64> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.num_nanoseconds())
}

fn sleep_until(instant_ns: i64) -> nix::Result<()> {
    let until = TimeSpec::nanoseconds(instant_ns);
    match clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until) {
        // After EINTR the loop finds that the instant is not due yet, and sleeps again.
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Runs the loop; returns the lag of each instant in ns.
fn lags(rate: f64, count: usize) -> nix::Result<Vec<i64>> {
    // The kernel's default timer slack is 50 µs.
    nix::sys::prctl::set_timerslack(1)?;
    // Written in advance, so that no page fault happens during the loop.
    let mut lags = vec![-1; count];
    let start = now_ns()? + LEAD_NS;
    for (index, lag) in lags.iter_mut().enumerate() {
        let due = start + (index as f64 * 1e9 / rate) as i64;
        let mut now = now_ns()?;
        while now < due {
            sleep_until(due)?;
            now = now_ns()?;
        }
        *lag = now - due;
    }
    Ok(lags)
}

/// The nearest-rank percentile for quantile `q`, in µs.
fn percentile(sorted: &[i64], q: f64) -> f64 {
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1] as f64 / 1e3
}

fn main() -> ExitCode {
    let args: Vec<f64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let [rate, seconds] = args.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let count = rate * seconds;
    if !(*rate > 0.0 && (1.0..=INSTANTS_MAX).contains(&count)) {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let mut lags = match lags(*rate, count as usize) {
        Ok(lags) => lags,
        Err(error) => {
            eprintln!("bare-timer: {error}");
            return ExitCode::FAILURE;
        }
    };
    lags.sort_unstable();
    println!(
        "{{\"instants\":{},\"p50\":{:.1},\"p99\":{:.1},\"p999\":{:.1},\"max\":{:.1}}}",
        lags.len(),
        percentile(&lags, 0.5),
        percentile(&lags, 0.99),
        percentile(&lags, 0.999),
        percentile(&lags, 1.0)
    );
    ExitCode::SUCCESS
}
