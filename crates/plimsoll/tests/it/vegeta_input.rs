//! `plimsoll vegeta attack` with headers, targets and answers that other programs made or damaged.

use crate::run::Folder;
use crate::server::{After, Reply, Server};
use crate::vegeta_attack::{attack, results};
use std::collections::HashSet;
use std::io::Write;

const TWO: [&str; 3] = ["-rate=20", "-duration=100ms", "-max-workers=1"];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Headers of copied commands that the engine sets itself are left out, with a note if a flag gives them;
/// `Connection: close` ends the connection. Flags and targets are alike.
#[test]
fn headers_about_the_connection_are_no_mistake() {
    let check = |header: &str, connections: usize, is_sent: bool| {
        for by_flag in [true, false] {
            let server = Server::start(|_, _| Reply::ok(""));
            let target = format!("POST {}/\n", server.url());
            let done = if by_flag {
                let flag = format!("-header={header}");
                attack(&[&TWO[..], &["-output=/dev/null", &flag]].concat(), &target)
            } else {
                attack(&[&TWO[..], &["-output=/dev/null"]].concat(), &format!("{target}{header}\n"))
            };
            assert_eq!(done.code, 0, "{header}: {}", done.stderr);
            let (name, value) = header.split_once(": ").unwrap();
            let noted = done.stderr.contains(&format!("note: -header {name:?} is not sent"));
            assert_eq!(noted, by_flag && !is_sent, "{header}: {}", done.stderr);
            let received = server.received();
            let from: HashSet<_> = received.iter().map(|own| own.from).collect();
            assert_eq!((received.len(), from.len()), (2, connections), "{header} {by_flag}");
            let line = format!("{name}: {value}\r\n").to_ascii_lowercase();
            let count = received[0].head.to_ascii_lowercase().matches(line.trim_end()).count();
            assert_eq!(count, usize::from(is_sent), "{header} {by_flag}: {}", received[0].head);
        }
    };
    check("Connection: keep-alive", 1, false);
    check("connection: Keep-Alive", 1, false);
    check("Content-Length: 5", 1, false);
    check("transfer-encoding: chunked", 1, false);
    check("Connection: close", 2, true);
    let done = attack(&["-header=Connection: upgrade"], "GET http://127.0.0.1:1/");
    assert!(done.code == 1 && done.stderr.contains("set by the engine itself"), "{}", done.stderr);
}

/// A redirect after any method leads to a GET without a body.
#[test]
fn redirects_become_gets() {
    let folder = Folder::new();
    let server = Server::start(|_, request| match request.line() {
        "PUT /" => Reply::with(302, "Location: /on\r\n", ""),
        _ => Reply::ok(""),
    });
    let body = format!("-body={}", folder.file("body", "b0dy"));
    let target = format!("PUT {}/\n", server.url());
    let (done, hits) = results(&folder, &["-rate=1", "-duration=1ms", &body], &target);
    let received: Vec<_> =
        server.received().iter().map(|own| format!("{} {}", own.line(), own.body)).collect();
    assert_eq!(received, ["PUT / b0dy", "GET /on "], "{}", done.stderr);
    assert_eq!(hits[0].code, 200);
}

/// A body whose gzip is damaged is an error, as for Go's client, and not a success.
#[test]
fn damaged_gzip_is_an_error() {
    let folder = Folder::new();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&[b'x'; 1000]).unwrap();
    let whole = encoder.finish().unwrap();
    let server = Server::start(move |_, request| {
        let body = match request.line() {
            "GET /cut" => &whole[..whole.len() - 10],
            "GET /other" => b"not in gzip at all".as_slice(),
            _ => b"",
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Reply::raw([head.as_bytes(), body].concat(), After::Keep)
    });
    let check = |path: &str, code: u16, error: &str| {
        for most in ["-max-body=-1", "-max-body=0"] {
            let target = format!("GET {}{path}\n", server.url());
            let (done, hits) = results(&folder, &["-rate=1", "-duration=1ms", most], &target);
            let found = (done.code, hits[0].code, text(&hits[0].error));
            assert_eq!(found, (0, code, error.into()), "{path} {most}: {}", done.stderr);
        }
    };
    check("/cut", 0, "unexpected EOF");
    check("/other", 0, "gzip: invalid header");
    check("/empty", 200, "");
}

/// Results name the URL as it was written, with and without -lazy.
#[test]
fn urls_in_results_are_as_written() {
    let folder = Folder::new();
    let server = Server::start(|_, _| Reply::ok(""));
    for lazy in ["-lazy=false", "-lazy=true"] {
        let url = format!("{}/a\"?x={{{{{{{{y}}}}}}}}&z={{{{seq}}", server.url());
        let flags = ["-rate=1", "-duration=1ms", lazy];
        let (done, hits) = results(&folder, &flags, &format!("GET {url}\n"));
        assert_eq!(text(&hits[0].url), url, "{lazy}: {}", done.stderr);
    }
    let line = server.received().pop().unwrap().line().to_string();
    assert_eq!(line, "GET /a%22?x={{{{y}}}}&z={{seq}");
}

/// Input that is not text, or never ends, is refused with a clear message.
#[test]
fn input_that_is_no_targets_is_refused_in_words() {
    let endless = "\0".repeat((16 << 20) + 1);
    let done = attack(&["-lazy"], &endless);
    assert_eq!(done.code, 1, "{}", done.stderr);
    let says = "stdin:1:1: the request is longer than 16777216 bytes";
    assert!(done.stderr.contains(says), "{}", done.stderr);
    let done = attack(&[], "GET http://127.0.0.1:1/%zz\n");
    let says = "stdin:1:5: malformed percent-encoding in the path";
    assert!(done.code == 1 && done.stderr.contains(says), "{}", done.stderr);
}
