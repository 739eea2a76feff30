//! Admits calls against the limits of their endpoint and key; each call of a batch on its own.

use std::borrow::Cow;
use std::sync::atomic::Ordering::Relaxed;

use plimsoll_measure::Nanos;
use plimsoll_rpc::method::Method;
use plimsoll_rpc::request::Call;

use super::relay::shown;
use super::target::Target;
use crate::error::{Error, ErrorKind, RetryAfter};
use crate::limits::{self, ALLOWANCES_MAX, Hindrance, Refusal, Unit};
use crate::meter::Kind;
use crate::observe::stats::Limited;

/// Checks that the endpoint permits the method and that its limits, and the key's, admit the call; if
/// so, charges the call.
///
/// # Errors
/// Why the call is not admitted, and when it may be retried.
#[inline]
pub(super) async fn admit(
    target: &Target<'_>,
    call: &Call<'_>,
    method: Option<Method>,
) -> Result<(), Error> {
    if target.rules.is_some_and(|rules| !rules.permit(&call.method)) {
        let message = format!("this endpoint does not permit {}", shown(&call.method));
        return Err(Error::new(ErrorKind::MethodDenied, message));
    }
    if target.account.endpoint.is_none() {
        return Ok(());
    }
    let units = target.service.compute_units(method, &call.method);
    let (local, limits) = (&target.worker.local, &target.worker.shared.limits);
    let (allowances, ledgers) = (&target.allowances, &target.account.ledgers);
    let at_once = limits::admit(allowances, ledgers, units, local.recent(), limits, false);
    let admitted = match at_once {
        Ok(today) => Ok(today),
        Err(Hindrance::Refused(place, refusal)) => Err((place, refusal)),
        Err(Hindrance::Wait(bucket)) => {
            let timeout = limits.leases().map_or(Nanos::ZERO, |leases| leases.timeout);
            let until = local.instant(local.now() + timeout);
            let now = || local.now();
            let later = limits::admit_later(allowances, ledgers, units, bucket, limits, until, now);
            Box::pin(later).await
        }
    };
    let today = admitted.map_err(|(place, refusal)| refused(target, place, &refusal))?;
    // With the charge: what is charged and not delivered yet is what this process adds to the totals.
    local.meter.admitted(target.account, Kind::Call(method), units, today.day);
    Ok(())
}

/// The error for a call that is not admitted; counts the call.
#[cold]
fn refused(target: &Target<'_>, place: usize, refusal: &Refusal) -> Error {
    let is_key = place + 1 < ALLOWANCES_MAX;
    let whose = if is_key { "this key" } else { "this endpoint" };
    let limited = match refusal {
        Refusal::Rate { unit: Unit::Calls, .. } => Limited::Calls,
        Refusal::Rate { unit: Unit::ComputeUnits, .. } => Limited::ComputeUnits,
        Refusal::Quota(used) => Limited::of(used.span),
    };
    target.worker.local.counts().limited[usize::from(is_key)][limited as usize].add(1);
    if let Some(ledger) = &target.account.ledgers[place] {
        ledger.refused.limited[limited as usize].fetch_add(1, Relaxed);
    }
    let (kind, message, wait): (_, Cow<'static, str>, _) = match refusal {
        Refusal::Rate { unit, rate, wait } => {
            let message = format!("{whose} is limited to {}", unit.rate(*rate));
            (ErrorKind::RateLimited, message.into(), *wait)
        }
        Refusal::Quota(used) => {
            let (span, limit) = (used.span.word(), used.limit);
            let message = format!("the {span} quota of {whose}, {limit} compute units, is used up");
            let now = target.worker.shared.limits.calendar.now();
            let wait = used.until.unix_ns.saturating_sub(now.unix_ns);
            (ErrorKind::QuotaExceeded, message.into(), Nanos(wait))
        }
    };
    Error { retry_after: Some(RetryAfter::of(wait)), ..Error::new(kind, message) }
}
