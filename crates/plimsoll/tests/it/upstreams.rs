//! Upstreams that misbehave, as the gateway's callers see them.

use crate::gateway::{BLOCK_NUMBER, Process, ask, metric};
use crate::run::Folder;
use crate::server::{After, Received, Reply, Server};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn gateway(config: &str) -> (Process, String, Folder) {
    let folder = Folder::new();
    folder
        .file("gateway.toml", format!("listen = [\"127.0.0.1:0\"]\ndatabase = \"off\"\n{config}"));
    let process = Process::start(&folder, &[]);
    let address = process.address("");
    (process, address, folder)
}

/// The answer to a call, with this result or error.
fn answer(received: &Received, content: &str) -> String {
    let call: Value = serde_json::from_str(&received.body).unwrap();
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{},{content}}}", call["id"])
}

fn is_chain_check(received: &Received) -> bool {
    received.body.contains("eth_chainId")
}

/// Sends a request with these header lines, and returns the response.
fn raw(address: &str, line: &str, headers: &str, body: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    socket.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut response = Vec::new();
    socket.read_to_end(&mut response).unwrap();
    String::from_utf8_lossy(&response).into_owned()
}

#[test]
fn failures_keep_their_meaning_and_the_upstreams_text_to_operators() {
    let truncated = |status: u16, headers: &str| {
        let text = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: 50\r\n\r\nabc");
        Reply::raw(text, After::Close)
    };
    let gzip = "Content-Encoding: gzip\r\nRetry-After: 9\r\n";
    let br = "Content-Encoding: br\r\nRetry-After: 9\r\n";
    let long = format!("HTTP/1.1 200 X\r\nContent-Length: {}\r\n\r\n", "x".repeat(30_000));
    let coding = "HTTP/1.1 200 X\r\nTransfer-Encoding: http://10.0.0.5/KEY\r\n\r\n";
    // (reply; status, kind and Retry-After for the caller)
    type Row = (Reply, u16, &'static str, Option<&'static str>);
    let rows: Vec<Row> = vec![
        (Reply::with(429, gzip, ""), 429, "upstream_limited", Some("9")),
        (Reply::with(429, gzip, "<h1>"), 429, "upstream_limited", Some("9")),
        (Reply::with(429, br, "\x0b\x02"), 429, "upstream_limited", Some("9")),
        (truncated(429, "Retry-After: 5\r\n"), 429, "upstream_limited", Some("5")),
        (Reply::with(401, br, "\x0b\x02"), 502, "upstream_denied", None),
        (truncated(403, ""), 502, "upstream_denied", None),
        (truncated(500, ""), 502, "bad_status", None),
        (truncated(200, ""), 502, "broken", None),
        (Reply::with(200, gzip, "<h1>"), 502, "bad_answer", None),
        (Reply::raw(long, After::Close), 502, "broken", None),
        (Reply::raw(coding, After::Close), 502, "broken", None),
    ];
    let expected: Vec<_> = rows.iter().map(|row| (row.1, row.2, row.3)).collect();
    let next = Arc::new(AtomicUsize::new(0));
    let upstream = Server::start({
        let next = next.clone();
        move |_, received| {
            let Some((reply, ..)) = rows.get(next.load(Ordering::SeqCst)) else {
                let revert = "\"error\":{\"code\":3,\"message\":\"execution reverted: limit\"}";
                return Reply::with(429, "Retry-After: 9\r\n", &answer(received, revert));
            };
            if is_chain_check(received) {
                return Reply::ok(&answer(received, "\"result\":\"0x1\""));
            }
            Reply { fragments: reply.fragments.clone(), then: reply.then }
        }
    });
    let config = format!(
        "[[service]]\nid = \"eth\"\nchain_id = 1\nhealth_checks = false\n\
         [[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"{}\"\n\
         [[endpoint]]\nid = \"e\"\nservice = \"eth\"\n",
        upstream.url()
    );
    for (place, (status, kind, retry_after)) in expected.into_iter().enumerate() {
        next.store(place, Ordering::SeqCst);
        // Another gateway for each: after a limit, the upstream is not called for a while.
        let (process, address, _folder) = gateway(&config);
        let answered = ask(&address, "POST /api/gateway/e", BLOCK_NUMBER);
        let (found, body) = (answered.json(), &answered.body);
        assert_eq!(found["error"]["data"]["kind"], kind, "{place}: {body}");
        let found = (answered.status, answered.header("retry-after"));
        assert_eq!(found, (status, retry_after), "{place}: {body}");
        assert!(body.len() < 300 && !body.contains("KEY"), "{place}: {body}");
        process.stop();
    }
    // A revert is not a limit, whatever its status. The chain check at startup meets it, too.
    next.store(usize::MAX, Ordering::SeqCst);
    let (process, address, _folder) = gateway(&config);
    for path in ["/api/gateway/e", "/v1"] {
        let answered = ask(&address, &format!("POST {path}"), BLOCK_NUMBER);
        let found = (answered.status, answered.header("retry-after"));
        assert_eq!(found, (200, None), "{path}: {}", answered.body);
        assert_eq!(answered.json()["error"]["code"], 3);
    }
    let log = process.stop();
    assert!(log.lines().all(|line| line.len() < 700), "{log}");
}

#[test]
fn rest_hides_the_upstream_and_never_carries_calls() {
    let upstream = Server::start(|_, received| match received.line() {
        "GET /KEY/moved" => {
            let own = received.header("host").unwrap();
            let headers = format!(
                "Location: http://{own}/KEY/eth/v1/x?a=b\r\nX-Request-ID: theirs\r\nSet-Cookie: a=b\r\n"
            );
            Reply::with(302, &headers, "")
        }
        "GET /KEY/denied" => Reply::raw(
            "HTTP/1.1 401 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nMust \r\n11\r\nbe authenticated!\r\n0\r\n\r\n",
            After::Keep,
        ),
        "POST /KEY" => Reply::ok(&answer(received, "\"result\":\"0x1\"")),
        other => panic!("{other}"),
    });
    let (process, address, _folder) = gateway(&format!(
        "[[service]]\nid = \"eth\"\nchain_id = 1\nrest = true\n\
         [[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"{}/KEY\"\n",
        upstream.url()
    ));
    let to_eth = "Target-Service-Id: eth\r\nX-Request-ID: mine\r\n";
    let moved = raw(&address, "GET /v1/moved", to_eth, b"");
    assert!(moved.contains("\r\nlocation: /v1/eth/v1/x?a=b\r\n"), "{moved}");
    assert!(moved.contains("\r\nx-request-id: mine\r\n"), "{moved}");
    assert!(!moved.contains("theirs") && !moved.contains("cookie"), "{moved}");
    let denied = raw(&address, "GET /v1/denied", to_eth, b"");
    assert!(denied.starts_with("HTTP/1.1 401"), "{denied}");
    process.wait_for("response: \"Must be authenticated!\"");
    let failed = |outcome: &str| {
        metric(
            &address,
            &format!(
                "plimsoll_calls_total{{service=\"eth\",method=\"other\",outcome=\"{outcome}\""
            ),
        )
    };
    assert_eq!(failed("upstream"), 0.0);
    let calls: [&[u8]; 3] = [
        b"{\"Method\":\"admin_peers\"}",
        b"{\"a\":\"\xff\",\"method\":\"admin_peers\"}",
        b"/**/{\"method\":\"admin_peers\"}",
    ];
    for call in calls {
        for line in ["POST /v1/", "PUT /v1", "POST /v1/x"] {
            let refused = raw(&address, line, to_eth, call);
            assert!(refused.starts_with("HTTP/1.1 400"), "{line}: {refused}");
        }
    }
    process.stop();
}

#[test]
fn a_node_that_returns_on_another_chain_is_not_used() {
    let chain = Arc::new(AtomicUsize::new(1));
    let upstream = Server::start({
        let chain = chain.clone();
        move |_, received| match chain.load(Ordering::SeqCst) {
            0 => Reply::raw("", After::Close),
            id => Reply::ok(&answer(received, &format!("\"result\":\"{id:#x}\""))),
        }
    });
    let (process, address, _folder) = gateway(&format!(
        "[[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"{}\"\n",
        upstream.url()
    ));
    process.wait_for("is on chain 1");
    // One failed call, much too short for an outage.
    chain.store(0, Ordering::SeqCst);
    assert_eq!(ask(&address, "POST /v1", BLOCK_NUMBER).status, 500);
    chain.store(1337, Ordering::SeqCst);
    // Its chain is checked before it is sent another call.
    for _ in 0..2 {
        let refused = ask(&address, "POST /v1", BLOCK_NUMBER).json();
        assert_eq!(refused["error"]["data"]["kind"], "wrong_chain");
    }
    process.wait_for("is on chain 1337");
    process.stop();
}

#[test]
fn an_upstreams_own_headers_and_rules_are_respected() {
    let upstream =
        Server::start(|_, received| Reply::ok(&answer(received, "\"error\":{\"code\":-32000}")));
    let instance = format!(
        "built_in_services = false\npass_headers = [\"x-a\"]\n[[upstream]]\nid = \"p\"\n\
         kind = \"path\"\nurl = \"{}\"\nmethods = {{ allow = [\"eth_blockNumber\"] }}\n\
         headers = {{ X-A = \"own\", Target-Suppliers = \"own\" }}\n",
        upstream.url()
    );
    let service = "[[service]]\nid = \"eth\"\nchain_id = 5\nhealth_checks = false\n\
         [[endpoint]]\nid = \"e\"\nservice = \"eth\"\n";
    let (process, address, _folder) = gateway(&format!("{instance}{service}"));
    let theirs =
        "Target-Service-Id: eth\r\nX-A: theirs\r\nTarget-Suppliers: theirs\r\nTraceParent: t\r\n";
    let answered = raw(&address, "POST /", theirs, BLOCK_NUMBER.as_bytes());
    assert!(answered.ends_with("\"error\":{\"code\":-32000,\"message\":\"\"}}"), "{answered}");
    let head = upstream.received()[0].head.to_lowercase();
    for (name, value) in [
        ("x-a", "own"),
        ("target-suppliers", "own"),
        ("traceparent", "t"),
        ("target-service-id", "eth"),
    ] {
        let lines: Vec<&str> =
            head.lines().filter(|line| line.starts_with(&format!("{name}:"))).collect();
        assert_eq!(lines, [format!("{name}: {value}")], "{head}");
    }
    assert_eq!(metric(&address, "plimsoll_loose_answers_total"), 1.0);
    // No upstream may be asked for the chain id.
    let asked = BLOCK_NUMBER.replace("eth_blockNumber", "eth_chainId");
    assert_eq!(ask(&address, "POST /v1", &asked).json()["result"], "0x5");
    // A loop is noticed although a proxy joined the headers.
    let via = upstream.received()[0].header("x-plimsoll-via").unwrap().to_uppercase();
    let via = format!("Target-Service-Id: eth\r\nX-Plimsoll-Via: 0123, {via}\r\n");
    let looped = raw(&address, "POST /v1", &via, BLOCK_NUMBER.as_bytes());
    assert!(looped.starts_with("HTTP/1.1 508"), "{looped}");
    let many = format!("Target-Service-Id: eth\r\nX-Plimsoll-Via: {}\r\n", "a,".repeat(9));
    assert!(raw(&address, "POST /v1", &many, BLOCK_NUMBER.as_bytes()).starts_with("HTTP/1.1 508"));
    // The id of a refused call is found in a gzip body.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(BLOCK_NUMBER.as_bytes()).unwrap();
    let coded = "Content-Encoding: gzip\r\n";
    let unknown = raw(&address, "POST /api/gateway/no", coded, &gzip.finish().unwrap());
    assert!(unknown.contains("\"id\":7") && unknown.starts_with("HTTP/1.1 404"), "{unknown}");
    let odd = format!("Content-Encoding: {}\r\n", "x".repeat(5_000));
    let refused = raw(&address, "POST /api/gateway/e", &odd, BLOCK_NUMBER.as_bytes());
    assert!(refused.starts_with("HTTP/1.1 415") && refused.len() < 700, "{refused}");
    process.stop();

    // Without a service there is nothing that POST / could be for.
    let (process, address, _folder) = gateway(&instance);
    let received = upstream.received().len();
    let refused = ask(&address, "POST /", BLOCK_NUMBER);
    assert_eq!((refused.status, upstream.received().len()), (404, received), "{}", refused.body);
    assert_eq!(
        refused.json()["error"]["data"],
        json!({"kind": "no_such_path", "retryable": false})
    );
    process.stop();
}

#[test]
fn http2_requests_have_at_most_64_headers() {
    let (process, address, _folder) = gateway("");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let statuses = [64, 65].map(|count| {
        runtime.block_on(async {
            let socket = tokio::net::TcpStream::connect(&*address).await.unwrap();
            let (client, connection) = h2::client::handshake(socket).await.unwrap();
            tokio::spawn(connection);
            let mut client = client.ready().await.unwrap();
            let mut request = http::Request::get("http://h/health");
            for n in 0..count {
                request = request.header(format!("x-{n}"), "1");
            }
            let (response, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
            response.await.unwrap().status().as_u16()
        })
    });
    assert_eq!(statuses, [200, 431]);
    process.stop();
}
