//! The gateway's cache with the real program: replicas on a real Redis, callers and nodes of every kind.

mod command;
mod flights;
mod flood;
mod node;
mod redis;
mod semantics;

use crate::gateway::{Caller, Process, Response, ask, metric};
use crate::run::{Folder, command};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A redis-server on a socket in a folder of its own; killed on drop.
struct Redis {
    folder: Folder,
    child: Child,
}

/// A reply of Redis.
#[derive(Debug, PartialEq)]
enum Reply {
    Text(Vec<u8>),
    Number(i64),
    Nil,
    List(Vec<Reply>),
    Error(String),
}

impl Redis {
    fn start() -> Redis {
        let folder = Folder::new();
        let child = Redis::spawn(&folder);
        Redis { folder, child }
    }

    fn spawn(folder: &Folder) -> Child {
        let args =
            ["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "no"];
        Command::new("redis-server")
            .args(args)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server, which scripts/test installs")
    }

    fn url(&self) -> String {
        format!("unix://{}", self.folder.path().join("redis.sock").display())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.child = Redis::spawn(&self.folder);
    }

    /// Sends a command over a connection of its own, once the server accepts one.
    fn send(&self, words: &[&[u8]]) -> Reply {
        let path = self.folder.path().join("redis.sock");
        let socket = loop {
            match UnixStream::connect(&path) {
                Ok(socket) => break socket,
                Err(_) => std::thread::yield_now(),
            }
        };
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        (&socket).write_all(&request).unwrap();
        Reply::read(&mut BufReader::new(socket))
    }

    fn command(&self, text: &str) -> Reply {
        let words: Vec<&[u8]> = text.split(' ').map(str::as_bytes).collect();
        self.send(&words)
    }

    fn keys(&self) -> Vec<Vec<u8>> {
        let Reply::List(keys) = self.command("KEYS plimsoll:*") else { panic!("no list") };
        let text = |key| if let Reply::Text(text) = key { text } else { panic!("{key:?}") };
        keys.into_iter().map(text).collect()
    }
}

impl Reply {
    fn read(from: &mut impl BufRead) -> Reply {
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        let (kind, rest) = line.trim_end().split_at(1);
        match kind {
            "+" => Reply::Text(rest.into()),
            "-" => Reply::Error(rest.into()),
            ":" => Reply::Number(rest.parse().unwrap()),
            "*" => Reply::List((0..rest.parse().unwrap()).map(|_| Reply::read(from)).collect()),
            "$" if rest == "-1" => Reply::Nil,
            _ => {
                let mut text = vec![0; rest.parse::<usize>().unwrap() + 2];
                from.read_exact(&mut text).unwrap();
                text.truncate(text.len() - 2);
                Reply::Text(text)
            }
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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
fn until(what: &str, holds: impl FnMut() -> bool) {
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
