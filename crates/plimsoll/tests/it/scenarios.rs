//! Every plan in `scenarios/`, shortened, against a simulated world: what the instrument says it sent
//! to each chain is what the chains say they saw, to the request.

use crate::run::{Ran, plimsoll};
use plimsoll_config::{Document, Text, Variables};
use plimsoll_gateway::{Definitions, Gateway, Host};
use plimsoll_measure::Nanos;
use plimsoll_plan::Plan;
use plimsoll_registry::model::{self, Address, Endpoint, Kind, MethodRules, Upstream};
use plimsoll_registry::settings::Listener;
use plimsoll_sim::{Service, Settings, Sim};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What every plan is shortened by; a plan takes those it knows.
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
    // Figures that a run must come to in a moment, whatever else sets them.
    ("TARGET_RPS", "3000"),
    ("RATE", "1000/s"),
    ("BASE_RATE", "200/s"),
    ("BURST_RATE", "2000/s"),
    ("HOST_RPS", "500"),
];
/// A plan that is not over by then cannot be shortened by the variables above.
const LONGEST: Nanos = Nanos::from_secs(3);

/// Where calls go, under which names, and who counts them there.
struct World<'w> {
    /// In place of the gateway: `http://HOST:PORT`.
    base: String,
    /// In place of each gateway instance's page: `HOST:PORT`.
    instances: Vec<(&'static str, String)>,
    /// Comes between the base and an endpoint's name.
    endpoint_path: &'static str,
    /// The variable that names each chain's endpoint, and the name.
    endpoints: [(&'static str, &'static str); 5],
    /// How many requests each chain (by its tag) saw since this was asked last.
    seen: &'w dyn Fn() -> BTreeMap<String, u64>,
    /// How many requests each gateway instance relayed since this was asked last; none without them.
    relayed: &'w dyn Fn() -> Vec<u64>,
}

impl World<'_> {
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

/// A plan, and the names of the variables that it uses.
fn read(path: &Path, variables: &[(&str, &str)]) -> (Plan, Vec<String>) {
    let mut set = Variables::none();
    variables.iter().for_each(|(name, value)| set.set(*name, *value));
    let text = std::fs::read_to_string(path).unwrap();
    let document = Document::new(path.display().to_string(), text);
    let plan = Plan::read(&document, &set, &folder());
    (plan.unwrap_or_else(|problems| panic!("{problems}")), set.used())
}

/// Runs every plan against a world, and compares the counts of both sides.
fn run_all(world: &World<'_>) {
    for path in plans() {
        let (plan, used) = read(&path, &world.variables());
        let path = path.display();
        // Users' plans end by time here, so that their end is known too.
        let end = plan.planned_end().unwrap_or(Nanos::MAX);
        assert!(
            end <= LONGEST,
            "{path} takes {end}: let it be shortened by variables of this test"
        );
        (world.seen)();
        (world.relayed)();

        let set: Vec<String> = world
            .variables()
            .iter()
            .filter(|(name, _)| used.iter().any(|used| used == name))
            .flat_map(|(name, value)| ["--set".into(), format!("{name}={value}")])
            .collect();
        let path = path.to_string();
        let mut args = vec!["run", path.as_str(), "--no-out", "--format", "json"];
        args.extend(set.iter().map(String::as_str));
        let ran = Ran::of(plimsoll(&args));

        let sent = ran.summary["tags"]["chain"].as_object().unwrap().iter();
        let sent =
            sent.map(|(chain, group)| (chain.clone(), group["requests"]["sent"].as_u64().unwrap()));
        let sent: BTreeMap<String, u64> = sent.filter(|(_, n)| *n > 0).collect();
        assert_eq!(sent, (world.seen)(), "{path}: sent, and seen by the chains");
        assert!(!sent.is_empty(), "{path} sent nothing");
        let relayed = (world.relayed)();
        if let Some((most, least)) = relayed.iter().max().zip(relayed.iter().min()) {
            let all: u64 = relayed.iter().sum();
            assert_eq!(all, ran.count("/requests/sent"), "{path}: relayed by {relayed:?}");
            assert!(most - least <= 1, "{path}: evenly: {relayed:?}");
        }
        assert_eq!(sent.values().sum::<u64>(), ran.count("/requests/sent"), "{path}");
        assert_eq!(
            ran.count("/requests/ok"),
            ran.count("/requests/scheduled"),
            "{path}: {}",
            ran.summary
        );
        if let Some(planned) = plan.planned_requests() {
            assert_eq!(ran.count("/requests/scheduled"), planned, "{path}");
        }
        // Objectives on time depend on the machine; those on success must hold.
        for objective in ran.summary["objectives"].as_array().unwrap() {
            let that = objective["that"].as_str().unwrap();
            assert!(objective["ok"] == true || !that.starts_with("success"), "{path}: {objective}");
        }
        assert!([0, 98, 99].contains(&ran.done.code), "{path}: {}", ran.done.stderr);
    }
}

/// What each chain saw since this was asked last, by its tag.
fn seen_by_chain(sim: &Sim) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for seen in sim.seen() {
        let chain = if seen.service == "eth" { "ethereum".into() } else { seen.service };
        *counts.entry(chain).or_insert(0) += 1;
    }
    sim.forget();
    counts
}

/// A gateway of this process, relaying to these.
fn gateway(upstreams: Vec<Upstream>, endpoints: Vec<Endpoint>) -> Gateway {
    let settings = plimsoll_gateway::Settings {
        listeners: vec![Listener::at("127.0.0.1:0".parse().unwrap())],
        ..Default::default()
    };
    let definitions = Definitions { services: model::Service::built_in(), upstreams, endpoints };
    let process = Arc::new(Default::default);
    let host = Host { process, db_queries: Arc::new(|| 0), resolve: None };
    Gateway::start(settings, &definitions, host).unwrap()
}

/// Waits until a gateway knows that its upstreams are on the right chains: from then on it asks
/// nothing of its own, and the chains see calls alone.
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

/// What a gateway relayed in all.
fn relays(gateway: &Gateway) -> u64 {
    let page = gateway.metrics();
    let samples = page.lines().filter(|line| line.starts_with("plimsoll_relays_total{"));
    samples.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn every_scenario_counts_what_five_instances_and_the_chains_count() {
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
        upstream(address.clone(), None, Kind::Path, format!("http://{address}/v1"))
    };
    let endpoints = chains.iter().map(|id| Endpoint {
        id: format!("ethpath_{id}"),
        service: id.to_string(),
        methods: MethodRules::default(),
    });
    let edge = gateway(addresses.iter().map(instance).collect(), endpoints.collect());
    instances.iter().chain([&edge]).for_each(|gateway| wait_for_chains(gateway, &chains));
    let before = Mutex::new(vec![0; instances.len()]);
    let relayed = || {
        let now: Vec<u64> = instances.iter().map(relays).collect();
        let before = std::mem::replace(&mut *before.lock().unwrap(), now.clone());
        now.iter().zip(before).map(|(now, before)| now - before).collect()
    };
    let names = ["GW_1", "GW_2", "GW_3", "GW_4", "GW_5"];
    run_all(&World {
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
        seen: &|| seen_by_chain(&sim),
        relayed: &relayed,
    });
    assert_eq!(sim.counts().unrecorded, 0, "every request was recorded");
}

#[test]
fn every_scenario_counts_what_the_chains_count() {
    let sim = Sim::start(Settings::for_tests(1, Service::known())).unwrap();
    run_all(&World {
        base: format!("http://{}", sim.address()),
        // The simulated world tells nothing of itself.
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
        seen: &|| seen_by_chain(&sim),
        relayed: &Vec::new,
    });
    assert_eq!(sim.counts().unrecorded, 0, "every request was recorded");
}

#[test]
fn scenarios_are_as_long_as_what_they_stand_for() {
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
