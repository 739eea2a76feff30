//! How connections send and receive over a scripted wire, plain and TLS: partial writes, early
//! answers, truncation, records without data.

mod session;

use super::*;
use proptest::prelude::*;
use rustls::version;
use session::*;

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
        assert!(session.events[0].contains("AnswerFirst"), "{over:?}: {:?}", session.events);
    }
    // With the handshake.
    let mut config = server_config(&[&version::TLS13]);
    config.send_half_rtt_data = true;
    let mut session = Session::unconnected(Some(config), 10);
    session.run();
    session.peer_reads(usize::MAX);
    session.peer_sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    session.run();
    assert!(session.has("Established") && session.has("AnswerFirst"), "{:?}", session.events);
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
