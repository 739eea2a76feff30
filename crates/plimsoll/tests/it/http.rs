//! Requests and responses on the wire, and how responses are judged.

use crate::run::{RPC, RPC_RESULT, RunResult, run_plan};
use crate::server::{After, Reply, Server};
use std::io::Write;

/// Sends three requests by one user to a server with these replies.
fn against(
    reply: impl Fn(usize) -> Reply + Send + Sync + 'static,
    extra: &str,
) -> (RunResult, Server) {
    let server = Server::start(move |number, _| reply(number));
    let plan = format!(
        "users = 1\nrequests = 3\ntimeout = \"10s\"\n{extra}\n\
         [[target]]\nname = \"t\"\nrequest = \"POST {}/v1\"\nbody = '{RPC}'\n",
        server.url()
    );
    (run_plan(&plan, &[]), server)
}

fn chunked(body: &str) -> Vec<u8> {
    let half = body.len() / 2;
    let (a, b) = body.split_at(half);
    let sizes = (a.len(), b.len());
    let text = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x};e=1\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\nT: x\r\n\r\n",
        sizes.0, sizes.1
    );
    text.into_bytes()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(text.as_bytes()).unwrap();
    out.finish().unwrap()
}

#[test]
fn all_valid_forms_of_an_answer_are_ok() {
    type Make = fn() -> Reply;
    let forms: [(&str, Make); 8] = [
        ("length", || Reply::ok(RPC_RESULT)),
        ("chunked", || Reply::raw(chunked(RPC_RESULT), After::Keep)),
        ("in single bytes", || {
            let fragments = chunked(RPC_RESULT).chunks(1).map(<[u8]>::to_vec).collect();
            Reply { fragments, then: After::Keep }
        }),
        ("until close", || {
            Reply::raw(format!("HTTP/1.1 200 OK\r\n\r\n{RPC_RESULT}"), After::Close)
        }),
        ("connection: close", || {
            let mut reply = Reply::with(200, "Connection: close\r\n", RPC_RESULT);
            reply.then = After::Close;
            reply
        }),
        ("after 1xx responses", || {
            let Reply { fragments, .. } = Reply::ok(RPC_RESULT);
            let mut bytes =
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\n".to_vec();
            bytes.extend(&fragments[0]);
            Reply::raw(bytes, After::Keep)
        }),
        ("gzip", || {
            let body = gzip(RPC_RESULT);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            Reply::raw([head.as_bytes(), &body].concat(), After::Keep)
        }),
        ("null result", || Reply::ok(r#"{"jsonrpc":"2.0","id":1,"result":null}"#)),
    ];
    for (name, make) in forms {
        let (result, _server) = against(move |_| make(), "");
        assert_eq!(result.count("/requests/ok"), 3, "{name}: {}", result.summary);
        assert_eq!(result.count("/rpc/items"), 3, "{name}");
        result.assert_code(0);
    }
}

#[test]
fn bad_answers_have_an_error_class_and_a_fault() {
    let rpc_error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32005,"message":"limit"}}"#;
    let head = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
    let rows: Vec<(&str, Reply, &str, &str)> = vec![
        (
            "not HTTP",
            Reply::raw("220 smtp ready\r\n", After::Keep),
            "protocol",
            "not an HTTP/1 response",
        ),
        (
            "endless headers",
            Reply {
                fragments: vec![b"HTTP/1.1 200 OK\r\n".to_vec(), b"a: b\r\n".repeat(500)],
                then: After::Repeat,
            },
            "protocol",
            "response head over 64 KiB",
        ),
        (
            "two lengths",
            Reply::raw(head("Content-Length: 1\r\nContent-Length: 2\r\n"), After::Keep),
            "protocol",
            "two different content-lengths",
        ),
        (
            "length and chunked",
            Reply::raw(head("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), After::Keep),
            "protocol",
            "content-length beside transfer-encoding",
        ),
        (
            "length too small",
            Reply::raw(head("Content-Length: 5\r\n") + RPC_RESULT, After::Keep),
            // Bytes beyond the stated length end the connection, not the answer.
            "rpc_mismatch",
            "bytes after the end of the response",
        ),
        (
            "length too large",
            Reply::raw(head("Content-Length: 500\r\n") + RPC_RESULT, After::Close),
            "closed_early",
            "",
        ),
        (
            "overflowing chunk",
            Reply::raw(
                head("Transfer-Encoding: chunked\r\n") + "fffffffffffffffff\r\n",
                After::Keep,
            ),
            "protocol",
            "malformed chunk size",
        ),
        (
            "endless body",
            Reply {
                fragments: vec![head("").into_bytes(), vec![b'x'; 64 << 10]],
                then: After::Repeat,
            },
            "body_too_large",
            "",
        ),
        (
            "endless chunks",
            Reply {
                fragments: vec![
                    head("Transfer-Encoding: chunked\r\n").into_bytes(),
                    b"5\r\nhello\r\n".repeat(1000),
                ],
                then: After::Repeat,
            },
            "body_too_large",
            "",
        ),
        (
            "large length",
            Reply::raw(head("Content-Length: 999999999\r\n"), After::Keep),
            "body_too_large",
            "",
        ),
        ("closed at once", Reply::raw("", After::Close), "closed_early", ""),
        (
            "closed in the middle",
            Reply::raw("HTTP/1.1 200 OK\r\nContent-", After::Close),
            "closed_early",
            "",
        ),
        ("reset", Reply::raw("HTTP/1.1 200 OK\r\n", After::Reset), "reset", ""),
        ("status", Reply::with(503, "", "busy"), "status", ""),
        ("rpc error", Reply::ok(rpc_error), "rpc_error", ""),
        ("rpc error with status", Reply::with(500, "", rpc_error), "rpc_error", ""),
        ("wrong id", Reply::ok(r#"{"jsonrpc":"2.0","id":2,"result":1}"#), "rpc_mismatch", ""),
        ("neither result nor error", Reply::ok(r#"{"jsonrpc":"2.0","id":1}"#), "rpc_mismatch", ""),
        ("not JSON", Reply::ok("<html>"), "rpc_mismatch", ""),
        (
            "damaged gzip",
            Reply::with(200, "Content-Encoding: gzip\r\n", "nonsense"),
            "protocol",
            "damaged gzip body",
        ),
    ];
    for (name, reply, class, fault) in rows {
        let Reply { fragments, then } = reply;
        let again = move |_| Reply { fragments: fragments.clone(), then };
        let (result, _server) = against(again, "max_body = \"1MiB\"");
        assert_eq!(result.errors(class), 3, "{name}: {}", result.summary["errors"]);
        assert_eq!(result.count("/requests/failed"), 3, "{name}");
        if !fault.is_empty() {
            assert_eq!(result.summary["faults"][fault], 3, "{name}: {}", result.summary["faults"]);
        }
        result.assert_code(99); // the errors are the target's, and nothing was ok
    }
}

#[test]
fn an_answer_that_never_ends_times_out_counted_from_the_planned_instant() {
    let hang = |_| Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", After::Hang);
    let server = Server::start(move |number, _| hang(number));
    let plan = format!(
        "rate = \"10/s\"\nrequests = 3\ntimeout = \"300ms\"\n\
         [[target]]\nrequest = \"GET {}/\"\n",
        server.url()
    );
    let result = run_plan(&plan, &[]);
    assert_eq!(result.errors("response_timeout"), 3);
    let (min, p50) = (result.count("/latency/min"), result.count("/latency/p50"));
    assert!(min >= 299_000_000, "timed out {min} ns after the planned instant, median {p50}");
    assert!(result.summary["service_time"].is_null(), "no response was complete");
    assert!(result.summary["connections"]["reasons"]["after_timeout"].as_u64() <= Some(2));
}

#[test]
fn responses_without_bodies_are_ok() {
    let server = Server::start(|_, received| match received.line() {
        "HEAD /head" => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", After::Keep),
        "GET /204" => Reply::raw("HTTP/1.1 204 No Content\r\n\r\n", After::Keep),
        "GET /304" => Reply::raw("HTTP/1.1 304 N\r\nContent-Length: 99\r\n\r\n", After::Keep),
        other => panic!("{other}"),
    });
    let targets: String = ["HEAD /head", "GET /204", "GET /304"]
        .map(|line| {
            let (method, path) = line.split_once(' ').unwrap();
            format!(
                "[[target]]\nname = \"{line}\"\nrequest = \"{method} {}{path}\"\n",
                server.url()
            )
        })
        .concat();
    let result = run_plan(&format!("users = 1\nrequests = 30\n{targets}"), &[]);
    assert_eq!((result.count("/requests/ok"), result.count("/connections/opened")), (30, 1));
    assert_eq!((result.count("/status/200"), result.count("/status/204")), (10, 10));
}

#[test]
fn requests_are_sent_as_planned() {
    let server = Server::start(|_, _| Reply::ok(RPC_RESULT));
    let url = server.url().replace("http://", "http://ann:p%40ss@");
    let plan = format!(
        "users = 1\nrequests = 1\n[[target]]\nrequest = \"POST {url}/a?b=c\"\n\
         headers = {{ X-Two = [\"1\", \"2\"], User-Agent = \"mine\" }}\nbody = '{RPC}'\n"
    );
    let result = run_plan(&plan, &["--trace", "1"]);
    let received = &server.received()[0];
    assert_eq!((received.line(), received.body.as_str()), ("POST /a?b=c", RPC));
    assert_eq!(received.header("host"), Some(server.address.to_string().as_str()));
    assert_eq!(received.header("authorization"), Some("Basic YW5uOnBAc3M=")); // ann:p@ss
    assert_eq!(received.header("content-type"), Some("application/json"));
    assert_eq!(received.header("user-agent"), Some("mine"));
    assert_eq!(received.head.matches("X-Two: ").count(), 2);
    for text in ["POST /a?b=c HTTP/1.1", RPC, "HTTP/1.1 200 X", RPC_RESULT] {
        assert!(
            result.done.stderr.contains(text),
            "the trace shows {text}: {}",
            result.done.stderr
        );
    }
}

#[test]
fn redirects_are_followed_only_if_enabled() {
    let server = Server::start(|_, received| match received.line() {
        "POST /307" => Reply::with(307, "Location: /end?x\r\n", ""),
        "POST /303" => Reply::with(303, "Location: end\r\n", ""),
        "POST /end?x" => Reply::ok(if received.body == RPC { RPC_RESULT } else { "no body" }),
        "GET /end" => Reply::ok(RPC_RESULT),
        "POST /loop" => Reply::with(302, "Location: /loop2\r\n", ""),
        "GET /loop2" => Reply::with(302, "Location: /loop2\r\n", ""),
        "POST /nowhere" => Reply::with(302, "", ""),
        other => panic!("{other}"),
    });
    let plan = |path: &str, redirects: u32| {
        format!(
            "users = 1\nrequests = 2\nredirects = {redirects}\n[[target]]\nrequest = \"POST {}{path}\"\n\
             body = '{RPC}'\nexpect = {{ jsonrpc = \"{}\" }}\n",
            server.url(),
            if redirects == 0 { "off" } else { "result" }
        )
    };
    let off = run_plan(&plan("/307", 0), &[]);
    assert_eq!((off.count("/requests/ok"), off.count("/status/307")), (2, 2));
    for path in ["/307", "/303"] {
        let on = run_plan(&plan(path, 3), &[]);
        assert_eq!((on.count("/requests/ok"), on.count("/status/200")), (2, 2), "{path}");
        assert_eq!(on.count("/connections/opened"), 1, "the connection is reused");
    }
    let circle = run_plan(&plan("/loop", 3), &[]);
    assert_eq!(circle.summary["faults"]["more redirects than the plan follows"], 2);
    let nowhere = run_plan(&plan("/nowhere", 3), &[]);
    assert_eq!(nowhere.summary["faults"]["redirect without a usable location"], 2);
}

#[test]
fn connections_are_reused_by_default() {
    let (reused, server) = against(|_| Reply::ok(RPC_RESULT), "");
    assert_eq!((reused.count("/connections/opened"), server.connections()), (1, 1));
    assert_eq!(reused.count("/connections/reasons/none_idle"), 1);

    let (single, server) = against(|_| Reply::ok(RPC_RESULT), "connections = { reuse = false }");
    assert_eq!((single.count("/connections/opened"), server.connections()), (3, 3));
    assert_eq!(single.count("/connections/reasons/reuse_off"), 3);
    assert_eq!(server.received()[0].header("connection"), Some("close"));

    let close = |_| {
        let mut reply = Reply::with(200, "Connection: close\r\n", RPC_RESULT);
        reply.then = After::Close;
        reply
    };
    let (closed, _server) = against(close, "");
    assert_eq!(closed.count("/connections/reasons/target_closed"), 2);
}

#[test]
fn all_source_addresses_and_all_addresses_of_a_name_are_used() {
    let (result, server) = against(
        |_| Reply::ok(RPC_RESULT),
        "connections = { reuse = false, source = [\"127.0.0.2\", \"127.0.0.3\"] }",
    );
    assert_eq!(result.count("/requests/ok"), 3);
    let sources: std::collections::BTreeSet<String> =
        server.received().iter().map(|received| received.from.ip().to_string()).collect();
    assert_eq!(sources.into_iter().collect::<Vec<_>>(), ["127.0.0.2", "127.0.0.3"]);

    // `localhost` may also resolve to ::1, where nothing listens; then the next address is tried.
    let plan = format!(
        "users = 1\nrequests = 4\nconnections = {{ reuse = false }}\n\
         [[target]]\nrequest = \"GET http://localhost:{}/\"\n",
        server.address.port()
    );
    assert_eq!(run_plan(&plan, &[]).count("/requests/ok"), 4);
}

#[test]
fn items_of_a_batch_are_judged_separately() {
    let batch =
        r#"[{"jsonrpc":"2.0","method":"a","id":1},{"jsonrpc":"2.0","method":"b","id":"{{seq}}"}]"#;
    let server = Server::start(|number, _| {
        Reply::ok(&match number {
            // In any order; ids are the caller's own.
            0 => r#"[{"jsonrpc":"2.0","id":"0","result":1},{"jsonrpc":"2.0","id":1,"result":2}]"#.into(),
            1 => r#"[{"jsonrpc":"2.0","id":1,"result":1},{"jsonrpc":"2.0","id":"1","error":{"code":-32000,"message":"x"}}]"#.to_string(),
            _ => r#"[{"jsonrpc":"2.0","id":1,"result":1}]"#.into(),
        })
    });
    let plan = format!(
        "users = 1\nrequests = 3\n[[target]]\nrequest = \"POST {}/\"\nbody = '{batch}'\n",
        server.url()
    );
    let result = run_plan(&plan, &[]);
    assert_eq!(
        (result.count("/requests/ok"), result.errors("rpc_error")),
        (1, 1),
        "{}",
        result.summary
    );
    assert_eq!(result.errors("rpc_mismatch"), 1);
    assert_eq!(result.count("/rpc/codes/-32000"), 1);
}
