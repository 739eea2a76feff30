//! TLS on both sides: which certificate callers see, and which upstreams the gateway trusts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_gateway::{Gateway, Settings};
use plimsoll_measure::Nanos;
use plimsoll_registry::settings::Limits;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::caller::{call, request, result};
use crate::certificates::Authority;
use crate::scripted::{Reply, Upstream};
use crate::setup::{
    ENDPOINT, connect, connections, definitions, host, instance, node, post, relays, settings,
    start, wait_until,
};

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn secure(authority: &Authority) -> Settings {
    Settings { tls: Some(authority.files()), ..settings() }
}

fn open(address: SocketAddr, config: Arc<ClientConfig>) -> Tls {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let name = address.ip().to_string().try_into().unwrap();
    StreamOwned::new(ClientConnection::new(config, name).unwrap(), socket)
}

/// Makes a call over a connection and returns the answer's body.
fn ask(tls: &mut Tls, body: &str) -> String {
    tls.write_all(&request("POST", ENDPOINT, "", body.as_bytes())).unwrap();
    let mut read = String::new();
    let mut buffer = [0; 4_096];
    loop {
        let n = tls.read(&mut buffer).unwrap();
        assert!(n > 0, "the connection closed after {read}");
        read += std::str::from_utf8(&buffer[..n]).unwrap();
        let Some((head, body)) = read.split_once("\r\n\r\n") else { continue };
        let length = head.split_once("content-length: ").unwrap().1.lines().next().unwrap();
        if body.len() == length.parse::<usize>().unwrap() {
            return body.to_string();
        }
    }
}

fn peer_certificate(tls: &Tls) -> CertificateDer<'static> {
    tls.conn.peer_certificates().unwrap()[0].clone().into_owned()
}

#[test]
fn calls_are_answered_over_tls() {
    let authority = Authority::new();
    let certificate = authority.sign("127.0.0.1");
    let upstream = Upstream::echo();
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let gateway = start(secure(&authority), &all);
    for protocols in [&[] as &[&str], &["http/1.1"], &["http/1.0", "http/1.1"]] {
        let mut tls = open(gateway.addresses()[0], authority.client(protocols));
        for n in [1, 100, 100_000] {
            let params = format!("[\"{}\"]", "x".repeat(n));
            assert_eq!(ask(&mut tls, &call("1", "m", &params)), result("1", &params));
        }
        assert_eq!(peer_certificate(&tls), certificate);
    }
    wait_until("all connections are closed", || connections(&gateway) == 0);
}

#[test]
fn connections_without_valid_tls_are_closed() {
    let authority = Authority::new();
    authority.sign("127.0.0.1");
    let limits = Limits { header_time: Nanos::from_millis(200), ..Limits::default() };
    let settings = Settings { limits, ..secure(&authority) };
    let gateway = start(settings, &definitions(Vec::new()));
    for bytes in ["", "GET /health HTTP/1.1\r\nHost: h\r\n\r\n", "\u{16}\u{3}\u{1}", "garbage\0"] {
        let mut caller = connect(&gateway);
        caller.send(bytes);
        let rest = caller.rest();
        assert!(!rest.starts_with(b"HTTP"), "{bytes}: expected at most an alert");
    }
    // HTTP/2 is negotiated, but then the client is silent or sends something else.
    for bytes in ["", "PRI * HTTP/2.0\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"] {
        let mut tls = open(gateway.addresses()[0], authority.client(&["h2"]));
        // On a busy machine the connection may already be closed.
        let _ = tls.write_all(bytes.as_bytes()).and_then(|()| tls.flush());
        let mut rest = Vec::new();
        // Closing without close_notify is reported as an error, but the connection is closed all the same.
        let ended = tls.read_to_end(&mut rest);
        let hangs = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        assert!(!ended.as_ref().is_err_and(hangs), "{bytes}");
        assert!(!rest.starts_with(b"HTTP"), "{bytes}");
    }
    wait_until("all connections are closed", || connections(&gateway) == 0);
}

#[test]
fn a_certificate_is_reloaded_without_restart() {
    let authority = Authority::new();
    let first = authority.sign("127.0.0.1");
    let upstream = Upstream::echo();
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let gateway = start(secure(&authority), &all);
    let shown = || {
        // A new client each time: an earlier one would resume its session.
        let mut tls = open(gateway.addresses()[0], authority.client(&[]));
        assert_eq!(ask(&mut tls, &call("1", "m", "[1]")), result("1", "[1]"));
        peer_certificate(&tls)
    };
    assert_eq!(shown(), first);
    let mut earlier = open(gateway.addresses()[0], authority.client(&[]));
    ask(&mut earlier, &call("1", "m", "[1]"));
    let second = authority.sign("127.0.0.1");
    assert_eq!(shown(), first, "not reloaded yet");
    gateway.reload_certificate().unwrap();
    assert_eq!(shown(), second);
    assert_eq!(
        ask(&mut earlier, &call("2", "m", "[2]")),
        result("2", "[2]"),
        "earlier connections stay open"
    );
    // Invalid files are rejected.
    let files = authority.files();
    let key = std::fs::read(&files.key).unwrap();
    authority.sign("127.0.0.1");
    std::fs::write(&files.key, key).unwrap();
    let wrong = [
        ("a key of another certificate", None),
        ("garbage", Some("garbage")),
        ("nothing", Some("")),
    ];
    for (name, contents) in wrong {
        if let Some(contents) = contents {
            std::fs::write(&files.cert, contents).unwrap();
        }
        assert!(gateway.reload_certificate().is_err(), "{name}");
        assert_eq!(shown(), second, "{name}");
    }
    std::fs::remove_file(&files.cert).unwrap();
    assert!(gateway.reload_certificate().is_err());
    assert!(gateway.certificate_contents().is_some_and(|contents| contents.is_err()));
    assert!(Gateway::start(secure(&authority), &all, host()).is_err());
    let third = authority.sign("127.0.0.1");
    gateway.reload_certificate().unwrap();
    assert_eq!(shown(), third);
}

#[test]
fn upstreams_need_a_trusted_certificate_for_their_name() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let other_name = Authority::new();
    authority.sign("127.0.0.1");
    stranger.sign("127.0.0.1");
    other_name.sign("node.example");
    let node = Upstream::start(|_, received| {
        let body = crate::scripted::answer(received, received.params());
        Reply::with(200, "", &body)
    });
    // Another gateway serves as the TLS upstream.
    let behind =
        |authority| start(secure(authority), &definitions(vec![instance("n", &node.url("/v1"))]));
    // (authority that signed the upstream's certificate, trusted authority, whether it is accepted)
    let rows = [
        (&authority, &authority, true),
        (&authority, &stranger, false),
        (&other_name, &other_name, false),
    ];
    for (signer, trusted, accepted) in rows {
        let inner = behind(signer);
        let mut upstream = instance("a", &format!("https://{}/v1", inner.addresses()[0]));
        upstream.ca = Some(trusted.ca());
        let gateway = start(settings(), &definitions(vec![upstream]));
        for n in 0..10 {
            let params = format!("[{n},\"{}\"]", "x".repeat(n * 2_000));
            let answer = post(&gateway, call("\"q\"", "m", &params));
            if accepted {
                assert_eq!(answer.text(), result("\"q\"", &params));
            } else {
                assert_eq!((answer.status, answer.kind()), (502, "unreachable"));
                assert!(answer.text().contains("the TLS handshake failed"), "{}", answer.text());
            }
        }
        assert_eq!(relays(&gateway, "a", if accepted { "ok" } else { "unreachable" }), 10);
        if accepted {
            assert_eq!(connections(&inner), 1, "the connection is reused");
        }
    }
    let mut upstream = instance("a", "https://127.0.0.1:1/v1");
    upstream.ca = Some(authority.files().key);
    let started = Gateway::start(settings(), &definitions(vec![upstream]), host());
    assert!(started.err().is_some_and(|why| why.to_string().contains("no certificate in")));
}

#[test]
fn an_upstreams_ca_file_is_reloaded_when_it_changes() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("127.0.0.1");
    let node = Upstream::echo();
    let inner = start(secure(&authority), &definitions(vec![instance("n", &node.url("/v1"))]));
    let trusted = stranger.ca();
    let mut upstream = instance("a", &format!("https://{}/v1", inner.addresses()[0]));
    upstream.ca = Some(trusted.clone());
    let all = definitions(vec![upstream]);
    let gateway = start(settings(), &all);
    let ask = || post(&gateway, call("1", "m", "[1]"));
    assert_eq!(ask().kind(), "unreachable");
    assert!(!gateway.is_trust_changed());

    std::fs::copy(authority.ca(), &trusted).unwrap();
    assert!(gateway.is_trust_changed());
    gateway.apply(settings(), &all).unwrap();
    assert!(!gateway.is_trust_changed());
    assert_eq!(ask().text(), result("1", "[1]"));

    // A file that holds no certificate changes nothing.
    std::fs::write(&trusted, "not a certificate").unwrap();
    assert!(gateway.is_trust_changed());
    assert!(gateway.apply(settings(), &all).is_err());
    assert_eq!(ask().text(), result("1", "[1]"));
}

/// A client that prefers HTTP/2 must not be promised it: refusals speak HTTP/1.1.
#[test]
fn a_full_gateway_answers_probes_over_tls() {
    let authority = Authority::new();
    authority.sign("127.0.0.1");
    let upstream = Upstream::echo();
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let limits = Limits { connections: 1, ..Limits::default() };
    let gateway = start(Settings { limits, ..secure(&authority) }, &all);
    let address = gateway.addresses()[0];
    let mut first = open(address, authority.client(&["http/1.1"]));
    assert_eq!(ask(&mut first, &call("1", "m", "[]")), result("1", "[]"));
    for protocols in [&[] as &[&str], &["http/1.1"], &["h2", "http/1.1"]] {
        let mut probe = open(address, authority.client(protocols));
        probe.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut answer = String::new();
        probe.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{protocols:?}: {answer}");
    }
}
