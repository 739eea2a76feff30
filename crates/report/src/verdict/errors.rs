//! Findings from error classes: failures in the generator, in the network and at the target.

use super::{Blame, Case, Found, MATERIAL, NOTABLE, percent};
use crate::seconds::{FaultTimes, Seconds};
use crate::text::clean;
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
        (Aborted, if case.facts.was_stopped() { 0 } else { case.count(Aborted) }),
    ];
    counts.into_iter().filter(|(_, n)| *n > 0).collect()
}

/// `plan_not_held`, and findings on exhausted resources.
/// `found` is what other rules found, whose fixes are more precise.
pub(super) fn generator(case: &Case<'_>, blame: &Blame, found: &[Found]) -> Vec<Found> {
    let capped = found.iter().find(|found| found.id == FindingId::ConnectionsCapped);
    let capped = capped.map(|found| found.fix.as_str());
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
            evidence: format!(
                "{} failed because of the load generator: {}",
                case.of_all(all),
                each.join(", ")
            ),
            fix: most.map_or_else(String::new, |class| own_fix(class, case, capped)),
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
                fix: own_fix(class, case, capped),
                seconds: case.errors.get(class),
                share: case.share(n),
            });
        }
    }
    found
}

/// `capped` is the fix for a connection limit that is too low, if one was found to be.
fn own_fix(class: ErrorClass, case: &Case<'_>, capped: Option<&str>) -> String {
    match class {
        ErrorClass::PortExhausted => case.advise(
            "{reuse connections}, add source addresses ({connections.source}), or widen the range: \
             sysctl -w net.ipv4.ip_local_port_range=\"10000 65535\"",
        ),
        ErrorClass::FdExhausted => {
            case.advise("raise the hard limit (ulimit -Hn), or lower {connections.max}")
        }
        ErrorClass::MemoryExhausted => {
            case.advise("lower {max_body} or the rate, or request smaller answers")
        }
        ErrorClass::Aborted => case.advise(
            "raise {grace} to at least the timeout, so that the run waits for every answer",
        ),
        ErrorClass::NoConnection | ErrorClass::ResponseTimeout => capped.map_or_else(
            || {
                let max = grouped(case.plan.connections.max);
                case.advise(&format!("raise {{connections.max}} above {max}"))
            },
            String::from,
        ),
        _ => format!("{}, or make sure that other programs leave CPU to plimsoll", case.more_cpu()),
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
                _ => {
                    let text = case.advise(row.text).replace("{n}", &case.of_all(n));
                    text + &counts.by_target(row)
                }
            },
            fix: case.advise(counts.fix(row)),
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
    /// The evidence, with `{n}` for `12 of 5,000 requests`; the end of it, after the number, for
    /// connections. Settings as in [`Case::advise`].
    text: &'static str,
    fix: &'static str,
}

/// Faults of redirects, whose answers are valid HTTP.
const REDIRECTS: [Fault; 4] =
    [Fault::BadLocation, Fault::TooManyRedirects, Fault::TooManyOrigins, Fault::SecretBody];

/// What a row counts.
enum Counted {
    /// Arrivals of these classes, without those that have one of these faults, which have their own row.
    Classes(&'static [ErrorClass], &'static [Fault]),
    /// Arrivals with this fault.
    Fault(Fault),
    /// Connections with this fault.
    Connections(Fault),
    /// Arrivals that were refused with status 429, whether with a JSON-RPC error or not.
    RateLimited,
}

/// Too Many Requests.
const RATE_LIMITED: u16 = 429;

const ROWS: [Row; 19] = {
    use ErrorClass::*;
    [
        Row {
            id: FindingId::DnsFailed,
            of: Counted::Classes(&[Dns], &[]),
            side: Side::Network,
            text: "{n} failed because the host name could not be resolved",
            fix: "check the host name and the resolver: getent ahosts HOST",
        },
        Row {
            id: FindingId::Unreachable,
            of: Counted::Classes(&[Unreachable, ConnectTimeout], &[]),
            side: Side::Network,
            text: "{n} failed because no connection to the target could be established",
            fix: "check the address, the route and the firewalls between this host and the target",
        },
        Row {
            id: FindingId::TargetRefused,
            of: Counted::Classes(&[Refused], &[]),
            side: Side::Target,
            text: "{n} failed because the target refused the connection",
            fix: "check that the target is running and listens on this port",
        },
        Row {
            id: FindingId::TargetReset,
            of: Counted::Classes(&[Reset, ClosedEarly], &[Fault::StaleKeepAlive, Fault::Truncated]),
            side: Side::Target,
            text: "{n} failed because the target reset or closed the connection before the answer was complete",
            fix: "look for crashes and restarts of the target or of a load balancer in front of it",
        },
        Row {
            id: FindingId::TargetTruncated,
            of: Counted::Fault(Fault::Truncated),
            side: Side::Target,
            text: "{n} failed because the target closed the connection in the middle of the answer",
            fix: "look for crashes and restarts of the target or of a load balancer in front of it, and \
                  for limits on the size or time of its answers",
        },
        Row {
            id: FindingId::TargetReset,
            of: Counted::Fault(Fault::StaleKeepAlive),
            side: Side::Target,
            text: "{n} failed because the target closed a connection that had been used before, instead of \
                   answering; it may have closed it as idle just as the request was sent",
            fix: "look for crashes and restarts of the target; if connections are idle between requests, \
                  raise its keep-alive timeout above that time, or {do not reuse connections}",
        },
        Row {
            id: FindingId::TargetStalled,
            of: Counted::Classes(&[ResponseTimeout], &[]),
            side: Side::Target,
            text: "{n} got no complete answer within the timeout of {the timeout}",
            fix: "lower the load, or raise {timeout} if such latency is acceptable",
        },
        Row {
            id: FindingId::TargetStalled,
            of: Counted::Fault(Fault::HandshakeTimeout),
            side: Side::Target,
            text: "{n} failed because the target accepted the connection but did not answer the TLS \
                   handshake within the timeout of {the timeout}",
            fix: "check that the port speaks TLS, and that the target has capacity for handshakes; \
                  use http:// if it does not",
        },
        Row {
            id: FindingId::TargetRateLimited,
            of: Counted::RateLimited,
            side: Side::Target,
            text: "{n} were refused with HTTP status 429 (Too Many Requests)",
            fix: "lower the rate, or raise the target's limit for this client",
        },
        Row {
            id: FindingId::TargetRpcErrors,
            of: Counted::Classes(&[RpcError], &[]),
            side: Side::Target,
            text: "{n} got a JSON-RPC error",
            fix: "see the error codes; --trace 5 prints whole exchanges",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Classes(&[Tls], &[Fault::HandshakeTimeout]),
            side: Side::Target,
            text: "{n} failed in the TLS handshake",
            fix: "see the tls error in the list of errors, which names the cause and what to set",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Classes(&[Protocol], &REDIRECTS),
            side: Side::Target,
            text: "{n} got an answer that is not valid HTTP",
            fix: "the table of errors says what is wrong with it; if the port speaks TLS, use https://; \
                  --trace 5 prints whole exchanges",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Fault(Fault::TooManyOrigins),
            side: Side::Target,
            text: "{n} were redirected to one origin too many: targets and redirects span \
                   more than 256 origins",
            fix: "lower {redirects}, or send to the hosts that the redirects lead to",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Fault(Fault::TooManyRedirects),
            side: Side::Target,
            text: "{n} were redirected more often than the plan allows",
            fix: "raise {redirects}, or look for redirects that lead in a circle; --trace 5 \
                  prints whole exchanges",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Fault(Fault::BadLocation),
            side: Side::Target,
            text: "{n} got a redirect without a usable Location",
            fix: "check the target's redirects; --trace 5 prints whole exchanges",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Fault(Fault::SecretBody),
            side: Side::Target,
            text: "a redirect that would have sent a body with a secret variable to another origin was \
                    not followed for",
            fix: "send to the origin that the redirect leads to, if it may have the secret",
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
            text: "{n} got a body larger than {max_body}",
            fix: "raise {max_body}, or request less",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Classes(&[Status, RpcMismatch, Check], &[]),
            side: Side::Target,
            text: "{n} got an unexpected answer",
            fix: "see the tables of errors and statuses; --trace 5 prints whole exchanges",
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
            Counted::RateLimited => {
                self.rate_limited(ErrorClass::Status) + self.rate_limited(ErrorClass::RpcError)
            }
        }
    }

    /// `; all at target boba`, or `; most at target boba (749)`, if the plan has several targets.
    fn by_target(&self, row: &Row) -> String {
        let (Counted::Classes(classes, _), plan) = (&row.of, self.case.plan) else {
            return String::new();
        };
        let count = |place: usize| -> u64 {
            let errors = &self.case.total.stats[place].errors;
            classes.iter().map(|class| errors.get(*class)).sum()
        };
        let failing: Vec<usize> =
            (0..plan.targets.len()).filter(|place| count(*place) > 0).collect();
        let Some(most) =
            failing.iter().copied().max_by_key(|place| (count(*place), usize::MAX - place))
        else {
            return String::new();
        };
        let name = clean(&plan.targets[most].name);
        match failing.len() {
            _ if plan.targets.len() == 1 => String::new(),
            1 => format!("; all at target {name}"),
            n => format!("; at {n} targets, most at {name} ({})", grouped(count(most))),
        }
    }

    /// The number of a class, [`ErrorClass::Status`] or [`ErrorClass::RpcError`], that had status 429.
    fn rate_limited(&self, class: ErrorClass) -> u64 {
        let all = self.case.total.status.get(RATE_LIMITED);
        let status = all.min(self.case.count(ErrorClass::Status));
        match class {
            ErrorClass::Status => status,
            _ => (all - status).min(self.case.count(class)),
        }
    }

    /// The count of a class, without timeouts explained by a wait at a connection limit, and without
    /// requests that were refused with status 429.
    fn count_class(&self, class: ErrorClass) -> u64 {
        let explained = match class {
            ErrorClass::ResponseTimeout => self.blame.limit.timed_out + self.blame.target.timed_out,
            ErrorClass::Status | ErrorClass::RpcError => self.rate_limited(class),
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
            Counted::RateLimited => {
                self.case.errors.over(&[ErrorClass::Status, ErrorClass::RpcError])
            }
        }
    }
}

/// No arrival was ok. The finding's side is the one at which most arrivals failed. Unless that is the
/// generator, other findings that would make the run invalid become warnings, because a punctual generator
/// would have received no better answers.
pub(super) fn nothing_ok(case: &Case<'_>, blame: &Blame, found: &mut [Found]) -> Option<Found> {
    let is_stopped = case.facts.was_stopped();
    // Stopping a run aborts its last requests; that is nobody's failure.
    let aborted = if is_stopped { case.count(ErrorClass::Aborted) } else { 0 };
    if case.all.stats.requests.ok > 0 || (is_stopped && case.scheduled() == aborted) {
        return None;
    }
    let own: u64 = generator_counts(case, blame).iter().map(|(_, n)| n).sum();
    let of_side = |side: Side| -> u64 {
        let errors = case.all.stats.errors.iter();
        errors.filter(|(class, _)| class.side() == side).map(|(_, n)| n).sum()
    };
    let network = of_side(Side::Network);
    let target = case.scheduled().saturating_sub(own + network + aborted);
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
        (0, _) | (_, None) => "no request was due".into(),
        (1, Some((class, _))) => format!("the only request failed with the error \"{class}\""),
        (all, Some((class, n))) if n == all => {
            format!("all {} requests failed with the error \"{class}\"", grouped(all))
        }
        (all, Some((class, n))) => format!(
            "all {} requests failed, {} of them with the error \"{class}\"",
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
