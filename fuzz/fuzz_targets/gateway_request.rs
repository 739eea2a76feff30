//! Requests to the gateway: no input panics, fragmentation does not change the result, and a relayed
//! call equals the received one. The first byte is the fragment length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_gateway::fuzz;
use plimsoll_rpc::request;

const BODY_MAX: u64 = 200;

fuzz_target!(|data: &[u8]| {
    let Some((fragment, bytes)) = data.split_first() else { return };
    let whole = fuzz::requests(bytes, bytes.len(), BODY_MAX);
    let cut = fuzz::requests(bytes, usize::from(*fragment), BODY_MAX);
    assert_eq!(cut, whole);
    for body in whole.0.iter().map(Vec::as_slice).chain([bytes]) {
        for (call, sent) in fuzz::calls(body) {
            let read = request::call(&sent).expect("a relayed call is valid");
            assert_eq!(read.id, Some(b"42".as_slice()));
            assert_eq!((read.method, read.params), (call.method, call.params));
        }
    }
});
