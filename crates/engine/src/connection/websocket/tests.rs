//! WebSocket connections over a scripted wire: answers in any order and segmentation, ends, and peers that
//! break the protocol.

mod compressed;

use super::*;
use crate::connection::{Bodies, BodyBudget, Connection, Excerpts, Offer};
use crate::fuzz::{self, Wire};
use crate::request::{Request, Style, opening_of};
use plimsoll_measure::Nanos;
use plimsoll_plan::{Document, Plan, Protocol, Variables};
use plimsoll_websocket::{accept_of, put_close};
use proptest::prelude::*;
use std::path::Path;

const BODY: &str = r#"{"method":"m","id":"{{seq}}","params":[{"id":7}],"jsonrpc":"2.0"}"#;

struct Session {
    connection: Connection<Wire>,
    wire: Wire,
    resources: ReadResources,
    request: Request,
    events: Vec<String>,
}

impl Session {
    /// A connection that has asked for a WebSocket, and the key that it sent.
    fn begin() -> (Session, String) {
        let (session, head) = Session::begin_with("");
        assert!(!head.contains("Extensions"), "compression is not offered unasked: {head}");
        let key = head.split("Sec-WebSocket-Key: ").nth(1).unwrap();
        (session, key.trim().to_owned())
    }

    /// A connection of a target with more keys, and the head that it sent.
    fn begin_with(keys: &str) -> (Session, String) {
        let text = format!(
            "rate = 1\nduration = \"1s\"\nmax_body = \"1KiB\"\n[[target]]\nws = \"ws://h/p\"\n\
             headers = {{ X-Key = \"k\" }}\n{keys}body = '''{BODY}'''\n"
        );
        let document = Document::new("plan.toml", text);
        let plan = Plan::read(&document, &Variables::default(), Path::new("."));
        let plan = plan.unwrap_or_else(|problems| panic!("{problems}"));
        let opening = opening_of(&plan, &plan.origins()[0]);
        let wire = Wire::new();
        let offer = Offer { protocol: Protocol::Auto, streams: 10 };
        let offered = (None, offer, opening.as_ref());
        let place = ((0, 0), (1, false));
        let connection = Connection::new(wire.clone(), offered, place.0, place.1, Nanos::ZERO);
        let bodies = Bodies { budget: BodyBudget::new(900), excerpts: Excerpts::default() };
        let mut session = Session {
            connection: connection.unwrap(),
            wire,
            resources: ReadResources::new(1 << 10, bodies),
            request: Request::compile(&plan.requests[0], 0, Style::of(&plan)),
            events: Vec::new(),
        };
        session.run(Readiness { writable: true, ..Readiness::NONE });
        assert_eq!(session.take(), ["Settling"]);
        let written = std::mem::take(&mut session.wire.0.borrow_mut().written);
        let head = String::from_utf8(written).unwrap();
        assert!(head.starts_with("GET /p HTTP/1.1\r\nHost: h\r\n"), "{head}");
        assert!(head.contains("\r\nX-Key: k\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        (session, head)
    }

    fn new() -> Session {
        let (mut session, key) = Session::begin();
        session.peer(answer_to(&key).as_bytes(), usize::MAX);
        assert_eq!(session.take(), ["Established"]);
        session
    }

    fn start(&mut self, arrival: Id) {
        let outgoing = fuzz::outgoing(&self.request, arrival, None);
        let buffers = (&mut Vec::new(), &mut Vec::new());
        let started = self.connection.start(outgoing, buffers, &mut self.resources);
        assert!(matches!(started, Started::Buffered { .. }));
    }

    fn flush(&mut self) {
        self.connection.flush();
        self.run(Readiness::NONE);
    }

    /// With calls 7, 8 and 9, which have been sent.
    fn with_calls() -> Session {
        let mut session = Session::new();
        (7..10).for_each(|arrival| session.start(arrival));
        session.flush();
        assert_eq!(session.take(), ["Sent 7", "Sent 8", "Sent 9"]);
        session
    }

    fn run(&mut self, ready: Readiness) {
        fuzz::run(&mut self.connection, ready, &mut self.resources, &mut self.events);
    }

    fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    fn peer(&mut self, bytes: &[u8], segment: usize) {
        let segments = bytes.chunks(segment.max(1)).map(<[u8]>::to_vec);
        self.wire.0.borrow_mut().arrived.extend(segments);
        while !self.wire.0.borrow().arrived.is_empty()
            && !self.events.last().is_some_and(|last| last.starts_with("Closed"))
        {
            self.run(Readiness { readable: true, ..Readiness::NONE });
        }
    }

    fn peer_ends(&mut self) {
        self.wire.0.borrow_mut().has_ended = true;
        self.run(Readiness { readable: true, read_closed: true, ..Readiness::NONE });
    }

    /// The messages that were written since the last call.
    fn written(&mut self) -> Vec<String> {
        let written = std::mem::take(&mut self.wire.0.borrow_mut().written);
        let (mut reader, mut input) = (Reader::new(Role::Server, 1 << 20), &written[..]);
        reader.allow_compression();
        let mut inflate = Inflate::default();
        let mut messages = Vec::new();
        while let Some(message) = reader.next(&mut input, &mut inflate).unwrap() {
            messages.push(match message {
                Message::Text(text) => text.to_owned(),
                other => format!("{other:?}"),
            });
        }
        messages
    }
}

fn answer_to(key: &str) -> String {
    let accept = accept_of(key);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nconnection: upgrade\r\n\
         sec-websocket-accept: {accept}\r\n\r\n"
    )
}

fn result(id: u64, result: &str) -> Vec<u8> {
    let text = format!(r#"{{"result":"{result}","id":{id},"jsonrpc":"2.0"}}"#);
    let mut out = Vec::new();
    put(&mut out, Opcode::Text, true, None, text.as_bytes());
    out
}

fn answered(arrival: Id, id: u64, result: &str) -> String {
    format!(r#"Answered {arrival} 0 {{"result":"{result}","id":{id},"jsonrpc":"2.0"}}"#)
}

#[test]
fn calls_have_ids_of_the_connection_and_are_answered_in_any_order() {
    let mut session = Session::with_calls();
    assert_eq!(session.connection.capacity(), 7);
    let call =
        |id: u64| format!(r#"{{"method":"m","id":{id},"params":[{{"id":7}}],"jsonrpc":"2.0"}}"#);
    assert_eq!(session.written(), [call(0), call(1), call(2)]);
    let answers = [result(2, "c"), result(0, "a"), result(1, "b")].concat();
    session.peer(&answers, usize::MAX);
    let expected = [answered(9, 2, "c"), answered(7, 0, "a"), answered(8, 1, "b")];
    assert_eq!(session.take(), expected);
    // A place is used again, with another id.
    session.start(5);
    session.flush();
    session.take();
    let place = session.connection.capacity();
    let written = session.written();
    let text = written[0].split("\"id\":").nth(1).unwrap();
    let own: u64 = text.split(',').next().unwrap().parse().unwrap();
    assert_eq!((own, place), (3, 9));
    session.peer(&[result(0, "late"), result(own, "d")].concat(), 1);
    assert_eq!(session.take(), ["Stray LateAnswer".to_owned(), answered(5, own, "d")]);
    session.peer(b"\x89\x02hi\x8a\x00", usize::MAX);
    assert_eq!(session.written(), ["Pong([104, 105])"]);
    for (message, fault) in [
        (r#"{"id":4,"result":1}"#, "UnknownAnswer"),
        (r#"{"id":99999999999999999999999,"result":1}"#, "UnknownAnswer"),
        (r#"{"jsonrpc":"2.0","error":{},"id":null}"#, "UnknownAnswer"),
        ("no JSON", "UnknownAnswer"),
        ("[]", "UnknownAnswer"),
        (r#"{"jsonrpc":"2.0","method":"eth_subscription","params":{}}"#, "Notification"),
    ] {
        let mut out = Vec::new();
        put(&mut out, Opcode::Text, true, None, message.as_bytes());
        session.peer(&out, usize::MAX);
        assert_eq!(session.take(), [format!("Stray {fault}")], "{message}");
    }
    assert_eq!(session.connection.capacity(), 10);
}

#[test]
fn servers_that_open_no_websocket() {
    let check = |answer: &dyn Fn(&str) -> String, expected: &str| {
        for segment in [1, 1000] {
            let (mut session, key) = Session::begin();
            session.peer(answer(&key).as_bytes(), segment);
            assert_eq!(session.take(), [expected], "{}", answer(&key));
        }
    };
    let closed = |fault: &str| format!("Closed Some({fault})");
    check(&|_| "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi".into(), &closed("NotUpgraded"));
    check(&|_| "HTTP/1.1 404 \r\n\r\n".into(), &closed("NotUpgraded"));
    check(&|_| "SSH-2.0-x\r\n\r\n".into(), &closed("NotHttp"));
    check(&|_| "\x15\x03\x03\r\n\r\n".into(), &closed("NotHttp"));
    check(&|_| answer_to("other"), &closed("BadAccept"));
    check(&|key| answer_to(key).replace("WebSocket", "h2c"), &closed("NotUpgraded"));
    check(
        &|key| answer_to(key).replace("connection", "sec-websocket-extensions"),
        &closed("NotUpgraded"),
    );
    check(&|_| format!("HTTP/1.1 101 x\r\na: {}\r\n", "x".repeat(66_000)), &closed("HeadTooLong"));
    let (mut session, _) = Session::begin();
    session.peer_ends();
    assert_eq!(session.take(), ["Closed None"]);
    // What follows the handshake in the same segment is read.
    let (mut session, key) = Session::begin();
    session.peer(&[answer_to(&key).as_bytes(), b"\x89\x00"].concat(), usize::MAX);
    assert_eq!(
        (session.take(), session.written()),
        (vec!["Established".into()], vec!["Ping([])".replace("Ping", "Pong")])
    );
}

#[test]
fn the_ends_of_connections() {
    let failed = |fault: &str| {
        let mut events: Vec<_> = (7..10).map(|own| format!("Failed {own} {fault}")).collect();
        events.push("Closed Some(ClosedLocal)".into());
        events
    };
    let check = |bytes: &[u8], expected: Vec<String>| {
        let mut session = Session::with_calls();
        session.written();
        session.peer(bytes, 7);
        assert_eq!(session.take(), expected, "{}", bytes.escape_ascii());
        let expected = "Close { code: Some(1002), reason: \"\" }";
        assert_eq!(session.written(), [expected]);
        assert_eq!((session.connection.capacity(), session.resources.bodies.budget.used()), (0, 0));
    };
    check(b"\x81\x85\0\0\0\0hello", failed("Protocol Some(BadMessage)")); // masked
    check(b"\x83\x00", failed("Protocol Some(BadMessage)"));
    check(b"\x09\x00", failed("Protocol Some(BadMessage)"));
    check(b"\x81\x02\xc3\x28", failed("Protocol Some(BadMessage)"));
    check(b"\x88\x02\x03\xed", failed("Protocol Some(BadMessage)")); // code 1005
    let mut long = failed("BodyTooLarge None");
    long[3] = "Closed None".into();
    let check_long = |bytes: &[u8], expected: &[String]| {
        let mut session = Session::with_calls();
        session.peer(bytes, 7);
        assert_eq!(session.take(), expected);
        assert_eq!(session.resources.bodies.budget.used(), 0);
    };
    check_long(b"\x81\x7e\x04\x01", &long);
    // Within the limit of messages, but not of the budget.
    let held: Vec<_> =
        long.iter().map(|own| own.replace("BodyTooLarge", "MemoryExhausted")).collect();
    check_long(&[&b"\x81\x7e\x04\x00"[..], &[b'x'; 1_000]].concat(), &held);
    let flood = b"\x89\x00".repeat(20_000);
    let mut session = Session::with_calls();
    session.wire.0.borrow_mut().room = 0;
    session.peer(&flood, usize::MAX);
    assert!(session.take().is_empty());
    session.wire.0.borrow_mut().room = usize::MAX;
    session.run(Readiness { writable: true, ..Readiness::NONE });
    // As many as are allowed to wait.
    assert!((5_000..20_000).contains(&session.written().len()));
    // The peer closes the connection.
    let mut close = Vec::new();
    put_close(&mut close, 1013, "later", None);
    let mut session = Session::with_calls();
    session.written();
    session.peer(&[result(1, "b"), close].concat(), 3);
    let expected = [
        answered(8, 1, "b"),
        "Failed 7 ClosedEarly Some(ClosedByPeer)".into(),
        "Failed 9 ClosedEarly Some(ClosedByPeer)".into(),
        "Closed None".into(),
    ];
    assert_eq!(session.take(), expected);
    assert_eq!(session.written(), ["Close { code: Some(1000), reason: \"\" }"]);
    let mut session = Session::with_calls();
    session.peer(b"\x81\x05{", usize::MAX);
    session.peer_ends();
    assert_eq!(session.take()[0], "Failed 7 ClosedEarly Some(Truncated)");
    let mut session = Session::new();
    session.peer_ends();
    assert_eq!(session.take(), ["Closed None"]);
    // It had answered before, and was closed while it was idle.
    let mut session = Session::with_calls();
    session.peer(&result(0, "a"), usize::MAX);
    session.start(5);
    session.flush();
    session.take();
    session.peer_ends();
    assert!(session.take().contains(&"Failed 5 ClosedEarly Some(StaleKeepAlive)".into()));
}

#[test]
fn calls_that_are_given_up() {
    let mut session = Session::with_calls();
    session.connection.abandon(8, &mut session.resources);
    session.run(Readiness::NONE);
    assert_eq!((session.take().len(), session.connection.capacity()), (0, 8));
    session.peer(&result(1, "late"), usize::MAX);
    assert_eq!(session.take(), ["Stray LateAnswer"]);
    // The peer does not read: what it has not begun to read moves to another connection.
    let mut session = Session::new();
    session.start(1);
    session.flush();
    session.take();
    session.written();
    session.wire.0.borrow_mut().room = 5;
    (2..6).for_each(|arrival| session.start(arrival));
    session.flush();
    assert_eq!(session.take(), ["Sent 2"]);
    session.connection.abandon(4, &mut session.resources);
    session.run(Readiness::NONE);
    assert_eq!((session.take(), session.connection.capacity()), (vec!["Returned 5".into()], 0));
    session.wire.0.borrow_mut().room = usize::MAX;
    session.run(Readiness { writable: true, ..Readiness::NONE });
    assert_eq!(session.take(), ["Sent 3"]);
    assert_eq!(session.written().len(), 2, "2 and 3, not 4 and 5");
    for nth in 0..3 {
        session.peer(&result(nth, "x"), usize::MAX);
    }
    assert_eq!(session.events.last().unwrap(), "Closed None");
}

/// An answer to a call that was not sent is no answer to it.
#[test]
fn answers_before_their_calls() {
    let mut session = Session::new();
    session.wire.0.borrow_mut().room = 0;
    session.start(7);
    session.flush();
    session.peer(&result(0, "a"), usize::MAX);
    let expected = ["Failed 7 Protocol Some(AnswerFirst)", "Closed Some(ClosedLocal)"];
    assert_eq!(session.take(), expected);
}

proptest! {
    /// Any frames of the peer are handled whatever the segments are, each call ends once, and no memory
    /// stays charged.
    #[test]
    fn any_bytes_are_handled(
        parts in proptest::collection::vec(
            prop_oneof![
                (0..4u64).prop_map(|nth| result(nth, "x")),
                proptest::collection::vec(any::<u8>(), 0..20),
                proptest::collection::vec(b'a'..=b'z', 0..120).prop_map(|text| {
                    let mut out = vec![0x81, text.len() as u8];
                    out.extend(text);
                    out
                }),
            ],
            0..8,
        ),
        segment in 1..60usize,
    ) {
        let outcome = |segment| {
            let mut session = Session::with_calls();
            session.peer(&parts.concat(), segment);
            if !session.events.last().is_some_and(|last| last.starts_with("Closed")) {
                session.peer_ends();
            }
            assert_eq!(session.resources.bodies.budget.used(), 0);
            session.take()
        };
        let events = outcome(segment);
        for arrival in 7..10 {
            let ends = |event: &&String| {
                event.starts_with(&format!("Answered {arrival} ")) || event.starts_with(&format!("Failed {arrival} "))
            };
            prop_assert_eq!(events.iter().filter(ends).count(), 1, "{:?}", events);
        }
        prop_assert_eq!(events, outcome(usize::MAX));
    }
}
