//! What this host is and does. The only crate that reads `/proc`.
//!
//! # Layout
//! - [`usage`], [`process`]: what this process uses of the host
//! - [`raise_descriptor_limit`]: the one limit that a process may lift by itself
//! - [`is_ignored`]: signals that the process was started without

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
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
    HostSample {
        cpu: user + span(usage.system_time()),
        user,
        rss_peak_bytes: status_bytes("VmHWM:"),
    }
}

/// What a process uses of the host at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// User and system time since it began.
    pub cpu: Nanos,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
}

/// What this process uses at present. Zero where the kernel does not say.
pub fn process() -> Process {
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, |all| all.count() as u64);
    Process {
        cpu: usage().cpu,
        resident_bytes: status_bytes("VmRSS:"),
        // Without the one that the folder was read with.
        open_fds: descriptors.saturating_sub(1),
    }
}

/// Raises the limit of open descriptors as far as this process may, and says how far that is.
pub fn raise_descriptor_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return u64::MAX };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// Whether a signal was ignored when the process began, as `nohup` does with SIGHUP. No, where the
/// kernel does not say.
pub fn is_ignored(signal: i32) -> bool {
    let mask = status_line("SigIgn:").and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

fn span(time: TimeVal) -> Nanos {
    let (secs, micros) = (time.tv_sec().max(0) as u64, time.tv_usec().max(0) as u64);
    Nanos(secs * 1_000_000_000 + micros * 1_000)
}

/// A line of `/proc/self/status` that counts KiB.
fn status_bytes(name: &str) -> u64 {
    let kib =
        status_line(name).and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// What follows a name in `/proc/self/status`.
fn status_line(name: &str) -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)).map(String::from)
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

    #[test]
    fn a_process_is_described() {
        let _held = std::fs::File::open("/proc/self/status").unwrap();
        let process = process();
        assert!(process.resident_bytes > 0 && process.open_fds > 3);
        assert!(raise_descriptor_limit() >= process.open_fds);
    }
}
