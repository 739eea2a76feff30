//! A service with its routes and what its calls share.
//!
//! Services with the same upstreams share one round-robin counter, so a pool of instances is used
//! evenly whatever mix of services is called.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use plimsoll_measure::Nanos;
use plimsoll_registry::model::{self, Kind, Resilience, Spread};
use plimsoll_resilience::{Budget, Hedge, Quantile};
use plimsoll_rpc::method::{self, Method};

use super::route::Route;
use crate::call::chain;
use crate::call::heads::ServiceHeads;
use crate::call::health::{self, Activity};
use crate::heads::Standing;
use crate::observe::stats::{Calls, Sharded};
use crate::protocol::Protocol;
use crate::sends::Sent;
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
    /// What the names of cached answers begin with, by the number of upstreams that must agree: the
    /// service, its chain, that number. Empty without a chain id, because nothing would keep apart the
    /// answers of different chains.
    pub(crate) spaces: Vec<String>,
    /// Whether upstreams report the hashes of blocks, so that reorganisations are seen. PATH instances
    /// among themselves report numbers.
    pub(crate) sees_branches: bool,
    /// Whether the chain id cannot be checked, because no upstream's rules permit `eth_chainId`.
    is_unchecked: bool,
    pub(crate) calls: Arc<Sharded<Calls>>,
    /// Calls in flight that did not come through an endpoint.
    pub(crate) in_flight: Arc<AtomicU64>,
    pub(crate) state: Arc<ServiceState>,
    /// The heads that are served, if upstreams are asked for theirs.
    pub(crate) heads: Option<Arc<ServiceHeads>>,
    pub(super) round_robin: RoundRobin,
    /// The rotation of each tier that has upstreams, in order of tiers, as indices of `routes`.
    pub(super) rotations: Vec<Vec<u16>>,
}

/// What all calls of a service share. Outlives the replacement of the `Routing`.
pub(crate) struct ServiceState {
    settings: Resilience,
    pub(crate) retries: Budget,
    pub(crate) hedges: Budget,
    hedge: Option<Hedge>,
    /// The quantile of the latency by method, unknown methods last; allocated when a method is first
    /// called.
    latencies: [OnceLock<Box<Quantile>>; method::NAMES.len() + 1],
    /// The transactions that upstreams have accepted.
    pub(crate) sent: Sent,
    pub(crate) activity: Activity,
    /// Whether all upstreams are behind, and the least lagging serves.
    pub(crate) is_fallback: AtomicBool,
    /// Whether an upstream has a higher head than is served.
    pub(crate) has_news: AtomicBool,
}

impl ServiceState {
    fn new(settings: Resilience) -> ServiceState {
        ServiceState {
            settings,
            retries: Budget::new(settings.retry_budget, settings.retry_floor),
            hedges: Budget::new(settings.hedge_budget, 0.0),
            hedge: settings.hedge.map(|quantile| Hedge { quantile, ..Hedge::default() }),
            latencies: [const { OnceLock::new() }; method::NAMES.len() + 1],
            sent: Sent::default(),
            activity: Activity::default(),
            is_fallback: AtomicBool::new(false),
            has_news: AtomicBool::new(false),
        }
    }

    /// Counts a call, which adds to the budgets.
    #[inline]
    pub(crate) fn called(&self, now: Nanos) {
        self.retries.called(now);
        if self.hedge.is_some() {
            self.hedges.called(now);
        }
    }

    /// Records the time of an attempt that was answered, or had taken this long when it was cancelled.
    #[inline]
    pub(crate) fn record(&self, method: Option<Method>, latency: Nanos, now: Nanos) {
        if let Some(hedge) = &self.hedge {
            let latencies = &self.latencies[method.map_or(method::NAMES.len(), Method::place)];
            let make = || Box::new(Quantile::new(hedge.quantile, Quantile::WINDOW));
            latencies.get_or_init(make).record(latency, now);
        }
    }

    /// How long after its start to hedge a call; `None` if it is not to be hedged.
    #[inline]
    pub(crate) fn hedge_delay(&self, method: Option<Method>, timeout: Nanos) -> Option<Nanos> {
        let hedge = self.hedge.as_ref()?;
        let latencies = &self.latencies[method.map_or(method::NAMES.len(), Method::place)];
        hedge.delay(latencies.get()?.estimate(), timeout)
    }
}

/// The service that a new one replaces.
#[derive(Clone, Copy)]
pub(super) struct Previous<'a> {
    pub(super) service: Option<&'a Arc<Service>>,
    pub(super) workers: usize,
    /// The seed of random choices.
    pub(super) seed: u64,
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
            .map(|upstream| Route::new(upstream, named, model, previous))
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
        let spaces = model.chain_id.filter(|_| is_listed).map_or_else(Vec::new, |chain| {
            (1..=model::AGREE_MAX).map(|agree| format!("{}@{chain}#{agree}", model.id)).collect()
        });
        let is_path = |route: &Route| route.upstream.model.kind == Kind::Path;
        let sees_branches = !routes.iter().all(is_path);
        let old = previous.service;
        let has_heads = is_listed && model.health_checks && !routes.is_empty();
        let heads = has_heads.then(|| heads(model, &routes, old));
        Service {
            model: model.clone(),
            is_listed,
            protocol: Protocol::Evm,
            chain_id,
            routes,
            spaces,
            sees_branches,
            is_unchecked,
            calls: old
                .map_or_else(|| Arc::new(Sharded::new(previous.workers)), |old| old.calls.clone()),
            in_flight: old.map(|old| old.in_flight.clone()).unwrap_or_default(),
            state: old.filter(|old| old.state.settings == model.resilience).map_or_else(
                || Arc::new(ServiceState::new(model.resilience)),
                |old| old.state.clone(),
            ),
            heads,
            round_robin,
            rotations,
        }
    }

    /// The latest block that an upstream has reported.
    pub(crate) fn head_of(&self, place: usize) -> Option<u64> {
        let (standing, latest) = self.heads.as_ref()?.board.upstream(place);
        (standing != Standing::Unknown).then_some(latest)
    }

    pub(super) fn upstream_ids(&self) -> Vec<String> {
        self.routes.iter().map(|route| route.upstream.model.id.clone()).collect()
    }

    /// Whether an upstream has confirmed the service's chain id and has not possibly been replaced
    /// since, or none can.
    #[inline]
    pub(crate) fn is_chain_confirmed(&self) -> bool {
        let is_confirmed = |route: &Route| {
            route.is_chain_checked
                && route.state.chain.is_verified_after(route.upstream.health.losses())
        };
        self.is_unchecked || self.routes.iter().any(is_confirmed)
    }

    /// An error message that names the upstreams on a different chain.
    pub(crate) fn other_chains(&self) -> String {
        let others = self.routes.iter().filter_map(|route| {
            Some(format!("{} is on chain {}", route.upstream.model.id, route.state.chain.other()?))
        });
        let others: Vec<String> = others.collect();
        let (id, expected) = (&self.model.id, self.model.chain_id.unwrap_or_default());
        format!("service {id} is on chain {expected}, but {}", others.join(", "))
    }
}

/// The heads of a service, of which those served so far are carried over.
fn heads(
    model: &model::Service,
    routes: &[Route],
    old: Option<&Arc<Service>>,
) -> Arc<ServiceHeads> {
    let upstreams: Vec<u64> = routes.iter().map(|route| route.upstream.serial).collect();
    let before = old.filter(|old| old.model.chain_id == model.chain_id);
    let before = before.and_then(|old| old.heads.as_ref());
    let served = before.map(|heads| heads.board.served()).unwrap_or_default();
    // An upstream that has missed some checks may have anything.
    let stale_after = Nanos(4 * health::interval(model).0);
    let new = ServiceHeads::new(model, upstreams.clone(), stale_after, served);
    match before.filter(|heads| heads.serves(&new.settings(), &upstreams)) {
        Some(heads) => heads.clone(),
        None => Arc::new(new),
    }
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
