//! A service with its routes, and which of them takes the next call.
//!
//! Round robin goes by a counter that all services with the same upstreams share, so that a pool of
//! instances is used evenly whatever mix of services is called. A deck lists the routes of a tier in
//! the order in which they take their turns: each once, or as often as its weight says, interleaved.
//! When the route whose turn it is cannot take a call, the turns of all others that can are used for
//! it evenly, so that the neighbour of a failing upstream does not get twice its share.
//! Calls that a node keeps state for (filters) always go to the first route that takes them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_measure::Nanos;
use plimsoll_registry::model::{self, Kind, Spread};
use plimsoll_rpc::method::Class;

use crate::call::chain::Chain;
use crate::error::ErrorKind;
use crate::observe::stats::{Calls, Relays, Sharded};
use crate::protocol::Protocol;
use crate::upstream::Upstream;

/// The turns taken so far, shared by services that go round the same upstreams.
pub(crate) type Turn = Arc<AtomicU64>;

/// The label under which calls for services that the registry does not list are counted. No id can
/// be the same.
pub(super) const UNLISTED: &str = "*";

/// A service that may be called.
pub(crate) struct Service {
    pub(crate) model: model::Service,
    /// Whether the registry lists it; otherwise it stands for all that only upstreams know.
    pub(crate) is_listed: bool,
    pub(crate) protocol: Protocol,
    /// What `eth_chainId` and `net_version` answer, as JSON.
    pub(crate) chain_id: Option<[Vec<u8>; 2]>,
    pub(crate) routes: Vec<Route>,
    pub(crate) calls: Arc<Sharded<Calls>>,
    /// Its calls in flight that came through no endpoint.
    pub(crate) in_flight: Arc<AtomicU64>,
    pub(super) turn: Turn,
    /// A deck for each tier that has upstreams, in order: places in `routes`.
    decks: Vec<Vec<u16>>,
}

/// One way to an upstream.
pub(crate) struct Route {
    pub(crate) upstream: Arc<Upstream>,
    /// A JSON-RPC request's head, as far as it is the same for all.
    pub(crate) head: Vec<u8>,
    pub(crate) relays: Arc<Sharded<Relays>>,
    /// What is known of the chain that the upstream is on.
    pub(crate) chain: Arc<Chain>,
}

/// What a call needs of the upstream that takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need<'a> {
    pub(crate) class: Class,
    pub(crate) method: &'a str,
}

/// The upstreams that were tried for a call.
#[derive(Debug, Default)]
pub(crate) struct Tried(Vec<u64>);

impl Tried {
    pub(crate) fn add(&mut self, route: &Route) {
        self.0.push(route.upstream.serial);
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn holds(&self, route: &Route) -> bool {
        self.0.contains(&route.upstream.serial)
    }
}

/// A service as it was compiled before.
#[derive(Clone, Copy)]
pub(super) struct Earlier<'a> {
    pub(super) service: Option<&'a Arc<Service>>,
    pub(super) workers: usize,
}

impl Service {
    pub(super) fn compile(
        model: &model::Service,
        is_listed: bool,
        upstreams: &[Arc<Upstream>],
        earlier: Earlier<'_>,
        turns: &mut HashMap<Vec<String>, Turn>,
    ) -> Service {
        let serves = |upstream: &&Arc<Upstream>| {
            upstream.model.service.as_ref().is_none_or(|id| *id == model.id)
        };
        let named = is_listed.then_some(model.id.as_str());
        let routes: Vec<Route> = upstreams
            .iter()
            .filter(serves)
            .map(|upstream| Route::new(upstream, named, model.chain_id, earlier))
            .collect();
        let chain_id = model
            .chain_id
            .map(|id| [format!("\"{id:#x}\"").into_bytes(), format!("\"{id}\"").into_bytes()]);
        let mut tiers: Vec<u8> = routes.iter().map(|route| route.upstream.model.tier).collect();
        tiers.sort_unstable();
        tiers.dedup();
        let decks = tiers.into_iter().map(|tier| deck(&routes, tier, model.spread)).collect();
        let ids = routes.iter().map(|route| route.upstream.model.id.clone()).collect();
        let turn = turns.entry(ids).or_default().clone();
        let old = earlier.service;
        Service {
            model: model.clone(),
            is_listed,
            protocol: Protocol::Evm,
            chain_id,
            routes,
            calls: old
                .map_or_else(|| Arc::new(Sharded::new(earlier.workers)), |old| old.calls.clone()),
            in_flight: old.map(|old| old.in_flight.clone()).unwrap_or_default(),
            turn,
            decks,
        }
    }

    pub(super) fn upstream_ids(&self) -> Vec<String> {
        self.routes.iter().map(|route| route.upstream.model.id.clone()).collect()
    }

    /// The route that takes the next attempt at a call. If it is limited in its rate, the attempt
    /// counts.
    ///
    /// # Errors
    /// None does: there is none, none takes the method, all that do were tried or are at their limit.
    pub(crate) fn pick(
        &self,
        need: &Need<'_>,
        tried: &Tried,
        now: Nanos,
    ) -> Result<&Route, ErrorKind> {
        let mut why = match self.routes.is_empty() {
            true => ErrorKind::NoUpstream,
            false => ErrorKind::MethodUnsupported,
        };
        let turn = match need.class {
            Class::Filter => 0,
            // A further attempt is made in the turn of the first.
            _ if !tried.is_empty() => self.turn.load(Ordering::Relaxed).wrapping_sub(1),
            _ => self.turn.fetch_add(1, Ordering::Relaxed),
        };
        for deck in &self.decks {
            let first = match (need.class, self.model.spread) {
                (Class::Filter, _) => 0,
                (_, Spread::LeastLoaded) => self.least_loaded(deck, turn),
                _ => (turn % deck.len() as u64) as usize,
            };
            let takes = |route: &Route| {
                route.upstream.model.methods.permit(need.method)
                    && !tried.holds(route)
                    && !route.chain.is_another()
            };
            let route = |place: usize| &self.routes[usize::from(deck[place])];
            // By its turn first; if that cannot take it, from one round to the next from another
            // place on, so that its calls are spread over all others.
            let rounds = turn / deck.len() as u64;
            let others = deck.len().saturating_sub(1).max(1);
            let from = match need.class {
                Class::Filter => 0,
                _ => (rounds % others as u64) as usize,
            };
            let steps = (0..others).map(|step| 1 + (from + step) % others);
            for step in std::iter::once(0).chain(steps).take(deck.len()) {
                let route = route((first + step) % deck.len());
                if !takes(route) {
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

    /// Whether an upstream has confirmed the service's chain id.
    #[inline]
    pub(crate) fn is_chain_confirmed(&self) -> bool {
        self.routes.iter().any(|route| route.chain.is_confirmed())
    }

    /// Which upstreams are on another chain, in words.
    pub(crate) fn other_chains(&self) -> String {
        let others = self.routes.iter().filter_map(|route| {
            Some(format!("{} is on chain {}", route.upstream.model.id, route.chain.other()?))
        });
        let others: Vec<String> = others.collect();
        let (id, own) = (&self.model.id, self.model.chain_id.unwrap_or_default());
        format!("service {id} is chain {own}, but {}", others.join(", "))
    }

    /// The place in the deck of the route with the fewest relays under way for its weight; the first
    /// from `turn` on among equals.
    fn least_loaded(&self, deck: &[u16], turn: u64) -> usize {
        let load = |place: usize| {
            let upstream = &self.routes[usize::from(deck[place])].upstream;
            // One more than there are: an upstream of twice the weight takes twice as many.
            (upstream.in_flight() + 1) * u64::from(model::WEIGHT_MAX)
                / u64::from(upstream.model.weight)
        };
        let start = (turn % deck.len() as u64) as usize;
        let places = (0..deck.len()).map(|step| (start + step) % deck.len());
        places.min_by_key(|place| load(*place)).unwrap_or(0)
    }
}

impl Route {
    /// A route to an upstream; `named`: the service's id, where it is the same for all calls.
    fn new(
        upstream: &Arc<Upstream>,
        named: Option<&str>,
        chain_id: Option<u64>,
        earlier: Earlier<'_>,
    ) -> Route {
        let old = earlier.service.and_then(|service| {
            service.routes.iter().find(|old| old.upstream.model.id == upstream.model.id)
        });
        let relays =
            old.map_or_else(|| Arc::new(Sharded::new(earlier.workers)), |old| old.relays.clone());
        // What another address said, or was asked for another chain, says nothing.
        let is_same = |old: &&Route| {
            let of = earlier.service.and_then(|service| service.model.chain_id);
            old.upstream.serial == upstream.serial && of == chain_id
        };
        let chain = old.filter(is_same).map(|old| old.chain.clone()).unwrap_or_default();
        let model = &upstream.model;
        let mut head = request_start("POST", model, model.path(), &[]);
        head.extend_from_slice(b"content-type: application/json\r\n");
        let own = |name: &str| model.headers.iter().any(|(known, _)| known == name);
        if !own("accept") {
            head.extend_from_slice(b"accept: application/json\r\n");
        }
        // Over a network, fewer bytes are worth the decompressing.
        if !own("accept-encoding") && model.address.tls {
            head.extend_from_slice(b"accept-encoding: gzip\r\n");
        }
        if let (Kind::Path, Some(service)) = (upstream.model.kind, named) {
            head.extend_from_slice(format!("target-service-id: {service}\r\n").as_bytes());
        }
        Route { upstream: upstream.clone(), head, relays, chain }
    }
}

/// A request's first line and the fields that every request to this upstream carries, but for those
/// in `without`.
pub(crate) fn request_start(
    method: &str,
    upstream: &model::Upstream,
    target: &str,
    without: &[&str],
) -> Vec<u8> {
    let own = |name: &str| upstream.headers.iter().any(|(known, _)| known == name);
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if !own("host") {
        head.push_str(&format!("host: {}\r\n", upstream.address.authority));
    }
    if !own("user-agent") {
        head.push_str(concat!("user-agent: plimsoll/", env!("CARGO_PKG_VERSION"), "\r\n"));
    }
    for (name, value) in upstream.headers.iter().filter(|(name, _)| !without.contains(&&**name)) {
        head.push_str(&format!("{name}: {}\r\n", value.value));
    }
    head.into_bytes()
}

/// The routes of a tier in the order of their turns. With weights, each stands as far from itself as
/// possible: by the place of its n-th turn, `(n + ½) ÷ weight`.
fn deck(routes: &[Route], tier: u8, spread: Spread) -> Vec<u16> {
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
