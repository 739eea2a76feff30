//! Every plan in `scenarios/`, shortened, against simulated chains: the number of requests that the
//! instrument reports as sent to each chain equals the number that the chain received.

use crate::run::{RunResult, plimsoll};
use plimsoll_config::{Document, Text, Variables};
use plimsoll_gateway::{Definitions, Gateway, Host};
use plimsoll_measure::Nanos;
use plimsoll_plan::Plan;
use plimsoll_registry::model::{self, Address, Endpoint, Kind, Upstream};
use plimsoll_registry::settings::Listener;
use plimsoll_sim::{Service, Settings, Sim};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Variables that shorten the plans; each plan gets those that it uses.
const SHORT: [(&str, &str); 18] = [
    ("DURATION", "400ms"),
    ("WARMUP", "0s"),
    ("TOTAL_REQUESTS", "1000"),
    ("BOBA_START", "400ms"),
    ("MANTLE_START", "800ms"),
    ("KAVA_START", "1200ms"),
    ("BURST_START", "100ms"),
    ("BURST_DURATION", "200ms"),
    ("RAMP_START", "400ms"),
    ("RAMP", "200ms"),
    ("HOLD", "200ms"),
    ("RAMP_RATE", "2000/s"),
    ("THINK_TIME", "100ms"),
    // Rates, which the environment could otherwise set too low.
    ("TARGET_RPS", "3000"),
    ("RATE", "1000/s"),
    ("BASE_RATE", "200/s"),
    ("BURST_RATE", "2000/s"),
    ("HOST_RPS", "500"),
];
/// Maximum duration of a shortened plan.
const DURATION_MAX: Nanos = Nanos::from_secs(3);

/// The system under test, and functions that count its requests.
struct TestSystem<'w> {
    /// URL of the gateway: `http://HOST:PORT`.
    base: String,
    /// Addresses of the gateway instances, by variable: `HOST:PORT`.
    instances: Vec<(&'static str, String)>,
    /// The part of the URL between the base and the endpoint's name.
    endpoint_path: &'static str,
    /// The endpoint of each chain, by variable.
    endpoints: [(&'static str, &'static str); 5],
    /// The number of requests that each chain (by tag) received since the last call.
    received: &'w dyn Fn() -> BTreeMap<String, u64>,
    /// The number of requests that each gateway instance relayed since the last call; empty without
    /// instances.
    relayed: &'w dyn Fn() -> Vec<u64>,
    /// The calls that each gateway has relayed, by outcome.
    outcomes: &'w dyn Fn() -> Vec<String>,
}

impl TestSystem<'_> {
    fn variables(&self) -> Vec<(&str, &str)> {
        let own = [("GATEWAY", self.base.as_str()), ("ENDPOINT_PATH", self.endpoint_path)];
        let instances = self.instances.iter().map(|(name, at)| (*name, at.as_str()));
        own.into_iter().chain(instances).chain(self.endpoints).chain(SHORT).collect()
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios").canonicalize().unwrap()
}

/// The plans in `scenarios/`, by name.
fn plans() -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut plans: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    plans.sort();
    plans
}

/// Reads a plan, and returns it with the names of the variables that it uses.
fn read(path: &Path, variables: &[(&str, &str)]) -> (Plan, Vec<String>) {
    let mut set = Variables::none();
    variables.iter().for_each(|(name, value)| set.set(*name, *value));
    let text = std::fs::read_to_string(path).unwrap();
    let document = Document::new(path.display().to_string(), text);
    let plan = Plan::read(&document, &set, &folder());
    (plan.unwrap_or_else(|problems| panic!("{problems}")), set.used())
}

/// Runs every plan against a system, and compares the counts of both sides.
fn run_all(system: &TestSystem<'_>) {
    for path in plans() {
        let (plan, used) = read(&path, &system.variables());
        let path = path.display();
        // Plans with users end by time here, so that their end is known too.
        let end = plan.planned_end().unwrap_or(Nanos::MAX);
        assert!(
            end <= DURATION_MAX,
            "{path} takes {end}: use one of the variables in SHORT to shorten it"
        );
        (system.received)();
        (system.relayed)();

        let set: Vec<String> = system
            .variables()
            .iter()
            .filter(|(name, _)| used.iter().any(|used| used == name))
            .flat_map(|(name, value)| ["--set".into(), format!("{name}={value}")])
            .collect();
        let path = path.to_string();
        let mut args = vec!["run", path.as_str(), "--no-out", "--format", "json"];
        args.extend(set.iter().map(String::as_str));
        let result = RunResult::of(plimsoll(&args));

        let sent = result.summary["tags"]["chain"].as_object().unwrap().iter();
        let sent =
            sent.map(|(chain, group)| (chain.clone(), group["requests"]["sent"].as_u64().unwrap()));
        let sent: BTreeMap<String, u64> = sent.filter(|(_, n)| *n > 0).collect();
        let errors = (&result.summary["errors"], &result.summary["notes"]);
        assert_eq!(sent, (system.received)(), "{path}: sent, received by the chains: {errors:?}");
        assert!(!sent.is_empty(), "{path} sent nothing");
        let relayed = (system.relayed)();
        if let Some((most, least)) = relayed.iter().max().zip(relayed.iter().min()) {
            let all: u64 = relayed.iter().sum();
            let sent = result.count("/requests/sent");
            assert_eq!(all, sent, "{path}: relayed {relayed:?}: {:#?}", (system.outcomes)());
            assert!(most - least <= 1, "{path}: unevenly relayed: {relayed:?}");
        }
        assert_eq!(sent.values().sum::<u64>(), result.count("/requests/sent"), "{path}");
        assert_eq!(
            result.count("/requests/ok"),
            result.count("/requests/scheduled"),
            "{path}: {}",
            result.summary
        );
        if let Some(planned) = plan.planned_requests() {
            assert_eq!(result.count("/requests/scheduled"), planned, "{path}");
        }
        // Objectives on time depend on the machine; those on success must hold.
        for objective in result.summary["objectives"].as_array().unwrap() {
            let that = objective["that"].as_str().unwrap();
            assert!(objective["ok"] == true || !that.starts_with("success"), "{path}: {objective}");
        }
        assert!([0, 98, 99].contains(&result.done.code), "{path}: {}", result.done.stderr);
    }
}

/// The number of requests that each chain received since the last call, by tag.
fn received_by_chain(sim: &Sim) -> BTreeMap<String, u64> {
    counted_by_chain(sim, |_| true)
}

/// The same through a gateway, which answers `eth_chainId` itself, and sends it before the first call
/// on a new connection.
fn relayed_by_chain(sim: &Sim) -> BTreeMap<String, u64> {
    let check = b"\"method\":\"eth_chainId\"";
    counted_by_chain(sim, |body| !body.windows(check.len()).any(|part| part == check))
}

fn counted_by_chain(sim: &Sim, counts_as: impl Fn(&[u8]) -> bool) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for request in sim.seen().into_iter().filter(|request| counts_as(&request.body)) {
        let chain = if request.service == "eth" { "ethereum".into() } else { request.service };
        *counts.entry(chain).or_insert(0) += 1;
    }
    sim.forget();
    counts
}

/// Starts a gateway in this process.
fn gateway(upstreams: Vec<Upstream>, endpoints: Vec<Endpoint>) -> Gateway {
    let settings = plimsoll_gateway::Settings {
        listeners: vec![Listener::at("127.0.0.1:0".parse().unwrap())],
        ..Default::default()
    };
    // Without health checks and retries, so that chains and instances receive each call once, also when
    // this machine stalls.
    let none = model::Resilience { retry_budget: 0.0, retry_floor: 0.0, ..Default::default() };
    let quiet = |service| model::Service { health_checks: false, resilience: none, ..service };
    let services = model::Service::built_in().into_iter().map(quiet).collect();
    let definitions = Definitions { services, upstreams, endpoints };
    let process = Arc::new(Default::default);
    let host = Host {
        process,
        database: Arc::default(),
        usage: None,
        admin: None,
        resolve: None,
        wall_clock: None,
    };
    Gateway::start(settings, &definitions, host).unwrap()
}

/// Waits until a gateway has verified the chain ids of its upstreams. After that it sends no requests
/// of its own but for chain ids, so that the chains receive only relayed calls.
fn wait_for_chains(gateway: &Gateway, chains: &[&str]) {
    let call = r#"{"jsonrpc":"2.0","method":"eth_chainId","params":[],"id":1}"#;
    for chain in chains {
        let length = call.len();
        let request = format!(
            "POST /v1 HTTP/1.1\r\nHost: h\r\nTarget-Service-Id: {chain}\r\n\
             Connection: close\r\nContent-Length: {length}\r\n\r\n{call}"
        );
        loop {
            let mut socket = TcpStream::connect(gateway.addresses()[0]).unwrap();
            socket.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).unwrap();
            if !answer.contains("x-plimsoll-attempts") {
                break;
            }
        }
    }
}

fn upstream(id: String, service: Option<&str>, kind: Kind, url: String) -> Upstream {
    let address = Address::parse(&url).unwrap();
    let service = service.map(String::from);
    Upstream { service, ..Upstream::at(id, kind, Text::plain(url), address) }
}

/// The number of calls that a gateway has relayed.
fn relays(gateway: &Gateway) -> u64 {
    let samples = relays_by_outcome(gateway);
    samples.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// The samples of the calls that a gateway has relayed.
fn relays_by_outcome(gateway: &Gateway) -> Vec<String> {
    let page = gateway.metrics();
    let is_relays = |line: &&str| line.starts_with("plimsoll_relays_total{");
    page.lines().filter(is_relays).filter(|line| !line.ends_with(" 0")).map(String::from).collect()
}

#[test]
fn counts_of_every_scenario_match_the_instances_and_chains() {
    let sim = Sim::start(Settings::for_tests(1, Service::known())).unwrap();
    let chains = ["eth", "boba", "mantle", "kava"];
    let instances: Vec<Gateway> = (0..5)
        .map(|_| {
            let node = |id: &str| upstream(id.into(), Some(id), Kind::Evm, sim.url(id));
            gateway(chains.iter().map(|id| node(id)).collect(), Vec::new())
        })
        .collect();
    let addresses: Vec<String> =
        instances.iter().map(|instance| instance.addresses()[0].to_string()).collect();
    let instance = |address: &String| {
        let url = format!("http://{address}/v1");
        let upstream = upstream(address.clone(), None, Kind::Path, url);
        // An instance that has no room for a moment would be passed over.
        Upstream { concurrency: model::Concurrency::Off, ..upstream }
    };
    let endpoints = chains.iter().map(|id| Endpoint::named(format!("ethpath_{id}"), *id));
    let edge = gateway(addresses.iter().map(instance).collect(), endpoints.collect());
    instances.iter().chain([&edge]).for_each(|gateway| wait_for_chains(gateway, &chains));
    let before = Mutex::new(vec![0; instances.len()]);
    let relayed = || {
        let now: Vec<u64> = instances.iter().map(relays).collect();
        let before = std::mem::replace(&mut *before.lock().unwrap(), now.clone());
        now.iter().zip(before).map(|(now, before)| now - before).collect()
    };
    let names = ["GW_1", "GW_2", "GW_3", "GW_4", "GW_5"];
    run_all(&TestSystem {
        base: format!("http://{}", edge.addresses()[0]),
        instances: names.into_iter().zip(addresses.clone()).collect(),
        endpoint_path: "/api/gateway?endpoint=",
        endpoints: [
            ("ENDPOINT_ID", "ethpath_eth"),
            ("ETH_ENDPOINT_ID", "ethpath_eth"),
            ("BOBA_ENDPOINT_ID", "ethpath_boba"),
            ("MANTLE_ENDPOINT_ID", "ethpath_mantle"),
            ("KAVA_ENDPOINT_ID", "ethpath_kava"),
        ],
        received: &|| relayed_by_chain(&sim),
        relayed: &relayed,
        outcomes: &|| instances.iter().flat_map(relays_by_outcome).collect(),
    });
    assert_eq!(sim.counts().unrecorded, 0, "every request was recorded");
}

#[test]
fn counts_of_every_scenario_match_the_chains() {
    let sim = Sim::start(Settings::for_tests(1, Service::known())).unwrap();
    run_all(&TestSystem {
        base: format!("http://{}", sim.address()),
        // The simulator exports no metrics, so these scrapes fail.
        instances: ["GW_1", "GW_2", "GW_3", "GW_4", "GW_5"]
            .map(|name| (name, sim.address().to_string()))
            .into(),
        endpoint_path: "/",
        endpoints: [
            ("ENDPOINT_ID", "eth"),
            ("ETH_ENDPOINT_ID", "eth"),
            ("BOBA_ENDPOINT_ID", "boba"),
            ("MANTLE_ENDPOINT_ID", "mantle"),
            ("KAVA_ENDPOINT_ID", "kava"),
        ],
        received: &|| received_by_chain(&sim),
        relayed: &Vec::new,
        outcomes: &Vec::new,
    });
    assert_eq!(sim.counts().unrecorded, 0, "every request was recorded");
}

#[test]
fn scenarios_have_the_size_of_the_original_tests() {
    let requests = |name: &str| {
        let (plan, _) = read(&folder().join(name), &[("GATEWAY", "http://127.0.0.1:3069")]);
        (
            plan.planned_requests(),
            plan.planned_end().map(|end| (end - plan.warmup).0 / 1_000_000_000),
        )
    };
    assert_eq!(requests("load-test-path-100k-2krps.toml"), (Some(100_000), Some(50)));
    assert_eq!(requests("load-test-path-1m-5krps.toml"), (Some(1_000_000), Some(200)));
    assert_eq!(requests("chains-split.toml"), (Some(9_900_000), Some(33 * 60)));
    assert_eq!(requests("chains-by-host.toml"), (Some(9_900_000), Some(33 * 60)));
    assert_eq!(requests("chains-33-minutes.toml"), (Some(9_900_000), Some(33 * 60)));
    assert_eq!(requests("chains-one-after-another.toml"), (Some(9_900_000), Some(4 * 33 * 60)));
    assert_eq!(requests("smoke.toml"), (None, Some(10)));
    assert_eq!(requests("high-throughput.toml"), (None, Some(30)));
}
