//! HTTP/2 servers: no input panics, every exchange ends once, and segmentation does not change what is
//! reported. The first byte is the length of a segment; unless its highest bit is set, settings come first.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_engine::fuzz;

/// An empty SETTINGS frame: without one, the rest is not looked at.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let bytes = if first & 0x80 == 0 { [SETTINGS, bytes].concat() } else { bytes.to_vec() };
    let whole = fuzz::http2(&bytes, bytes.len());
    assert_eq!(fuzz::http2(&bytes, usize::from(first & 0x7f)), whole);
});
