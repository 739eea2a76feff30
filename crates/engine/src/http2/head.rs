//! The head of a response, and what makes one malformed (RFC 9113 §8.1.1).

use super::hpack::{Decoder, HpackError};
use plimsoll_measure::{Fault, SplitValue};

/// Maximum size of a head: encoded, and of all its fields.
pub(crate) const HEAD_MAX: usize = crate::http1::HEAD_MAX;

/// The parts of a response head that the engine needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// HTTP status, 100 to 999; zero for trailers.
    pub(crate) status: u16,
    /// The stated length of the body.
    pub(crate) length: Option<u64>,
    /// Whether the body is gzipped.
    pub(crate) gzip: bool,
    pub(crate) location: Option<Box<[u8]>>,
    /// The value of the header to extract.
    pub(crate) split: Option<SplitValue>,
    /// The head in the form of HTTP/1, if it is kept.
    pub(crate) bytes: Vec<u8>,
}

/// What a head is needed for, besides status and length.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// The header whose value is extracted.
    pub(crate) split_by: Option<&'a str>,
    /// Whether its bytes are kept.
    pub(crate) keep: bool,
}

/// A decoder of heads that remembers the last ones: those of a target are mostly the same.
#[derive(Debug, Default)]
pub(crate) struct HeadDecoder {
    hpack: Decoder,
    known: [Known; 4],
}

/// A block that did not change the table, and what it says.
#[derive(Debug, Default)]
struct Known {
    version: u64,
    block: Vec<u8>,
    status: u16,
    length: Option<u64>,
    gzip: bool,
}

/// Longer blocks are not remembered.
const KNOWN_MAX: usize = 512;

impl HeadDecoder {
    /// Decodes a head. The inner error is that of a head that is malformed, but can be decoded.
    ///
    /// # Errors
    /// If the connection can no longer be used.
    #[inline]
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        wanted: Wanted<'_>,
    ) -> Result<Result<Head, Fault>, HpackError> {
        let version = self.hpack.version();
        let known = &self.known[block.len() % self.known.len()];
        if known.version == version
            && known.block == block
            && !block.is_empty()
            && wanted.split_by.is_none()
            && !wanted.keep
        {
            let Known { status, length, gzip, .. } = *known;
            return Ok(Ok(Head { status, length, gzip, ..Head::default() }));
        }
        let mut reader = HeadReader { wanted, ..HeadReader::default() };
        self.hpack.decode(block, HEAD_MAX, &mut |name, value| reader.add(name, value))?;
        let head = reader.finish();
        if let Ok(head) = &head
            && self.hpack.version() == version
            && block.len() <= KNOWN_MAX
            && head.location.is_none()
        {
            let known = &mut self.known[block.len() % 4];
            (known.version, known.status) = (version, head.status);
            (known.length, known.gzip) = (head.length, head.gzip);
            known.block.clear();
            known.block.extend_from_slice(block);
        }
        Ok(head)
    }
}

/// Reads the fields of a head.
#[derive(Default)]
struct HeadReader<'a> {
    wanted: Wanted<'a>,
    head: Head,
    /// Whether there was a field other than a pseudo-header field.
    is_past_pseudo: bool,
    fault: Option<Fault>,
}

impl HeadReader<'_> {
    fn add(&mut self, name: &[u8], value: &[u8]) {
        if let Err(fault) = self.field(name, value) {
            self.fault.get_or_insert(fault);
        }
    }

    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        if name == b":status" {
            let digits = <[u8; 3]>::try_from(value).map_err(|_| Fault::BadHeader)?;
            let is_valid = digits.iter().all(u8::is_ascii_digit) && digits[0] > b'0';
            if !is_valid || self.is_past_pseudo || self.head.status > 0 {
                return Err(Fault::BadHeader);
            }
            self.head.status = digits.iter().fold(0, |n, digit| n * 10 + u16::from(digit - b'0'));
            if self.wanted.keep {
                self.head.bytes.extend_from_slice(b"HTTP/2 ");
                self.head.bytes.extend_from_slice(value);
                self.head.bytes.extend_from_slice(b"\r\n");
            }
            return Ok(());
        }
        self.is_past_pseudo = true;
        let is_token = |byte: &u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
        let is_valid = !name.is_empty() && name.iter().all(is_token) && !name.contains(&b':');
        if !is_valid || value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')) {
            return Err(Fault::BadHeader);
        }
        if self.wanted.keep {
            for part in [name, b": ", value, b"\r\n"] {
                self.head.bytes.extend_from_slice(part);
            }
        }
        if let Some(split) = self.wanted.split_by
            && self.head.split.is_none()
            && name.eq_ignore_ascii_case(split.as_bytes())
        {
            self.head.split = Some(SplitValue::of(value));
        }
        match name {
            b"content-length" => {
                let length = crate::http1::parse_length(value).ok_or(Fault::BadLength)?;
                if self.head.length.replace(length).is_some_and(|before| before != length) {
                    return Err(Fault::TwoLengths);
                }
            }
            b"content-encoding" => {
                self.head.gzip =
                    value.eq_ignore_ascii_case(b"gzip") || value.eq_ignore_ascii_case(b"x-gzip");
            }
            b"location" => self.head.location = Some(value.into()),
            // Of HTTP/1 connections only.
            b"connection" | b"transfer-encoding" | b"keep-alive" | b"proxy-connection"
            | b"upgrade" => return Err(Fault::BadHeader),
            _ => {}
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Head, Fault> {
        if self.wanted.keep {
            self.head.bytes.extend_from_slice(b"\r\n");
        }
        self.fault.map_or(Ok(self.head), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::super::hpack::put_string;
    use super::*;

    /// A block of literals.
    fn block(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in fields {
            out.push(0);
            put_string(name.as_bytes(), &mut out);
            put_string(value.as_bytes(), &mut out);
        }
        out
    }

    #[test]
    fn heads_are_valid_or_malformed() {
        let check = |fields: &[(&str, &str)], expected: Result<u16, Fault>| {
            let mut decoder = HeadDecoder::default();
            for turn in 0..3 {
                let wanted = Wanted { split_by: None, keep: turn == 2 };
                let head = decoder.decode(&block(fields), wanted).unwrap();
                assert_eq!(head.map(|head| head.status), expected, "{fields:?}, turn {turn}");
            }
        };
        let ok = (":status", "200");
        check(&[ok], Ok(200));
        check(&[ok, ("content-length", "3"), ("content-length", "3")], Ok(200));
        check(&[("grpc-status", "0")], Ok(0)); // trailers
        check(&[ok, ok], Err(Fault::BadHeader));
        check(&[(":status", "20")], Err(Fault::BadHeader));
        check(&[(":status", "+20")], Err(Fault::BadHeader));
        check(&[(":status", "099")], Err(Fault::BadHeader));
        check(&[("a", "b"), ok], Err(Fault::BadHeader)); // after a regular field
        check(&[ok, (":path", "/")], Err(Fault::BadHeader)); // of requests
        check(&[ok, ("Server", "x")], Err(Fault::BadHeader)); // upper case
        check(&[ok, ("", "x")], Err(Fault::BadHeader));
        check(&[ok, ("a b", "x")], Err(Fault::BadHeader));
        check(&[ok, ("a", "x\r\ny: z")], Err(Fault::BadHeader));
        check(&[ok, ("connection", "close")], Err(Fault::BadHeader));
        check(&[ok, ("transfer-encoding", "chunked")], Err(Fault::BadHeader));
        check(&[ok, ("content-length", "-1")], Err(Fault::BadLength));
        check(&[ok, ("content-length", "3"), ("content-length", "4")], Err(Fault::TwoLengths));
    }

    #[test]
    fn what_is_wanted_is_extracted_although_the_block_is_known() {
        let mut decoder = HeadDecoder::default();
        let fields = [(":status", "302"), ("x-node", "a"), ("content-encoding", "gzip")];
        let block = block(&fields);
        let plain = decoder.decode(&block, Wanted::default()).unwrap().unwrap();
        assert_eq!((plain.status, plain.gzip, plain.split), (302, true, None));
        let wanted = Wanted { split_by: Some("X-Node"), keep: true };
        let full = decoder.decode(&block, wanted).unwrap().unwrap();
        assert_eq!(full.split, Some(SplitValue::of(b"a")));
        assert_eq!(full.bytes, b"HTTP/2 302\r\nx-node: a\r\ncontent-encoding: gzip\r\n\r\n");
        assert_eq!(decoder.decode(&block, Wanted::default()).unwrap(), Ok(plain));
    }
}
