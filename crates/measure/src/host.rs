//! What this host, its kernel and the control group did to the process during a second.
//!
//! Counts cover the time since the previous sample, levels are those at its end. Over several
//! seconds, counts add up and levels keep the highest. A field is `None` if its source could not be
//! read; the header of `snapshots.jsonl` names such sources. Nothing here judges.

use crate::Nanos;
use crate::names::{Listed, Tally, listed};
use std::fmt;

/// One second of this process and its host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostSample {
    /// CPU time of this process, user and system.
    pub cpu: Nanos,
    /// User time within it.
    pub user: Nanos,
    /// The largest resident set so far, in bytes.
    pub rss_peak_bytes: u64,
    /// By worker, in order. Empty if threads cannot be read; a worker that has ended counts nothing.
    pub workers: Vec<ThreadTime>,
    /// All CPUs of the host.
    pub cpus: Option<CpuTimes>,
    /// Packets received by all CPUs of the host.
    pub softnet: Option<Softnet>,
    /// TCP sockets of the network namespace (levels).
    pub sockets: Option<Sockets>,
    /// Ephemeral ports that the kernel may give out, for each destination and source address (level).
    /// [`Snapshot::ports`](crate::Snapshot::ports) compares them with those in use.
    pub ports: Option<u64>,
    /// Open file descriptors of this process and their limit (level).
    pub descriptors: Option<Usage>,
    /// Connections tracked by the network namespace's firewall (level); `None` if none are tracked.
    pub conntrack: Option<Usage>,
    /// Memory of the control group, in bytes (level); `None` without a limit.
    pub memory: Option<Usage>,
    /// How often and how long the control group was out of CPU time.
    pub throttled: Option<Throttled>,
    /// TCP counters of the network namespace: all processes in it, not only this one.
    pub tcp: Option<Tally<TcpCounter>>,
    /// What limited this process's sending, on a sample of its connections.
    pub sending: Option<Sending>,
    /// CPU time that taking the sample needed.
    pub sampling: Nanos,
}

impl HostSample {
    /// Adds the next second.
    pub fn append(&mut self, next: &HostSample) {
        self.cpu += next.cpu;
        self.user += next.user;
        self.rss_peak_bytes = self.rss_peak_bytes.max(next.rss_peak_bytes);
        if self.workers.len() < next.workers.len() {
            self.workers.resize(next.workers.len(), ThreadTime::default());
        }
        self.workers.iter_mut().zip(&next.workers).for_each(|(own, next)| own.add(next));
        join(&mut self.cpus, &next.cpus, CpuTimes::add);
        join(&mut self.softnet, &next.softnet, Softnet::add);
        join(&mut self.sockets, &next.sockets, Sockets::raise);
        self.ports = next.ports.or(self.ports);
        join(&mut self.descriptors, &next.descriptors, Usage::raise);
        join(&mut self.conntrack, &next.conntrack, Usage::raise);
        join(&mut self.memory, &next.memory, Usage::raise);
        join(&mut self.throttled, &next.throttled, Throttled::add);
        join(&mut self.tcp, &next.tcp, Tally::merge);
        join(&mut self.sending, &next.sending, Sending::add);
        self.sampling += next.sampling;
    }

    /// What was counted between two readings whose counts cover the time since the start. Levels are
    /// those of this reading; counts that an earlier one lacks are unknown.
    pub fn since(&self, earlier: &HostSample) -> HostSample {
        let mut since = self.clone();
        since.cpu = self.cpu - earlier.cpu;
        since.user = self.user - earlier.user;
        for (own, earlier) in since.workers.iter_mut().zip(&earlier.workers) {
            *own = own.since(earlier);
        }
        since.cpus = difference(&self.cpus, &earlier.cpus, |now, then| now.since(*then));
        since.softnet = difference(&self.softnet, &earlier.softnet, Softnet::since);
        since.throttled = difference(&self.throttled, &earlier.throttled, Throttled::since);
        since.tcp = difference(&self.tcp, &earlier.tcp, Tally::since);
        since
    }
}

/// The difference of two readings; `None` if one is unknown.
fn difference<T>(now: &Option<T>, then: &Option<T>, since: impl Fn(&T, &T) -> T) -> Option<T> {
    Some(since(now.as_ref()?, then.as_ref()?))
}

/// Combines two values of which either may be unknown.
fn join<T: Clone>(own: &mut Option<T>, next: &Option<T>, combine: impl FnOnce(&mut T, &T)) {
    match (own.as_mut(), next) {
        (Some(own), Some(next)) => combine(own, next),
        (None, Some(next)) => *own = Some(next.clone()),
        (_, None) => {}
    }
}

/// What the scheduler did to one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadTime {
    /// Time on a CPU.
    pub cpu: Nanos,
    /// Time ready to run, while the CPU did something else.
    pub run_delay: Nanos,
    /// How often another thread took its CPU (involuntary context switches).
    pub preempted: u64,
}

impl ThreadTime {
    fn since(self, earlier: &ThreadTime) -> ThreadTime {
        ThreadTime {
            cpu: self.cpu - earlier.cpu,
            run_delay: self.run_delay - earlier.run_delay,
            preempted: self.preempted.saturating_sub(earlier.preempted),
        }
    }

    fn add(&mut self, next: &ThreadTime) {
        self.cpu += next.cpu;
        self.run_delay += next.run_delay;
        self.preempted += next.preempted;
    }
}

/// How all CPUs have spent their time, in ticks of 10 ms per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// All of it.
    pub total: u64,
    /// Idle or waiting for a disk.
    pub idle: u64,
    /// Given to other virtual machines while this one had work.
    pub steal: u64,
    /// Spent on interrupts' deferred work, the network's above all.
    pub softirq: u64,
}

impl CpuTimes {
    /// What was spent between two readings.
    pub fn since(self, earlier: CpuTimes) -> CpuTimes {
        CpuTimes {
            total: self.total.saturating_sub(earlier.total),
            idle: self.idle.saturating_sub(earlier.idle),
            steal: self.steal.saturating_sub(earlier.steal),
            softirq: self.softirq.saturating_sub(earlier.softirq),
        }
    }

    /// Ticks neither idle nor stolen.
    pub fn busy(self) -> u64 {
        self.total.saturating_sub(self.idle + self.steal)
    }

    /// A part of these ticks as a share of all, 0 to 1.
    pub fn share(self, part: u64) -> f64 {
        part as f64 / self.total.max(1) as f64
    }

    fn add(&mut self, next: &CpuTimes) {
        self.total += next.total;
        self.idle += next.idle;
        self.steal += next.steal;
        self.softirq += next.softirq;
    }
}

/// The kernel's handling of received packets, over all CPUs and interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Softnet {
    /// Packets dropped because a CPU's backlog was full (`net.core.netdev_max_backlog`).
    pub dropped: u64,
    /// Times a CPU stopped with packets left, because its time or budget was used up.
    pub squeezed: u64,
}

impl Softnet {
    fn since(&self, earlier: &Softnet) -> Softnet {
        Softnet {
            dropped: self.dropped.saturating_sub(earlier.dropped),
            squeezed: self.squeezed.saturating_sub(earlier.squeezed),
        }
    }

    fn add(&mut self, next: &Softnet) {
        self.dropped += next.dropped;
        self.squeezed += next.squeezed;
    }
}

/// TCP sockets of a network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Bound or connected.
    pub in_use: u64,
    /// Established, also if the peer has closed its side.
    pub established: u64,
    /// In TIME_WAIT.
    pub time_wait: u64,
    /// Closed by their process, but not yet by both sides.
    pub orphans: u64,
    /// Memory of the buffers of all namespaces' sockets, in pages.
    pub pages: u64,
}

impl Sockets {
    fn raise(&mut self, next: &Sockets) {
        self.in_use = self.in_use.max(next.in_use);
        self.established = self.established.max(next.established);
        self.time_wait = self.time_wait.max(next.time_wait);
        self.orphans = self.orphans.max(next.orphans);
        self.pages = self.pages.max(next.pages);
    }
}

/// How much of a limited resource is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In use.
    pub used: u64,
    /// The limit.
    pub limit: u64,
}

impl Usage {
    /// The share in use; 0 to 1, or more if the limit was lowered meanwhile.
    pub fn share(self) -> f64 {
        self.used as f64 / self.limit.max(1) as f64
    }

    /// Of two readings, the one with the larger share.
    pub fn fuller(self, other: Usage) -> Usage {
        if other.share() > self.share() { other } else { self }
    }

    fn raise(&mut self, next: &Usage) {
        *self = self.fuller(*next);
    }
}

/// How often and how long a control group was out of CPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttled {
    /// Periods with a wait.
    pub periods: u64,
    /// Time waited, over all CPUs.
    pub time: Nanos,
}

impl Throttled {
    fn since(&self, earlier: &Throttled) -> Throttled {
        Throttled {
            periods: self.periods.saturating_sub(earlier.periods),
            time: self.time - earlier.time,
        }
    }

    /// Adds another group's, or the next second's.
    pub fn add(&mut self, next: &Throttled) {
        self.periods += next.periods;
        self.time += next.time;
    }
}

listed! {
    /// A TCP counter of the network namespace. Both ends are counted if the target is in the same one.
    TcpCounter {
        /// Segments sent.
        SegmentsOut = "segments_out",
        /// Segments sent again.
        Retransmitted = "retransmitted",
        /// Retransmission timers that expired.
        Timeouts = "timeouts",
        /// SYN and SYN-ACK segments sent again: attempts to connect that were not answered.
        SynRetransmitted = "syn_retransmitted",
        /// Segments that were lost after they were sent again.
        LostRetransmits = "lost_retransmits",
        /// Connections opened from here.
        ActiveOpens = "active_opens",
        /// Connections accepted here.
        PassiveOpens = "passive_opens",
        /// Attempts to connect that failed, in either direction.
        AttemptsFailed = "attempts_failed",
        /// Established connections that were reset, by either side.
        EstablishedResets = "established_resets",
        /// Segments with RST sent.
        ResetsOut = "resets_out",
        /// Connections that a listener here could not take: its accept queue was full.
        ListenOverflows = "listen_overflows",
        /// SYNs that a listener here dropped, for any reason; includes overflows.
        ListenDrops = "listen_drops",
        /// SYNs that a listener here dropped because its SYN backlog was full.
        SynBacklogDrops = "syn_backlog_drops",
        /// SYNs that a listener here answered with a cookie, because its SYN backlog was full.
        SynCookies = "syn_cookies",
        /// Segments dropped because the socket was busy and its backlog full.
        BacklogDrops = "backlog_drops",
        /// Segments dropped because the receive buffer was full.
        ReceiveDrops = "receive_drops",
        /// Segments dropped because they were beyond a closed window.
        ZeroWindowDrops = "zero_window_drops",
        /// Probes sent because a peer's receive window stayed closed: the peer does not read.
        WindowProbes = "window_probes",
        /// Receive windows closed here: a process here does not read.
        WindowsClosed = "windows_closed",
        /// SYNs refused in TIME_WAIT because of an old timestamp.
        TimeWaitRefused = "time_wait_refused",
        /// Sockets in TIME_WAIT that were closed early, because there were too many.
        TimeWaitOverflows = "time_wait_overflows",
        /// Connections closed because TCP was out of memory.
        MemoryAborts = "memory_aborts",
    }
}

/// What limited sending on sampled connections: the kernel's `tcp_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sending {
    /// Connections read; over several seconds, readings.
    pub connections: u64,
    /// Time with data to send or unacknowledged.
    pub busy: Nanos,
    /// Of that, limited by the peer's receive window: the peer does not read fast enough.
    pub receiver_limited: Nanos,
    /// Of that, limited by the send buffer: this host's `net.ipv4.tcp_wmem`.
    pub buffer_limited: Nanos,
    /// Segments sent again.
    pub retransmitted: u64,
}

impl Sending {
    fn add(&mut self, next: &Sending) {
        self.connections += next.connections;
        self.busy += next.busy;
        self.receiver_limited += next.receiver_limited;
        self.buffer_limited += next.buffer_limited;
        self.retransmitted += next.retransmitted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_and_levels_keep_the_highest() {
        let second = |n: u64| HostSample {
            cpu: Nanos(n),
            workers: vec![ThreadTime { cpu: Nanos(n), run_delay: Nanos(1), preempted: n }],
            sockets: Some(Sockets {
                in_use: 10 - n,
                established: n,
                time_wait: n,
                orphans: 0,
                pages: n,
            }),
            descriptors: Some(Usage { used: n, limit: 10 }),
            throttled: Some(Throttled { periods: n, time: Nanos(n) }),
            ..HostSample::default()
        };
        let mut sum = HostSample::default();
        [second(1), second(3), HostSample::default(), second(2)].iter().for_each(|s| sum.append(s));
        let expected = HostSample {
            cpu: Nanos(6),
            workers: vec![ThreadTime { cpu: Nanos(6), run_delay: Nanos(3), preempted: 6 }],
            sockets: Some(Sockets {
                in_use: 9,
                established: 3,
                time_wait: 3,
                orphans: 0,
                pages: 3,
            }),
            descriptors: Some(Usage { used: 3, limit: 10 }),
            throttled: Some(Throttled { periods: 6, time: Nanos(6) }),
            ..HostSample::default()
        };
        assert_eq!(sum, expected);
    }
}
