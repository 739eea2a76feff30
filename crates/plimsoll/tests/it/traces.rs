//! Traces by OpenTelemetry, received by the official schema, and by receivers that misbehave.

use crate::admin_events::peak;
use crate::clients::python_script;
use crate::gateway::{Caller, Process, Response, ask, metric};
use crate::replicas::wait_until;
use crate::run::{Folder, command};
use crate::server::{After, Received, Reply, Server};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// A receiver on the official schema.
struct Receiver {
    process: Child,
    lines: BufReader<ChildStdout>,
    url: String,
}

impl Receiver {
    fn start() -> Receiver {
        let mut command = python_script("otlp_receiver.py");
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        Receiver { process, lines, url: serde_json::from_str(&line).unwrap() }
    }

    /// The next request.
    fn request(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        let request: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(request["error"], Value::Null, "{request}");
        request
    }

    /// The spans of as many requests as it takes until there are this many.
    fn spans(&mut self, count: usize) -> Vec<Value> {
        let mut spans = Vec::new();
        while spans.len() < count {
            spans.extend(self.request()["spans"].as_array().unwrap().iter().cloned());
        }
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// A node whose answers depend on the first parameter: of the calls with `hang` and `fail`, the first
/// attempt is not answered, or with HTTP 500; `revert` reverts. The attempts wait for one another, so
/// that only the order of calls matters, and not which of several nodes they go to.
fn nodes(count: usize) -> Vec<Server> {
    let attempts = std::sync::Arc::new(Mutex::new(Vec::<String>::new()));
    let node = |_| {
        let attempts = attempts.clone();
        Server::start(move |_, received: &Received| {
            let call: Value = serde_json::from_str(&received.body).unwrap();
            let id = &call["id"];
            let result = |result: Value| {
                let text = json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
                Reply::ok(&text)
            };
            if call["method"] == "eth_chainId" {
                return result(json!("0x1"));
            }
            let word = call["params"][0].as_str().unwrap_or_default().to_string();
            let is_first = {
                let mut attempts = attempts.lock().unwrap();
                attempts.push(word.clone());
                attempts.iter().filter(|other| **other == word).count() == 1
            };
            match word.split(' ').next().unwrap() {
                "hang" if is_first => Reply::raw("", After::Hang),
                "fail" if is_first => Reply::with(500, "", "no"),
                "revert" => {
                    let error = json!({"code": 3, "message": "execution reverted", "data": "0x"});
                    let text = json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string();
                    Reply::ok(&text)
                }
                _ => result(json!(received.header("traceparent"))),
            }
        })
    };
    (0..count).map(node).collect()
}

/// Starts a gateway with these nodes, further keys of the file before its tables, and of the service.
fn start(folder: &Folder, nodes: &[Server], keys: &str, of_service: &str) -> (Process, String) {
    let mut config = format!(
        "listen = [\"127.0.0.1:0\"]\ndatabase = \"off\"\nworkers = 1\n{keys}\n\
         [[service]]\nid = \"eth\"\nhealth_checks = false\n{of_service}\n\
         [[endpoint]]\nid = \"ethpath_1764014188689\"\nservice = \"eth\"\n"
    );
    for (at, node) in nodes.iter().enumerate() {
        let url = node.url();
        config += &format!(
            "[[upstream]]\nid = \"node-{at}\"\nservice = \"eth\"\nurl = \"{url}/s3cret-k3y-0123456789\"\n"
        );
    }
    folder.file("gateway.toml", config);
    let process = Process::start(folder, &[]);
    let address = process.address("");
    (process, address)
}

fn traces(url: &str, more: &str) -> String {
    format!("traces = {{ endpoint = \"{url}\", sample = \"100%\"{more} }}")
}

fn body(word: &str) -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [word]}).to_string()
}

fn call(address: &str, word: &str, headers: &str) -> Response {
    Caller::connect(address).unwrap().send_with("POST /v1", headers, &body(word)).unwrap()
}

/// The spans below a span, by their start.
fn children<'s>(spans: &'s [Value], of: &Value) -> Vec<&'s Value> {
    let mut found: Vec<&Value> = spans.iter().filter(|span| span["parent"] == of["id"]).collect();
    found.sort_by_key(|span| span["start"].as_u64());
    found
}

/// The only span that satisfies a condition.
fn only(spans: &[Value], is_it: impl Fn(&Value) -> bool) -> &Value {
    let found: Vec<&Value> = spans.iter().filter(|span| is_it(span)).collect();
    assert_eq!(found.len(), 1, "{spans:#?}");
    found[0]
}

/// Checks some attributes of a span.
#[track_caller]
fn check(span: &Value, expected: Value) {
    for (key, value) in expected.as_object().unwrap() {
        let found = if span[key].is_null() { &span["attributes"][key] } else { &span[key] };
        assert_eq!(found, value, "{key} of {span:#}");
    }
}

#[test]
fn a_call_is_a_tree_of_its_attempts() {
    let (folder, mut receiver, nodes) = (Folder::new(), Receiver::start(), nodes(2));
    let keys = traces(&receiver.url, ", headers = { X-Token = \"s3cret\" }, service = \"edge\"");
    let (process, address) = start(&folder, &nodes, &keys, "hedge = \"p95\"\npatience = \"300ms\"");
    for word in ["fail", "revert"] {
        assert_eq!(call(&address, word, "").status, 200, "{word}");
    }
    // Until hedging knows the usual latency, a call that hangs is retried.
    let hedges = "plimsoll_extra_attempts_total{service=\"eth\",reason=\"hedge\"}";
    let mut rounds = 0;
    loop {
        for _ in 0..20 {
            assert_eq!(call(&address, "warm", "").status, 200);
        }
        let before = metric(&address, hedges);
        assert_eq!(call(&address, &format!("hang {rounds}"), "").status, 200);
        rounds += 1;
        if metric(&address, hedges) > before {
            break;
        }
    }
    let id = "POST /api/gateway?endpoint=ethpath_1764014188689";
    assert_eq!(ask(&address, id, &body("customer")).status, 200);
    // One for each call, and one for each of its attempts.
    let counted = ["plimsoll_calls_total", "plimsoll_relays_total"];
    let count = counted.iter().map(|name| metric(&address, name)).sum::<f64>() as usize;
    let first = receiver.request();
    assert_eq!(first["resource"]["service.name"], "edge");
    assert_eq!(first["path"], "/v1/traces");
    assert_eq!(first["headers"]["x-token"], "s3cret");
    assert_eq!(first["headers"]["content-type"], "application/x-protobuf");
    let mut spans = first["spans"].as_array().unwrap().clone();
    spans.extend(receiver.spans(count - spans.len()));
    process.stop();

    let text = serde_json::to_string(&spans).unwrap();
    assert!(!text.contains("s3cret") && !text.contains("ethpath_1764"), "{text}");
    let calls: Vec<&Value> = spans.iter().filter(|span| span["kind"] == "server").collect();
    assert_eq!(calls.len(), 2 + rounds * 21 + 1);
    // The calls whose first attempt had this outcome, and whose second one was made for this reason.
    let of = |outcome: &str, why: &str| {
        let is_it = |call: &&&Value| match children(&spans, call)[..] {
            [first, second] => {
                first["attributes"]["plimsoll.outcome"] == outcome
                    && second["attributes"]["plimsoll.attempt"] == why
            }
            _ => false,
        };
        *calls.iter().find(is_it).unwrap_or_else(|| panic!("{outcome}, {why}: {spans:#?}"))
    };
    let (failed, hedged) = (of("bad_status", "retry"), of("cancelled", "hedge"));
    for call in &calls {
        check(
            call,
            json!({"name": "eth_call", "parent": "", "rpc.method": "eth_call",
            "rpc.system.name": "jsonrpc", "plimsoll.service": "eth", "plimsoll.cache": "bypass",
            "http.response.status_code": 200, "flags": 0x101}),
        );
        for attempt in children(&spans, call) {
            check(
                attempt,
                json!({"name": "eth_call", "kind": "client", "trace": call["trace"],
                "server.address": "127.0.0.1"}),
            );
            assert!(attempt["start"].as_u64() >= call["start"].as_u64(), "{attempt:#}");
        }
    }
    let attempts = children(&spans, failed);
    check(failed, json!({"plimsoll.outcome": "ok", "status": "unset", "plimsoll.attempts": 2}));
    check(
        attempts[0],
        json!({"plimsoll.outcome": "bad_status", "status": "error",
        "error.type": "bad_status", "http.response.status_code": 500}),
    );
    check(
        attempts[1],
        json!({"plimsoll.outcome": "ok", "plimsoll.attempt": "retry",
        "http.response.status_code": 200}),
    );
    assert_eq!(attempts[0]["attributes"].get("plimsoll.attempt"), None);
    assert_ne!(
        attempts[0]["attributes"]["plimsoll.upstream"],
        attempts[1]["attributes"]["plimsoll.upstream"]
    );
    let attempts = children(&spans, hedged);
    check(hedged, json!({"plimsoll.outcome": "ok", "status": "unset"}));
    check(attempts[0], json!({"plimsoll.outcome": "cancelled", "status": "unset"}));
    check(attempts[1], json!({"plimsoll.outcome": "ok", "plimsoll.attempt": "hedge"}));

    let reverted = only(&spans, |span| span["attributes"]["plimsoll.outcome"] == "rpc_error");
    let error = json!({"status": "error", "error.type": "reverted", "message": "reverted",
        "rpc.response.status_code": "3"});
    check(reverted, error.clone());
    check(children(&spans, reverted)[0], error);
    let customer = only(&spans, |span| span["attributes"].get("plimsoll.endpoint").is_some());
    check(customer, json!({"plimsoll.endpoint": "ethp…8689"}));
}

#[test]
fn calls_of_a_batch_are_below_its_span() {
    let (folder, mut receiver, nodes) = (Folder::new(), Receiver::start(), nodes(1));
    let (process, address) = start(&folder, &nodes, &traces(&receiver.url, ""), "");
    let batch = format!("[{},{},{{}}]", body("a"), body("revert"));
    let parent = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
    let answer = Caller::connect(&address).unwrap().send_with("POST /v1", &parent, &batch).unwrap();
    assert_eq!(answer.json().as_array().map(Vec::len), Some(3), "{}", answer.body);
    let spans = receiver.spans(6);
    let root = only(&spans, |span| span["kind"] == "server");
    check(
        root,
        json!({"name": "batch", "trace": TRACE, "parent": SPAN, "flags": 0x301,
        "plimsoll.calls": 2, "plimsoll.failed": 1, "http.response.status_code": 200}),
    );
    let calls = children(&spans, root);
    assert_eq!(calls.len(), 3, "{spans:#?}");
    assert!(calls.iter().all(|call| call["kind"] == "internal" && call["trace"] == TRACE));
    let refused = only(&spans, |span| span["name"] == "refused");
    check(refused, json!({"error.type": "invalid_request", "plimsoll.outcome": "caller"}));
    let with_attempt = calls.iter().filter(|call| children(&spans, call).len() == 1).count();
    assert_eq!(with_attempt, 2);
    process.stop();
}

#[test]
fn contexts_are_continued_and_passed_on() {
    let (folder, mut receiver, nodes) = (Folder::new(), Receiver::start(), nodes(1));
    let (process, address) = start(&folder, &nodes, &traces(&receiver.url, ""), "");
    let parent = |flags: &str| format!("00-{TRACE}-{SPAN}-{flags}");
    // What the node is sent: its traceparent and tracestate.
    let sent = |word: &str, headers: &str| {
        let answer = call(&address, word, headers).json();
        let received = nodes[0].received();
        let last = received.last().unwrap();
        let lines = last.head.to_lowercase().matches("traceparent:").count();
        assert_eq!(lines, 1, "{}", last.head);
        let state = last.header("tracestate").map(String::from);
        (answer["result"].as_str().unwrap().to_string(), state)
    };
    let state = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7";
    let headers = format!("traceparent: {}\r\ntracestate: {state}\r\n", parent("01"));
    let (got, got_state) = sent("recorded", &headers);
    assert_eq!(got_state.as_deref(), Some(state));
    let spans = receiver.spans(2);
    let root = only(&spans, |span| span["kind"] == "server");
    check(root, json!({"trace": TRACE, "parent": SPAN, "state": state, "flags": 0x301}));
    let attempt = children(&spans, root)[0];
    check(attempt, json!({"trace": TRACE, "flags": 0x101}));
    assert_eq!(got, format!("00-{TRACE}-{}-01", attempt["id"].as_str().unwrap()));

    // Not recorded: passed on as it came.
    let headers = format!("traceparent: {}\r\ntracestate: {state}\r\n", parent("00"));
    assert_eq!(sent("not recorded", &headers), (parent("00"), Some(state.into())));
    // Malformed, or twice: a new trace, without state.
    let twice = format!("traceparent: {}\r\n", parent("01")).repeat(2);
    for wrong in [format!("traceparent: {}\r\n", parent("01").to_uppercase()), twice] {
        let (got, got_state) = sent("wrong", &format!("{wrong}tracestate: {state}\r\n"));
        assert!(got.ends_with("-01") && !got.contains(TRACE), "{got}");
        assert_eq!(got_state, None);
    }
    // A state that is not valid does not end the trace.
    let headers = format!("traceparent: {}\r\ntracestate: NO=1\r\n", parent("01"));
    let (got, got_state) = sent("bad state", &headers);
    assert!(got.contains(TRACE) && got_state.is_none(), "{got}");
    assert_eq!(receiver.spans(6).iter().filter(|span| span["trace"] == TRACE).count(), 2);
    process.stop();
}

#[test]
fn the_share_decides_where_no_caller_does() {
    let (folder, mut receiver, nodes) = (Folder::new(), Receiver::start(), nodes(1));
    let url = &receiver.url;
    let keys =
        format!("traces = {{ endpoint = \"{url}\", sample = \"0%\", respect_parent = false }}");
    let (process, address) = start(&folder, &nodes, &keys, "");
    let parent = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
    // The trace goes on, but is not recorded.
    let got = call(&address, "a", &parent).json()["result"].clone();
    assert_eq!(got, json!(format!("00-{TRACE}-{SPAN}-00")));
    let got = call(&address, "b", "").json()["result"].as_str().unwrap().to_string();
    assert!(got.len() == 55 && got.ends_with("-00"), "{got}");
    // A reload changes it.
    let file = folder.path().join("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("false }", "true }")).unwrap();
    process.signal(nix::sys::signal::Signal::SIGHUP);
    process.wait_for("reloaded");
    call(&address, "c", &parent);
    assert!(receiver.spans(2).iter().all(|span| span["trace"] == TRACE));
    // Spans are counted once the receiver's answer has arrived.
    wait_until("both are counted", || metric(&address, "plimsoll_trace_spans_total") == 2.0);
    process.stop();
}

#[test]
fn calls_that_share_an_answer_link_to_the_one_that_asked() {
    let (folder, mut receiver) = (Folder::new(), Receiver::start());
    let gate = std::sync::Arc::new(std::sync::Barrier::new(2));
    let waiting = gate.clone();
    let node = Server::start(move |_, received: &Received| {
        let call: Value = serde_json::from_str(&received.body).unwrap();
        let result = match call["method"].as_str().unwrap() {
            "eth_chainId" => json!("0x1"),
            "eth_getCode" => {
                waiting.wait();
                json!("0xc0de")
            }
            "eth_getBlockByNumber" => json!({"number": "0x64", "hash": format!("{:#066x}", 1),
                "parentHash": format!("{:#066x}", 2), "transactions": []}),
            _ => json!("0x64"),
        };
        Reply::ok(&json!({"jsonrpc": "2.0", "id": call["id"], "result": result}).to_string())
    });
    let url = node.url();
    let config = format!(
        "listen = [\"127.0.0.1:0\"]\ndatabase = \"off\"\nworkers = 1\n{}\n\
         [[service]]\nid = \"eth\"\nchain_id = 1\nblock_time = \"12s\"\n\
         [[upstream]]\nid = \"node\"\nservice = \"eth\"\nurl = \"{url}\"\n",
        traces(&receiver.url, "")
    );
    folder.file("gateway.toml", config);
    let process = Process::start(&folder, &[]);
    let address = process.address("");
    let served =
        || metric(&address, "plimsoll_served_head{service=\"eth\",tag=\"latest\"}") == 100.0;
    while !served() {
        std::thread::yield_now();
    }
    let code = json!(["0x00000000000000000000000000000000000000aa", "0x60"]);
    let code = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_getCode", "params": code});
    let callers: Vec<Caller> = (0..2)
        .map(|_| {
            let mut caller = Caller::connect(&address).unwrap();
            caller.write("POST /v1", "", &code.to_string()).unwrap();
            caller
        })
        .collect();
    let cache = || ask(&address, "GET /api/v1/cache", "").json();
    while cache()["flights"]["waiting"] != 2 {
        std::thread::yield_now();
    }
    gate.wait();
    for mut caller in callers {
        assert_eq!(caller.read().unwrap().json()["result"], "0xc0de");
    }
    let spans = receiver.spans(3);
    let attempt = only(&spans, |span| span["kind"] == "client");
    let leader = only(&spans, |span| span["id"] == attempt["parent"]);
    check(leader, json!({"plimsoll.cache": "miss", "links": []}));
    let other = only(&spans, |span| span["attributes"]["plimsoll.cache"] == "coalesced");
    check(other, json!({"links": [[leader["trace"], leader["id"]]], "plimsoll.attempts": 0}));
    assert_ne!(other["trace"], leader["trace"]);
    process.stop();
}

#[test]
fn hostile_receivers_cost_spans_and_no_calls() {
    let (folder, nodes) = (Folder::new(), nodes(1));
    let replies = AtomicUsize::new(0);
    let receiver = Server::start(move |_, _| match replies.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::with(500, "", "no"),
        1 => Reply::raw("220 smtp.example ESMTP\r\n", After::Close),
        2 => Reply::with(503, "Retry-After: 0\r\n", ""),
        3 => Reply::raw("", After::Reset),
        // An answer without end.
        4 => Reply {
            fragments: vec![
                b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n".into(),
                vec![b'x'; 64 << 10],
            ],
            then: After::Repeat,
        },
        5 => Reply::with(200, "", "\u{a}\u{2}\u{8}\u{1}"),
        _ => Reply::raw("", After::Hang),
    });
    let (process, address) = start(&folder, &nodes, &traces(&receiver.url(), ""), "");
    let count = |result: &str| {
        metric(&address, &format!("plimsoll_trace_spans_total{{result=\"{result}\"}}"))
    };
    let until = |sent: f64, rejected: f64, failed: f64| {
        while (count("sent"), count("rejected"), count("failed")) != (sent, rejected, failed) {
            std::thread::yield_now();
        }
    };
    // HTTP 500 is not to be repeated.
    assert_eq!(call(&address, "a", "").status, 200);
    until(0.0, 0.0, 2.0);
    process.wait_for("it answered with HTTP 500; calls are not affected");
    // Not HTTP, no capacity, a reset; then accepted, although the answer never ends.
    assert_eq!(call(&address, "b", "").status, 200);
    until(2.0, 0.0, 2.0);
    process.wait_for("has accepted the first");
    // One of two spans is rejected.
    assert_eq!(call(&address, "c", "").status, 200);
    until(3.0, 1.0, 2.0);
    // From here on it never answers. Calls do, and a shutdown takes two seconds longer.
    for _ in 0..100 {
        assert_eq!(call(&address, "d", "").status, 200);
    }
    receiver.wait_for(7);
    assert_eq!(metric(&address, "plimsoll_trace_spans_waiting"), 200.0);
    process.stop();
}

#[test]
fn memory_stays_bounded_when_no_span_is_taken() {
    let (folder, nodes) = (Folder::new(), nodes(1));
    // Accepts connections and never reads.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", dead.local_addr().unwrap());
    let (process, address) = start(&folder, &nodes, &traces(&url, ""), "");
    let batch = |count: usize| {
        // Refused by the gateway itself.
        let one = r#"{"jsonrpc":"2.0","id":1,"method":"eth_subscribe"}"#;
        format!("[{}]", vec![one; count].join(","))
    };
    let mut caller = Caller::connect(&address).unwrap();
    let mut send = || assert_eq!(caller.send("POST /v1", &batch(1_000)).unwrap().status, 200);
    send();
    let before = peak(process.id());
    for _ in 0..11 {
        send();
    }
    let (waiting, after) = (metric(&address, "plimsoll_trace_spans_waiting"), peak(process.id()));
    assert_eq!(waiting, 8_192.0);
    let dropped = metric(&address, "plimsoll_trace_spans_total{result=\"dropped\"}");
    assert_eq!(dropped, 12.0 * 1_001.0 - waiting);
    // The queue's limit, a request that is being built, and what the allocator keeps.
    assert!(after - before < 16 << 10, "{before} to {after} KiB");
    drop(caller);
    process.stop();
}

#[test]
fn opentelemetrys_variables_turn_traces_on() {
    let (folder, mut receiver, nodes) = (Folder::new(), Receiver::start(), nodes(1));
    let upstream = format!("eth={}", nodes[0].url());
    let mut command = command(&["gateway", "--listen", "127.0.0.1:0", "--database", "off"]);
    command.args(["--upstream", &upstream]).current_dir(folder.path());
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.url)
        .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret")
        .env("OTEL_SERVICE_NAME", "edge")
        .env("OTEL_TRACES_SAMPLER", "always_on");
    let process = Process::spawn(command);
    let address = process.address("");
    assert_eq!(call(&address, "a", "").status, 200);
    let request = receiver.request();
    assert_eq!(request["path"], "/v1/traces");
    assert_eq!(request["headers"]["authorization"], "Bearer s3cret");
    assert_eq!(request["resource"]["service.name"], "edge");
    let output = process.stop();
    assert!(!output.contains("s3cret"), "{output}");
}
