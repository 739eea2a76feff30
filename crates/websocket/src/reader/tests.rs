//! Messages in frames of any size and segments of any size, and peers that break the protocol.

use super::*;
use crate::deflate::Deflate;
use crate::frame::{put, put_close, put_compressed};
use proptest::prelude::*;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What a reader returns for these bytes in segments.
fn read(role: Role, max: usize, bytes: &[u8], segment: usize) -> Result<Vec<String>, Violation> {
    read_with(Reader::new(role, max), max, bytes, segment)
}

/// The same after compression was agreed on.
fn read_compressed(
    role: Role,
    max: usize,
    bytes: &[u8],
    segment: usize,
) -> Result<Vec<String>, Violation> {
    let mut reader = Reader::new(role, max);
    reader.allow_compression();
    read_with(reader, max, bytes, segment)
}

fn read_with(
    mut reader: Reader,
    max: usize,
    bytes: &[u8],
    segment: usize,
) -> Result<Vec<String>, Violation> {
    let mut inflate = Inflate::default();
    let mut read = Vec::new();
    for mut part in bytes.chunks(segment.max(1)) {
        while let Some(message) = reader.next(&mut part, &mut inflate)? {
            read.push(match message {
                Message::Binary(bytes) => format!("Binary {}", bytes.escape_ascii()),
                Message::Text(text) => format!("Text {text}"),
                Message::Ping(bytes) => format!("Ping {}", bytes.escape_ascii()),
                Message::Pong(bytes) => format!("Pong {}", bytes.escape_ascii()),
                Message::Close { code, reason } => format!("Close {code:?} {reason}"),
            });
        }
        assert!(part.is_empty(), "the input is used up");
        assert!(reader.held() <= max);
    }
    Ok(read)
}

#[test]
fn messages_of_the_specification() {
    let check = |role, bytes: &[u8], expected: &[&str]| {
        for segment in [1, 2, 3, 100] {
            assert_eq!(read(role, 65_536, bytes, segment).unwrap(), expected);
        }
    };
    // RFC 6455 §5.7.
    check(Role::Client, b"\x81\x05Hello", &["Text Hello"]);
    check(Role::Server, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &["Text Hello"]);
    check(Role::Client, b"\x01\x03Hel\x80\x02lo", &["Text Hello"]);
    check(Role::Client, b"\x89\x05Hello\x8a\x00", &["Ping Hello", "Pong "]);
    let long = [&b"\x82\x7e\x01\x00"[..], &[b'x'; 256]].concat();
    check(Role::Client, &long, &[&format!("Binary {}", "x".repeat(256))]);
    let longer = [&b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"[..], &[b'x'; 65_536]].concat();
    check(Role::Client, &longer, &[&format!("Binary {}", "x".repeat(65_536))]);
    // Control frames between fragments; a fragment without bytes; a letter that is split.
    check(
        Role::Client,
        b"\x01\x01\xc3\x89\x01p\x00\x00\x80\x01\xa9\x81\x00\x88\x02\x03\xe8",
        &["Ping p", "Text \u{e9}", "Text ", "Close Some(1000) "],
    );
    check(Role::Client, b"\x88\x00", &["Close None "]);
    check(Role::Client, b"\x88\x05\x0f\xa1bye", &["Close Some(4001) bye"]);
}

#[test]
fn peers_that_break_the_protocol() {
    let check = |bytes: &[u8], expected| {
        for segment in [1, 100] {
            let result = read(Role::Client, 10, bytes, segment);
            assert_eq!(result, Err(expected), "{}", bytes.escape_ascii());
        }
    };
    check(b"\xc1\x00", Violation::ReservedBits);
    check(b"\x83\x00", Violation::UnknownOpcode);
    check(b"\x8b\x00", Violation::UnknownOpcode);
    check(b"\x09\x00", Violation::BadControl);
    check(b"\x89\x7e\x00\x7e", Violation::BadControl);
    check(b"\x82\x7e\x00\x7d", Violation::BadLength);
    check(b"\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff", Violation::BadLength);
    check(b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", Violation::BadLength);
    check(b"\x81\x81\x00\x00\x00\x00x", Violation::BadMask);
    check(b"\x80\x01x", Violation::BadFragment);
    check(b"\x01\x01x\x81\x01y", Violation::BadFragment);
    check(b"\x81\x0b", Violation::TooLong);
    check(b"\x01\x06abcdef\x80\x05", Violation::TooLong);
    check(&[&b"\x01\x00"[..], &[0; 20_000]].concat(), Violation::TooManyFragments);
    check(b"\x81\x02\xc3\x28", Violation::BadText);
    check(b"\x81\x03\xed\xa0\x80", Violation::BadText); // a surrogate
    check(b"\x01\x01\xc3\x80\x00", Violation::BadText); // half a letter
    check(b"\x88\x01\x03", Violation::BadClose);
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        let [high, low] = code.to_be_bytes();
        check(&[0x88, 2, high, low], Violation::BadClose);
    }
    check(b"\x88\x04\x03\xe8\xc3\x28", Violation::BadText);
    check(b"\x88\x00\x81\x01x", Violation::AfterClose);
    assert_eq!(read(Role::Server, 10, b"\x81\x01x", 9), Err(Violation::BadMask));
}

/// "Hello" in one block, in two frames with a ping between them, after a plain message, and masked.
#[test]
fn compressed_messages_in_any_frames() {
    const HELLO: &[u8] = &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let check = |bytes: &[u8], expected: Result<&[&str], Violation>| {
        for segment in [1, 2, 3, 100] {
            let expected = expected.map(|own| own.iter().map(|own| (*own).to_owned()).collect());
            let found = read_compressed(Role::Client, 10, bytes, segment);
            assert_eq!(found, expected, "{}", bytes.escape_ascii());
        }
    };
    let whole = [&b"\xc1\x07"[..], HELLO].concat();
    check(&whole, Ok(&["Text Hello"]));
    let parts = [&b"\x41\x03"[..], &HELLO[..3], b"\x89\x01p\x80\x04", &HELLO[3..]].concat();
    check(&parts, Ok(&["Ping p", "Text Hello"]));
    let three = [&b"\x42\x00\x00\x03"[..], &HELLO[..3], b"\x8a\x00\x80\x04", &HELLO[3..]].concat();
    check(&three, Ok(&["Pong ", "Binary Hello"]));
    // Others may be sent as they are.
    let mixed = [&b"\x81\x02hi"[..], &whole, b"\x81\x01x", &whole, b"\x01\x01a\x80\x01b"].concat();
    check(&mixed, Ok(&["Text hi", "Text Hello", "Text x", "Text Hello", "Text ab"]));
    // Only the first frame of a message says that it is compressed.
    check(&[&b"\x41\x03"[..], &HELLO[..3], b"\xc0\x04"].concat(), Err(Violation::ReservedBits));
    check(b"\x01\x01x\xc0\x01y", Err(Violation::ReservedBits));
    for control in [b"\xc8\x00", b"\xc9\x00", b"\xca\x00"] {
        check(control, Err(Violation::ReservedBits));
    }
    check(b"\xa1\x00", Err(Violation::ReservedBits));
    check(b"\x91\x00", Err(Violation::ReservedBits));
    check(b"\xc1\x00", Err(Violation::BadDeflate));
    check(&[&b"\xc1\x06"[..], &HELLO[..6]].concat(), Err(Violation::BadDeflate));
    check(b"\xc1\x04\xff\xff\xff\xff", Err(Violation::BadDeflate));
    // Longer than the limit as it is, and once it is decompressed.
    check(b"\xc1\x0b", Err(Violation::TooLong));
    let mut bomb = Vec::new();
    let mut deflate = Deflate::default();
    let payload = deflate.message(&[b'x'; 100_000]).unwrap();
    put_compressed(&mut bomb, Opcode::Text, None, payload);
    let found = read_compressed(Role::Client, 50_000, &bomb, 7);
    assert_eq!(found, Err(Violation::TooLong));
    assert_eq!(read_compressed(Role::Client, 100_000, &bomb, 7).unwrap()[0].len(), 100_005);
    // Not UTF-8.
    let payload = deflate.message(&[0xff; 1_000]).unwrap();
    bomb.clear();
    put_compressed(&mut bomb, Opcode::Text, None, payload);
    assert_eq!(read_compressed(Role::Client, 1_000, &bomb, 9), Err(Violation::BadText));
}

/// Between two messages, a connection holds nothing of its own.
#[test]
fn buffers_are_shared() {
    let (mut deflate, mut inflate, mut bytes) =
        (Deflate::default(), Inflate::default(), Vec::new());
    put_compressed(&mut bytes, Opcode::Text, None, deflate.message(&[b'x'; 9_000]).unwrap());
    for _ in 0..3 {
        let mut reader = Reader::new(Role::Client, 10_000);
        reader.allow_compression();
        let mut input = &bytes[..];
        assert!(reader.next(&mut input, &mut inflate).unwrap().is_some());
        assert_eq!(reader.last().len(), 9_000);
        assert_eq!(reader.next(&mut input, &mut inflate), Ok(None));
        assert_eq!(reader.message.capacity(), 0);
    }
}

#[test]
fn long_reasons_are_cut_between_letters() {
    let mut out = Vec::new();
    put_close(&mut out, 1011, &"\u{e9}".repeat(100), None);
    let expected = format!("Close Some(1011) {}", "\u{e9}".repeat(61));
    assert_eq!(read(Role::Client, 0, &out, 1000).unwrap(), [expected]);
}

fn frames() -> impl Strategy<Value = Vec<(bool, String, Vec<usize>, Option<usize>)>> {
    let cuts = proptest::collection::vec(0..400usize, 0..4);
    let message = (any::<bool>(), "\\PC{0,200}", cuts, proptest::option::of(0..CONTROL_MAX));
    proptest::collection::vec(message, 0..6)
}

proptest! {
    /// What is written is read, whatever the fragments and segments are.
    #[test]
    fn written_messages_are_read(messages in frames(), segment in 1..500usize, masked: bool, deflated: bool) {
        let mut deflate = Deflate::default();
        let key = masked.then_some(KEY);
        let role = if masked { Role::Server } else { Role::Client };
        let (mut out, mut expected) = (Vec::new(), Vec::new());
        for (is_text, text, cuts, ping) in &messages {
            let long = text.repeat(9);
            if deflated && let Some(payload) = deflate.message(long.as_bytes()) {
                let opcode = if *is_text { Opcode::Text } else { Opcode::Binary };
                put_compressed(&mut out, opcode, key, payload);
                expected.push(if *is_text { format!("Text {long}") } else { format!("Binary {}", long.as_bytes().escape_ascii()) });
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let last = cuts.len() - 2;
            for (at, part) in cuts.windows(2).enumerate() {
                let first = if *is_text { Opcode::Text } else { Opcode::Binary };
                let opcode = if at == 0 { first } else { Opcode::Continuation };
                put(&mut out, opcode, at == last, key, &text.as_bytes()[part[0]..part[1]]);
                if let Some(len) = ping && at < last {
                    put(&mut out, Opcode::Ping, true, key, &vec![b'p'; *len]);
                    expected.push(format!("Ping {}", "p".repeat(*len)));
                }
            }
            expected.push(if *is_text { format!("Text {text}") } else { format!("Binary {}", text.as_bytes().escape_ascii()) });
        }
        prop_assert_eq!(read_compressed(role, 8000, &out, segment), Ok(expected));
    }

    /// Any bytes are handled, and the segments make no difference.
    #[test]
    fn any_bytes_are_read(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
        first in 0..16u8,
        segment in 1..20usize,
        is_client: bool,
        bits in 0..8u8,
    ) {
        // Random bytes rarely begin with a valid frame.
        if let Some(byte) = bytes.first_mut() {
            *byte = 0x80 | bits << 4 | first;
        }
        let role = if is_client { Role::Client } else { Role::Server };
        prop_assert_eq!(read_compressed(role, 200, &bytes, segment), read_compressed(role, 200, &bytes, 1000));
        prop_assert_eq!(read(role, 200, &bytes, segment), read(role, 200, &bytes, 1000));
    }

    #[test]
    fn masking_twice_changes_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..100), cut in 0..100usize) {
        let mut masked = bytes.clone();
        mask(&mut masked, KEY, 0);
        let plain: Vec<u8> = bytes.iter().enumerate().map(|(at, byte)| byte ^ KEY[at % 4]).collect();
        prop_assert_eq!(&masked, &plain);
        let cut = cut.min(bytes.len());
        mask(&mut masked[..cut], KEY, 0);
        mask(&mut masked[cut..], KEY, cut);
        prop_assert_eq!(masked, bytes);
    }
}
