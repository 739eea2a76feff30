//! HTTP/2 callers that stall, flood or reset streams lose their own streams or connection, and affect
//! no other caller.

use plimsoll_gateway::{Gateway, Settings};
use plimsoll_measure::Nanos;
use plimsoll_registry::settings::Limits;

use crate::caller::call;
use crate::frames::*;
use crate::scripted::{AfterReply, Reply, Upstream};
use crate::setup::{
    ETH, connect, connections, definitions, instance, metric, settings, start, wait_until,
};

fn gateway(upstream: &Upstream, limits: Limits) -> Gateway {
    let definitions = definitions(vec![instance("a", &upstream.url("/v1"))]);
    start(Settings { limits, ..settings() }, &definitions)
}

fn calls(gateway: &Gateway, outcome: &str) -> u64 {
    let labels = format!("service=\"eth\",method=\"other\",outcome=\"{outcome}\",cache=\"bypass\"");
    metric(gateway, &format!("plimsoll_calls_total{{{labels}}}"))
}

fn serves_others(gateway: &Gateway) {
    assert_eq!(connect(gateway).post("/v1", ETH, call("1", "m", "[]")).status, 200);
}

#[test]
fn a_hundred_streams_are_permitted_by_default() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, Limits::default());
    let mut frames = FrameClient::connect(gateway.addresses()[0], &[]);
    let settings = frames.read_until(SETTINGS).unwrap();
    let streams = settings.payload.chunks(6).find(|one| one[..2] == [0, 3]).unwrap();
    assert_eq!(streams[2..], 100u32.to_be_bytes());
}

/// If the window stays shut, short and long answers are aborted after `write_time`, and are not counted
/// as delivered.
#[test]
fn answers_to_a_caller_with_a_closed_window_are_aborted() {
    let upstream = Upstream::start(|_, received| match received.method() {
        "long" => Reply::result(received, &format!("\"{}\"", "x".repeat(300_000))),
        _ => Reply::echo(received),
    });
    let limits = Limits { write_time: Nanos::from_millis(200), ..Limits::default() };
    let gateway = gateway(&upstream, limits);
    let mut frames = FrameClient::connect(gateway.addresses()[0], &[(4, 0)]);
    for (stream, method) in [(1, "m"), (3, "long")] {
        assert!(frames.call(stream, &call("1", method, "[]")));
        let reset = frames.read_until(RST_STREAM).unwrap();
        assert_eq!((reset.stream, reset.code()), (stream, CANCEL));
    }
    wait_until("both are counted", || calls(&gateway, "truncated") == 2);
    assert_eq!(calls(&gateway, "ok"), 0);
    // One byte at a time does not count as progress.
    assert!(frames.call(5, &call("1", "long", "[]")));
    let mut reader = frames.reader();
    let trickling = std::thread::spawn(move || {
        while frames.send(WINDOW_UPDATE, 0, 5, &1u32.to_be_bytes()) {
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
    });
    assert_eq!(reader.read_until(RST_STREAM).unwrap().stream, 5);
    drop(gateway);
    trickling.join().unwrap();
}

/// PING does not keep an idle connection open.
#[test]
fn pings_do_not_keep_an_idle_connection_open() {
    let limits = Limits { idle_time: Nanos::from_millis(300), ..Limits::default() };
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, limits);
    let mut frames = FrameClient::connect(gateway.addresses()[0], &[]);
    assert!(frames.call(1, &call("1", "m", "[]")));
    let mut reader = frames.reader();
    let pinging = std::thread::spawn(move || {
        while frames.send(PING, 0, 0, &[7; 8]) {
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
    });
    assert_eq!(reader.read_until(GOAWAY).unwrap().code(), 0);
    while reader.read().is_some() {}
    pinging.join().unwrap();
    wait_until("the connection is closed", || connections(&gateway) == 0);
}

#[test]
fn an_incomplete_head_closes_the_connection() {
    let limits = Limits { header_time: Nanos::from_millis(200), ..Limits::default() };
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, limits);
    // A head without its end, one that a continuation leaves incomplete, and half a preface.
    for case in 0..3 {
        let mut frames = FrameClient::connect(gateway.addresses()[0], &[]);
        match case {
            0 => drop(frames.send(HEADERS, 0, 1, &[0x83])),
            1 => drop(
                frames.send(HEADERS, 0, 1, &[0x83]) && frames.send(CONTINUATION, 0, 1, &[0x86]),
            ),
            _ => {
                let mut caller = connect(&gateway);
                caller.send("PRI * HTTP/2.0\r\n\r\n");
                assert!(caller.ends());
                continue;
            }
        }
        while frames.read().is_some() {}
    }
    wait_until("all connections are closed", || connections(&gateway) == 0);
}

/// Rapid reset: relays hold their permits until they end, so that resets cannot open more upstream
/// connections than the limit on calls in flight allows; and the reset budget closes the connection.
#[test]
fn rapid_resets_do_not_burden_the_upstream() {
    let upstream = Upstream::start(|_, received| match received.method() {
        "held" => Reply::raw("", AfterReply::Hang),
        _ => Reply::echo(received),
    });
    let limits = Limits { calls_per_connection: 5, ..Limits::default() };
    let gateway = gateway(&upstream, limits);
    let mut frames = FrameClient::connect(gateway.addresses()[0], &[]);
    let mut reader = frames.reader();
    let reading = std::thread::spawn(move || reader.read_until(GOAWAY).map(|frame| frame.code()));
    // Make sure that one call is in flight before it is reset.
    let in_flight = "plimsoll_relays_in_flight{upstream=\"a\"}";
    assert!(frames.call(1, &call("1", "held", "[]")));
    wait_until("the first is relayed", || metric(&gateway, in_flight) == 1);
    assert!(frames.send(RST_STREAM, 0, 1, &CANCEL.to_be_bytes()));
    for n in 1..2_000 {
        let stream = 2 * n + 1;
        let sent = frames.call(stream, &call("1", "held", "[]"));
        if !sent || !frames.send(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()) {
            break;
        }
    }
    assert_eq!(reading.join().unwrap(), Some(ENHANCE_YOUR_CALM));
    assert!(upstream.connections() <= 5, "{}", upstream.connections());
    wait_until("all have ended", || {
        metric(&gateway, in_flight) == 0 && metric(&gateway, "plimsoll_calls_in_flight") == 0
    });
    assert!(calls(&gateway, "cancelled") > 0);
    assert_eq!(calls(&gateway, "ok"), 0);
    wait_until("the connection is closed", || connections(&gateway) == 0);
    assert_eq!(metric(&gateway, "plimsoll_memory_held_bytes"), 0);
    serves_others(&gateway);
}

/// Callers that cancel some of their calls, as those with short timeouts do, stay connected.
#[test]
fn occasional_resets_are_tolerated() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, Limits::default());
    let mut frames = FrameClient::connect(gateway.addresses()[0], &[]);
    for n in 0..600 {
        let stream = 4 * n + 1;
        assert!(frames.call(stream, &call("1", "m", "[]")));
        assert!(frames.send(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
        assert!(frames.call(stream + 2, &call("1", "m", "[]")));
        loop {
            let frame = frames.read().expect("the connection stays open");
            assert_ne!(frame.kind, GOAWAY);
            if frame.kind == DATA && frame.stream == stream + 2 && frame.flags & END_STREAM != 0 {
                break;
            }
        }
        let update = 65_535u32.to_be_bytes();
        assert!(n % 100 > 0 || frames.send(WINDOW_UPDATE, 0, 0, &update));
    }
}

#[test]
fn floods_close_the_connection() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, Limits::default());
    let one = 1u32.to_be_bytes();
    // (frame sent once, frame sent repeatedly)
    type RawFrame<'a> = (u8, u8, u32, &'a [u8]);
    let rows: [(Option<RawFrame<'_>>, RawFrame<'_>); 8] = [
        (None, (PING, 0, 0, &[0; 8])),
        (None, (SETTINGS, 0, 0, &[])),
        (None, (SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0])),
        (None, (PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        (None, (WINDOW_UPDATE, 0, 0, &one)),
        (None, (0x77, 0, 0, b"unknown")),
        (Some((HEADERS, 0, 1, &[0x83])), (CONTINUATION, 0, 1, &[])),
        (Some((HEADERS, END_HEADERS, 1, &[0x83, 0x86, 0x84, 1, 1, b'h'])), (DATA, 0, 1, &[])),
    ];
    for (row, (first, (kind, flags, stream, payload))) in rows.into_iter().enumerate() {
        let mut frames = FrameClient::connect(gateway.addresses()[0], &[]);
        let mut reader = frames.reader();
        let reading = std::thread::spawn(move || {
            let code = reader.read_until(GOAWAY).map(|frame| frame.code());
            while reader.read().is_some() {}
            code
        });
        if let Some((kind, flags, stream, payload)) = first {
            assert!(frames.send(kind, flags, stream, payload));
        }
        let sent = (0..1_000_000).take_while(|_| frames.send(kind, flags, stream, payload)).count();
        assert!(sent < 1_000_000, "row {row}: the connection was not closed");
        let code = reading.join().unwrap();
        // Closing a connection with unread frames may reset it before the GOAWAY is read.
        assert!(matches!(code, None | Some(ENHANCE_YOUR_CALM)), "row {row}: {code:?}");
        serves_others(&gateway);
    }
    wait_until("all connections are closed", || {
        connections(&gateway) == 1 || connections(&gateway) == 0
    });
}

/// Frames that ordinary clients send besides requests are not a flood: pings, window updates, and bodies
/// in two small frames, which h2 by default would count against the client.
#[test]
fn frames_of_ordinary_clients_are_not_a_flood() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, Limits::default());
    let mut frames = FrameClient::connect(gateway.addresses()[0], &[]);
    let mut stream = 1;
    for _ in 0..40 {
        let first = stream;
        for _ in 0..100 {
            assert!(frames.send_headers(stream, END_HEADERS));
            assert!(frames.send(DATA, 0, stream, call("1", "m", "[]").as_bytes()));
            stream += 2;
        }
        for stream in (first..stream).step_by(2) {
            assert!(frames.send(DATA, END_STREAM, stream, b""));
        }
        let mut ended = 0;
        while ended < 100 {
            let frame = frames.read().expect("the connection stays open");
            assert!(!matches!(frame.kind, GOAWAY | RST_STREAM), "{frame:?}");
            if frame.kind == DATA {
                let length = frame.payload.len() as u32;
                if length > 0 {
                    assert!(frames.send(WINDOW_UPDATE, 0, 0, &length.to_be_bytes()));
                    assert!(frames.send(WINDOW_UPDATE, 0, frame.stream, &length.to_be_bytes()));
                }
                ended += u32::from(frame.flags & END_STREAM != 0);
            }
        }
        assert!(frames.send(PING, 0, 0, &[0; 8]));
        while frames.read_until(PING).unwrap().flags != ACK {}
    }
    assert_eq!(calls(&gateway, "ok"), 4_000);
}
