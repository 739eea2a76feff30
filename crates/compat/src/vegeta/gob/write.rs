//! Writes [`Hit`]s as a gob stream: the bytes that vegeta 12 writes, with headers sorted by name.

use crate::vegeta::Hit;

/// The definitions of vegeta's types, which precede the first result. In Go's notation:
/// 64 is `Result`, 65 `Time`, 66 `[]string`, 67 `Header`.
const DEFINITIONS: &[u8] = b"\
    \xff\x96\x7f\x03\x01\x01\x06Result\x01\xff\x80\x00\x01\x0c\
    \x01\x06Attack\x01\x0c\x00\x01\x03Seq\x01\x06\x00\x01\x04Code\x01\x06\x00\
    \x01\x09Timestamp\x01\xff\x82\x00\x01\x07Latency\x01\x04\x00\
    \x01\x08BytesOut\x01\x06\x00\x01\x07BytesIn\x01\x06\x00\x01\x05Error\x01\x0c\x00\
    \x01\x04Body\x01\x0a\x00\x01\x06Method\x01\x0c\x00\x01\x03URL\x01\x0c\x00\
    \x01\x07Headers\x01\xff\x86\x00\x00\x00\
    \x10\xff\x81\x05\x01\x01\x04Time\x01\xff\x82\x00\x00\x00\
    \x17\xff\x85\x04\x01\x01\x06Header\x01\xff\x86\x00\x01\x0c\x01\xff\x84\x00\x00\
    \x0c\xff\x83\x02\x01\x02\xff\x84\x00\x01\x0c\x00\x00";

/// The id of `Result`.
const RESULT: i64 = 64;

/// Writes one gob stream.
#[derive(Debug, Default)]
pub struct GobEncoder {
    started: bool,
    /// The message being built; its length comes first.
    message: Vec<u8>,
}

impl GobEncoder {
    /// Appends a result, preceded by the definitions if it is the first.
    pub fn write(&mut self, hit: &Hit, out: &mut Vec<u8>) {
        if !self.started {
            out.extend_from_slice(DEFINITIONS);
            self.started = true;
        }
        let message = &mut self.message;
        message.clear();
        int(RESULT, message);
        let mut fields = Fields { message, before: -1 };
        fields.bytes(0, &hit.attack);
        fields.uint(1, hit.seq);
        fields.uint(2, hit.code.into());
        if !hit.timestamp.is_zero() {
            let message = fields.start(3);
            let length_at = message.len();
            message.push(0);
            hit.timestamp.write_binary(message);
            message[length_at] = (message.len() - length_at - 1) as u8;
        }
        if hit.latency.0 != 0 {
            int(hit.latency.0, fields.start(4));
        }
        fields.uint(5, hit.bytes_out);
        fields.uint(6, hit.bytes_in);
        fields.bytes(7, &hit.error);
        fields.bytes(8, hit.body.as_deref().unwrap_or_default());
        fields.bytes(9, &hit.method);
        fields.bytes(10, &hit.url);
        if let Some(headers) = &hit.headers {
            let message = fields.start(11);
            let headers = headers.sorted();
            uint(headers.len() as u64, message);
            for (name, values) in headers {
                bytes(name, message);
                uint(values.len() as u64, message);
                values.iter().for_each(|value| bytes(value, message));
            }
        }
        message.push(0);
        uint(message.len() as u64, out);
        out.extend_from_slice(message);
    }
}

/// The fields of a struct; those that are zero are left out.
struct Fields<'a> {
    message: &'a mut Vec<u8>,
    /// The number of the last field.
    before: i64,
}

impl Fields<'_> {
    /// Starts a field.
    fn start(&mut self, number: i64) -> &mut Vec<u8> {
        uint((number - self.before) as u64, self.message);
        self.before = number;
        self.message
    }

    fn uint(&mut self, number: i64, value: u64) {
        if value != 0 {
            uint(value, self.start(number));
        }
    }

    fn bytes(&mut self, number: i64, value: &[u8]) {
        if !value.is_empty() {
            bytes(value, self.start(number));
        }
    }
}

fn bytes(value: &[u8], out: &mut Vec<u8>) {
    uint(value.len() as u64, out);
    out.extend_from_slice(value);
}

fn uint(value: u64, out: &mut Vec<u8>) {
    if value < 0x80 {
        out.push(value as u8);
        return;
    }
    let bytes = value.to_be_bytes();
    let bytes = &bytes[value.leading_zeros() as usize / 8..];
    out.push((bytes.len() as u8).wrapping_neg());
    out.extend_from_slice(bytes);
}

fn int(value: i64, out: &mut Vec<u8>) {
    let magnitude = (value << 1) as u64;
    uint(if value < 0 { !magnitude } else { magnitude }, out);
}
