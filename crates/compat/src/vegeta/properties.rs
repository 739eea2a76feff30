//! Properties of the encodings: what is written is read back, and no input makes the reader panic.

use super::{Duration, Encoder, Fields, Headers, Hit, ReadError, Reader, Timestamp};
use proptest::prelude::*;
use std::io::Read;

/// Yields a few bytes at a time.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.1.min(self.0.len()).min(buffer.len());
        buffer[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        Ok(length)
    }
}

fn read(input: impl Read, fields: Fields) -> (Vec<Hit>, Option<ReadError>) {
    let mut reader = Reader::new(input, fields);
    let (mut hits, mut hit) = (Vec::new(), Hit::default());
    loop {
        match reader.read(&mut hit) {
            Ok(true) => hits.push(hit.clone()),
            Ok(false) => return (hits, None),
            Err(error) => return (hits, Some(error)),
        }
    }
}

fn write(hits: &[Hit], encoding: &str) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::named(encoding).unwrap(), Vec::new());
    hits.iter().for_each(|hit| encoder.write(hit, &mut out).unwrap());
    out
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(String::new()),
        "[ -~]{0,20}",
        "\\PC{0,8}",
        "[\"\\\\,\r\n\t <>&\u{0}\u{2028}é]{0,12}"
    ]
    .prop_map(String::into_bytes)
}

fn headers() -> impl Strategy<Value = Option<Headers>> {
    let value = "([!-~]{1,6}( [!-~]{1,3})?)?".prop_map(String::into_bytes);
    let header = ("[A-Z][a-z-]{0,6}", prop::collection::vec(value, 1..3));
    prop::option::of(prop::collection::btree_map(header.0, header.1, 0..4))
        .prop_map(|all| all.map(|all| all.into_iter().map(|(k, v)| (k.into_bytes(), v)).collect()))
}

fn hit() -> impl Strategy<Value = Hit> {
    let numbers =
        (any::<u64>(), any::<u16>(), 0i64..i64::MAX, any::<i64>(), any::<u64>(), 0u64..300);
    let body = prop::option::of(prop::collection::vec(any::<u8>(), 1..40));
    (text(), numbers, text(), body, text(), text(), headers()).prop_map(
        |(attack, numbers, error, body, method, url, headers)| {
            let (seq, code, timestamp, latency, bytes_out, bytes_in) = numbers;
            let (timestamp, latency) = (Timestamp::from_unix_nanos(timestamp), Duration(latency));
            let attack = attack.to_vec();
            let text = (attack, error, method, url);
            let (attack, error, method, url) = text;
            Hit {
                attack,
                seq,
                code,
                timestamp,
                latency,
                bytes_out,
                bytes_in,
                error,
                body,
                method,
                url,
                headers,
            }
        },
    )
}

/// CSV has no `None` for a body.
fn with_bodies(hits: &[Hit]) -> Vec<Hit> {
    let with_body =
        |hit: &Hit| Hit { body: Some(hit.body.clone().unwrap_or_default()), ..hit.clone() };
    hits.iter().map(with_body).collect()
}

/// What a reader that needs only figures may leave out.
fn figures(hits: &[Hit]) -> Vec<Hit> {
    let figures = |hit: &Hit| Hit {
        body: None,
        method: Vec::new(),
        url: Vec::new(),
        headers: None,
        ..hit.clone()
    };
    hits.iter().map(figures).collect()
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        hits in prop::collection::vec(hit(), 0..6),
        encoding in prop::sample::select(vec!["gob", "json", "csv"]),
        step in 1usize..50,
    ) {
        let expected = if encoding == "csv" { with_bodies(&hits) } else { hits.clone() };
        let bytes = write(&hits, encoding);
        let (all, error) = read(Trickle(&bytes, step), Fields::All);
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(all, expected);
        let (some, error) = read(Trickle(&bytes, step), Fields::Figures);
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(some, figures(&hits));
    }

    #[test]
    fn concatenated_files_are_read_as_one(
        parts in prop::collection::vec(
            (prop::collection::vec(hit(), 0..3), prop::sample::select(vec!["gob", "json", "csv"])),
            0..6,
        ),
    ) {
        let bytes: Vec<u8> = parts.iter().flat_map(|(hits, encoding)| write(hits, encoding)).collect();
        let expected: Vec<Hit> = parts.into_iter().flat_map(|(hits, _)| hits).collect();
        let (read, error) = read(bytes.as_slice(), Fields::Figures);
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(read, figures(&expected));
    }

    /// Cut anywhere, everything before is read; that something is missing is noticed, unless the cut
    /// is between two results. (A row of CSV may lose the end of its last column unnoticed.)
    #[test]
    fn a_file_that_is_cut_short_yields_a_prefix(
        hits in prop::collection::vec(hit(), 1..4),
        encoding in prop::sample::select(vec!["gob", "json", "csv"]),
        cut: prop::sample::Index,
    ) {
        let bytes = write(&hits, encoding);
        let cut = cut.index(bytes.len());
        let (read, error) = read(&bytes[..cut], Fields::Figures);
        prop_assert!(read.len() <= hits.len());
        prop_assert_eq!(&read[..], &figures(&hits)[..read.len()]);
        // JSON is complete without its last line feed. A gob stream may end among its definitions.
        let lengths = (0..=hits.len()).map(|count| write(&hits[..count], encoding).len());
        let whole: Vec<usize> = match encoding {
            "json" => lengths.flat_map(|length| [length, length.saturating_sub(1)]).collect(),
            "gob" if read.is_empty() && error.is_none() => vec![cut],
            _ => lengths.collect(),
        };
        if encoding != "csv" {
            prop_assert_eq!(error.is_none(), whole.contains(&cut), "{:?}", error);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        start in prop::sample::select(vec!["", "{\"seq\":", "1,2,", "\"", "\u{7f}"]),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = [start.as_bytes(), &bytes].concat();
        let (all, error) = read(bytes.as_slice(), Fields::All);
        prop_assert!(all.len() <= bytes.len());
        if let Some(error) = error {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn damaged_gob_is_read_or_refused(
        hits in prop::collection::vec(hit(), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = write(&hits, "gob");
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read(bytes.as_slice(), Fields::All);
        read(bytes.as_slice(), Fields::Figures);
    }
}
