//! The stream of events: many consumers, one that reads nothing, and one whose token was revoked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use plimsoll_gateway::{Gateway, Settings};
use plimsoll_measure::Nanos;
use plimsoll_registry::model::Definitions;
use plimsoll_registry::settings::{Faces, Listener};
use sha2::{Digest, Sha256};

use crate::setup::{definitions, node, settings, start, wait_until};

/// Streams that a gateway serves at the same time.
const STREAMS_MAX: usize = 64;

fn with_admin() -> Settings {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let faces = Faces { admin: true, ..Faces::NONE };
    Settings {
        listeners: vec![Listener { faces, ..Listener::at(address) }],
        admin_tokens: vec![Sha256::digest("t").into()],
        ..settings()
    }
}

fn upstreams(count: usize) -> Definitions {
    // A long id makes a long state.
    let id = |number: usize| format!("u{number:06}{}", "x".repeat(57));
    definitions((0..count).map(|number| node(&id(number), "eth", "http://127.0.0.1:9/")).collect())
}

fn open(gateway: &Gateway) -> BufReader<TcpStream> {
    let mut socket = TcpStream::connect(gateway.addresses()[0]).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = "GET /api/v1/events/stream HTTP/1.1\r\nhost: h\r\nconnection: close\r\n";
    socket.write_all(format!("{head}authorization: Bearer t\r\n\r\n").as_bytes()).unwrap();
    BufReader::new(socket)
}

/// The status of the answer.
fn status(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    line.split(' ').nth(1).unwrap_or_default().into()
}

/// Reads up to a line with this start, and returns it.
#[track_caller]
fn line(stream: &mut BufReader<TcpStream>, start: &str) -> String {
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream has ended before {start}");
        if line.starts_with(start) {
            return line;
        }
    }
}

#[test]
fn every_consumer_gets_every_event_up_to_a_number_of_consumers() {
    let gateway = start(with_admin(), &upstreams(1));
    let mut streams: Vec<_> = (0..STREAMS_MAX).map(|_| open(&gateway)).collect();
    for stream in &mut streams {
        assert_eq!(status(stream), "200");
        line(stream, "event: state");
    }
    assert_eq!(status(&mut open(&gateway)), "503");
    gateway.apply(with_admin(), &upstreams(2)).unwrap();
    for stream in &mut streams {
        assert!(line(stream, "data: {\"service").contains("u000001"));
    }
    // One that leaves makes room, once events can no longer be written to it.
    streams.pop();
    let mut count = 2;
    wait_until("there is room", || {
        count += 1;
        gateway.apply(with_admin(), &upstreams(count)).unwrap();
        line(&mut streams[0], "data: {\"service");
        status(&mut open(&gateway)) == "200"
    });
    // Without its token, a stream is ended, not cut off.
    gateway.apply(Settings { admin_tokens: Vec::new(), ..with_admin() }, &upstreams(2)).unwrap();
    for mut stream in streams {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with("0\r\n\r\n"), "{rest:?}");
    }
    assert_eq!(status(&mut open(&gateway)), "404");
}

/// A consumer that reads nothing is disconnected once the kernel's buffers, some MB, are full; another
/// one notices nothing.
#[test]
fn a_consumer_that_reads_nothing_is_disconnected() {
    const COUNT: usize = 30_000;
    let mut settings = with_admin();
    settings.limits.write_time = Nanos::from_secs(1);
    settings.limits.connections = 2;
    let mut definitions = upstreams(COUNT);
    definitions.services[0].id = "s".repeat(64);
    for upstream in &mut definitions.upstreams {
        upstream.service = Some("s".repeat(64));
    }
    definitions.endpoints.clear();
    let gateway = start(settings.clone(), &definitions);
    let _silent = open(&gateway);
    let mut reader = open(&gateway);
    let state = line(&mut reader, "data: {\"heads");
    assert_eq!(state.matches("\"upstream\":").count(), COUNT);
    assert_eq!(status(&mut open(&gateway)), "503", "there is no room for another connection");
    wait_until("the silent one is disconnected", || status(&mut open(&gateway)) == "200");
    definitions.upstreams.remove(0);
    gateway.apply(settings, &definitions).unwrap();
    let data = line(&mut reader, "data: {\"service");
    assert!(data.contains("u000000") && data.contains("removed"), "{data}");
}
