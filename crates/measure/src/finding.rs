//! The findings of a verdict: each has a known id, one sentence of evidence and one fix.

use crate::Nanos;
use crate::names::{ErrorClass, Listed, Side, listed};
use std::fmt;

listed! {
    /// How serious a finding is.
    Severity {
        /// Worth knowing.
        Info = "info",
        /// The run is valid, but something was near its limit or went wrong at the target.
        Warning = "warning",
        /// The results cannot be trusted.
        Invalid = "invalid",
    }
}

listed! {
    /// The known findings. An id has the same meaning in every report.
    FindingId {
        /// No arrival was answered as expected.
        NothingOk = "nothing_ok",
        /// The load generator did not send what the plan asked for.
        PlanNotHeld = "plan_not_held",
        /// Requests were sent later than planned.
        LagHigh = "lag_high",
        /// Answers waited in the kernel before they were read.
        ReadLate = "read_late",
        /// A worker of the load generator used all of a CPU.
        CpuSaturated = "cpu_saturated",
        /// Other programs used the CPUs that the load generator needed.
        CpuContended = "cpu_contended",
        /// The control group's CPU limit stopped the load generator.
        CpuThrottled = "cpu_throttled",
        /// The host stopped the load generator, or delayed it now and then.
        HostNoise = "host_noise",
        /// Bodies were dropped to stay within the load generator's memory limit.
        MemoryPressure = "memory_pressure",
        /// The kernel ran out of local ports.
        PortsExhausted = "ports_exhausted",
        /// The process ran out of file descriptors.
        FdsExhausted = "fds_exhausted",
        /// Arrivals waited because the plan's connection limit was reached.
        ConnectionsCapped = "connections_capped",
        /// Arrivals waited because the target allows few streams on an HTTP/2 connection.
        PeerStreamLimit = "peer_stream_limit",
        /// A listener dropped attempts to connect because its accept queue was full.
        AcceptBacklog = "accept_backlog",
        /// The target refused connections.
        TargetRefused = "target_refused",
        /// The target redirected requests, and redirects were not followed.
        RedirectsNotFollowed = "redirects_not_followed",
        /// The target reset connections.
        TargetReset = "target_reset",
        /// The target refused HTTP/2 streams, or ended connections with GOAWAY.
        TargetGoaway = "target_goaway",
        /// This side ended HTTP/2 connections, because the target broke the protocol.
        GoawayLocal = "goaway_local",
        /// The target answered with HTTP status 429 (Too Many Requests).
        TargetRateLimited = "target_rate_limited",
        /// The target closed connections in the middle of an answer.
        TargetTruncated = "target_truncated",
        /// The target answered with unexpected HTTP statuses or bodies.
        TargetErrors = "target_errors",
        /// The target answered with JSON-RPC errors.
        TargetRpcErrors = "target_rpc_errors",
        /// Messages of what stays open were missing, repeated or out of order, or failed to come.
        TargetMessages = "target_messages",
        /// The target did not answer in time.
        TargetStalled = "target_stalled",
        /// The target slowed down until every connection was in use.
        TargetSaturated = "target_saturated",
        /// The target's address could not be reached.
        Unreachable = "unreachable",
        /// The network lost packets.
        PacketLoss = "packet_loss",
        /// The target's name could not be resolved.
        DnsFailed = "dns_failed",
        /// Requests were not recorded, because the recording thread did not keep up.
        SamplesDropped = "samples_dropped",
        /// The run was stopped early.
        CutShort = "cut_short",
        /// The run was started although this host cannot carry it (`--force`).
        Forced = "forced",
    }
}

/// One finding of a verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Which finding this is.
    pub id: FindingId,
    /// How serious it is.
    pub severity: Severity,
    /// The side responsible.
    pub side: Side,
    /// The evidence, with the number.
    pub evidence: String,
    /// The command, flag or plan key that fixes it.
    pub fix: String,
    /// When it began.
    pub from: Nanos,
    /// When it ended.
    pub to: Nanos,
}

/// The first error of a class, or of an unexpected HTTP status at a target, for people to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The error's class.
    pub class: ErrorClass,
    /// The target's name.
    pub target: String,
    /// The HTTP status, if the class is [`ErrorClass::Status`].
    pub status: Option<u16>,
    /// The message from the system or the target, such as the beginning of a body.
    pub text: String,
}

impl Note {
    /// Maximum number of notes of a run. Classes are noted first, whatever the number of statuses.
    pub const MAX: usize = ErrorClass::ALL.len() + 64;

    /// Whether it is the note of this class, target and status. Only statuses are noted by target.
    pub fn is_of(&self, class: ErrorClass, target: &str, status: Option<u16>) -> bool {
        self.class == class && self.status == status && (status.is_none() || self.target == target)
    }
}
