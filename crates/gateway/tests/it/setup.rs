//! Gateways for tests, on free ports and in front of scripted upstreams.

use std::net::SocketAddr;
use std::sync::Arc;

use plimsoll_config::Text;
use plimsoll_gateway::{Gateway, Host, Process, Settings};
use plimsoll_measure::{Clock, Nanos};
use plimsoll_registry::model::{Address, Definitions, Endpoint, Kind, Service};
use plimsoll_registry::model::{Spread, Upstream};
use plimsoll_registry::settings::Listener;

use crate::caller::{Answer, Caller};

/// The target of calls on the gateway face, to the tests' endpoint.
pub(crate) const ENDPOINT: &str = "/api/gateway?endpoint=e";

/// The header that selects the service on the PATH face.
pub(crate) const ETH: &str = "Target-Service-Id: eth\r\n";

pub(crate) fn settings() -> Settings {
    Settings {
        listeners: vec![Listener::at(SocketAddr::from(([127, 0, 0, 1], 0)))],
        idle_close: Nanos::from_millis(200),
        ..Settings::default()
    }
}

pub(crate) fn host() -> Host {
    Host {
        process: Arc::new(Process::default),
        database: Arc::default(),
        usage: None,
        admin: None,
        resolve: None,
        wall_clock: None,
    }
}

/// A node that serves one service.
pub(crate) fn node(id: &str, service: &str, url: &str) -> Upstream {
    let address = Address::parse(url).unwrap();
    Upstream {
        service: Some(service.into()),
        ..Upstream::at(id, Kind::Evm, Text::plain(url), address)
    }
}

/// A PATH instance, which serves any service.
pub(crate) fn instance(id: &str, url: &str) -> Upstream {
    Upstream { service: None, kind: Kind::Path, ..node(id, "", url) }
}

/// Endpoint `e` of service `eth` with these upstreams. `eth` has no chain id, so that every call is
/// relayed, and REST is enabled.
pub(crate) fn definitions(upstreams: Vec<Upstream>) -> Definitions {
    // Without health checks, so that upstreams receive only calls.
    let eth = Service { rest: true, health_checks: false, ..Service::named("eth") };
    Definitions { services: vec![eth], upstreams, endpoints: vec![endpoint("e", "eth")] }
}

pub(crate) fn endpoint(id: &str, service: &str) -> Endpoint {
    Endpoint::named(id, service)
}

/// Open connections from callers.
pub(crate) fn connections(gateway: &Gateway) -> u64 {
    metric(gateway, "plimsoll_connections{side=\"downstream\"}")
}

/// Waits until `holds` returns true; panics after a minute.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = Clock::start();
    while !holds() {
        assert!(clock.now() < Nanos::from_secs(60), "timed out waiting until {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn spread(mut definitions: Definitions, spread: Spread) -> Definitions {
    definitions.services.iter_mut().for_each(|service| service.spread = spread);
    definitions
}

pub(crate) fn start(settings: Settings, definitions: &Definitions) -> Gateway {
    Gateway::start(settings, definitions, host()).unwrap()
}

/// Starts a gateway with one node.
pub(crate) fn gateway_to(url: &str) -> Gateway {
    start(settings(), &definitions(vec![node("a", "eth", url)]))
}

pub(crate) fn connect(gateway: &Gateway) -> Caller {
    Caller::connect(gateway.addresses()[0])
}

/// Posts to the gateway face over a new connection.
pub(crate) fn post(gateway: &Gateway, body: impl AsRef<[u8]>) -> Answer {
    connect(gateway).post(ENDPOINT, "", body)
}

/// The value of a sample on the metrics page; 0 if absent.
pub(crate) fn metric(gateway: &Gateway, sample: &str) -> u64 {
    let page = gateway.metrics();
    let line = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

/// How many relays of service `eth` to an upstream ended with `outcome`.
pub(crate) fn relays(gateway: &Gateway, upstream: &str, outcome: &str) -> u64 {
    let labels = format!("service=\"eth\",upstream=\"{upstream}\",outcome=\"{outcome}\"");
    metric(gateway, &format!("plimsoll_relays_total{{{labels}}}"))
}

/// How many requests and calls were refused for `reason`.
pub(crate) fn refused(gateway: &Gateway, reason: &str) -> u64 {
    metric(gateway, &format!("plimsoll_refused_total{{reason=\"{reason}\"}}"))
}
