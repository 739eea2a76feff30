//! What stays open, over a scripted wire and in any segmentation: idle sockets, subscriptions, and event streams
//! over both versions of HTTP, with peers that end them or break the rules.

use super::*;
use crate::fuzz::{self, Wire};
use crate::http2::frame::{self, flag, kind};
use crate::http2::hpack::put_string;
use crate::request::{Request, Style, opening_of};
use plimsoll_plan::{Document, Plan, Variables};
use plimsoll_websocket::{Inflate, Message, Opcode, Reader, Role, accept_of, put, put_close};
use std::path::Path;

const SUBSCRIBE: &str =
    "ws = \"ws://h/p\"\nsubscribe = { method = \"eth_subscribe\", params = [\"newHeads\"] }";
const IDLE: &str = "ws = \"ws://h/p\"";
const EVENTS: &str = "sse = \"http://h/events\"";

struct Session {
    plan: Plan,
    connection: Connection<Wire>,
    wire: Wire,
    resources: ReadResources,
    events: Vec<String>,
}

impl Session {
    fn begin(target: &str, protocol: Chosen) -> Session {
        let text =
            format!("sockets = 9\nduration = \"1s\"\nmax_body = \"200B\"\n[[target]]\n{target}\n");
        let text = match protocol {
            Chosen::Http2 => format!("protocol = \"http2\"\n{text}"),
            _ => text,
        };
        let document = Document::new("plan.toml", text);
        let plan = Plan::read(&document, &Variables::default(), Path::new("."));
        let plan = plan.unwrap_or_else(|problems| panic!("{problems}"));
        let opening = opening_of(&plan, &plan.origins()[0]);
        let wire = Wire::new();
        let offered = (None, Offer { protocol, streams: 3 }, opening.as_ref());
        let connection = Connection::new(wire.clone(), offered, (0, 0), (1, false), Nanos::ZERO);
        let bodies = Bodies { budget: BodyBudget::new(10_000), excerpts: Excerpts::default() };
        let mut session = Session {
            plan,
            connection: connection.unwrap(),
            wire,
            resources: ReadResources::new(1 << 10, bodies),
            events: Vec::new(),
        };
        session.run(Readiness { writable: true, ..Readiness::NONE });
        session
    }

    /// An open WebSocket on which arrival 7 was started.
    fn websocket(target: &str) -> Session {
        let mut session = Session::begin(target, Chosen::Auto);
        let head = String::from_utf8(session.written()).unwrap();
        let accept = accept_of(head.split("Sec-WebSocket-Key: ").nth(1).unwrap().trim());
        let answer = format!(
            "HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
        );
        session.peer(answer.as_bytes(), usize::MAX);
        assert_eq!(session.take(), ["Settling", "Established"]);
        session.start(7, b"");
        session.flush();
        session
    }

    /// A subscription with the id 0xcd.
    fn subscribed() -> Session {
        let mut session = Session::websocket(SUBSCRIBE);
        assert_eq!(session.take(), ["Sent 7"]);
        session.say(r#"{"jsonrpc":"2.0","id":0,"result":"0xcd"}"#);
        assert_eq!(session.take(), ["Opened 7 0"]);
        session.written();
        session
    }

    /// An HTTP/1.1 connection on which arrival 7 asked for events.
    fn asked(last_event: &[u8]) -> Session {
        let mut session = Session::begin(EVENTS, Chosen::Http1);
        assert_eq!(session.take(), ["Established"]);
        session.start(7, last_event);
        session
    }

    fn start(&mut self, arrival: Id, last_event: &[u8]) {
        let spec = &self.plan.requests[0];
        let request = Request::compile(spec, 0, Style::of(&self.plan));
        let standing = spec.standing.as_ref();
        let own = fuzz::outgoing(&request, arrival, Some(self.plan.body_max));
        let outgoing = Outgoing { standing, last_event, ..own };
        let buffers = (&mut Vec::new(), &mut Vec::new());
        let started = self.connection.start(outgoing, buffers, &mut self.resources);
        assert!(!matches!(started, Started::Refused));
    }

    fn flush(&mut self) {
        self.connection.flush();
        self.run(Readiness::NONE);
    }

    fn run(&mut self, ready: Readiness) {
        fuzz::run(&mut self.connection, ready, &mut self.resources, &mut self.events);
    }

    fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    fn written(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.wire.0.borrow_mut().written)
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

    /// A text message of the peer, in small segments.
    fn say(&mut self, text: &str) {
        let mut out = Vec::new();
        put(&mut out, Opcode::Text, true, None, text.as_bytes());
        self.peer(&out, 5);
    }

    /// The messages written over WebSocket.
    fn said(&mut self) -> Vec<String> {
        let written = self.written();
        let (mut reader, mut input) = (Reader::new(Role::Server, 1 << 20), &written[..]);
        let mut messages = Vec::new();
        while let Some(message) = reader.next(&mut input, &mut Inflate::default()).unwrap() {
            messages.push(match message {
                Message::Text(text) => text.to_owned(),
                other => format!("{other:?}"),
            });
        }
        messages
    }
}

#[test]
fn an_idle_socket_opens_is_pinged_and_released() {
    let mut session = Session::websocket(IDLE);
    assert_eq!(session.take(), ["Opened 7 0"]);
    assert_eq!((session.connection.capacity(), session.connection.is_idle()), (0, false));
    assert!(session.connection.ping());
    session.flush();
    assert_eq!(session.said(), ["Ping([0, 0, 0, 1])"]);
    // Only an answer to the last ping is one.
    session.peer(b"\x8a\x04\0\0\0\x09\x8a\x00", usize::MAX);
    assert!(session.take().is_empty());
    session.peer(b"\x8a\x04\0\0\0\x01\x8a\x04\0\0\0\x01", 3);
    assert_eq!(session.take(), ["Ponged 7"]);
    // A notification that belongs to no subscription, and an answer to no call.
    session.say(r#"{"method":"eth_subscription","params":{"subscription":"0x1","result":1}}"#);
    session.say(r#"{"id":5,"result":1}"#);
    session.peer(b"\x89\x02hi", usize::MAX);
    assert_eq!(session.take(), ["Unmatched 7", "Stray UnknownAnswer"]);
    assert_eq!(session.said(), ["Pong([104, 105])"]);
    session.connection.release(7, &mut session.resources);
    session.flush();
    assert_eq!(session.take(), ["Closed None"]);
    assert_eq!(session.said(), ["Close { code: Some(1000), reason: \"\" }"]);
}

#[test]
fn a_subscription_is_confirmed_notified_and_ended() {
    let mut session = Session::websocket(SUBSCRIBE);
    let call = r#"{"jsonrpc":"2.0","id":0,"method":"eth_subscribe","params":["newHeads"]}"#;
    assert_eq!((session.take(), session.said()), (vec!["Sent 7".into()], vec![call.into()]));
    let notification = |id: &str, result: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"eth_subscription","params":{{"subscription":{id},"result":{result}}}}}"#
        )
    };
    // Before the answer, it is unknown whose it is.
    session.say(&notification("\"0xcd\"", "1"));
    session.say(r#"{"jsonrpc":"2.0","id":0,"result":"0xcd"}"#);
    session.say(&notification("\"0xcd\"", r#"{"number":"0x1"}"#));
    session.say(&notification("\"0xce\"", "2"));
    session.say(r#"{"method":"eth_subscription","params":[]}"#);
    let expected = [
        "Unmatched 7",
        "Opened 7 0",
        r#"Notified 7 {"number":"0x1"}"#,
        "Unmatched 7",
        "Unmatched 7",
    ];
    assert_eq!(session.take(), expected);
    // Several in one segment, whose results are in the read buffer.
    let mut both = Vec::new();
    for result in ["3", "[4]"] {
        put(&mut both, Opcode::Text, true, None, notification("\"0xcd\"", result).as_bytes());
    }
    session.peer(&both, usize::MAX);
    assert_eq!(session.take(), ["Notified 7 3", "Notified 7 [4]"]);
    session.connection.release(7, &mut session.resources);
    session.flush();
    assert_eq!(session.take(), ["Closed None"]);
    let unsubscribe = r#"{"jsonrpc":"2.0","id":1,"method":"eth_unsubscribe","params":["0xcd"]}"#;
    assert_eq!(session.said(), [unsubscribe, "Close { code: Some(1000), reason: \"\" }"]);
}

#[test]
fn subscriptions_that_are_refused() {
    let check = |answer: &str, expected: &str| {
        let mut session = Session::websocket(SUBSCRIBE);
        session.take();
        session.say(answer);
        assert_eq!(session.take(), [expected, "Closed None"], "{answer}");
    };
    let error = r#"{"id":0,"error":{"code":-32601,"message":"no"}}"#;
    check(error, &format!("Answered 7 0 {error}"));
    check(r#"{"id":0}"#, "Answered 7 0 {\"id\":0}");
    for result in ["null", "true", "{}", "[]"] {
        let answer = format!(r#"{{"id":0,"result":{result}}}"#);
        check(&answer, "Failed 7 Protocol Some(BadSubscription)");
    }
    let long = format!(r#"{{"id":0,"result":"{}"}}"#, "x".repeat(128));
    check(&long, "Failed 7 Protocol Some(BadSubscription)");
}

#[test]
fn sockets_that_end() {
    let mut close = Vec::new();
    put_close(&mut close, 1013, "later", None);
    type Begin = fn() -> Session;
    let begins: [Begin; 2] = [Session::subscribed, || {
        let mut session = Session::websocket(IDLE);
        session.take();
        session
    }];
    for begin in begins {
        let check = |bytes: &[u8], expected: [&str; 2]| {
            for segment in [1, 1_000] {
                let mut session = begin();
                session.peer(bytes, segment);
                if bytes.is_empty() {
                    session.peer_ends();
                }
                assert_eq!(session.take(), expected, "{}", bytes.escape_ascii());
                assert_eq!(session.resources.bodies.budget.used(), 0);
            }
        };
        let broken = ["Failed 7 Protocol Some(BadMessage)", "Closed Some(ClosedLocal)"];
        check(&close, ["Failed 7 ClosedEarly Some(ClosedByPeer)", "Closed None"]);
        check(b"", ["Failed 7 ClosedEarly None", "Closed None"]);
        check(b"\x09\x00", broken); // a control frame in fragments
        check(b"\x81\x02\xc3\x28", broken);
        check(b"\x81\x85\0\0\0\0hello", broken);
        check(b"\x81\x7e\x04\x01", ["Failed 7 BodyTooLarge None", "Closed None"]);
        let mut session = begin();
        session.connection.abandon(7, &mut session.resources);
        session.run(Readiness::NONE);
        assert_eq!(session.take(), ["Closed None"]);
    }
    // Within the call that opens it.
    let mut session = Session::websocket(SUBSCRIBE);
    session.peer(&close, usize::MAX);
    let ends = ["Sent 7", "Failed 7 ClosedEarly Some(ClosedByPeer)", "Closed None"];
    assert_eq!(session.take(), ends);
    let mut session = Session::websocket(SUBSCRIBE);
    session.connection.abandon(7, &mut session.resources);
    session.run(Readiness::NONE);
    assert_eq!(session.take(), ["Sent 7", "Closed None"]);
}

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n";

fn chunked(parts: &[&str]) -> Vec<u8> {
    let chunk = |part: &&str| format!("{:x}\r\n{part}\r\n", part.len());
    let chunks: String = parts.iter().map(chunk).collect();
    format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{chunks}").into_bytes()
}

#[test]
fn event_streams_over_http1_in_any_segments() {
    let plain = |text: &str| format!("{HEAD}\r\n{text}").into_bytes();
    let text = "data: a\n\n: hi\nid: 5\ndata: b\ndata: c\n\ndata: half";
    for bytes in [plain(text), chunked(&[text]), chunked(&[&text[..4], &text[4..20], &text[20..]])]
    {
        for segment in [1, 2, 7, 1_000] {
            let mut session = Session::asked(b"");
            session.peer(&bytes, segment);
            let expected = ["Opened 7 200", "Event 7 - a", "Heartbeat 7", "Event 7 5 b\nc"];
            assert_eq!(session.take(), expected, "segments of {segment}");
            assert_eq!((session.connection.capacity(), session.connection.is_idle()), (0, false));
            session.peer_ends();
            assert_eq!(session.take(), ["Failed 7 ClosedEarly Some(Truncated)", "Closed None"]);
            assert_eq!(session.resources.bodies.budget.used(), 0);
        }
    }
    let mut session = Session::asked(b"");
    session.peer(&chunked(&["data: a\n\n", ""]), 3);
    let ends =
        ["Opened 7 200", "Event 7 - a", "Failed 7 ClosedEarly Some(StreamEnded)", "Closed None"];
    assert_eq!(session.take(), ends);
    // Released by this side.
    let mut session = Session::asked(b"");
    session.peer(&plain("data: half"), usize::MAX);
    session.connection.release(7, &mut session.resources);
    session.flush();
    assert_eq!(session.take(), ["Opened 7 200", "Closed None"]);
    assert_eq!(session.resources.bodies.budget.used(), 0);
}

#[test]
fn answers_without_events() {
    let check = |answer: &str, expected: &[&str]| {
        for segment in [1, 1_000] {
            let mut session = Session::asked(b"");
            session.peer(answer.as_bytes(), segment);
            let mut events = session.take();
            events.retain(|event| !event.starts_with("Began"));
            assert_eq!(events, expected, "{}", answer.escape_debug());
        }
    };
    let not = ["Failed 7 Protocol Some(NotEventStream)", "Closed None"];
    check("HTTP/1.1 503 x\r\ncontent-length: 2\r\n\r\nno", &["Answered 7 503 ", "Closed None"]);
    check("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}", &not);
    check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", &not);
    check("HTTP/1.1 204 x\r\n\r\n", &not);
    check("HTTP/1.1 301 x\r\nlocation: /b\r\n\r\n", &not);
    check(&format!("{HEAD}content-encoding: gzip\r\n\r\n"), &not);
    check("SSH-2.0-x\r\n\r\n", &["Failed 7 Protocol Some(NotHttp)", "Closed None"]);
    let too_long = format!("{HEAD}\r\ndata: {}", "x".repeat(300));
    let long = ["Opened 7 200", "Failed 7 BodyTooLarge Some(EventTooLong)", "Closed None"];
    check(&too_long, &long);
    check(&format!("{HEAD}\r\n{}", "data: 0123456789\n".repeat(30)), &long);
    let endless = format!("{HEAD}x: {}", "x".repeat(70_000));
    check(&endless, &["Failed 7 Protocol Some(HeadTooLong)", "Closed None"]);
}

#[test]
fn a_stream_continues_after_the_last_event() {
    let mut session = Session::asked(b"42");
    let written = String::from_utf8(session.written()).unwrap();
    let lines: Vec<&str> = written.split("\r\n").collect();
    assert_eq!(lines[..2], ["GET /events HTTP/1.1", "Last-Event-ID: 42"]);
    assert!(lines.contains(&"Accept: text/event-stream"), "{written}");
}

/// The head of an event stream.
fn h2_head(stream: u32, fields: &[(&str, &str)], ends: bool) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        put_string(name.as_bytes(), &mut block);
        put_string(value.as_bytes(), &mut block);
    }
    let flags = flag::END_HEADERS | if ends { flag::END_STREAM } else { 0 };
    let mut out = Vec::new();
    frame::put(&mut out, (kind::HEADERS, flags), stream, &block);
    out
}

const OK: [(&str, &str); 2] = [(":status", "200"), ("content-type", "text/event-stream")];

fn h2_data(stream: u32, text: &str, ends: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let flags = if ends { flag::END_STREAM } else { 0 };
    frame::put(&mut out, (kind::DATA, flags), stream, text.as_bytes());
    out
}

/// An HTTP/2 connection on which arrivals 7 and 8 asked for events.
fn h2_asked() -> Session {
    let mut session = Session::begin(EVENTS, Chosen::Http2);
    let mut settings = Vec::new();
    frame::put_settings(&mut settings, &[]);
    session.peer(&settings, usize::MAX);
    assert_eq!(session.take(), ["Settling", "Established"]);
    session.start(7, b"");
    session.start(8, b"41");
    session.flush();
    assert_eq!(session.take(), ["Sent 7", "Sent 8"]);
    session
}

#[test]
fn event_streams_over_http2_share_a_connection() {
    let bytes = [
        h2_head(1, &OK, false),
        h2_head(3, &OK, false),
        h2_data(1, "data: a\n\ndata: b\n\nid: 3\nda", false),
        h2_data(3, ": hi\n", false),
        h2_data(1, "ta: c\n\n", false),
        h2_data(3, "data: d\n\ndata: e\n", true),
    ]
    .concat();
    for segment in [1, 9, 1_000] {
        let mut session = h2_asked();
        session.peer(&bytes, segment);
        let expected = [
            "Opened 7 200",
            "Opened 8 200",
            "Event 7 - a",
            "Event 7 - b",
            "Heartbeat 8",
            "Event 7 3 c",
            "Event 8 - d",
            "Failed 8 ClosedEarly Some(Truncated)",
        ];
        assert_eq!(session.take(), expected, "segments of {segment}");
        assert_eq!((session.connection.capacity(), session.connection.is_idle()), (2, false));
        session.written();
        session.connection.release(7, &mut session.resources);
        session.flush();
        let mut reset = Vec::new();
        frame::put_reset(&mut reset, 1, frame::Code::CANCEL);
        assert_eq!((session.take().len(), session.written()), (0, reset));
        assert_eq!(session.connection.capacity(), 3);
        assert_eq!(session.resources.bodies.budget.used(), 0);
    }
}

#[test]
fn ends_over_http2() {
    let check = |bytes: &[u8], expected: &[&str]| {
        let mut session = h2_asked();
        session.peer(bytes, 6);
        assert_eq!(session.take(), expected, "{}", bytes.escape_ascii());
        assert_eq!(session.resources.bodies.budget.used(), 0);
    };
    let head = h2_head(1, &OK, false);
    let ended = "Failed 7 ClosedEarly Some(StreamEnded)";
    check(&h2_head(1, &OK, true), &[ended]);
    check(&[head.clone(), h2_data(1, "", true)].concat(), &["Opened 7 200", ended]);
    let trailers = h2_head(1, &[("x", "y")], true);
    check(&[head.clone(), trailers].concat(), &["Opened 7 200", ended]);
    check(&h2_head(1, &[(":status", "503")], false), &["Answered 7 503 "]);
    check(&h2_head(1, &[(":status", "503")], true), &["Answered 7 503 "]);
    check(&h2_head(1, &[(":status", "200")], false), &["Failed 7 Protocol Some(NotEventStream)"]);
    let long = h2_data(1, &format!("data: {}", "x".repeat(300)), false);
    let too_long = "Failed 7 BodyTooLarge Some(EventTooLong)";
    check(&[head.clone(), long].concat(), &["Opened 7 200", too_long]);
    let mut reset = head.clone();
    frame::put_reset(&mut reset, 1, frame::Code::REFUSED_STREAM);
    check(&reset, &["Opened 7 200", "Failed 7 Reset Some(RefusedStream)"]);
    let mut session = h2_asked();
    session.peer(&[head, h2_data(1, "data: a\n\n", false)].concat(), 100);
    session.peer_ends();
    let mut events = session.take();
    events.sort_unstable();
    let expected = [
        "Closed None",
        "Event 7 - a",
        "Failed 7 ClosedEarly Some(StreamEnded)",
        "Failed 8 ClosedEarly None",
        "Opened 7 200",
    ];
    assert_eq!(events, expected);
}

proptest::proptest! {
    /// Whatever a server sends, and in whatever segments: the exchange ends once, and the events are the same.
    #[test]
    fn any_event_stream_is_handled(
        parts in proptest::collection::vec(
            proptest::prop_oneof![
                proptest::strategy::Just("data: a\n".to_string()),
                proptest::strategy::Just("\n".to_string()),
                proptest::strategy::Just("id: 7\r\n".to_string()),
                proptest::strategy::Just(": c\n".to_string()),
                proptest::strategy::Just("\r".to_string()),
                "[a-z:\n\r]{0,9}",
            ],
            0..15,
        ),
        with_head in proptest::bool::weighted(0.8),
        segment in 1..40usize,
    ) {
        let head = if with_head { format!("{HEAD}\r\n") } else { String::new() };
        let bytes = (head + &parts.concat()).into_bytes();
        let mut whole = fuzz::events(&bytes, usize::MAX);
        let mut cut = fuzz::events(&bytes, segment);
        for own in [&mut whole, &mut cut] {
            own.retain(|event| !event.starts_with("Began"));
        }
        proptest::prop_assert_eq!(whole, cut);
    }
}
