//! The system of `deploy/compose`, made of processes: four gateways with its configuration on a real Postgres and a
//! real Redis, nginx in the place of Traefik, the instrument, and a real Prometheus with its scrape jobs. Prometheus
//! finds data for every panel of the dashboard that shows anything while all is well.

use super::metrics::panels;
use super::{folder, yaml};
use crate::gateway::{Process, ask};
use crate::redis_server::Redis;
use crate::replicas::server::Server;
use crate::replicas::{Nginx, wait_until};
use crate::run::{Folder, RunResult, command, plimsoll, start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plimsoll_sim::{Service, Settings, Sim};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

const REPLICAS: usize = 4;
const CHAINS: [&str; 4] = ["eth", "boba", "mantle", "kava"];

/// Panels without data while nothing fails, no endpoint has a quota and no socket is open.
const EMPTY: [&str; 6] = [
    "Relays without a usable answer",
    "Out of rotation",
    "Further attempts",
    "Quotas closest to their end",
    "Errors",
    "Sockets and messages",
];

/// A process that is killed on drop.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct System {
    gateways: Vec<Process>,
    nginx: Nginx,
    /// Of the gateways' listeners for operators.
    admin: Vec<String>,
    _folders: Vec<Folder>,
    _postgres: Server,
    _redis: Redis,
    _chains: Sim,
}

impl System {
    fn start() -> System {
        let (postgres, redis) = (Server::start(), Redis::start());
        let chains = Sim::start(Settings::for_tests(1, Service::known())).unwrap();
        let config = folder().join("compose/gateway.toml");
        let config = config.to_str().unwrap();
        let folders: Vec<Folder> = (0..REPLICAS).map(|_| Folder::new()).collect();
        let start = |number: usize| {
            let args = ["gateway", "--config", config, "--database", &postgres.url()];
            let mut gateway = command(&args);
            gateway.current_dir(folders[number].path());
            let upstreams = CHAINS.map(|id| (format!("{}_URL", id.to_uppercase()), chains.url(id)));
            gateway.envs(upstreams).envs([
                ("REDIS_URL", redis.url().as_str()),
                ("PLIMSOLL_INSTANCE", &format!("gateway-{}", number + 1)),
                ("PLIMSOLL_STATE_DIR", folders[number].path().to_str().unwrap()),
                ("GATEWAY_ADDRESS", "127.0.0.1:0"),
                ("ADMIN_ADDRESS", "127.0.0.1:0"),
                ("EDGE_NETWORK", "127.0.0.0/8"),
            ]);
            Process::spawn(gateway)
        };
        let gateways: Vec<Process> = (0..REPLICAS).map(start).collect();
        let of = |face: &str| gateways.iter().map(|one| listener(one, face)).collect();
        let (serving, admin): (Vec<String>, Vec<String>) = (of("(gateway)"), of("(admin)"));
        for chain in CHAINS {
            let id = format!("ethpath_{chain}");
            let args = ["--database", &postgres.url(), "endpoint", "add", &id, "--service", chain];
            let done = plimsoll(&[&["gateway"], &args[..]].concat());
            assert_eq!(done.code, 0, "{}", done.stderr);
            let request = format!("POST /api/gateway?endpoint={id}");
            for gateway in &serving {
                let answers = || ask(gateway, &request, crate::gateway::BLOCK_NUMBER).status == 200;
                wait_until(&id, answers);
            }
        }
        let nginx = Nginx::start(&serving);
        System {
            gateways,
            nginx,
            admin,
            _folders: folders,
            _postgres: postgres,
            _redis: redis,
            _chains: chains,
        }
    }
}

/// The address of the listener with this face.
fn listener(gateway: &Process, face: &str) -> String {
    let output = gateway.wait_for(face);
    let line = output.lines().find(|line| line.ends_with(face)).unwrap();
    line.split_once("http://").unwrap().1.split(' ').next().unwrap().to_string()
}

/// Prometheus with the jobs of `deploy/prometheus`, which scrapes these addresses instead, every second.
struct Prometheus {
    address: String,
    _process: Killed,
    _folder: Folder,
}

impl Prometheus {
    fn start(gateways: &[String], instrument: &str) -> Prometheus {
        let folder = Folder::new();
        let mut config = yaml("prometheus/prometheus.yaml");
        config["global"] = json!({ "scrape_interval": "1s", "evaluation_interval": "1s" });
        let rules = super::folder().join("prometheus/alerts.yaml");
        config["rule_files"] = json!([rules]);
        let jobs = config["scrape_configs"].as_array_mut().unwrap();
        jobs.retain(|job| job["job_name"] != "traefik");
        for job in jobs {
            let targets =
                if job["job_name"] == "plimsoll" { gateways } else { &[instrument.into()] };
            job["static_configs"] = json!([{ "targets": targets }]);
        }
        let config = folder.file("prometheus.yaml", config.to_string());
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let data = folder.path().join("data");
        let process = Command::new("prometheus")
            .arg(format!("--config.file={config}"))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process = Killed(process.expect("prometheus, which scripts/test installs"));
        let is_ready = || TcpStream::connect(&address).is_ok();
        wait_until("Prometheus listens", is_ready);
        Prometheus { address, _process: process, _folder: folder }
    }

    /// The results of a query of the dashboard.
    #[track_caller]
    fn query(&self, query: &str) -> Vec<Value> {
        let query = query.replace("$instance", ".*").replace("$__rate_interval", "10s");
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let mut socket = TcpStream::connect(&self.address).unwrap();
        // In HTTP/1.0, so that the answer is not chunked.
        write!(socket, "GET /api/v1/query?query={encoded} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        if head.contains(" 503 ") {
            // It is still starting.
            return Vec::new();
        }
        let answer: Value = serde_json::from_str(body).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }
}

/// Starts a run of the scenario that compose.yaml names, and returns the address of its metrics.
fn load(gateway: &str) -> (Child, String) {
    let compose = yaml("compose/compose.yaml");
    let plan = compose["services"]["instrument"]["command"][1].as_str().unwrap();
    let plan = folder().join("..").join(plan.strip_prefix("/usr/share/plimsoll/").unwrap());
    let set = |name: &str, value: &str| ["--set".to_string(), format!("{name}={value}")];
    let mut args = vec!["run".to_string(), plan.to_str().unwrap().into(), "--no-out".into()];
    args.extend(["--metrics", "127.0.0.1:0", "--format", "json"].map(String::from));
    args.extend(set("GATEWAY", &format!("http://{gateway}")));
    args.extend(set("DURATION", "10m"));
    for (name, chain) in ["ETH", "BOBA", "MANTLE", "KAVA"].into_iter().zip(CHAINS) {
        args.extend(set(&format!("{name}_ENDPOINT_ID"), &format!("ethpath_{chain}")));
        args.extend(set(&format!("{name}_RPS"), "50"));
    }
    let mut run = start(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let mut lines = BufReader::new(run.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("metrics at http://") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "no line with the metrics' address");
    }
    let address = line.trim().split_once("http://").unwrap().1.trim_end_matches("/metrics");
    std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
    (run, address.to_string())
}

#[test]
fn prometheus_finds_data_for_every_panel_of_the_dashboard() {
    let system = System::start();
    let (run, instrument) = load(&system.nginx.address);
    let prometheus = Prometheus::start(&system.admin, &instrument);
    wait_until("all gateways are scraped", || {
        prometheus.query("up{job=\"plimsoll\"} == 1").len() == REPLICAS
    });
    for (panel, queries) in panels() {
        let has_data = || queries.iter().any(|query| !prometheus.query(query).is_empty());
        if !EMPTY.contains(&panel.as_str()) {
            wait_until(&format!("{panel} has data"), has_data);
        }
        // Prometheus accepts the others, too.
        queries.iter().for_each(|query| drop(prometheus.query(query)));
    }
    let instances =
        prometheus.query("sum by (instance) (plimsoll_calls_total{outcome=\"ok\"}) > 0");
    let instances: BTreeSet<&str> =
        instances.iter().map(|one| one["metric"]["instance"].as_str().unwrap()).collect();
    assert_eq!(instances, system.admin.iter().map(String::as_str).collect(), "all take part");
    let pages = prometheus.query("ALERTS{alertstate=\"firing\",severity=\"page\"}");
    assert_eq!(pages, Vec::<Value>::new());
    kill(Pid::from_raw(run.id() as i32), Signal::SIGINT).unwrap();
    let run = RunResult::of(run.wait_with_output().unwrap().into());
    assert_eq!(run.count("/requests/failed"), 0, "{}", run.summary["errors"]);
    system.gateways.into_iter().for_each(|gateway| drop(gateway.stop()));
}
