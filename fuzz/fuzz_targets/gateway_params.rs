//! Parameters and results at the gateway: nothing panics, bound parameters are valid and name no moving
//! tag, and a result agrees with itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_gateway::fuzz;
use plimsoll_rpc::{json, method};

fuzz_target!(|input: (u8, u64, &[u8], &[u8])| {
    let (place, number, params, other) = input;
    assert!(fuzz::agree(params, params));
    assert_eq!(fuzz::agree(params, other), fuzz::agree(other, params));
    let Ok(params) = json::validate(params) else { return };
    let method = method::NAMES[usize::from(place) % method::NAMES.len()];
    fuzz::transaction(method, params);
    if let Some((bound, is_left)) = fuzz::bound(method, params, number) {
        assert!(json::validate(&bound).is_ok());
        assert!(!is_left);
        assert_eq!(fuzz::bound(method, &bound, number), None);
    }
});
