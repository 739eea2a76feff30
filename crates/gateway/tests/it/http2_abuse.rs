//! HTTP/2 callers that stall, flood, reset and stay: each loses what it takes, and nobody else does.

use plimsoll_gateway::{Gateway, Settings};
use plimsoll_measure::Nanos;
use plimsoll_registry::settings::Limits;

use crate::caller::call;
use crate::frames::*;
use crate::scripted::{Reply, Then, Upstream};
use crate::world::{
    ETH, connect, connections, definitions, instance, metric, settings, start, until,
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
fn a_hundred_streams_by_default() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, Limits::default());
    let mut frames = Frames::connect(gateway.addresses()[0], &[]);
    let settings = frames.read_until(SETTINGS).unwrap();
    let streams = settings.payload.chunks(6).find(|one| one[..2] == [0, 3]).unwrap();
    assert_eq!(streams[2..], 100u32.to_be_bytes());
}

/// A window that stays shut: short and long answers are given up after `write_time`, and are not
/// counted as delivered.
#[test]
fn a_caller_that_opens_no_window_loses_its_answers() {
    let upstream = Upstream::start(|_, asked| match asked.method() {
        "long" => Reply::result(asked, &format!("\"{}\"", "x".repeat(300_000))),
        _ => Reply::echo(asked),
    });
    let limits = Limits { write_time: Nanos::from_millis(200), ..Limits::default() };
    let gateway = gateway(&upstream, limits);
    let mut frames = Frames::connect(gateway.addresses()[0], &[(4, 0)]);
    for (stream, method) in [(1, "m"), (3, "long")] {
        assert!(frames.call(stream, &call("1", method, "[]")));
        let reset = frames.read_until(RST_STREAM).unwrap();
        assert_eq!((reset.stream, reset.code()), (stream, CANCEL));
    }
    until("they are counted", || calls(&gateway, "truncated") == 2);
    assert_eq!(calls(&gateway, "ok"), 0);
    // One byte now and then is no progress, either.
    assert!(frames.call(5, &call("1", "long", "[]")));
    let mut reader = frames.reader();
    let dripping = std::thread::spawn(move || {
        while frames.send(WINDOW_UPDATE, 0, 5, &1u32.to_be_bytes()) {
            std::thread::park_timeout(std::time::Duration::from_millis(10));
        }
    });
    assert_eq!(reader.read_until(RST_STREAM).unwrap().stream, 5);
    drop(gateway);
    dripping.join().unwrap();
}

/// PING keeps no connection that has nothing to do.
#[test]
fn an_idle_caller_is_let_go_although_it_pings() {
    let limits = Limits { idle_time: Nanos::from_millis(300), ..Limits::default() };
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, limits);
    let mut frames = Frames::connect(gateway.addresses()[0], &[]);
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
    until("it is gone", || connections(&gateway) == 0);
}

#[test]
fn a_head_that_does_not_end_ends_the_connection() {
    let limits = Limits { header_time: Nanos::from_millis(200), ..Limits::default() };
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, limits);
    // The preface, a head, and a head's first bytes.
    for begun in 0..3 {
        let mut frames = Frames::connect(gateway.addresses()[0], &[]);
        match begun {
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
    until("all are gone", || connections(&gateway) == 0);
}

/// Request, reset, again: the relays hold their permits until they end, so that resets open no more
/// connections upstream than calls in flight may; and the budget ends the connection.
#[test]
fn resets_cost_the_caller_not_the_upstream() {
    let upstream = Upstream::start(|_, asked| match asked.method() {
        "held" => Reply::raw("", Then::Hang),
        _ => Reply::echo(asked),
    });
    let limits = Limits { calls_per_connection: 5, ..Limits::default() };
    let gateway = gateway(&upstream, limits);
    let mut frames = Frames::connect(gateway.addresses()[0], &[]);
    let mut reader = frames.reader();
    let reading = std::thread::spawn(move || reader.read_until(GOAWAY).map(|frame| frame.code()));
    // One is on its way for certain before it is reset.
    let flying = "plimsoll_relays_in_flight{upstream=\"a\"}";
    assert!(frames.call(1, &call("1", "held", "[]")));
    until("the first is relayed", || metric(&gateway, flying) == 1);
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
    until("all have ended", || {
        metric(&gateway, flying) == 0 && metric(&gateway, "plimsoll_calls_in_flight") == 0
    });
    assert!(calls(&gateway, "cancelled") > 0);
    assert_eq!(calls(&gateway, "ok"), 0);
    until("the connection is gone", || connections(&gateway) == 0);
    assert_eq!(metric(&gateway, "plimsoll_memory_held_bytes"), 0);
    serves_others(&gateway);
}

/// Callers that give some calls up, as those with short timeouts do, stay.
#[test]
fn a_caller_that_resets_now_and_then_stays() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, Limits::default());
    let mut frames = Frames::connect(gateway.addresses()[0], &[]);
    for n in 0..600 {
        let stream = 4 * n + 1;
        assert!(frames.call(stream, &call("1", "m", "[]")));
        assert!(frames.send(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
        assert!(frames.call(stream + 2, &call("1", "m", "[]")));
        loop {
            let frame = frames.read().expect("the connection stays");
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
fn floods_end_the_connection() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, Limits::default());
    let one = 1u32.to_be_bytes();
    // (what is sent once, what is sent again and again)
    type Sent<'a> = (u8, u8, u32, &'a [u8]);
    let rows: [(Option<Sent<'_>>, Sent<'_>); 8] = [
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
        let mut frames = Frames::connect(gateway.addresses()[0], &[]);
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
        assert!(sent < 1_000_000, "row {row}: it goes on");
        let code = reading.join().unwrap();
        // A connection that is closed on unread frames may be reset before its last word is read.
        assert!(matches!(code, None | Some(ENHANCE_YOUR_CALM)), "row {row}: {code:?}");
        serves_others(&gateway);
    }
    until("all are gone", || connections(&gateway) == 1 || connections(&gateway) == 0);
}

/// What the usual client sends beside its requests is no flood: pings, window updates, and bodies in
/// two small frames, which h2 itself would count against it.
#[test]
fn the_usual_frames_are_no_flood() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, Limits::default());
    let mut frames = Frames::connect(gateway.addresses()[0], &[]);
    let mut stream = 1;
    for _ in 0..40 {
        let first = stream;
        for _ in 0..100 {
            assert!(frames.begin(stream, END_HEADERS));
            assert!(frames.send(DATA, 0, stream, call("1", "m", "[]").as_bytes()));
            stream += 2;
        }
        for stream in (first..stream).step_by(2) {
            assert!(frames.send(DATA, END_STREAM, stream, b""));
        }
        let mut ended = 0;
        while ended < 100 {
            let frame = frames.read().expect("the connection stays");
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
