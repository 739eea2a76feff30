//! OTLP's messages in the binary encoding of Protocol Buffers, as far as traces need them.
//!
//! Field numbers are those of `opentelemetry/proto` (trace/v1, common/v1, resource/v1,
//! collector/trace/v1), version 1. The messages are few and flat, so that an encoder of our own is
//! shorter than what a library would need; `tests/clients/otlp_receiver.py` checks it with the official
//! schema. The binary encoding is the one that every receiver must support.

/// The version of the semantic conventions that attributes follow.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.44.0";

/// Kinds of encoding that fields have.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// Appends a number in groups of seven bits, the lowest first.
fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn varint_len(number: u64) -> usize {
    (u64::BITS - (number | 1).leading_zeros()).div_ceil(7) as usize
}

/// Appends a field's number and kind; numbers are below 32.
fn tag(field: u8, kind: u8, out: &mut Vec<u8>) {
    varint(u64::from(field) << 3 | u64::from(kind), out);
}

/// Appends a number.
pub(super) fn number(field: u8, value: u64, out: &mut Vec<u8>) {
    tag(field, VARINT, out);
    varint(value, out);
}

/// Appends a number in eight bytes.
pub(super) fn fixed64(field: u8, value: u64, out: &mut Vec<u8>) {
    tag(field, FIXED64, out);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a number in four bytes.
pub(super) fn fixed32(field: u8, value: u32, out: &mut Vec<u8>) {
    tag(field, FIXED32, out);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends bytes, a text or a message.
pub(super) fn bytes(field: u8, value: &[u8], out: &mut Vec<u8>) {
    tag(field, BYTES, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// Appends an attribute with a text.
pub(super) fn text_attribute(field: u8, key: &str, value: &str, out: &mut Vec<u8>) {
    let inner = 1 + varint_len(value.len() as u64) + value.len();
    attribute(field, key, inner, out);
    bytes(1, value.as_bytes(), out);
}

/// Appends an attribute with a number.
pub(super) fn number_attribute(field: u8, key: &str, value: i64, out: &mut Vec<u8>) {
    attribute(field, key, 1 + varint_len(value as u64), out);
    number(3, value as u64, out);
}

/// Appends an attribute up to its value, whose encoding has `inner` bytes.
fn attribute(field: u8, key: &str, inner: usize, out: &mut Vec<u8>) {
    let of_key = 1 + varint_len(key.len() as u64) + key.len();
    let of_value = 1 + varint_len(inner as u64) + inner;
    tag(field, BYTES, out);
    varint((of_key + of_value) as u64, out);
    bytes(1, key.as_bytes(), out);
    tag(2, BYTES, out);
    varint(inner as u64, out);
}

/// What a request says about the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resource<'a> {
    pub(crate) service: &'a str,
    pub(crate) instance: &'a str,
}

/// A request with encoded spans.
pub(crate) fn request(resource: Resource<'_>, spans: &[Vec<u8>]) -> Vec<u8> {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let mut described = Vec::new();
    text_attribute(1, "service.name", resource.service, &mut described);
    text_attribute(1, "service.instance.id", resource.instance, &mut described);
    text_attribute(1, "service.version", VERSION, &mut described);
    let mut scope = Vec::new();
    bytes(1, b"plimsoll", &mut scope);
    bytes(2, VERSION.as_bytes(), &mut scope);
    let length: usize = spans.iter().map(|span| span.len() + 8).sum();
    let mut of_scope = Vec::with_capacity(length + 256);
    bytes(1, &scope, &mut of_scope);
    for span in spans {
        bytes(2, span, &mut of_scope);
    }
    bytes(3, SCHEMA.as_bytes(), &mut of_scope);
    let mut of_resource = Vec::with_capacity(of_scope.len() + described.len() + 128);
    bytes(1, &described, &mut of_resource);
    bytes(2, &of_scope, &mut of_resource);
    bytes(3, SCHEMA.as_bytes(), &mut of_resource);
    let mut out = Vec::with_capacity(of_resource.len() + 16);
    bytes(1, &of_resource, &mut out);
    out
}

/// How many spans a response says were rejected; 0 if it cannot be read.
pub(crate) fn rejected(response: &[u8]) -> u64 {
    let partial = Fields(response).find_map(|(field, value)| match (field, value) {
        (1, Value::Bytes(partial)) => Some(partial),
        _ => None,
    });
    let count =
        Fields(partial.unwrap_or_default()).find_map(|(field, value)| match (field, value) {
            (1, Value::Number(count)) => i64::try_from(count).ok(),
            _ => None,
        });
    count.unwrap_or(0) as u64
}

/// The value of a field.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, up to the first that cannot be read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Value<'a>);

    fn next(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let length = match (tag & 7) as u8 {
            VARINT => return Some((tag >> 3, Value::Number(self.varint()?))),
            FIXED64 => 8,
            FIXED32 => 4,
            BYTES => usize::try_from(self.varint()?).ok()?,
            _ => return None,
        };
        let (value, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some((tag >> 3, Value::Bytes(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_length_that_is_announced() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            varint(number, &mut out);
            assert_eq!(out.len(), varint_len(number), "{number}");
            assert_eq!(Fields(&out).varint(), Some(number));
        }
    }

    #[test]
    fn attributes_are_messages_of_a_key_and_a_value() {
        let mut out = Vec::new();
        text_attribute(9, "a", "bc", &mut out);
        assert_eq!(out, b"\x4a\x09\x0a\x01a\x12\x04\x0a\x02bc");
        out.clear();
        number_attribute(9, "a", -1, &mut out);
        assert_eq!(out, b"\x4a\x10\x0a\x01a\x12\x0b\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");
    }

    #[test]
    fn rejected_spans_are_read_from_any_response() {
        let check = |response: &[u8], expected: u64| assert_eq!(rejected(response), expected);
        check(b"", 0);
        check(b"\x0a\x00", 0);
        check(b"\x0a\x02\x08\x05", 5);
        check(b"\x0a\x06\x12\x01x\x08\x96\x01", 150);
        // Fields that we do not know, and what is no message.
        check(b"\x15abcd\x19abcdefgh\x20\x01\x0a\x02\x08\x05", 5);
        check(b"\x0a\x7f\x08\x05", 0);
        check(b"{\"partialSuccess\":{}}", 0);
        check(b"\x0a\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 0);
        check(&[0xff; 40], 0);
    }
}
