//! Customers of four replicas on one Redis and one Postgres, behind nginx, while each of these fails.

use crate::gateway::{ask, metric};
use crate::redis_server::Redis;
use crate::replicas::server::Server;
use crate::replicas::{Load, Nginx, Replicas, has, wait_until};
use crate::run::{RunResult, plimsoll};
use nix::sys::signal::Signal;

/// Calls per second of the endpoint that is limited, and what its burst adds once.
const LIMIT: f64 = 50.0;
const BURST: f64 = 0.5 * LIMIT;

/// Calls in flight, at most, of the instrument's 200 per second.
const REPEATED_MAX: u64 = 64;

/// The calls that were answered with a result, as the database knows.
fn used(replicas: &Replicas) -> u64 {
    let done = replicas.edit("usage --by endpoint --format csv");
    assert_eq!(done.code, 0, "{}", done.stderr);
    let mut lines = done.stdout.lines().map(|line| line.split(','));
    let place = lines.next().and_then(|mut names| names.position(|name| name == "ok"));
    let place = place.expect("a column of answered calls");
    lines.filter_map(|mut row| row.nth(place)).map(|count| count.parse::<u64>().unwrap()).sum()
}

/// The calls that a process has answered with a result.
fn succeeded(address: &str) -> u64 {
    let page = ask(address, "GET /metrics", "").body;
    let samples = page
        .lines()
        .filter(|line| line.starts_with("plimsoll_calls_total") && line.contains("outcome=\"ok\""));
    samples.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// The tokens that a process has spent without Redis, because that did not answer in time.
fn spent_alone(address: &str) -> u64 {
    let page = ask(address, "GET /metrics", "").body;
    let name = "plimsoll_limits_tokens_total{direction=\"local\"} ";
    page.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
}

/// Calls the limited endpoint at four times its limit, and checks that no more is admitted than that.
/// Returns the number of calls that were. A Redis that was restarted permits two bursts, otherwise one.
///
/// On a busy machine, some replicas may find Redis late at times. What they then admit alone is bounded for
/// itself: by their parts, which together are the limit.
#[track_caller]
fn admitted(nginx: &Nginx, replicas: &Replicas, when: &str, bursts: f64) -> u64 {
    let alone = || replicas.addresses.iter().map(|one| spent_alone(one)).sum::<u64>();
    let before = alone();
    let url = format!("http://{}/api/gateway?endpoint=limited", nginx.address);
    let args = ["run", "--url", &url, "--body", crate::gateway::BLOCK_NUMBER, "--no-out"];
    let load = ["--rate", "200/s", "--duration", "2s", "--format", "json"];
    let run = RunResult::of(plimsoll(&[&args[..], &load[..]].concat()));
    let nanos = run.count("/duration_ns") + run.count("/drain_ns");
    let permitted =
        |bursts: f64| (nanos as f64 / 1e9 * LIMIT * 1.01 + bursts * BURST).ceil() as u64;
    let admitted = run.count("/requests/ok");
    let alone = alone() - before;
    let together = admitted.checked_sub(alone).expect("each call costs one token");
    assert!(admitted > 0 && together <= permitted(bursts), "{when}: {together}, and {alone} alone");
    assert!(alone <= permitted(1.0), "{when}: {alone} alone, and {together}");
    let refused = run.summary["status"]["429"].as_u64().unwrap_or_default();
    assert_eq!(
        admitted + refused,
        run.count("/requests/sent"),
        "{when}: {}",
        run.summary["errors"]
    );
    admitted
}

/// Everything but gateways fails under load: no call fails, and each is counted exactly once. Then a
/// gateway is killed, which may lose what it had not handed over.
#[test]
fn what_customers_use_is_counted_once_whatever_fails() {
    let (mut database, mut redis) = (Server::start(), Redis::start());
    let settings = format!("[cache]\nredis = \"{}\"\n", redis.url());
    let mut replicas = Replicas::start_with(4, &database.url(), &settings);
    replicas.add("free");
    let added = replicas.edit("key add free --name app");
    assert_eq!(added.code, 0, "{}", added.stderr);
    let key = added.stdout.split_whitespace().find(|word| word.starts_with("plk_")).expect("a key");
    let limited = replicas.edit(&format!("endpoint add limited --service eth --calls {LIMIT}/s"));
    assert_eq!(limited.code, 0, "{}", limited.stderr);
    for address in &replicas.addresses {
        wait_until("the key is needed", || !has(address, "free"));
        wait_until("the other endpoint is known", || has(address, "limited"));
    }
    // Alone, each takes its part of what it knows to be shared.
    replicas.wait_for("plimsoll_limits_replicas", 4.0);
    let probes = replicas.addresses.iter().map(|one| succeeded(one)).sum::<u64>();
    let nginx = Nginx::start(&replicas.addresses);
    let load = Load::start_with(&nginx, "free", &format!("Authorization: Bearer {key}"));
    let addresses = replicas.addresses.clone();
    let calls = || addresses.iter().map(|one| metric(one, "plimsoll_calls_total")).sum::<f64>();
    let more = |count: f64| {
        let before = calls();
        wait_until("the load goes on", || calls() > before + count);
    };
    more(200.0);
    let mut limited = admitted(&nginx, &replicas, "everything works", 1.0);

    redis.signal(Signal::SIGSTOP);
    more(100.0);
    limited += admitted(&nginx, &replicas, "Redis hangs", 1.0);
    redis.signal(Signal::SIGCONT);
    redis.kill();
    more(100.0);
    limited += admitted(&nginx, &replicas, "Redis is gone", 1.0);
    redis.restart();
    more(100.0);
    replicas.wait_for("plimsoll_limits_local", 0.0);
    replicas.wait_for("plimsoll_limits_replicas", 4.0);

    database.signal(Signal::SIGSTOP);
    replicas.wait_for("plimsoll_db_up", 0.0);
    more(100.0);
    database.signal(Signal::SIGCONT);
    replicas.wait_for("plimsoll_db_up", 1.0);
    database.kill();
    replicas.wait_for("plimsoll_db_up", 0.0);
    more(100.0);
    database.start_again();
    replicas.wait_for("plimsoll_db_up", 1.0);
    limited += admitted(&nginx, &replicas, "everything works again", 2.0);
    let answered = probes + limited + load.stop();
    wait_until("all usage is in the database", || used(&replicas) >= answered);
    assert_eq!(used(&replicas), answered);

    // What a replica has flushed survives it. nginx repeats the calls that it had not answered.
    let load = Load::start_with(&nginx, "free", &format!("Authorization: Bearer {key}"));
    more(200.0);
    let flushes = || metric(&addresses[1], "plimsoll_usage_flushes_total");
    let (flushed, before) = (succeeded(&addresses[1]), flushes());
    wait_until("what it has answered is flushed", || flushes() >= before + 2.0);
    replicas.restart(1);
    more(100.0);
    let again = load.stop();
    let counted = flushed + addresses.iter().map(|one| succeeded(one)).sum::<u64>();
    wait_until("all usage is in the database", || used(&replicas) >= counted);
    let most = answered + again + REPEATED_MAX;
    assert!(used(&replicas) <= most, "{} of {most}", used(&replicas));
}
