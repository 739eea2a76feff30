//! What this host is and does. The only crate that reads `/proc`.
//!
//! # Layout
//! - [`usage`]: what this process has used of the host so far

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use plimsoll_measure::{HostSample, Nanos};

/// CPU time since the process began, and its largest resident set. Zero where the kernel does not
/// say.
///
/// The resident set is `VmHWM` of `/proc/self/status`: `getrusage` keeps that of the program that
/// started this one.
pub fn usage() -> HostSample {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return HostSample::default() };
    let user = span(usage.user_time());
    HostSample { cpu: user + span(usage.system_time()), user, rss_peak_bytes: peak_bytes() }
}

fn span(time: TimeVal) -> Nanos {
    let (secs, micros) = (time.tv_sec().max(0) as u64, time.tv_usec().max(0) as u64);
    Nanos(secs * 1_000_000_000 + micros * 1_000)
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_something_and_never_less_than_before() {
        let first = usage();
        let grown = std::hint::black_box(vec![1u8; 32 << 20]);
        let second = usage();
        assert!(first.rss_peak_bytes > 0);
        assert!(second.rss_peak_bytes >= first.rss_peak_bytes.max(grown.len() as u64));
        assert!(second.cpu >= first.cpu && second.user >= first.user);
    }
}
