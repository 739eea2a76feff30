//! What may be called and where it is relayed to, compiled for look-ups on the hot path.
//!
//! A routing does not change: a new one replaces it as a whole. What outlives it (figures, turns,
//! calls in flight, rate limits) is handed from the old to the new by the ids of services, endpoints
//! and upstreams.

mod service;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use plimsoll_registry::model::{self, Definitions, MethodRules};

use crate::observe::stats::Sharded;
use crate::transport::tls;
use crate::upstream::{Limiter, Upstream};

use service::{Earlier, Turn};
pub(crate) use service::{Need, Route, Service, Tried, request_start};

/// What operators named. Callers look names up and add none, so that a short hash will do.
type ById<T> = HashMap<String, T, foldhash::fast::RandomState>;

/// Everything that may be called.
pub(crate) struct Routing {
    services: ById<Arc<Service>>,
    endpoints: ById<Endpoint>,
    upstreams: Vec<Arc<Upstream>>,
    /// For services that only the upstreams know.
    unlisted: Option<Arc<Service>>,
    /// The only service that has an upstream, where there is one.
    only: Option<Arc<Service>>,
}

/// What a customer calls.
pub(crate) struct Endpoint {
    pub(crate) service: Arc<Service>,
    pub(crate) rules: MethodRules,
    /// Its calls in flight.
    pub(crate) calls: Arc<AtomicU64>,
}

impl Routing {
    /// A routing to nowhere.
    pub(crate) fn empty() -> Routing {
        Routing {
            services: ById::default(),
            endpoints: ById::default(),
            upstreams: Vec::new(),
            unlisted: None,
            only: None,
        }
    }

    /// Compiles definitions, which are valid.
    ///
    /// # Errors
    /// Certificates of an upstream cannot be read.
    pub(crate) fn compile(
        definitions: &Definitions,
        before: &Routing,
        workers: usize,
        serial: &mut u64,
    ) -> Result<Routing, String> {
        let mut roots = tls::Roots::default();
        let mut upstreams = Vec::new();
        for model in &definitions.upstreams {
            upstreams.push(before.upstream(model, workers, serial, &mut roots)?);
        }
        let mut turns = before.turns();
        let mut services = ById::default();
        for model in &definitions.services {
            let earlier = Earlier { service: before.services.get(&model.id), workers };
            let service = Service::compile(model, true, &upstreams, earlier, &mut turns);
            services.insert(model.id.clone(), Arc::new(service));
        }
        let any = upstreams.iter().any(|upstream| upstream.model.service.is_none());
        let unlisted = any.then(|| {
            let model = model::Service::named(service::UNLISTED);
            let earlier = Earlier { service: before.unlisted.as_ref(), workers };
            Arc::new(Service::compile(&model, false, &upstreams, earlier, &mut turns))
        });
        let endpoint = |model: &model::Endpoint| {
            let service = services.get(&model.service)?.clone();
            let calls = before.endpoints.get(&model.id).map(|old| old.calls.clone());
            let rules = model.methods.clone();
            let endpoint = Endpoint { service, rules, calls: calls.unwrap_or_default() };
            Some((model.id.clone(), endpoint))
        };
        let endpoints = definitions.endpoints.iter().filter_map(endpoint).collect();
        let all = services.values().chain(&unlisted);
        let mut relaying = all.filter(|service| !service.routes.is_empty());
        let only = relaying.next().filter(|_| relaying.next().is_none()).cloned();
        Ok(Routing { services, endpoints, upstreams, unlisted, only })
    }

    /// The upstream that `model` describes: the one there was, as far as it is the same.
    fn upstream(
        &self,
        model: &model::Upstream,
        workers: usize,
        serial: &mut u64,
        roots: &mut tls::Roots,
    ) -> Result<Arc<Upstream>, String> {
        let old = self.upstreams.iter().find(|old| old.model.id == model.id);
        let ca = roots.contents(model.ca.as_deref())?;
        let trusts_alike = |old: &&Arc<Upstream>| old.model.ca == model.ca && old.ca == ca;
        if let Some(old) = old.filter(trusts_alike).filter(|old| old.model == *model) {
            return Ok(old.clone());
        }
        let same = old.filter(trusts_alike).filter(|old| old.model.address == model.address);
        let connector = match (model.address.tls, same) {
            (false, _) => None,
            (true, Some(old)) => old.connector.clone(),
            (true, None) => Some(roots.connector(model.ca.as_deref())?),
        };
        let serial = same.map(|old| old.serial).unwrap_or_else(|| {
            *serial += 1;
            *serial
        });
        let in_flight =
            old.map_or_else(|| Arc::new(Sharded::new(workers)), |old| old.in_flight.clone());
        let limiter = model.rate_limit.map(Limiter::new);
        // What was learned of another address says nothing of this one.
        let health = same.map(|old| old.health.clone()).unwrap_or_default();
        let model = model.clone();
        Ok(Arc::new(Upstream { model, serial, ca, connector, in_flight, limiter, health }))
    }

    /// Whether a file of certificates to trust has other contents than when it was read.
    pub(crate) fn is_trust_changed(&self) -> bool {
        let changed =
            |path: &Path, known: &[u8]| std::fs::read(path).is_ok_and(|contents| contents != known);
        let files =
            self.upstreams.iter().filter_map(|one| one.model.ca.as_deref().zip(one.ca.as_deref()));
        files.into_iter().any(|(path, known)| changed(path, known))
    }

    /// The turns there are, by the upstreams that they go round.
    fn turns(&self) -> HashMap<Vec<String>, Turn> {
        let all = self.services.values().chain(&self.unlisted);
        all.map(|service| (service.upstream_ids(), service.turn.clone())).collect()
    }

    /// The endpoint with this id.
    #[inline]
    pub(crate) fn endpoint(&self, id: &str) -> Option<&Endpoint> {
        self.endpoints.get(id)
    }

    /// The service with this id, or the one that stands for all that only upstreams know.
    #[inline]
    pub(crate) fn service(&self, id: &str) -> Option<&Arc<Service>> {
        self.services.get(id).or(self.unlisted.as_ref().filter(|_| model::check_id(id).is_ok()))
    }

    /// The only service that has an upstream, where there is one.
    pub(crate) fn only_service(&self) -> Option<&Arc<Service>> {
        self.only.as_ref()
    }

    /// The services by name, the stand-in for unlisted ones last.
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
