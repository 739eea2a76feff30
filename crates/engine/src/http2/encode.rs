//! Encodes the heads of requests (HPACK, RFC 7541).
//!
//! Fields that are the same in every request are sent once per connection and referred to afterwards:
//! they are added to the peer's dynamic table until it is full, and nothing is ever evicted from it. So
//! the encoded form of a request's constant fields stays the same, and is kept.

use super::hpack::{TABLE_MAX, put_integer, put_string};
use super::table::{OVERHEAD, STATIC};
use plimsoll_plan::{Template, Values};

/// The fields of a request's head, with lower-case names.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    constant: Vec<Constant>,
    /// How many of them are pseudo-header fields, which come first.
    pseudo: usize,
    /// Fields that differ between requests: first pseudo-header fields, then others.
    drawn_pseudo: Vec<Drawn>,
    drawn: Vec<Drawn>,
}

#[derive(Debug)]
struct Constant {
    name: Box<str>,
    value: Box<[u8]>,
}

#[derive(Debug)]
struct Drawn {
    name: Box<str>,
    /// The field up to its value: a literal that is not added to the table.
    start: Vec<u8>,
    value: Template,
}

impl Fields {
    /// Adds a field. Pseudo-header fields, whose names begin with a colon, come before others.
    pub(crate) fn add(&mut self, name: &str, value: Template) {
        let name = name.to_ascii_lowercase();
        let is_pseudo = name.starts_with(':');
        if let Some(value) = value.as_plain() {
            self.pseudo += usize::from(is_pseudo);
            let value = value.trim_ascii().into();
            return self.constant.push(Constant { name: name.into(), value });
        }
        let start = literal_start(&name);
        let drawn = Drawn { name: name.into(), start, value };
        if is_pseudo { &mut self.drawn_pseudo } else { &mut self.drawn }.push(drawn);
    }

    /// All fields of one request, for people to read: a line for each.
    pub(crate) fn lines(&self, values: Values, out: &mut Vec<u8>) {
        let (pseudo, others) = self.constant.split_at(self.pseudo);
        let mut line = |name: &str, value: &dyn Fn(&mut Vec<u8>)| {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            value(out);
            out.extend_from_slice(b"\r\n");
        };
        for (constant, drawn) in [(pseudo, &self.drawn_pseudo), (others, &self.drawn)] {
            for own in constant {
                line(&own.name, &|out| out.extend_from_slice(&own.value));
            }
            for own in drawn {
                line(&own.name, &|out| own.value.render(values, out));
            }
        }
    }
}

/// The start of a literal field that is not added to the table (RFC 7541 §6.2.2).
fn literal_start(name: &str) -> Vec<u8> {
    let mut start = Vec::new();
    match STATIC.iter().position(|(known, _)| *known == name) {
        Some(at) => put_integer(0, 4, at + 1, &mut start),
        None => {
            start.push(0);
            put_string(name.as_bytes(), &mut start);
        }
    }
    start
}

/// The number of requests whose encoded constant fields a connection keeps.
const KEPT: usize = 16;

/// The encoder of one connection.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// What is in the peer's dynamic table, the oldest first.
    table: Vec<(Box<str>, Box<[u8]>)>,
    size: usize,
    size_max: usize,
    /// Whether the next block must tell the peer the size of the table.
    resized: bool,
    kept: [Kept; KEPT],
}

/// The encoded constant fields of a request.
#[derive(Debug, Default)]
struct Kept {
    /// The number of the request plus one; zero: none.
    request: u64,
    /// The length of the table for which they are encoded.
    table: usize,
    bytes: Vec<u8>,
    /// How many of the bytes are pseudo-header fields.
    pseudo: usize,
}

impl Default for Encoder {
    fn default() -> Encoder {
        let (table, kept) = (Vec::new(), Default::default());
        Encoder { table, size: 0, size_max: TABLE_MAX, resized: false, kept }
    }
}

impl Encoder {
    /// Limits the table to what the peer allows.
    pub(crate) fn limit_table(&mut self, allowed: usize) {
        let size_max = allowed.min(TABLE_MAX);
        if size_max != self.size_max {
            (self.size, self.size_max, self.resized) = (0, size_max, true);
            self.table.clear();
            self.kept.iter_mut().for_each(|kept| kept.request = 0);
        }
    }

    /// Appends the block of a request to `out`. `number` identifies requests of a plan with the same
    /// fields; `None`: it is not of the plan. `len`: the length of the body, if it is stated.
    pub(crate) fn encode(
        &mut self,
        (number, fields): (Option<u32>, &Fields),
        values: Values,
        len: Option<usize>,
        (out, scratch): (&mut Vec<u8>, &mut Vec<u8>),
    ) {
        if std::mem::take(&mut self.resized) {
            put_integer(0x20, 5, 0, out);
            put_integer(0x20, 5, self.size_max, out);
        }
        let place = number.unwrap_or(0) as usize % KEPT;
        let request = number.map_or(0, |number| u64::from(number) + 1);
        let kept = &self.kept[place];
        if request == 0 || kept.request != request || kept.table != self.table.len() {
            self.keep(place, request, fields);
        }
        let kept = &self.kept[place];
        let (pseudo, others) = kept.bytes.split_at(kept.pseudo);
        for (constant, drawn) in [(pseudo, &fields.drawn_pseudo), (others, &fields.drawn)] {
            out.extend_from_slice(constant);
            for field in drawn {
                out.extend_from_slice(&field.start);
                scratch.clear();
                field.value.render(values, scratch);
                put_string(scratch.trim_ascii(), out);
            }
        }
        if let Some(len) = len {
            put_length(len, out);
        }
    }

    /// Encodes the constant fields of a request. Fields are added to the table as they are sent, so what is
    /// kept is of use only if none was.
    fn keep(&mut self, place: usize, request: u64, fields: &Fields) {
        let mut kept = std::mem::take(&mut self.kept[place]);
        kept.bytes.clear();
        let (pseudo, others) = fields.constant.split_at(fields.pseudo);
        kept.table = self.table.len();
        pseudo.iter().for_each(|field| self.put(field, &mut kept.bytes));
        kept.pseudo = kept.bytes.len();
        others.iter().for_each(|field| self.put(field, &mut kept.bytes));
        kept.request = if kept.table == self.table.len() { request } else { 0 };
        self.kept[place] = kept;
    }

    fn put(&mut self, field: &Constant, out: &mut Vec<u8>) {
        let (name, value) = (&*field.name, &*field.value);
        let is_own = |(own, its): &(&str, &str)| *own == name && its.as_bytes() == value;
        if let Some(at) = STATIC.iter().position(is_own) {
            return put_integer(0x80, 7, at + 1, out);
        }
        let known =
            self.table.iter().rev().position(|(own, its)| **own == *name && **its == *value);
        if let Some(at) = known {
            return put_integer(0x80, 7, STATIC.len() + 1 + at, out);
        }
        let size = name.len() + value.len() + OVERHEAD;
        if self.size + size > self.size_max {
            out.extend_from_slice(&literal_start(name));
            return put_string(value, out);
        }
        match STATIC.iter().position(|(own, _)| *own == name) {
            Some(at) => put_integer(0x40, 6, at + 1, out),
            None => {
                out.push(0x40);
                put_string(name.as_bytes(), out);
            }
        }
        put_string(value, out);
        self.size += size;
        self.table.push((name.into(), value.into()));
    }
}

/// Appends a `content-length` field.
fn put_length(len: usize, out: &mut Vec<u8>) {
    const CONTENT_LENGTH: usize = 28;
    put_integer(0, 4, CONTENT_LENGTH, out);
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = len;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    put_string(&digits[at..], out);
}

#[cfg(test)]
mod tests {
    use super::super::hpack::Decoder;
    use super::*;
    use plimsoll_measure::rng::Key;
    use proptest::prelude::*;

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut visit = |name: &[u8], value: &[u8]| fields.push((text(name), text(value)));
        decoder.decode(block, 1 << 20, &mut visit).unwrap();
        fields
    }

    fn encoded(encoder: &mut Encoder, number: Option<u32>, fields: &Fields, len: usize) -> Vec<u8> {
        let values = Values { seq: 0, key: Key::new(0) };
        let mut out = Vec::new();
        encoder.encode((number, fields), values, Some(len), (&mut out, &mut Vec::new()));
        out
    }

    fn fields(pairs: &[(String, String)]) -> Fields {
        let mut fields = Fields::default();
        pairs.iter().for_each(|(name, value)| fields.add(name, Template::plain(value.clone())));
        fields
    }

    #[test]
    fn what_is_constant_is_sent_once() {
        let own = |pairs: &[(&str, &str)]| {
            fields(&pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect::<Vec<_>>())
        };
        let one = own(&[(":method", "POST"), (":scheme", "http"), (":path", "/a"), ("X-Api", "k")]);
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let first = encoded(&mut encoder, Some(0), &one, 10);
        let all = decoded(&mut decoder, &first);
        assert_eq!(all[3], ("x-api".into(), "k".into()));
        assert_eq!(all[4], ("content-length".into(), "10".into()));
        for _ in 0..3 {
            let next = encoded(&mut encoder, Some(0), &one, 10);
            assert_eq!((next.len(), decoded(&mut decoder, &next)), (9, all.clone()));
        }
        encoder.limit_table(0);
        let next = encoded(&mut encoder, Some(0), &one, 10);
        assert_eq!(decoded(&mut decoder, &next), all, "the table is empty");
        assert_eq!(decoder.version(), 2 + 2, "two entries, two sizes");
        assert_eq!(encoded(&mut encoder, Some(0), &one, 10).len() + 2, next.len());
    }

    proptest! {
        /// Whatever is sent in whatever order, the peer reads the same fields.
        #[test]
        fn the_peer_reads_what_was_sent(
            requests in proptest::collection::vec(
                proptest::collection::vec(("[a-z-]{1,12}", "[!-~]{0,300}"), 0..8), 1..40),
            turns in proptest::collection::vec((0..40usize, proptest::option::of(0..5000usize)), 0..100),
        ) {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            let compiled: Vec<Fields> = requests.iter().map(|own| fields(own)).collect();
            for (at, table) in turns {
                if let Some(table) = table {
                    encoder.limit_table(table);
                }
                let at = at % requests.len();
                let number = (at % 7 > 0).then_some(at as u32);
                let block = encoded(&mut encoder, number, &compiled[at], at);
                let mut expected = requests[at].clone();
                expected.push(("content-length".into(), at.to_string()));
                prop_assert_eq!(decoded(&mut decoder, &block), expected);
            }
        }
    }
}
