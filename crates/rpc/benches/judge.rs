//! The cost of judging one answer, in nanoseconds and bytes per second: `cargo bench -p plimsoll-rpc`.
//!
//! A plain loop and the median of several rounds, which is enough to detect a change of 10 %. There
//! are no thresholds.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark measures and prints"
)]

use std::hint::black_box;
use std::time::Instant;

use plimsoll_rpc::{json, judge, request};

const ROUNDS: usize = 15;

fn main() {
    let call = br#"{"jsonrpc":"2.0","method":"eth_blockNumber","params":[],"id":1}"#;
    let short = br#"{"jsonrpc":"2.0","id":1,"result":"0x1522f7a"}"#;
    let error = br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"header not found"}}"#;
    let log = format!(r#"{{"address":"0x{}","topics":["0x{0}"],"n":12}}"#, "ab".repeat(32));
    let long = format!(r#"{{"jsonrpc":"2.0","id":1,"result":[{}]}}"#, vec![log; 500].join(","));
    let expected = judge::Expected::of(call).expect("a call").into_owned();

    time("request, single call", call, |body| request::call(body).is_ok());
    time("validate, short answer", short, |body| json::validate(body).is_ok());
    time("judge, short answer, prepared", short, |body| {
        expected.judge(body, |_| {}).mismatch.is_none()
    });
    time("judge, short answer, request parsed", short, |body| {
        judge::judge(call, body, |_| {}).is_ok_and(|judgement| judgement.mismatch.is_none())
    });
    time("judge, error", error, |body| expected.judge(body, |_| {}).errors == 1);
    time("judge, long answer", long.as_bytes(), |body| {
        expected.judge(body, |_| {}).mismatch.is_none()
    });

    let list = |items: &[String]| format!("[{}]", items.join(","));
    let calls = (0..100).map(|id| format!(r#"{{"jsonrpc":"2.0","method":"m","id":{id}}}"#));
    let calls = list(&calls.collect::<Vec<_>>());
    let answers = (0..100).map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"0x1"}}"#));
    let answers = list(&answers.collect::<Vec<_>>());
    let batch = judge::Expected::of(calls.as_bytes()).expect("a batch");
    time("judge, batch of 100, prepared", answers.as_bytes(), |body| {
        batch.judge(body, |_| {}).mismatch.is_none()
    });
}

fn time(what: &str, body: &[u8], act: impl Fn(&[u8]) -> bool) {
    let turns = (20_000_000 / body.len().max(20)).max(1);
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..turns {
                assert!(act(black_box(body)));
            }
            start.elapsed().as_nanos() as f64 / turns as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    let median = rounds[ROUNDS / 2];
    println!(
        "{what:40} {:6} bytes {median:9.1} ns {:6.2} GB/s",
        body.len(),
        body.len() as f64 / median
    );
}
