//! Valid and invalid plans as users write them.

use super::*;
use crate::{Arrivals, End, Load, Metric, RpcExpect};

const FOUR_CHAINS: &str = r#"
name = "four chains"
rate = "5000/s"
duration = "33m"
arrivals = "poisson"
warmup = "10s"
timeout = "20s"
connections = { max = 500, reuse = true, source = ["127.0.0.2", "127.0.0.3"] }

[[target]]
name = "ethereum"
weight = 40
tags = { chain = "ethereum" }
request = "POST ${GATEWAY}/api/gateway?endpoint=${ETH_KEY}"
headers = { Authorization = "Bearer ${NODE_TOKEN}", X-Trace = ["a", "b-{{seq}}"] }
body = '{"jsonrpc":"2.0","method":"eth_blockNumber","params":[],"id":{{seq}}}'
expect = { status = [200, "3xx"], jsonrpc = "any" }

[[target]]
name = "health"
weight = 20
request = "GET ${GATEWAY}/health"

[[objective]]
that = "success >= 99%"
[[objective]]
that = "latency.p99 < 250ms"
where = { chain = "ethereum" }
abort = { after = "10s" }
"#;

fn variables() -> Variables {
    let mut variables = Variables::none();
    for (name, value) in
        [("GATEWAY", "http://gw:3069"), ("ETH_KEY", "k3y"), ("NODE_TOKEN", "t0ken")]
    {
        variables.set(name, value);
    }
    variables
}

fn read(text: &str) -> Result<Plan, Problems> {
    Plan::read(&Document::new("plan.toml", text), &variables(), Path::new("."))
}

/// Checks that reading the plan reports this problem.
fn check(text: &str, problem: &str) {
    let problems = read(text).map(|plan| plan.to_toml()).unwrap_err().to_string();
    assert!(problems.contains(problem), "\n{text}\nreports\n{problems}\ninstead of\n{problem}");
}

/// Checks these lines in an otherwise valid plan with one stream.
fn check_flat(lines: &str, problem: &str) {
    check(&format!("{lines}\n[[target]]\nrequest = \"GET http://h/\"\n"), problem);
}

/// Checks these lines as the target of an otherwise valid plan.
fn check_target(lines: &str, problem: &str) {
    check(&format!("rate = \"1/s\"\nduration = \"1s\"\n[[target]]\n{lines}\n"), problem);
}

#[test]
fn a_complete_plan() {
    let plan = read(FOUR_CHAINS).unwrap();
    assert_eq!((plan.timeout, plan.grace), (Nanos::from_secs(20), Nanos::from_secs(20)));
    assert_eq!(plan.connections.sources.len(), 2);
    let stream = &plan.streams[0];
    assert!(matches!(stream.load, Load::Open { arrivals: Arrivals::Poisson, .. }));
    assert_eq!(stream.end, End::After(Nanos::from_secs(1980)));
    let ethereum = &plan.requests[0];
    assert_eq!(ethereum.url.path, "/api/gateway?endpoint=k3y");
    assert_eq!((ethereum.expect.rpc, ethereum.expect.allows(302)), (RpcExpect::Any, true));
    assert_eq!(ethereum.headers.len(), 4, "the content type is added");
    assert_eq!(plan.requests[1].expect.status, vec![200..=399]);
    assert_eq!(plan.objectives[0].metric, Metric::Success);
    assert_eq!(plan.objectives[1].abort_after, Some(Nanos::from_secs(10)));
}

#[test]
fn a_seed_is_part_of_the_plan_once_it_is_given_or_drawn() {
    let flat =
        "rate = \"1/s\"\nduration = \"1s\"\n[[target]]\nrequest = \"GET http://h/{{uuid}}\"\n";
    let mut plan = read(flat).unwrap();
    let digest = plan.digest();
    assert!(!plan.has_seed && !plan.to_toml().contains("seed"));
    let uuid = |plan: &Plan| {
        let mut out = Vec::new();
        plan.requests[0].path.render(plan.streams[0].values(0), &mut out);
        String::from_utf8(out).unwrap()
    };
    let before = uuid(&plan);
    plan.reseed(42);
    assert!(plan.to_toml().contains("\nseed = 42\n"), "{}", plan.to_toml());
    assert_ne!(uuid(&plan), before);
    assert_eq!(plan.digest(), digest, "another seed is the same plan");
    let given = read(&format!("seed = 42\n{flat}")).unwrap();
    assert!(given.has_seed);
    assert_eq!(uuid(&given), uuid(&plan));
    assert_eq!(given.streams[0].deck.deal(7), plan.streams[0].deck.deal(7));
    check_flat("seed = 9007199254740993\nrate = \"1/s\"\nduration = \"1s\"", "plan.toml:1:8");
}

#[test]
fn values_that_cannot_be_used_are_not_changed_silently() {
    check_flat(
        "rate = \"1/s\"\nduration = \"1s\"\ngrace = \"2h\"",
        "plan.toml:3:9: \"grace\" must be at most",
    );
    check_flat(
        "stages = [{ rate = \"1/s\", users = 3, for = \"1s\" }]",
        "\"rate\" and \"users\" in one stage",
    );
    check_flat(
        "stages = [{ rate = \"200000000/s\", for = \"1s\" }]",
        "plan.toml:1:20: \"rate\" must be at most 100000000/s",
    );
}

#[test]
fn the_resolved_plan_reads_back_and_hides_secrets() {
    let staged = "split_by = { header = \"X-Instance\" }\n[[stream]]\nname = \"a\"\nstart = \"5s\"\nlabels = { chain = \"boba\" }\n\
        stages = [{ rate = \"1000/s\", over = \"30s\" }, { rate = \"5000/s\", for = \"1m30s\" }]\n\
        [[stream.target]]\nrequest = \"GET http://u:pw@h/\"\n\
        [[stream]]\nusers = 20\nthink_time = \"1s\"\nrequests = 500\n\
        [[stream.target]]\nrequest = \"POST http://h/{{uuid}}\"\nbody = \"a\\nb\"\n";
    for text in [FOUR_CHAINS, staged] {
        let plan = read(text).unwrap();
        let shown = plan.to_toml();
        assert!(!shown.contains("k3y") && !shown.contains("t0ken"), "{shown}");
        assert!(!shown.contains("pw"), "{shown}");
        let again = read(&shown).unwrap_or_else(|problems| panic!("{problems}\n{shown}"));
        assert_eq!(again.to_toml(), shown);
        assert_eq!(again.digest(), plan.digest());
    }
}

#[test]
fn answers_are_split_by_a_header() {
    let split = |text: &str| {
        let plan = read(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        let by = |stream: &Stream| stream.split_by.clone().unwrap_or("-".into());
        plan.streams.iter().map(by).collect::<Vec<_>>().join(" ")
    };
    let stream = |lines: &str| {
        format!(
            "[[stream]]\nusers = 1\nrequests = 1\n{lines}[[stream.target]]\nrequest = \"GET http://h/\"\n"
        )
    };
    let flat = |lines: &str| stream(lines).replace("[[stream]]\n", "").replace("stream.", "");
    assert_eq!(split(&flat("")), "-");
    assert_eq!(split(&flat("split_by = { header = \"X-Instance\" }\n")), "x-instance");
    let own = stream("name = \"b\"\nsplit_by = { header = \"via\" }\n");
    assert_eq!(split(&(stream("") + &own)), "- via");
    assert_eq!(split(&format!("split_by.header = \"server\"\n{}{own}", stream(""))), "server via");

    check_flat("split_by = \"x\"", "must be a table");
    check_flat("split_by = {}", "plan.toml:1:12: \"split_by\" needs \"header\"");
    check_flat("split_by = { header = 1 }", "must be a string");
    check_flat(
        "split_by = { header = \"a b\" }",
        "plan.toml:1:23: \"a b\" is not a valid header name",
    );
    check_flat("split_by = { header = \"\" }", "split_by = { header = \"x-instance\" }");
    check_flat("split_by = { headr = \"a\" }", "unknown key \"headr\"");
    let long = format!("split_by = {{ header = \"{}\" }}", "a".repeat(65));
    check_flat(&long, "a header name of 65 bytes; the maximum is 64");
}

#[test]
fn description() {
    let stage = |over, hold| crate::Stage {
        value: 3500.0,
        over: Nanos::from_secs(over),
        hold: Nanos::from_secs(hold),
    };
    let text = "users = 1\nrequests = 1\n[[target]]\nrequest = \"GET http://h/\"\n";
    let users = read(text).unwrap().streams.remove(0);
    let rate = read(FOUR_CHAINS).unwrap().streams.remove(0);
    for (stream, over, hold, words) in [
        (&rate, 0, 10, "3,500/s for 10s"),
        (&rate, 10, 0, "ramp to 3,500/s over 10s"),
        (&rate, 10, 5, "3,500/s over 10s, then 5s"),
        (&users, 60, 0, "ramp to 3,500 users over 1m"),
    ] {
        assert_eq!(stream.stage_in_words(&stage(over, hold)), words);
    }
    let text = read(FOUR_CHAINS).unwrap().describe();
    assert!(text.contains("5,000/s for 33m, Poisson arrivals"), "{text}");
    assert!(text.contains("66.7 %  ethereum: POST http://gw:3069/api/gateway?endpoint=${ETH_KEY}"));
    assert!(text.contains("passes when latency.p99 < 250ms where chain = ethereum"), "{text}");
}

#[test]
fn bad_loads() {
    check_flat("ratee = \"1/s\"\nduration = \"1s\"", "plan.toml:1:1: unknown key \"ratee\"");
    check_flat("ratee = \"1/s\"\nduration = \"1s\"", "did you mean \"rate\"?");
    check_flat(
        "rate = [5]\nduration = \"1s\"",
        "plan.toml:1:8: \"rate\" must be a number per second, or a string such as \"300/m\", not a list",
    );
    check_flat("rate = \"0/s\"\nduration = \"1s\"", "plan.toml:1:8: \"rate\" must be above 0/s");
    check_flat(
        "rate = \"1/s\"\nduration = \"-5s\"",
        "plan.toml:2:12: \"duration\": a duration cannot be negative",
    );
    check_flat("rate = \"1/s\"\nduration = \"0s\"", "\"duration\" must be longer than zero");
    check_flat("rate = \"1/s\"", "stream \"main\" has neither \"duration\" nor \"requests\"");
    check_flat(
        "duration = \"1s\"",
        "stream \"main\" has no \"rate\", \"users\", \"stages\" or \"sockets\"",
    );
    check_flat(
        "rate = \"1/s\"\nusers = 5\nduration = \"1s\"",
        "plan.toml:2:1: \"rate\" and \"users\" cannot be used together",
    );
    check_flat(
        "rate = \"1/s\"\nduration = \"1s\"\nrequests = 5",
        "\"duration\" and \"requests\" cannot be used together",
    );
    check_flat("users = 0\nduration = \"1s\"", "\"users\" must be from 1 to 1000000, not 0");
    check_flat(
        "rate = \"1/s\"\nthink_time = \"1s\"\nduration = \"1s\"",
        "\"think_time\" requires \"users\"",
    );
    check_flat(
        "users = 1\narrivals = \"poisson\"\nduration = \"1s\"",
        "\"arrivals\" cannot be used with \"users\"",
    );
    check_flat(
        "rate = \"1/s\"\narrivals = \"poison\"\nduration = \"1s\"",
        "did you mean \"poisson\"?",
    );
    check_flat("stages = []", "\"stages\" is empty");
    check_flat("stages = [{ rate = \"1/s\" }]", "a stage needs \"over\" or \"for\"");
    check_flat("stages = [{ rate = \"0/s\", for = \"1s\" }]", "every stage has the value 0");
    check_flat(
        "stages = [{ rate = \"1/s\", for = \"1s\" }]\nduration = \"1s\"",
        "the stages already determine",
    );
    check_flat(
        "rate = \"1/s\"\nduration = \"1s\"\ntimeout = \"2h\"",
        "\"timeout\" must be at most 30m",
    );
    check(
        "rate = \"1/s\"\n[[stream]]\n",
        "\"rate\" is not allowed at the top level together with [[stream]]",
    );
    check("rate = \"1/s\"\nduration = \"1s\"\n", "stream \"main\" has no target");
}

#[test]
fn bad_targets() {
    check_target("request = \"http://h/\"", "\"http://h/\" is not in the form METHOD URL");
    check_target("request = \"GET unix:/run/x.sock:/x\"", "Unix sockets are not supported");
    check_target("request = \"GET http+unix://%2Fx.sock/\"", "Unix sockets are not supported");
    check_target("request = \"POST h/\"", "plan.toml:4:11: \"h/\" is not a valid URL");
    check_target("request = \"GET http://h/\"\nweight = 0", "every target has weight 0");
    check_target("request = \"GET http://${HOST}/\"", "the variable HOST is not set");
    check_target("request = \"GET http://h/\"\nbody_file = \"/no/such\"", "cannot read /no/such");
    check_target("request = \"GET http://h/{{sek}}\"", "unknown placeholder {{sek}}");
    check_target("request = \"GET http://h/a\\tb\"", "a control character (0x09) in the URL");
    check_target("request = \"GET http://h/a HTTP/1.1\"", "\"HTTP/1.1\" after the URL");
    check_target(
        "request = \"GET http://b\u{fc}cher.de/\"",
        "'\u{fc}' is not allowed in a host name",
    );
    check_target(
        "request = \"GET http://h/\"\nheaders = { \"a b\" = \"c\" }",
        "\"a b\" is not a valid header name",
    );
    check_target(
        "request = \"GET http://h/\"\nheaders = { a = \"b\\r\\nc: d\" }",
        "contains a control character",
    );
    check_target(
        "request = \"GET http://h/\"\nheaders = { connection = \"keep-alive\" }",
        "set by the engine itself",
    );
    check_target(
        "request = \"GET http://h/\"\nexpect = { status = 20 }",
        "must be from 100 to 999, not 20",
    );
    check_target(
        "request = \"GET http://h/\"\nexpect = { jsonrpc = \"result\" }",
        "not a JSON-RPC request",
    );
    let twice = "name = \"a\"\nrequest = \"GET http://h/\"\n[[target]]\nname = \"a\"\nrequest = \"GET http://h/\"";
    check_target(twice, "duplicate target name \"a\"");
}

#[test]
fn bad_objectives() {
    let target = "request = \"GET http://h/\"\n";
    let objective = |text: &str| format!("{target}[[objective]]\n{text}");
    check_target(
        &objective("that = \"latncy.p99 < 1s\""),
        "plan.toml:6:8: unknown metric \"latncy.p99\"",
    );
    check_target(
        &objective("that = \"success > 1%\"\nwhere = { chain = \"x\" }"),
        "no target has all of these tags",
    );
    check_target(
        &objective("that = \"lag.p99 < 1s\"\nwhere = { chain = \"x\" }"),
        "\"lag.p99 < 1s\" is counted by stream, not by target",
    );
    check_target(
        &objective("that = \"status.5xx == 0\"\nwhere = { chain = \"x\" }"),
        "covers the whole run",
    );
    check_target(
        &objective("that = \"success > 1% where chain=x\"\nwhere = { chain = \"x\" }"),
        "plan.toml:7:1: \"that\" already contains \"where\"",
    );
    check_target(
        &objective("that = \"success > 1%\"\nwhere = { target = \"target-2\" }"),
        "no target is named \"target-2\"\n  hint: did you mean \"target-1\"?",
    );
    check_target(
        &objective("that = \"success > 1% where stream = burst\""),
        "no stream is named \"burst\"\n  hint: the plan has main",
    );
    check_target(
        &format!("{target}tags = {{ target = \"x\" }}"),
        "plan.toml:5:10: \"target\" cannot be a tag",
    );
    check_target(&objective("where = { chain = \"x\" }"), "an objective needs \"that\"");
}

#[test]
fn objectives_by_target_and_stream() {
    let text = "[[stream]]\nname = \"a\"\nrate = 1\nduration = \"1s\"\n\
        [[stream.target]]\nname = \"x\"\ntags = { chain = \"eth\" }\nrequest = \"GET http://h/\"\n\
        [[stream.target]]\nname = \"y\"\nrequest = \"GET http://h/\"\n\
        [[stream]]\nname = \"b\"\nrate = 1\nduration = \"1s\"\n\
        [[stream.target]]\nname = \"z\"\ntags = { chain = \"eth\" }\nrequest = \"GET http://h/\"\n\
        [[objective]]\nthat = \"success > 1% where target = y\"\n\
        [[objective]]\nthat = \"success > 1%\"\nwhere = { chain = \"eth\", stream = \"b\" }\n\
        [[objective]]\nthat = \"lag.p99 < 1s where stream = a\"\n";
    let mut plan = read(text).unwrap();
    plan.add_objective("success > 1% where chain=eth").unwrap();
    let again = read(&plan.to_toml()).unwrap();
    let covered = |plan: &Plan| {
        let names = plan.objectives.iter().map(|objective| {
            let covers = |target: &&Target| objective.covers(target, &plan.streams);
            plan.targets.iter().filter(covers).map(|target| target.name.as_str()).collect()
        });
        names.collect::<Vec<String>>()
    };
    assert_eq!(covered(&plan), ["y", "z", "xy", "xz"]);
    assert_eq!(covered(&again), covered(&plan));
    let (message, hint) = plan.add_objective("success > 1% where target=zzz").unwrap_err();
    assert_eq!(
        (message.as_str(), hint.as_str()),
        ("no target is named \"zzz\"", "the plan has x, y, z")
    );
}

#[test]
fn methods_are_sent_as_written_with_warnings() {
    let warnings = |method: &str| {
        let text = format!("{TARGET_OF}request = \"{method} http://h/\"");
        let plan = read(&text).unwrap();
        assert_eq!(plan.requests[0].method, method);
        plan.warnings().join("\n")
    };
    for known in ["GET", "POST", "PROPFIND", "QUERY"] {
        assert_eq!(warnings(known), "");
    }
    let check = |method: &str, says: &str| assert_eq!(warnings(method), says);
    check(
        "GTE",
        "target-1: \"GTE\" is not a known HTTP method and is sent as it is; did you mean \"GET\"?",
    );
    check(
        "get",
        "target-1: \"get\" is not a known HTTP method and is sent as it is; methods are \
         case-sensitive: write \"GET\"",
    );
    check("M-SEARCH", "");
    check("FROBNICATE", "target-1: \"FROBNICATE\" is not a known HTTP method and is sent as it is");
    let refused = |method: &str| check_target(&format!("request = \"{method} http://h/\""), "");
    refused("CONNECT");
    refused("connect");
    refused("G(T");
}

#[test]
fn http_versions() {
    let with = |lines: &str, scheme: &str| {
        let target = format!("[[target]]\nrequest = \"GET {scheme}://h/\"\n");
        read(&format!("users = 900\nduration = \"1s\"\n{lines}\n{target}"))
    };
    let check = |lines: &str, scheme: &str, protocol: Protocol, limits: (u64, u64), may: bool| {
        let plan = with(lines, scheme).unwrap();
        let own = |plan: &Plan| {
            let Http2Rules { connections, streams } = plan.connections.http2;
            (plan.protocol, (connections, streams), plan.may_use_http2())
        };
        assert_eq!(own(&plan), (protocol, limits, may), "{lines}");
        let again = read(&plan.to_toml()).unwrap();
        assert_eq!(own(&again).0, protocol);
        assert!(!may || own(&again) == own(&plan), "{}", plan.to_toml());
    };
    use Protocol::{Auto, Http1, Http2};
    check("", "http", Auto, (9, 100), false); // as many as the users need
    check("", "https", Auto, (9, 100), true);
    check("protocol = \"http1\"", "https", Http1, (9, 100), false);
    check("protocol = \"http2\"", "http", Http2, (9, 100), true);
    let limits = "connections.http2 = { connections = 3, streams = 7 }";
    check(limits, "https", Auto, (3, 7), true);
    check("protocol = \"http2\"\nconnections.http2.streams = 10", "http", Http2, (90, 10), true);
    check("connections.reuse = false", "https", Auto, (2_000, 1), true);
    let fails = |lines: &str, problem: &str| {
        let problems = with(lines, "http").map(|plan| plan.to_toml()).unwrap_err().to_string();
        assert!(problems.contains(problem), "{lines}: {problems}");
    };
    fails("protocol = \"h2\"", "must be \"auto\", \"http1\" or \"http2\"");
    fails("protocol = 2", "protocol");
    fails("connections.http2 = 8", "\"http2\" must be a table");
    fails("connections.http2 = { conections = 8 }", "connections");
    fails("connections.http2.streams = 0", "streams");
    fails("connections.http2.streams = 10_001", "10000");
    fails(
        "protocol = \"http1\"\nconnections.http2.streams = 5",
        "no effect with protocol = \"http1\"",
    );
    fails("protocol = \"http2\"\nconnections.max = 5", "set connections = { http2 = ");
}

const TARGET_OF: &str = "rate = 1\nduration = \"1s\"\n[[target]]\n";

#[test]
fn chunked_bodies() {
    let target = "request = \"POST http://h/\"\n";
    let plan = read(&format!("{TARGET_OF}{target}body = \"x\"\ntransfer = \"chunked\"")).unwrap();
    assert!(plan.requests[0].chunked);
    assert!(read(&plan.to_toml()).unwrap().requests[0].chunked);
    let plan = read(&format!("{TARGET_OF}{target}body = \"x\"\ntransfer = \"length\"")).unwrap();
    assert!(!plan.requests[0].chunked);
    check_target(&format!("{target}transfer = \"gzip\""), "must be \"length\" or \"chunked\"");
    // Every request of a target with turns.
    let turns = "transfer = \"chunked\"\n[[target.turn]]\nrequest = \"PUT http://h/\"\nbody = \"x\"\n\
        [[target.turn]]\nrequest = \"PUT http://h/\"\nbody = \"x\"\ntransfer = \"length\"";
    let plan = read(&format!("{TARGET_OF}{turns}")).unwrap();
    assert!(plan.requests[0].chunked && !plan.requests[1].chunked);
    for (header, hint) in [
        ("Transfer-Encoding", "set transfer = \"chunked\" for a chunked body"),
        ("content-length", "it is computed from the body"),
        ("Connection", "for a new connection each time: connections = { reuse = false }"),
    ] {
        check_target(
            &format!("{target}headers = {{ {header} = \"x\" }}"),
            &format!("\"{header}\" is set by the engine itself\n  hint: {hint}"),
        );
    }
}

#[test]
fn scrapes() {
    let plan = |lines: &str| {
        format!(
            "rate = \"1/s\"\nduration = \"1s\"\n[[target]]\nrequest = \"GET http://h/\"\n{lines}"
        )
    };
    let good = "[[scrape]]\nname = \"gw-1\"\nurl = \"${GATEWAY}/metrics?k=${ETH_KEY}\"\n[[scrape]]\nurl = \"http://[::1]:1/\"\ncharts = [\"up\", \"http_requests_total by code\"]\n";
    let plan_read = read(&plan(good)).unwrap();
    let names: Vec<_> = plan_read.scrapes.iter().map(|scrape| scrape.name.as_str()).collect();
    assert_eq!(names, ["gw-1", "scrape-2"]);
    let source = &plan_read.scrapes[0].source;
    assert!(matches!(source, ScrapeSource::Url { url, .. } if url.path == "/metrics?k=k3y"));
    let shown = plan_read.to_toml();
    assert!(!shown.contains("k3y"), "{shown}");
    assert_eq!(read(&shown).unwrap().to_toml(), shown);
    assert!(
        plan_read
            .describe()
            .contains("scrapes http://gw:3069/metrics?k=${ETH_KEY} every second as gw-1")
    );
    let check = |lines: &str, problem: &str| check(&plan(lines), problem);
    check("[[scrape]]\nname = \"a\"", "a scrape needs \"url\", \"pid\" or \"cgroup\"");
    check("[[scrape]]\nurl = \"h/\"", "plan.toml:6:7: \"h/\" is not a valid URL");
    check("[[scrape]]\nurl = \"https://h/\"", "supports only plain HTTP without credentials");
    check("[[scrape]]\nurl = \"http://a:b@h/\"", "supports only plain HTTP without credentials");
    check("[[scrape]]\nurl = \"http://h/a\\tb\"", "a control character (0x09) in the URL");
    check("[[scrape]]\nurl = \"http://h/\"\nevery = \"1s\"", "unknown key \"every\" in [[scrape]]");
    let both = "[[scrape]]\nurl = \"http://h/\"\npid = 7";
    check(both, "plan.toml:7:1: a scrape has one of \"url\", \"pid\" and \"cgroup\"");
    check("[[scrape]]\npid = 0", "must be from 1 to 4194304");
    check("[[scrape]]\npid = 7\ncharts = [\"a\"]", "\"charts\" needs \"url\"");
    check("[[scrape]]\ncgroup = \"/a/../b\"", "is not the path of a control group");
    check("[[scrape]]\ncgroup = \"\"", "is not the path of a control group");
    let local = plan("[[scrape]]\npid = 7\nchain = \"a\"\n[[scrape]]\ncgroup = \"/a.slice\"\n");
    let local = read(&local).unwrap();
    assert_eq!(read(&local.to_toml()).unwrap().scrapes, local.scrapes);
    assert!(local.describe().contains("observes cgroup /a.slice every second as scrape-2"));
    let charts = "[[scrape]]\nurl = \"http://h/\"\ncharts = ";
    check(&format!("{charts}[\"a b\"]"), "\"a b\" is not the name of a metric");
    check(&format!("{charts}[\"a by \"]"), "plan.toml:7:11: \"a by \" is not the name of a metric");
    check(&format!("{charts}\"a\""), "must be a list");
    check(&format!("{charts}[{}]", "\"a\",".repeat(9)), "9 charts; the maximum is 8");
    let twice = "[[scrape]]\nname = \"a\"\nurl = \"http://h/\"\n".repeat(2);
    check(&twice, "duplicate scrape name \"a\"");
    check(&"[[scrape]]\nurl = \"http://h/\"\n".repeat(65), "65 scrapes; the maximum is 64");
}

#[test]
fn every_problem_is_listed() {
    let problems = read("rate = [1]\ndurations = \"1s\"\n[[target]]\nweight = -1\n").unwrap_err();
    assert_eq!(problems.iter().count(), 5, "{problems}");
}

/// The problem of an unknown key lists the known ones.
#[test]
fn the_list_of_keys_matches_the_reader() {
    let problems = read("qqqqqqqqqq = 1").map(|plan| plan.to_toml()).unwrap_err().to_string();
    assert!(problems.ends_with(&format!("known keys: {}", Plan::KEYS.join(", "))), "{problems}");
}
