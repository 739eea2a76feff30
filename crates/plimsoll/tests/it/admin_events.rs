//! The stream of events of a real gateway, across connections.

use crate::admin::Gateway;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
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

#[test]
fn events_continue_where_a_consumer_stopped() {
    let gateway = Gateway::start();
    let open = |header: &str| {
        let mut socket = TcpStream::connect(&gateway.admin).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let token = &gateway.token;
        let text = format!(
            "GET /api/v1/events/stream HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n{header}\r\n"
        );
        socket.write_all(text.as_bytes()).unwrap();
        BufReader::new(socket)
    };
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
