//! HTTP/2 connections over a scripted wire: answers in any order and segmentation, windows, GOAWAY, and
//! peers that break the protocol.

use super::*;
use crate::fuzz::{self, Wire};
use crate::http2::frame::{self, flag, kind, setting};
use crate::simulation::http2::{Heard, Requests};
use plimsoll_measure::rng::Key;
use std::collections::VecDeque;
use std::path::Path;

mod properties;
mod session;

use session::{Frame, Session, bytes_of};

#[test]
fn requests_started_together_are_written_at_once_and_answered_in_any_order() {
    let mut session = Session::new(3);
    session.written();
    assert_eq!(session.connection.capacity(), 10);
    let writes = session.wire.0.borrow().writes;
    (7..10).for_each(|arrival| session.start(arrival));
    assert_eq!((session.connection.capacity(), session.take().len()), (7, 0));
    session.flush();
    assert_eq!(session.take(), ["Sent 7", "Sent 8", "Sent 9"]);
    assert_eq!(session.wire.0.borrow().writes, writes + 1);
    let heads = session.written().into_iter().filter(|(kind, ..)| *kind == kind::HEADERS);
    let heads: Vec<usize> = heads.map(|(.., len)| len).collect();
    assert!(heads[1] < heads[0] / 2 && heads[1] == heads[2], "constant fields are sent once");
    session.peer(&[
        Frame::Head(5, false),
        Frame::Head(1, false),
        Frame::Data(5, "five", true),
        Frame::Head(3, true),
    ]);
    assert_eq!(session.take(), ["Answered 9 200 five", "Answered 8 200 ", "Began 7"]);
    session.peer(&[Frame::Data(1, "o", false), Frame::Data(1, "", false)]);
    session.peer(&[Frame::Data(1, "ne", false), Frame::Data(1, "", true)]);
    assert_eq!(session.take(), ["Answered 7 200 one"]);
    assert_eq!((session.connection.capacity(), session.connection.is_idle()), (10, true));
    session.peer_ends();
    assert_eq!(session.take(), ["Closed None"]);
    assert_eq!(session.resources.bodies.budget.used(), 0);
}

#[test]
fn peers_that_break_the_protocol() {
    use Frame::*;
    let check = |frames: &[Frame], expected: &[&str]| {
        let mut session = Session::new(3);
        session.start(7);
        session.flush();
        session.take();
        session.peer(frames);
        let mut events = session.take();
        events.retain(|event| !event.starts_with("Began"));
        let bytes = bytes_of(frames);
        assert_eq!(events, expected, "{}", bytes[..bytes.len().min(100)].escape_ascii());
    };
    let broken = |fault: &str| {
        [format!("Failed 7 Protocol Some({fault})"), "Closed Some(GoawayLocal)".into()]
    };
    let connection = |frames: &[Frame], fault: &str| {
        let expected = broken(fault);
        check(frames, &[&expected[0], &expected[1]]);
    };
    let stream = |frames: &[Frame], fault: &str| check(frames, &[&format!("Failed 7 {fault}")]);
    let headers = flag::END_HEADERS;
    // Of the connection.
    connection(&[Head(2, true)], "BadFrame"); // a stream of the peer
    connection(&[Head(3, true)], "BadFrame"); // never opened
    connection(&[Head(0, true)], "BadFrame");
    connection(&[Data(9, "x", true)], "BadFrame");
    connection(&[Reset(9, 8)], "BadFrame");
    connection(&[Window(9, 8)], "BadFrame");
    connection(&[Window(0, 0)], "BadFrame");
    connection(&[Window(0, 0x7fff_ffff)], "WindowExceeded");
    connection(&[Settings(vec![(setting::INITIAL_WINDOW_SIZE, 1 << 31)])], "WindowExceeded");
    connection(&[Settings(vec![(setting::MAX_FRAME_SIZE, 16_383)])], "BadFrame");
    connection(&[Settings(vec![(setting::ENABLE_PUSH, 1)])], "BadFrame");
    connection(&[Raw(kind::SETTINGS, 0, 1, vec![])], "BadFrame");
    connection(&[Raw(kind::SETTINGS, 0, 0, vec![0; 5])], "BadFrame");
    connection(&[Raw(kind::SETTINGS, flag::ACK, 0, vec![0; 6])], "BadFrame");
    connection(&[Raw(kind::PING, 0, 0, vec![0; 7])], "BadFrame");
    connection(&[Raw(kind::PING, 0, 1, vec![0; 8])], "BadFrame");
    connection(&[Raw(kind::RST_STREAM, 0, 1, vec![0; 3])], "BadFrame");
    connection(&[Raw(kind::PRIORITY, 0, 1, vec![0; 4])], "BadFrame");
    connection(&[Raw(kind::GOAWAY, 0, 0, vec![0; 7])], "BadFrame");
    connection(&[Raw(kind::GOAWAY, 0, 1, vec![0; 8])], "BadFrame");
    connection(&[Raw(kind::DATA, 0, 1, vec![0; 16_385])], "BadFrame");
    connection(&[Raw(kind::DATA, flag::PADDED, 1, vec![2, 0])], "BadFrame");
    connection(&[Raw(kind::HEADERS, headers | flag::PRIORITY, 1, vec![0; 4])], "BadFrame");
    connection(&[Raw(kind::CONTINUATION, headers, 1, vec![0x88])], "BadFrame");
    connection(&[Raw(kind::HEADERS, 0, 1, vec![0x88]), Data(1, "x", true)], "BadFrame");
    connection(&[Raw(kind::PUSH_PROMISE, headers, 1, vec![0, 0, 0, 2, 0x88])], "PushPromise");
    connection(&[Raw(kind::HEADERS, headers, 1, vec![0xff; 9])], "BadHeaderBlock");
    let endless = [
        vec![Raw(kind::HEADERS, 0, 1, vec![0x88])],
        vec![Raw(kind::CONTINUATION, 0, 1, vec![0; 16_000]); 5],
    ];
    connection(&endless.concat(), "HeadTooLong");
    let flood = vec![Raw(kind::PRIORITY, 0, 1, vec![0; 5]); 10_001];
    connection(&flood, "FrameFlood");
    let empty = [vec![Head(1, false)], vec![Data(1, "", false); 10_001]];
    connection(&empty.concat(), "FrameFlood");
    // An answer is not lost by what follows it.
    check(
        &[Head(1, false), Data(1, "x", true), Data(1, "y", false)],
        &["Answered 7 200 x", "Closed Some(GoawayLocal)"],
    );
    // Of the stream.
    stream(&[Data(1, "x", true)], "Protocol Some(BadFrame)"); // before its head
    stream(
        &[Raw(kind::HEADERS, headers, 1, b"\x88\x00\x01A\x01b".to_vec())],
        "Protocol Some(BadHeader)",
    );
    stream(
        &[Raw(kind::HEADERS, headers, 1, b"\x00\x01a\x01b".to_vec())],
        "Protocol Some(BadHeader)",
    );
    stream(&[Head(1, false), Head(1, false)], "Protocol Some(BadHeader)"); // two heads
    let length = b"\x88\x0f\x0d\x013".to_vec();
    let length = Raw(kind::HEADERS, headers, 1, length);
    stream(&[length.clone(), Data(1, "abcd", false)], "Protocol Some(LengthMismatch)");
    stream(&[length.clone(), Data(1, "ab", true)], "Protocol Some(LengthMismatch)");
    check(&[length, Data(1, "abc", true)], &["Answered 7 200 abc"]);
    let early = |code: &[u8]| Raw(kind::HEADERS, headers, 1, [b"\x08\x03", code].concat());
    stream(&vec![early(b"103"); 101], "Protocol Some(TooManyInterim)");
    stream(&[early(b"101")], "Protocol Some(Switched)");
    check(&[early(b"103"), Head(1, true)], &["Answered 7 200 "]);
    let trailers = b"\x00\x01a\x01b".to_vec();
    let trailers = Raw(kind::HEADERS, headers | flag::END_STREAM, 1, trailers);
    check(&[Head(1, false), Data(1, "x", false), trailers], &["Answered 7 200 x"]);
    // Flags that a CONTINUATION frame does not have are ignored.
    let padded = Raw(kind::CONTINUATION, headers | flag::PADDED, 1, b"\x00\x01a\x01b".to_vec());
    let begun = Raw(kind::HEADERS, flag::END_STREAM, 1, vec![0x88]);
    check(&[begun, padded], &["Answered 7 200 "]);
    stream(&[Window(1, 0)], "Protocol Some(BadFrame)");
    stream(&[Window(1, 0x7fff_ffff)], "Protocol Some(WindowExceeded)");
    stream(&[Reset(1, 7)], "Reset Some(RefusedStream)");
    stream(&[Reset(1, 11)], "Reset Some(EnhanceYourCalm)");
    stream(&[Reset(1, 2)], "Reset Some(StreamReset)");
    stream(&[Head(1, false), Data(1, "x", false), Reset(1, 0)], "Reset Some(StreamReset)");
    // Unknown frames, settings and flags are ignored.
    check(
        &[Raw(0x77, 0xff, 99, vec![1; 100]), Settings(vec![(0x99, 7)]), Head(1, true), Reset(1, 0)],
        &["Answered 7 200 "],
    );
}

#[test]
fn servers_without_http2() {
    for bytes in ["HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1.1 ", "SSH-2.0-x\r\n"] {
        let mut session = Session::begin(0);
        session.peer_bytes(bytes.as_bytes(), 5);
        assert_eq!(session.take(), ["Closed Some(NotHttp2)"], "{bytes}");
    }
    let mut session = Session::begin(0);
    session.peer_ends();
    assert_eq!(session.take(), ["Closed Some(NotHttp2)"]);
    let mut session = Session::begin(0);
    session.peer(&[Frame::Window(0, 1)]);
    assert_eq!(session.take(), ["Closed Some(NotHttp2)"], "settings come first");
}

#[test]
fn the_ends_of_connections() {
    use Frame::*;
    let check = |frames: &[Frame], ends: bool, expected: &[&str]| {
        let mut session = Session::new(3);
        (7..10).for_each(|arrival| session.start(arrival));
        session.flush();
        session.take();
        session.peer(frames);
        if ends {
            session.peer_ends();
        }
        assert_eq!(session.take(), expected);
        let (capacity, used) = (session.connection.capacity(), session.resources.bodies.budget);
        assert_eq!((capacity, used.used()), (0, 0));
    };
    check(&[Goaway(3, 0)], false, &["Returned 9"]);
    let rest = [Goaway(3, 0), Head(3, true), Head(1, true)];
    check(&rest, false, &["Returned 9", "Answered 8 200 ", "Answered 7 200 ", "Closed None"]);
    // First a warning, then the end.
    let twice = [Goaway(0x7fff_ffff, 0), Head(1, true), Goaway(1, 0)];
    check(&twice, false, &["Answered 7 200 ", "Returned 8", "Returned 9", "Closed None"]);
    let growing =
        ["Returned 9", "Failed 7 Protocol Some(BadFrame)", "Failed 8 Protocol Some(BadFrame)"];
    check(
        &[Goaway(3, 0), Goaway(5, 0)],
        false,
        &[&growing[..], &["Closed Some(GoawayLocal)"]].concat(),
    );
    check(
        &[Goaway(1, 11)],
        true,
        &["Returned 8", "Returned 9", "Failed 7 Reset Some(EnhanceYourCalm)", "Closed None"],
    );
    check(
        &[Goaway(5, 2)],
        true,
        &[
            "Failed 7 Reset Some(Goaway)",
            "Failed 8 Reset Some(Goaway)",
            "Failed 9 Reset Some(Goaway)",
            "Closed None",
        ],
    );
    check(
        &[Head(1, false), Data(1, "x", false)],
        true,
        &[
            "Began 7",
            "Failed 7 ClosedEarly Some(Truncated)",
            "Failed 8 ClosedEarly None",
            "Failed 9 ClosedEarly None",
            "Closed None",
        ],
    );
}

#[test]
fn what_comes_for_an_abandoned_exchange_is_ignored() {
    use Frame::*;
    let mut session = Session::new(3);
    (7..9).for_each(|arrival| session.start(arrival));
    session.flush();
    session.peer(&[Head(1, false), Data(1, "part", false)]);
    session.written();
    session.connection.abandon(7, &mut session.resources);
    assert_eq!((session.connection.capacity(), session.resources.bodies.budget.used()), (9, 0));
    session.flush();
    assert_eq!(session.written(), [(kind::RST_STREAM, 0, 1, 4)]);
    session.take();
    session.peer(&[Data(1, "rest", true), Head(1, true), Reset(1, 8), Head(3, true)]);
    assert_eq!(session.take(), ["Answered 8 200 "]);
    // Many later, it is still known that some were abandoned.
    for turn in 0..1_200 {
        session.start(turn);
        session.flush();
        session.connection.abandon(turn, &mut session.resources);
    }
    session.take();
    session.peer(&[Head(5, true), Head(2_401, true)]);
    assert!(session.take().is_empty());
}

#[test]
fn the_peer_changes_its_mind() {
    use Frame::*;
    let mut session = Session::begin(100);
    let settings = |streams, window| {
        Settings(vec![
            (setting::MAX_CONCURRENT_STREAMS, streams),
            (setting::INITIAL_WINDOW_SIZE, window),
        ])
    };
    session.peer(&[settings(0, 60)]);
    assert_eq!((session.take(), session.connection.capacity()), (vec!["Established".into()], 0));
    session.peer(&[settings(2, 60)]);
    assert_eq!(session.connection.capacity(), 2);
    session.start(7);
    session.flush();
    let data = |session: &mut Session| {
        let data = session.written().into_iter().filter(|(kind, ..)| *kind == kind::DATA);
        data.map(|(_, flags, _, len)| (len, flags)).collect::<Vec<_>>()
    };
    assert_eq!(data(&mut session), [(60, 0)]);
    assert!(session.connection.is_stalled(7));
    // The window becomes negative, then opens.
    session.peer(&[settings(1, 0), Window(1, 30)]);
    assert_eq!((data(&mut session), session.connection.capacity()), (vec![], 0));
    session.peer(&[Window(1, 31)]);
    assert_eq!(data(&mut session), [(1, 0)]);
    session.peer(&[settings(9, 100)]);
    assert_eq!(data(&mut session), [(39, flag::END_STREAM)]);
    assert!(!session.connection.is_stalled(7) && session.connection.capacity() == 8);
    session.take();
    session.peer(&[Head(1, true)]);
    assert_eq!(session.take(), ["Answered 7 200 "]);
}

#[test]
fn an_answer_before_the_end_of_its_request_counts() {
    let mut session = Session::new(100_000);
    session.start(7);
    session.flush();
    session.written();
    session.take();
    session.peer(&[Frame::Head(1, true), Frame::Reset(1, 0)]);
    assert_eq!(session.take(), ["Answered 7 200 "]);
    assert_eq!(session.written(), [(kind::RST_STREAM, 0, 1, 4)]);
    session.peer(&[Frame::Window(0, 1 << 20)]);
    assert!(session.written().is_empty(), "the rest is not sent");
}

#[test]
fn replies_that_the_peer_does_not_read_are_limited() {
    let mut session = Session::new(3);
    session.start(7);
    session.flush();
    session.take();
    session.wire.0.borrow_mut().room = 0;
    session.peer(&vec![Frame::Raw(kind::PING, 0, 0, vec![1; 8]); 5_000]);
    let events = session.take();
    assert_eq!(events, ["Failed 7 Protocol Some(FrameFlood)", "Closed Some(GoawayLocal)"]);
}

#[test]
fn bodies_beyond_the_limits_fail_only_their_exchange() {
    use Frame::*;
    let mut session = Session::new(3);
    session.resources.bodies.budget = BodyBudget::new(8);
    session.start_with(7, Some(5));
    session.start(8);
    session.start_with(9, None);
    session.flush();
    session.take();
    session.peer(&[Head(1, false), Data(1, "123456", false), Data(1, "", true)]);
    assert_eq!(session.take(), ["Failed 7 BodyTooLarge None"]);
    session.peer(&[Head(3, false), Data(3, "12345", false), Data(3, "6789", false)]);
    assert_eq!(session.take(), ["Failed 8 MemoryExhausted None"]);
    session.peer(&[Head(5, false), Data(5, "123456789", false), Data(5, "0", true)]);
    assert_eq!(session.take(), ["Answered 9 200 "], "not kept");
    assert_eq!(session.resources.bodies.budget.used(), 0);
}

/// A peer that does not read, but sends.
#[test]
fn requests_that_the_peer_does_not_read_are_limited() {
    let mut session = Session::new(3);
    session.wire.0.borrow_mut().room = 0;
    (7..10).for_each(|arrival| session.start(arrival));
    session.flush();
    session.connection.abandon(7, &mut session.resources);
    assert_eq!(session.connection.capacity(), 0, "it takes no more");
    session.run(Readiness::NONE);
    assert_eq!(session.take(), [""; 0]);
    session.connection.abandon(8, &mut session.resources);
    session.connection.abandon(9, &mut session.resources);
    session.run(Readiness::NONE);
    assert_eq!(session.take(), ["Closed None"]);
    // It cannot have an answer, or an end, before its request was sent.
    for frame in [Frame::Head(1, true), Frame::Reset(1, 8)] {
        let mut session = Session::new(3);
        session.wire.0.borrow_mut().room = 0;
        session.start(7);
        session.flush();
        session.peer(&[frame]);
        let expected = ["Failed 7 Protocol Some(AnswerFirst)", "Closed Some(GoawayLocal)"];
        assert_eq!(session.take(), expected);
    }
}

#[test]
fn long_refusals_and_long_bodies_are_no_flood() {
    let mut session = Session::new(30_000);
    for turn in 0..10_100 {
        if session.connection.capacity() == 0 {
            break;
        }
        session.start(turn);
        session.flush();
        session.peer(&[Frame::Reset(2 * turn + 1, 7)]);
    }
    let events = session.take();
    let failed = events.iter().filter(|event| event.contains("Reset Some(RefusedStream)"));
    assert_eq!((failed.count(), session.has_closed()), (10_100, false));
    // The window opens by a byte at a time.
    let mut session = Session::new(30_000);
    session.peer(&[Frame::Settings(vec![(setting::INITIAL_WINDOW_SIZE, 0)])]);
    session.start(7);
    session.flush();
    for _ in 0..30_000 {
        session.peer(&[Frame::Window(1, 1)]);
    }
    session.peer(&[Frame::Head(1, true)]);
    assert_eq!(session.events.last().unwrap(), "Answered 7 200 ");
    // Heads on streams that were abandoned count as a flood.
    let mut session = Session::new(3);
    session.start(7);
    session.flush();
    session.connection.abandon(7, &mut session.resources);
    session.peer(&vec![Frame::Head(1, false); 10_001]);
    assert_eq!(session.events.last().unwrap(), "Closed Some(GoawayLocal)");
}
