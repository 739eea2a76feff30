//! Findings from error classes: failures in the generator, in the network and at the target.

use super::{Blame, Case, Found, MATERIAL, NOTABLE, Nanos, percent};
use crate::seconds::{FaultTimes, Seconds};
use plimsoll_measure::units::grouped;
use plimsoll_measure::{ErrorClass, Fault, FindingId, Severity, Side};

/// Failures in the generator above this share make a run invalid.
const OWN_ERRORS: f64 = NOTABLE;
/// The fix for a target that never answers.
pub(super) const SILENT_FIX: &str =
    "check the service: it did not answer a single request in this run";

/// Failures in the generator, by class.
fn generator_counts(case: &Case<'_>, blame: &Blame) -> Vec<(ErrorClass, u64)> {
    use ErrorClass::*;
    let counts = [
        (PortExhausted, case.count(PortExhausted)),
        (FdExhausted, case.count(FdExhausted)),
        (MemoryExhausted, case.count(MemoryExhausted)),
        (NoConnection, blame.limit.unsent),
        (ResponseTimeout, blame.limit.timed_out),
        (Late, case.count(Late)),
        // Stopping a run aborts its last requests; those are not failures.
        (Aborted, if case.facts.cut_short { 0 } else { case.count(Aborted) }),
    ];
    counts.into_iter().filter(|(_, n)| *n > 0).collect()
}

/// `plan_not_held`, and findings on exhausted resources.
pub(super) fn generator(case: &Case<'_>, blame: &Blame) -> Vec<Found> {
    let counts = generator_counts(case, blame);
    let all: u64 = counts.iter().map(|(_, n)| n).sum();
    let mut found = Vec::new();
    if case.share(all) > OWN_ERRORS {
        let each: Vec<_> =
            counts.iter().map(|(class, n)| format!("{} {class}", grouped(*n))).collect();
        let classes: Vec<_> = counts.iter().map(|(class, _)| *class).collect();
        let most = counts.iter().max_by_key(|(_, n)| *n).map(|(class, _)| *class);
        found.push(Found {
            id: FindingId::PlanNotHeld,
            severity: Severity::Invalid,
            side: Side::Generator,
            evidence: format!("failed in the generator: {}: {}", case.of_all(all), each.join(", ")),
            fix: most.map_or("", own_fix).into(),
            seconds: case.errors.over(&classes),
            share: case.share(all),
        });
    }
    let rows = [
        (ErrorClass::PortExhausted, FindingId::PortsExhausted, "no local port was left for"),
        (ErrorClass::FdExhausted, FindingId::FdsExhausted, "no file descriptor was left for"),
        (
            ErrorClass::MemoryExhausted,
            FindingId::MemoryPressure,
            "the memory limit for unfinished answers was reached for",
        ),
    ];
    for (class, id, text) in rows {
        let n = case.count(class);
        if n > 0 {
            let severity =
                if case.share(n) > OWN_ERRORS { Severity::Invalid } else { Severity::Warning };
            found.push(Found {
                id,
                severity,
                side: Side::Generator,
                evidence: format!("{text} {}", case.of_all(n)),
                fix: own_fix(class).into(),
                seconds: case.errors.get(class),
                share: case.share(n),
            });
        }
    }
    found
}

fn own_fix(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::PortExhausted => {
            "set connections.reuse = true, add source addresses (connections.source), or widen the \
             range: sysctl -w net.ipv4.ip_local_port_range=\"10000 65535\""
        }
        ErrorClass::FdExhausted => "raise the hard limit (ulimit -Hn), or lower connections.max",
        ErrorClass::MemoryExhausted => {
            "lower max_body or the rate, or send requests with smaller answers"
        }
        ErrorClass::Aborted => {
            "raise grace to at least the timeout, so that the run waits for every answer"
        }
        ErrorClass::NoConnection | ErrorClass::ResponseTimeout => {
            "raise connections.max (see connections_capped)"
        }
        _ => "use more workers (--workers N) or a less busy host, or lower the rate",
    }
}

/// Failures in the network and at the target.
pub(super) fn network_and_target(
    case: &Case<'_>,
    blame: &Blame,
    faults: &FaultTimes,
) -> Vec<Found> {
    let counts = Counts { case, blame, faults };
    let rows = ROWS.iter().filter_map(|row| {
        let n = counts.count(row);
        (n > 0).then(|| Found {
            id: row.id,
            severity: Severity::Warning,
            side: row.side,
            evidence: match row.of {
                Counted::Connections(_) if n == 1 => {
                    "1 answer was followed by bytes that belong to no request; the connection was \
                     closed"
                        .into()
                }
                Counted::Connections(_) => format!("{} {}", grouped(n), row.text),
                _ => format!("{} {}", row.text, case.of_all(n)),
            },
            fix: counts.fix(row).into(),
            seconds: counts.seconds(row),
            share: case.share(n),
        })
    });
    rows.collect()
}

struct Row {
    id: FindingId,
    of: Counted,
    side: Side,
    /// The beginning of the evidence, followed by `12 of 5,000 arrivals`; the end of it, after the
    /// number, for connections.
    text: &'static str,
    fix: &'static str,
}

/// Faults of redirects, whose answers are valid HTTP.
const REDIRECTS: [Fault; 3] = [Fault::BadLocation, Fault::TooManyRedirects, Fault::TooManyOrigins];

/// What a row counts.
enum Counted {
    /// Arrivals of these classes, without those that have one of these faults, which have their own row.
    Classes(&'static [ErrorClass], &'static [Fault]),
    /// Arrivals with this fault.
    Fault(Fault),
    /// Connections with this fault.
    Connections(Fault),
}

const ROWS: [Row; 16] = {
    use ErrorClass::*;
    [
        Row {
            id: FindingId::DnsFailed,
            of: Counted::Classes(&[Dns], &[]),
            side: Side::Network,
            text: "the host name could not be resolved for",
            fix: "check the host name in the plan, and the resolver: getent ahosts HOST",
        },
        Row {
            id: FindingId::Unreachable,
            of: Counted::Classes(&[Unreachable, ConnectTimeout], &[]),
            side: Side::Network,
            text: "no connection could be established to the target for",
            fix: "check the address, the route and the firewalls between this host and the target",
        },
        Row {
            id: FindingId::TargetRefused,
            of: Counted::Classes(&[Refused], &[]),
            side: Side::Target,
            text: "connections were refused for",
            fix: "check that the target is running and listens on this port",
        },
        Row {
            id: FindingId::TargetReset,
            of: Counted::Classes(&[Reset, ClosedEarly], &[Fault::StaleKeepAlive]),
            side: Side::Target,
            text: "connections were reset or closed before the answer was complete for",
            fix: "look for crashes and restarts of the target or of a load balancer in front of it",
        },
        Row {
            id: FindingId::TargetReset,
            of: Counted::Fault(Fault::StaleKeepAlive),
            side: Side::Target,
            text: "the target closed an idle keep-alive connection just as a request was sent for",
            fix: "raise the target's keep-alive timeout above the time between two requests, or set \
                  connections.reuse = false",
        },
        Row {
            id: FindingId::TargetStalled,
            of: Counted::Classes(&[ResponseTimeout], &[]),
            side: Side::Target,
            text: "there was no answer before the timeout for",
            fix: "lower the rate, or raise timeout in the plan if such latency is acceptable",
        },
        Row {
            id: FindingId::TargetStalled,
            of: Counted::Fault(Fault::HandshakeTimeout),
            side: Side::Target,
            text: "the target accepted the connection but did not answer the TLS handshake before \
                    the timeout for",
            fix: "check that the port speaks TLS, and that the target has capacity for handshakes; \
                  use http:// if it does not",
        },
        Row {
            id: FindingId::TargetRpcErrors,
            of: Counted::Classes(&[RpcError], &[]),
            side: Side::Target,
            text: "the answer was a JSON-RPC error for",
            fix: "see the error codes; --trace 5 prints whole exchanges",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Classes(&[Tls], &[Fault::HandshakeTimeout]),
            side: Side::Target,
            text: "TLS handshakes failed for",
            fix: "see the tls error in the list of errors: it names the cause and what to set",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Classes(&[Protocol], &REDIRECTS),
            side: Side::Target,
            text: "the answer was not valid HTTP for",
            fix: "check that the port speaks HTTP; use https:// if it speaks TLS; --trace 5 prints \
                  whole exchanges",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Fault(Fault::TooManyOrigins),
            side: Side::Target,
            text: "targets and redirects span more than 256 origins, so that no redirect to \
                    another was followed for",
            fix: "lower redirects, or send to the hosts that the redirects lead to",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Fault(Fault::TooManyRedirects),
            side: Side::Target,
            text: "there were more redirects than the plan follows for",
            fix: "raise redirects in the plan, or look for redirects that lead in a circle; --trace 5 \
                  prints whole exchanges",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Fault(Fault::BadLocation),
            side: Side::Target,
            text: "a redirect had no usable Location for",
            fix: "check the target's redirects; --trace 5 prints whole exchanges",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Connections(Fault::BytesAfter),
            side: Side::Target,
            text: "answers were followed by bytes that belong to no request; the connections were \
                    closed",
            fix: "compare Content-Length with the body that the target sends; --trace 5 prints whole \
                  exchanges",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Classes(&[BodyTooLarge], &[]),
            side: Side::Target,
            text: "the body exceeded max_body for",
            fix: "raise max_body in the plan (--max-body SIZE without a plan file), or ask for less",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Classes(&[Status, RpcMismatch, Check], &[]),
            side: Side::Target,
            text: "the answer was not as expected for",
            fix: "see the errors; --trace 5 prints whole exchanges",
        },
    ]
};

struct Counts<'a> {
    case: &'a Case<'a>,
    blame: &'a Blame,
    faults: &'a FaultTimes,
}

impl Counts<'_> {
    fn count(&self, row: &Row) -> u64 {
        let faults = &self.case.total.faults;
        match row.of {
            Counted::Fault(fault) | Counted::Connections(fault) => faults.get(fault),
            Counted::Classes(classes, except) => {
                let all: u64 = classes.iter().map(|class| self.count_class(*class)).sum();
                all.saturating_sub(except.iter().map(|fault| faults.get(*fault)).sum())
            }
        }
    }

    /// The count of a class, without timeouts explained by a wait at a connection limit.
    fn count_class(&self, class: ErrorClass) -> u64 {
        let explained = match class {
            ErrorClass::ResponseTimeout => self.blame.limit.timed_out + self.blame.target.timed_out,
            _ => 0,
        };
        self.case.count(class).saturating_sub(explained)
    }

    /// The row's fix, except that lowering the rate does not help if the target never answers.
    fn fix(&self, row: &Row) -> &'static str {
        match row.of {
            Counted::Classes([ErrorClass::ResponseTimeout], _) if self.case.nothing_answered() => {
                SILENT_FIX
            }
            _ => row.fix,
        }
    }

    fn seconds(&self, row: &Row) -> Option<Seconds> {
        match row.of {
            Counted::Fault(fault) | Counted::Connections(fault) => self.faults.get(fault),
            Counted::Classes(classes, _) => self.case.errors.over(classes),
        }
    }
}

/// No arrival was ok. The finding's side is the one at which most arrivals failed. Unless that is the
/// generator, other findings that would make the run invalid become warnings, because a punctual generator
/// would have received no better answers.
pub(super) fn nothing_ok(case: &Case<'_>, blame: &Blame, found: &mut [Found]) -> Option<Found> {
    let stopped_before = case.facts.cut_short && case.scheduled() == 0;
    if case.all.stats.requests.ok > 0 || stopped_before {
        return None;
    }
    let own: u64 = generator_counts(case, blame).iter().map(|(_, n)| n).sum();
    let of_side = |side: Side| -> u64 {
        let errors = case.all.stats.errors.iter();
        errors.filter(|(class, _)| class.side() == side).map(|(_, n)| n).sum()
    };
    let network = of_side(Side::Network);
    let target = case.scheduled().saturating_sub(own + network);
    let generator = own > network.max(target);
    if !generator {
        let found = found.iter_mut();
        found.for_each(|found| found.severity = found.severity.min(Severity::Warning));
    }
    let side = if generator {
        Side::Generator
    } else if network > target {
        Side::Network
    } else {
        Side::Target
    };
    let most = case.all.stats.errors.iter().max_by_key(|(_, n)| *n);
    let evidence = match (case.scheduled(), most) {
        (0, _) | (_, None) => "no arrival was scheduled".into(),
        (1, Some((class, _))) => format!("the only arrival failed: {class}"),
        (all, Some((class, n))) => format!(
            "none of {} arrivals was answered as expected; {} failed with {class}",
            grouped(all),
            percent(n as f64 / all as f64)
        ),
    };
    let cause = found.iter().find(|found| found.side == side && found.share > MATERIAL);
    Some(Found {
        id: FindingId::NothingOk,
        severity: if generator { Severity::Invalid } else { Severity::Warning },
        side,
        evidence,
        fix: cause.map_or_else(
            || "run longer or raise the rate; plimsoll check PLAN shows the schedule".into(),
            |cause| cause.fix.clone(),
        ),
        seconds: None,
        share: 1.0,
    })
}

/// The run was started with `--force` although a check failed.
pub(super) fn forced(case: &Case<'_>) -> Option<Found> {
    (!case.facts.forced.is_empty()).then(|| Found {
        id: FindingId::Forced,
        severity: Severity::Warning,
        side: Side::Generator,
        evidence: format!("started with --force although {}", case.facts.forced.join("; ")),
        fix: "fix this, then run without --force".into(),
        seconds: None,
        share: 0.0,
    })
}

/// The run was stopped.
pub(super) fn cut_short(case: &Case<'_>) -> Option<Found> {
    let after: Nanos = case.facts.duration;
    let nothing = case.scheduled() == 0 && case.facts.warmup > Nanos::ZERO;
    let evidence = if nothing && after == Nanos::ZERO {
        "the run was stopped during its warm-up".into()
    } else {
        format!("the run was stopped after {after}")
    };
    case.facts.cut_short.then(|| Found {
        id: FindingId::CutShort,
        severity: Severity::Info,
        side: Side::Generator,
        evidence,
        fix: "the figures cover the time until then; run the plan again to complete it".into(),
        seconds: None,
        share: 0.0,
    })
}
