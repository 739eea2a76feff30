//! Keeps quotas up to date with what all replicas have used, according to the database.
//!
//! Every second the keeper notes what each quota has charged, and asks for the totals after everything
//! that was counted until then has been delivered. While the database cannot be reached there is no
//! answer, and quotas go on with what they have.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_registry::usage::{self, HOUR_NS};

use super::worker::Worker;
use crate::limits::quota::{Quota, Totals};
use crate::meter::HAND_OVER_INTERVAL;

/// How often totals are asked for.
const INTERVAL: Duration = Duration::from_secs(1);

/// The keeper's task.
pub(crate) async fn watch(worker: Rc<Worker>) {
    let Some(inbox) = worker.shared.host.usage.clone() else { return };
    let calendar = &worker.shared.limits.calendar;
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        tick.tick().await;
        let view = worker.view();
        let marks: Vec<(Arc<Quota>, u64)> =
            view.routing.quotas().map(|quota| (quota.clone(), quota.mark())).collect();
        if marks.is_empty() {
            continue;
        }
        let mut endpoints: Vec<String> =
            marks.iter().map(|(quota, _)| quota.endpoint.clone()).collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        let now = calendar.now();
        // By then each worker has handed over what it had counted.
        let wait = 2 * HAND_OVER_INTERVAL;
        let asked = inbox.ask_totals(endpoints, now.unix_ns / HOUR_NS, wait);
        let Ok(found) = asked.await else { continue };
        for (quota, mark) in &marks {
            let (day_units, month_units) = sum(quota, &found);
            let (day, month) = (now.day(), now.month());
            let totals = Totals { day, day_units, month, month_units };
            quota.set_totals(*mark, &totals, calendar);
        }
    }
}

/// The compute units of the day and the month: of a key, or of an endpoint with all its keys.
fn sum(quota: &Quota, found: &[usage::Totals]) -> (u64, u64) {
    let is_own = |one: &&usage::Totals| {
        one.endpoint == quota.endpoint && quota.key.as_ref().is_none_or(|key| one.key == *key)
    };
    found.iter().filter(is_own).fold((0, 0), |(day, month), one| {
        (day.saturating_add(one.day.1), month.saturating_add(one.month.1))
    })
}
