//! Upstream responses at the gateway: no input panics, fragmentation does not change the result, and the
//! caller gets a valid answer with its own id. The first byte is the fragment length.
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
            assert_eq!(answer::parse(&answered).expect("a valid answer").id, id);
        }
    }
});
