//! [`Hit`]: the result of one request, with the twelve fields that vegeta records.

use super::{Duration, Timestamp};

/// The result of one request. Text is kept as bytes, because neither URLs nor errors need be UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// The name of the attack.
    pub attack: Vec<u8>,
    /// The number of the request in its attack, from 0.
    pub seq: u64,
    /// The HTTP status; 0 if no response was received.
    pub code: u16,
    /// When a worker took the request up.
    pub timestamp: Timestamp,
    /// From `timestamp` to the end of the response.
    pub latency: Duration,
    /// Bytes of the request's body.
    pub bytes_out: u64,
    /// Bytes of the response's body.
    pub bytes_in: u64,
    /// Why the request failed; empty if it did not.
    pub error: Vec<u8>,
    /// The response's body. JSON distinguishes none (`null`) from an empty one (`""`), gob does not.
    pub body: Option<Vec<u8>>,
    /// The HTTP method.
    pub method: Vec<u8>,
    /// The URL.
    pub url: Vec<u8>,
    /// The response's headers; `None` if no response was received.
    pub headers: Option<Headers>,
}

/// The headers of a response: each name once, with its values in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Vec<u8>, Vec<Vec<u8>>)>);

/// Which fields of a result a reader needs to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    /// All.
    All,
    /// All except body, method, URL and headers: what reports are computed from.
    Figures,
}

impl Hit {
    /// When the response ended.
    pub fn end(&self) -> Timestamp {
        self.timestamp + self.latency
    }

    /// Whether the status is 200 to 399, which vegeta counts as success.
    pub fn is_success(&self) -> bool {
        (200..400).contains(&self.code)
    }

    /// Empties all fields and keeps their memory.
    pub fn clear(&mut self) {
        (self.seq, self.code, self.bytes_out, self.bytes_in) = (0, 0, 0, 0);
        (self.timestamp, self.latency) = (Timestamp::default(), Duration(0));
        (self.body, self.headers) = (None, None);
        [&mut self.attack, &mut self.error, &mut self.method, &mut self.url]
            .into_iter()
            .for_each(Vec::clear);
    }
}

impl Headers {
    /// Appends a value. Names are compared exactly: HTTP's are canonical (`Content-Type`) in vegeta's
    /// results.
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(value.to_vec()),
            None => self.0.push((name.to_vec(), vec![value.to_vec()])),
        }
    }

    /// The names with their values, sorted by name, so that the same headers are always written in
    /// the same way.
    pub fn sorted(&self) -> Vec<(&[u8], &[Vec<u8>])> {
        let mut all: Vec<_> =
            self.0.iter().map(|(name, values)| (name.as_slice(), values.as_slice())).collect();
        all.sort_unstable();
        all
    }
}

impl FromIterator<(Vec<u8>, Vec<Vec<u8>>)> for Headers {
    /// From names, each once, with their values.
    fn from_iter<T: IntoIterator<Item = (Vec<u8>, Vec<Vec<u8>>)>>(all: T) -> Headers {
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort();
        Headers(all)
    }
}
