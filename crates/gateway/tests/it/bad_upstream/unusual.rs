//! Upstreams whose answers deviate from JSON-RPC or HTTP, but can be read in only one way.

use super::{check, row, with};
use crate::scripted::AfterReply;

#[test]
fn unusual_answers_are_accepted() {
    let fine = r#"{"jsonrpc":"2.0","id":@,"result":1}"#;
    let len = fine.len();
    let plain = with(200, fine);
    let (front, back) = fine.split_at(9);
    let chunked = "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n";
    let ok = |name, reply: String, after| row(name, reply, after, "ok", 200, 0);
    let error = |name, status, text: &str, outcome, code| {
        row(name, with(status, text), AfterReply::KeepAlive, outcome, 200, code)
    };
    check(vec![
        ok("plain", plain.clone(), AfterReply::KeepAlive),
        ok("closed afterwards", plain.clone(), AfterReply::Close),
        ok("trailing bytes", format!("{plain}rest"), AfterReply::KeepAlive),
        ok("two answers", format!("{plain}{plain}"), AfterReply::KeepAlive),
        ok(
            "a 1xx response",
            format!("HTTP/1.1 100 Continue\r\n\r\n{plain}"),
            AfterReply::KeepAlive,
        ),
        ok(
            "several 1xx responses",
            format!("HTTP/1.1 102 X\r\n\r\nHTTP/1.1 103 X\r\nLink: a\r\n\r\n{plain}"),
            AfterReply::KeepAlive,
        ),
        ok(
            "chunks and trailers",
            format!(
                "{chunked}\r\n09;a=\"b\"\r\n{front}\r\n{:X} \r\n{back}\r\n0\r\nA: b\r\nC: d\r\n\r\n",
                back.len()
            ),
            AfterReply::KeepAlive,
        ),
        ok("until it closes", format!("HTTP/1.1 200 X\r\n\r\n{fine}"), AfterReply::Close),
        ok("1.0, until it closes", format!("HTTP/1.0 200 X\r\n\r\n{fine}"), AfterReply::Close),
        ok("1.0, with a length", plain.replace("HTTP/1.1", "HTTP/1.0"), AfterReply::Close),
        ok(
            "1.0, keep-alive",
            format!(
                "HTTP/1.0 200 X\r\nConnection: keep-alive\r\nContent-Length: {len}\r\n\r\n{fine}"
            ),
            AfterReply::KeepAlive,
        ),
        ok(
            "no reason phrase",
            format!("HTTP/1.1 200\r\nContent-Length: {len}\r\n\r\n{fine}"),
            AfterReply::KeepAlive,
        ),
        ok(
            "lines without carriage returns",
            format!("HTTP/1.1 200 X\nContent-Length: {len}\n\n{fine}"),
            AfterReply::KeepAlive,
        ),
        ok(
            "Connection: close",
            format!("HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{fine}"),
            AfterReply::Close,
        ),
        ok("a result with status 500", with(500, fine), AfterReply::KeepAlive),
        ok(
            "the id as a string",
            with(200, r#"{"jsonrpc":"2.0","id":"@","result":1}"#),
            AfterReply::KeepAlive,
        ),
        ok(
            "the id as a fraction",
            with(200, r#"{"id":@.0,"result":1,"error":{}}"#),
            AfterReply::KeepAlive,
        ),
        ok(
            "another version",
            with(200, r#"{"jsonrpc":"1.1","id":@,"result":1}"#),
            AfterReply::KeepAlive,
        ),
        ok(
            "an array",
            with(200, r#"[{"jsonrpc":"2.0","id":@,"result":1}]"#),
            AfterReply::KeepAlive,
        ),
        ok(
            "a byte order mark",
            with(200, "\u{feff}{\"id\":@,\"result\":1}"),
            AfterReply::KeepAlive,
        ),
        ok(
            "many headers",
            with(200, fine)
                .replace("Content-Length", &format!("{}Content-Length", "A: b\r\n".repeat(500))),
            AfterReply::KeepAlive,
        ),
        error("an error that is a string", 200, r#"{"id":@,"error":"no"}"#, "other", -32000),
        error(
            "a code as a string",
            200,
            r#"{"id":@,"error":{"code":"3","message":"execution reverted"}}"#,
            "reverted",
            3,
        ),
        error(
            "a revert that mentions a limit",
            200,
            r#"{"id":@,"error":{"code":-32000,"message":"execution reverted: rate limit exceeded"}}"#,
            "reverted",
            -32000,
        ),
        ok(
            "no version",
            with(200, "{\"result\":1,\"error\":null,\"id\":@}"),
            AfterReply::KeepAlive,
        ),
        error(
            "an error",
            200,
            r#"{"jsonrpc":"2.0","id":@,"error":{"code":3,"message":"execution reverted"}}"#,
            "reverted",
            3,
        ),
        error(
            "an error under null",
            200,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"?"}}"#,
            "invalid_request",
            -32700,
        ),
        error(
            "an error under no id",
            400,
            r#"{"error":{"code":-32600,"message":"?"}}"#,
            "invalid_request",
            -32600,
        ),
        row(
            "429 with an error object",
            with(429, r#"{"jsonrpc":"2.0","id":@,"error":{"code":-32000,"message":"slow"}}"#),
            AfterReply::KeepAlive,
            "rate_limited",
            429,
            -32000,
        ),
        error(
            "500 with an error object",
            500,
            r#"{"jsonrpc":"2.0","id":@,"error":{"code":-32603,"message":"oops"}}"#,
            "internal",
            -32603,
        ),
        error(
            "a vendor-specific code",
            200,
            r#"{"jsonrpc":"2.0","id":@,"error":{"code":-32016,"message":"over rate limit"}}"#,
            "rate_limited",
            -32005,
        ),
    ]);
}
