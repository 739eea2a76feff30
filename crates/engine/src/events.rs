//! Event streams (Server-Sent Events, HTML Living Standard §9.2.6), without I/O.
//!
//! A stream is lines; a blank line ends an event. Lines end with LF, CR LF or CR. Of the fields, `data` and `id`
//! are kept, and `retry` is reported; `event` does not matter to what is measured. A line that
//! begins with a colon is a comment, which servers send as a heartbeat.
//!
//! # Limits
//! An event holds at most the bytes that its reader was given; a longer one is an error, as is a longer line.
//! The id that is remembered has at most [`ID_MAX`] bytes: a longer one is ignored, as if it were not there.

/// Maximum length of an id: it is sent back in a header.
const ID_MAX: usize = 1 << 10;
/// Maximum pause that is understood, in milliseconds: a day, so that it can be converted to any unit.
const RETRY_MAX: u64 = 24 * 60 * 60 * 1_000;

/// What a reader found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// An event; see [`Reader::id`] and [`Reader::data`].
    Event,
    Comment,
    /// The pause before the stream is opened again, in milliseconds.
    Retry(u64),
}

/// An event or a line is longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Reads a stream in any fragmentation.
#[derive(Debug)]
pub(crate) struct Reader {
    max: usize,
    /// The line so far.
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The id of the current event.
    id: Vec<u8>,
    has_id: bool,
    /// Whether the last line ended with CR: an LF that follows belongs to it.
    after_return: bool,
    /// Whether a line was read: a byte order mark is the beginning of the first.
    has_begun: bool,
    /// Whether the event was reported, so that the next one begins.
    is_reported: bool,
}

impl Reader {
    /// A reader of events of at most `max` bytes.
    pub(crate) fn new(max: usize) -> Reader {
        Reader {
            max,
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            id: Vec::new(),
            has_id: false,
            after_return: false,
            has_begun: false,
            is_reported: false,
        }
    }

    /// The id of the event that was found, if it has one of its own.
    pub(crate) fn id(&self) -> Option<&[u8]> {
        self.has_id.then_some(&self.id)
    }

    /// The data of the event that was found.
    pub(crate) fn data(&self) -> &[u8] {
        &self.data
    }

    /// Bytes held of an incomplete event.
    pub(crate) fn held(&self) -> usize {
        self.line.len() + if self.is_reported { 0 } else { self.data.len() }
    }

    /// Whether an event has begun and not ended.
    pub(crate) fn is_within_event(&self) -> bool {
        !self.line.is_empty() || self.has_data && !self.is_reported
    }

    /// Consumes input up to the next event or comment; `None` if all was consumed.
    ///
    /// # Errors
    /// If the event is too long.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Found>, TooLong> {
        if std::mem::take(&mut self.is_reported) {
            self.data.clear();
            (self.has_data, self.has_id) = (false, false);
        }
        loop {
            if !input.is_empty()
                && std::mem::take(&mut self.after_return)
                && let [b'\n', rest @ ..] = input
            {
                *input = rest;
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', input) else {
                // An LF may still belong to the line before.
                self.keep(input)?;
                *input = &[];
                return Ok(None);
            };
            let (part, rest) = input.split_at(end);
            self.after_return = rest[0] == b'\r';
            *input = &rest[1..];
            if self.line.is_empty() {
                if let Some(found) = self.take_line(part)? {
                    return Ok(Some(found));
                }
                continue;
            }
            self.keep(part)?;
            let line = std::mem::take(&mut self.line);
            let found = self.take_line(&line);
            self.line = line;
            self.line.clear();
            if let Some(found) = found? {
                return Ok(Some(found));
            }
        }
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + self.data.len() + part.len() > self.max {
            return Err(TooLong);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn take_line(&mut self, line: &[u8]) -> Result<Option<Found>, TooLong> {
        const MARK: &[u8] = b"\xef\xbb\xbf";
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        let line = line.strip_prefix(MARK).filter(|_| is_first).unwrap_or(line);
        if line.is_empty() {
            if !self.has_data {
                // It has at most an id, which is remembered.
                return Ok(None);
            }
            self.is_reported = true;
            return Ok(Some(Found::Event));
        }
        let colon = memchr::memchr(b':', line);
        let (name, value) = match colon {
            Some(0) => return Ok(Some(Found::Comment)),
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => {
                if self.data.len() + value.len() + 1 > self.max {
                    return Err(TooLong);
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
            }
            b"id" if value.len() <= ID_MAX && !value.contains(&0) => {
                self.has_id = true;
                self.id.clear();
                self.id.extend_from_slice(value);
            }
            // As in browsers, anything but digits is ignored, and so is a number beyond all clocks.
            b"retry" if value.iter().all(u8::is_ascii_digit) => {
                let millis = str::from_utf8(value).ok().and_then(|value| value.parse().ok());
                return Ok(millis.filter(|millis| *millis <= RETRY_MAX).map(Found::Retry));
            }
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The events of a stream that arrives in parts of this size: ids and data; comments are `:`.
    fn events(stream: &[u8], part: usize) -> Result<Vec<String>, TooLong> {
        let mut reader = Reader::new(40);
        let mut found = Vec::new();
        for mut input in stream.chunks(part.max(1)) {
            while let Some(what) = reader.next(&mut input)? {
                found.push(match (what, reader.id()) {
                    (Found::Comment, _) => ":".into(),
                    (Found::Retry(millis), _) => format!("retry {millis}"),
                    (Found::Event, id) => {
                        let id = id.map(|id| format!("{}=", String::from_utf8_lossy(id)));
                        id.unwrap_or_default() + &String::from_utf8_lossy(reader.data())
                    }
                });
            }
        }
        Ok(found)
    }

    #[test]
    fn events_by_the_standard() {
        let check = |stream: &str, expected: &[&str]| {
            for part in [1, 2, 3, 1_000] {
                let found = events(stream.as_bytes(), part);
                let expected = expected.iter().map(|own| own.to_string()).collect();
                assert_eq!(found, Ok(expected), "{stream:?} in parts of {part}");
            }
        };
        check("data: a\n\n", &["a"]);
        check("data:a\r\n\r\n", &["a"]);
        check("data:  a\r\rdata: b\r\r", &[" a", "b"]);
        check("data: a\ndata\ndata: b\n\n", &["a\n\nb"]);
        check("\u{feff}data: a\n\n", &["a"]);
        check(": hi\n\ndata: a\nid: 7\n\n", &[":", "7=a"]);
        check("id: 7\n\ndata: a\n\n", &["7=a"]); // without data, no event
        check("id: 7\ndata: a\n\ndata: b\n\n", &["7=a", "b"]);
        check("event: x\nretry: 10\nunknown: y\ndata: a\n\n", &["retry 10", "a"]);
        check("data: a\nretry:0\ndata: b\n\n", &["retry 0", "a\nb"]);
        check("retry\nretry: x\nretry: -1\nretry: 1.5\nretry: 86400001\n\n", &[]);
        check("id: a\0b\ndata: a\n\n", &["a"]);
        check("data: half", &[]);
        check("data: half\n", &[]);
        check("\n\n\n", &[]);
    }

    #[test]
    fn long_events_are_refused() {
        let line = format!("data: {}\n\n", "x".repeat(41));
        let lines = "data: 0123456789\n".repeat(5) + "\n";
        let endless = format!("x{}", "y".repeat(50));
        for (stream, part) in [(line, 5), (lines.clone(), 7), (lines, 1_000), (endless, 3)] {
            assert_eq!(events(stream.as_bytes(), part), Err(TooLong), "{stream:?}");
        }
        // Comments of any length are heartbeats, as long as each is whole in a read.
        assert_eq!(events(format!(": {}\n", "z".repeat(90)).as_bytes(), 1_000).unwrap(), [":"]);
    }

    proptest! {
        #[test]
        fn the_parts_do_not_matter(
            stream in proptest::collection::vec(
                prop_oneof![Just("data: a\n"), Just("\n"), Just("id: 1\n"), Just(":\r\n"), Just("\r"), Just("x")],
                0..20,
            ),
            part in 1..9usize,
        ) {
            let stream = stream.concat().into_bytes();
            let found = events(&stream, part);
            // A bound that is reached within a line depends on the parts.
            if found.is_ok() {
                prop_assert_eq!(found, events(&stream, usize::MAX));
            }
        }
    }
}
