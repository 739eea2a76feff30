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

/// One of the first errors of a class, or the first of an unexpected HTTP status at a target, for people to read.
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
    /// Maximum number of notes of a class, whose texts differ: a class may have several causes.
    pub const OF_CLASS_MAX: usize = 3;
    /// Maximum number of notes of statuses, whatever the classes.
    pub const STATUSES_MAX: usize = 64;
    /// Maximum number of notes of a run.
    pub const MAX: usize = ErrorClass::ALL.len() * Note::OF_CLASS_MAX + Note::STATUSES_MAX;

    /// Whether these notes say enough about its kind: an answer of its status and target, or an error of
    /// its class with a similar text, or as many as are shown.
    pub fn is_covered_by(&self, notes: &[Note]) -> bool {
        let mut own =
            notes.iter().filter(|own| own.class == self.class && own.status == self.status);
        if self.status.is_some() {
            let all = notes.iter().filter(|own| own.status.is_some()).count();
            return all >= Note::STATUSES_MAX || own.any(|own| own.target == self.target);
        }
        let others = own.clone().count();
        others >= Note::OF_CLASS_MAX || own.any(|own| is_similar(&own.text, &self.text))
    }
}

/// Whether two texts differ at most in words with digits, such as ids, times and addresses.
fn is_similar(a: &str, b: &str) -> bool {
    fn words(text: &str) -> impl Iterator<Item = &str> {
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.map(|word| if word.contains(|c: char| c.is_ascii_digit()) { "0" } else { word })
    }
    words(a).eq(words(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_a_class_differ_in_more_than_numbers() {
        let note = |text: &str| Note {
            class: ErrorClass::Protocol,
            target: "t".into(),
            status: None,
            text: text.into(),
        };
        let mut notes = vec![note("status 200, body \"id\":17 at 0x1f")];
        let check = |notes: &[Note], text: &str, expected: bool| {
            assert_eq!(note(text).is_covered_by(notes), expected, "{text}");
        };
        check(&notes, "status 502, body \"id\":5 at 0xff", true);
        check(&notes, "status 200, body \"no\":5 at 0xff", false);
        check(&notes, "", false);
        notes.extend([note("b"), note("c")]);
        check(&notes, "d", true);
        let other = Note { class: ErrorClass::Reset, ..note("d") };
        assert!(!other.is_covered_by(&notes));
        // Statuses are noted by target, whatever their text is.
        let status = Note { class: ErrorClass::Status, status: Some(503), ..note("x") };
        notes.push(status.clone());
        assert!(Note { text: "y".into(), ..status.clone() }.is_covered_by(&notes));
        assert!(!Note { target: "u".into(), ..status.clone() }.is_covered_by(&notes));
        assert!(!Note { status: Some(500), ..status }.is_covered_by(&notes));
    }
}
