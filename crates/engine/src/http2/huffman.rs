//! The Huffman code of HPACK (RFC 7541, Appendix B).
//!
//! The code is canonical: codes of equal length are consecutive, in the order of their symbols. Its
//! lengths alone therefore define it, and all tables are computed from them at compile time.

/// The length of each symbol's code in bits; the last symbol is the end of the string.
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const SYMBOLS: usize = 257;
/// The symbol that must not occur in a string.
const END: u16 = 256;
/// The longest code.
const LONGEST: usize = 30;
/// Codes up to this length are found by one look-up: those of all common characters.
const SHORT: usize = 8;

/// The symbols in the order of their codes, and for each length the first code after those of this
/// length, aligned to the left of 32 bits, and the place of the length's first symbol.
struct Canonical {
    symbols: [u16; SYMBOLS],
    ends: [u64; LONGEST + 1],
    starts: [(u32, u16); LONGEST + 1],
    /// By the next eight bits, the symbol and the length of its code; zero if the code is longer.
    short: [(u8, u8); 1 << SHORT],
}

const CODE: Canonical = canonical();

const fn canonical() -> Canonical {
    let mut code = Canonical {
        symbols: [0; SYMBOLS],
        ends: [0; LONGEST + 1],
        starts: [(0, 0); LONGEST + 1],
        short: [(0, 0); 1 << SHORT],
    };
    let (mut next, mut place, mut length) = (0u64, 0, 1);
    while length <= LONGEST {
        let unit = 1u64 << (32 - length);
        code.starts[length] = (next as u32, place as u16);
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                code.symbols[place] = symbol as u16;
                if length <= SHORT {
                    let first = (next >> (32 - SHORT)) as usize;
                    let mut at = first;
                    while at < first + (1 << (SHORT - length)) {
                        code.short[at] = (symbol as u8, length as u8);
                        at += 1;
                    }
                }
                next += unit;
                place += 1;
            }
            symbol += 1;
        }
        code.ends[length] = next;
        length += 1;
    }
    assert!(next == 1 << 32, "the code is complete");
    code
}

/// Appends a decoded string to `out`; `None` if it is not valid or longer than `max` bytes.
pub(super) fn decode(input: &[u8], max: usize, out: &mut Vec<u8>) -> Option<()> {
    let most = out.len().checked_add(max)?;
    // Bits that were not decoded yet, aligned to the left.
    let (mut bits, mut count) = (0u64, 0usize);
    let mut input = input.iter();
    loop {
        while count <= 56
            && let Some(byte) = input.next()
        {
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        let (symbol, length) = match CODE.short[(bits >> 56) as usize] {
            (_, 0) => long(bits)?,
            (symbol, length) => (u16::from(symbol), usize::from(length)),
        };
        if length > count {
            // What is left must be padding: fewer than eight bits, all set.
            let is_padding = count < 8 && (count == 0 || bits >> (64 - count) == (1 << count) - 1);
            return is_padding.then_some(());
        }
        if symbol == END || out.len() == most {
            return None;
        }
        out.push(symbol as u8);
        bits <<= length;
        count -= length;
    }
}

/// The symbol of a long code, and its length.
fn long(bits: u64) -> Option<(u16, usize)> {
    let next = bits >> 32;
    let length = (SHORT + 1..=LONGEST).find(|length| next < CODE.ends[*length])?;
    let (first, place) = CODE.starts[length];
    let nth = (next as u32 - first) >> (32 - length);
    Some((CODE.symbols[usize::from(place) + nth as usize], length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Encodes a string.
    fn encode(text: &[u8]) -> Vec<u8> {
        let (mut out, mut bits, mut count) = (Vec::new(), 0u64, 0);
        for byte in text {
            let length = usize::from(LENGTHS[usize::from(*byte)]);
            let (first, place) = CODE.starts[length];
            let place = usize::from(place);
            let nth = CODE.symbols[place..].iter().position(|s| *s == u16::from(*byte)).unwrap();
            let code = (u64::from(first) >> (32 - length)) + nth as u64;
            bits = bits << length | code;
            count += length;
            while count >= 8 {
                out.push((bits >> (count - 8)) as u8);
                count -= 8;
            }
        }
        if count > 0 {
            out.push((bits << (8 - count)) as u8 | (0xff >> count));
        }
        out
    }

    #[test]
    fn strings_of_the_specification() {
        let check = |bytes: &[u8], text: Option<&str>| {
            let mut out = b"before".to_vec();
            let decoded = decode(bytes, 100, &mut out).map(|()| &out[6..]);
            assert_eq!(decoded, text.map(str::as_bytes), "{bytes:x?}");
        };
        // RFC 7541, C.4 and C.6.
        let www = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        check(&www, Some("www.example.com"));
        check(&[0x64, 0x02], Some("302"));
        check(
            &[
                0x9d, 0x29, 0xad, 0x17, 0x18, 0x63, 0xc7, 0x8f, 0x0b, 0x97, 0xc8, 0xe9, 0xae, 0x82,
                0xae, 0x43, 0xd3,
            ],
            Some("https://www.example.com"),
        );
        check(&[], Some(""));
        check(&[0xff], None); // eight bits of padding
        check(&[0xff; 4], None); // the end of the string
        check(&[0x07], Some("0"));
        check(&[0x00], None); // padding with zeros
        check(&[0x64, 0x02, 0xff], None);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut out = Vec::new();
            prop_assert_eq!(decode(&encode(&text), text.len(), &mut out), Some(()));
            prop_assert_eq!(&out, &text);
            if !text.is_empty() {
                out.clear();
                prop_assert_eq!(decode(&encode(&text), text.len() - 1, &mut out), None);
            }
        }

        #[test]
        fn other_bytes_are_decoded_to_what_encodes_to_them(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let mut out = Vec::new();
            if decode(&bytes, 400, &mut out).is_some() {
                prop_assert_eq!(encode(&out), bytes);
            }
        }
    }
}
