//! Calls, results and values at the gateway's cache: nothing panics, and white space around the
//! parameters does not change the canonical form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_gateway::fuzz;
use plimsoll_rpc::{json, method};

fuzz_target!(|input: (u8, &[u8], &[u8])| {
    let (place, params, result) = input;
    let Ok(params) = json::validate(params) else { return };
    let method = method::NAMES[usize::from(place) % method::NAMES.len()];
    let form = fuzz::cached(method, params, result);
    let spaced = [b" ", params, b"\n"].concat();
    if params.len() < 1 << 10 {
        assert_eq!(form, fuzz::cached(method, &spaced, result));
    }
});
