//! Keeps quotas up to date with what all replicas have used, according to the database.
//!
//! Every second the keeper asks for the totals of the endpoints with quotas and for what this process has
//! delivered of them. While the database cannot be reached there is no answer, and quotas go on with the
//! last totals and what they admit themselves. The first attempt makes the process ready, whatever its
//! result.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_registry::usage::{self, DeliveredUnits, TotalsAnswer};
use tokio::time::{MissedTickBehavior, timeout};

use super::worker::Worker;
use crate::limits::calendar::Today;
use crate::limits::quota::{Quota, Totals};

/// How often totals are asked for.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait for an answer: longer than a statement that hangs, and short enough for a start.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Warnings that are logged at a time; the others are counted.
const WARNINGS_MAX: usize = 20;

/// The keeper's task.
pub(crate) async fn watch(worker: Rc<Worker>) {
    let Some(inbox) = worker.shared.host.usage.clone() else { return };
    let limits = &worker.shared.limits;
    let calendar = &limits.calendar;
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let view = worker.view();
        let quotas: Vec<Arc<Quota>> = view.routing.quotas().cloned().collect();
        if quotas.is_empty() {
            limits.totals.record(Ok(()), calendar.now());
            continue;
        }
        let mut endpoints: Vec<String> =
            quotas.iter().map(|quota| quota.endpoint.clone()).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        let today = calendar.today();
        let asked = inbox.ask_totals(endpoints, today.hour());
        let answer = match timeout(ANSWER_MAX, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err("usage is no longer recorded".into()),
            Err(_) => {
                let why = inbox.figures().store_error;
                Err(if why.is_empty() { "the database does not answer".into() } else { why })
            }
        };
        let result = set(&quotas, today, answer);
        if result.is_ok() {
            let warnings = quotas.iter().flat_map(|quota| quota.warnings(calendar, true));
            warn(warnings.collect());
        }
        limits.totals.record(result, calendar.now());
    }
}

/// Logs warnings.
pub(crate) fn warn(warnings: Vec<String>) {
    for warning in warnings.iter().take(WARNINGS_MAX) {
        tracing::warn!("{warning}");
    }
    if let Some(more) = warnings.len().checked_sub(WARNINGS_MAX).filter(|more| *more > 0) {
        tracing::warn!("{more} more quotas are already used up");
    }
}

/// Sets the totals of quotas from an answer.
///
/// # Errors
/// That of the answer.
fn set(quotas: &[Arc<Quota>], today: Today, answer: TotalsAnswer) -> Result<(), String> {
    let found = answer?;
    let mut by_endpoint: HashMap<&str, Vec<&(usage::Totals, DeliveredUnits)>> = HashMap::new();
    for one in &found {
        by_endpoint.entry(&one.0.endpoint).or_default().push(one);
    }
    for quota in quotas {
        let own = by_endpoint.get(quota.endpoint.as_str()).map(Vec::as_slice).unwrap_or_default();
        quota.set_totals(today, &sum(quota, own));
    }
    Ok(())
}

/// The units of a key, or of an endpoint with all its keys; `found` is of the endpoint.
fn sum(quota: &Quota, found: &[&(usage::Totals, DeliveredUnits)]) -> Totals {
    let mut sum = Totals::default();
    for (totals, delivered) in found {
        if quota.key.as_ref().is_none_or(|key| totals.key == *key) {
            let values = [(totals.day, delivered.day), (totals.month, delivered.month)];
            for (span, (total, delivered)) in values.into_iter().enumerate() {
                sum.total[span] = sum.total[span].saturating_add(total);
                sum.delivered[span] = sum.delivered[span].saturating_add(delivered);
            }
        }
    }
    sum
}
