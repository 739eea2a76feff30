//! A connection over a scripted wire, and its peer: how much the kernel accepts, when it reports
//! room, and what the peer sends are up to the test.
//!
//! The wire reports room only after a write that it did not accept in full, as an edge-triggered
//! poll does. A connection that waits for any other report stalls, and [`Session::exchange`] panics.

use crate::connection::tests::HTTP1;
use crate::connection::*;
use crate::request::Style;
use plimsoll_measure::rng::Key;
use plimsoll_plan::{Body, Expect, RequestSpec, RpcExpect, Template, TlsRules, Url};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion, version};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

/// What follows the bytes from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Close,
    Reset,
}

#[derive(Default)]
pub(super) struct State {
    /// Bytes from the peer that were not read yet.
    pub(super) inbox: Vec<u8>,
    pub(super) ending: Option<Ending>,
    /// Maximum number of bytes that a read returns.
    pub(super) segment: usize,
    /// Bytes that the kernel accepted and the peer has not read.
    pub(super) outbox: Vec<u8>,
    /// Size of the send buffer.
    pub(super) size: usize,
    /// Whether the last write was not accepted in full.
    pub(super) full: bool,
    /// Writes fail once this many more bytes were accepted.
    pub(super) fails_after: Option<usize>,
}

/// A socket whose other end is the test.
#[derive(Clone)]
pub(super) struct Wire(Rc<RefCell<State>>);

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
pub(super) enum Over {
    Plain,
    Tls12,
    Tls13,
}

pub(super) const EACH: [Over; 3] = [Over::Plain, Over::Tls12, Over::Tls13];
pub(super) const EACH_TLS: [Over; 2] = [Over::Tls12, Over::Tls13];

/// A server's configuration, and the certificate of all tests.
pub(super) fn server_config(versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
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
pub(super) struct Session {
    pub(super) wire: Wire,
    pub(super) connection: Connection<Wire>,
    pub(super) resources: ReadResources,
    pub(super) request: Request,
    pub(super) server: Option<ServerConnection>,
    /// Request bytes that reached the peer.
    pub(super) heard: Vec<u8>,
    /// Readiness that was not reported yet.
    pub(super) edge: Readiness,
    /// Events so far.
    pub(super) events: Vec<String>,
}

impl Session {
    /// An established connection whose requests have a body of `len` bytes.
    pub(super) fn new(over: Over, len: usize) -> Session {
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

    pub(super) fn unconnected(config: Option<ServerConfig>, len: usize) -> Session {
        let start = config.is_some().then(|| {
            static CLIENT: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
                let rules = TlsRules { insecure: true, ..Default::default() };
                crate::tls::client_config(&rules, Chosen::Http1).unwrap()
            });
            (CLIENT.clone(), "h".try_into().unwrap())
        });
        let state = State { segment: usize::MAX, size: usize::MAX, ..State::default() };
        let wire = Wire(Rc::new(RefCell::new(state)));
        let connection = Connection::new(
            wire.clone(),
            (start.as_ref(), HTTP1, None),
            (0, 0),
            (1, false),
            Nanos::ZERO,
        );
        let url = Url::parse("http://h/").unwrap();
        let spec = RequestSpec {
            method: "POST".into(),
            url_written: String::new(),
            url_shown: url.to_string(),
            path: Template::plain(url.path.clone()),
            url,
            headers: Vec::new(),
            body: Body::Bytes(Template::plain(vec![b'q'; len])),
            chunked: false,
            expect: Expect { status: vec![200..=299], rpc: RpcExpect::Off, contains: None },
            compression: false,
            standing: None,
        };
        Session {
            connection: connection.unwrap(),
            resources: ReadResources::new(
                8192,
                Bodies { budget: BodyBudget::new(1 << 30), excerpts: Excerpts::default() },
            ),
            request: Request::compile(&spec, 0, Style::default()),
            server: config.map(|config| ServerConnection::new(Arc::new(config)).unwrap()),
            heard: Vec::new(),
            edge: Readiness { writable: true, ..Readiness::NONE },
            events: Vec::new(),
            wire,
        }
    }

    pub(super) fn state(&self) -> std::cell::RefMut<'_, State> {
        self.wire.0.borrow_mut()
    }

    pub(super) fn start(&mut self) -> Started {
        let outgoing = Outgoing {
            arrival: 7,
            request: &self.request,
            values: Values { seq: 0, key: Key::new(0) },
            body_max: Some(1 << 30),
            target: 0,
            spec: 0,
            last: false,
            split_by: None,
            capture: None,
            trace: false,
            standing: None,
            last_event: &[],
        };
        let buffers = (&mut Vec::new(), &mut Vec::new());
        self.connection.start(outgoing, buffers, &mut self.resources)
    }

    /// Reports readiness to the connection and records its events, as the dispatcher would.
    pub(super) fn run(&mut self) {
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

    pub(super) fn has(&self, text: &str) -> bool {
        self.events.iter().any(|event| event.contains(text))
    }

    /// The peer reads up to `n` bytes of the connection's. The poll reports room if a write was not
    /// accepted in full before.
    pub(super) fn peer_reads(&mut self, n: usize) {
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
    pub(super) fn wrapped(&mut self, plain: &[u8]) -> Vec<u8> {
        let Some(server) = &mut self.server else { return plain.to_vec() };
        let mut bytes = Vec::new();
        server.set_buffer_limit(None);
        server.writer().write_all(plain).unwrap();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    pub(super) fn arrive(&mut self, bytes: &[u8]) {
        self.state().inbox.extend_from_slice(bytes);
        self.edge.readable |= !bytes.is_empty();
    }

    pub(super) fn peer_sends(&mut self, plain: &[u8]) {
        let bytes = self.wrapped(plain);
        self.arrive(&bytes);
    }

    pub(super) fn peer_ends(&mut self, ending: Ending) {
        self.state().ending = Some(ending);
        self.edge.read_closed = true;
    }

    /// One exchange with a peer that reads `piece` bytes at a time and answers with `answer` bytes
    /// of body.
    pub(super) fn exchange(&mut self, piece: usize, answer: usize) {
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
