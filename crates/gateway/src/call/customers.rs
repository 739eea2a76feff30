//! The figures of endpoints for the metrics.
//!
//! An endpoint's id is a credential, so it is masked as in the log; endpoints that then look the same are
//! merged. At most [`ENDPOINTS_MAX`] are named, so that the page does not grow with the customers.

use plimsoll_registry::model::masked;

use super::routing::Routing;
use crate::limits::Limits;
use crate::limits::calendar::Span;
use crate::observe::metrics::Customers;

/// Endpoints that are named.
const ENDPOINTS_MAX: usize = 500;

/// Stands for the other endpoints.
const OTHER: &str = "other";

/// The figures of the endpoints.
pub(super) fn figures(routing: &Routing, limits: &Limits, has_database: bool) -> Customers {
    let today = limits.calendar.today();
    let is_stale = has_database.then(|| limits.totals.report().1.is_some());
    let mut customers = Customers { is_stale, ..Customers::default() };
    for (place, (id, endpoint)) in routing.sorted_endpoints().into_iter().enumerate() {
        let is_named = place < ENDPOINTS_MAX;
        let name = if is_named { masked(id) } else { OTHER.into() };
        for (key, allowance, ledger) in endpoint.access.ledgers() {
            let counts = ledger.refused.counts();
            if counts.iter().any(|count| *count > 0) {
                let sums = customers.refused.entry(name.clone()).or_default();
                sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
            let Some(allowance) = allowance else { continue };
            for span in Span::ALL {
                let Some(limit) = allowance.quota.limits[span as usize] else { continue };
                let used = ledger.used(span, today);
                customers.used_up[span as usize] += u64::from(used >= limit);
                if is_named {
                    let key = key.unwrap_or_default().to_owned();
                    let ratio = customers.used.entry((name.clone(), key, span.word()));
                    let ratio = ratio.or_default();
                    *ratio = ratio.max(used as f64 / limit as f64);
                }
            }
        }
    }
    customers
}
