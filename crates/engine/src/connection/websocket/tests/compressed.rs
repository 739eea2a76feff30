//! Compression: what is offered and agreed on, compressed messages in any segments, and peers that abuse it.

use super::*;
use plimsoll_websocket::{COMPRESSED_MIN, COMPRESSION};

/// An answer to the opening that agrees to these extensions.
fn agreeing(head: &str, extensions: &str) -> String {
    let key = head.split("Sec-WebSocket-Key: ").nth(1).unwrap().trim();
    let header = format!("\r\nsec-websocket-extensions: {extensions}\r\nconnection");
    answer_to(key).replace("\r\nconnection", &header)
}

/// A connection on which compression was agreed on, with calls 7, 8 and 9.
fn compressed() -> Session {
    let (mut session, head) = Session::begin_with("compression = true\n");
    assert!(head.contains(&format!("\r\nSec-WebSocket-Extensions: {COMPRESSION}\r\n")), "{head}");
    session.peer(agreeing(&head, COMPRESSION).as_bytes(), usize::MAX);
    (7..10).for_each(|arrival| session.start(arrival));
    session.flush();
    assert_eq!(session.take(), ["Established", "Sent 7", "Sent 8", "Sent 9"]);
    session
}

/// The answer to a call with a long result, as a compressed payload.
fn payload(id: u64, len: usize) -> Vec<u8> {
    let text = format!(r#"{{"result":"{}","id":{id},"jsonrpc":"2.0"}}"#, "x".repeat(len));
    Deflate::default().message(text.as_bytes()).unwrap().to_vec()
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_compressed(&mut out, Opcode::Text, None, payload);
    out
}

#[test]
fn what_a_server_may_answer() {
    let check = |extensions: &str, expected: &[&str]| {
        for segment in [1, 1000] {
            let (mut session, head) = Session::begin_with("compression = true\n");
            session.peer(agreeing(&head, extensions).as_bytes(), segment);
            assert_eq!(session.take(), expected, "{extensions}");
        }
    };
    let wrong = ["Closed Some(NotUpgraded)"];
    check(COMPRESSION, &["Established"]);
    check(
        "permessage-deflate;server_no_context_takeover;server_max_window_bits=9",
        &["Established"],
    );
    check("permessage-deflate", &wrong);
    check(&format!("{COMPRESSION}; server_max_window_bits=16"), &wrong);
    check(&format!("{COMPRESSION}; client_max_window_bits=15"), &wrong);
    check(&format!("{COMPRESSION}, x-other"), &wrong);
    // It declines: that is counted once, and nothing is compressed.
    let (mut session, head) = Session::begin_with("compression = true\n");
    let key = head.split("Sec-WebSocket-Key: ").nth(1).unwrap().trim();
    session.peer(answer_to(key).as_bytes(), 1000);
    assert_eq!(session.take(), ["Established", "Stray NotCompressed"]);
    session.start(7);
    session.flush();
    assert_eq!(session.take(), ["Sent 7"]);
    session.peer(&frame(&payload(0, 500)), 1000);
    assert_eq!(session.take(), ["Failed 7 Protocol Some(BadMessage)", "Closed Some(ClosedLocal)"]);
}

#[test]
fn compressed_answers_in_any_frames_and_segments() {
    let expected = |arrival, id| answered(arrival, id, &"x".repeat(900));
    // In fragments, with control frames between them; RSV1 is set on the first only.
    let whole = payload(1, 900);
    let (head, tail) = whole.split_at(whole.len() / 2);
    let mut parts = Vec::new();
    put(&mut parts, Opcode::Text, false, None, head);
    parts[0] |= 0x40;
    put(&mut parts, Opcode::Ping, true, None, b"hi");
    put(&mut parts, Opcode::Continuation, false, None, b"");
    put(&mut parts, Opcode::Pong, true, None, b"");
    put(&mut parts, Opcode::Continuation, true, None, tail);
    let bytes = [frame(&payload(2, 900)), parts, result(0, "plain")].concat();
    assert!(bytes.len() < 300, "{}", bytes.len());
    for segment in [1, 2, 7, 1000] {
        let mut session = compressed();
        session.written();
        session.peer(&bytes, segment);
        let all = [expected(9, 2), expected(8, 1), answered(7, 0, "plain")];
        assert_eq!(session.take(), all, "segments of {segment}");
        assert_eq!(session.written(), ["Pong([104, 105])"]);
        assert_eq!(session.resources.bodies.budget.used(), 0);
    }
}

#[test]
fn long_calls_are_compressed() {
    let mut session = compressed();
    assert_eq!(session.written().len(), 3);
    let call = |session: &mut Session, fill: &str| {
        let text = format!(
            "rate = 1\nduration = \"1s\"\n[[target]]\nws = \"ws://h/p\"\nbody = '{}'\n",
            BODY.replace("\"m\"", &format!("\"{fill}\"")).replace("{{seq}}", "1"),
        );
        let document = Document::new("plan.toml", text);
        let plan = Plan::read(&document, &Variables::default(), Path::new(".")).unwrap();
        session.request = Request::compile(&plan.requests[0], 0, Style::of(&plan));
        let outgoing = fuzz::outgoing(&session.request, 20, None);
        let buffers = (&mut Vec::new(), &mut Vec::new());
        let started = session.connection.start(outgoing, buffers, &mut session.resources);
        session.flush();
        let Started::Buffered { bytes } = started else { panic!("{started:?}") };
        assert_eq!(session.wire.0.borrow().written.len() as u64, bytes, "bytes on the wire");
        let first = session.wire.0.borrow().written[0];
        let written = session.written();
        assert!(written[0].contains(fill));
        session.connection.abandon(20, &mut session.resources);
        (first, bytes as usize)
    };
    let (first, len) = call(&mut session, &"m".repeat(5_000));
    assert!(first == 0xc1 && len < 200, "{first:x} {len}");
    let (first, len) = call(&mut session, &"m".repeat(COMPRESSED_MIN - 100));
    assert!(first == 0x81 && len > COMPRESSED_MIN - 100, "{first:x} {len}");
}

#[test]
fn peers_that_abuse_compression() {
    let check = |bytes: &[u8], class: &str, closed: &str| {
        for segment in [1, 7, 1000] {
            let mut session = compressed();
            session.peer(bytes, segment);
            let mut expected: Vec<_> = (7..10).map(|own| format!("Failed {own} {class}")).collect();
            expected.push(format!("Closed {closed}"));
            assert_eq!(session.take(), expected, "{}", bytes.escape_ascii());
            assert_eq!(session.resources.bodies.budget.used(), 0);
        }
    };
    let broken = |bytes: &[u8]| check(bytes, "Protocol Some(BadMessage)", "Some(ClosedLocal)");
    // A megabyte in a kilobyte, whole and in fragments.
    let bomb = payload(0, 1 << 20);
    assert!(bomb.len() < 6_000, "{}", bomb.len());
    let small = payload(0, 20_000);
    assert!(small.len() < 900, "{}", small.len());
    check(&frame(&small), "BodyTooLarge None", "None");
    let mut parts = Vec::new();
    put(&mut parts, Opcode::Text, false, None, &small[..20]);
    parts[0] |= 0x40;
    put(&mut parts, Opcode::Continuation, true, None, &small[20..]);
    check(&parts, "BodyTooLarge None", "None");
    check(&frame(&bomb), "BodyTooLarge None", "None");
    let whole = payload(0, 500);
    broken(&frame(&whole[..whole.len() - 1]));
    broken(&frame(&whole[..whole.len() / 2]));
    broken(&frame(b""));
    broken(&frame(b"\xff\xff\xff"));
    // A reference to the message before.
    broken(&frame(&[0xf2, 0x00, 0x11, 0x00, 0x00]));
    // RSV1 on a later fragment, and on a control frame.
    broken(b"\x01\x01{\xc0\x01}");
    broken(b"\xc9\x00");
    broken(b"\xa1\x00");
}

proptest! {
    /// Any bytes and compressed answers are handled whatever the segments are, and each call ends once.
    #[test]
    fn any_bytes_are_handled(
        parts in proptest::collection::vec(
            prop_oneof![
                (0..4u64, 300..1_500usize).prop_map(|(id, len)| frame(&payload(id, len))),
                proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| frame(&bytes)),
                proptest::collection::vec(any::<u8>(), 0..20),
            ],
            0..6,
        ),
        segment in 1..60usize,
    ) {
        let outcome = |segment| {
            let mut session = compressed();
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
