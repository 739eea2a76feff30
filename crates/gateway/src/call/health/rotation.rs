//! What follows from checks: which upstreams are in rotation, and what the log says.

use std::sync::atomic::Ordering;

use plimsoll_measure::Nanos;

use super::MISSES_MAX;
use crate::call::routing::{Exclusion, Route, Service};
use crate::heads::{Event, Standing};

/// Decides which upstreams of a service are in rotation, and logs changes.
pub(super) fn assess(service: &Service, now: Nanos) {
    let fallback = service.heads.as_ref().and_then(|heads| heads.tracker().fallback());
    for (place, route) in service.routes.iter().enumerate() {
        let checks = &route.state.checks;
        let standing =
            service.heads.as_ref().map_or(Standing::Unknown, |heads| heads.board.upstream(place).0);
        let why = if checks.misses.load(Ordering::Relaxed) >= MISSES_MAX {
            Some(Exclusion::Unanswered)
        } else if checks.is_unready.load(Ordering::Relaxed) {
            Some(Exclusion::NotReady)
        } else if fallback == Some(place) {
            // All are out of rotation: this one is the best.
            None
        } else {
            match standing {
                Standing::Unknown | Standing::Current => None,
                Standing::Lagging => Some(Exclusion::Behind),
                Standing::Forked => Some(Exclusion::Forked),
                Standing::Implausible => Some(Exclusion::Implausible),
            }
        };
        let before = route.state.exclude(why, now);
        if before != why {
            log_exclusion(service, route, why, before, standing, now);
        }
    }
    let state = &service.state;
    let is_fallback = fallback.is_some();
    if state.is_fallback.swap(is_fallback, Ordering::Relaxed) != is_fallback {
        let service = &*service.model.id;
        if is_fallback {
            tracing::warn!(
                service,
                "every upstream of {service} is behind: the least lagging serves"
            );
        } else {
            tracing::info!(service, "an upstream of {service} has caught up");
        }
    }
}

fn log_exclusion(
    service: &Service,
    route: &Route,
    why: Option<Exclusion>,
    before: Option<Exclusion>,
    standing: Standing,
    now: Nanos,
) {
    let (upstream, service) = (&*route.upstream.model.id, &*service.model.id);
    match why {
        // Whatever keeps it out is logged by itself.
        None if route.why_excluded(now).is_some() => {}
        None if standing == Standing::Unknown => tracing::info!(
            upstream,
            service,
            "upstream {upstream} is no longer out of rotation for {service}: no recent report shows \
             that {}",
            before.map_or("it is", Exclusion::reason)
        ),
        None => tracing::info!(
            upstream,
            service,
            "upstream {upstream} is in rotation for {service} again"
        ),
        Some(why) => tracing::warn!(
            upstream,
            service,
            "upstream {upstream} is out of rotation for {service}: {}",
            why.reason()
        ),
    }
}

pub(super) fn log_events(service: &Service, events: &[Event]) {
    for event in events {
        let service = &*service.model.id;
        match event {
            Event::Reorganised { from, served } => tracing::warn!(
                service,
                "the chain of {service} was reorganised from block {from} or below; block {served} \
                 was served"
            ),
            Event::Corrected { from, to } => tracing::warn!(
                service,
                "the head of {service} was corrected from {from} to {to}: one upstream had reported \
                 it alone, and a clear majority contradicts it"
            ),
            Event::Standing { .. } => {}
        }
    }
}

/// Decides which upstreams are not used because they do not tell their chain id and others do.
pub(super) fn refuse_untold(service: &Service) {
    let is_told = service.tells_chain();
    for route in &service.routes {
        let is_refused = route.is_chain_checked && route.state.chain.is_untold() && is_told;
        if route.state.chain.refuse(is_refused) && is_refused {
            let (upstream, service) = (&*route.upstream.model.id, &*service.model.id);
            tracing::error!(
                upstream,
                service,
                "upstream {upstream} does not tell its chain id, and another upstream of {service} \
                 does: not used for the service; permit eth_chainId there, or deny it in its \
                 methods to use it unchecked"
            );
        }
    }
}
