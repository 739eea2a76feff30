//! JSON-RPC: judging any response to any request never panics. The input is split at the first zero
//! byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_rpc::judge::Expected;

fuzz_target!(|data: &[u8]| {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (request, response) = data.split_at(at);
    if let Ok(expected) = Expected::of(request) {
        let judgement = expected.judge(response, |_| {});
        assert!(judgement.errors <= judgement.items);
    }
});
