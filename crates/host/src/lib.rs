//! This host and this process: facts, usage, limits. The only crate that reads `/proc` and `/sys`.
//!
//! # Layout
//! - [`Source`]: where files are read from; [`Facts`]: what they say; [`Cgroup`]: limits of the group
//! - [`doctor`]: facts against a demand; [`observe()`]: a moment of timing and CPU
//! - [`tune`]: kernel settings for a load, and back
//! - [`Sampler`]: what the host did to this process, second by second
//! - [`process`], [`Thread`]: resource usage of this process; [`find_child`]: another process
//! - [`Used`]: what another process or control group has used
//! - [`raise_descriptor_limit`]: the limit of open file descriptors
//! - [`is_ignored`]: ignored signals

mod cgroup;
pub mod doctor;
mod facts;
#[cfg(test)]
mod fixture;
mod observe;
mod parse;
mod sampler;
mod source;
mod threads;
pub mod tune;
mod used;

pub use cgroup::Cgroup;
pub use facts::{Descriptors, Facts, Ports, TwReuse, WakeUp};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeVal;
pub use observe::observe;
use plimsoll_measure::Nanos;
pub use sampler::{SampledRun, Sampler};
pub use source::Source;
pub use threads::Thread;
pub use used::Used;

/// Current resource usage of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// User and system time since the process started.
    pub cpu: Nanos,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
}

/// Current resource usage of this process. Zero if unavailable.
pub fn process() -> Process {
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, |all| all.count() as u64);
    Process {
        cpu: cpu_used().0,
        resident_bytes: status_bytes("VmRSS:"),
        // Without the descriptor of the directory being read.
        open_fds: descriptors.saturating_sub(1),
    }
}

/// Raises the soft limit of open file descriptors to the hard limit, and returns the limit in force;
/// [`u64::MAX`] if it is unknown.
pub fn raise_descriptor_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return u64::MAX };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// Whether a signal is ignored, as `nohup` does with SIGHUP. False if unavailable.
pub fn is_ignored(signal: i32) -> bool {
    let mask = status_line("SigIgn:").and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The child of a process whose command line has these arguments next to each other.
pub fn find_child(parent: u32, args: &[&str]) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in parentheses, may contain anything.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let is_child = rest.split_whitespace().nth(1) == Some(parent.to_string().as_str());
        let line =
            if is_child { std::fs::read(format!("/proc/{pid}/cmdline")) } else { Ok(vec![]) };
        let line = line.unwrap_or_default();
        let given: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let wanted: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        given.windows(wanted.len().max(1)).any(|some| some == wanted)
    })
}

/// CPU time since the process started, and the user time within it. Zero if unavailable.
fn cpu_used() -> (Nanos, Nanos) {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Default::default() };
    let user = span(usage.user_time());
    (user + span(usage.system_time()), user)
}

fn span(time: TimeVal) -> Nanos {
    let (secs, micros) = (time.tv_sec().max(0) as u64, time.tv_usec().max(0) as u64);
    Nanos(secs * 1_000_000_000 + micros * 1_000)
}

/// The value of a line of `/proc/self/status` in KiB, converted to bytes.
fn status_bytes(name: &str) -> u64 {
    let kib =
        status_line(name).and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The value of a line of `/proc/self/status`.
fn status_line(name: &str) -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)).map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_by_its_arguments() {
        let mut child = std::process::Command::new("sleep").args(["61", "62"]).spawn().unwrap();
        let own = std::process::id();
        // Until it has replaced the image that it was forked from.
        while find_child(own, &["61", "62"]).is_none() {
            std::thread::yield_now();
        }
        assert_eq!(find_child(own, &["61", "62"]), Some(child.id()));
        assert_eq!(find_child(own, &["62", "61"]), None);
        assert_eq!(find_child(child.id(), &["61", "62"]), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn process_usage_is_reported() {
        let _open = std::fs::File::open("/proc/self/status").unwrap();
        let process = process();
        assert!(process.resident_bytes > 0 && process.open_fds > 3);
        assert!(raise_descriptor_limit() >= process.open_fds);
    }
}
