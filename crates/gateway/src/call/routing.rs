//! Services, endpoints and upstreams, compiled for look-ups on the hot path.
//!
//! A [`Routing`] is immutable; a reload replaces it with a new one. State that outlives it
//! (metrics, round-robin counters, calls in flight, rate limits) is carried over by the ids of
//! services, endpoints and upstreams.

mod access;
mod pick;
mod route;
mod service;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use plimsoll_registry::model::{self, Definitions, MethodRules};
use plimsoll_resilience::RateLimit;

use crate::heads::Floors;
use crate::limits::ledger::Ledgers;
use crate::limits::quota::Quota;
use crate::transport::tls;
use crate::upstream::gate::Gate;
use crate::upstream::waiting::Waiting;
use crate::upstream::{Secrets, Upstream};

pub(crate) use access::{Access, Key};
pub(crate) use pick::{Admitted, Need, Picked, Tried};
pub(crate) use route::{Excluded, Exclusion, Route, request_start};
use service::{Previous, RoundRobin};
pub(crate) use service::{SERVICE_ID, Service};

/// A map keyed by ids from the configuration. Callers cannot add keys, so a fast hash is safe.
type ById<T> = HashMap<String, T, foldhash::fast::RandomState>;

/// All services, endpoints and upstreams.
pub(crate) struct Routing {
    services: ById<Arc<Service>>,
    endpoints: ById<Endpoint>,
    /// The hashes of all endpoints' keys.
    key_hashes: HashSet<[u8; 32], foldhash::fast::RandomState>,
    upstreams: Vec<Arc<Upstream>>,
    /// Stands in for services that the registry does not list.
    unlisted: Option<Arc<Service>>,
    /// The listed service with an upstream, if there is exactly one.
    only: Option<Arc<Service>>,
    /// The seed of random choices.
    seed: u64,
    /// The heads that were served, also of services that are not configured at present.
    floors: Arc<Floors>,
    /// The calls that wait for an upstream.
    waiting: Arc<Waiting>,
    /// What endpoints and keys have used and were refused, also of those that are not configured at
    /// present.
    ledgers: Arc<Ledgers>,
}

/// A customer's endpoint.
pub(crate) struct Endpoint {
    pub(crate) service: Arc<Service>,
    pub(crate) rules: MethodRules,
    pub(crate) agree: Option<model::Agree>,
    /// Whether callers may ask for answers that do not come from the cache.
    pub(crate) no_cache: bool,
    pub(crate) access: Access,
}

impl Routing {
    /// A routing without services, endpoints or upstreams.
    pub(crate) fn empty(seed: u64) -> Routing {
        Routing {
            services: ById::default(),
            endpoints: ById::default(),
            key_hashes: HashSet::default(),
            upstreams: Vec::new(),
            unlisted: None,
            only: None,
            seed,
            floors: Arc::default(),
            waiting: Arc::default(),
            ledgers: Arc::default(),
        }
    }

    /// Compiles valid definitions.
    ///
    /// # Errors
    /// An upstream's certificates cannot be read.
    pub(crate) fn compile(
        definitions: &Definitions,
        previous: &Routing,
        workers: usize,
        serial: &mut u64,
    ) -> Result<Routing, String> {
        let mut roots = tls::Roots::default();
        // The keeper makes calls, too.
        let workers = workers + 1;
        let mut upstreams = Vec::new();
        for model in &definitions.upstreams {
            upstreams.push(previous.upstream(model, serial, &mut roots)?);
        }
        let mut counters = previous.counters();
        let (seed, floors) = (previous.seed, &*previous.floors);
        let mut services = ById::default();
        for model in &definitions.services {
            let service = previous.services.get(&model.id);
            let previous = Previous { service, workers, seed, floors };
            let service =
                Service::compile(model, true, &upstreams, previous, &mut counters, serial);
            services.insert(model.id.clone(), Arc::new(service));
        }
        let serves_any = upstreams.iter().any(|upstream| upstream.model.service.is_none());
        let unlisted = serves_any.then(|| {
            let model = model::Service::named(service::UNLISTED);
            let service = previous.unlisted.as_ref();
            let previous = Previous { service, workers, seed, floors };
            Arc::new(Service::compile(&model, false, &upstreams, previous, &mut counters, serial))
        });
        let mut endpoint = |model: &model::Endpoint| {
            let service: Arc<Service> = services.get(&model.service)?.clone();
            let access = {
                let old = previous.endpoints.get(&model.id);
                Access::compile(model, old, &previous.ledgers, serial)
            };
            access.account.in_use.set_upstreams(service.routes.len());
            let rules = model.methods.clone();
            let agree = model.agree.clone();
            let endpoint = Endpoint { service, rules, agree, no_cache: model.no_cache, access };
            Some((model.id.clone(), endpoint))
        };
        let endpoints = definitions.endpoints.iter().filter_map(&mut endpoint).collect();
        let keys = definitions.endpoints.iter().flat_map(|one| &one.access.keys);
        let key_hashes = keys.map(|key| key.hash).collect();
        // The stand-in is no service that a call could be for.
        let mut relaying = services.values().filter(|service| !service.routes.is_empty());
        let only = relaying.next().filter(|_| relaying.next().is_none()).cloned();
        let (floors, waiting) = (previous.floors.clone(), previous.waiting.clone());
        let ledgers = previous.ledgers.clone();
        ledgers.prune();
        Ok(Routing {
            services,
            endpoints,
            key_hashes,
            upstreams,
            unlisted,
            only,
            seed,
            floors,
            waiting,
            ledgers,
        })
    }

    /// The upstream that `model` describes, reusing as much of the existing one as still applies.
    fn upstream(
        &self,
        model: &model::Upstream,
        serial: &mut u64,
        roots: &mut tls::Roots,
    ) -> Result<Arc<Upstream>, String> {
        let old = self.upstreams.iter().find(|old| old.model.id == model.id);
        let ca = roots.contents(model.ca.as_deref())?;
        let same_trust = |old: &&Arc<Upstream>| old.model.ca == model.ca && old.ca == ca;
        if let Some(old) = old.filter(same_trust).filter(|old| old.model == *model) {
            return Ok(old.clone());
        }
        let same_address = old.filter(same_trust).filter(|old| old.model.address == model.address);
        let connector = match (model.address.tls, same_address) {
            (false, _) => None,
            (true, Some(old)) => old.connector.clone(),
            (true, None) => Some(roots.connector(model.ca.as_deref())?),
        };
        let serial = same_address.map(|old| old.serial).unwrap_or_else(|| {
            *serial += 1;
            *serial
        });
        let same_gate = same_address.filter(|old| old.model.concurrency == model.concurrency);
        let gate = same_gate.map(|old| old.gate.clone());
        let gate = gate.unwrap_or_else(|| Arc::new(Gate::new(model.concurrency, &self.waiting)));
        let rate_limit = model.rate_limit.map(RateLimit::new);
        // The health of a different address does not apply.
        let health = same_address.map(|old| old.health.clone()).unwrap_or_default();
        let parking = same_address.map(|old| old.parking.clone()).unwrap_or_default();
        let secrets = Secrets::of(model);
        let model = model.clone();
        Ok(Arc::new(Upstream {
            model,
            serial,
            ca,
            connector,
            gate,
            rate_limit,
            parking,
            health,
            secrets,
        }))
    }

    /// Whether the contents of a CA file have changed since it was read, or cannot be read any more.
    pub(crate) fn is_trust_changed(&self) -> bool {
        let changed = |path: &Path, known: &[u8]| {
            std::fs::read(path).map_or(true, |contents| contents != known)
        };
        let files =
            self.upstreams.iter().filter_map(|one| one.model.ca.as_deref().zip(one.ca.as_deref()));
        files.into_iter().any(|(path, known)| changed(path, known))
    }

    /// The round-robin counters, by the ids of the upstreams that they rotate over.
    fn counters(&self) -> HashMap<Vec<String>, RoundRobin> {
        let all = self.services.values().chain(&self.unlisted);
        all.map(|service| (service.upstream_ids(), service.round_robin.clone())).collect()
    }

    /// The endpoint with this id.
    #[inline]
    pub(crate) fn endpoint(&self, id: &str) -> Option<&Endpoint> {
        self.endpoints.get(id)
    }

    /// The endpoints with their ids.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (&str, &Endpoint)> {
        self.endpoints.iter().map(|(id, endpoint)| (id.as_str(), endpoint))
    }

    /// Whether any endpoint has a key with this hash.
    pub(crate) fn has_key(&self, hash: &[u8; 32]) -> bool {
        self.key_hashes.contains(hash)
    }

    /// The endpoints, sorted by id.
    pub(crate) fn sorted_endpoints(&self) -> Vec<(&str, &Endpoint)> {
        let mut endpoints: Vec<_> = self.endpoints().collect();
        endpoints.sort_unstable_by_key(|(id, _)| *id);
        endpoints
    }

    /// The quotas of all endpoints and keys that have any.
    pub(crate) fn quotas(&self) -> impl Iterator<Item = &Arc<Quota>> {
        let allowances = self.endpoints.values().flat_map(|one| one.access.all_allowances());
        allowances.map(|one| &one.quota).filter(|quota| quota.is_limited())
    }

    /// The calls that wait for an upstream.
    pub(crate) fn waiting(&self) -> &Arc<Waiting> {
        &self.waiting
    }

    /// The service with this id, or the stand-in for unlisted services.
    #[inline]
    pub(crate) fn service(&self, id: &str) -> Option<&Arc<Service>> {
        self.services.get(id).or(self.unlisted.as_ref().filter(|_| model::check_id(id).is_ok()))
    }

    /// The listed service with an upstream, if there is exactly one.
    pub(crate) fn only_service(&self) -> Option<&Arc<Service>> {
        self.only.as_ref()
    }

    /// The services by id, with the stand-in for unlisted services last.
    pub(crate) fn services(&self) -> Vec<&Arc<Service>> {
        let mut services: Vec<_> = self.services.values().collect();
        services.sort_by(|a, b| a.model.id.cmp(&b.model.id));
        services.extend(&self.unlisted);
        services
    }

    pub(crate) fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }
}

#[cfg(test)]
mod tests;
