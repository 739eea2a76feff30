//! A flood of distinct calls with long answers, and callers that do not read theirs: memory stays bounded.

use super::node::{Answer, Chain, node, service, start};
use super::*;
use std::io::{Read, Write};
use std::net::TcpStream;

const CODE: &str = "eth_getCode";

/// Calls; the lengths of their results are powers of two up to 512 KiB, and every 16th has parameters of
/// 48 KiB.
const CALLS: usize = 5_000;

/// Callers that hold a hit of [`HELD`] bytes, more than a socket holds, while the flood passes.
const SLOW: usize = 3;

/// Callers after it that hold misses of this length.
const STALLED: usize = 40;
const HELD: usize = 7_000_000;

const CACHE_MIB: u64 = 16;
const LIMIT_MIB: u64 = 64;

/// What a process may use beyond its limits; docs/design/gateway.md.
const MARGIN_MIB: u64 = 64;

fn params(number: usize, length: usize, padding: usize) -> Value {
    json!([format!("0x{length:08x}{number:08x}"), "0x384", "p".repeat(padding)])
}

fn flooding(number: usize) -> (Value, usize) {
    let length = 1 << (number % 20);
    (params(number, length, if number.is_multiple_of(16) { 48 << 10 } else { 0 }), length)
}

/// The body of the answer to a call with id 7 whose result has this length.
fn expected(length: usize) -> usize {
    "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"\"}".len() + length
}

#[test]
fn a_flood_of_distinct_answers_stays_within_the_limits() {
    let (folder, chain) = (Folder::new(), Chain::at(1_000));
    let node = node(&chain, |_, method, params, _| match method {
        CODE => {
            let length = &params[0].as_str().unwrap()[2..10];
            let length = usize::from_str_radix(length, 16).unwrap();
            Answer::Raw(format!("\"{}\"", "c".repeat(length)))
        }
        _ => Answer::Usual,
    });
    let limits = format!(
        "cache = {{ memory = \"{CACHE_MIB}MiB\", entry = \"8MiB\" }}\nlimits = {{ memory = \"{LIMIT_MIB}MiB\" }}\n"
    );
    let (process, address) = start(&folder, &format!("{limits}{}", service("", &[&node])));
    let slow: Vec<TcpStream> = (0..SLOW)
        .map(|number| {
            let call = body(CODE, &params(CALLS + number, HELD, 0));
            assert_eq!(used(&ask(&address, "POST /v1", &call)), "miss");
            stall(&address, &call)
        })
        .collect();
    std::thread::scope(|scope| {
        for first in 0..4 {
            let address = &address;
            scope.spawn(move || {
                let mut caller = Caller::connect(address).unwrap();
                for number in (first..CALLS).step_by(4) {
                    let (params, length) = flooding(number);
                    let answer = call_over(&mut caller, CODE, &params);
                    let shown = &answer.body[..answer.body.len().min(200)];
                    assert_eq!(answer.body.len(), expected(length), "{shown}");
                }
            });
        }
    });
    let figure = |name: &str| metric(&address, name);
    let stored = figure("plimsoll_cache_bytes ");
    assert!(stored <= (CACHE_MIB << 20) as f64, "{stored} bytes are stored");
    assert!(figure("plimsoll_cache_evictions_total ") > CALLS as f64 / 4.0);
    check_memory(&process, "after a flood");
    for mut socket in slow {
        let mut answer = Vec::new();
        // Under memory pressure the gateway drops an answer whose caller reads nothing for 2 s.
        let _ = socket.read_to_end(&mut answer);
        let head = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
        let text = String::from_utf8_lossy(&answer[..head]);
        assert!(text.contains("x-cache: hit"), "{text}");
        let start = expected(0) - "\"}".len();
        let result = &answer[head + 4..][start..];
        let right = result.iter().take_while(|byte| **byte == b'c').count();
        assert!(right == HELD || right == result.len(), "an evicted answer changed at {right}");
    }
    // Answers that are not hits are held by their callers, too; some are refused.
    let number = |n: usize| body(CODE, &params(CALLS + SLOW + n, HELD, 0));
    let stalled: Vec<TcpStream> = (0..STALLED).map(|n| stall(&address, &number(n))).collect();
    check_memory(&process, "with stalled callers");
    drop(stalled);
    until("released", || call(&address, CODE, params(1, HELD, 1)).status == 200);
    process.stop();
}

/// Sends a call, and reads no more than the first byte of its answer.
fn stall(address: &str, call: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    let length = call.len();
    let head = format!(
        "POST /v1 HTTP/1.1\r\nHost: h\r\nTarget-Service-Id: eth\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    socket.write_all((head + call).as_bytes()).unwrap();
    socket.peek(&mut [0]).unwrap();
    socket
}

fn check_memory(process: &Process, when: &str) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    let max = CACHE_MIB + LIMIT_MIB + MARGIN_MIB;
    assert!(peak / 1024 <= max, "{} MiB at the peak {when}, more than {max}", peak / 1024);
}
