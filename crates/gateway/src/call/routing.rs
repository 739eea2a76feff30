//! What may be called and where it is relayed to, compiled for look-ups on the hot path.
//!
//! A registry does not change: a new one replaces it as a whole. What outlives it (figures, turns,
//! calls in flight, rate limits) is handed from the old to the new by the ids of services and
//! upstreams.

mod limiter;
mod service;

use std::collections::HashMap;
use std::sync::Arc;

use plimsoll_measure::Nanos;
use tokio_rustls::TlsConnector;

use crate::observe::stats::{Calls, Counter, Sharded};
use crate::transport::tls;
use plimsoll_registry::model::{self, Definitions, MethodRules};

use limiter::Limiter;
pub(crate) use service::{Route, Service, Turn, request_start};

/// The id under which calls for services that the registry does not know are counted.
pub(crate) const OTHER: &str = "other";

/// Everything that may be called.
pub(crate) struct Registry {
    services: HashMap<String, Arc<Service>>,
    endpoints: HashMap<String, Endpoint>,
    upstreams: Vec<Arc<Upstream>>,
    /// For services that only the upstreams know.
    other: Option<Arc<Service>>,
}

/// What a customer calls.
pub(crate) struct Endpoint {
    pub(crate) service: Arc<Service>,
    pub(crate) rules: MethodRules,
}

/// Where calls are relayed to.
pub(crate) struct Upstream {
    pub(crate) model: model::Upstream,
    /// Tells upstreams apart in a worker's pools; another address or other headers make another one.
    pub(crate) serial: u64,
    pub(crate) connector: Option<TlsConnector>,
    /// Relays under way, by worker.
    pub(crate) in_flight: Arc<Sharded<Counter>>,
    limiter: Option<Limiter>,
}

impl Upstream {
    /// How many relays are under way, in this process.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.sum(Counter::get)
    }

    /// Whether one more call may be sent now; if so, it counts.
    fn admit(&self, now: Nanos) -> bool {
        self.limiter.as_ref().is_none_or(|limiter| limiter.admit(now))
    }
}

impl Registry {
    /// A registry of nothing.
    pub(crate) fn empty() -> Registry {
        Registry {
            services: HashMap::new(),
            endpoints: HashMap::new(),
            upstreams: Vec::new(),
            other: None,
        }
    }

    /// Compiles definitions, which are valid.
    ///
    /// # Errors
    /// Certificates of an upstream cannot be read.
    pub(crate) fn compile(
        definitions: &Definitions,
        before: &Registry,
        workers: usize,
        serial: &mut u64,
    ) -> Result<Registry, String> {
        let mut roots = tls::Roots::default();
        let mut upstreams = Vec::new();
        for model in &definitions.upstreams {
            upstreams.push(before.upstream(model, workers, serial, &mut roots)?);
        }
        let mut turns = before.turns();
        let mut services = HashMap::new();
        for model in &definitions.services {
            let old = before.services.get(&model.id);
            let calls =
                old.map_or_else(|| Arc::new(Sharded::new(workers)), |old| old.calls.clone());
            let service = Service::compile(model, &upstreams, calls, old, &mut turns, workers);
            services.insert(model.id.clone(), Arc::new(service));
        }
        let any = upstreams.iter().any(|upstream| upstream.model.service.is_none());
        let other = any.then(|| {
            let old = before.other.as_deref();
            let calls = old
                .map_or_else(|| Arc::new(Sharded::<Calls>::new(workers)), |old| old.calls.clone());
            let model = model::Service::named(OTHER);
            Arc::new(Service::compile(
                &model,
                &upstreams,
                calls,
                before.other.as_ref(),
                &mut turns,
                workers,
            ))
        });
        let endpoint = |model: &model::Endpoint| {
            let service = services.get(&model.service)?.clone();
            Some((model.id.clone(), Endpoint { service, rules: model.methods.clone() }))
        };
        let endpoints = definitions.endpoints.iter().filter_map(endpoint).collect();
        Ok(Registry { services, endpoints, upstreams, other })
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
        if let Some(old) = old.filter(|old| old.model == *model) {
            return Ok(old.clone());
        }
        let reached_alike =
            |old: &&Arc<Upstream>| old.model.address == model.address && old.model.ca == model.ca;
        let same = old.filter(reached_alike);
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
        Ok(Arc::new(Upstream { model: model.clone(), serial, connector, in_flight, limiter }))
    }

    /// The turns there are, by the upstreams that they go round.
    fn turns(&self) -> HashMap<Vec<String>, Turn> {
        let all = self.services.values().chain(&self.other);
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
        self.services.get(id).or(self.other.as_ref().filter(|_| model::check_id(id).is_ok()))
    }

    /// The services by name, the stand-in for unknown ones last.
    pub(crate) fn services(&self) -> Vec<&Arc<Service>> {
        let mut services: Vec<_> = self.services.values().collect();
        services.sort_by(|a, b| a.model.id.cmp(&b.model.id));
        services.extend(&self.other);
        services
    }

    pub(crate) fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }
}

#[cfg(test)]
mod tests;
