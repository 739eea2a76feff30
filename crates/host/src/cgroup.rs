//! Limits that a control group sets on this process, in cgroup v1 and v2.

use crate::{Source, parse};
use plimsoll_measure::Throttled;

/// Limits and their use. `None`: no limit, or unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cgroup {
    /// CPUs that the group may use on average.
    pub cpus: Option<f64>,
    /// Memory that the group may use, in bytes.
    pub memory_max: Option<u64>,
    /// Memory in use, in bytes.
    pub memory_used: Option<u64>,
    /// Periods in which the group was out of CPU time, and how long it waited.
    pub throttled: Throttled,
}

/// Larger limits are "no limit" in cgroup v1.
const UNLIMITED: u64 = 1 << 60;

/// Groups below the root that are read; deeper ones are ignored.
const DEPTH_MAX: usize = 32;

impl Cgroup {
    /// The limits of this process's group. The tightest one applies, so groups are read up to the
    /// root of what is visible.
    pub fn read(source: &Source) -> Cgroup {
        let mut found = Cgroup::default();
        for folder in Folders::of(source, "cpu").up() {
            found.read_cpu(source, &folder);
        }
        if let Some(memory) = memory(source) {
            found.memory_max = Some(memory.max);
            found.memory_used = source.number(&memory.used_path);
        }
        found
    }

    fn read_cpu(&mut self, source: &Source, folder: &str) {
        let quota = match source.text(&format!("{folder}/cpu.max")) {
            // "max 100000" or "150000 100000"
            Some(text) => {
                let mut words = text.split_whitespace().map(str::parse::<f64>);
                words.next().and_then(Result::ok).zip(words.next().and_then(Result::ok))
            }
            None => {
                let number = |name: &str| source.number(&format!("{folder}/{name}"));
                let quota = number("cpu.cfs_quota_us").zip(number("cpu.cfs_period_us"));
                quota.map(|(quota, period)| (quota as f64, period as f64))
            }
        };
        if let Some((quota, period)) = quota.filter(|(_, period)| *period > 0.0) {
            let cpus = quota / period;
            self.cpus = Some(self.cpus.map_or(cpus, |tighter| tighter.min(cpus)));
        }
        self.read_throttled(source, folder);
    }

    fn read_throttled(&mut self, source: &Source, folder: &str) {
        let Some(text) = source.text(&format!("{folder}/cpu.stat")) else { return };
        self.throttled.add(&parse::throttled(&text));
    }
}

/// Where the groups' CPU accounts are: that of this process's group first.
pub(crate) fn cpu_stats(source: &Source) -> Vec<String> {
    let folders = Folders::of(source, "cpu").up();
    folders.iter().map(|folder| format!("{folder}/cpu.stat")).collect()
}

/// The tightest limit of memory.
pub(crate) struct Memory {
    /// The limit, in bytes.
    pub(crate) max: u64,
    /// The file with the memory that the limited group uses.
    pub(crate) used_path: String,
}

/// The tightest limit of memory; `None` without one.
pub(crate) fn memory(source: &Source) -> Option<Memory> {
    let folders = Folders::of(source, "memory").up();
    let limits = folders.iter().filter_map(|folder| {
        let number = |name: &str| source.number(&format!("{folder}/{name}"));
        let (max, used) = match number("memory.max") {
            Some(max) => (max, "memory.current"),
            None => (number("memory.limit_in_bytes")?, "memory.usage_in_bytes"),
        };
        (max < UNLIMITED).then(|| Memory { max, used_path: format!("{folder}/{used}") })
    });
    limits.min_by_key(|memory| memory.max)
}

/// The group of this process in one hierarchy.
struct Folders {
    /// Where the hierarchy is mounted.
    mount: String,
    /// The group's path below it.
    path: String,
}

impl Folders {
    fn of(source: &Source, controller: &str) -> Folders {
        let groups = source.text("/proc/self/cgroup").unwrap_or_default();
        let mounts = source.text("/proc/self/mountinfo").unwrap_or_default();
        // "4:memory:/path" in v1, "0::/path" in v2
        let path = |name: &str| {
            groups.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let has = parts.next()?.split(',').any(|one| one == name);
                parts.next().filter(|_| has).map(str::to_string)
            })
        };
        // "32 31 0:29 ROOT MOUNT OPTIONS - TYPE SOURCE SUPER"
        let mount = |kind: &str, option: &str| {
            mounts.lines().find_map(|line| {
                let (left, right) = line.split_once(" - ")?;
                let mut right = right.split(' ');
                let is_kind = right.next()? == kind;
                let has = right.nth(1).is_some_and(|all| all.split(',').any(|one| one == option));
                let mut left = left.split(' ').skip(3);
                let (root, mount) = (left.next()?, left.next()?);
                (is_kind && (option.is_empty() || has))
                    .then(|| (root.to_string(), mount.to_string()))
            })
        };
        let v1 = path(controller).zip(mount("cgroup", controller));
        let found = v1.or_else(|| path("").zip(mount("cgroup2", "")));
        let Some((path, (root, mount))) = found else {
            return Folders { mount: String::new(), path: String::new() };
        };
        // A container sees its own group as the root of the mount.
        let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(&path);
        Folders { mount, path: below.trim_matches('/').to_string() }
    }

    /// The group's folder and those above it.
    fn up(&self) -> Vec<String> {
        if self.mount.is_empty() {
            return Vec::new();
        }
        let mut all = vec![self.mount.clone()];
        for part in self.path.split('/').filter(|part| !part.is_empty()).take(DEPTH_MAX) {
            all.push(format!("{}/{part}", all[all.len() - 1]));
        }
        all.reverse();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;
    use plimsoll_measure::Nanos;

    #[test]
    fn v2_limits_of_the_tightest_group() {
        let host = Fixture::new(&[
            ("proc/self/cgroup", "0::/app/worker\n"),
            ("proc/self/mountinfo", "30 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/app/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/app/worker/cpu.max", "max 100000\n"),
            (
                "sys/fs/cgroup/app/worker/cpu.stat",
                "usage_usec 7\nnr_throttled 3\nthrottled_usec 5\n",
            ),
            ("sys/fs/cgroup/app/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/app/memory.current", "4096\n"),
            ("sys/fs/cgroup/app/worker/memory.max", "max\n"),
        ]);
        let found = Cgroup::read(&host.source());
        let throttled = Throttled { periods: 3, time: Nanos(5_000) };
        let expected = Cgroup {
            cpus: Some(1.5),
            memory_max: Some(1 << 30),
            memory_used: Some(4096),
            throttled,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn v1_limits_in_a_container() {
        let mount = "31 1 0:1 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                     32 1 0:2 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let host = Fixture::new(&[
            ("proc/self/cgroup", "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n"),
            ("proc/self/mountinfo", mount),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu/cpu.stat", "nr_periods 9\nnr_throttled 2\nthrottled_time 77\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        let found = Cgroup::read(&host.source());
        let throttled = Throttled { periods: 2, time: Nanos(77) };
        assert_eq!(found, Cgroup { cpus: Some(0.5), throttled, ..Cgroup::default() });
    }

    #[test]
    fn a_host_without_proc_has_no_known_limits() {
        let host = Fixture::new(&[]);
        assert_eq!(Cgroup::read(&host.source()), Cgroup::default());
    }
}
