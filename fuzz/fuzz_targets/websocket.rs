//! WebSocket peers: no input panics, what a reader holds is bounded, and segmentation does not change what it
//! returns. The first byte is the length of a segment; its highest bit says which side reads, the next one whether
//! compression was agreed on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_websocket::{Inflate, Reader, Role, Violation};

const MESSAGE_MAX: usize = 1_000;

fn read(
    role: Role,
    is_compressed: bool,
    bytes: &[u8],
    segment: usize,
) -> Result<Vec<String>, Violation> {
    let mut reader = Reader::new(role, MESSAGE_MAX);
    if is_compressed {
        reader.allow_compression();
    }
    let mut inflate = Inflate::default();
    let mut messages = Vec::new();
    for mut part in bytes.chunks(segment.max(1)) {
        while let Some(message) = reader.next(&mut part, &mut inflate)? {
            messages.push(format!("{message:?}"));
        }
        assert!(part.is_empty() && reader.held() <= MESSAGE_MAX);
    }
    Ok(messages)
}

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else { return };
    let role = if first & 0x80 == 0 { Role::Client } else { Role::Server };
    let is_compressed = first & 0x40 != 0;
    let whole = read(role, is_compressed, bytes, bytes.len());
    assert_eq!(read(role, is_compressed, bytes, usize::from(first & 0x3f)), whole);
});
