//! Writes JSON directly into the buffer of the response.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// A JSON object being written; [`Object::close`] ends it.
pub(crate) struct Object<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl<'o> Object<'o> {
    pub(crate) fn open(out: &'o mut Vec<u8>) -> Object<'o> {
        out.push(b'{');
        Object { out, empty: true }
    }

    /// Starts a member; write its value to the returned buffer.
    pub(crate) fn member(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    pub(crate) fn raw(&mut self, name: &str, json: &str) -> &mut Self {
        self.member(name).extend_from_slice(json.as_bytes());
        self
    }

    pub(crate) fn number(&mut self, name: &str, number: impl Into<u128>) -> &mut Self {
        quantity(self.member(name), number.into());
        self
    }

    pub(crate) fn bytes(&mut self, name: &str, bytes: &[u8]) -> &mut Self {
        data(self.member(name), bytes);
        self
    }

    pub(crate) fn maybe_bytes<const N: usize>(
        &mut self,
        name: &str,
        bytes: Option<&[u8; N]>,
    ) -> &mut Self {
        match bytes {
            Some(bytes) => self.bytes(name, bytes),
            None => self.raw(name, "null"),
        }
    }

    pub(crate) fn close(&mut self) {
        self.out.push(b'}');
    }
}

/// Writes an array, with `write` for each item.
pub(crate) fn array<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// Writes a number as nodes do: hexadecimal without leading zeros.
pub(crate) fn quantity(out: &mut Vec<u8>, number: u128) {
    out.extend_from_slice(b"\"0x");
    let digits = (128 - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        out.push(DIGITS[(number >> (place * 4) & 0xf) as usize]);
    }
    out.push(b'"');
}

/// Writes bytes as nodes do: hexadecimal, two digits each.
pub(crate) fn data(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len() * 2 + 4);
    out.extend_from_slice(b"\"0x");
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 0xf)]);
    }
    out.push(b'"');
}

/// Writes a 256-bit number, given most significant byte first.
pub(crate) fn wide_quantity(out: &mut Vec<u8>, number: &[u8; 32]) {
    let start = out.len();
    data(out, number);
    let zeros = out[start + 3..].iter().take_while(|digit| **digit == b'0').count().min(63);
    out.drain(start + 3..start + 3 + zeros);
}

/// Writes an escaped string.
pub(crate) fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            0..0x20 => {
                out.extend_from_slice(b"\\u00");
                out.push(DIGITS[usize::from(byte >> 4)]);
                out.push(DIGITS[usize::from(byte & 0xf)]);
            }
            byte => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn values_are_written() {
        let check = |number: u128, json: &str| {
            assert_eq!(written(|out| quantity(out, number)), json);
        };
        check(0, "\"0x0\"");
        check(0x10, "\"0x10\"");
        check(u128::MAX, "\"0xffffffffffffffffffffffffffffffff\"");
        assert_eq!(written(|out| data(out, &[0, 0xab])), "\"0x00ab\"");
        let mut wide = [0; 32];
        assert_eq!(written(|out| wide_quantity(out, &wide)), "\"0x0\"");
        wide[30] = 0x12;
        assert_eq!(written(|out| wide_quantity(out, &wide)), "\"0x1200\"");
        assert_eq!(written(|out| text(out, "a\"\\\n\u{1}é")), "\"a\\\"\\\\\\n\\u0001é\"");
        let object = written(|out| {
            let mut object = Object::open(out);
            object.number("a", 1u64).raw("b", "null");
            array(object.member("c"), [1u128, 2], quantity);
            object.close();
        });
        assert_eq!(object, r#"{"a":"0x1","b":null,"c":["0x1","0x2"]}"#);
    }
}
