//! What goes over the wire, and how every kind of answer is judged.

use crate::run::{RPC, RPC_RESULT, Ran, run_plan};
use crate::server::{Reply, Server, Then};
use std::io::Write;

/// Three requests by one user to a server that always replies so.
fn against(reply: impl Fn(usize) -> Reply + Send + Sync + 'static, extra: &str) -> (Ran, Server) {
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
fn every_good_form_of_an_answer_is_ok() {
    type Make = fn() -> Reply;
    let forms: [(&str, Make); 8] = [
        ("length", || Reply::ok(RPC_RESULT)),
        ("chunked", || Reply::raw(chunked(RPC_RESULT), Then::Keep)),
        ("in single bytes", || {
            let fragments = chunked(RPC_RESULT).chunks(1).map(<[u8]>::to_vec).collect();
            Reply { fragments, then: Then::Keep }
        }),
        ("until close", || Reply::raw(format!("HTTP/1.1 200 OK\r\n\r\n{RPC_RESULT}"), Then::Close)),
        ("connection: close", || {
            let mut reply = Reply::with(200, "Connection: close\r\n", RPC_RESULT);
            reply.then = Then::Close;
            reply
        }),
        ("after interim responses", || {
            let Reply { fragments, .. } = Reply::ok(RPC_RESULT);
            let mut bytes =
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\n".to_vec();
            bytes.extend(&fragments[0]);
            Reply::raw(bytes, Then::Keep)
        }),
        ("gzip", || {
            let body = gzip(RPC_RESULT);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            Reply::raw([head.as_bytes(), &body].concat(), Then::Keep)
        }),
        ("null result", || Reply::ok(r#"{"jsonrpc":"2.0","id":1,"result":null}"#)),
    ];
    for (name, make) in forms {
        let (ran, _server) = against(move |_| make(), "");
        assert_eq!(ran.count("/requests/ok"), 3, "{name}: {}", ran.summary);
        assert_eq!(ran.count("/rpc/items"), 3, "{name}");
        ran.assert_code(0);
    }
}

#[test]
fn every_bad_answer_has_its_class_and_says_what_was_wrong() {
    let rpc_error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32005,"message":"limit"}}"#;
    let head = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
    let rows: Vec<(&str, Reply, &str, &str)> = vec![
        (
            "not HTTP",
            Reply::raw("220 smtp ready\r\n", Then::Keep),
            "protocol",
            "not an HTTP/1 response",
        ),
        (
            "endless headers",
            Reply {
                fragments: vec![b"HTTP/1.1 200 OK\r\n".to_vec(), b"a: b\r\n".repeat(500)],
                then: Then::Repeat,
            },
            "protocol",
            "response head over 64 KiB",
        ),
        (
            "two lengths",
            Reply::raw(head("Content-Length: 1\r\nContent-Length: 2\r\n"), Then::Keep),
            "protocol",
            "two different content-lengths",
        ),
        (
            "length and chunked",
            Reply::raw(head("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), Then::Keep),
            "protocol",
            "content-length beside transfer-encoding",
        ),
        (
            "length too small",
            Reply::raw(head("Content-Length: 5\r\n") + RPC_RESULT, Then::Keep),
            // What follows the stated length ends the connection, not the answer.
            "rpc_mismatch",
            "bytes after the end of the response",
        ),
        (
            "length too large",
            Reply::raw(head("Content-Length: 500\r\n") + RPC_RESULT, Then::Close),
            "closed_early",
            "",
        ),
        (
            "overflowing chunk",
            Reply::raw(
                head("Transfer-Encoding: chunked\r\n") + "fffffffffffffffff\r\n",
                Then::Keep,
            ),
            "protocol",
            "malformed chunk size",
        ),
        (
            "endless body",
            Reply {
                fragments: vec![head("").into_bytes(), vec![b'x'; 64 << 10]],
                then: Then::Repeat,
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
                then: Then::Repeat,
            },
            "body_too_large",
            "",
        ),
        (
            "large length",
            Reply::raw(head("Content-Length: 999999999\r\n"), Then::Keep),
            "body_too_large",
            "",
        ),
        ("closed at once", Reply::raw("", Then::Close), "closed_early", ""),
        (
            "closed in the middle",
            Reply::raw("HTTP/1.1 200 OK\r\nContent-", Then::Close),
            "closed_early",
            "",
        ),
        ("reset", Reply::raw("HTTP/1.1 200 OK\r\n", Then::Reset), "reset", ""),
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
        let (ran, _server) = against(again, "max_body = \"1MiB\"");
        assert_eq!(ran.errors(class), 3, "{name}: {}", ran.summary["errors"]);
        assert_eq!(ran.count("/requests/failed"), 3, "{name}");
        if !fault.is_empty() {
            assert_eq!(ran.summary["faults"][fault], 3, "{name}: {}", ran.summary["faults"]);
        }
        ran.assert_code(99); // the errors are the target's, and nothing was ok
    }
}

#[test]
fn an_answer_that_never_ends_is_given_up_from_the_planned_instant() {
    let hang = |_| Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", Then::Hang);
    let server = Server::start(move |number, _| hang(number));
    let plan = format!(
        "rate = \"10/s\"\nrequests = 3\ntimeout = \"300ms\"\n\
         [[target]]\nrequest = \"GET {}/\"\n",
        server.url()
    );
    let ran = run_plan(&plan, &[]);
    assert_eq!(ran.errors("response_timeout"), 3);
    let (min, p50) = (ran.count("/latency/min"), ran.count("/latency/p50"));
    assert!(min >= 299_000_000, "given up {min} ns after the planned instant, {p50} at the median");
    assert!(ran.summary["service_time"].is_null(), "no response was whole");
    assert!(ran.summary["connections"]["reasons"]["after_timeout"].as_u64() <= Some(2));
}

#[test]
fn bodies_are_rightly_absent() {
    let server = Server::start(|_, asked| match asked.line() {
        "HEAD /head" => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", Then::Keep),
        "GET /204" => Reply::raw("HTTP/1.1 204 No Content\r\n\r\n", Then::Keep),
        "GET /304" => Reply::raw("HTTP/1.1 304 N\r\nContent-Length: 99\r\n\r\n", Then::Keep),
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
    let ran = run_plan(&format!("users = 1\nrequests = 30\n{targets}"), &[]);
    assert_eq!((ran.count("/requests/ok"), ran.count("/connections/opened")), (30, 1));
    assert_eq!((ran.count("/status/200"), ran.count("/status/204")), (10, 10));
}

#[test]
fn what_is_sent_is_what_was_asked_for() {
    let server = Server::start(|_, _| Reply::ok(RPC_RESULT));
    let url = server.url().replace("http://", "http://ann:p%40ss@");
    let plan = format!(
        "users = 1\nrequests = 1\n[[target]]\nrequest = \"POST {url}/a?b=c\"\n\
         headers = {{ X-Two = [\"1\", \"2\"], User-Agent = \"mine\" }}\nbody = '{RPC}'\n"
    );
    let ran = run_plan(&plan, &["--trace", "1"]);
    let asked = &server.asked()[0];
    assert_eq!((asked.line(), asked.body.as_str()), ("POST /a?b=c", RPC));
    assert_eq!(asked.header("host"), Some(server.address.to_string().as_str()));
    assert_eq!(asked.header("authorization"), Some("Basic YW5uOnBAc3M=")); // ann:p@ss
    assert_eq!(asked.header("content-type"), Some("application/json"));
    assert_eq!(asked.header("user-agent"), Some("mine"));
    assert_eq!(asked.head.matches("X-Two: ").count(), 2);
    for text in ["POST /a?b=c HTTP/1.1", RPC, "HTTP/1.1 200 X", RPC_RESULT] {
        assert!(ran.done.stderr.contains(text), "the trace shows {text}: {}", ran.done.stderr);
    }
}

#[test]
fn redirects_are_followed_only_when_asked() {
    let server = Server::start(|_, asked| match asked.line() {
        "POST /307" => Reply::with(307, "Location: /end?x\r\n", ""),
        "POST /303" => Reply::with(303, "Location: end\r\n", ""),
        "POST /end?x" => Reply::ok(if asked.body == RPC { RPC_RESULT } else { "no body" }),
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
        assert_eq!(on.count("/connections/opened"), 1, "on the connection that is free then");
    }
    let circle = run_plan(&plan("/loop", 3), &[]);
    assert_eq!(circle.summary["faults"]["more redirects than the plan follows"], 2);
    let nowhere = run_plan(&plan("/nowhere", 3), &[]);
    assert_eq!(nowhere.summary["faults"]["redirect without a usable location"], 2);
}

#[test]
fn connections_are_reused_unless_told_otherwise() {
    let (reused, server) = against(|_| Reply::ok(RPC_RESULT), "");
    assert_eq!((reused.count("/connections/opened"), server.connections()), (1, 1));
    assert_eq!(reused.count("/connections/reasons/none_idle"), 1);

    let (single, server) = against(|_| Reply::ok(RPC_RESULT), "connections = { reuse = false }");
    assert_eq!((single.count("/connections/opened"), server.connections()), (3, 3));
    assert_eq!(single.count("/connections/reasons/reuse_off"), 3);
    assert_eq!(server.asked()[0].header("connection"), Some("close"));

    let close = |_| {
        let mut reply = Reply::with(200, "Connection: close\r\n", RPC_RESULT);
        reply.then = Then::Close;
        reply
    };
    let (closed, _server) = against(close, "");
    assert_eq!(closed.count("/connections/reasons/target_closed"), 2);
}

#[test]
fn every_source_address_and_every_address_of_a_name_is_used() {
    let (ran, server) = against(
        |_| Reply::ok(RPC_RESULT),
        "connections = { reuse = false, source = [\"127.0.0.2\", \"127.0.0.3\"] }",
    );
    assert_eq!(ran.count("/requests/ok"), 3);
    let sources: std::collections::BTreeSet<String> =
        server.asked().iter().map(|asked| asked.from.ip().to_string()).collect();
    assert_eq!(sources.into_iter().collect::<Vec<_>>(), ["127.0.0.2", "127.0.0.3"]);

    // `localhost` may also be ::1, where nobody listens: the next address is tried.
    let plan = format!(
        "users = 1\nrequests = 4\nconnections = {{ reuse = false }}\n\
         [[target]]\nrequest = \"GET http://localhost:{}/\"\n",
        server.address.port()
    );
    assert_eq!(run_plan(&plan, &[]).count("/requests/ok"), 4);
}

#[test]
fn batches_are_judged_item_by_item() {
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
    let ran = run_plan(&plan, &[]);
    assert_eq!((ran.count("/requests/ok"), ran.errors("rpc_error")), (1, 1), "{}", ran.summary);
    assert_eq!(ran.errors("rpc_mismatch"), 1);
    assert_eq!(ran.count("/rpc/codes/-32000"), 1);
}
