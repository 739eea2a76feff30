//! A gateway before a chain with a known capacity, which one customer floods, with real processes.

use crate::gateway::{Process, ask, metric};
use crate::run::{Folder, plimsoll};
use plimsoll_sim::{Capacity, Distribution, Service, Settings, Sim};
use serde_json::{Value, json};

/// 2 servers and 50 ms: 40 calls a second.
const SERVERS: usize = 2;
const SERVICE_MS: u64 = 50;

/// Runs the open model against an endpoint; returns the summary.
fn run(address: &str, endpoint: &str, rate: u32) -> Value {
    let url = format!("http://{address}/api/gateway?endpoint={endpoint}");
    let (rate, body) = (format!("{rate}/s"), r#"{"jsonrpc":"2.0","id":1,"method":"eth_gasPrice"}"#);
    let done = plimsoll(&[
        "run",
        "--no-out",
        "--format",
        "json",
        "--url",
        &url,
        "--body",
        body,
        "--rate",
        &rate,
        "--duration",
        "4s",
        "--connections",
        "256",
    ]);
    serde_json::from_str(&done.stdout).unwrap_or_else(|_| panic!("{}", done.stderr))
}

fn ok_share(summary: &Value) -> f64 {
    let count = |name: &str| summary["requests"][name].as_f64().unwrap();
    count("ok") / count("scheduled")
}

#[test]
fn the_flood_of_one_customer_is_shed_and_another_one_is_served() {
    let service = Distribution::Constant(plimsoll_measure::Nanos::from_millis(SERVICE_MS));
    let capacity = Capacity { servers: SERVERS, service, queue_max: None };
    let settings = Settings::for_tests(1, Service::named("eth"));
    let sim = Sim::start(Settings { capacity: Some(capacity), ..settings }).unwrap();
    let folder = Folder::new();
    let config = format!(
        "listen = [\"127.0.0.1:0\"]\ndatabase = \"off\"\n[cache]\nmemory = 0\n\
         [[service]]\nid = \"eth\"\nhealth_checks = false\n\
         [[endpoint]]\nid = \"quiet\"\nservice = \"eth\"\n\
         [[endpoint]]\nid = \"flood\"\nservice = \"eth\"\n\
         [[upstream]]\nid = \"node\"\nservice = \"eth\"\nurl = \"http://{}/eth\"\n\
         concurrency = 4\n",
        sim.address()
    );
    folder.file("gateway.toml", config);
    let process = Process::start(&folder, &[]);
    let address = process.address("");
    let (quiet, flood) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| run(&address, "flood", 400));
        (run(&address, "quiet", 8), flood.join().unwrap())
    });
    // The flood is ten times the capacity; the quiet one asks for a fifth of it.
    assert!(ok_share(&quiet) >= 0.9, "{}", quiet["requests"]);
    assert!(ok_share(&flood) <= 0.2, "{}", flood["requests"]);
    let shed = "plimsoll_shed_total{service=\"eth\",endpoint=\"flood\",reason=\"overloaded\"}";
    let shed = metric(&address, shed);
    let waits = metric(&address, "plimsoll_waits_total{service=\"eth\",outcome=\"early\"}");
    assert!(shed >= 1_000.0 && waits > 0.0, "{shed} shed, {waits} at once");
    assert_eq!(metric(&address, "plimsoll_upstream_concurrency{upstream=\"node\"}"), 4.0);
    assert_eq!(metric(&address, "plimsoll_relays_in_flight{upstream=\"node\"}"), 0.0);
    assert_eq!(metric(&address, "plimsoll_waiting_calls{service=\"eth\"}"), 0.0);
    // It recovers at once.
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_gasPrice"}).to_string();
    let answer = ask(&address, "POST /api/gateway?endpoint=flood", &call).json();
    assert!(answer["result"].is_string(), "{answer}");
    process.stop();
}
