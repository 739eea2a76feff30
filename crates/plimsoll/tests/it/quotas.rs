//! Quotas of real gateways on a real Postgres: exact at a steady rate, over flushes, restarts and callers
//! that leave; and what operators see of them.

use crate::admin::Gateway;
use crate::gateway::{Caller, Process, Response, ask, eth, metric};
use crate::replicas::server::Server;
use crate::replicas::wait_until;
use crate::run::{Folder, command};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::net::TcpListener;

const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}"#;

/// The quota of the endpoints in this test, of a day.
const QUOTA: u64 = 400;

fn post(address: &str, endpoint: &str) -> Response {
    ask(address, &format!("POST /api/gateway?endpoint={endpoint}"), CALL)
}

/// What quotas were charged, according to Postgres.
fn admitted(server: &Server, endpoint: &str) -> u64 {
    let sql = format!(
        "SELECT coalesce(sum(admitted_units), 0) FROM plimsoll_usage_day WHERE endpoint = '{endpoint}'"
    );
    server.sql(&sql).parse().unwrap()
}

fn start(folder: &Folder) -> (Process, String) {
    let process = Process::start(folder, &[]);
    let address = process.address("");
    // The service is ready, and the totals are known.
    wait_until("it is ready", || ask(&address, "GET /ready", "").status == 200);
    (process, address)
}

/// Calls at a steady rate for as long as they are admitted; how many were.
fn exhaust(address: &str, endpoint: &str) -> u64 {
    exhaust_with(address, endpoint, |_| ())
}

/// As [`exhaust`]; `pause` is called with the number of admitted calls before each further one.
fn exhaust_with(address: &str, endpoint: &str, pause: impl Fn(u64)) -> u64 {
    let mut caller = Caller::connect(address).unwrap();
    let request = format!("POST /api/gateway?endpoint={endpoint}");
    let is_refused = |number: &u64| {
        pause(*number);
        caller.send(&request, CALL).unwrap().status != 200
    };
    (0..).find(is_refused).unwrap()
}

#[test]
fn a_quota_is_exact_over_flushes_restarts_and_callers_that_leave() {
    let server = Server::start();
    let (sim, folder) = (eth(), Folder::new());
    // Takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = |id: &str, service: &str, quota: u64| {
        format!(
            "[[endpoint]]\nid = \"{id}\"\nservice = \"{service}\"\n\
             limits = {{ daily_compute_units = {quota} }}\n"
        )
    };
    folder.file(
        "gateway.toml",
        format!(
            "listen = [\"127.0.0.1:0\"]\ndatabase = \"{}\"\n\
             [[service]]\nid = \"eth\"\nchain_id = 1\n\
             [[service]]\nid = \"slow\"\n\
             [[upstream]]\nid = \"node\"\nservice = \"eth\"\nurl = \"{}\"\n\
             [[upstream]]\nid = \"silent\"\nservice = \"slow\"\nurl = \"http://{}\"\n{}{}",
            server.url(),
            sim.url("eth"),
            silent.local_addr().unwrap(),
            endpoint("steady", "eth", QUOTA),
            endpoint("leaving", "slow", 5),
        ),
    );
    let (process, address) = start(&folder);
    // With a flush, and new totals, after each quarter.
    let flushed = |calls: u64| {
        if calls.is_multiple_of(QUOTA / 4) {
            wait_until("it is flushed", || admitted(&server, "steady") == calls);
        }
    };
    assert_eq!(exhaust_with(&address, "steady", flushed), QUOTA);
    let refused = post(&address, "steady");
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert!(
        refused.body.contains("the daily quota of this endpoint, 400 compute units, is used up")
    );

    // Callers that leave in mid-call have used their quota.
    for left in 0..5 {
        let mut caller = Caller::connect(&address).unwrap();
        caller.write("POST /api/gateway?endpoint=leaving", "", CALL).unwrap();
        wait_until("the call is admitted", || admitted(&server, "leaving") == left + 1);
    }
    let refused = post(&address, "leaving");
    assert_eq!(refused.status, 429, "{}", refused.body);

    // Another replica, and one that follows a killed process, know what was used.
    wait_until("all is stored", || admitted(&server, "steady") == QUOTA);
    process.signal(Signal::SIGKILL);
    process.end();
    let (first, address) = start(&folder);
    assert_eq!((post(&address, "steady").status, post(&address, "leaving").status), (429, 429));
    first.wait_for("the daily quota of all its keys, 400 compute units, is already used up");
    let (second, address) = start(&folder);
    assert_eq!((post(&address, "steady").status, post(&address, "leaving").status), (429, 429));
    let page = ask(&address, "GET /metrics", "").body;
    assert!(page.contains("plimsoll_quotas_used_up{quota=\"daily\"} 2\n"), "{page}");
    assert!(page.contains("{endpoint=\"st…dy\",key=\"\",quota=\"daily\"} 1\n"), "{page}");
    assert!(page.contains("{endpoint=\"st…dy\",reason=\"daily\"} 1\n"), "{page}");
    assert_eq!(metric(&address, "plimsoll_quota_totals_stale"), 0.0);
    first.stop();
    second.stop();
    assert_eq!((admitted(&server, "steady"), admitted(&server, "leaving")), (QUOTA, 5));
}

#[test]
fn operators_see_what_is_left() {
    let gateway = Gateway::start();
    let run = |line: &str| {
        let admin = format!("http://{}", gateway.admin);
        let mut command = command(&line.split_whitespace().collect::<Vec<_>>());
        command.args(["--admin", &admin]).env("PLIMSOLL_ADMIN_TOKEN", &gateway.token);
        command.env_remove("DATABASE_URL").current_dir(gateway.folder().path());
        let done = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.code(), text(&done.stdout), text(&done.stderr))
    };
    // A rate needs its unit of time.
    let (code, _, wrong) = run("gateway endpoint add none --service eth --calls 100");
    assert!(code == Some(2) && wrong.contains("100/s for 100 per second"), "{wrong}");
    let added =
        run("gateway endpoint add acme --service eth --daily-compute-units 50 --calls 9k/s");
    assert_eq!(added.0, Some(0), "{}", added.2);
    wait_until("it is known", || post(gateway.address(), "acme").status == 200);
    let used = || {
        let (code, shown, error) = run("gateway endpoint limits acme --format json");
        assert_eq!(code, Some(0), "{error}");
        let shown: Value = serde_json::from_str(&shown).unwrap();
        shown[0]["quotas"][0].clone()
    };
    let number = |name: &str| used()[name].as_u64().unwrap();
    let left = number("left");
    assert!(number("used") >= 1 && number("used") + left == 50, "{}", used());
    assert_eq!(exhaust(gateway.address(), "acme"), left);
    let (_, table, _) = run("gateway endpoint limits");
    let row = table.lines().find(|line| line.starts_with("acme")).unwrap();
    assert!(row.contains("50 of 50") && row.contains("daily: 1"), "{table}");
    // A batch of calls that are all limited says when to retry.
    let batch = format!("[{CALL},{CALL}]");
    let answer = ask(gateway.address(), "POST /api/gateway?endpoint=acme", &batch);
    let retry: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(answer.status == 200 && (1..=86_400).contains(&retry), "{}", answer.head);
    let page = ask(&gateway.admin, "GET /ready?detailed=true", "").json();
    let limits = &page["limits"];
    assert_eq!(
        (&limits["rates"]["state"], &limits["quotas"]["totals"]),
        (&json!("local"), &json!("read"))
    );
}
