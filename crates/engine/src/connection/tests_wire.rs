//! Connections over a scripted wire, plain and TLS: how much the kernel accepts, when it reports
//! room, and what the peer sends are up to the test.
//!
//! The wire reports room only after a write that it did not accept in full, as an edge-triggered
//! poll does. A connection that waits for any other report stalls, and [`Session::exchange`] panics.

use super::*;
use plimsoll_measure::rng::Key;
use plimsoll_plan::{Body, Expect, RequestSpec, RpcExpect, Template, TlsRules, Url};
use proptest::prelude::*;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion, version};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

/// What follows the bytes from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Close,
    Reset,
}

#[derive(Default)]
struct State {
    /// Bytes from the peer that were not read yet.
    inbox: Vec<u8>,
    ending: Option<Ending>,
    /// Maximum number of bytes that a read returns.
    segment: usize,
    /// Bytes that the kernel accepted and the peer has not read.
    outbox: Vec<u8>,
    /// Size of the send buffer.
    size: usize,
    /// Whether the last write was not accepted in full.
    full: bool,
    /// Writes fail once this many more bytes were accepted.
    fails_after: Option<usize>,
}

/// A socket whose other end is the test.
#[derive(Clone)]
struct Wire(Rc<RefCell<State>>);

fn reset() -> io::Error {
    io::Error::from_raw_os_error(nix::libc::ECONNRESET)
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = &mut *self.0.borrow_mut();
        let n = state.inbox.len().min(buffer.len()).min(state.segment);
        buffer[..n].copy_from_slice(&state.inbox[..n]);
        state.inbox.drain(..n);
        match (n, state.ending) {
            (0, None) => Err(io::ErrorKind::WouldBlock.into()),
            (0, Some(Ending::Reset)) => Err(reset()),
            _ => Ok(n),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let state = &mut *self.0.borrow_mut();
        if state.fails_after == Some(0) {
            return Err(reset());
        }
        let n = bytes.len().min(state.size.saturating_sub(state.outbox.len()));
        let n = n.min(state.fails_after.unwrap_or(n));
        state.fails_after = state.fails_after.map(|left| left - n);
        state.outbox.extend_from_slice(&bytes[..n]);
        state.full = n < bytes.len();
        if n == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for Wire {
    fn is_connected(&self) -> io::Result<bool> {
        Ok(true)
    }

    fn read_stamped(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<Nanos>)> {
        Ok((self.read(buffer)?, None))
    }
}

/// What the connection runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Plain,
    Tls12,
    Tls13,
}

const EACH: [Over; 3] = [Over::Plain, Over::Tls12, Over::Tls13];
const EACH_TLS: [Over; 2] = [Over::Tls12, Over::Tls13];

/// A server's configuration, and the certificate of all tests.
fn server_config(versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    static PAIR: LazyLock<rcgen::CertifiedKey<rcgen::KeyPair>> =
        LazyLock::new(|| rcgen::generate_simple_self_signed(["h".to_string()]).unwrap());
    let key = PrivateKeyDer::try_from(PAIR.signing_key.serialize_der()).unwrap();
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![PAIR.cert.der().clone()], key)
        .unwrap()
}

/// A connection and its peer.
struct Session {
    wire: Wire,
    connection: Connection<Wire>,
    resources: ReadResources,
    request: Request,
    server: Option<ServerConnection>,
    /// Request bytes that reached the peer.
    heard: Vec<u8>,
    /// Readiness that was not reported yet.
    edge: Readiness,
    /// Events so far.
    events: Vec<String>,
}

impl Session {
    /// An established connection whose requests have a body of `len` bytes.
    fn new(over: Over, len: usize) -> Session {
        let config = match over {
            Over::Plain => None,
            Over::Tls12 => Some(server_config(&[&version::TLS12])),
            Over::Tls13 => Some(server_config(&[&version::TLS13])),
        };
        let mut session = Session::unconnected(config, len);
        session.run();
        while !session.connection.is_established() {
            session.peer_reads(usize::MAX);
            session.peer_sends(b"");
            assert!(session.edge.any(), "the handshake waits for nothing: {:?}", session.events);
            session.run();
        }
        session.peer_reads(usize::MAX);
        session.events.clear();
        session
    }

    fn unconnected(config: Option<ServerConfig>, len: usize) -> Session {
        let start = config.is_some().then(|| {
            static CLIENT: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
                let rules = TlsRules { insecure: true, ..Default::default() };
                crate::tls::client_config(&rules).unwrap()
            });
            (CLIENT.clone(), "h".try_into().unwrap())
        });
        let state = State { segment: usize::MAX, size: usize::MAX, ..State::default() };
        let wire = Wire(Rc::new(RefCell::new(state)));
        let connection =
            Connection::new(wire.clone(), start.as_ref(), (0, 0), (1, false), Nanos::ZERO);
        let url = Url::parse("http://h/").unwrap();
        let spec = RequestSpec {
            method: "POST".into(),
            url_shown: url.to_string(),
            path: Template::plain(url.path.clone()),
            url,
            headers: Vec::new(),
            body: Body::Bytes(Template::plain(vec![b'q'; len])),
            expect: Expect { status: vec![200..=299], rpc: RpcExpect::Off, contains: None },
        };
        Session {
            connection: connection.unwrap(),
            resources: ReadResources { scratch: vec![0; 8192], budget: BodyBudget::new(1 << 30) },
            request: Request::compile(&spec, 0, false),
            server: config.map(|config| ServerConnection::new(Arc::new(config)).unwrap()),
            heard: Vec::new(),
            edge: Readiness { writable: true, ..Readiness::NONE },
            events: Vec::new(),
            wire,
        }
    }

    fn state(&self) -> std::cell::RefMut<'_, State> {
        self.wire.0.borrow_mut()
    }

    fn start(&mut self) -> Started {
        let outgoing = Outgoing {
            arrival: 7,
            request: &self.request,
            values: Values { seq: 0, key: Key::new(0) },
            body_max: 1 << 30,
            keep_body: true,
            last: false,
            trace: false,
        };
        self.connection.start(outgoing, (&mut Vec::new(), &mut Vec::new()))
    }

    /// Reports readiness to the connection and records its events, as the dispatcher would.
    fn run(&mut self) {
        let mut ready = std::mem::take(&mut self.edge);
        loop {
            let mut share = 1;
            let event = self.connection.next(&mut ready, &mut share, &mut self.resources);
            let closed = matches!(event, Some(Event::Closed { .. }));
            match event {
                Some(Event::Answered { answer, .. }) => {
                    self.events.push(format!("answered {} {}", answer.status, answer.body.len()));
                }
                Some(event) => self.events.push(format!("{event:?}")),
                None if ready.any() && share == 0 => {}
                None => break,
            }
            if closed {
                break;
            }
        }
    }

    fn has(&self, text: &str) -> bool {
        self.events.iter().any(|event| event.contains(text))
    }

    /// The peer reads up to `n` bytes of the connection's. The poll reports room if a write was not
    /// accepted in full before.
    fn peer_reads(&mut self, n: usize) {
        let mut state = self.wire.0.borrow_mut();
        let n = n.min(state.outbox.len());
        let bytes: Vec<u8> = state.outbox.drain(..n).collect();
        if n > 0 && std::mem::take(&mut state.full) {
            self.edge.writable = true;
        }
        let Some(server) = &mut self.server else { return self.heard.extend(bytes) };
        let mut bytes = bytes.as_slice();
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).unwrap();
            server.process_new_packets().unwrap();
            let mut plain = [0; 1 << 15];
            while let Ok(n @ 1..) = server.reader().read(&mut plain) {
                self.heard.extend_from_slice(&plain[..n]);
            }
        }
    }

    /// The bytes in which the peer sends these.
    fn wrapped(&mut self, plain: &[u8]) -> Vec<u8> {
        let Some(server) = &mut self.server else { return plain.to_vec() };
        let mut bytes = Vec::new();
        server.set_buffer_limit(None);
        server.writer().write_all(plain).unwrap();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    fn arrive(&mut self, bytes: &[u8]) {
        self.state().inbox.extend_from_slice(bytes);
        self.edge.readable |= !bytes.is_empty();
    }

    fn peer_sends(&mut self, plain: &[u8]) {
        let bytes = self.wrapped(plain);
        self.arrive(&bytes);
    }

    fn peer_ends(&mut self, ending: Ending) {
        self.state().ending = Some(ending);
        self.edge.read_closed = true;
    }

    /// One exchange with a peer that reads `piece` bytes at a time and answers with `answer` bytes
    /// of body.
    fn exchange(&mut self, piece: usize, answer: usize) {
        self.heard.clear();
        self.events.clear();
        assert_eq!(self.connection.capacity(), 1);
        let values = Values { seq: 0, key: Key::new(0) };
        let len = self.request.bytes(values, (&mut Vec::new(), &mut Vec::new())).len();
        let mut sent = matches!(self.start(), Started::Sent { .. });
        while self.heard.len() < len {
            let waits = self.state().outbox.is_empty() && !self.edge.any();
            assert!(!waits, "waits for a report that never comes: {} of {len}", self.heard.len());
            self.peer_reads(piece);
            self.run();
            sent |= self.has("Sent");
        }
        assert_eq!(self.heard.len(), len);
        assert!(sent, "{:?}", self.events);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {answer}\r\n\r\n");
        self.peer_sends(&[head.into_bytes(), vec![b'a'; answer]].concat());
        self.run();
        assert!(self.has(&format!("answered 200 {answer}")), "{:?}", self.events);
    }
}

#[test]
fn bodies_of_every_size_reach_a_peer_however_much_the_kernel_accepts() {
    for over in EACH {
        for len in [0, 1, 16_383, 65_535, 65_536, 65_537, 131_072, 200_000, 3 << 20] {
            for (size, piece) in [(usize::MAX, usize::MAX), (65_536, 1 << 20), (200_000, 70_000)] {
                let mut session = Session::new(over, len);
                session.state().size = size;
                (0..2).for_each(|_| session.exchange(piece, len / 7));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_request_waits_for_a_report_that_never_comes(
        over in prop::sample::select(&EACH[..]),
        len in prop_oneof![0usize..2_000, 60_000usize..70_000, 0usize..400_000],
        size in prop_oneof![1_000usize..5_000, 1_000usize..500_000],
        piece in 500usize..200_000,
        answer in 0usize..200_000,
        segment in 100usize..20_000,
    ) {
        let mut session = Session::new(over, len);
        session.state().size = size;
        if over != Over::Plain {
            // A read that returns less than asked drains a plain socket.
            session.state().segment = segment;
        }
        (0..3).for_each(|_| session.exchange(piece, answer));
    }
}

#[test]
fn a_request_is_sent_when_the_kernel_accepts_its_first_byte() {
    for over in EACH {
        for len in [10, 100_000] {
            let mut session = Session::new(over, len);
            session.state().size = 0;
            assert!(matches!(session.start(), Started::Queued { .. }), "{over:?}");
            session.run();
            assert!(session.events.is_empty(), "{over:?}: {:?}", session.events);
            session.state().size = 1;
            session.edge.writable = true;
            session.run();
            assert_eq!(session.events, ["Sent { arrival: 7 }"], "{over:?} {len}");
        }
    }
}

#[test]
fn records_written_while_reading_count_as_sent() {
    let mut session = Session::new(Over::Tls13, 10);
    session.state().size = 0;
    assert!(matches!(session.start(), Started::Queued { .. }));
    session.state().size = usize::MAX;
    session.server.as_mut().unwrap().refresh_traffic_keys().unwrap();
    session.peer_sends(b"");
    session.run();
    session.run();
    assert_eq!(session.events, ["Sent { arrival: 7 }"]);
}

#[test]
fn an_answer_before_its_request_fails_the_exchange() {
    for over in EACH {
        for answer in ["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\n"] {
            let mut session = Session::new(over, 10);
            session.state().size = 0;
            session.start();
            session.peer_sends(answer.as_bytes());
            session.run();
            if answer.ends_with("ok") {
                assert!(session.has("AnswerFirst"), "{over:?}: {:?}", session.events);
                continue;
            }
            // Only a part of it came before.
            session.state().size = usize::MAX;
            session.edge.writable = true;
            session.peer_sends(b"Content-Length: 0\r\n\r\n");
            session.run();
            assert_eq!(session.events.len(), 3, "{over:?}: {:?}", session.events);
            assert!(session.events[2].starts_with("answered"), "{over:?}: {:?}", session.events);
        }
    }
}

#[test]
fn bytes_before_any_request_close_the_connection() {
    for over in EACH {
        let mut session = Session::new(over, 10);
        session.peer_sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        session.run();
        assert_eq!(session.connection.capacity(), 0);
        assert!(session.events[0].contains("BytesAfter"), "{over:?}: {:?}", session.events);
    }
    // With the handshake.
    let mut config = server_config(&[&version::TLS13]);
    config.send_half_rtt_data = true;
    let mut session = Session::unconnected(Some(config), 10);
    session.run();
    session.peer_reads(usize::MAX);
    session.peer_sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    session.run();
    assert!(session.has("Established") && session.has("BytesAfter"), "{:?}", session.events);
}

#[test]
fn a_connection_that_fails_after_the_first_bytes_has_sent_its_request() {
    for over in EACH {
        for accepted in [1, 65_536, 100_000] {
            let mut session = Session::new(over, 300_000);
            session.state().fails_after = Some(accepted);
            assert!(matches!(session.start(), Started::Sent { .. }), "{over:?} {accepted}");
            session.edge = Readiness { readable: true, writable: true, read_closed: true };
            session.state().ending = Some(Ending::Reset);
            session.run();
            assert!(session.events[0].contains("class: Reset"), "{over:?}: {:?}", session.events);
        }
        let mut session = Session::new(over, 300_000);
        session.state().fails_after = Some(0);
        assert!(matches!(session.start(), Started::Refused), "{over:?}");
    }
}

#[test]
fn an_answer_to_a_request_that_was_not_read_to_the_end_counts() {
    let answer = b"HTTP/1.1 413 X\r\nContent-Length: 2\r\n\r\nno";
    for over in EACH {
        for ending in [None, Some(Ending::Close), Some(Ending::Reset)] {
            // The rest is in the connection's own buffer, or only in that of TLS.
            for len in [300_000, 10_000] {
                let mut session = Session::new(over, len);
                session.state().size = 1_000;
                assert!(matches!(session.start(), Started::Sent { .. }));
                session.peer_sends(answer);
                if let Some(ending) = ending {
                    session.peer_ends(ending);
                    session.edge.writable = true;
                    session.state().fails_after = Some(0);
                }
                session.run();
                assert_eq!(session.events[0], "answered 413 2", "{over:?} {ending:?}");
                assert!(session.events[1].starts_with("Closed"), "{:?}", session.events);
            }
        }
    }
}

/// What follows the bytes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    CloseNotify,
    Close,
    Reset,
    /// A record that is not TLS, in the same segment.
    Garbage,
    /// A fatal alert.
    Alert,
}

/// The event that ends an exchange whose answer is `answer`, followed by `then`.
fn outcome(over: Over, answer: &str, then: Then) -> String {
    let mut session = Session::new(over, 10);
    session.start();
    session.peer_reads(usize::MAX);
    let mut bytes = session.wrapped(answer.as_bytes());
    match (&mut session.server, then) {
        (Some(server), Then::CloseNotify) => {
            server.send_close_notify();
            server.write_tls(&mut bytes).unwrap();
        }
        (Some(server), Then::Alert) => {
            // An alert in reply to a record that cannot be decrypted.
            let bad = [&[23, 3, 3, 0, 32][..], &[0; 32]].concat();
            server.read_tls(&mut bad.as_slice()).unwrap();
            server.process_new_packets().unwrap_err();
            server.write_tls(&mut bytes).unwrap();
        }
        (_, Then::Garbage) => bytes.extend(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        _ => {}
    }
    session.arrive(&bytes);
    match then {
        Then::CloseNotify | Then::Close => session.peer_ends(Ending::Close),
        Then::Reset => session.peer_ends(Ending::Reset),
        Then::Garbage | Then::Alert => {}
    }
    session.run();
    let ends = |event: &&String| event.starts_with("answered") || event.starts_with("Failed");
    let event = session.events.iter().find(ends).expect("the exchange ends");
    match event.split_once("class: ") {
        Some((_, class)) => class.split(',').next().unwrap().into(),
        None => event.clone(),
    }
}

#[test]
fn a_body_is_complete_by_its_length_or_after_close_notify() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12345";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n";
    let until_close = "HTTP/1.1 200 OK\r\n\r\n12345";
    let closed = [Then::CloseNotify, Then::Close, Then::Reset, Then::Garbage, Then::Alert];
    for over in EACH_TLS {
        for then in closed {
            for whole in [length, chunked] {
                assert_eq!(outcome(over, whole, then), "answered 200 5", "{over:?} {then:?}");
            }
            let cut = match then {
                Then::CloseNotify | Then::Close => "ClosedEarly",
                Then::Reset => "Reset",
                Then::Garbage | Then::Alert => "Tls",
            };
            for part in [&length[..length.len() - 1], &chunked[..chunked.len() - 1]] {
                assert_eq!(outcome(over, part, then), cut, "{over:?} {then:?}");
            }
            let cut = if then == Then::CloseNotify { "answered 200 5" } else { cut };
            assert_eq!(outcome(over, until_close, then), cut, "{over:?} {then:?}");
        }
    }
}

#[test]
fn late_tickets_do_not_disturb_exchanges() {
    let mut config = server_config(&[&version::TLS13]);
    config.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
    config.send_tls13_tickets = 40;
    for during in [false, true] {
        let mut session = Session::unconnected(Some(config.clone()), 100_000);
        session.run();
        session.peer_reads(usize::MAX);
        session.peer_sends(b"");
        session.run();
        assert!(session.has("Established"));
        // The tickets follow the client's last flight: before the request, or while it is written.
        if !during {
            session.peer_reads(usize::MAX);
            session.peer_sends(b"");
            session.run();
        }
        session.state().size = 30_000;
        (0..2).for_each(|_| session.exchange(10_000, 1_000));
    }
}

#[test]
fn records_without_data_do_not_hold_up_other_connections() {
    let mut config = server_config(&[&version::TLS13]);
    config.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
    config.send_tls13_tickets = 40;
    let mut session = Session::unconnected(Some(config), 10);
    session.run();
    session.peer_reads(usize::MAX);
    session.peer_sends(b"");
    session.run();
    session.peer_reads(usize::MAX);
    session.peer_sends(b"");
    session.state().segment = 100;
    let all = session.state().inbox.len();
    let mut ready = session.edge;
    let event = session.connection.next(&mut ready, &mut 1, &mut session.resources);
    assert!(event.is_none(), "{event:?}");
    let left = session.state().inbox.len();
    assert!(ready.readable && left > 0 && left < all, "{left} of {all}");
    session.edge = ready;
    session.run();
    session.exchange(usize::MAX, 1_000);
}

#[test]
fn servers_that_do_not_use_tls_are_recognised() {
    let check = |bytes: &[u8], ended: bool, expected: &str| {
        let mut session = Session::unconnected(Some(server_config(&[&version::TLS13])), 0);
        session.run();
        session.arrive(bytes);
        if ended {
            session.peer_ends(Ending::Close);
        }
        session.run();
        let event = session.events.last().unwrap();
        assert!(event.contains("class: Tls") && event.contains(expected), "{event}");
    };
    check(b"HTTP/1.1 400 Bad Request\r\n\r\n", true, "Http");
    check(b"HTTP/1.0 400 Bad Request\r\n\r\n", false, "Http");
    check(b"SSH-2.0-OpenSSH_9\r\n", false, "Other");
    check(b"\x16\x03\x03\x00\x02\x63\x63", true, "");
    check(b"H", true, "Other");
    check(b"", true, "UnexpectedEof");
}
