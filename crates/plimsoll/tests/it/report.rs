//! What a user reads: answers by instance, colours, and documents that describe every figure.

use crate::run::{Folder, RPC, command, plimsoll, run_plan};
use crate::server::{Reply, Server};
use plimsoll_measure::{FindingId, Listed, wire};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// A server that names itself in a header.
fn instance(name: &'static str) -> Server {
    Server::start(move |_, received| {
        let header = format!("X-Instance: {name}\r\n");
        Reply::with(200, if received.line() == "GET /none" { "" } else { &header }, "ok")
    })
}

/// Passes the connections to one port on to these servers in turn.
fn balancer(servers: [SocketAddr; 2]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pass = |mut from: TcpStream, mut to: TcpStream| {
        std::thread::spawn(move || {
            // Either side may end a connection at any time.
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    };
    std::thread::spawn(move || {
        for (caller, server) in listener.incoming().zip(servers.into_iter().cycle()) {
            let (Ok(caller), Ok(server)) = (caller, TcpStream::connect(server)) else { return };
            pass(caller.try_clone().unwrap(), server.try_clone().unwrap());
            pass(server, caller);
        }
    });
    address
}

#[test]
fn answers_are_counted_by_instance_exactly() {
    let servers = [instance("gw-1"), instance("gw-2")];
    let url = format!("http://{}", balancer([servers[0].address, servers[1].address]));
    let folder = Folder::new();
    let plan = format!(
        "split_by = {{ header = \"X-INSTANCE\" }}\nwarmup = \"100ms\"\n\
         [[stream]]\nusers = 8\nrequests = 900\n\
         [[stream.target]]\nname = \"a\"\nweight = 2\nrequest = \"GET {url}/\"\n\
         [[stream.target]]\nname = \"none\"\nrequest = \"GET {url}/none\"\n\
         [[stream]]\nname = \"other header\"\nusers = 1\nrequests = 50\nsplit_by = {{ header = \"absent\" }}\n\
         [[stream.target]]\nname = \"c\"\nrequest = \"GET {url}/c\"\n"
    );
    let (plan, out) = (folder.file("plan.toml", plan), folder.path().join("out"));
    let args = ["run", &plan, "--out", out.to_str().unwrap(), "--workers", "2"];
    let done = plimsoll(&args);
    assert!([0, 98].contains(&done.code), "{}\n{}", done.stdout, done.stderr);
    let summary: Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("summary.json")).unwrap()).unwrap();
    let split = &summary["split"][0];
    let n = |value: &Value| value.as_u64().unwrap();
    assert_eq!((n(&split["answers"]), n(&split["none"]), n(&split["other"])), (900, 300, 0));
    // The servers' own counts, of which the warm-up and the second stream are not part.
    let values = [&split["values"]["gw-1"], &split["values"]["gw-2"]].map(n);
    assert_eq!(values[0] + values[1], 600);
    for (counted, server) in values.iter().zip(&servers) {
        let received = server.received();
        let own = received.iter().filter(|received| received.line() == "GET /").count() as u64;
        assert!(*counted > 0 && *counted <= own, "{counted} of {own}");
    }
    let absent = &summary["split"][1];
    assert_eq!((&absent["header"], n(&absent["none"])), (&Value::from("absent"), 50));
    // The seconds of both workers add up.
    let text = std::fs::read_to_string(out.join("snapshots.jsonl")).unwrap();
    let seconds = wire::read(&text).unwrap().snapshots;
    let mut sum = seconds[0].blank();
    seconds.iter().for_each(|second| sum.append(second));
    let counted: Vec<_> =
        sum.streams[0].split.values.iter().map(|(value, n)| (value.as_str(), *n)).collect();
    assert_eq!(counted, [("gw-1", values[0]), ("gw-2", values[1])]);
    assert_eq!(sum.streams[0].split.total(), 900);
    for words in ["  x-instance  ", "\n  gw-1  ", "\n  (none)  ", "  absent  ", " from even\n"] {
        assert!(done.stdout.contains(words), "{words}\n{}", done.stdout);
    }
    // The resolved plan keeps it.
    let check = plimsoll(&["check", out.join("plan.toml").to_str().unwrap()]);
    assert!(check.stdout.contains("split_by = { header = \"absent\" }"), "{}", check.stdout);
}

#[test]
fn header_values_are_bounded() {
    let long = "v".repeat(3000);
    let server = Server::start(move |number, _| {
        let header = format!("X-Instance: \x1b[31m{}{long}\r\n", number % 40);
        Reply::with(200, &header, "ok")
    });
    let plan = format!(
        "users = 2\nrequests = 400\nsplit_by = {{ header = \"x-instance\" }}\n\
         [[target]]\nrequest = \"GET {}/\"\n",
        server.url()
    );
    let result = run_plan(&plan, &[]);
    let split = &result.summary["split"][0];
    let values = split["values"].as_object().unwrap();
    assert_eq!(values.len(), 32, "{split}");
    assert!(values.keys().all(|value| value.len() == 48 && value.starts_with("?[31m")), "{split}");
    let named: u64 = values.values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(named + split["other"].as_u64().unwrap(), 400, "{split}");
}

#[test]
fn colours_follow_the_terminal_the_environment_and_the_flag() {
    let server = Server::start(|_, _| Reply::with(503, "", "busy"));
    let url = server.url();
    let run = |flags: &[&str], environment: &[(&str, &str)]| {
        let fixed = ["run", "--url", &url, "--users", "1", "-n", "3", "--no-out"];
        let mut command = command(&[&fixed[..], flags].concat());
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM"] {
            command.env_remove(name);
        }
        command.envs(environment.iter().copied());
        let done: crate::run::Done = command.output().unwrap().into();
        assert!(done.stdout.contains("NO REQUEST SUCCEEDED"), "{}", done.stderr);
        done.stdout.contains("\x1b[1;31mNO REQUEST SUCCEEDED:\x1b[0m")
    };
    assert!(!run(&[], &[]), "stdout is a pipe");
    assert!(!run(&[], &[("TERM", "xterm-256color")]));
    assert!(run(&["--color", "always"], &[("NO_COLOR", "1")]));
    assert!(run(&[], &[("CLICOLOR_FORCE", "1")]));
    assert!(!run(&["--color", "never"], &[("CLICOLOR_FORCE", "1")]));
}

#[test]
fn every_finding_is_documented() {
    let text = document("findings.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let documented: BTreeSet<&str> = rows.map(|(id, _)| id).collect();
    let all: BTreeSet<&str> = FindingId::ALL.iter().map(|id| id.name()).collect();
    assert_eq!(documented, all);
}

/// Objects that the document describes once, by their unit.
const UNITS: [(&str, &[&str]); 7] = [
    ("counts", &["scheduled", "sent", "unsent", "ok", "failed"]),
    ("rates", &["scheduled", "sent", "ok"]),
    ("usage", &["used", "limit"]),
    ("sending", &["busy_ns", "receiver_limited_ns", "buffer_limited_ns", "retransmitted"]),
    ("example", &["from_ns", "to_ns", "lines", "text"]),
    (
        "cost",
        &[
            "requests_sent",
            "requests_ok",
            "relays",
            "cpu_ns_per_relay",
            "bytes_per_relay",
            "redis_operations_per_relay",
            "database_queries_per_relay",
            "compute_units_per_relay",
            "upokt",
            "per_million_relays",
            "per_million_ok",
            "parts",
        ],
    ),
    ("times", &["min", "mean", "p50", "p90", "p95", "p99", "p999", "max", "count"]),
];
/// Objects whose keys are names.
const MAPS: [&str; 30] = [
    "logs[].events",
    "logs[].failures",
    "cost.chains",
    "cost.projection.month.usage",
    "errors",
    "error_seconds",
    "faults",
    "status",
    "rpc.codes",
    "connections.reasons",
    "targets[].tags",
    "targets[].errors",
    "tags",
    "tags.*",
    "tags.*.*.errors",
    "streams[].errors",
    "stages[].errors",
    "targets[].messages",
    "tags.*.*.messages",
    "streams[].messages",
    "stages[].messages",
    "split[].values",
    "objectives[].where",
    "host.timeline[].namespace_tcp",
    "scrapes.processes[].failures",
    "scrapes.processes[].upstreams",
    "scrapes.processes[].calls.outcomes",
    "scrapes.processes[].calls.cache",
    "scrapes.groups[].cache",
    "scrapes.groups[].upstreams",
];

/// Adds the paths of all fields below `path`.
pub(crate) fn fields(path: &str, value: &Value, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            let keys: BTreeSet<&str> = object.keys().map(String::as_str).collect();
            if UNITS.iter().any(|(_, names)| keys == names.iter().copied().collect()) {
                all.insert(path.into());
                return;
            }
            for (key, value) in object {
                let map = MAPS.contains(&path);
                let key = if map { "*" } else { key };
                fields(
                    &if path.is_empty() { key.into() } else { format!("{path}.{key}") },
                    value,
                    all,
                );
            }
        }
        Value::Array(items) if path.ends_with("error_seconds.*") => {
            assert_eq!(items.len(), 2);
            all.insert(path.into());
        }
        Value::Array(items) => {
            items.iter().for_each(|item| fields(&format!("{path}[]"), item, all));
        }
        _ => _ = all.insert(path.into()),
    }
}

/// The fields named in a table of a document, by the beginning of the table's first line.
pub(crate) fn documented_fields(name: &str, head: &str) -> BTreeSet<String> {
    let text = document(name);
    let rows = text.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let names = rows.take_while(|line| line.starts_with('|')).flat_map(|row| {
        let names = row.split(" | ").next().unwrap().split('`').skip(1).step_by(2);
        names.map(str::to_string).collect::<Vec<_>>()
    });
    names.collect()
}

#[test]
fn every_field_of_the_summary_is_documented() {
    let server = Server::start(|number, received| match (number % 5, received.line()) {
        (_, "GET /metrics") => Reply::ok(&format!(
            "plimsoll_relays_total{{service=\"eth\",upstream=\"a\",outcome=\"ok\"}} {number}\n\
             plimsoll_calls_total{{service=\"eth\",method=\"m\",outcome=\"ok\",cache=\"bypass\"}} {number}\n\
             process_cpu_seconds_total 1\nprocess_resident_memory_bytes 7\nprocess_open_fds 3\n",
        )),
        (0, _) => Reply::ok(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"x"}}"#),
        (1, _) => Reply::raw("nonsense", crate::server::After::Close),
        _ => Reply::ok(r#"{"jsonrpc":"2.0","id":1,"result":1}"#),
    });
    let url = server.url();
    let plan = format!(
        "stages = [{{ rate = \"100/s\", for = \"600ms\" }}, {{ rate = \"50/s\", over = \"1100ms\" }}]\n\
         warmup = \"100ms\"\nsplit_by = {{ header = \"x\" }}\nname = \"fields\"\n\
         [[target]]\nname = \"a\"\ntags = {{ chain = \"eth\" }}\nrequest = \"POST {url}/\"\nbody = '{RPC}'\n\
         [[objective]]\nthat = \"success > 0%\"\nwhere = {{ chain = \"eth\" }}\n\
         [[scrape]]\nurl = \"{url}/metrics\"\n[[scrape]]\nurl = \"http://127.0.0.1:1/metrics\"\n"
    );
    let summary = run_plan(&plan, &[]).summary;
    let mut found = BTreeSet::new();
    fields("", &summary, &mut found);
    let text = document("summary.md");
    let documented = documented_fields("summary.md", "| field ");
    // An object may be null.
    let is_object =
        |field: &String| documented.iter().any(|known| known.starts_with(&format!("{field}.")));
    let missing: Vec<_> = found.difference(&documented).filter(|field| !is_object(field)).collect();
    assert!(missing.is_empty(), "docs/summary.md does not describe {missing:?}");
    // Values that are not in every summary.
    let may_lack = |field: &String| {
        [
            "scrapes.groups[]",
            "split[].values.*",
            "connections.http2.",
            "messages.",
            "logs[].",
            "cost.",
            "agents[].",
        ]
        .iter()
        .any(|start| field.starts_with(start))
            || field.ends_with(".messages.*")
    };
    let stale: Vec<_> = documented.difference(&found).filter(|field| !may_lack(field)).collect();
    assert!(stale.is_empty(), "docs/summary.md describes {stale:?}, which do not exist");
    for (unit, names) in UNITS {
        let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        assert!(text.contains(&format!("| {unit} | {} |", names.join(", "))), "{unit}");
    }
}

/// What `--trace` prints is documented, and a response cannot control the terminal.
#[test]
fn traces_print_whole_exchanges() {
    let server = Server::start(|_, _| Reply::with(200, "X-Evil: \x1b[2J\r\n", "hi\x1b]0;x\x07"));
    let args =
        ["run", "--url", &server.url(), "--users", "1", "-n", "5", "--no-out", "--trace", "2"];
    let done = plimsoll(&args);
    assert_eq!(done.stderr.matches("── response\n").count(), 2, "{}", done.stderr);
    let response = "── response\nHTTP/1.1 200 X\nX-Evil: \\u{1b}[2J\nContent-Length: 8\n\nhi\\u{1b}]0;x\\u{7}\n";
    assert!(done.stderr.contains(response), "{}", done.stderr);
    assert!(done.stderr.contains("── url · sent at "), "{}", done.stderr);
    assert!(document("measuring.md").contains("## Traces"));
}

#[test]
fn findings_for_information_have_no_fix() {
    let server = Server::start(|_, _| Reply::ok("fine"));
    let folder = Folder::new();
    let plan = folder.file(
        "plan.toml",
        format!("users = 1\nduration = \"30s\"\n[[target]]\nrequest = \"GET {}/\"\n", server.url()),
    );
    let child = crate::run::start(&["run", &plan, "--no-out"]);
    server.wait_for(3);
    crate::stopping::interrupt(&child);
    let done = crate::run::Done::from(child.wait_with_output().unwrap());
    assert_eq!(done.code, 130, "{}", done.stderr);
    let finding = done.stdout.lines().position(|line| line.starts_with("  cut_short: "));
    let next = done.stdout.lines().nth(finding.expect(&done.stdout) + 1);
    assert!(next.is_none_or(|line| !line.contains("fix:")), "{}", done.stdout);
}
