//! A service with its routes and what its calls share.
//!
//! Services with the same upstreams share one round-robin counter, so a pool of instances is used
//! evenly whatever mix of services is called.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use plimsoll_measure::Nanos;
use plimsoll_registry::model::{self, Kind, Resilience, Spread};
use plimsoll_resilience::{Budget, Hedge, Quantile, patience};
use plimsoll_rpc::method::{self, Method};

use super::route::{Excluded, Route};
use crate::account::{Account, AccountIds};
use crate::call::chain;
use crate::call::heads::ServiceHeads;
use crate::call::health::{self, Activity};
use crate::call::prefetch::Prefetched;
use crate::heads::{Floor, Floors, Standing};
use crate::limits::ledger::CallLedgers;
use crate::line::Line;
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
    /// What a call of each known method is charged, by [`Method::place`].
    compute_units: Box<[u32; method::NAMES.len()]>,
    pub(crate) calls: Arc<Sharded<Calls>>,
    /// For calls that do not come through an endpoint.
    pub(crate) account: Arc<Account>,
    pub(crate) state: Arc<ServiceState>,
    /// The heads that are served, if upstreams are asked for theirs.
    pub(crate) heads: Option<Arc<ServiceHeads>>,
    pub(super) round_robin: RoundRobin,
    /// The rotation of each tier that has upstreams, in order of tiers, as indices of `routes`.
    pub(super) rotations: Vec<Vec<u16>>,
}

/// Requests per second that may be repeated because of stale connections without drawing on the retry
/// budget: the upstream's keep-alive timeout and a request cross now and then, and a call must not fail
/// for it where retries are switched off.
const REPEATS: f64 = 1.0;

/// What all calls of a service share. Outlives the replacement of the `Routing`.
pub(crate) struct ServiceState {
    settings: Resilience,
    pub(crate) retries: Budget,
    pub(crate) hedges: Budget,
    /// Requests that are repeated because a pooled connection was stale, apart from those that retries
    /// pay for.
    repeats: Budget,
    hedge: Option<Hedge>,
    /// The quantile of the latency by method, unknown methods last; allocated when a method is first
    /// called. For hedging and patience.
    latencies: [OnceLock<Box<Quantile>>; method::NAMES.len() + 1],
    /// The transactions that upstreams have accepted.
    pub(crate) sent: Sent,
    pub(crate) activity: Activity,
    /// Whether all upstreams are behind, and the least lagging serves.
    pub(crate) is_fallback: AtomicBool,
    /// Whether an upstream has a higher head than is served.
    pub(crate) has_news: AtomicBool,
    pub(crate) prefetched: Prefetched,
    /// Its calls that wait for an upstream.
    pub(crate) line: Arc<Line>,
}

impl ServiceState {
    fn new(settings: Resilience) -> ServiceState {
        ServiceState {
            settings,
            retries: Budget::new(settings.retry_budget, settings.retry_floor),
            hedges: Budget::new(settings.hedge_budget, 0.0),
            repeats: Budget::new(0.0, REPEATS),
            hedge: settings.hedge.map(|quantile| Hedge { quantile, ..Hedge::default() }),
            latencies: [const { OnceLock::new() }; method::NAMES.len() + 1],
            sent: Sent::default(),
            activity: Activity::default(),
            is_fallback: AtomicBool::new(false),
            has_news: AtomicBool::new(false),
            prefetched: Prefetched::default(),
            line: Arc::default(),
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
        let make = || {
            let quantile = self.hedge.unwrap_or_default().quantile;
            Box::new(Quantile::new(quantile, Quantile::WINDOW))
        };
        self.latencies_of(method).get_or_init(make).record(latency, now);
    }

    #[inline]
    fn latencies_of(&self, method: Option<Method>) -> &OnceLock<Box<Quantile>> {
        &self.latencies[method.map_or(method::NAMES.len(), Method::place)]
    }

    /// How long to wait for an attempt before it counts as late; `configured`: the longest time.
    #[inline]
    pub(crate) fn patience(&self, method: Option<Method>, configured: Nanos) -> Nanos {
        let latencies = self.latencies_of(method).get();
        patience(latencies.and_then(|latencies| latencies.estimate()), configured)
    }

    /// Whether a request may be repeated on its upstream, because its pooled connection was stale. A
    /// request that was not `sent` is no load.
    #[cold]
    pub(crate) fn may_repeat(&self, sent: bool, now: Nanos) -> bool {
        !sent || self.repeats.withdraw(now) || self.retries.withdraw(now)
    }

    /// Whether a call may be retried that would be lost otherwise: with what hedges have left of their
    /// budget, so that retries and hedges together stay within both budgets.
    #[cold]
    pub(crate) fn may_retry_last(&self, now: Nanos) -> bool {
        match self.hedge {
            Some(_) => self.hedges.withdraw(now),
            None => self.retries.withdraw_reserve(self.settings.hedge_budget, now),
        }
    }

    /// How long after its start to hedge a call; `None` if it is not to be hedged.
    #[inline]
    pub(crate) fn hedge_delay(&self, method: Option<Method>, timeout: Nanos) -> Option<Nanos> {
        let hedge = self.hedge.as_ref()?;
        hedge.delay(self.latencies_of(method).get()?.estimate(), timeout)
    }
}

/// The service that a new one replaces.
#[derive(Clone, Copy)]
pub(super) struct Previous<'a> {
    pub(super) service: Option<&'a Arc<Service>>,
    pub(super) workers: usize,
    /// The seed of random choices.
    pub(super) seed: u64,
    /// What was served before, by service.
    pub(super) floors: &'a Floors,
}

impl Service {
    pub(super) fn compile(
        model: &model::Service,
        is_listed: bool,
        upstreams: &[Arc<Upstream>],
        previous: Previous<'_>,
        counters: &mut HashMap<Vec<String>, RoundRobin>,
        serial: &mut u64,
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
        let ids = AccountIds { endpoint: None, key: None, service: &model.id };
        let account = Account::renewed(
            old.map(|old| &old.account),
            ids,
            &Arc::default(),
            CallLedgers::default(),
            serial,
        );
        account.in_use.set_upstreams(routes.len());
        let has_heads = is_listed && model.health_checks && !routes.is_empty();
        let heads = has_heads
            .then(|| heads(model, &routes, old, previous.floors.of(&model.id, model.chain_id)));
        Service {
            model: model.clone(),
            is_listed,
            protocol: Protocol::Evm,
            chain_id,
            routes,
            spaces,
            sees_branches,
            is_unchecked,
            compute_units: Box::new(method::NAMES.map(|name| model.compute_units.of(name))),
            calls: old
                .map_or_else(|| Arc::new(Sharded::new(previous.workers)), |old| old.calls.clone()),
            account,
            state: old.filter(|old| old.state.settings == model.resilience).map_or_else(
                || Arc::new(ServiceState::new(model.resilience)),
                |old| old.state.clone(),
            ),
            heads,
            round_robin,
            rotations,
        }
    }

    /// What a call of a method is charged, in compute units; `name` is that of the call.
    #[inline]
    pub(crate) fn compute_units(&self, method: Option<Method>, name: &str) -> u64 {
        match method {
            Some(method) => self.compute_units[method.place()].into(),
            None => self.model.compute_units.of(name).into(),
        }
    }

    /// The latest block that an upstream has reported.
    pub(crate) fn head_of(&self, place: usize) -> Option<u64> {
        let (standing, latest) = self.heads.as_ref()?.board.upstream(place);
        (standing != Standing::Unknown).then_some(latest)
    }

    /// Records that an upstream denied having a block.
    #[cold]
    pub(crate) fn denied(&self, route: &Route, number: u64, now: Nanos) {
        let place = self.routes.iter().position(|one| std::ptr::eq(one, route));
        if let (Some(heads), Some(place)) = (&self.heads, place) {
            heads.denied(place, number, now);
        }
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
                && route.state.chain.is_confirmed_after(route.upstream.health.losses())
        };
        self.is_unchecked || self.routes.iter().any(is_confirmed)
    }

    /// Whether an upstream has confirmed the service's chain id, whatever has happened to it since.
    pub(crate) fn tells_chain(&self) -> bool {
        self.routes.iter().any(|route| route.state.chain.has_confirmed())
    }

    /// Whether an upstream's heads are those of the service's chain, as far as can be known.
    pub(crate) fn trusts(&self, route: &Route) -> bool {
        let chain = &route.state.chain;
        !chain.is_another() && (route.is_confirmed() || chain.is_untold() && !self.tells_chain())
    }

    /// Why no call can be answered now: nothing but what [`Excluded::prevents_calls`] is left, or too
    /// few upstreams are left for those that must agree.
    pub(crate) fn why_unready(&self, now: Nanos) -> Option<String> {
        let is_usable =
            |route: &&Route| !route.why_excluded(now).is_some_and(Excluded::prevents_calls);
        let usable = self.routes.iter().filter(is_usable).count();
        let (needed, all) = (usize::from(self.model.agree.default), self.routes.len());
        if usable >= needed.max(1) {
            return None;
        }
        let reasons = self.routes.iter().filter(|route| !is_usable(route)).map(|route| {
            let why = route.why_excluded(now).map(Excluded::reason).unwrap_or_default();
            format!("{}: {why}", route.upstream.model.id)
        });
        let reasons: Vec<String> = reasons.collect();
        Some(match (all, needed) {
            (0, _) => "it has no upstream".into(),
            (_, 0..=1) => format!("none of {all} upstreams can be used: {}", reasons.join("; ")),
            _ => format!(
                "{needed} upstreams must agree, and {usable} of {all} can be used: {}",
                reasons.join("; ")
            ),
        })
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

/// The heads of a service; what is known of them is carried over if the service is the same.
fn heads(
    model: &model::Service,
    routes: &[Route],
    old: Option<&Arc<Service>>,
    floor: Arc<Floor>,
) -> Arc<ServiceHeads> {
    let upstreams: Vec<u64> = routes.iter().map(|route| route.upstream.serial).collect();
    let before = old.filter(|old| old.model.chain_id == model.chain_id);
    let before = before.and_then(|old| old.heads.as_ref());
    let new = ServiceHeads::new(model, upstreams.clone(), health::stale_after(model), floor);
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
