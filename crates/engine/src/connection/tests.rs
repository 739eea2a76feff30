//! How connections end, tested against a real socket.

use super::*;
use crate::request::Style;
use crate::system::kernel::{Kernel, KernelSocket};
use crate::system::{Route, System, Wait};
use plimsoll_measure::Clock;
use plimsoll_measure::rng::Key;
use plimsoll_plan::{Body, Expect, RequestSpec, RpcExpect, Template, Url};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

struct Pair {
    kernel: Kernel,
    connection: Connection<KernelSocket>,
    resources: ReadResources,
    peer: Option<TcpStream>,
    request: Request,
}

pub(super) const HTTP1: Offer = Offer { protocol: Chosen::Http1, streams: 1 };

const VALUES: fn() -> Values = || Values { seq: 0, key: Key::new(0) };

fn request(method: &str) -> Request {
    let url = Url::parse("http://h/").unwrap();
    let spec = RequestSpec {
        method: method.into(),
        url_written: String::new(),
        url_shown: url.to_string(),
        path: Template::plain(url.path.clone()),
        url,
        headers: Vec::new(),
        body: Body::Empty,
        chunked: false,
        expect: Expect { status: vec![200..=299], rpc: RpcExpect::Off, contains: None },
        compression: false,
        standing: None,
    };
    Request::compile(&spec, 0, Style::default())
}

/// An established connection and its peer's socket.
fn pair_sampled(sampled: bool) -> Pair {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let route = Route { to: listener.local_addr().unwrap(), from: None };
    let mut kernel = Kernel::new(std::sync::mpsc::channel().0).unwrap();
    kernel.start(Clock::start_in(Duration::ZERO)).unwrap();
    let socket = kernel.connect(route, 0).unwrap();
    let connection =
        Connection::new(socket, (None, HTTP1, None), (0, 0), (1, sampled), Nanos::ZERO).unwrap();
    let (peer, _) = listener.accept().unwrap();
    let request = request("GET");
    let bodies = Bodies { budget: BodyBudget::new(50), excerpts: Excerpts::default() };
    let resources = ReadResources::new(4096, bodies);
    let mut pair = Pair { kernel, connection, resources, peer: Some(peer), request };
    assert_eq!(pair.connection.capacity(), 0, "not established yet");
    pair.until("Established");
    pair
}

fn pair() -> Pair {
    pair_sampled(false)
}

impl Pair {
    fn start(&mut self, arrival: Id, trace: bool) -> Started {
        let outgoing = Outgoing {
            arrival,
            request: &self.request,
            values: VALUES(),
            body_max: Some(100),
            target: 0,
            spec: 0,
            last: false,
            split_by: None,
            capture: None,
            trace,
            standing: None,
            last_event: &[],
        };
        let buffers = (&mut Vec::new(), &mut Vec::new());
        self.connection.start(outgoing, buffers, &mut self.resources)
    }

    /// The next event as text; empty if there is none.
    fn next(&mut self, ready: &mut Readiness) -> String {
        self.connection.stamp(false);
        let event = self.connection.next(ready, &mut 100, &mut self.resources);
        event.map_or(String::new(), |event| format!("{event:?}"))
    }

    /// The first event for this readiness.
    fn reported(&mut self, mut ready: Readiness) -> String {
        self.next(&mut ready)
    }

    /// Polls until an event starts with `begins`.
    fn until(&mut self, begins: &str) -> String {
        let mut ready = Vec::new();
        loop {
            self.kernel.wait(Wait::Until(Nanos::from_secs(60)), &mut ready).unwrap();
            for (_, mut readiness) in ready.iter().copied() {
                // The poll is edge-triggered, so all events must be taken.
                loop {
                    let reported = self.next(&mut readiness);
                    if reported.starts_with(begins) {
                        return reported;
                    }
                    if reported.is_empty() {
                        break;
                    }
                    let passing = ["Began", "Handshaking", "Established"];
                    assert!(passing.iter().any(|own| reported.starts_with(own)), "{reported}");
                }
            }
        }
    }

    fn peer(&mut self) -> &mut TcpStream {
        self.peer.as_mut().unwrap()
    }
}

#[test]
fn an_answer_restores_capacity() {
    let mut pair = pair();
    assert_eq!(pair.connection.capacity(), 1);
    let len = pair.request.bytes(VALUES(), (&mut vec![], &mut vec![])).len();
    assert!(matches!(pair.start(7, true), Started::Sent { bytes } if bytes == len as u64));
    assert_eq!((pair.connection.capacity(), pair.connection.is_idle()), (0, false));
    let mut asked = vec![0; len];
    let peer = pair.peer();
    peer.read_exact(&mut asked).unwrap();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    peer.write_all(answer).unwrap();
    let reported = pair.until("Answered");
    assert!(reported.contains("arrival: 7, bytes: 40"), "{reported}");
    assert_eq!((pair.connection.capacity(), pair.connection.is_idle()), (1, true));
    assert!(pair.connection.take_trace(8).is_none(), "another's");
    let trace = pair.connection.take_trace(7).unwrap();
    assert_eq!((trace.request.bytes, trace.response.bytes), (asked, answer.to_vec()));
}

#[test]
fn abandoning_an_exchange_closes_an_http1_connection() {
    let mut pair = pair();
    pair.start(7, false);
    pair.connection.abandon(8, &mut pair.resources);
    assert_eq!(pair.reported(Readiness::NONE), "", "no exchange of this arrival");
    pair.connection.abandon(7, &mut pair.resources);
    assert_eq!((pair.connection.capacity(), pair.connection.is_idle()), (0, true));
    assert_eq!(pair.reported(Readiness::NONE), "Closed { reason: AfterTimeout, failure: None }");
}

#[test]
fn a_refused_request_is_followed_by_the_close() {
    let mut pair = pair();
    let peer = pair.peer.take().unwrap();
    socket2::SockRef::from(&peer).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(peer);
    // The reset has arrived, but the connection has not read it.
    let mut ready = Vec::new();
    while !ready.iter().any(|(_, readiness): &(_, Readiness)| readiness.read_closed) {
        pair.kernel.wait(Wait::Until(Nanos::from_secs(60)), &mut ready).unwrap();
    }
    assert_eq!(pair.connection.capacity(), 1, "the reset was not read yet");
    assert!(matches!(pair.start(7, true), Started::Refused));
    assert_eq!((pair.connection.capacity(), pair.connection.is_idle()), (0, true));
    assert!(pair.connection.take_trace(7).is_none(), "nothing was sent");
    assert_eq!(pair.reported(Readiness::NONE), "Closed { reason: TargetClosed, failure: None }");
}

#[test]
fn a_close_before_the_first_byte_on_a_used_connection_is_a_stale_keep_alive() {
    let mut pair = pair();
    for (arrival, stale) in [(1, false), (2, true)] {
        pair.start(arrival, false);
        if stale {
            pair.peer = None;
            let reported = pair.until("Failed");
            assert!(reported.contains("StaleKeepAlive"), "{reported}");
        } else {
            pair.peer().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            pair.until("Answered");
        }
    }
}

#[test]
fn bytes_after_an_answer_fail_the_connection_but_not_the_answer() {
    let mut pair = pair();
    pair.start(7, false);
    pair.peer().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nstray").unwrap();
    pair.until("Answered");
    assert_eq!(pair.connection.capacity(), 0);
    let reported = pair.reported(Readiness::NONE);
    assert!(reported.contains("BytesAfter"), "{reported}");
}

#[test]
fn buffered_bodies_are_limited_and_freed() {
    let mut pair = pair();
    pair.start(7, false);
    pair.peer().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n").unwrap();
    pair.until("Began");
    pair.peer().write_all(&[b'x'; 40]).unwrap();
    let mut ready = Vec::new();
    while pair.resources.bodies.budget.used() < 40 {
        pair.kernel.wait(Wait::Until(Nanos::from_secs(60)), &mut ready).unwrap();
        ready.iter().for_each(|(_, readiness)| assert_eq!(pair.reported(*readiness), ""));
    }
    pair.peer().write_all(&[b'x'; 15]).unwrap();
    let reported = pair.until("Failed");
    assert!(reported.contains("MemoryExhausted"), "{reported}");
    assert_eq!(pair.resources.bodies.budget.used(), 0);
}

#[test]
fn a_sampled_connection_reports_receive_timestamps() {
    let mut pair = pair_sampled(true);
    // The kernel enables timestamping with a delay after the first request.
    for arrival in 0..10_000 {
        let start = pair.kernel.now();
        pair.start(arrival, false);
        pair.peer().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        let reported = pair.until("Answered");
        let Some(stamp) = reported.split("received_at: Some(Nanos(").nth(1) else { continue };
        let stamp: u64 = stamp.split(')').next().unwrap().parse().unwrap();
        assert!((start.0..=pair.kernel.now().0).contains(&stamp), "{reported}");
        return;
    }
    panic!("no answer had a stamp");
}

/// A TLS server that answers one request with a body that ends with the connection, and closes with
/// or without a close_notify.
fn answer_until_close(listener: TcpListener, orderly: bool) -> std::thread::JoinHandle<()> {
    let pair = rcgen::generate_simple_self_signed(["h".to_string()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .unwrap();
    std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut tls = rustls::ServerConnection::new(std::sync::Arc::new(config)).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            asked.extend(byte);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf of it").unwrap();
        if orderly {
            tls.send_close_notify();
        }
        while tls.wants_write() {
            tls.write_tls(&mut tcp).unwrap();
        }
    })
}

#[test]
fn a_body_until_close_is_complete_only_after_close_notify() {
    for orderly in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let route = Route { to: listener.local_addr().unwrap(), from: None };
        let server = answer_until_close(listener, orderly);
        let rules = plimsoll_plan::TlsRules { insecure: true, ..Default::default() };
        let config = crate::tls::client_config(&rules, Chosen::Http1).unwrap();
        let start = (config, crate::tls::server_name(&rules, "h").unwrap());
        let mut pair = pair();
        let socket = pair.kernel.connect(route, 0).unwrap();
        let connection =
            Connection::new(socket, (Some(&start), HTTP1, None), (0, 0), (2, false), Nanos::ZERO);
        pair.connection = connection.unwrap();
        pair.until("Established");
        pair.start(7, false);
        let ended = if orderly { "Answered" } else { "Failed" };
        let reported = pair.until(ended);
        assert!(orderly || reported.contains("ClosedEarly"), "{reported}");
        server.join().unwrap();
    }
}

/// A peer whose bytes arrive in scripted segments, one per poll.
struct Scripted {
    arrived: std::collections::VecDeque<u8>,
}

impl Read for Scripted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.arrived.is_empty() {
            return Err(std::io::ErrorKind::WouldBlock.into());
        }
        self.arrived.read(buffer)
    }
}

impl Write for Scripted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Socket for Scripted {
    fn is_connected(&self) -> std::io::Result<bool> {
        Ok(true)
    }

    fn read_stamped(&mut self, buffer: &mut [u8]) -> std::io::Result<(usize, Option<Nanos>)> {
        Ok((self.read(buffer)?, None))
    }
}

/// What a scripted connection reported.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reported {
    /// The bodies of answers.
    answers: Vec<Vec<u8>>,
    /// Failed exchanges.
    failed: Vec<Option<Fault>>,
    /// Faults of the connection itself.
    closed: Option<Option<Fault>>,
}

/// How a scripted connection is used after its first answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It stays idle.
    Idle,
    /// The next request is sent before more bytes arrive.
    Sent,
    /// More bytes arrive and the poll reports them, then the next request is due.
    Due,
}

/// One exchange answered by segments, and another one according to `next`.
fn exchange(segments: &[&[u8]], next: Next, request: &Request, body_max: Option<u64>) -> Reported {
    let bodies = Bodies { budget: BodyBudget::new(1 << 20), excerpts: Excerpts::default() };
    let mut resources = ReadResources::new(4096, bodies);
    let socket = Scripted { arrived: Default::default() };
    let mut connection =
        Connection::new(socket, (None, HTTP1, None), (0, 0), (1, false), Nanos::ZERO).unwrap();
    let mut reported = Reported::default();
    let readable = Readiness { readable: true, ..Readiness::NONE };
    assert!(matches!(
        connection.next(&mut Readiness::NONE.clone(), &mut 1, &mut resources),
        Some(Event::Established)
    ));
    let start = |connection: &mut Connection<Scripted>, arrival, resources: &mut _| {
        let (values, trace) = (VALUES(), false);
        let (target, spec, split_by) = (0, 0, None);
        let outgoing = Outgoing {
            arrival,
            request,
            values,
            body_max,
            target,
            spec,
            last: false,
            split_by,
            capture: None,
            trace,
            standing: None,
            last_event: &[],
        };
        connection.start(outgoing, (&mut vec![], &mut vec![]), resources)
    };
    start(&mut connection, 1, &mut resources);
    let mut pending = (next != Next::Idle).then_some(2);
    for segment in segments.iter().filter(|segment| !segment.is_empty()) {
        connection.transport.socket_mut().arrived.extend(*segment);
        let mut ready = readable;
        if next == Next::Due && connection.capacity() > 0 {
            connection.unread = readable;
            if let Some(arrival) = pending.take()
                && matches!(start(&mut connection, arrival, &mut resources), Started::Refused)
            {
                ready = Readiness::NONE;
            }
        }
        while let Some(event) = connection.next(&mut ready, &mut 100, &mut resources) {
            match event {
                Event::Answered { answer, .. } => reported.answers.push(answer.body.to_vec()),
                Event::Failed { failure, .. } => reported.failed.push(failure.fault),
                Event::Closed { failure, .. } => {
                    reported.closed = Some(failure.and_then(|failure| failure.fault));
                    return reported;
                }
                _ => {}
            }
        }
        if next == Next::Sent
            && connection.capacity() > 0
            && let Some(arrival) = pending.take()
        {
            start(&mut connection, arrival, &mut resources);
        }
    }
    reported
}

proptest::proptest! {
    #[test]
    fn stray_bytes_never_depend_on_segmentation(
        form in 0usize..4,
        stray in "[A-GI-Z!-@][ -~]{0,30}|HTTP/1|HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
        cuts in proptest::collection::vec(proptest::prelude::any::<usize>(), 0..8),
        kept: bool,
        next in 0usize..3,
    ) {
        let (answer, body, method) = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", "GET"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok", "GET"),
            ("HTTP/1.1 204 N\r\n\r\n", "", "GET"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "", "HEAD"),
        ][form];
        let next = [Next::Idle, Next::Sent, Next::Due][next];
        let bytes = [answer, &stray].concat();
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        places.extend([0, bytes.len()]);
        places.sort_unstable();
        let segments: Vec<&[u8]> =
            places.windows(2).map(|pair| &bytes.as_bytes()[pair[0]..pair[1]]).collect();
        let reported = exchange(&segments, next, &request(method), kept.then_some(10));
        let body = if kept { body.as_bytes().to_vec() } else { vec![] };
        let sent_between = next == Next::Sent && places.contains(&answer.len());
        if sent_between && stray.starts_with("HTTP/1") {
            // Not to be distinguished from an answer by anyone.
            proptest::prop_assert_eq!(&reported.answers[0], &body);
        } else if sent_between {
            let failed = vec![Some(Fault::BytesAfter)];
            let expected = Reported { answers: vec![body], failed, closed: Some(None) };
            proptest::prop_assert_eq!(reported, expected);
        } else {
            let closed = Some(Some(Fault::BytesAfter));
            let expected = Reported { answers: vec![body], failed: vec![], closed };
            proptest::prop_assert_eq!(reported, expected);
        }
    }
}

#[test]
fn only_bodies_that_a_check_reads_are_limited() {
    let check = |head: &str, body_max: Option<u64>, fits: bool| {
        let body = [b'x'; 50];
        let segments: Vec<&[u8]> =
            std::iter::once(head.as_bytes()).chain(std::iter::repeat_n(&body[..], 10)).collect();
        let reported = exchange(&segments, Next::Idle, &request("GET"), body_max);
        assert_eq!(
            (reported.answers.len(), reported.failed.len()),
            if fits { (1, 0) } else { (0, 1) }
        );
    };
    let known = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0000c8\r\n";
    check(known, Some(500), true);
    check(known, Some(499), false);
    check(known, None, true);
    // Only the first 200 bytes arrive, then the chunk's end is missing: the limit comes first.
    let reported =
        exchange(&[chunked.as_bytes(), &[b'x'; 150]], Next::Idle, &request("GET"), Some(149));
    assert_eq!(reported.failed, [None]);
}
