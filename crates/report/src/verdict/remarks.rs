//! Findings on the run itself: forced, stopped, or full of redirects that it did not follow.

use super::{Case, Found, share_of};
use plimsoll_measure::units::{counted, grouped};
use plimsoll_measure::{FindingId, Nanos, Severity, Side};
use plimsoll_plan::StatusRange;

/// The run was started with `--force` although a check failed.
pub(super) fn forced(case: &Case<'_>) -> Option<Found> {
    (!case.facts.forced.is_empty()).then(|| Found {
        id: FindingId::Forced,
        severity: Severity::Warning,
        side: Side::Generator,
        evidence: format!("started with --force despite: {}", case.facts.forced.join("; ")),
        fix: "fix this, then run without --force".into(),
        seconds: None,
        share: 0.0,
    })
}

/// Answers that are redirects, of a plan that follows none, unless a request of the plan names their
/// status as expected.
pub(super) fn redirects_not_followed(case: &Case<'_>) -> Option<Found> {
    let is_expected = |status: u16| {
        let exact = |range: &StatusRange| *range.start() == status && *range.end() == status;
        case.plan.requests.iter().any(|spec| spec.expect.status.iter().any(exact))
    };
    let statuses = case.total.status.iter();
    let redirects: Vec<(u16, u64)> = statuses
        .filter(|(status, _)| {
            matches!(status, 301 | 302 | 303 | 307 | 308) && !is_expected(*status)
        })
        .collect();
    if case.plan.redirects > 0 || redirects.is_empty() {
        return None;
    }
    let n = redirects.iter().map(|(_, n)| n).sum();
    let all: u64 = case.total.status.iter().map(|(_, n)| n).sum();
    let of = match (n, all) {
        (1, 1) => "the only answer was a".into(),
        (1, all) => format!("1 of {} answers was a", grouped(all)),
        (n, all) if n == all => format!("all {} answers were", grouped(n)),
        (n, all) => format!("{} of {} answers were", grouped(n), grouped(all)),
    };
    let kind = match redirects.as_slice() {
        [(status, _)] => format!("{status} redirect"),
        _ => "redirect".into(),
    };
    let (plural, was) = if n == 1 { ("", "was") } else { ("s", "were") };
    let fix = case.advise("{follow redirects} to follow them");
    Some(Found {
        id: FindingId::RedirectsNotFollowed,
        severity: Severity::Info,
        side: Side::Target,
        evidence: format!("{of} {kind}{plural}, which {was} not followed; {fix}"),
        fix,
        seconds: None,
        share: share_of(n, all),
    })
}

/// Messages of what stays open that were missing, repeated or out of order, or did not come in time.
pub(super) fn messages(case: &Case<'_>) -> Option<Found> {
    let messages = case.all.stats.messages.as_deref()?;
    let was = |n: u64, what: &str| {
        (n > 0).then(|| format!("{} {} {what}", grouped(n), if n == 1 { "was" } else { "were" }))
    };
    let silences = (messages.silences > 0).then(|| {
        format!("{} lasted longer than the plan allows", counted(messages.silences, "silence"))
    });
    let parts = [
        was(messages.gaps, "missing by their numbers"),
        was(messages.duplicates, "repeated"),
        was(messages.reordered, "older than one before"),
        was(messages.unmatched, "of no subscription"),
        silences,
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| Found {
        id: FindingId::TargetMessages,
        severity: Severity::Warning,
        side: Side::Target,
        evidence: format!(
            "beside {} in order, {}",
            counted(messages.in_order, "message"),
            parts.join(", ")
        ),
        fix: "the table of what stays open has the counts of each target; compare the target's own nodes, and \
              look for restarts and full buffers of a gateway in front of them"
            .into(),
        seconds: None,
        share: 0.0,
    })
}

/// Requests that were counted but not recorded.
pub(super) fn samples_dropped(case: &Case<'_>) -> Option<Found> {
    let dropped = case.total.samples_dropped;
    (dropped > 0).then(|| Found {
        id: FindingId::SamplesDropped,
        severity: Severity::Warning,
        side: Side::Generator,
        evidence: format!(
            "{} not recorded one by one, since they could not be written in time; all other figures \
             include them",
            counted(dropped, "request")
        ),
        fix: "write the results to a faster disk or one with more space (--out), or record only errors \
              (--record errors)"
            .into(),
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
    } else if case.facts.cut_short {
        format!("the run was stopped after {after}{}", case.facts.by())
    } else {
        let by = case.facts.by();
        format!("the run was stopped{by} while it waited for its last answers")
    };
    case.facts.was_stopped().then(|| Found {
        id: FindingId::CutShort,
        severity: Severity::Info,
        side: Side::Generator,
        evidence,
        fix: "the figures cover the time until then; run the plan again to complete it".into(),
        seconds: None,
        share: 0.0,
    })
}
