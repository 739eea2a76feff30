//! A service with its routes, and how the route for the next call is picked.
//!
//! Services with the same upstreams share one round-robin counter, so a pool of instances is used
//! evenly whatever mix of services is called. A rotation lists the routes of a tier in the order in
//! which they are used: each once, or as often as its weight, interleaved. If the route that is
//! next cannot take a call, the call goes to one of the others, spread evenly, so that the
//! neighbour of a failing upstream does not get twice its share. Calls that a node keeps state for
//! (filters) always go to the first route that accepts them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_measure::Nanos;
use plimsoll_registry::model::{self, Kind, Spread};
use plimsoll_rpc::method::Class;

use crate::call::chain::{self, Chain};
use crate::error::ErrorKind;
use crate::http1::write_field;
use crate::observe::stats::{Calls, Relays, Sharded};
use crate::protocol::Protocol;
use crate::upstream::Upstream;

/// A round-robin counter, shared by services with the same upstreams.
pub(crate) type RoundRobin = Arc<AtomicU64>;

/// The metrics label of services that the registry does not list. Not a valid service id.
pub(super) const UNLISTED: &str = "*";

/// The header that names the service of a call to a PATH instance.
pub(crate) const SERVICE_ID: &str = "target-service-id";

/// A service.
pub(crate) struct Service {
    pub(crate) model: model::Service,
    /// Whether the registry lists the service; otherwise it stands in for all unlisted services.
    pub(crate) is_listed: bool,
    pub(crate) protocol: Protocol,
    /// The results of `eth_chainId` and `net_version`, as JSON.
    pub(crate) chain_id: Option<[Vec<u8>; 2]>,
    pub(crate) routes: Vec<Route>,
    /// Whether the chain id cannot be checked, because no upstream's rules permit `eth_chainId`.
    is_unchecked: bool,
    pub(crate) calls: Arc<Sharded<Calls>>,
    /// Calls in flight that did not come through an endpoint.
    pub(crate) in_flight: Arc<AtomicU64>,
    pub(super) round_robin: RoundRobin,
    /// The rotation of each tier that has upstreams, in order of tiers, as indices of `routes`.
    rotations: Vec<Vec<u16>>,
}

/// A service's route to an upstream.
pub(crate) struct Route {
    pub(crate) upstream: Arc<Upstream>,
    /// The part of a JSON-RPC request's head that is the same for all calls.
    pub(crate) head: Vec<u8>,
    pub(crate) relays: Arc<Sharded<Relays>>,
    /// Whether the upstream is on the service's chain.
    pub(crate) chain: Arc<Chain>,
}

/// What a call requires of an upstream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need<'a> {
    pub(crate) class: Class,
    pub(crate) method: &'a str,
}

/// The upstreams already tried for a call.
#[derive(Debug, Default)]
pub(crate) struct Tried(Vec<u64>);

impl Tried {
    pub(crate) fn add(&mut self, route: &Route) {
        self.0.push(route.upstream.serial);
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn contains(&self, route: &Route) -> bool {
        self.0.contains(&route.upstream.serial)
    }
}

/// The service that a new one replaces.
#[derive(Clone, Copy)]
pub(super) struct Previous<'a> {
    pub(super) service: Option<&'a Arc<Service>>,
    pub(super) workers: usize,
}

impl Service {
    pub(super) fn compile(
        model: &model::Service,
        is_listed: bool,
        upstreams: &[Arc<Upstream>],
        previous: Previous<'_>,
        counters: &mut HashMap<Vec<String>, RoundRobin>,
    ) -> Service {
        let serves = |upstream: &&Arc<Upstream>| {
            upstream.model.service.as_ref().is_none_or(|id| *id == model.id)
        };
        let named = is_listed.then_some(model.id.as_str());
        let routes: Vec<Route> = upstreams
            .iter()
            .filter(serves)
            .map(|upstream| Route::new(upstream, named, model.chain_id, previous))
            .collect();
        let is_checked = |route: &Route| route.upstream.model.methods.permit(chain::METHOD);
        let is_unchecked = !routes.is_empty() && !routes.iter().any(is_checked);
        let chain_id = model
            .chain_id
            .map(|id| [format!("\"{id:#x}\"").into_bytes(), format!("\"{id}\"").into_bytes()]);
        let mut tiers: Vec<u8> = routes.iter().map(|route| route.upstream.model.tier).collect();
        tiers.sort_unstable();
        tiers.dedup();
        let rotations =
            tiers.into_iter().map(|tier| rotation(&routes, tier, model.spread)).collect();
        let ids = routes.iter().map(|route| route.upstream.model.id.clone()).collect();
        let round_robin = counters.entry(ids).or_default().clone();
        let old = previous.service;
        Service {
            model: model.clone(),
            is_listed,
            protocol: Protocol::Evm,
            chain_id,
            routes,
            is_unchecked,
            calls: old
                .map_or_else(|| Arc::new(Sharded::new(previous.workers)), |old| old.calls.clone()),
            in_flight: old.map(|old| old.in_flight.clone()).unwrap_or_default(),
            round_robin,
            rotations,
        }
    }

    pub(super) fn upstream_ids(&self) -> Vec<String> {
        self.routes.iter().map(|route| route.upstream.model.id.clone()).collect()
    }

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
        now: Nanos,
    ) -> Result<&Route, ErrorKind> {
        let mut why = if self.routes.is_empty() {
            ErrorKind::NoUpstream
        } else {
            ErrorKind::MethodUnsupported
        };
        let turn = match need.class {
            Class::Filter => 0,
            // A retry uses the turn of the first attempt.
            _ if !tried.is_empty() => self.round_robin.load(Ordering::Relaxed).wrapping_sub(1),
            _ => self.round_robin.fetch_add(1, Ordering::Relaxed),
        };
        for rotation in &self.rotations {
            let first = match (need.class, self.model.spread) {
                (Class::Filter, _) => 0,
                (_, Spread::LeastLoaded) => self.least_loaded(rotation, turn),
                _ => (turn % rotation.len() as u64) as usize,
            };
            let accepts = |route: &Route| {
                route.upstream.model.methods.permit(need.method)
                    && !tried.contains(route)
                    && !route.chain.is_another()
            };
            let route = |index: usize| &self.routes[usize::from(rotation[index])];
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
                let route = route((first + step) % rotation.len());
                if !accepts(route) {
                    continue;
                }
                if route.upstream.admit(now) {
                    return Ok(route);
                }
                why = ErrorKind::LimitReached;
            }
        }
        let is_another = |route: &Route| route.chain.is_another();
        if why == ErrorKind::MethodUnsupported && self.routes.iter().all(is_another) {
            why = ErrorKind::WrongChain;
        }
        Err(why)
    }

    /// Whether an upstream has confirmed the service's chain id and has not possibly been replaced
    /// since, or none can.
    #[inline]
    pub(crate) fn is_chain_confirmed(&self) -> bool {
        let is_confirmed =
            |route: &Route| route.chain.is_confirmed_after(route.upstream.health.losses());
        self.is_unchecked || self.routes.iter().any(is_confirmed)
    }

    /// An error message that names the upstreams on a different chain.
    pub(crate) fn other_chains(&self) -> String {
        let others = self.routes.iter().filter_map(|route| {
            Some(format!("{} is on chain {}", route.upstream.model.id, route.chain.other()?))
        });
        let others: Vec<String> = others.collect();
        let (id, expected) = (&self.model.id, self.model.chain_id.unwrap_or_default());
        format!("service {id} is on chain {expected}, but {}", others.join(", "))
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

impl Route {
    /// Whether the upstream is neither on a different chain nor known to be failing.
    pub(crate) fn is_usable(&self) -> bool {
        !self.chain.is_another() && !self.upstream.health.is_down()
    }

    /// A route to an upstream; `named` is the service's id if it is the same for all calls.
    fn new(
        upstream: &Arc<Upstream>,
        named: Option<&str>,
        chain_id: Option<u64>,
        previous: Previous<'_>,
    ) -> Route {
        let old = previous.service.and_then(|service| {
            service.routes.iter().find(|old| old.upstream.model.id == upstream.model.id)
        });
        let relays =
            old.map_or_else(|| Arc::new(Sharded::new(previous.workers)), |old| old.relays.clone());
        // A check of a different address, or against a different chain id, does not apply.
        let is_same = |old: &&Route| {
            let old_chain_id = previous.service.and_then(|service| service.model.chain_id);
            old.upstream.serial == upstream.serial && old_chain_id == chain_id
        };
        let chain = old.filter(is_same).map(|old| old.chain.clone()).unwrap_or_default();
        let model = &upstream.model;
        let mut head = request_start("POST", model, model.path(), &[]);
        head.extend_from_slice(b"content-type: application/json\r\n");
        let is_configured = |name: &str| model.headers.iter().any(|(known, _)| known == name);
        if !is_configured("accept") {
            head.extend_from_slice(b"accept: application/json\r\n");
        }
        // Upstreams with TLS are usually remote: fewer bytes are worth the cost of decompression.
        if !is_configured("accept-encoding") && model.address.tls {
            head.extend_from_slice(b"accept-encoding: gzip\r\n");
        }
        if let (Kind::Path, Some(service)) = (model.kind, named)
            && !is_configured(SERVICE_ID)
        {
            write_field(SERVICE_ID, service.as_bytes(), &mut head);
        }
        Route { upstream: upstream.clone(), head, relays, chain }
    }
}

/// A request's first line and the headers of every request to this upstream, except configured ones
/// named in `without`.
pub(crate) fn request_start(
    method: &str,
    upstream: &model::Upstream,
    target: &str,
    without: &[&str],
) -> Vec<u8> {
    let is_configured = |name: &str| upstream.headers.iter().any(|(known, _)| known == name);
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if !is_configured("host") {
        head.push_str(&format!("host: {}\r\n", upstream.address.authority));
    }
    if !is_configured("user-agent") {
        head.push_str(concat!("user-agent: plimsoll/", env!("CARGO_PKG_VERSION"), "\r\n"));
    }
    for (name, value) in upstream.headers.iter().filter(|(name, _)| !without.contains(&&**name)) {
        head.push_str(&format!("{name}: {}\r\n", value.value));
    }
    head.into_bytes()
}

/// The routes of a tier in the order in which they are used. With weights, the turns of each route
/// are spaced evenly: its n-th turn is sorted at `(n + ½) ÷ weight`.
fn rotation(routes: &[Route], tier: u8, spread: Spread) -> Vec<u16> {
    let of_tier: Vec<(u16, u32)> = (0u16..)
        .zip(routes)
        .filter(|(_, route)| route.upstream.model.tier == tier)
        .map(|(at, route)| match spread {
            Spread::Weighted => (at, route.upstream.model.weight),
            Spread::RoundRobin | Spread::LeastLoaded => (at, 1),
        })
        .collect();
    let divisor = of_tier.iter().fold(0, |divisor, (_, weight)| greatest_common(divisor, *weight));
    let mut turns: Vec<(f64, u16)> = Vec::new();
    for (at, weight) in of_tier {
        let weight = weight / divisor.max(1);
        turns.extend((0..weight).map(|n| ((f64::from(n) + 0.5) / f64::from(weight), at)));
    }
    turns.sort_by(|a, b| a.0.total_cmp(&b.0));
    turns.into_iter().map(|(_, at)| at).collect()
}

fn greatest_common(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common(b, a % b) }
}
