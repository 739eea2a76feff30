//! TLS on both sides: whose certificate callers see and when, and whom the gateway trusts upstream.

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
use crate::world::{
    OWN, connect, connections, definitions, host, instance, node, post, relays, settings, start,
    until,
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

/// Calls over a connection and gives the body of the answer.
fn ask(tls: &mut Tls, body: &str) -> String {
    tls.write_all(&request("POST", OWN, "", body.as_bytes())).unwrap();
    let mut read = String::new();
    let mut buffer = [0; 4_096];
    loop {
        let n = tls.read(&mut buffer).unwrap();
        assert!(n > 0, "the connection ended behind {read}");
        read += std::str::from_utf8(&buffer[..n]).unwrap();
        let Some((head, body)) = read.split_once("\r\n\r\n") else { continue };
        let length = head.split_once("content-length: ").unwrap().1.lines().next().unwrap();
        if body.len() == length.parse::<usize>().unwrap() {
            return body.to_string();
        }
    }
}

fn seen(tls: &Tls) -> CertificateDer<'static> {
    tls.conn.peer_certificates().unwrap()[0].clone().into_owned()
}

#[test]
fn calls_come_through_tls() {
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
        assert_eq!(seen(&tls), certificate);
    }
    until("nobody is connected", || connections(&gateway) == 0);
}

#[test]
fn what_is_no_tls_ends() {
    let authority = Authority::new();
    authority.sign("127.0.0.1");
    let limits = Limits { header_time: Nanos::from_millis(200), ..Limits::default() };
    let settings = Settings { limits, ..secure(&authority) };
    let gateway = start(settings, &definitions(Vec::new()));
    for bytes in ["", "GET /health HTTP/1.1\r\nHost: h\r\n\r\n", "\u{16}\u{3}\u{1}", "garbage\0"] {
        let mut caller = connect(&gateway);
        caller.send(bytes);
        let rest = caller.rest();
        assert!(!rest.starts_with(b"HTTP"), "{bytes}: at most an alert");
    }
    // Agreed on HTTP/2, and then silent, or speaking something else.
    for bytes in ["", "PRI * HTTP/2.0\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"] {
        let mut tls = open(gateway.addresses()[0], authority.client(&["h2"]));
        // It may have ended already, on a machine that is busy.
        let _ = tls.write_all(bytes.as_bytes()).and_then(|()| tls.flush());
        let mut rest = Vec::new();
        // Without TLS's own goodbye the end is an error; it is an end all the same.
        let ended = tls.read_to_end(&mut rest);
        let hangs = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        assert!(!ended.as_ref().is_err_and(hangs), "{bytes}");
        assert!(!rest.starts_with(b"HTTP"), "{bytes}");
    }
    until("nobody is connected", || connections(&gateway) == 0);
}

#[test]
fn a_certificate_is_replaced_while_it_runs() {
    let authority = Authority::new();
    let first = authority.sign("127.0.0.1");
    let upstream = Upstream::echo();
    let all = definitions(vec![node("a", "eth", &upstream.url("/"))]);
    let gateway = start(secure(&authority), &all);
    let shown = || {
        // Another client each time: one that has been here resumes its session.
        let mut tls = open(gateway.addresses()[0], authority.client(&[]));
        assert_eq!(ask(&mut tls, &call("1", "m", "[1]")), result("1", "[1]"));
        seen(&tls)
    };
    assert_eq!(shown(), first);
    let mut before = open(gateway.addresses()[0], authority.client(&[]));
    ask(&mut before, &call("1", "m", "[1]"));
    let second = authority.sign("127.0.0.1");
    assert_eq!(shown(), first, "nobody said so yet");
    gateway.reload_certificate().unwrap();
    assert_eq!(shown(), second);
    assert_eq!(ask(&mut before, &call("2", "m", "[2]")), result("2", "[2]"), "those before stay");
    // What is wrong is not taken.
    let files = authority.files();
    let key = std::fs::read(&files.key).unwrap();
    authority.sign("127.0.0.1");
    std::fs::write(&files.key, key).unwrap();
    let wrong = [("a key of another", None), ("garbage", Some("garbage")), ("nothing", Some(""))];
    for (name, contents) in wrong {
        if let Some(contents) = contents {
            std::fs::write(&files.cert, contents).unwrap();
        }
        assert!(gateway.reload_certificate().is_err(), "{name}");
        assert_eq!(shown(), second, "{name}");
    }
    std::fs::remove_file(&files.cert).unwrap();
    assert!(gateway.reload_certificate().is_err());
    assert_eq!(gateway.certificate_contents(), None);
    assert!(Gateway::start(secure(&authority), &all, host()).is_err());
    let third = authority.sign("127.0.0.1");
    gateway.reload_certificate().unwrap();
    assert_eq!(shown(), third);
}

#[test]
fn upstreams_are_trusted_as_far_as_they_are_known() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let other_name = Authority::new();
    authority.sign("127.0.0.1");
    stranger.sign("127.0.0.1");
    other_name.sign("node.example");
    let node = Upstream::start(|_, asked| {
        let body = crate::scripted::answer(asked, asked.params());
        Reply::with(200, "", &body)
    });
    // Another gateway is what speaks TLS to this one.
    let behind =
        |authority| start(secure(authority), &definitions(vec![instance("n", &node.url("/v1"))]));
    // (who the upstream is, whom it is trusted by, whether that is enough)
    let rows = [
        (&authority, &authority, true),
        (&authority, &stranger, false),
        (&other_name, &other_name, false),
    ];
    for (signer, trusted, enough) in rows {
        let inner = behind(signer);
        let mut upstream = instance("a", &format!("https://{}/v1", inner.addresses()[0]));
        upstream.ca = Some(trusted.ca());
        let gateway = start(settings(), &definitions(vec![upstream]));
        for n in 0..10 {
            let params = format!("[{n},\"{}\"]", "x".repeat(n * 2_000));
            let answer = post(&gateway, call("\"q\"", "m", &params));
            if enough {
                assert_eq!(answer.text(), result("\"q\"", &params));
            } else {
                assert_eq!((answer.status, answer.kind()), (502, "unreachable"));
                assert!(answer.text().contains("the TLS handshake failed"), "{}", answer.text());
            }
        }
        assert_eq!(relays(&gateway, "a", if enough { "ok" } else { "unreachable" }), 10);
        if enough {
            assert_eq!(connections(&inner), 1, "the connection is kept");
        }
    }
    let mut upstream = instance("a", "https://127.0.0.1:1/v1");
    upstream.ca = Some(authority.files().key);
    let started = Gateway::start(settings(), &definitions(vec![upstream]), host());
    assert!(started.err().is_some_and(|why| why.to_string().contains("no certificate in")));
}

#[test]
fn an_upstreams_authority_is_read_again_when_its_file_changes() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("127.0.0.1");
    let node = Upstream::echo();
    let inner = start(secure(&authority), &definitions(vec![instance("n", &node.url("/v1"))]));
    let trusted = stranger.ca();
    let mut upstream = instance("a", &format!("https://{}/v1", inner.addresses()[0]));
    upstream.ca = Some(trusted.clone());
    let all = definitions(vec![upstream]);
    let gateway = start(settings(), &all);
    let asked = || post(&gateway, call("1", "m", "[1]"));
    assert_eq!(asked().kind(), "unreachable");
    assert!(!gateway.is_trust_changed());

    std::fs::copy(authority.ca(), &trusted).unwrap();
    assert!(gateway.is_trust_changed());
    gateway.apply(settings(), &all).unwrap();
    assert!(!gateway.is_trust_changed());
    assert_eq!(asked().text(), result("1", "[1]"));

    // A file that holds no certificate changes nothing.
    std::fs::write(&trusted, "not a certificate").unwrap();
    assert!(gateway.is_trust_changed());
    assert!(gateway.apply(settings(), &all).is_err());
    assert_eq!(asked().text(), result("1", "[1]"));
}
