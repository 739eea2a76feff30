//! Responses of upstreams at the gateway: whatever comes, in whatever fragments, nothing panics, how
//! it is cut does not change what it is, and what the caller is answered is an answer under its own
//! id. The first byte says how long fragments are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_gateway::fuzz;
use plimsoll_rpc::answer;

fuzz_target!(|data: &[u8]| {
    let Some((fragment, bytes)) = data.split_first() else { return };
    let id = b"\"own\"";
    let whole = fuzz::response(bytes, bytes.len(), id);
    assert_eq!(fuzz::response(bytes, usize::from(*fragment), id), whole);
    let plain = [b"HTTP/1.1 200 X\r\n\r\n", bytes].concat();
    for read in [whole, fuzz::response(&plain, plain.len(), id)].into_iter().flatten() {
        let (status, _, answered) = read;
        assert!((200..1_000).contains(&status));
        if let Some(answered) = answered {
            assert_eq!(answer::parse(&answered).expect("an answer").id, id);
        }
    }
});
