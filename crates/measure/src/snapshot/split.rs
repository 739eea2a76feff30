//! Answers counted by the value of a response header, such as the instance that answered.
//!
//! The header is the target's, so its values are not trusted: they are shortened, stripped of
//! everything that is not printable ASCII, and limited in number. Counting copies at most
//! [`SplitValue::LEN_MAX`] bytes and does not allocate once a value has been seen.

use std::fmt;

/// A response header's value: its first [`SplitValue::LEN_MAX`] bytes, each byte that is not printable
/// ASCII replaced by `?`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SplitValue {
    /// Padded with zeros, which no value contains.
    bytes: [u8; SplitValue::LEN_MAX],
}

impl SplitValue {
    /// Maximum length in bytes. Longer values that agree up to here count as one.
    pub const LEN_MAX: usize = 48;

    /// The value of a header, as received.
    pub fn of(value: &[u8]) -> SplitValue {
        let mut bytes = [0; SplitValue::LEN_MAX];
        for (own, byte) in bytes.iter_mut().zip(value) {
            *own = if matches!(byte, b' '..=b'~') { *byte } else { b'?' };
        }
        SplitValue { bytes }
    }

    /// The value as a label among `(none)`, `(other)` and `(empty)`: a value that could be mistaken for one
    /// of these is in quotes.
    pub fn label(&self) -> String {
        match self.as_str() {
            "" => "(empty)".into(),
            text if text.starts_with(['(', '"']) => format!("\"{text}\""),
            text => text.into(),
        }
    }

    /// The value as text.
    pub fn as_str(&self) -> &str {
        let len = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(self.bytes.len());
        std::str::from_utf8(&self.bytes[..len]).expect("printable ASCII is UTF-8")
    }
}

impl fmt::Debug for SplitValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Complete answers by the value of a header.
///
/// The total is always exact. While `other` is zero, so is each value's count, whatever the order in
/// which workers and seconds are added; otherwise a value's count is a lower bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitCounts {
    /// Answers by value, in ascending order; at most [`SplitCounts::VALUES_MAX`] values.
    pub values: Vec<(SplitValue, u64)>,
    /// Answers without the header.
    pub none: u64,
    /// Answers with further values, once the list was full.
    pub other: u64,
}

impl SplitCounts {
    /// Maximum number of values counted separately.
    pub const VALUES_MAX: usize = 32;

    /// Counts `n` answers with a value, or without the header.
    pub fn add(&mut self, value: Option<&SplitValue>, n: u64) {
        let Some(value) = value else {
            self.none += n;
            return;
        };
        match self.values.binary_search_by(|(own, _)| own.cmp(value)) {
            Ok(place) => self.values[place].1 += n,
            Err(place) if self.values.len() < Self::VALUES_MAX => {
                self.values.insert(place, (*value, n));
            }
            Err(_) => self.other += n,
        }
    }

    /// All answers.
    pub fn total(&self) -> u64 {
        self.named() + self.none + self.other
    }

    /// Answers counted by value.
    pub fn named(&self) -> u64 {
        self.values.iter().map(|(_, n)| n).sum()
    }

    /// Adds other counts.
    pub fn merge(&mut self, other: &SplitCounts) {
        other.values.iter().for_each(|(value, n)| self.add(Some(value), *n));
        self.none += other.none;
        self.other += other.other;
    }

    /// Resets all counts and keeps the allocation.
    pub(super) fn clear(&mut self) {
        self.values.clear();
        (self.none, self.other) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_bounded_and_printable() {
        let check = |value: &[u8], text: &str| assert_eq!(SplitValue::of(value).as_str(), text);
        check(b"gw-1", "gw-1");
        check(b"", "");
        check(b"a\x1b[31m\0\r\t\x7f", "a?[31m????");
        check("naïve 日本".as_bytes(), "na??ve ??????");
        check(&[b'x'; 5000], &"x".repeat(SplitValue::LEN_MAX));
        let label = |value: &str, label: &str| {
            assert_eq!(SplitValue::of(value.as_bytes()).label(), label);
        };
        label("gw-1", "gw-1");
        label("", "(empty)");
        label("(other)", "\"(other)\"");
        label("\"(other)\"", "\"\"(other)\"\"");
    }

    proptest! {
        /// The total is exact for any values; the counts are exact in any order for up to the maximum.
        #[test]
        fn merging_is_exact(
            answers in proptest::collection::vec((0..60u8, 0..4u64), 0..200),
            distinct in prop_oneof![Just(32u8), Just(60)],
            workers in 1..5usize,
        ) {
            let mut direct = SplitCounts::default();
            let mut parts = vec![SplitCounts::default(); workers];
            for (place, (value, n)) in answers.iter().enumerate() {
                let value = (*value > 0)
                    .then(|| SplitValue::of(format!("gw-{}", value % distinct).as_bytes()));
                direct.add(value.as_ref(), *n);
                parts[place % workers].add(value.as_ref(), *n);
            }
            let merge = |parts: &mut dyn Iterator<Item = &SplitCounts>| {
                let mut sum = SplitCounts::default();
                parts.for_each(|part| sum.merge(part));
                sum
            };
            let (forth, back) = (merge(&mut parts.iter()), merge(&mut parts.iter().rev()));
            prop_assert!(forth.values.len() <= SplitCounts::VALUES_MAX);
            prop_assert_eq!((forth.total(), forth.none), (direct.total(), direct.none));
            prop_assert_eq!(back.total(), direct.total());
            if distinct == 32 {
                prop_assert_eq!(&forth, &direct);
                prop_assert_eq!(&back, &direct);
            }
        }
    }
}
