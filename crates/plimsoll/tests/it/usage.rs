//! Usage: equal to the instrument's own count, to the call, whatever happens to database, disk and
//! gateways.

use crate::gateway::{Process, ask, eth, metric};
use crate::replicas::server::Server;
use crate::replicas::{Load, Nginx, Replicas, wait_until};
use crate::run::{Done, Folder, RunResult, command, plimsoll};
use crate::spool::{spools, stored};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::path::PathBuf;

/// Runs `plimsoll gateway usage` in a folder.
fn usage(folder: &Folder, args: &[&str]) -> Done {
    let args = [&["gateway", "usage", "--from", "2026-01"], args].concat();
    command(&args).current_dir(folder.path()).output().unwrap().into()
}

/// Its answer as JSON.
fn report(folder: &Folder, args: &[&str]) -> Value {
    let done = usage(folder, &[args, &["--format", "json"]].concat());
    assert_eq!(done.code, 0, "{}", done.stderr);
    serde_json::from_str(&done.stdout).unwrap()
}

/// Calls of this body, by the instrument.
fn run(url: &str, body: &str, requests: u32) -> RunResult {
    let requests = requests.to_string();
    let shape = ["--method", "POST", "--body", body, "--users", "4", "-n", &requests];
    let run = RunResult::of(plimsoll(
        &[&["run", url, "--no-out", "--format", "json"][..], &shape].concat(),
    ));
    assert_eq!(run.count("/requests/unsent"), 0, "{}", run.summary["errors"]);
    run
}

fn call(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
}

#[test]
fn calls_are_counted_as_the_instrument_counts_them() {
    let made = plimsoll(&["gateway", "token"]);
    let (token, hash) = (made.stdout.trim(), made.stderr.split('"').nth(1).unwrap());
    let (sim, folder) = (eth(), Folder::new());
    let config = format!(
        "listen = [\"127.0.0.1:0\"]\nadmin_listen = \"127.0.0.1:0\"\nadmin_token_sha256 = [\"{hash}\"]\n\
         [usage]\nprice = \"0.50 EUR per thousand compute units\"\n\
         [network]\ncupr = 7\ncuttm = 42000000\ncucg = 1000000\npokt = \"0.01 EUR\"\n\
         [[service]]\nid = \"eth\"\nchain_id = 1\n\
         compute_units = {{ default = 10, eth_getBlockByNumber = 16, \"web3_*\" = 0 }}\n\
         [[upstream]]\nid = \"node\"\nservice = \"eth\"\nurl = \"{}\"\n\
         [[endpoint]]\nid = \"cust-1\"\nservice = \"eth\"\nmethods = {{ deny = [\"debug_*\"] }}\n",
        sim.url("eth")
    );
    folder.file("gateway.toml", config);
    let process = Process::start(&folder, &[]);
    let output = process.wait_for("(admin)");
    let urls: Vec<&str> = output
        .split("listening on http")
        .skip(1)
        .filter_map(|one| one.split("//").nth(1)?.split_whitespace().next())
        .collect();
    let (address, admin) = (urls[0], format!("http://{}", urls[1]));
    let url = format!("http://{address}/api/gateway?endpoint=cust-1");
    // Until the chain of the node is known, calls are refused, and counted, too.
    let mut tries = 0u64;
    wait_until("it answers", || {
        tries += 1;
        let body = call("eth_chainId", "[]");
        ask(address, "POST /api/gateway?endpoint=cust-1", &body).status == 200
    });
    let fixed = call("eth_getBlockByNumber", "[\"0x1\",false]");
    let unknown = call("eth_noSuchMethod", "[]");
    let head = run(&url, &call("eth_blockNumber", "[]"), 300).count("/requests/ok");
    let hits = run(&url, &fixed, 300).count("/requests/ok");
    let errors = run(&url, &unknown, 120).count("/requests/sent");
    let denied = run(&url, &call("debug_getRawBlock", "[\"0x1\"]"), 80).count("/requests/failed");
    let batch = format!("[{},{fixed},{unknown}]", call("web3_clientVersion", "[]"));
    let batches = run(&url, &batch, 100).count("/requests/sent");
    assert_eq!((head, hits, errors, denied, batches), (300, 300, 120, 80, 100));
    // Everything is delivered when the gateway has stopped, and about a second later in any case.
    wait_until("all is delivered", || {
        report(&folder, &["--endpoint", "cust-1"])["total"]["calls"] == 1_100 + tries
    });
    let found = report(&folder, &["--endpoint", "cust-1", "--by", "method"]);
    let row = |method: &str| {
        let rows = found["usage"].as_array().unwrap();
        rows.iter().find(|row| row["method"] == method).unwrap_or_else(|| panic!("{found:#}"))
    };
    let figure = |method: &str, name: &str| row(method)[name].as_u64().unwrap();
    let (block, by_number) = ("eth_blockNumber", "eth_getBlockByNumber");
    assert_eq!((figure(block, "ok"), figure(block, "compute_units")), (300, 3_000));
    assert_eq!((figure(by_number, "ok"), figure(by_number, "compute_units")), (400, 16 * 400));
    let relays = figure(by_number, "relays");
    assert_eq!(figure(by_number, "hits") + relays, 400, "{found:#}");
    assert!((1..=4).contains(&relays), "{found:#}");
    assert_eq!(figure(by_number, "bytes_in"), 400 * fixed.len() as u64);
    // The chain's own error is an answer, and charged.
    assert_eq!((figure("other", "errors"), figure("other", "compute_units")), (220, 2_200));
    assert_eq!(
        (figure("web3_clientVersion", "ok"), figure("web3_clientVersion", "compute_units")),
        (100, 0)
    );
    let refused = row("debug_getRawBlock");
    assert_eq!((&refused["failed"], &refused["compute_units"]), (&80.into(), &0.into()));
    assert_eq!((figure("eth_chainId", "calls"), figure("eth_chainId", "ok")), (tries, 1));
    let units = 3_000 + 16 * 400 + 2_200 + 10;
    assert_eq!(found["total"]["compute_units"], units);
    assert_eq!(found["total"]["charge"], "5.805");
    let total_relays = found["total"]["relays"].as_u64().unwrap();
    assert_eq!(found["total"]["network_upokt"], total_relays * 7 * 42);

    // The same through the admin API, and as CSV.
    let by = ["--by", "endpoint,service,method", "--service", "eth", "--endpoint", "cust-1"];
    let through = |args: &[&str]| -> Done {
        let args = [&["gateway", "usage", "--from", "2026-01"], args].concat();
        let mut asked = command(&args);
        asked.current_dir(folder.path()).env("PLIMSOLL_ADMIN_TOKEN", token);
        asked.output().unwrap().into()
    };
    let from_admin = through(&[&by[..], &["--admin", &admin, "--format", "csv"]].concat());
    let from_database = usage(&folder, &[&by[..], &["--format", "csv"]].concat());
    assert_eq!(from_admin.code, 0, "{}", from_admin.stderr);
    assert_eq!(from_admin.stdout, from_database.stdout);
    assert!(from_admin.stdout.starts_with("endpoint,service,method,calls,ok,errors,failed,"));
    assert_eq!(from_admin.stdout.lines().count(), 7, "{}", from_admin.stdout);
    let table = usage(&folder, &["--by", "service"]);
    assert!(
        table.stdout.starts_with("SERVICE") && table.stderr.contains("computed"),
        "{}",
        table.stderr
    );
    process.stop();
    assert_eq!(spools(&folder), Vec::<PathBuf>::new(), "nothing is left");
}

#[test]
fn nothing_is_lost_or_counted_twice_while_the_database_fails() {
    let mut server = Server::start();
    let mut replicas = Replicas::start(2, &server.url());
    replicas.add("load");
    replicas.wait_for("plimsoll_db_connections", 2.0);
    wait_until("the calls that looked for the endpoint", || stored(&server, "load") == 2);
    let nginx = Nginx::start(&replicas.addresses);
    let load = Load::start(&nginx, "load");
    wait_until("the load has started", || stored(&server, "load") > 100);

    // Killed: what is counted waits on disk.
    server.kill();
    replicas.wait_for("plimsoll_db_up", 0.0);
    for address in &replicas.addresses {
        wait_until("it waits on disk", || {
            metric(address, "plimsoll_usage_spooled_bytes") > 1_000.0
        });
    }
    server.start_again();
    replicas.wait_for("plimsoll_db_up", 1.0);
    for address in &replicas.addresses {
        wait_until("it is delivered", || metric(address, "plimsoll_usage_spooled_bytes") < 1_000.0);
    }
    // It hangs, perhaps in the middle of a transaction.
    for _ in 0..2 {
        server.signal(Signal::SIGSTOP);
        replicas.wait_for("plimsoll_db_up", 0.0);
        server.signal(Signal::SIGCONT);
        replicas.wait_for("plimsoll_db_up", 1.0);
    }
    // Sessions end before, in and after transactions.
    for _ in 0..5 {
        server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE application_name = 'plimsoll' AND pid <> pg_backend_pid()",
        );
        let before = stored(&server, "load");
        wait_until("more is stored", || stored(&server, "load") > before);
    }
    let calls = load.stop();
    for address in &replicas.addresses {
        assert_eq!(metric(address, "plimsoll_usage_lost_total"), 0.0);
        assert_eq!(metric(address, "plimsoll_usage_held_rows"), 0.0);
        assert!(metric(address, "plimsoll_db_connections") <= 2.0);
    }
    for process in replicas.processes.drain(..) {
        process.stop();
    }
    assert_eq!(stored(&server, "load"), calls + 2, "to the call");
    for folder in &replicas.folders {
        assert_eq!(spools(folder), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_killed_gateway_loses_at_most_a_second() {
    let mut server = Server::start();
    let mut replicas = Replicas::start(2, &server.url());
    replicas.add("load");
    wait_until("the calls that looked for the endpoint", || stored(&server, "load") == 2);
    let nginx = Nginx::start(&replicas.addresses);
    let load = Load::start(&nginx, "load");
    wait_until("the load has started", || stored(&server, "load") > 50);
    // Once while the database is up, and once while it is not, with what waits on disk.
    replicas.restart(0);
    server.kill();
    replicas.wait_for("plimsoll_db_up", 0.0);
    let spooled =
        |number: usize| metric(&replicas.addresses[number], "plimsoll_usage_spooled_bytes");
    wait_until("it waits on disk", || spooled(0) > 2_000.0 && spooled(1) > 2_000.0);
    replicas.restart(1);
    server.start_again();
    replicas.wait_for("plimsoll_db_up", 1.0);
    let before = stored(&server, "load");
    wait_until("more is stored", || stored(&server, "load") > before + 50);
    let calls = load.stop();
    for process in replicas.processes.drain(..) {
        process.stop();
    }
    let stored = stored(&server, "load");
    // A call that was in flight is sent again by nginx, and may be counted by both.
    assert!(stored <= calls + 2 + 20, "{stored} of {calls} calls: some are counted twice");
    // Two gateways were killed, with half of 200 calls a second each.
    assert!(stored + 200 >= calls, "{stored} of {calls} calls: more than a second is lost");
    for folder in &replicas.folders {
        assert_eq!(spools(folder), Vec::<PathBuf>::new());
    }
}

#[test]
fn questions_about_usage_are_checked() {
    let folder = Folder::new();
    let check = |args: &[&str], words: &str| {
        let refused = usage(&folder, args);
        assert_eq!(refused.code, 2, "{args:?}: {}", refused.stdout);
        assert!(refused.stderr.contains(words), "{args:?}: {}", refused.stderr);
    };
    check(&["--to", "2025-12"], "to: 2025-12 is not after 2026-01-01T00");
    check(&["--by", "customer"], "\"customer\" cannot be grouped by; known are hour, day, month");
    check(&["--by", "hour,day"], "exclude each other");
    folder.file("gateway.toml", "[usage]\nprice = \"0.30 USD\"\n");
    check(&[], "\"0.30 USD\" has no unit; write an amount, a currency and a unit");
    folder.file(
        "gateway.toml",
        "[usage]\nprice = \"1 USD per compute unit\"\n[[service]]\nid = \"x\"\n\
         price = \"1 EUR per compute unit\"\n",
    );
    check(&[], "prices are in EUR and in USD");
    folder.file("gateway.toml", "");
    // Nowhere to look is not the same as nothing used.
    check(&[], "plimsoll.db does not exist yet, so no usage is recorded in it");
    check(&[], "hint: run the command in the folder of the gateway's configuration file");
    check(&["--database", "off"], "there is no database, so usage is only counted in /metrics");
    check(&["--database", "off", "--format", "csv"], "hint: set database or DATABASE_URL");
    for line in ["endpoint add acme --service eth", "key add acme --name web"] {
        let words: Vec<&str> = ["gateway"].into_iter().chain(line.split(' ')).collect();
        let done = command(&words).current_dir(folder.path()).output().unwrap();
        assert!(done.status.success(), "{line}");
    }
    for args in [&[][..], &["--endpoint", "acme", "--key", "web", "--service", "eth"]] {
        let empty = usage(&folder, args);
        assert_eq!((empty.code, empty.stdout.as_str()), (0, ""), "{}", empty.stderr);
        assert!(empty.stderr.contains("nothing was used"), "{}", empty.stderr);
    }
    check(&["--endpoint", "acmee"], "there is no endpoint \"acmee\", and nothing was used");
    check(&["--endpoint", "acmee"], "hint: did you mean \"acme\"?");
    check(&["--endpoint", "acme", "--key", "nope"], "there is no key \"nope\"");
    check(&["--service", "bitcoin"], "there is no service \"bitcoin\"");
    check(&["--method", "eth_call\n"], "method: it has a control character");
    // Without a database it is only counted in the metrics.
    let (sim, upstream) = (eth(), "--upstream");
    let node = format!("eth={}", sim.url("eth"));
    let args = ["--listen", "127.0.0.1:0", "--database", "off", upstream, &node];
    let process = Process::start(&folder, &args);
    process.wait_for("usage is only counted in /metrics, because there is no database");
    let address = process.address("");
    assert!(!ask(&address, "GET /metrics", "").body.contains("plimsoll_usage_flushes_total"));
    process.stop();
}
