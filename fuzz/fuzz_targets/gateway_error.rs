//! Upstream errors at the gateway: for any code, message, data and HTTP status, nothing panics, the data
//! reaches the caller byte for byte, the upstream's code is kept, and a revert stays a revert.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_gateway::fuzz;
use plimsoll_rpc::{answer, json};

fuzz_target!(|input: (i64, u16, &[u8], &[u8])| {
    let (code, status, message, data) = input;
    let data = if json::validate(data).is_ok() { data.trim_ascii() } else { b"\"0x08c379a0\"" };
    let status = 200 + status % 400;
    let (category, answered) = fuzz::error(code, message, data, status);
    let answer = answer::parse(&answered).expect("an answer");
    assert_eq!(answer.id, b"7");
    let answer::Outcome::Error { code: shown, raw, .. } = answer.outcome else {
        panic!("an error became a result");
    };
    let member = |name: &[u8]| {
        let mut members = json::members(raw).map(|member| member.expect("valid"));
        members.find(|member| *member.plain() == *name).map(|member| member.value)
    };
    assert_eq!(member(b"data"), Some(data));
    let kept = member(b"upstream_code").map_or(shown.to_string().into_bytes(), <[u8]>::to_vec);
    assert_eq!(kept, code.to_string().into_bytes());
    if code == 3 || message.to_ascii_lowercase().starts_with(b"execution reverted") {
        assert_eq!((category, shown), ("reverted", code));
    }
});
