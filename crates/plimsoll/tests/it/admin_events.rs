//! The stream of events of a real gateway, across connections.

use crate::admin::Gateway;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Reads events until one of this type; returns its id and data.
fn event(stream: &mut BufReader<TcpStream>, name: &str) -> (String, Value) {
    let (mut id, mut is_it) = (String::new(), false);
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream has ended");
        let line = line.trim_end();
        if let Some(found) = line.strip_prefix("id: ") {
            id = found.into();
        } else if let Some(found) = line.strip_prefix("event: ") {
            is_it = found == name;
        } else if let Some(data) = line.strip_prefix("data: ")
            && is_it
        {
            return (id, serde_json::from_str(data).unwrap());
        }
    }
}

/// The most streams that may be open.
const STREAMS_MAX: usize = 64;

/// Opens a stream; `None` if the most are open.
fn open(gateway: &Gateway, header: &str) -> Option<BufReader<TcpStream>> {
    let mut socket = TcpStream::connect(&gateway.admin).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let token = &gateway.token;
    let text = format!(
        "GET /api/v1/events/stream HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n{header}\r\n"
    );
    socket.write_all(text.as_bytes()).unwrap();
    let mut stream = BufReader::new(socket);
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    match line.trim_end() {
        "HTTP/1.1 200 OK" => Some(stream),
        line => {
            assert!(line.starts_with("HTTP/1.1 503"), "{line}");
            None
        }
    }
}

#[test]
fn events_continue_where_a_consumer_stopped() {
    let gateway = Gateway::start();
    let open = |header: &str| open(&gateway, header).expect("room for a stream");
    let mut first = open("");
    let (start, state) = event(&mut first, "state");
    assert!(state["upstreams"][0]["upstream"] == "in-file", "{state}");
    let add = |id: &str| {
        let action = json!({ "action": "add", "kind": "upstream", "id": id, "service": "eth",
                             "definition": "url = \"http://127.0.0.1:9/\"" });
        gateway.act(&action);
    };
    add("u1");
    // The start itself may still be reported first.
    let data = loop {
        let (_, data) = event(&mut first, "registry");
        if data["sequence"] == 1 {
            break data;
        }
    };
    assert_eq!(data["database"], "up");
    drop(first);
    // What happened meanwhile is sent, from the state on.
    add("u2");
    let mut again = open(&format!("Last-Event-ID: {start}\r\n"));
    while event(&mut again, "upstream").1["upstream"] != "u1" {}
    let (last, _) = loop {
        let found = event(&mut again, "upstream");
        if found.1["upstream"] == "u2" {
            break found;
        }
    };
    // Ids of another process, of the future, and anything else: the consumer is told that it missed events.
    let (process, number) = last.rsplit_once('-').unwrap();
    let number: u64 = number.parse().unwrap();
    for id in [
        format!("0123456789abcdef-{number}"),
        format!("{process}-99999"),
        "x\"y".into(),
        "-".into(),
    ] {
        let mut other = open(&format!("Last-Event-ID: {id}\r\n"));
        let (_, data) = event(&mut other, "reset");
        assert!(data["reason"].as_str().unwrap().contains("not one of this process"), "{data}");
        let (id, state) = event(&mut other, "state");
        assert!(id.starts_with(process) && state["registry"]["sequence"] == 2, "{id} {state}");
    }
    // An open stream does not delay a shutdown.
    gateway.process.stop();
    let mut rest = String::new();
    again.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "the stream is ended, not cut off: {rest:?}");
}

/// A consumer that has left is noticed at once, and its place is free for another.
#[test]
fn places_of_consumers_that_left_are_free_at_once() {
    let gateway = Gateway::start();
    for how in ["close", "reset", "shut down"] {
        // Those of the round before have left; a stream that is refused is tried again.
        let mut streams = Vec::new();
        while streams.len() < STREAMS_MAX {
            streams.extend(open(&gateway, ""));
        }
        assert!(open(&gateway, "").is_none(), "more than the most are open");
        for stream in &streams {
            match how {
                "reset" => {
                    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                    let option = nix::sys::socket::sockopt::Linger;
                    nix::sys::socket::setsockopt(stream.get_ref(), option, &linger).unwrap();
                }
                "shut down" => stream.get_ref().shutdown(std::net::Shutdown::Both).unwrap(),
                _ => {}
            }
        }
    }
    // One that only sends nothing more goes on.
    let mut stream = loop {
        if let Some(stream) = open(&gateway, "") {
            break stream;
        }
    };
    stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    event(&mut stream, "state");
    let mut line = String::new();
    while line != ": heartbeat\n" {
        line.clear();
        stream.read_line(&mut line).unwrap();
    }
    gateway.act(&json!({ "action": "add", "kind": "upstream", "id": "u1", "service": "eth",
                         "definition": "url = \"http://127.0.0.1:9/\"" }));
    while event(&mut stream, "upstream").1["upstream"] != "u1" {}
    gateway.process.stop();
}

/// Consumers that read slowly or not at all take no memory while a thousand changes are reported.
#[test]
fn consumers_that_do_not_read_take_no_memory() {
    const CHANGES: usize = 250;
    let gateway = Gateway::start();
    let mut witness = open(&gateway, "").unwrap();
    // Makes changes, and waits until they have been reported.
    let mut change = |action: &str| {
        let one = |number: usize| {
            let id = format!("upstream-with-a-long-name-{number}");
            match action {
                "add" => json!({ "action": "add", "kind": "upstream", "id": id, "service": "eth",
                                 "definition": "url = \"http://127.0.0.1:9/\"" }),
                _ => json!({ "action": "remove", "kind": "upstream", "id": id }),
            }
        };
        let actions: Vec<Value> = (0..CHANGES).map(one).collect();
        gateway.act(&json!({ "actions": actions }));
        let last = format!("upstream-with-a-long-name-{}", CHANGES - 1);
        let is_last = |data: &Value| {
            data["upstream"] == *last && (data["state"] == "removed") == (action == "remove")
        };
        while !is_last(&event(&mut witness, "upstream").1) {}
    };
    change("add");
    change("remove");
    let before = peak(gateway.process.id());
    let idle: Vec<_> = (0..STREAMS_MAX / 2).map(|_| open(&gateway, "").unwrap()).collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let slow: Vec<_> = (1..STREAMS_MAX / 2)
        .map(|_| {
            let mut stream = open(&gateway, "").unwrap();
            let is_over = is_over.clone();
            std::thread::spawn(move || {
                let never = std::sync::mpsc::channel::<()>();
                let mut read = [0; 64];
                while !is_over.load(Ordering::Relaxed) {
                    assert!(stream.get_mut().read(&mut read).unwrap() > 0, "it was disconnected");
                    let _ = never.1.recv_timeout(Duration::from_millis(20));
                }
            })
        })
        .collect();
    assert!(open(&gateway, "").is_none());
    for _ in 0..2 {
        change("add");
        change("remove");
    }
    let after = peak(gateway.process.id());
    assert!(after - before < 16 << 10, "{before} to {after} KiB");
    is_over.store(true, Ordering::Relaxed);
    slow.into_iter().for_each(|reader| reader.join().unwrap());
    drop(idle);
    gateway.process.stop();
}

/// The most memory that a process has used, in KiB.
pub(crate) fn peak(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
