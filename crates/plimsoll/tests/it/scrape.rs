//! Other processes' figures beside the instrument's own, and processes that are not there.

use crate::run::{Folder, RPC, RPC_RESULT, Ran, plimsoll};
use crate::server::{Reply, Server, Then};
use plimsoll_measure::{Scraped, Snapshot, wire};
use std::sync::{Arc, Mutex};

/// What a scripted gateway relayed, and had relayed whenever it was asked.
#[derive(Default)]
struct Gateway {
    relayed: u64,
    /// By this much its counters are behind: it was started again.
    forgotten: u64,
    told: Vec<u64>,
}

/// A gateway that answers calls and tells of them; at its page number `restart` it was started again.
fn gateway(restart: Option<usize>) -> (Server, Arc<Mutex<Gateway>>) {
    let state = Arc::new(Mutex::new(Gateway::default()));
    let shared = state.clone();
    let server = Server::start(move |_, asked| {
        let mut gateway = shared.lock().unwrap();
        if asked.line() != "GET /metrics" {
            gateway.relayed += 1;
            return Reply::ok(RPC_RESULT);
        }
        if restart == Some(gateway.told.len()) {
            gateway.forgotten = gateway.relayed;
        }
        let relayed = gateway.relayed;
        gateway.told.push(relayed);
        let (a, b) = ((relayed - gateway.forgotten) / 2, (relayed - gateway.forgotten).div_ceil(2));
        let started = 1000 + 100 * u64::from(gateway.forgotten > 0);
        let cpu = 5.0 + gateway.told.len() as f64 / 100.0;
        let relays = |upstream: &str, n: u64| {
            format!(
                "plimsoll_relays_total{{service=\"eth\",upstream=\"{upstream}\",outcome=\"ok\"}} {n}\n"
            )
        };
        Reply::ok(&format!(
            "# TYPE plimsoll_relays_total counter\n{}{}process_cpu_seconds_total {cpu}\n\
             process_resident_memory_bytes 7340032\nprocess_start_time_seconds {started}\n\
             plimsoll_build_info{{version=\"0\\\"1\"}} 1\nhistogram_bucket{{le=\"+Inf\"}} 3\n",
            relays("node-a", a),
            relays("node-b", b),
        ))
    });
    (server, state)
}

/// A plan of one target with these scrapes.
fn plan(target: &Server, load: &str, scrapes: &[(&str, String)]) -> String {
    let mut text = format!(
        "{load}\n[[target]]\nname = \"rpc\"\nrequest = \"POST {}/v1\"\nbody = '{RPC}'\n",
        target.url()
    );
    for (name, url) in scrapes {
        text += &format!("[[scrape]]\nname = \"{name}\"\nurl = \"{url}\"\n");
    }
    text
}

/// Runs a plan; its summary, and the sum of the pages in its snapshots.
fn run(plan: &str) -> (Ran, Vec<Scraped>) {
    let folder = Folder::new();
    let plan = folder.file("plan.toml", plan);
    let out = folder.path().join("out");
    let ran =
        Ran::of(plimsoll(&["run", &plan, "--out", out.to_str().unwrap(), "--format", "json"]));
    let text = std::fs::read_to_string(out.join("snapshots.jsonl")).unwrap();
    let (header, snapshots) = wire::read(&text).unwrap();
    let mut sum = Snapshot::new(header.names.len(), header.streams.len(), header.origins.len());
    snapshots.iter().for_each(|snapshot| sum.append(snapshot));
    (ran, sum.scrapes)
}

#[test]
fn a_gateways_relays_are_what_was_sent_also_when_it_is_started_again() {
    for restart in [None, Some(1)] {
        let (server, state) = gateway(restart);
        let scrapes = [("gw-1", format!("{}/metrics", server.url()))];
        let (ran, sum) = run(&plan(&server, "rate = \"200/s\"\nduration = \"2500ms\"", &scrapes));
        assert_eq!(ran.count("/requests/ok"), 500, "{}", ran.summary);
        let told = state.lock().unwrap().told.clone();
        // Before the first page nothing is known, and between the last page before a restart and the
        // restart nothing either.
        let lost = restart.map_or(0, |page| told[page] - told[page - 1]);
        let expected = told.last().unwrap() - told[0] - lost;
        assert_eq!(*told.last().unwrap(), 500, "the last page is read when all is done");
        assert_eq!(ran.count("/scrapes/groups/0/relays"), expected, "{}", ran.summary["scrapes"]);
        let process = &ran.summary["scrapes"]["processes"][0];
        assert_eq!(
            (process["name"].as_str(), process["share"].as_f64()),
            (Some("gw-1"), Some(1.0))
        );
        assert_eq!(process["restarts"], u64::from(restart.is_some()));
        assert_eq!(process["reads"], told.len());
        assert_eq!(process["resident_memory_bytes_max"], 7_340_032);
        // The snapshots sum up to the same.
        assert_eq!(sum[0].increase("plimsoll_relays_total"), Some(expected as f64));
        assert_eq!(
            process["cpu_ns"],
            (sum[0].increase("process_cpu_seconds_total").unwrap() * 1e9).round() as u64
        );
    }
}

#[test]
fn what_cannot_be_read_is_told_and_stops_nothing() {
    let (server, _) = gateway(None);
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let odd = Server::start(|_, asked| match asked.line() {
        "GET /500" => Reply::with(500, "", "no"),
        "GET /html" => Reply::ok("<html>"),
        "GET /large" => Reply::ok(&"#".repeat(5 << 20)),
        "GET /bytes" => {
            Reply::raw(&b"HTTP/1.1 200 X\r\nContent-Length: 1\r\n\r\n\xff"[..], Then::Keep)
        }
        "GET /cut" => Reply::raw("HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\na 1", Then::Close),
        "GET /hangs" => Reply::raw("", Then::Hang),
        _ => Reply::ok("process_cpu_seconds_total 1\nother 1\n"),
    });
    let rows = [
        ("gone", format!("http://{gone}/metrics"), "Connection refused"),
        ("500", format!("{}/500", odd.url()), "status 500"),
        (
            "html",
            format!("{}/html", odd.url()),
            "not in Prometheus text format: line 1: missing or invalid metric name",
        ),
        ("large", format!("{}/large", odd.url()), "page larger than 4194304 bytes"),
        ("bytes", format!("{}/bytes", odd.url()), "page is not valid UTF-8"),
        ("cut", format!("{}/cut", odd.url()), "error reading a body from connection: "),
        ("hangs", format!("{}/hangs", odd.url()), "no response within 900 ms"),
    ];
    let mut scrapes: Vec<_> = rows.iter().map(|(name, url, _)| (*name, url.clone())).collect();
    scrapes.push(("other", format!("{}/metrics", odd.url())));
    let (ran, sum) = run(&plan(&server, "rate = \"100/s\"\nduration = \"300ms\"", &scrapes));
    ran.assert_code(0);
    assert_eq!(ran.count("/requests/ok"), 30);
    let processes = ran.summary["scrapes"]["processes"].as_array().unwrap();
    for (process, (name, _, why)) in processes.iter().zip(&rows) {
        assert_eq!((process["name"].as_str(), process["reads"].as_u64()), (Some(*name), Some(0)));
        assert!(process["failures"].to_string().contains(why), "{name}: {process}");
        assert!(process["failed"].as_u64().unwrap() >= 1 && process["cpu_ns"].is_null());
    }
    let other = &processes[rows.len()];
    assert!(other["reads"].as_u64().unwrap() >= 1 && other["relays"].is_null(), "{other}");
    assert_eq!(sum[rows.len()].max("other"), Some(1.0), "what is no process's is kept too");
}

#[test]
fn the_report_shows_instances_beside_the_instrument() {
    let (one, _) = gateway(None);
    let (two, _) = gateway(Some(1));
    let page = Server::start(|_, _| {
        Reply::ok("process_cpu_seconds_total 1\nprocess_resident_memory_bytes 3e6\n")
    });
    let folder = Folder::new();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let scrapes = [
        ("gw-1", format!("{}/metrics", one.url())),
        ("gw-2", format!("{}/metrics", two.url())),
        ("node", page.url()),
        ("away", format!("http://{gone}/")),
    ];
    let mut text = plan(&one, "rate = \"100/s\"\nduration = \"1200ms\"", &scrapes);
    text += &format!("[[target]]\nrequest = \"POST {}/v1\"\nbody = '{RPC}'\n", two.url());
    let path = folder.file("plan.toml", text);
    let done = plimsoll(&["run", &path, "--no-out"]);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert!(
        lines.len() <= 50 && lines.iter().all(|line| line.chars().count() <= 100),
        "{}",
        done.stdout
    );
    for words in [
        "process                       relays     share       CPU   CPU/relay      memory     scrapes",
        "restarted once",
        "failed: Connection refused",
        "of an even share of 50 % (furthest: gw-",
        "relayed to node-",
        "7 MiB",
        "2 MiB",
    ] {
        assert!(done.stdout.contains(words), "{words}\n{}", done.stdout);
    }
    let own = lines.iter().position(|line| line.starts_with("  generator:")).unwrap();
    assert!(lines[own - 1].contains("relayed to"), "{}", done.stdout);
}
