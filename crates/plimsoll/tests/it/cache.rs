//! The gateway's cache with the real program: replicas on a real Redis, callers and nodes of every kind.

mod command;
mod flights;
mod flood;
mod node;
mod redis;
mod semantics;

use crate::gateway::{Caller, Process, Response, ask, metric};
use crate::redis_server::{Redis, Reply};
use crate::run::{Folder, command};
use serde_json::{Value, json};
use std::time::Duration;

/// A gateway with this configuration, after the settings that all tests have in common.
fn gateway(folder: &Folder, config: &str) -> Process {
    let config = format!("listen = [\"127.0.0.1:0\"]\ndatabase = \"off\"\n{config}");
    folder.file("gateway.toml", config);
    let mut starts = command(&["gateway"]);
    starts.current_dir(folder.path());
    Process::spawn(starts)
}

/// Waits until `holds`; a defect makes it panic after a minute.
#[track_caller]
pub(crate) fn until(what: &str, holds: impl FnMut() -> bool) {
    until_within(Duration::from_secs(60), what, holds);
}

#[track_caller]
fn until_within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let never = std::sync::mpsc::channel::<()>();
    let pause = Duration::from_millis(5);
    let tries = limit.as_millis() / pause.as_millis();
    for _ in 0..tries {
        if holds() {
            return;
        }
        let _ = never.1.recv_timeout(pause);
    }
    panic!("not {what}");
}

fn is_used(address: &str) -> bool {
    metric(address, "plimsoll_redis_used ") == 1.0
}

/// The body of a call.
fn body(method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).to_string()
}

/// Makes a call over a new connection.
fn call(address: &str, method: &str, params: Value) -> Response {
    ask(address, "POST /v1", &body(method, &params))
}

/// How the answer used the cache.
fn used(response: &Response) -> &str {
    response.header("x-cache").unwrap_or("no x-cache")
}

/// Makes a call over a caller's connection.
fn call_over(caller: &mut Caller, method: &str, params: &Value) -> Response {
    caller.send("POST /v1", &body(method, params)).expect("an answer")
}
