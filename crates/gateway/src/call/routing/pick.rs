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

use std::sync::Arc;
use std::sync::atomic::Ordering;

use plimsoll_measure::Nanos;
use plimsoll_registry::model::{self, Spread};
use plimsoll_resilience::breaker::Pass;
use plimsoll_rpc::method::{Class, Method};

use super::route::{Level, Route};
use super::service::Service;
use crate::account::InUse;
use crate::error::{ErrorKind, RetryAfter};
use crate::local::Local;
use crate::upstream::gate::Gate;
use crate::upstream::slot::Slot;

/// What a call requires of an upstream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need<'a> {
    pub(crate) class: Class,
    pub(crate) method: &'a str,
    /// The same, if it is known.
    pub(crate) known: Option<Method>,
    /// The number of a block that the upstream must have.
    pub(crate) block: Option<u64>,
    /// The serial number of the upstream to use if it can take the call.
    pub(crate) prefer: Option<u64>,
}

/// The upstreams already tried for a call.
#[derive(Clone, Debug, Default)]
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
    /// The slots of the upstream that are in use with the attempt's own.
    pub(crate) in_use: u32,
    /// The method, if it is known.
    pub(crate) method: Option<Method>,
}

/// A route and the slot for its attempt.
pub(crate) type Admitted<'s> = (Picked<'s>, Slot<'s>);

impl Service {
    /// Picks the route for the next attempt at a call, and counts the attempt against its rate
    /// limit.
    ///
    /// # Errors
    /// There is no route, or none that accepts the method, has not been tried and is below its
    /// limit. [`ErrorKind::Overloaded`]: there is one, but all its slots are in use.
    pub(crate) fn pick<'s>(
        &'s self,
        need: &Need<'_>,
        tried: &Tried,
        account: &'s Arc<InUse>,
        local: &'s Local,
    ) -> Result<Admitted<'s>, ErrorKind> {
        let turn = match need.class {
            Class::Filter => 0,
            // A retry uses the turn of the first attempt.
            _ if !tried.is_empty() => self.round_robin.load(Ordering::Relaxed).wrapping_sub(1),
            _ => self.round_robin.fetch_add(1, Ordering::Relaxed),
        };
        let mut search = Search { need, tried, account, local, is_full: false };
        if let Some(picked) = need.prefer.and_then(|it| self.pick_preferred(it, &search)) {
            return Ok(picked);
        }
        for level in Level::ALL {
            for rotation in &self.rotations {
                if let Some(picked) = self.pick_from(rotation, level, turn, &mut search) {
                    return Ok(picked);
                }
            }
            // A good one is worth a wait; a node's filters are on no other.
            if search.is_full && (level >= Level::Returning || need.class == Class::Filter) {
                return Err(ErrorKind::Overloaded);
            }
        }
        Err(self.refusal(need, tried, local.recent()))
    }

    /// The preferred route, if it is healthy.
    #[cold]
    fn pick_preferred<'s>(&'s self, serial: u64, search: &Search<'_, 's>) -> Option<Admitted<'s>> {
        let Search { need, tried, account, local, .. } = *search;
        let route = self.routes.iter().find(|route| route.upstream.serial == serial)?;
        let is_fit =
            accepts(route, need, tried) && route.is_at(Level::Returning, local.recent(), || 0.0);
        let slot = route.upstream.gate.enter(account, local).filter(|_| is_fit)?;
        route.admit(need, slot, local)
    }

    /// Picks a route of a tier that is good enough.
    #[inline]
    fn pick_from<'s>(
        &'s self,
        rotation: &[u16],
        level: Level,
        turn: u64,
        search: &mut Search<'_, 's>,
    ) -> Option<Admitted<'s>> {
        let Search { need, tried, account, local, .. } = *search;
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
                && !route.upstream.is_parked(need.method, now)
            {
                let Some(slot) = route.upstream.gate.enter(account, local) else {
                    search.is_full = true;
                    if need.class == Class::Filter {
                        return None;
                    }
                    continue;
                };
                let admitted = route.admit(need, slot, local);
                if admitted.is_some() {
                    return admitted;
                }
            }
        }
        None
    }

    /// The gates of the routes that a call may wait for: the best that are left, all of which are full.
    #[cold]
    pub(crate) fn awaited(&self, need: &Need<'_>, tried: &Tried, now: Nanos) -> Vec<Arc<Gate>> {
        for level in [Level::Returning, Level::Doubtful, Level::Failing] {
            let is_fit = |place: &&u16| {
                let route = &self.routes[usize::from(**place)];
                accepts(route, need, tried)
                    && route.is_at(level, now, || 0.0)
                    && (level >= Level::Doubtful || self.has_block(**place, need.block))
                    && !route.upstream.is_parked(need.method, now)
            };
            let fit = self.rotations.iter().flatten().filter(is_fit);
            let most = if need.class == Class::Filter { 1 } else { usize::MAX };
            let mut gates: Vec<Arc<Gate>> = Vec::new();
            for place in fit.take(most) {
                let gate = &self.routes[usize::from(*place)].upstream.gate;
                if !gates.iter().any(|one| Arc::ptr_eq(one, gate)) {
                    gates.push(gate.clone());
                }
            }
            if !gates.is_empty() {
                return gates;
            }
        }
        Vec::new()
    }

    /// Uses a slot that a call has waited for, if its upstream may still be called.
    #[cold]
    pub(crate) fn pick_granted<'s>(
        &'s self,
        gate: &Arc<Gate>,
        number: u32,
        need: &Need<'_>,
        tried: &Tried,
        account: &'s Arc<InUse>,
        local: &'s Local,
    ) -> Option<Admitted<'s>> {
        let of_gate = |route: &&Route| Arc::ptr_eq(&route.upstream.gate, gate);
        let route = self.routes.iter().find(of_gate).expect("the gate is a route's");
        let slot = Slot::granted(&route.upstream.gate, account, local, number);
        let is_fit = accepts(route, need, tried)
            && route.is_at(Level::Failing, local.recent(), || 0.0)
            && !route.upstream.is_parked(need.method, local.recent());
        if is_fit { route.admit(need, slot, local) } else { None }
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

/// What a route is searched for.
struct Search<'n, 's> {
    need: &'n Need<'n>,
    tried: &'n Tried,
    account: &'s Arc<InUse>,
    local: &'s Local,
    /// Whether a route would do, but has no free slot.
    is_full: bool,
}

impl Route {
    /// Counts a call with a slot against the upstream's rate limit, and asks the breaker.
    #[inline]
    fn admit<'s>(&'s self, need: &Need<'_>, slot: Slot<'s>, local: &Local) -> Option<Admitted<'s>> {
        let now = local.recent();
        let is_admitted = self.upstream.rate_limit.as_ref().is_none_or(|limit| limit.admit(now));
        is_admitted.then(|| {
            let pass = self.state.breaker.admit(now);
            (Picked { route: self, pass, in_use: slot.number, method: need.known }, slot)
        })
    }
}

/// Whether a route takes calls of this kind and has not been tried.
#[inline]
fn accepts(route: &Route, need: &Need<'_>, tried: &Tried) -> bool {
    let model = &route.upstream.model;
    model.methods.permit(need.method) && !model.drain && !tried.contains(route)
}
