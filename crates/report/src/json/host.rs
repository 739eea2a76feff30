//! The host during the run.

use super::tally;
use crate::timeline::{Span, Timeline};
use plimsoll_measure::{Sending, Usage};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
pub(super) struct HostFile {
    timeline: Vec<SpanFile>,
}

#[derive(Serialize)]
struct SpanFile {
    from_ns: u64,
    to_ns: u64,
    cpu_busy: Option<f64>,
    cpu_steal: Option<f64>,
    /// Of the busiest worker.
    worker_busy: Option<f64>,
    /// Of the worker that waited longest.
    run_delay: Option<f64>,
    preempted: u64,
    throttled_ns: Option<u64>,
    softnet_dropped: Option<u64>,
    established: Option<u64>,
    time_wait: Option<u64>,
    ports: Option<UsageFile>,
    descriptors: Option<UsageFile>,
    conntrack: Option<UsageFile>,
    memory_bytes: Option<UsageFile>,
    namespace_tcp: Option<BTreeMap<&'static str, u64>>,
    sending: Option<SendingFile>,
    sampling_ns: u64,
}

#[derive(Serialize)]
pub(super) struct UsageFile {
    used: u64,
    limit: u64,
}

#[derive(Serialize)]
struct SendingFile {
    busy_ns: u64,
    receiver_limited_ns: u64,
    buffer_limited_ns: u64,
    retransmitted: u64,
}

impl HostFile {
    pub(super) fn of(timeline: &Timeline) -> HostFile {
        HostFile { timeline: timeline.spans().iter().map(SpanFile::of).collect() }
    }
}

impl SpanFile {
    fn of(span: &Span) -> SpanFile {
        let host = &span.host;
        SpanFile {
            from_ns: span.seconds.from.0,
            to_ns: span.seconds.to.0,
            cpu_busy: span.cpu_busy(),
            cpu_steal: span.steal(),
            worker_busy: span.worker_busy(),
            run_delay: span.run_delay(),
            preempted: host.workers.iter().map(|worker| worker.preempted).sum(),
            throttled_ns: host.throttled.map(|throttled| throttled.time.0),
            softnet_dropped: host.softnet.map(|softnet| softnet.dropped),
            established: host.sockets.map(|sockets| sockets.established),
            time_wait: host.sockets.map(|sockets| sockets.time_wait),
            ports: span.ports.map(UsageFile::of),
            descriptors: host.descriptors.map(UsageFile::of),
            conntrack: host.conntrack.map(UsageFile::of),
            memory_bytes: host.memory.map(UsageFile::of),
            namespace_tcp: host.tcp.as_ref().map(tally),
            sending: host.sending.map(SendingFile::of),
            sampling_ns: host.sampling.0,
        }
    }
}

impl UsageFile {
    pub(super) fn of(usage: Usage) -> UsageFile {
        UsageFile { used: usage.used, limit: usage.limit }
    }
}

impl SendingFile {
    fn of(sending: Sending) -> SendingFile {
        SendingFile {
            busy_ns: sending.busy.0,
            receiver_limited_ns: sending.receiver_limited.0,
            buffer_limited_ns: sending.buffer_limited.0,
            retransmitted: sending.retransmitted,
        }
    }
}
