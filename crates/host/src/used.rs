//! What other processes of this host have used: a process with its descendants, or a control group.
//!
//! For processes that export no metrics, such as Redis or nginx. Nothing here may be called for names that
//! another host sends.

use crate::{Source, parse};
use plimsoll_measure::Nanos;

/// `USER_HZ`: the kernel counts CPU time in `/proc/PID/stat` in these, on every architecture that matters.
const TICKS_PER_S: u64 = 100;
/// Processes and threads below one that are read.
const TREE_MAX: usize = 1024;

/// What a process or a group has used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// User and system time, with that of descendants that have ended.
    pub cpu: Nanos,
    /// Resident memory, in bytes; of a group its memory without file caches that can be dropped at once, as
    /// `docker stats` shows it.
    pub memory_bytes: Option<u64>,
    /// When the process started, in seconds since 1970; `None` for a group.
    pub started: Option<f64>,
    /// Open file descriptors of the process itself; `None` for a group, or if they may not be read.
    pub open_fds: Option<u64>,
}

impl Used {
    /// Reads a process and its descendants.
    ///
    /// # Errors
    /// There is none with this id.
    pub fn of_process(source: &Source, pid: u32) -> Result<Used, String> {
        let own = Stat::read(source, pid).filter(|own| own.state != "Z");
        let own = own.ok_or_else(|| format!("no process has the id {pid}"))?;
        let booted = source.text("/proc/stat").and_then(|stat| parse::value(&stat, "btime"));
        let started = booted.map(|at| at as f64 + own.started as f64 / TICKS_PER_S as f64);
        let mut used =
            Used { started, open_fds: source.count(&format!("/proc/{pid}/fd")), ..Used::default() };
        let mut ticks = 0;
        for pid in tree(source, pid) {
            let Some(stat) = Stat::read(source, pid) else { continue };
            ticks += stat.ticks;
            let status = source.text(&format!("/proc/{pid}/status"));
            if let Some(resident) = status.and_then(|text| parse::value(&text, "VmRSS")) {
                *used.memory_bytes.get_or_insert(0) += resident << 10;
            }
        }
        used.cpu = Nanos(ticks * (1_000_000_000 / TICKS_PER_S));
        Ok(used)
    }

    /// Reads a control group: its path below the mount point, as in `/proc/PID/cgroup`, or with it.
    ///
    /// # Errors
    /// There is no such group.
    pub fn of_cgroup(source: &Source, path: &str) -> Result<Used, String> {
        let mounts = mounts(source);
        for (mount, options) in &mounts {
            let folder = group_folder(path, mount);
            let cpu = if options.is_empty() {
                let stat = source.text(&format!("{folder}/cpu.stat"));
                stat.and_then(|stat| parse::value(&stat, "usage_usec")).map(|us| us * 1000)
            } else if options.split(',').any(|own| own == "cpuacct") {
                source.number(&format!("{folder}/cpuacct.usage"))
            } else {
                None
            };
            if let Some(cpu) = cpu {
                let memory = mounts.iter().find_map(|(mount, _)| group_memory(source, path, mount));
                return Ok(Used { cpu: Nanos(cpu), memory_bytes: memory, ..Used::default() });
            }
        }
        Err(format!("there is no control group {path}"))
    }
}

/// Where a group is in a hierarchy.
fn group_folder(path: &str, mount: &str) -> String {
    let below = path.strip_prefix(mount).unwrap_or(path);
    format!("{mount}/{}", below.trim_matches('/'))
}

/// The memory of a group in one hierarchy, without its inactive file cache.
fn group_memory(source: &Source, path: &str, mount: &str) -> Option<u64> {
    let folder = group_folder(path, mount);
    let number = |name: &str| source.number(&format!("{folder}/{name}"));
    let all = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let stat = source.text(&format!("{folder}/memory.stat")).unwrap_or_default();
    let value = |name| parse::value(&stat, name);
    let cache = value("total_inactive_file").or_else(|| value("inactive_file")).unwrap_or(0);
    Some(all.saturating_sub(cache))
}

/// The hierarchies of control groups: where each is mounted, and its options, empty for version 2.
fn mounts(source: &Source) -> Vec<(String, String)> {
    let text = source.text("/proc/self/mountinfo").unwrap_or_default();
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let options = match right.next()? {
            "cgroup2" => String::new(),
            "cgroup" => right.nth(1)?.to_string(),
            _ => return None,
        };
        Some((left.split(' ').nth(4)?.to_string(), options))
    };
    text.lines().filter_map(mount).collect()
}

/// A process and its descendants, at most [`TREE_MAX`].
fn tree(source: &Source, root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        let tasks = source.names(&format!("/proc/{pid}/task"));
        for task in tasks.iter().take(TREE_MAX) {
            let children = source.text(&format!("/proc/{pid}/task/{task}/children"));
            let children = children.unwrap_or_default();
            let pids = children.split_whitespace().filter_map(|word| word.parse::<u32>().ok());
            all.extend(pids.take(TREE_MAX.saturating_sub(all.len())));
            if all.len() >= TREE_MAX {
                return all;
            }
        }
        next += 1;
    }
    all
}

/// A part of `/proc/PID/stat`.
struct Stat {
    state: String,
    /// CPU time with that of waited-for children.
    ticks: u64,
    /// Since boot.
    started: u64,
}

impl Stat {
    fn read(source: &Source, pid: u32) -> Option<Stat> {
        let text = source.text(&format!("/proc/{pid}/stat"))?;
        // The name, in parentheses, may contain anything.
        let (_, rest) = text.rsplit_once(')')?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        let number = |place: usize| words.get(place).and_then(|word| word.parse::<u64>().ok());
        let ticks = (11..15).map(number).sum::<Option<u64>>()?;
        Some(Stat { state: words.first()?.to_string(), ticks, started: number(19)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    fn stat(state: &str, [user, system, waited]: [u64; 3], started: u64) -> String {
        format!(
            "7 (a) b) {state} 1 0 0 0 0 0 0 0 0 0 {user} {system} {waited} 0 20 0 3 0 {started} 9 9"
        )
    }

    #[test]
    fn a_process_counts_with_its_descendants() {
        let (root, child) = (stat("S", [10, 5, 1], 250), stat("R", [100, 0, 0], 300));
        let host = Fixture::new(&[
            ("proc/stat", "cpu 1 2 3\nbtime 1000\n"),
            ("proc/7/stat", &root),
            ("proc/7/status", "Name:\ta\nVmRSS:\t      10 kB\n"),
            ("proc/7/task/7/children", "8 9 "),
            ("proc/8/stat", &child),
            ("proc/8/status", "VmRSS:\t 2 kB\n"),
            ("proc/5/stat", &stat("Z", [1, 1, 1], 1)),
        ]);
        let used = Used::of_process(&host.source(), 7).unwrap();
        assert_eq!(used.cpu, Nanos::from_millis(1_160));
        assert_eq!((used.memory_bytes, used.started), (Some(12 << 10), Some(1002.5)));
        for pid in [5, 6] {
            let error = Used::of_process(&host.source(), pid).unwrap_err();
            assert_eq!(error, format!("no process has the id {pid}"));
        }
        let own = Used::of_process(&Source::host(), std::process::id()).unwrap();
        assert!(own.memory_bytes > Some(0) && own.started > Some(1e9), "{own:?}");
    }

    #[test]
    fn groups_of_both_versions() {
        let host = Fixture::new(&[
            ("proc/self/mountinfo", "30 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/a.slice/cpu.stat", "usage_usec 1500\nuser_usec 1\n"),
            ("sys/fs/cgroup/a.slice/memory.current", "9000\n"),
            ("sys/fs/cgroup/a.slice/memory.stat", "anon 1\ninactive_file 4000\n"),
        ]);
        let expected = Used { cpu: Nanos(1_500_000), memory_bytes: Some(5000), ..Used::default() };
        for path in ["/a.slice", "a.slice/", "/sys/fs/cgroup/a.slice"] {
            assert_eq!(Used::of_cgroup(&host.source(), path), Ok(expected), "{path}");
        }
        let missing = Used::of_cgroup(&host.source(), "/b.slice");
        assert_eq!(missing, Err("there is no control group /b.slice".into()));
        let old = Fixture::new(&[
            (
                "proc/self/mountinfo",
                "31 1 0:1 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n32 1 0:2 / /cg/memory rw - cgroup cgroup rw,memory\n",
            ),
            ("cg/cpu/docker/x/cpuacct.usage", "77\n"),
            ("cg/memory/docker/x/memory.usage_in_bytes", "100\n"),
            ("cg/memory/docker/x/memory.stat", "inactive_file 1\ntotal_inactive_file 40\n"),
        ]);
        let used = Used::of_cgroup(&old.source(), "/docker/x").unwrap();
        assert_eq!((used.cpu, used.memory_bytes), (Nanos(77), Some(60)));
    }
}
