//! Decodes header blocks (HPACK, RFC 7541).
//!
//! A block that breaks the format leaves the decoder unusable: the tables of both sides differ from
//! then on. The size of a decoded block is limited, because a few bytes can refer to a long entry of
//! the table again and again.

use super::huffman;
use super::table::Table;

/// Maximum size of the dynamic table, in bytes: the default of the specification.
pub(crate) const TABLE_MAX: usize = 4096;

/// Why a block could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HpackError {
    /// It is malformed.
    Malformed,
    /// Its fields are longer than the limit.
    TooLarge,
}

/// A decoder of the blocks of one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { table: Table::new(TABLE_MAX), name: Vec::new(), value: Vec::new() }
    }
}

/// Where a name or value is.
#[derive(Clone, Copy)]
enum Place<'a> {
    Block(&'a [u8]),
    Scratch,
}

impl<'a> Place<'a> {
    fn of<'b>(&self, scratch: &'b [u8]) -> &'b [u8]
    where
        'a: 'b,
    {
        match self {
            Place::Block(bytes) => bytes,
            Place::Scratch => scratch,
        }
    }
}

impl Decoder {
    /// Counts changes of the table: as long as it is the same, the same block has the same fields.
    pub(crate) fn version(&self) -> u64 {
        self.table.version()
    }

    /// Decodes a block whose fields have at most `size_max` bytes, and passes each to `visit`.
    ///
    /// # Errors
    /// If the block is malformed or its fields are longer.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        size_max: usize,
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), HpackError> {
        let (mut input, mut left, mut begun) = (block, size_max, false);
        while let Some(&first) = input.first() {
            if first & 0xe0 == 0x20 {
                let size = read_integer(&mut input, 5).ok_or(HpackError::Malformed)?;
                // Only at the beginning of a block.
                if begun || size > TABLE_MAX {
                    return Err(HpackError::Malformed);
                }
                self.table.resize(size);
                continue;
            }
            begun = true;
            let used = if first & 0x80 != 0 {
                self.indexed(&mut input, visit)
            } else {
                self.literal(&mut input, left, visit)
            };
            left = left.checked_sub(used?).ok_or(HpackError::TooLarge)?;
        }
        Ok(())
    }

    /// An indexed field; returns its size.
    #[inline]
    fn indexed(
        &mut self,
        input: &mut &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<usize, HpackError> {
        let index = read_integer(input, 7).ok_or(HpackError::Malformed)?;
        let (name, value) = self.table.get(index).ok_or(HpackError::Malformed)?;
        visit(name, value);
        Ok(name.len() + value.len())
    }

    /// A literal field, with or without indexing; returns its size.
    fn literal(
        &mut self,
        input: &mut &[u8],
        left: usize,
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<usize, HpackError> {
        let is_indexed = input[0] & 0x40 != 0;
        let index = read_integer(input, if is_indexed { 6 } else { 4 });
        let index = index.ok_or(HpackError::Malformed)?;
        let Decoder { table, name: name_buffer, value: value_buffer } = self;
        name_buffer.clear();
        value_buffer.clear();
        let own_name = match index {
            0 => Some(read_string(input, left, name_buffer)?),
            _ => None,
        };
        let value = read_string(input, left, value_buffer)?.of(value_buffer);
        if is_indexed && own_name.is_none() {
            // Adding the field may evict the entry that names it.
            name_buffer.extend_from_slice(table.get(index).ok_or(HpackError::Malformed)?.0);
        }
        let name = match own_name {
            Some(name) => name.of(name_buffer),
            None if is_indexed => name_buffer,
            None => table.get(index).ok_or(HpackError::Malformed)?.0,
        };
        visit(name, value);
        let used = name.len() + value.len();
        if is_indexed {
            let name = own_name.map_or(&name_buffer[..], |name| name.of(name_buffer));
            table.insert(name, value);
        }
        Ok(used)
    }
}

/// Reads an integer with a prefix of `bits` bits (RFC 7541 §5.1); `None` if it is incomplete or does not
/// fit into 28 bits more than the prefix.
#[inline]
fn read_integer(input: &mut &[u8], bits: u32) -> Option<usize> {
    let (first, rest) = input.split_first()?;
    *input = rest;
    let most = (1usize << bits) - 1;
    let mut value = usize::from(*first) & most;
    if value < most {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Reads a string of at most `max` bytes; a Huffman-coded one is decoded into `scratch`.
#[inline]
fn read_string<'a>(
    input: &mut &'a [u8],
    max: usize,
    scratch: &mut Vec<u8>,
) -> Result<Place<'a>, HpackError> {
    let is_coded = input.first().is_some_and(|first| first & 0x80 != 0);
    let len = read_integer(input, 7).ok_or(HpackError::Malformed)?;
    let (bytes, rest) = input.split_at_checked(len).ok_or(HpackError::Malformed)?;
    *input = rest;
    // The shortest code has five bits.
    if len > max || is_coded && len / 4 > max {
        return Err(HpackError::TooLarge);
    }
    if !is_coded {
        return Ok(Place::Block(bytes));
    }
    huffman::decode(bytes, bytes.len() * 2, scratch).ok_or(HpackError::Malformed)?;
    Ok(Place::Scratch)
}

/// Appends an integer with a prefix of `bits` bits, beneath the bits of `kind`.
pub(super) fn put_integer(kind: u8, bits: u32, value: usize, out: &mut Vec<u8>) {
    let most = (1usize << bits) - 1;
    if value < most {
        return out.push(kind | value as u8);
    }
    out.push(kind | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends a string, not Huffman-coded: that would save a few bytes of what varies, as what does not is
/// sent once.
pub(crate) fn put_string(bytes: &[u8], out: &mut Vec<u8>) {
    put_integer(0, 7, bytes.len(), out);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Fields = Vec<(String, String)>;

    fn decoded(decoder: &mut Decoder, block: &[u8], max: usize) -> Result<Fields, HpackError> {
        let mut fields = Fields::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        decoder.decode(block, max, &mut |name, value| fields.push((text(name), text(value))))?;
        Ok(fields)
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        digits.chunks(2).map(|two| pair(two).unwrap()).collect()
    }

    /// RFC 7541, C.6: three responses with Huffman codes, and a table of 256 bytes.
    #[test]
    fn responses_of_the_specification() {
        let mut decoder = Decoder::default();
        decoder.table.resize(256);
        let mut check = |hex: &str, expected: &[(&str, &str)]| {
            let expected: Fields = expected
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect();
            assert_eq!(decoded(&mut decoder, &bytes(hex), 1000), Ok(expected));
        };
        let date = "Mon, 21 Oct 2013 20:13:21 GMT";
        let location = ("location", "https://www.example.com");
        check(
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            &[(":status", "302"), ("cache-control", "private"), ("date", date), location],
        );
        check(
            "4883 640e ffc1 c0bf",
            &[(":status", "307"), ("cache-control", "private"), ("date", date), location],
        );
        check(
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
            &[
                (":status", "200"),
                ("cache-control", "private"),
                ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
                location,
                ("content-encoding", "gzip"),
                ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
            ],
        );
        assert_eq!(decoder.table.get(65), None, "three entries are left");
    }

    #[test]
    fn malformed_and_oversized_blocks() {
        use HpackError::*;
        let check = |hex: &str, error| {
            let mut decoder = Decoder::default();
            assert_eq!(decoded(&mut decoder, &bytes(hex), 100), Err(error), "{hex}");
        };
        check("80", Malformed); // index zero
        check("be", Malformed); // an empty dynamic table
        check("ff", Malformed); // an incomplete integer
        check("ff ff ff ff ff ff 7f", Malformed); // an endless integer
        check("00 01", Malformed); // an incomplete name
        check("00 01 61 05 62", Malformed); // an incomplete value
        check("00 81 ff 00", Malformed); // padding of eight bits
        check("3f e2 1f", Malformed); // a table of 4,097 bytes
        check("88 20", Malformed); // a size update after a field
        check("0f 80 80 01", Malformed); // a name of no entry
        // A bomb: a long entry, and many references to it.
        check(&format!("40 01 61 40 {} {}", "62".repeat(64), "be".repeat(9)), TooLarge);
        check(&format!("00 01 61 7f 01 {}", "62".repeat(128)), TooLarge);
        let mut decoder = Decoder::default();
        assert_eq!(decoded(&mut decoder, &bytes("20 3f e1 1f"), 100), Ok(vec![]), "two updates");
    }

    #[test]
    fn entries_that_name_a_new_one_may_be_evicted_by_it() {
        let mut decoder = Decoder::default();
        let big = format!("40 01 61 7f a1 1e {}", "62".repeat(4000));
        assert_eq!(decoded(&mut decoder, &bytes(&big), 5000).unwrap()[0].1.len(), 4000);
        let next = format!("7e 7f a1 1e {}", "63".repeat(4000));
        let fields = decoded(&mut decoder, &bytes(&next), 5000).unwrap();
        assert_eq!((fields[0].0.as_str(), fields[0].1.len()), ("a", 4000));
        assert_eq!(decoded(&mut decoder, &bytes("be"), 5000).unwrap(), fields);
        assert_eq!(decoded(&mut decoder, &bytes("bf"), 5000), Err(HpackError::Malformed));
    }

    /// A reference that keeps its entries in the plainest way.
    #[derive(Default)]
    struct Plain(Vec<(Vec<u8>, Vec<u8>)>);

    proptest! {
        #[test]
        fn a_table_has_the_newest_entries_that_fit(
            lens in proptest::collection::vec((0..60usize, 0..2000usize), 0..60),
            max in 0..TABLE_MAX,
        ) {
            let (mut table, mut plain) = (Table::new(max), Plain::default());
            for (number, (name, value)) in lens.into_iter().enumerate() {
                let (name, value) = (vec![number as u8; name], vec![!number as u8; value]);
                table.insert(&name, &value);
                let fits = name.len() + value.len() + 32 <= max;
                plain.0.insert(0, (name, value));
                let mut size = 0;
                let most = plain.0.iter().take_while(|(name, value)| {
                    size += name.len() + value.len() + 32;
                    size <= max
                });
                let most = if fits { most.count() } else { 0 };
                plain.0.truncate(most);
                for (at, (name, value)) in plain.0.iter().enumerate() {
                    prop_assert_eq!(table.get(62 + at), Some((&name[..], &value[..])));
                }
                prop_assert_eq!(table.get(62 + plain.0.len()), None);
            }
        }

        #[test]
        fn integers_are_read_as_written(value in 0..1usize << 28, bits in 4..8u32) {
            let mut out = Vec::new();
            put_integer(0, bits, value, &mut out);
            let mut input = &out[..];
            prop_assert_eq!(read_integer(&mut input, bits), Some(value));
            prop_assert!(input.is_empty());
        }
    }
}
