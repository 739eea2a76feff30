//! Scraping the metrics of other processes, including failures and restarts.

use crate::run::{Folder, RPC, RPC_RESULT, RunResult, plimsoll};
use crate::server::{After, Reply, Server};
use plimsoll_measure::wire::{self, Reading};
use plimsoll_measure::{Scraped, Snapshot};
use std::sync::{Arc, Mutex};

/// The state of a scripted gateway.
#[derive(Default)]
struct Gateway {
    /// Calls relayed in total.
    relayed: u64,
    /// Calls relayed before the last restart, which its counters do not include.
    forgotten: u64,
    /// `relayed` at each scrape.
    reported: Vec<u64>,
}

/// A gateway that answers calls and exports metrics; it restarts at scrape number `restart`.
fn gateway(restart: Option<usize>) -> (Server, Arc<Mutex<Gateway>>) {
    let state = Arc::new(Mutex::new(Gateway::default()));
    let shared = state.clone();
    let server = Server::start(move |_, received| {
        let mut gateway = shared.lock().unwrap();
        if received.line() != "GET /metrics" {
            gateway.relayed += 1;
            return Reply::ok(RPC_RESULT);
        }
        if restart == Some(gateway.reported.len()) {
            gateway.forgotten = gateway.relayed;
        }
        let relayed = gateway.relayed;
        gateway.reported.push(relayed);
        let (a, b) = ((relayed - gateway.forgotten) / 2, (relayed - gateway.forgotten).div_ceil(2));
        let started = 1000 + 100 * u64::from(gateway.forgotten > 0);
        let cpu = 5.0 + gateway.reported.len() as f64 / 100.0;
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

/// Runs a plan, and returns the result and the sum of the scrapes in its snapshots.
fn run(plan: &str) -> (RunResult, Vec<Scraped>) {
    let folder = Folder::new();
    let plan = folder.file("plan.toml", plan);
    let out = folder.path().join("out");
    let result = RunResult::of(plimsoll(&[
        "run",
        &plan,
        "--out",
        out.to_str().unwrap(),
        "--format",
        "json",
    ]));
    let text = std::fs::read_to_string(out.join("snapshots.jsonl")).unwrap();
    let Reading { header, snapshots, .. } = wire::read(&text).unwrap();
    let mut sum = Snapshot::new(header.names.len(), header.streams.len(), header.origins.len());
    snapshots.iter().for_each(|snapshot| sum.append(snapshot));
    (result, sum.scrapes)
}

#[test]
fn relays_of_a_gateway_match_the_sent_requests_even_if_it_restarts() {
    for restart in [None, Some(1)] {
        let (server, state) = gateway(restart);
        let scrapes = [("gw-1", format!("{}/metrics", server.url()))];
        let (result, sum) =
            run(&plan(&server, "rate = \"200/s\"\nduration = \"2500ms\"", &scrapes));
        assert_eq!(result.count("/requests/ok"), 500, "{}", result.summary);
        let reported = state.lock().unwrap().reported.clone();
        // Relays before the first scrape, and between the last scrape before a restart and the
        // restart, are unknown.
        let lost = restart.map_or(0, |page| reported[page] - reported[page - 1]);
        let expected = reported.last().unwrap() - reported[0] - lost;
        assert_eq!(*reported.last().unwrap(), 500, "the last scrape is after the last request");
        assert_eq!(
            result.count("/scrapes/groups/0/relays"),
            expected,
            "{}",
            result.summary["scrapes"]
        );
        let process = &result.summary["scrapes"]["processes"][0];
        assert_eq!(
            (process["name"].as_str(), process["share"].as_f64()),
            (Some("gw-1"), Some(1.0))
        );
        assert_eq!(process["restarts"], u64::from(restart.is_some()));
        assert_eq!(process["reads"], reported.len());
        assert_eq!(process["resident_memory_bytes_max"], 7_340_032);
        // The snapshots add up to the same.
        assert_eq!(sum[0].increase("plimsoll_relays_total"), Some(expected as f64));
        assert_eq!(
            process["cpu_ns"],
            (sum[0].increase("process_cpu_seconds_total").unwrap() * 1e9).round() as u64
        );
    }
}

#[test]
fn failed_scrapes_are_reported_and_do_not_stop_the_run() {
    let (server, _) = gateway(None);
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let odd = Server::start(|_, received| match received.line() {
        "GET /500" => Reply::with(500, "", "no"),
        "GET /html" => Reply::ok("<html>"),
        "GET /large" => Reply::ok(&"#".repeat(5 << 20)),
        "GET /bytes" => {
            Reply::raw(&b"HTTP/1.1 200 X\r\nContent-Length: 1\r\n\r\n\xff"[..], After::Keep)
        }
        "GET /cut" => Reply::raw("HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\na 1", After::Close),
        "GET /hangs" => Reply::raw("", After::Hang),
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
    let (result, sum) = run(&plan(&server, "rate = \"100/s\"\nduration = \"300ms\"", &scrapes));
    result.assert_code(0);
    assert_eq!(result.count("/requests/ok"), 30);
    let processes = result.summary["scrapes"]["processes"].as_array().unwrap();
    for (process, (name, _, why)) in processes.iter().zip(&rows) {
        assert_eq!((process["name"].as_str(), process["reads"].as_u64()), (Some(*name), Some(0)));
        assert!(process["failures"].to_string().contains(why), "{name}: {process}");
        assert!(process["failed"].as_u64().unwrap() >= 1 && process["cpu_ns"].is_null());
    }
    let other = &processes[rows.len()];
    assert!(other["reads"].as_u64().unwrap() >= 1 && other["relays"].is_null(), "{other}");
    assert_eq!(sum[rows.len()].max("other"), Some(1.0), "other metrics are kept too");
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
        "process                       calls     relays    share      CPU   CPU/call     memory   scrapes",
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
    // The table of the host's unusual seconds may stand between them.
    assert!(lines[..own].iter().any(|line| line.contains("relayed to")), "{}", done.stdout);
}
