//! A million calls: each caller gets the answer to its own request, even while connections break.
//!
//! Callers send single calls and batches of various sizes over many connections, some of which they
//! drop in the middle of a request or an answer. Each call has unique parameters, and mostly a unique
//! id; the upstream echoes the parameters.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use plimsoll_gateway::Settings;
use plimsoll_measure::rng::{Key, Sequence};
use plimsoll_registry::model::{Concurrency, Upstream};

use crate::caller::{Caller, call, request, result};
use crate::setup::{
    ENDPOINT, ETH, connections, definitions, metric, node, post, relays, settings, start,
    wait_until,
};

/// Answered calls; those on dropped connections are not included.
const CALLS: u64 = 1_000_000;

/// Calling threads, and connections per thread.
const CALLERS: u64 = 4;
const CONNECTIONS: u64 = 8;

/// Calls in most batches.
const BATCH: u64 = 100;

/// The longest parameters, in bytes.
const PARAMS_MAX: u64 = 64 << 10;

/// Starts a minimal server that echoes parameters, on any number of connections.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            std::thread::spawn(move || serve_echo(socket.unwrap()));
        }
    });
    address
}

fn serve_echo(mut socket: TcpStream) {
    socket.set_nodelay(true).unwrap();
    let mut read = Vec::new();
    let mut buffer = vec![0; PARAMS_MAX as usize];
    loop {
        while let Some((answer, end)) = echo_answer(&read) {
            read.drain(..end);
            if socket.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
        match socket.read(&mut buffer) {
            Ok(n) if n > 0 => read.extend_from_slice(&buffer[..n]),
            _ => return,
        }
    }
}

/// The answer to the request at the start of `read`, and that request's length; `None` if the request
/// is incomplete.
fn echo_answer(read: &[u8]) -> Option<(String, usize)> {
    let head = memchr::memmem::find(read, b"\r\n\r\n")?;
    // The gateway writes the length last.
    let length: usize = text_after(&read[..head], "content-length: ").parse().unwrap();
    let end = head + 4 + length;
    let body = read.get(head + 4..end)?;
    let id = text_after(body, "\"id\":").split(',').next().unwrap();
    let params = text_after(body, "\"params\":").strip_suffix('}').unwrap();
    let answer = result(id, params);
    let length = answer.len();
    Some((format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{answer}"), end))
}

/// The text after the first occurrence of `what`.
fn text_after<'a>(text: &'a [u8], what: &str) -> &'a str {
    let at = memchr::memmem::find(text, what.as_bytes()).unwrap() + what.len();
    std::str::from_utf8(&text[at..]).unwrap()
}

/// A calling thread.
struct LoadThread<'a> {
    gateway: SocketAddr,
    random: Sequence,
    name: String,
    made: u64,
    padding: &'a str,
}

impl LoadThread<'_> {
    /// Calls until `calls` have been answered; returns how many were.
    fn run(mut self, calls: u64) -> u64 {
        let mut callers: Vec<Caller> =
            (0..CONNECTIONS).map(|_| Caller::connect(self.gateway)).collect();
        let mut answered = 0;
        while answered < calls {
            let size = match self.random.below(20) {
                0 => 1,
                1 => 1 + self.random.below(BATCH),
                _ => BATCH,
            };
            let (body, expected) = self.body(size.min(calls - answered));
            let (target, headers) =
                if self.random.below(2) == 0 { (ENDPOINT, "") } else { ("/v1", ETH) };
            let bytes = request("POST", target, headers, body.as_bytes());
            let caller = &mut callers[self.random.below(CONNECTIONS) as usize];
            if self.random.below(50) == 0 {
                self.disconnect_during(
                    &bytes,
                    std::mem::replace(caller, Caller::connect(self.gateway)),
                );
                continue;
            }
            caller.send(&bytes);
            let answer = caller.answer();
            assert!(
                answer.status == 200 && answer.text() == expected,
                "{}: {} to {}",
                self.name,
                answer.text().chars().take(300).collect::<String>(),
                body.chars().take(300).collect::<String>()
            );
            answered += size.min(calls - answered);
        }
        answered
    }

    /// A single call or a batch, and the expected answer.
    fn body(&mut self, size: u64) -> (String, String) {
        let (mut calls, mut results) = (String::new(), String::new());
        for n in 0..size {
            self.made += 1;
            let longest = match self.random.below(2_000) {
                0 => PARAMS_MAX - 100,
                1..20 => 2_000,
                _ => 60,
            };
            let padding = &self.padding[..self.random.below(longest) as usize];
            let identity = format!("{}-{}", self.name, self.made);
            let id = match self.random.below(4) {
                // Ids that other calls have too.
                0 => "1".to_string(),
                1 => self.random.below(100).to_string(),
                _ => format!("\"{identity}\""),
            };
            let params = format!("[\"{identity}\",\"{padding}\"]");
            if n > 0 {
                calls.push(',');
                results.push(',');
            }
            calls += &call(&id, "m", &params);
            results += &result(&id, &params);
        }
        if size == 1 && self.random.below(2) == 0 {
            (calls, results)
        } else {
            (format!("[{calls}]"), format!("[{results}]"))
        }
    }

    /// Disconnects during a request or an answer.
    fn disconnect_during(&mut self, bytes: &[u8], mut caller: Caller) {
        let sent = match self.random.below(2) {
            0 => self.random.below(bytes.len() as u64) as usize,
            _ => bytes.len(),
        };
        caller.send(&bytes[..sent]);
        if sent == bytes.len() && self.random.below(2) == 0 {
            caller.wait_for_data();
        }
        if self.random.below(2) == 0 {
            caller.reset();
        }
    }
}

#[test]
fn a_million_answers_reach_their_own_callers() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("SEED={seed}");
    // Every call is to be answered, however many there are at a time.
    let open = |upstream| Upstream { concurrency: Concurrency::Off, ..upstream };
    let url = |address: SocketAddr| format!("http://{address}/");
    let upstreams = ["a", "b"].map(|id| open(node(id, "eth", &url(echo())))).into();
    let settings = Settings { workers: 2, ..settings() };
    let gateway = start(settings, &definitions(upstreams));
    let padding = "x".repeat(PARAMS_MAX as usize);
    let answered: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CALLERS)
            .map(|number| {
                let thread = LoadThread {
                    gateway: gateway.addresses()[0],
                    random: Key::new(seed).with(number).sequence(),
                    name: format!("caller {number}"),
                    made: 0,
                    padding: &padding,
                };
                scope.spawn(move || thread.run(CALLS / CALLERS))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(answered, CALLS);
    wait_until("all callers have disconnected", || connections(&gateway) == 0);
    for upstream in ["a", "b"] {
        let in_flight = format!("plimsoll_relays_in_flight{{upstream=\"{upstream}\"}}");
        assert_eq!(metric(&gateway, &in_flight), 0);
    }
    let page = gateway.metrics();
    // Callers that disconnected did not receive all of their answers, or cancelled their calls.
    let usual = ["ok", "truncated", "cancelled"].map(|outcome| format!("outcome=\"{outcome}\""));
    // The service has no chain id, so that each call is relayed.
    let usual: Vec<String> = usual.into_iter().chain(["reason=\"no_chain\"".into()]).collect();
    let failed = |line: &&str| {
        line.contains("_total{")
            && !line.ends_with(" 0")
            && !usual.iter().any(|one| line.contains(one.as_str()))
    };
    assert_eq!(page.lines().find(failed), None, "no call failed");
    assert!(relays(&gateway, "a", "ok") + relays(&gateway, "b", "ok") >= CALLS);
    assert_eq!(post(&gateway, call("1", "m", "[]")).status, 200);
}
