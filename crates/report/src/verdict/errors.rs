//! Findings from error classes: failures in the generator, in the network and at the target.

mod rows;

use super::{Blame, Case, Found, MATERIAL, NOTABLE, percent};
use crate::seconds::{FaultTimes, Seconds};
use crate::text::clean;
use plimsoll_measure::units::grouped;
use plimsoll_measure::{ErrorClass, FindingId, Severity, Side};
use rows::{Counted, RATE_LIMITED, ROWS, Row};

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
        (AgentLost, case.count(AgentLost)),
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
        ErrorClass::AgentLost => {
            "find out why the agent was lost, or let the other agents take over its part: \
             fleet = { on_agent_loss = \"rebalance\" }"
                .into()
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
                Counted::Connections(_, one) if n == 1 => one.into(),
                Counted::Connections(..) => format!("{} {}", grouped(n), row.text),
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

struct Counts<'a> {
    case: &'a Case<'a>,
    blame: &'a Blame,
    faults: &'a FaultTimes,
}

impl Counts<'_> {
    fn count(&self, row: &Row) -> u64 {
        let faults = &self.case.total.faults;
        match row.of {
            Counted::Faults(own) => own.iter().map(|fault| faults.get(*fault)).sum(),
            Counted::Connections(fault, _) => faults.get(fault),
            Counted::Classes(classes, except) => {
                let all: u64 = classes.iter().map(|class| self.count_class(*class)).sum();
                all.saturating_sub(except.iter().map(|fault| faults.get(*fault)).sum())
            }
            Counted::RateLimited => {
                self.rate_limited(ErrorClass::Status) + self.rate_limited(ErrorClass::RpcError)
            }
        }
    }

    /// `; all at target boba`, or `; at 2 targets, most at boba (749)`, if the plan has several targets.
    /// Empty if some arrivals of the row's classes count in another row: those are not known by target.
    fn by_target(&self, row: &Row) -> String {
        let Counted::Classes(classes, _) = &row.of else { return String::new() };
        let plan = self.case.plan;
        let all: u64 = classes.iter().map(|class| self.case.count(*class)).sum();
        if plan.targets.len() == 1 || all != self.count(row) {
            return String::new();
        }
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
            Counted::Faults(own) => {
                let seconds = own.iter().filter_map(|fault| self.faults.get(*fault));
                seconds.reduce(Seconds::union)
            }
            Counted::Connections(fault, _) => self.faults.get(fault),
            Counted::Classes(classes, _) => self.case.errors.over(classes),
            Counted::RateLimited => {
                self.case.errors.over(&[ErrorClass::Status, ErrorClass::RpcError])
            }
        }
    }
}

/// No arrival was ok, and nothing is open that may be when it ends. The finding's side is the one at which most arrivals failed. Unless that is the
/// generator, other findings that would make the run invalid become warnings, because a punctual generator
/// would have received no better answers.
pub(super) fn nothing_ok(case: &Case<'_>, blame: &Blame, found: &mut [Found]) -> Option<Found> {
    let is_stopped = case.facts.was_stopped();
    // Stopping a run aborts its last requests; that is nobody's failure.
    let aborted = if is_stopped { case.count(ErrorClass::Aborted) } else { 0 };
    let open = case.all.stats.messages.as_ref().map_or(0, |messages| messages.open());
    if case.all.stats.requests.ok + open > 0 || (is_stopped && case.scheduled() == aborted) {
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
