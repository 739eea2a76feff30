//! Picks the route for an attempt.
//!
//! A rotation lists the routes of a tier in the order in which they are used: each once, or as often
//! as its weight, interleaved. If the route that is next cannot take a call, the call goes to one of
//! the others, spread evenly, so that the neighbour of a failing upstream does not get twice its
//! share. Calls that a node keeps state for (filters) always go to the first route that accepts them.
//!
//! The tiers are searched for a healthy route first, then for one that is less good ([`Level`]), up to
//! one whose breaker is open: an answer that may fail is better than an error that is certain. What an
//! upstream itself has asked for is respected in any case: a limit (`rate_limit`, 429) and a drain.

use std::sync::atomic::Ordering;

use plimsoll_measure::Nanos;
use plimsoll_registry::model::{self, Spread};
use plimsoll_resilience::breaker::Pass;
use plimsoll_rpc::method::Class;

use super::route::{Level, Route};
use super::service::Service;
use crate::error::{ErrorKind, RetryAfter};
use crate::local::Local;

/// What a call requires of an upstream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need<'a> {
    pub(crate) class: Class,
    pub(crate) method: &'a str,
    /// The number of a block that the upstream must have.
    pub(crate) block: Option<u64>,
    /// The serial number of the upstream to use if it can take the call.
    pub(crate) prefer: Option<u64>,
}

/// The upstreams already tried for a call.
#[derive(Debug, Default)]
pub(crate) struct Tried(Vec<u64>);

impl Tried {
    pub(crate) fn add(&mut self, route: &Route) {
        self.0.push(route.upstream.serial);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn contains(&self, route: &Route) -> bool {
        self.0.contains(&route.upstream.serial)
    }
}

/// The route for an attempt.
#[derive(Clone, Copy)]
pub(crate) struct Picked<'s> {
    pub(crate) route: &'s Route,
    /// The breaker's permission; `None` if its refusal was overridden.
    pub(crate) pass: Option<Pass>,
}

impl Service {
    /// Picks the route for the next attempt at a call, and counts the attempt against its rate
    /// limit.
    ///
    /// # Errors
    /// There is no route, or none that accepts the method, has not been tried and is below its
    /// limit.
    pub(crate) fn pick(
        &self,
        need: &Need<'_>,
        tried: &Tried,
        local: &Local,
    ) -> Result<Picked<'_>, ErrorKind> {
        let turn = match need.class {
            Class::Filter => 0,
            // A retry uses the turn of the first attempt.
            _ if !tried.is_empty() => self.round_robin.load(Ordering::Relaxed).wrapping_sub(1),
            _ => self.round_robin.fetch_add(1, Ordering::Relaxed),
        };
        if let Some(picked) = need.prefer.and_then(|it| self.pick_preferred(it, need, tried, local))
        {
            return Ok(picked);
        }
        for level in Level::ALL {
            for rotation in &self.rotations {
                if let Some(picked) = self.pick_from(rotation, level, turn, need, tried, local) {
                    return Ok(picked);
                }
            }
        }
        Err(self.refusal(need, tried, local.recent()))
    }

    /// The preferred route, if it is healthy.
    #[cold]
    fn pick_preferred(
        &self,
        serial: u64,
        need: &Need<'_>,
        tried: &Tried,
        local: &Local,
    ) -> Option<Picked<'_>> {
        let now = local.recent();
        let route = self.routes.iter().find(|route| route.upstream.serial == serial)?;
        let is_fit = accepts(route, need, tried)
            && route.is_at(Level::Returning, now, || 0.0)
            && route.upstream.admit(need.method, now);
        is_fit.then(|| Picked { route, pass: route.state.breaker.admit(now) })
    }

    /// Picks a route of a tier that is good enough.
    #[inline]
    fn pick_from(
        &self,
        rotation: &[u16],
        level: Level,
        turn: u64,
        need: &Need<'_>,
        tried: &Tried,
        local: &Local,
    ) -> Option<Picked<'_>> {
        let now = local.recent();
        let first = match (need.class, self.model.spread) {
            (Class::Filter, _) => 0,
            (_, Spread::LeastLoaded) => self.least_loaded(rotation, turn),
            _ => (turn % rotation.len() as u64) as usize,
        };
        // If the first route cannot take the call, the others are scanned from an offset that
        // changes with each round, so that the calls are spread over all of them.
        let rounds = turn / rotation.len() as u64;
        let others = rotation.len().saturating_sub(1).max(1);
        let offset = match need.class {
            Class::Filter => 0,
            _ => (rounds % others as u64) as usize,
        };
        let steps = (0..others).map(|step| 1 + (offset + step) % others);
        for step in std::iter::once(0).chain(steps).take(rotation.len()) {
            let place = rotation[(first + step) % rotation.len()];
            let route = &self.routes[usize::from(place)];
            if accepts(route, need, tried)
                && route.is_at(level, now, || local.random())
                && (level >= Level::Doubtful || self.has_block(place, need.block))
                && route.upstream.admit(need.method, now)
            {
                return Some(Picked { route, pass: route.state.breaker.admit(now) });
            }
        }
        None
    }

    /// Whether an upstream has the block that a call names, as far as is known.
    #[inline]
    fn has_block(&self, place: u16, block: Option<u64>) -> bool {
        match (block, &self.heads) {
            (Some(number), Some(heads)) => heads.board.has(place.into(), number),
            _ => true,
        }
    }

    /// Whether there is a further route that is worth an attempt now.
    #[cold]
    pub(crate) fn has_other(&self, need: &Need<'_>, tried: &Tried, now: Nanos) -> bool {
        self.routes.iter().any(|route| {
            accepts(route, need, tried)
                && route.is_at(Level::Failing, now, || 0.0)
                && route.upstream.parking.until_for(need.method, now).is_none()
        })
    }

    /// Whether there is a further route that is not known to fail.
    #[cold]
    pub(crate) fn has_working(&self, need: &Need<'_>, tried: &Tried, now: Nanos) -> bool {
        self.routes.iter().any(|route| {
            accepts(route, need, tried)
                && route.is_at(Level::Doubtful, now, || 0.0)
                && route.upstream.parking.until_for(need.method, now).is_none()
        })
    }

    /// When a call of this method may succeed that was refused because of limits.
    #[cold]
    pub(crate) fn retry_after(&self, method: &str, now: Nanos) -> RetryAfter {
        let usable = self.routes.iter().filter(|route| {
            let model = &route.upstream.model;
            model.methods.permit(method) && !model.drain && !route.state.chain.is_another()
        });
        let soonest = usable.map(|route| route.upstream.wait(method, now)).min();
        let secs = soonest.unwrap_or_default().0.div_ceil(1_000_000_000);
        RetryAfter((secs as u32).clamp(RetryAfter::SOON.0, RetryAfter::MAX))
    }

    /// Why no route was picked.
    #[cold]
    fn refusal(&self, need: &Need<'_>, tried: &Tried, now: Nanos) -> ErrorKind {
        if self.routes.iter().all(|route| route.upstream.model.drain) {
            return ErrorKind::NoUpstream;
        }
        if self.routes.iter().all(|route| route.state.chain.is_another()) {
            return ErrorKind::WrongChain;
        }
        let is_limited =
            |route: &Route| accepts(route, need, tried) && route.is_at(Level::Failing, now, || 0.0);
        if self.routes.iter().any(is_limited) {
            ErrorKind::LimitReached
        } else {
            ErrorKind::MethodUnsupported
        }
    }

    /// The index in `rotation` of the route with the fewest relays in flight for its weight. Ties
    /// go to the first from `turn` on.
    fn least_loaded(&self, rotation: &[u16], turn: u64) -> usize {
        let load = |index: usize| {
            let upstream = &self.routes[usize::from(rotation[index])].upstream;
            // The load with this call, so that idle upstreams are compared by weight, too.
            (upstream.in_flight() + 1) * u64::from(model::WEIGHT_MAX)
                / u64::from(upstream.model.weight)
        };
        let start = (turn % rotation.len() as u64) as usize;
        let indices = (0..rotation.len()).map(|step| (start + step) % rotation.len());
        indices.min_by_key(|index| load(*index)).unwrap_or(0)
    }
}

/// Whether a route takes calls of this kind and has not been tried.
#[inline]
fn accepts(route: &Route, need: &Need<'_>, tried: &Tried) -> bool {
    let model = &route.upstream.model;
    model.methods.permit(need.method) && !model.drain && !tried.contains(route)
}
