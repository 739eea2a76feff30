//! Whether a run may be believed.
//!
//! # The rule
//! A run is invalid when the instrument did not do what the plan says, for reasons of its own:
//! - **lag**: the 99th percentile of `dispatched_at - scheduled_at` of open streams is over the
//!   larger of 5 ms and a tenth of the 99th percentile of latency. Lag is part of latency; up to a
//!   tenth of it, it changes no conclusion, and below 5 ms a virtual machine's own wake-ups make it.
//! - **its own errors**: more than 0.1 % of the arrivals met the end of local ports, of descriptors,
//!   or of the grace period.
//! - **its own limit**: the same share waited in vain for a connection, and the limit could not have
//!   carried the rate even at the target's best: by Little's law `max` connections carry
//!   `max / service time` a second, taken at the fastest tenth of the answers. If it could have, the
//!   target's slowing down used the connections up, and the finding speaks against the target.
//!
//! A run that was stopped is not invalid, it is short.

use crate::objectives::percent;
use crate::summary::Group;
use plimsoll_measure::units::grouped;
use plimsoll_measure::{ErrorClass, Finding, FindingId, Nanos, RunFacts, Severity, Side, Snapshot};
use plimsoll_plan::{Load, Plan};

/// Lag up to this is a virtual machine's own.
const LAG_FLOOR: Nanos = Nanos::from_millis(5);
/// Lag up to this share of latency changes no conclusion.
const LAG_SHARE: f64 = 0.1;
/// More errors of its own than this share make a run invalid.
const OWN_ERRORS: f64 = 0.001;
/// More errors than this share of the network's or the target's limited the run.
const THEIR_ERRORS: f64 = 0.01;

/// Whether a run may be believed, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Whether it may.
    pub valid: bool,
    /// What limited it; `None`: nothing did.
    pub limited_by: Option<Side>,
    /// What was found, the weightiest first.
    pub findings: Vec<Finding>,
}

impl Verdict {
    pub(crate) fn of(plan: &Plan, facts: &RunFacts, total: &Snapshot, all: &Group) -> Verdict {
        let mut judge = Judge { plan, facts, total, all, findings: Vec::new() };
        judge.lag();
        judge.own_errors();
        judge.connections();
        judge.their_errors();
        judge.cut_short();
        let Judge { mut findings, .. } = judge;
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let invalid = findings.iter().find(|finding| finding.severity == Severity::Invalid);
        let valid = invalid.is_none();
        let limited_by = invalid.map(|finding| finding.side).or_else(|| limited_by(all));
        Verdict { valid, limited_by, findings }
    }
}

fn limited_by(all: &Group) -> Option<Side> {
    let scheduled = all.stats.requests.scheduled.max(1) as f64;
    let share = |side: Side| {
        let of_side = all.stats.errors.iter().filter(|(class, _)| class.side() == side);
        of_side.map(|(_, n)| n).sum::<u64>() as f64 / scheduled
    };
    let (network, target) = (share(Side::Network), share(Side::Target));
    if network.max(target) <= THEIR_ERRORS {
        None
    } else if network > target {
        Some(Side::Network)
    } else {
        Some(Side::Target)
    }
}

struct Judge<'a> {
    plan: &'a Plan,
    facts: &'a RunFacts,
    total: &'a Snapshot,
    all: &'a Group,
    findings: Vec<Finding>,
}

impl Judge<'_> {
    fn find(&mut self, id: FindingId, severity: Severity, side: Side, evidence: String, fix: &str) {
        let (from, to) = (self.facts.warmup, self.facts.warmup + self.facts.duration);
        self.findings.push(Finding { id, severity, side, evidence, fix: fix.into(), from, to });
    }

    fn scheduled(&self) -> u64 {
        self.all.stats.requests.scheduled
    }

    fn count(&self, class: ErrorClass) -> u64 {
        self.all.stats.errors.get(class)
    }

    /// `12 of 5,000 (0.2 %)`.
    fn share_of_all(&self, n: u64) -> String {
        let share = n as f64 / self.scheduled().max(1) as f64;
        format!("{} of {} ({})", grouped(n), grouped(self.scheduled()), percent(share))
    }

    fn is_much(&self, n: u64) -> bool {
        n as f64 > self.scheduled() as f64 * OWN_ERRORS
    }

    fn lag(&mut self) {
        let open = |load: &Load| matches!(load, Load::Open { .. });
        if !self.plan.streams.iter().any(|stream| open(&stream.load)) {
            return;
        }
        let (Some(lag), Some(latency)) =
            (self.total.lag.quantile(0.99), self.all.latency.quantile(0.99))
        else {
            return;
        };
        let allowed = LAG_FLOOR.max(Nanos((latency.0 as f64 * LAG_SHARE) as u64));
        if lag > allowed {
            self.find(
                FindingId::PlanNotHeld,
                Severity::Invalid,
                Side::Generator,
                format!("requests left late: p99 lag {lag}, allowed {allowed}"),
                "give the generator more CPU (--workers, another host), or lower the rate",
            );
        }
    }

    fn own_errors(&mut self) {
        let ports = self.count(ErrorClass::PortExhausted);
        let fds = self.count(ErrorClass::FdExhausted);
        let aborted = if self.facts.cut_short { 0 } else { self.count(ErrorClass::Aborted) };
        if self.is_much(ports + fds + aborted) {
            self.find(
                FindingId::PlanNotHeld,
                Severity::Invalid,
                Side::Generator,
                format!("failed in the generator: {}", self.share_of_all(ports + fds + aborted)),
                "see the findings below; the target is not to blame for these",
            );
        }
        if ports > 0 {
            self.find(
                FindingId::PortsExhausted,
                self.own_severity(ports),
                Side::Generator,
                format!("no local port left for {}", self.share_of_all(ports)),
                "reuse connections, add source addresses (connections.source), or widen the range: \
                 sysctl -w net.ipv4.ip_local_port_range=\"10000 65535\"",
            );
        }
        if fds > 0 {
            self.find(
                FindingId::FdsExhausted,
                self.own_severity(fds),
                Side::Generator,
                format!("no file descriptor left for {}", self.share_of_all(fds)),
                "raise the hard limit (ulimit -Hn), or lower connections.max",
            );
        }
    }

    fn own_severity(&self, n: u64) -> Severity {
        if self.is_much(n) { Severity::Invalid } else { Severity::Warning }
    }

    fn connections(&mut self) {
        let waited = self.count(ErrorClass::NoConnection);
        if waited == 0 {
            return;
        }
        let max = self.plan.connections.max;
        let best = self.all.service_time.quantile(0.1).unwrap_or(Nanos::MAX);
        let carried = max as f64 / best.as_secs_f64();
        let planned = self.scheduled() as f64 / self.facts.duration.as_secs_f64().max(1e-9);
        let evidence = format!("no free connection in time for {}", self.share_of_all(waited));
        if carried < planned {
            let severity = self.own_severity(waited);
            let evidence = format!(
                "{evidence}; {max} connections carry at most {carried:.0}/s at the target's best"
            );
            let fix = "raise connections.max in the plan";
            self.find(FindingId::ConnectionsCapped, severity, Side::Generator, evidence, fix);
        } else {
            let evidence = format!("{evidence}; the target slowed down until {max} were in use");
            let fix = "lower the rate, or find out why the target slows down";
            let (id, warning) = (FindingId::ConnectionsCapped, Severity::Warning);
            self.find(id, warning, Side::Target, evidence, fix);
        }
    }

    fn their_errors(&mut self) {
        use ErrorClass::*;
        let rows: [(FindingId, &[ErrorClass], Side, &str, &str); 7] = [
            (
                FindingId::DnsFailed,
                &[Dns],
                Side::Network,
                "the name gave no address for",
                "check the host name in the plan",
            ),
            (
                FindingId::Unreachable,
                &[Unreachable, ConnectTimeout],
                Side::Network,
                "no connection could be established for",
                "check address, route and firewall between here and the target",
            ),
            (
                FindingId::TargetRefused,
                &[Refused],
                Side::Target,
                "connections refused for",
                "is the target running, and does it listen on this port?",
            ),
            (
                FindingId::TargetReset,
                &[Reset, ClosedEarly],
                Side::Target,
                "connections reset or closed early for",
                "look for crashes, restarts and idle timeouts at the target or a balancer",
            ),
            (
                FindingId::TargetStalled,
                &[ResponseTimeout],
                Side::Target,
                "no answer in time for",
                "lower the rate, or raise timeout in the plan if that long is acceptable",
            ),
            (
                FindingId::TargetRpcErrors,
                &[RpcError],
                Side::Target,
                "JSON-RPC errors for",
                "see the codes above; --trace 5 shows whole exchanges",
            ),
            (
                FindingId::TargetErrors,
                &[Tls, Protocol, BodyTooLarge, Status, RpcMismatch, Check],
                Side::Target,
                "answers that were not expected for",
                "see the errors above; --trace 5 shows whole exchanges",
            ),
        ];
        for (id, classes, side, words, fix) in rows {
            let n: u64 = classes.iter().map(|class| self.count(*class)).sum();
            if n > 0 {
                let evidence = format!("{words} {}", self.share_of_all(n));
                self.find(id, Severity::Warning, side, evidence, fix);
            }
        }
    }

    fn cut_short(&mut self) {
        if self.facts.cut_short {
            let evidence = format!("stopped after {}", self.facts.duration);
            let fix = "the figures hold for the time that was run";
            self.find(FindingId::CutShort, Severity::Info, Side::Generator, evidence, fix);
        }
    }
}
