//! HTTP responses: no input panics, and fragmentation does not change the result. The first byte is the
//! fragment length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plimsoll_engine::http1::{Parser, Piece};

fn read(bytes: &[u8], fragment: usize) -> Option<Vec<u8>> {
    let mut parser = Parser::new();
    parser.expect(false);
    let mut body = Vec::new();
    for part in bytes.chunks(fragment) {
        let mut input = part;
        loop {
            match parser.next(&mut input) {
                Ok(Piece::Head) => {}
                Ok(Piece::Body(piece)) => body.extend_from_slice(piece),
                Ok(Piece::More) => break,
                Ok(Piece::End) => return Some(body),
                Err(_) => return None,
            }
        }
    }
    None
}

fuzz_target!(|data: &[u8]| {
    let Some((fragment, bytes)) = data.split_first() else { return };
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(read(bytes, usize::from(*fragment).max(1)), whole);
});
