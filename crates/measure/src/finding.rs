//! What a verdict says: one sentence of evidence and one fix, by a known id.

use crate::Nanos;
use crate::names::{ErrorClass, Listed, Side, listed};
use std::fmt;

listed! {
    /// How much a finding weighs.
    Severity {
        /// Worth knowing.
        Info = "info",
        /// The run stands, but something was near its limit or went wrong at the target.
        Warning = "warning",
        /// The run must not be believed.
        Invalid = "invalid",
    }
}

listed! {
    /// The known findings. An id means the same in every report.
    FindingId {
        /// Not a single arrival was answered as expected.
        NothingOk = "nothing_ok",
        /// What was sent is not what the plan says, for reasons of the instrument's own.
        PlanNotHeld = "plan_not_held",
        /// Requests left later than planned.
        LagHigh = "lag_high",
        /// Answers lay in the kernel before they were read.
        ReadLate = "read_late",
        /// Bodies were dropped to stay within the instrument's memory.
        MemoryPressure = "memory_pressure",
        /// The kernel ran out of local ports.
        PortsExhausted = "ports_exhausted",
        /// The process ran out of file descriptors.
        FdsExhausted = "fds_exhausted",
        /// Arrivals waited for the plan's own limit on connections.
        ConnectionsCapped = "connections_capped",
        /// The target refused connections.
        TargetRefused = "target_refused",
        /// The target reset connections.
        TargetReset = "target_reset",
        /// The target answered with HTTP statuses or bodies that were not expected.
        TargetErrors = "target_errors",
        /// The target answered with JSON-RPC errors.
        TargetRpcErrors = "target_rpc_errors",
        /// The target did not answer in time.
        TargetStalled = "target_stalled",
        /// The target slowed down until every connection was in use.
        TargetSaturated = "target_saturated",
        /// The target's address could not be reached.
        Unreachable = "unreachable",
        /// The target's name could not be resolved.
        DnsFailed = "dns_failed",
        /// The run was stopped before its end.
        CutShort = "cut_short",
        /// The run was started although this host cannot carry it (`--force`).
        Forced = "forced",
    }
}

/// One thing that a verdict found.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Which.
    pub id: FindingId,
    /// How much it weighs.
    pub severity: Severity,
    /// Whose doing it was.
    pub side: Side,
    /// The number that shows it.
    pub evidence: String,
    /// The command, flag or plan key that fixes it.
    pub fix: String,
    /// When it began.
    pub from: Nanos,
    /// When it ended.
    pub to: Nanos,
}

/// What an error of a class said, the first that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The class.
    pub class: ErrorClass,
    /// The target's name.
    pub target: String,
    /// The system's or the target's words.
    pub text: String,
}
