//! Checks of a configuration beyond those of `plimsoll_registry`: warnings about valid settings that
//! are probably mistakes, and problems with the files that the settings name.
//!
//! Warnings never stop a gateway: an unknown method may exist on some node, and a listener may be
//! added later.

use std::fmt;

use plimsoll_config::{Place, Problems};
use plimsoll_measure::WallClock;
use plimsoll_registry::Definitions;
use plimsoll_registry::model::{Prefetch, Service, Upstream};
use plimsoll_registry::settings::{Settings, TraceSettings};
use plimsoll_registry::store::EntryKind;
use plimsoll_rpc::method::Method;

use crate::cache::class::{self, Plan, Reason};
use crate::heads::Served;
use crate::transport::tls;

mod access;
mod names;
mod rules;

/// Why the rules of an endpoint do not concern REST.
const NO_REST: &str =
    "an endpoint's rules apply to JSON-RPC on /api/gateway; REST is served on /v1";

/// A warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The kind and id of the entry with the mistake; `None` if it is not in one entry.
    pub entry: Option<(EntryKind, String)>,
    /// The mistake.
    pub message: String,
}

/// Endpoints' ids are masked.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((kind, id)) = &self.entry {
            write!(f, "{} {}: ", kind.name(), kind.shown(id))?;
        }
        f.write_str(&self.message)
    }
}

/// The problems with certificates and keys that would keep a gateway from starting, or from applying
/// this configuration.
pub fn file_problems(settings: &Settings, definitions: &Definitions) -> Problems {
    let mut problems = Problems::default();
    for (place, message) in tls::problems(settings, definitions) {
        problems.note(Place::Named(place), message, "");
    }
    problems
}

/// The warnings for a configuration.
pub fn warnings(settings: &Settings, definitions: &Definitions) -> Vec<Warning> {
    let mut found = Vec::new();
    let mut check = |kind, id: &str, rules, no_rest: Option<&str>| {
        let warning = |message| Warning { entry: Some((kind, id.into())), message };
        found.extend(rules::mistakes(rules, no_rest).into_iter().map(warning));
    };
    for endpoint in &definitions.endpoints {
        check(EntryKind::Endpoint, &endpoint.id, &endpoint.methods, Some(NO_REST));
    }
    for upstream in &definitions.upstreams {
        let no_rest = no_rest(upstream, definitions);
        check(EntryKind::Upstream, &upstream.id, &upstream.methods, no_rest.as_deref());
    }
    let now = WallClock::now();
    for endpoint in &definitions.endpoints {
        let entry = Some((EntryKind::Endpoint, endpoint.id.clone()));
        let warning = |message| Warning { entry: entry.clone(), message };
        found.extend(access::mistakes(endpoint, now).into_iter().map(warning));
    }
    let mut add = |message: String| found.push(Warning { entry: None, message });
    let has = |face: &dyn Fn(&plimsoll_registry::settings::Listener) -> bool| {
        settings.listeners.iter().any(face)
    };
    let (customers, path) = (has(&|one| one.faces.gateway), has(&|one| one.faces.path));
    if !customers && !path {
        add("no listener relays calls; add \"gateway\" or \"path\" to a listener's faces".into());
    } else if !customers && !definitions.endpoints.is_empty() {
        add("endpoints are defined, but no listener has the face \"gateway\" that serves them"
            .into());
    }
    let traces = &settings.traces;
    if !traces.is_on() && *traces != TraceSettings::default() {
        add("traces are off, because traces.endpoint is not set: the other settings of traces have \
             no effect"
            .into());
    }
    let rest = definitions.services.iter().find(|service| service.rest);
    if let Some(service) = rest.filter(|_| customers && !path) {
        add(format!(
            "service {} has rest = true, but no listener has the face \"path\" that serves REST",
            service.id
        ));
    }
    for service in &definitions.services {
        let of_service: Vec<&Upstream> = definitions
            .upstreams
            .iter()
            .filter(|one| one.service.as_ref().is_none_or(|id| *id == service.id))
            .collect();
        let messages = of_upstreams(service, &of_service).chain(of_prefetch(service, settings));
        found.extend(messages.map(|message| Warning {
            entry: Some((EntryKind::Service, service.id.clone())),
            message,
        }));
    }
    found
}

/// What is probably wrong with the upstreams of a service.
fn of_upstreams(service: &Service, upstreams: &[&Upstream]) -> impl Iterator<Item = String> {
    let most = service.agree.most();
    let too_few = (most > 1 && usize::from(most) > upstreams.len()).then(|| {
        format!("agree = {most}, more than its upstreams ({}): calls fail", upstreams.len())
    });
    let tiers: std::collections::BTreeSet<u8> = upstreams.iter().map(|one| one.tier).collect();
    let highest = tiers.last().copied().unwrap_or_default();
    let gap = (0..highest)
        .find(|tier| !tiers.contains(tier))
        .map(|tier| format!("it has upstreams in tier {highest}, but none in tier {tier}"));
    too_few.into_iter().chain(gap)
}

/// The calls for each new block whose answers are not stored, so that callers do not find them.
fn of_prefetch(service: &Service, settings: &Settings) -> Vec<String> {
    if service.prefetch.is_empty() {
        return Vec::new();
    }
    if settings.cache.memory == 0 {
        return vec![
            "cache.prefetch has no effect, because the cache is off (cache.memory = 0)".into(),
        ];
    }
    if service.chain_id.is_none() {
        return vec!["cache.prefetch has no effect: without a chain_id, nothing is cached".into()];
    }
    let never = |call: &Prefetch| {
        let params = call.params.as_ref().map(String::as_bytes);
        // Without heads, calls about blocks would bypass the cache for this reason alone.
        match class::plan(Method::find(&call.method), params, Served::default()) {
            Plan::Bypass(reason) if reason != Reason::NoHead => Some(format!(
                "cache.prefetch: the answer to {} is never cached ({}); remove the call",
                call.method,
                reason.name()
            )),
            _ => None,
        }
    };
    service.prefetch.iter().filter_map(never).collect()
}

/// Why no REST request reaches an upstream, if so.
fn no_rest(upstream: &Upstream, definitions: &Definitions) -> Option<String> {
    let mut services = definitions.services.iter();
    match &upstream.service {
        Some(id) => {
            let has_rest = services.any(|service| service.id == *id && service.rest);
            (!has_rest).then(|| format!("service {id} has rest = false"))
        }
        None => {
            let has_rest = services.any(|service| service.rest);
            (!has_rest).then(|| "no service has rest = true".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_config::Text;
    use plimsoll_registry::model::{Address, Endpoint, Kind, MethodRules};
    use plimsoll_registry::settings::TraceEndpoint;

    #[test]
    fn calls_for_each_new_block_need_answers_that_are_cached() {
        let check = |method: &str, params: Option<&str>, memory: u64, expected: Option<&str>| {
            let call = Prefetch { method: method.into(), params: params.map(String::from) };
            let service =
                Service { chain_id: Some(1), prefetch: vec![call], ..Service::named("eth") };
            let mut settings = Settings::default();
            settings.cache.memory = memory;
            let found = of_prefetch(&service, &settings);
            assert_eq!(found.len(), usize::from(expected.is_some()), "{method}: {found:?}");
            let words = expected.unwrap_or_default();
            assert!(found.iter().all(|message| message.contains(words)), "{found:?}");
        };
        let some = 1 << 20;
        check("eth_gasPrice", None, some, None);
        check("eth_getBlockByNumber", Some("[\"latest\",false]"), some, None);
        check("eth_call", Some("[{}]"), some, None);
        check(
            "eth_getLogs",
            Some("[{\"fromBlock\":\"latest\",\"toBlock\":\"latest\"}]"),
            some,
            None,
        );
        check("eth_syncing", None, some, Some("eth_syncing is never cached (node)"));
        check("eth_newBlockFilter", None, some, Some("(stateful)"));
        check("eth_sendRawTransaction", Some("[\"0x\"]"), some, Some("(sends)"));
        check("eth_getBlockByNumber", Some("[\"pending\",false]"), some, Some("(pending)"));
        check("eth_getBlockByNumber", Some("[]"), some, Some("(unclear_block)"));
        check("eth_gasPrice", None, 0, Some("the cache is off"));
    }

    #[test]
    fn rest_in_rules_needs_a_service_with_rest() {
        let methods = MethodRules { allow: Vec::new(), deny: vec!["REST".into()] };
        let upstream = |id: &str, service: Option<&str>| {
            let url = "http://node/";
            let address = Address::parse(url).expect("a URL");
            let upstream = Upstream::at(id, Kind::Evm, Text::plain(url), address);
            Upstream { service: service.map(str::to_string), methods: methods.clone(), ..upstream }
        };
        let check = |rest: bool, expected: &[&str]| {
            let services =
                vec![Service { rest, ..Service::named("beacon") }, Service::named("eth")];
            let upstreams = vec![
                upstream("a", Some("beacon")),
                upstream("b", Some("eth")),
                upstream("path", None),
            ];
            let endpoint = Endpoint { methods: methods.clone(), ..Endpoint::named("e", "beacon") };
            let definitions = Definitions { services, upstreams, endpoints: vec![endpoint] };
            let found = warnings(&Settings::default(), &definitions);
            let found: Vec<String> = found.iter().map(Warning::to_string).collect();
            let expected: Vec<String> = expected
                .iter()
                .map(|one| one.replace(" REST: ", ": methods.deny \"REST\" has no effect: "))
                .collect();
            assert_eq!(found, expected);
        };
        let endpoint = "endpoint … REST: an endpoint's rules apply to JSON-RPC on /api/gateway; \
                        REST is served on /v1";
        let eth = "upstream b REST: service eth has rest = false";
        check(true, &[endpoint, eth]);
        let beacon = "upstream a REST: service beacon has rest = false";
        check(false, &[endpoint, beacon, eth, "upstream path REST: no service has rest = true"]);
    }

    #[test]
    fn settings_of_traces_need_an_endpoint() {
        let mut settings = Settings::default();
        let is_warned = |settings: &Settings| {
            let found = warnings(settings, &Definitions::default());
            found.iter().any(|warning| warning.message.contains("traces.endpoint is not set"))
        };
        assert!(!is_warned(&settings));
        settings.traces.sample = 0.5;
        assert!(is_warned(&settings));
        let (url, address) = ("http://a/v1/traces", Address::parse("http://a/v1/traces"));
        let address = address.expect("a URL");
        settings.traces.endpoint = Some(TraceEndpoint { url: Text::plain(url), address });
        assert!(!is_warned(&settings));
    }
}
