//! Serialized host samples.

use super::{Ignored, is_zero, tally_known, tally_to_map};
use crate::Nanos;
use crate::host::{CpuTimes, HostSample, Sending, Sockets, Softnet, ThreadTime, Throttled, Usage};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Serialize, Deserialize)]
pub(super) struct HostLine {
    cpu_ns: u64,
    user_ns: u64,
    rss_peak_bytes: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    workers: Vec<ThreadLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cpu_ticks: Option<CpuLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    softnet: Option<SoftnetLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sockets: Option<SocketsLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ports: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    descriptors: Option<UsageLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    conntrack: Option<UsageLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<UsageLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    throttled: Option<ThrottledLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace_tcp: Option<BTreeMap<String, u64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sending: Option<SendingLine>,
    #[serde(default, skip_serializing_if = "is_zero")]
    sampling_ns: u64,
    #[serde(flatten, skip_serializing)]
    newer: BTreeMap<String, IgnoredAny>,
}

#[derive(Serialize, Deserialize)]
struct ThreadLine {
    cpu_ns: u64,
    run_delay_ns: u64,
    preempted: u64,
}

#[derive(Serialize, Deserialize)]
struct CpuLine {
    total: u64,
    idle: u64,
    steal: u64,
    softirq: u64,
}

#[derive(Serialize, Deserialize)]
struct SoftnetLine {
    dropped: u64,
    squeezed: u64,
}

#[derive(Serialize, Deserialize)]
struct SocketsLine {
    in_use: u64,
    established: u64,
    time_wait: u64,
    orphans: u64,
    pages: u64,
}

#[derive(Serialize, Deserialize)]
struct UsageLine {
    used: u64,
    limit: u64,
}

#[derive(Serialize, Deserialize)]
struct ThrottledLine {
    periods: u64,
    time_ns: u64,
}

#[derive(Serialize, Deserialize)]
struct SendingLine {
    connections: u64,
    busy_ns: u64,
    receiver_limited_ns: u64,
    buffer_limited_ns: u64,
    retransmitted: u64,
}

impl HostLine {
    pub(super) fn from(sample: &HostSample) -> HostLine {
        let usage = |usage: Option<Usage>| usage.map(UsageLine::from);
        HostLine {
            cpu_ns: sample.cpu.0,
            user_ns: sample.user.0,
            rss_peak_bytes: sample.rss_peak_bytes,
            workers: sample.workers.iter().map(ThreadLine::from).collect(),
            cpu_ticks: sample.cpus.map(|CpuTimes { total, idle, steal, softirq }| CpuLine {
                total,
                idle,
                steal,
                softirq,
            }),
            softnet: sample
                .softnet
                .map(|Softnet { dropped, squeezed }| SoftnetLine { dropped, squeezed }),
            sockets: sample.sockets.map(
                |Sockets { in_use, established, time_wait, orphans, pages }| SocketsLine {
                    in_use,
                    established,
                    time_wait,
                    orphans,
                    pages,
                },
            ),
            ports: sample.ports,
            descriptors: usage(sample.descriptors),
            conntrack: usage(sample.conntrack),
            memory_bytes: usage(sample.memory),
            throttled: sample
                .throttled
                .map(|Throttled { periods, time }| ThrottledLine { periods, time_ns: time.0 }),
            namespace_tcp: sample.tcp.as_ref().map(tally_to_map),
            sending: sample.sending.map(SendingLine::from),
            sampling_ns: sample.sampling.0,
            newer: BTreeMap::new(),
        }
    }

    pub(super) fn into_sample(self, ignored: &mut Ignored) -> HostSample {
        self.newer.into_keys().for_each(|field| ignored.field("host", &field));
        let usage =
            |usage: Option<UsageLine>| usage.map(|UsageLine { used, limit }| Usage { used, limit });
        HostSample {
            cpu: Nanos(self.cpu_ns),
            user: Nanos(self.user_ns),
            rss_peak_bytes: self.rss_peak_bytes,
            workers: self.workers.into_iter().map(ThreadLine::into_time).collect(),
            cpus: self.cpu_ticks.map(|CpuLine { total, idle, steal, softirq }| CpuTimes {
                total,
                idle,
                steal,
                softirq,
            }),
            softnet: self
                .softnet
                .map(|SoftnetLine { dropped, squeezed }| Softnet { dropped, squeezed }),
            sockets: self.sockets.map(
                |SocketsLine { in_use, established, time_wait, orphans, pages }| Sockets {
                    in_use,
                    established,
                    time_wait,
                    orphans,
                    pages,
                },
            ),
            ports: self.ports,
            descriptors: usage(self.descriptors),
            conntrack: usage(self.conntrack),
            memory: usage(self.memory_bytes),
            throttled: self.throttled.map(|ThrottledLine { periods, time_ns }| Throttled {
                periods,
                time: Nanos(time_ns),
            }),
            tcp: self.namespace_tcp.map(|map| tally_known(map, "host.namespace_tcp", ignored)),
            sending: self.sending.map(SendingLine::into_sending),
            sampling: Nanos(self.sampling_ns),
        }
    }
}

impl UsageLine {
    fn from(Usage { used, limit }: Usage) -> UsageLine {
        UsageLine { used, limit }
    }
}

impl ThreadLine {
    fn from(time: &ThreadTime) -> ThreadLine {
        ThreadLine { cpu_ns: time.cpu.0, run_delay_ns: time.run_delay.0, preempted: time.preempted }
    }

    fn into_time(self) -> ThreadTime {
        ThreadTime {
            cpu: Nanos(self.cpu_ns),
            run_delay: Nanos(self.run_delay_ns),
            preempted: self.preempted,
        }
    }
}

impl SendingLine {
    fn from(sending: Sending) -> SendingLine {
        SendingLine {
            connections: sending.connections,
            busy_ns: sending.busy.0,
            receiver_limited_ns: sending.receiver_limited.0,
            buffer_limited_ns: sending.buffer_limited.0,
            retransmitted: sending.retransmitted,
        }
    }

    fn into_sending(self) -> Sending {
        Sending {
            connections: self.connections,
            busy: Nanos(self.busy_ns),
            receiver_limited: Nanos(self.receiver_limited_ns),
            buffer_limited: Nanos(self.buffer_limited_ns),
            retransmitted: self.retransmitted,
        }
    }
}
