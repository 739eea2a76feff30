//! What a run reads of the tested system besides answers: logs, processes without metrics, and what relays
//! cost.

use crate::report::{documented_fields, fields};
use crate::run::{Done, Folder, RPC, RPC_RESULT, RunResult, command, plimsoll};
use crate::server::{Reply, Server};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A plan of 40 requests to a server with further tables.
fn plan(server: &Server, tables: &str) -> String {
    format!(
        "name = \"observed\"\nrate = \"40/s\"\nduration = \"1s\"\n[[target]]\nname = \"rpc\"\ntags = {{ chain = \"ethereum\" }}\n\
         request = \"POST {}/v1\"\nheaders = {{ Authorization = \"Bearer ${{NODE_TOKEN:-none}}\" }}\nbody = '{RPC}'\n{tables}",
        server.url()
    )
}

fn run_in(folder: &Folder, plan: &str, args: &[&str]) -> Done {
    let path = folder.file("plan.toml", plan);
    plimsoll(&[&["run", &path, "--format", "json"], args].concat())
}

/// Every field below `start` is described.
fn assert_documented(summary: &Value, start: &str) {
    let mut found = BTreeSet::new();
    fields("", summary, &mut found);
    let documented = documented_fields("summary.md", "| field ");
    let own: Vec<&String> = found.iter().filter(|field| field.starts_with(start)).collect();
    assert!(!own.is_empty(), "no {start}: {found:?}");
    let missing: Vec<_> = own.into_iter().filter(|field| !documented.contains(*field)).collect();
    assert!(missing.is_empty(), "docs/summary.md does not describe {missing:?}");
}

fn refused(folder: &Folder, plan: &str, words: &[&str]) {
    let out = folder.path().join("out");
    let done = run_in(folder, plan, &["--out", out.to_str().unwrap()]);
    assert_eq!(done.code, 2, "{}", done.stderr);
    words.iter().for_each(|word| assert!(done.stderr.contains(word), "{word}: {}", done.stderr));
    assert!(!out.exists(), "a run that did not start leaves no results");
}

/// A server that writes a line per request to a log that is rotated meanwhile, with the request's token.
fn logging(path: PathBuf) -> Server {
    let written = Mutex::new(0);
    Server::start(move |_, received| {
        let mut written = written.lock().unwrap();
        *written += 1;
        let token = received.header("authorization").unwrap_or_default();
        append(&path, &format!("request {written}: upstream timeout, sent {token}\nfine\n"));
        if *written == 20 {
            std::fs::rename(&path, path.with_extension("log.1")).unwrap();
        }
        Reply::ok(RPC_RESULT)
    })
}

#[test]
fn lines_of_a_log_are_counted_across_its_rotation_without_secrets() {
    let folder = Folder::new();
    let log = folder.path().join("gateway.log");
    append(&log, "timeout of an earlier run\n");
    let server = logging(log);
    let tables = "[[log]]\nname = \"gateway\"\nfile = \"gateway.log\"\npatterns = [\"error|timeout\", \"goaway|enhance\"]\n";
    let path = folder.file("plan.toml", plan(&server, tables));
    let out = folder.path().join("out");
    let secret = "t0p-s3cret-value";
    let run = command(&["run", &path, "--out", out.to_str().unwrap()])
        .env("NODE_TOKEN", secret)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&run.stdout);
    assert_eq!(run.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&run.stderr));
    for words in ["log ", "error|timeout", "rotated once", "upstream timeout, sent [redacted]"] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let summary: Value = serde_json::from_str(&read("summary.json")).unwrap();
    assert_documented(&summary, "logs[]");
    let own = &summary["logs"][0];
    assert_eq!((&own["name"], &own["lines"]), (&"gateway".into(), &80.into()), "{own}");
    let patterns = own["patterns"].as_array().unwrap();
    assert_eq!((&patterns[0]["lines"], &patterns[1]["lines"]), (&40.into(), &0.into()));
    assert!(patterns[0]["first"]["text"].as_str().unwrap().starts_with("request 1: upstream"));
    assert!(patterns[1]["first"].is_null());
    for name in ["summary.json", "snapshots.jsonl", "report.html", "plan.toml"] {
        assert!(!read(name).contains(secret), "{name}");
    }
    assert!(read("report.html").contains("request 1: upstream timeout"));
    // Reports that are made later say the same.
    let again = plimsoll(&["report", out.to_str().unwrap(), "--format", "json"]);
    let again: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(again["logs"], summary["logs"]);
    let part = plimsoll(&["report", out.to_str().unwrap(), "--target", "rpc", "--format", "json"]);
    let part: Value = serde_json::from_str(&part.stdout).unwrap();
    assert_eq!(part["logs"], summary["logs"], "the only target is the whole run");
}

#[test]
fn a_command_runs_only_if_allowed_and_is_ended_with_its_group() {
    let folder = Folder::new();
    let server = Server::start(|_, _| Reply::ok(RPC_RESULT));
    let pid = folder.path().join("pid");
    // Its child keeps the pipe open and ignores SIGTERM.
    let script = format!(
        "trap '' TERM; echo started; echo 'HTTP/2 GOAWAY' >&2; (trap '' TERM; while :; do sleep 1; done) & echo $! > {}; wait",
        pid.display()
    );
    let tables = format!(
        "[[log]]\nname = \"traefik\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\npatterns = ['(?i)goaway']\n"
    );
    let plan = plan(&server, &tables);
    refused(
        &folder,
        &plan,
        &["the plan runs commands on this host", "traefik: sh -c trap", "add --allow-commands"],
    );
    assert!(!pid.exists());
    let result = RunResult::of(run_in(&folder, &plan, &["--no-out", "--allow-commands"]));
    let own = &result.summary["logs"][0];
    assert_eq!((&own["lines"], &own["patterns"][0]["lines"]), (&2.into(), &1.into()), "{own}");
    assert_eq!(own["failures"], serde_json::json!({}), "it did not end by itself: {own}");
    let child = std::fs::read_to_string(&pid).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
    // Nobody may have reaped it yet.
    let state = stat.rsplit_once(") ").map_or("gone", |(_, rest)| &rest[..1]);
    assert!(["gone", "Z", "X"].contains(&state), "{stat}");
}

#[test]
fn what_does_not_exist_on_this_host_is_refused() {
    let folder = Folder::new();
    let server = Server::start(|_, _| Reply::ok(RPC_RESULT));
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let tables = format!(
        "[[scrape]]\nname = \"redis\"\npid = {}\n[[scrape]]\nname = \"nginx\"\ncgroup = \"/no.such.slice\"\n",
        ended.id()
    );
    refused(
        &folder,
        &plan(&server, &tables),
        &[
            "\"redis\": no process has the id",
            "\"nginx\": there is no control group /no.such.slice",
        ],
    );
    let tables = "[[log]]\nname = \"a\"\ncommand = [\"/no/such/program\"]\npatterns = [\"x\"]\n";
    let path = folder.file("plan.toml", plan(&server, tables));
    let done = plimsoll(&["run", &path, "--no-out", "--allow-commands"]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("the log \"a\": cannot run /no/such/program"), "{}", done.stderr);
    // A file may appear later.
    let tables = "[[log]]\nfile = \"missing.log\"\npatterns = [\".*\"]\n";
    let result = RunResult::of(run_in(&folder, &plan(&server, tables), &["--no-out"]));
    let failures = result.summary["logs"][0]["failures"].to_string();
    assert!(failures.contains("the file does not exist"), "{failures}");
    assert!(
        result.done.stderr.contains("the pattern \".*\" matches every line"),
        "{}",
        result.done.stderr
    );
    assert_eq!(server.received().len(), 40);
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn processes_without_metrics_are_observed_until_they_end() {
    let folder = Folder::new();
    let busy = || {
        let mut busy = Command::new("sh");
        busy.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
        Killed(busy.spawn().unwrap())
    };
    let (lasts, ends) = (busy(), busy());
    let pids = [lasts.0.id(), ends.0.id()];
    let ends = Mutex::new((0, Some(ends)));
    let server = Server::start(move |_, _| {
        let mut ends = ends.lock().unwrap();
        ends.0 += 1;
        if ends.0 == 20 {
            ends.1 = None;
        }
        Reply::ok(RPC_RESULT)
    });
    let tables = format!(
        "[[scrape]]\nname = \"lasts\"\npid = {}\n[[scrape]]\nname = \"ends\"\npid = {}\n",
        pids[0], pids[1]
    );
    let result = RunResult::of(run_in(&folder, &plan(&server, &tables), &["--no-out"]));
    let [one, two] = [0, 1].map(|place| &result.summary["scrapes"]["processes"][place]);
    assert_eq!(one["url"], format!("pid {}", pids[0]));
    assert!(one["cpu_ns"].as_u64().unwrap() > 0, "{one}");
    assert!(one["resident_memory_bytes_max"].as_u64().unwrap() > 0, "{one}");
    assert_eq!(one["failed"], 0);
    let failures = two["failures"].to_string();
    assert!(failures.contains(&format!("no process has the id {}", pids[1])), "{failures}");
    drop(lasts);
}

/// The gateway's page after `relays` relays: each took 1 ms of CPU and two operations in Redis.
fn metrics(relays: u64) -> String {
    format!(
        "process_cpu_seconds_total {}\nprocess_start_time_seconds 5\nplimsoll_db_queries_total 0\n\
         plimsoll_relays_total{{service=\"eth\",upstream=\"a\",outcome=\"ok\"}} {relays}\n\
         plimsoll_redis_operations_total{{result=\"hit\"}} {}\n",
        7.0 + relays as f64 / 1e3,
        2 * relays
    )
}

#[test]
fn costs_follow_from_counters_and_bytes() {
    let folder = Folder::new();
    let relayed = Mutex::new(0u64);
    // Half of the calls fail.
    let server = Server::start(move |_, received| {
        let mut relayed = relayed.lock().unwrap();
        if received.line() == "GET /metrics" {
            return Reply::ok(&metrics(*relayed));
        }
        *relayed += 1;
        if relayed.is_multiple_of(2) { Reply::with(503, "", "no") } else { Reply::ok(RPC_RESULT) }
    });
    let tables = format!(
        "[[scrape]]\nname = \"gw-1\"\nurl = \"{}/metrics\"\n[cost]\nvcpu_hour = \"0.036 USD\"\ntraffic_gib = \"0.09 USD\"\n\
         redis_operation = \"0.20 USD per million\"\ncompute_unit = \"0.3 USD per million\"\ncupr = 10\n\
         services = {{ ethereum = \"eth\" }}\ninstance_month = \"62 USD\"\ninstance_vcpus = 2\ntarget_rate = \"60000/s\"\nutilisation = \"60%\"\n",
        server.url()
    );
    let out = folder.path().join("out");
    let done = run_in(&folder, &plan(&server, &tables), &["--out", out.to_str().unwrap()]);
    let result = RunResult::of(done);
    let cost = &result.summary["cost"];
    let total = &cost["total"];
    assert_eq!((&total["relays"], &total["requests_ok"]), (&40.into(), &20.into()), "{cost}");
    assert_eq!(cost["currency"], "USD");
    let near = |value: &Value, expected: f64| {
        let value = value.as_f64().unwrap();
        assert!((value / expected - 1.0).abs() < 1e-6, "{value}, not {expected}: {cost}");
    };
    near(&total["cpu_ns_per_relay"], 1e6);
    near(&total["redis_operations_per_relay"], 2.0);
    near(&total["compute_units_per_relay"], 10.0);
    let bytes = (result.count("/bytes/in") + result.count("/bytes/out")) as f64 / 40.0;
    near(&total["bytes_per_relay"], bytes);
    let traffic = bytes * 1e6 / 1_073_741_824.0 * 0.09;
    near(&total["per_million_relays"], 0.01 + traffic + 0.4 + 3.0);
    near(&total["per_million_ok"], 2.0 * (0.01 + traffic + 0.4 + 3.0));
    let chain = &cost["chains"]["ethereum"];
    assert_eq!((&chain["relays"], &chain["cpu_ns_per_relay"]), (&40.into(), &Value::Null));
    assert!(cost["unknown"].to_string().contains("not counted by chain: gw-1"), "{cost}");
    assert_documented(&result.summary, "cost");
    // 60,000 × 1 ms = 60 vCPUs, and 1.2 of each instance.
    assert_eq!(cost["projection"]["instances"], 50, "{cost}");
    near(&cost["projection"]["month"]["instances"], 3_100.0);
    let text = plimsoll(&["report", out.to_str().unwrap()]).stdout;
    let text: String = text.split_whitespace().collect::<Vec<&str>>().join(" ");
    for words in [
        "cost per relay",
        "projection, not measured: 50 instances for 60,000 requests/s",
        "60.00 ÷ (2 vCPUs × 60 %) = 50.00",
        "a million requests answered as expected",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(
        page.contains("<strong>Projection, not measured:</strong>")
            && page.contains("Cost per relay")
    );
    let twice =
        plimsoll(&["report", out.to_str().unwrap(), out.to_str().unwrap(), "--format", "json"]);
    let twice: Value = serde_json::from_str(&twice.stdout).unwrap();
    assert_eq!(twice["cost"].is_null(), twice["merged"].is_object());
}
