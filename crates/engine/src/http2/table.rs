//! The tables of HPACK (RFC 7541 §2.3): the static one, and the dynamic one of a decoder.

use std::collections::VecDeque;

/// A name and a value.
pub(super) type Field<'a> = (&'a [u8], &'a [u8]);

/// The static table; its first entry has index 1 (RFC 7541, Appendix A).
pub(super) const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// What an entry counts beside its name and value (RFC 7541 §4.1).
pub(super) const OVERHEAD: usize = 32;

/// A dynamic table. Its strings are stored one after the other, so that adding an entry allocates
/// nothing once warm.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The strings of all entries, the oldest first, after those of entries that were evicted.
    bytes: Vec<u8>,
    /// The oldest first; the end of an entry is the start of the next.
    entries: VecDeque<Entry>,
    /// As defined by the specification: with the overhead.
    size: usize,
    size_max: usize,
    /// Number of changes so far.
    version: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    name: usize,
    value: usize,
}

impl Entry {
    fn size(&self) -> usize {
        self.name + self.value + OVERHEAD
    }
}

impl Table {
    pub(super) fn new(size_max: usize) -> Table {
        Table { size_max, ..Table::default() }
    }

    /// Counts changes: the entries are the same as long as it is.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The field with this index in both tables; `None` if there is none.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<Field<'_>> {
        if let Some((name, value)) = STATIC.get(index.checked_sub(1)?) {
            return Some((name.as_bytes(), value.as_bytes()));
        }
        let nth = index - 1 - STATIC.len();
        let entry = self.entries.get(self.entries.len().checked_sub(nth + 1)?)?;
        let value = entry.start + entry.name;
        Some((&self.bytes[entry.start..value], &self.bytes[value..value + entry.value]))
    }

    /// Evicts entries until the table has at most this size, from now on.
    pub(super) fn resize(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.make_room(0);
        self.version += 1;
    }

    /// Adds an entry and evicts the oldest ones; one that is too large leaves the table empty.
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) {
        let entry = Entry { start: self.bytes.len(), name: name.len(), value: value.len() };
        self.make_room(entry.size());
        self.version += 1;
        if entry.size() > self.size_max {
            return;
        }
        self.compact();
        let entry = Entry { start: self.bytes.len(), ..entry };
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.size += entry.size();
        self.entries.push_back(entry);
    }

    fn make_room(&mut self, size: usize) {
        while self.size + size > self.size_max
            && let Some(oldest) = self.entries.pop_front()
        {
            self.size -= oldest.size();
        }
    }

    /// Removes the strings of evicted entries if they are more than those in use may be.
    fn compact(&mut self) {
        let start = self.entries.front().map_or(self.bytes.len(), |oldest| oldest.start);
        if start > self.size_max {
            self.bytes.drain(..start);
            self.entries.iter_mut().for_each(|entry| entry.start -= start);
        }
    }
}
