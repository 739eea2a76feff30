//! Upstreams that fail under load, with real processes: `scenarios/failure.toml` through a gateway, one
//! of whose two upstreams is behind the fault proxy or is killed, and no call may fail.

use crate::gateway::{Process, ask, metric};
use crate::run::{Folder, plimsoll};
use plimsoll_sim::proxy::{Proxy, ProxySettings, from_toml};
use plimsoll_sim::{Service, Settings, Sim};
use serde_json::Value;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

const CHAINS: [(&str, u64); 4] = [("eth", 1), ("boba", 288), ("mantle", 5000), ("kava", 2222)];

/// A gateway with two upstreams for each chain.
fn gateway(one: SocketAddr, other: SocketAddr) -> (Process, String, Folder) {
    let folder = Folder::new();
    let mut config = String::from("listen = [\"127.0.0.1:0\"]\ndatabase = \"off\"\n");
    for (chain, id) in CHAINS {
        write!(
            config,
            "[[service]]\nid = \"{chain}\"\nchain_id = {id}\nblock_time = \"2s\"\npatience = \"200ms\"\n\
             [[endpoint]]\nid = \"to-{chain}\"\nservice = \"{chain}\"\n"
        )
        .unwrap();
        for (name, address) in [("a", one), ("b", other)] {
            write!(
                config,
                "[[upstream]]\nid = \"{name}-{chain}\"\nservice = \"{chain}\"\n\
                 url = \"http://{address}/{chain}\"\n"
            )
            .unwrap();
        }
    }
    folder.file("gateway.toml", config);
    let process = Process::start(&folder, &[]);
    let address = process.address("");
    (process, address, folder)
}

/// Runs the scenario; returns its summary.
fn run(gateway: &str, duration: &str) -> Value {
    let plan = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/failure.toml");
    let plan = plan.display().to_string();
    let mut args = vec!["run".to_string(), plan, "--no-out".into(), "--format".into()];
    args.push("json".into());
    let mut set = |name: &str, value: &str| {
        args.extend(["--set".into(), format!("{name}={value}")]);
    };
    set("GATEWAY", &format!("http://{gateway}"));
    set("RATE", "200/s");
    set("DURATION", duration);
    for (chain, _) in CHAINS {
        set(&format!("{}_ENDPOINT_ID", chain.to_uppercase()), &format!("to-{chain}"));
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = plimsoll(&args);
    serde_json::from_str(&done.stdout).unwrap_or_else(|_| panic!("{}", done.stderr))
}

fn assert_none_failed(summary: &Value) {
    let requests = &summary["requests"];
    assert_eq!(requests["ok"], requests["scheduled"], "{requests} {}", summary["errors"]);
    assert!(requests["ok"].as_u64().unwrap() > 100, "{requests}");
}

#[test]
fn no_call_fails_while_the_network_to_an_upstream_does() {
    let sim = Sim::start(Settings::for_tests(1, Service::known())).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios/faults/network.toml");
    let text = std::fs::read_to_string(file).unwrap();
    let faults = from_toml("network.toml", &text).unwrap();
    let proxy = Proxy::start(ProxySettings {
        listen: "127.0.0.1:0".parse().unwrap(),
        to: sim.address().to_string(),
        seed: 1,
        faults,
    })
    .unwrap();
    let (process, address, _folder) = gateway(proxy.address(), sim.address());
    assert_none_failed(&run(&address, "3s"));
    // Calls may not have met them: a check may be first, and takes the upstream out of rotation.
    let counts = proxy.counts();
    assert!(counts.accepted - counts.open > 2, "connections were cut: {counts:?}");
    process.stop();
}

#[test]
fn an_upstream_that_is_drained_loses_no_call() {
    let sim = Sim::start(Settings::for_tests(1, Service::known())).unwrap();
    let (process, address, folder) = gateway(sim.address(), sim.address());
    let config = std::fs::read_to_string(folder.path().join("gateway.toml")).unwrap();
    let drained = config.replace("id = \"a-eth\"\n", "id = \"a-eth\"\ndrain = true\n");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| run(&address, "1500ms"));
        process.wait_for("is on chain 2222");
        folder.file("gateway.toml", &drained);
        process.wait_for("changed 1 upstream (a-eth)");
        assert_none_failed(&running.join().unwrap());
    });
    let details = ask(&address, "GET /ready/eth?detailed=true", "").json();
    let first = &details["services"]["eth"]["endpoints"][0];
    assert_eq!((&first["address"], &first["error"]), (&"a-eth".into(), &"it is drained".into()));
    let excluded =
        "plimsoll_upstream_excluded{service=\"eth\",upstream=\"a-eth\",reason=\"drained\"}";
    assert_eq!(metric(&address, excluded), 1.0);
    process.stop();
}
