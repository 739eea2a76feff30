//! Servers of event streams: no input panics, every exchange ends once, and segmentation changes what is reported
//! only where a limit is reached within a line. The first byte is the length of a segment; unless its highest bit
//! is set, the head of an event stream comes first.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_engine::fuzz;

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let bytes = if first & 0x80 == 0 { [HEAD, bytes].concat() } else { bytes.to_vec() };
    let whole = fuzz::events(&bytes, bytes.len());
    let parts = fuzz::events(&bytes, usize::from(first & 0x7f));
    let is_too_long = |events: &[String]| events.iter().any(|event| event.contains("TooL"));
    assert!(parts == whole || is_too_long(&parts) || is_too_long(&whole));
});
