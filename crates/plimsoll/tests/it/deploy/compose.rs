//! References in the files for Docker Compose: a service that is renamed, moved to another network or listens
//! elsewhere is noticed wherever it is referred to.

use super::{folder, strings, text, yaml};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The ports on which the services' programs listen.
const PORTS: [(&str, &[u16]); 12] = [
    ("gateway-1", &[3069, 9069]),
    ("gateway-2", &[3069, 9069]),
    ("gateway-3", &[3069, 9069]),
    ("gateway-4", &[3069, 9069]),
    ("traefik", &[8080, 8443, 8082]),
    ("postgres", &[5432]),
    ("redis", &[6379]),
    ("prometheus", &[9090]),
    ("grafana", &[3000]),
    ("nats", &[4222]),
    ("chains", &[8545]),
    ("instrument", &[9100]),
];

/// All files, as they refer to each other.
struct Files {
    compose: Value,
    routes: Value,
    prometheus: Value,
    datasource: Value,
}

impl Files {
    fn read() -> Files {
        Files {
            compose: yaml("compose/compose.yaml"),
            routes: yaml("compose/traefik-routes.yaml"),
            prometheus: yaml("prometheus/prometheus.yaml"),
            datasource: yaml("grafana/datasource.yaml"),
        }
    }

    fn services(&self) -> &serde_json::Map<String, Value> {
        self.compose["services"].as_object().unwrap()
    }

    fn networks(&self, service: &str) -> BTreeSet<&str> {
        strings(&self.compose["services"][service]["networks"]).into_iter().collect()
    }

    /// Pairs of a service and an address that it uses.
    fn references(&self) -> Vec<(String, String)> {
        let uses = |service: &str, document: &Value| -> Vec<(String, String)> {
            let found = strings(document).into_iter().flat_map(addresses);
            found.map(|address| (service.to_string(), address)).collect()
        };
        let own = self.services().iter().flat_map(|(name, service)| {
            let command = uses(name, &service["command"]);
            [command, uses(name, &service["environment"])].concat()
        });
        let scraped =
            self.prometheus["scrape_configs"].as_array().unwrap().iter().flat_map(|job| {
                strings(&job["static_configs"])
                    .into_iter()
                    .map(|at| ("prometheus".into(), at.into()))
            });
        own.chain(uses("traefik", &self.routes))
            .chain(scraped)
            .chain(uses("grafana", &self.datasource))
            .collect()
    }

    /// All that is wrong.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (service, address) in self.references() {
            let (host, port) = address.split_once(':').unwrap();
            if !self.services().contains_key(host) {
                problems.push(format!("{service} uses {address}, but {host} is not a service"));
                continue;
            }
            let listens = PORTS.iter().find(|(name, _)| *name == host).map(|(_, ports)| *ports);
            if !listens.is_some_and(|ports| ports.iter().any(|known| known.to_string() == port)) {
                problems.push(format!("{service} uses {address}, where {host} does not listen"));
            }
            if self.networks(&service).is_disjoint(&self.networks(host)) {
                problems.push(format!("{service} and {host} are not in one network"));
            }
        }
        for (name, service) in self.services() {
            let needs = match &service["depends_on"] {
                Value::Object(members) => members.keys().map(String::as_str).collect(),
                other => strings(other),
            };
            for needed in needs.iter().filter(|needed| !self.services().contains_key(**needed)) {
                problems.push(format!("{name} depends on {needed}, which is not a service"));
            }
        }
        problems
    }
}

/// Addresses in a text: `HOST:PORT` after `//`, after `@`, or as the whole text, of hosts in this file.
fn addresses(text: &str) -> Vec<String> {
    let text = defaults(text);
    let rest = text.split_once("//").map_or(text.as_str(), |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let address = rest.split('/').next().unwrap();
    let is_one = address.split_once(':').is_some_and(|(host, port)| {
        host.starts_with(|c: char| c.is_ascii_lowercase()) && port.parse::<u16>().is_ok()
    });
    is_one.then(|| address.to_string()).into_iter().collect()
}

/// A text with each `${NAME:-DEFAULT}` replaced with its default, and other variables with nothing.
fn defaults(text: &str) -> String {
    let mut parts = text.split("${");
    let mut done = parts.next().unwrap().to_string();
    for part in parts {
        let (variable, rest) = part.split_once('}').expect("a closing brace");
        done += variable.split_once(":-").map_or("", |(_, default)| default);
        done += rest;
    }
    done
}

/// The names of the variables in a text.
fn variables(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit();
    let parts = text.split("${").skip(1);
    parts.map(|part| part.split(|c| !is_name(c)).next().unwrap().to_string()).collect()
}

#[test]
fn addresses_are_found() {
    let all = ["http://gw:3069/v1", "postgres://u:p@db:5432/x", "gw:1", "0.0.0.0:1", "eth", "a:b"];
    let found: Vec<String> = all.into_iter().flat_map(addresses).collect();
    assert_eq!(found, ["gw:3069", "db:5432", "gw:1"]);
    assert_eq!(addresses("${X:-http://chains:8545/eth}"), ["chains:8545"]);
    assert_eq!(addresses("redis://:${P:?set it}@redis:6379/0"), ["redis:6379"]);
}

#[test]
fn every_reference_leads_to_a_service_that_can_be_reached() {
    let files = Files::read();
    assert_eq!(files.problems(), Vec::<String>::new());
    let used = files.references().into_iter().map(|(_, address)| address).collect::<BTreeSet<_>>();
    for needed in ["gateway-4:3069", "gateway-4:9069", "postgres:5432", "redis:6379", "nats:4222"] {
        assert!(used.contains(needed), "{needed} is not found in {used:?}");
    }
}

/// Nothing refers to it; the coordinator finds agents through NATS.
const AGENT: &str = "agent";

#[test]
fn a_service_that_is_renamed_is_noticed() {
    let names: Vec<String> = Files::read().services().keys().cloned().collect();
    assert_eq!(names.len(), PORTS.len() + 1);
    for name in names {
        let mut files = Files::read();
        let services = files.compose["services"].as_object_mut().unwrap();
        let service = services.remove(&name).unwrap();
        services.insert(format!("{name}-renamed"), service);
        let is_noticed = files.problems().iter().any(|problem| problem.contains(&name));
        assert_eq!(is_noticed, name != AGENT, "{name}");
    }
}

#[test]
fn a_service_on_another_port_or_network_is_noticed() {
    let mut files = Files::read();
    files.routes["http"]["services"]["gateway"]["loadBalancer"]["servers"][0]["url"] =
        json!("http://gateway-1:3070");
    assert!(files.problems()[0].contains("does not listen"), "{:?}", files.problems());
    let mut files = Files::read();
    files.compose["services"]["redis"]["networks"] = json!(["elsewhere"]);
    assert!(files.problems()[0].contains("not in one network"), "{:?}", files.problems());
}

#[test]
fn mounted_files_volumes_and_networks_exist() {
    let compose = yaml("compose/compose.yaml");
    for (name, service) in compose["services"].as_object().unwrap() {
        for volume in strings(&service["volumes"]) {
            let source = volume.split(':').next().unwrap();
            if source.starts_with('.') {
                let path = folder().join("compose").join(source);
                assert!(path.is_file(), "{name} mounts {source}");
            } else {
                assert!(compose["volumes"].get(source).is_some(), "{name} mounts {source}");
            }
        }
        for network in strings(&service["networks"]) {
            assert!(compose["networks"].get(network).is_some(), "{name} is in {network}");
        }
        if let Some(build) = service["build"].as_object() {
            let context = folder().join("compose").join(build["context"].as_str().unwrap());
            assert!(context.join(build["dockerfile"].as_str().unwrap()).is_file(), "{name}");
        }
    }
}

#[test]
fn every_variable_is_set() {
    let compose = text("compose/compose.yaml");
    let example = text("compose/env.example");
    let offered: BTreeSet<String> = example
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once('='))
        .map(|(name, _)| name.to_string())
        .collect();
    // Compose itself reads this one.
    let used = &variables(&compose) | &BTreeSet::from(["COMPOSE_PROFILES".to_string()]);
    for name in &used {
        let has_default = compose.contains(&format!("${{{name}:-"));
        assert!(offered.contains(name) || has_default, "{name} is not in env.example");
    }
    assert_eq!(offered.difference(&used).collect::<Vec<_>>(), Vec::<&String>::new());
    // Without a password in .env, Compose refuses to start.
    for name in offered.iter().filter(|name| name.ends_with("_PASSWORD")) {
        assert!(compose.contains(&format!("${{{name}:?")), "{name} may be empty");
    }
    let config = text("compose/gateway.toml");
    let environment = yaml("compose/compose.yaml")["x-gateway-environment"].take();
    for name in variables(&config) {
        let is_set = environment.get(&name).is_some() || config.contains(&format!("${{{name}:-"));
        assert!(is_set, "gateway.toml uses {name}, which compose.yaml does not set");
    }
}

#[test]
fn the_gateways_and_traefik_agree() {
    let (compose, traefik) = (yaml("compose/compose.yaml"), yaml("compose/traefik.yaml"));
    for name in ["web", "websecure"] {
        assert_eq!(traefik["entryPoints"][name]["http2"]["maxConcurrentStreams"], 1000, "{name}");
    }
    let config = defaults(&text("compose/gateway.toml"));
    let config: toml::Table = config.parse().unwrap();
    let edge = &compose["networks"]["edge"]["ipam"]["config"][0]["subnet"];
    assert_eq!(config["trusted_proxies"][0].as_str(), edge.as_str(), "whose addresses are trusted");
    // From any other network, the gateways would take Traefik for the caller.
    assert_eq!(compose["services"]["traefik"]["networks"], json!(["edge"]));
    let listener = config["listener"][0]["address"].as_str().unwrap();
    assert_eq!(listener, "0.0.0.0:3069");
    assert_eq!(config["admin_listen"].as_str(), Some("0.0.0.0:9069"));
    let rule = strings(&yaml("compose/traefik-routes.yaml")["http"]["routers"]).concat();
    assert!(rule.contains("PathPrefix(`/api/gateway`)"), "{rule}");
}
