//! A histogram with HdrHistogram's buckets (3 significant digits, 1 ns to 1 h) in pages that are
//! allocated on demand.
//!
//! The `hdrhistogram` crate is not used because it keeps counts in one array from zero to the
//! largest value, about 90 KB for a second of latencies, and a plan of 1,000 targets has several
//! thousand histograms at once. Here a histogram takes 2 KB plus 256 bytes for each page of 32
//! buckets with values. Recording is a shift, a lookup and an increment, and allocates only for the
//! first value in a page.
//!
//! It stores only counts, so decoding an encoded histogram loses nothing: minimum, mean and maximum
//! are computed from the buckets too, exact to 3 digits. Merging is exact.
//!
//! The encoding is HdrHistogram's V2 compressed form (`HdrHistogram.java`,
//! `encodeIntoCompressedByteBuffer`), checked against the `hdrhistogram` crate in both directions.

use crate::Nanos;
use base64::Engine as _;
use std::io::{Read, Write};

/// The largest distinguishable value: one hour. Larger values count as this one.
pub const VALUE_MAX: Nanos = Nanos::from_secs(3600);

/// Buckets in each power of two: 1,024 give 3 significant digits.
const HALF: usize = 1024;
const HALF_BITS: u32 = HALF.ilog2();
/// Buckets in a page; a page is the unit of allocation.
const PAGE: usize = 32;
const BUCKETS: usize = index_of(VALUE_MAX.0) + 1;
const PAGES: usize = BUCKETS.div_ceil(PAGE);
/// A table entry without a page.
const ABSENT: u16 = u16::MAX;
const _: () = assert!(PAGES < ABSENT as usize);

const COOKIE_V2: u32 = 0x1c84_9313;
const COOKIE_V2_COMPRESSED: u32 = 0x1c84_9314;
const HEADER_LEN: usize = 40;
/// An upper bound for any encoding: nine bytes for every bucket.
const DECODED_MAX: u64 = (HEADER_LEN + BUCKETS * 9) as u64;

/// The most values of a histogram that is decoded, so that those of all seconds can be summed: 2⁵³ are
/// counted in a century of 2.8 million a second.
const DECODED_COUNT_MAX: u64 = 1 << 53;

/// The bucket of a value: HdrHistogram's `countsArrayIndex` for a lowest value of 1.
#[inline]
const fn index_of(value: u64) -> usize {
    let bucket = (u64::BITS - 1 - (value | (2 * HALF as u64 - 1)).leading_zeros()) - HALF_BITS;
    let sub = (value >> bucket) as usize;
    ((bucket as usize + 1) << HALF_BITS) + sub - HALF
}

/// The lowest value of a bucket, and how many values share it.
fn range_of(index: usize) -> (u64, u64) {
    let bucket = (index >> HALF_BITS).saturating_sub(1) as u32;
    let sub = if index < 2 * HALF { index } else { (index & (HALF - 1)) + HALF };
    ((sub as u64) << bucket, 1u64 << bucket)
}

/// Counts of time spans by size.
#[derive(Clone, Default)]
pub struct Histogram {
    /// The index in `pages` of each page; empty until the first value.
    table: Vec<u16>,
    pages: Vec<[u64; PAGE]>,
    count: u64,
}

impl Histogram {
    /// An empty histogram; allocates nothing.
    pub fn new() -> Histogram {
        Histogram::default()
    }

    /// Counts one value; values above [`VALUE_MAX`] count as that.
    #[inline]
    pub fn record(&mut self, value: Nanos) {
        self.add(index_of(value.0.min(VALUE_MAX.0)), 1);
    }

    /// Counts `n` times the same value.
    pub fn record_n(&mut self, value: Nanos, n: u64) {
        if n > 0 {
            self.add(index_of(value.0.min(VALUE_MAX.0)), n);
        }
    }

    #[inline]
    fn add(&mut self, index: usize, n: u64) {
        if let Some(&place) = self.table.get(index / PAGE)
            && place != ABSENT
        {
            self.pages[place as usize][index % PAGE] += n;
        } else {
            self.new_page(index / PAGE)[index % PAGE] += n;
        }
        self.count += n;
    }

    #[cold]
    fn new_page(&mut self, page: usize) -> &mut [u64; PAGE] {
        if self.table.is_empty() {
            self.table = vec![ABSENT; PAGES];
        }
        self.table[page] = self.pages.len() as u16;
        self.pages.push([0; PAGE]);
        self.pages.last_mut().expect("one was just pushed")
    }

    /// Number of values counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Histogram) {
        if other.count == 0 {
            return;
        }
        for (page, &place) in other.table.iter().enumerate() {
            if place == ABSENT {
                continue;
            }
            let counts = &other.pages[place as usize];
            let own = match self.table.get(page) {
                Some(&own) if own != ABSENT => &mut self.pages[own as usize],
                _ => self.new_page(page),
            };
            own.iter_mut().zip(counts).for_each(|(own, n)| *own += n);
        }
        self.count += other.count;
    }

    /// Resets all counts and keeps the allocations.
    pub fn clear(&mut self) {
        if self.count > 0 {
            self.pages.iter_mut().for_each(|page| *page = [0; PAGE]);
            self.count = 0;
        }
    }

    /// The non-empty buckets, smallest values first.
    fn filled(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.table
            .iter()
            .enumerate()
            .filter(|(_, place)| **place != ABSENT)
            .flat_map(|(page, place)| {
                let counts = &self.pages[*place as usize];
                counts.iter().enumerate().map(move |(i, n)| (page * PAGE + i, *n))
            })
            .filter(|(_, n)| *n > 0)
    }

    /// The highest value of each non-empty bucket and its count, smallest values first.
    pub fn buckets(&self) -> impl Iterator<Item = (Nanos, u64)> + '_ {
        self.filled().map(|(index, n)| {
            let (low, width) = range_of(index);
            (Nanos(low + width - 1), n)
        })
    }

    /// The value at a quantile (0 to 1): the highest value of its bucket, as in HdrHistogram.
    /// `None` when empty.
    pub fn quantile(&self, quantile: f64) -> Option<Nanos> {
        if self.count == 0 {
            return None;
        }
        // Rounded before `ceil`, so that 0.999 × 1000 is 999 and not 999.0000000000001.
        let rank = (quantile.clamp(0.0, 1.0) * self.count as f64 * 1e6).round() / 1e6;
        let rank = (rank.ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        for (index, n) in self.filled() {
            seen += n;
            if seen >= rank {
                let (low, width) = range_of(index);
                return Some(Nanos(low + width - 1));
            }
        }
        unreachable!("the buckets hold `count` values")
    }

    /// The lowest value of the lowest non-empty bucket. `None` when empty.
    pub fn min(&self) -> Option<Nanos> {
        self.filled().next().map(|(index, _)| Nanos(range_of(index).0))
    }

    /// The highest value of the highest non-empty bucket. `None` when empty.
    pub fn max(&self) -> Option<Nanos> {
        self.quantile(1.0)
    }

    /// The mean, from bucket midpoints. `None` when empty.
    pub fn mean(&self) -> Option<Nanos> {
        if self.count == 0 {
            return None;
        }
        let sum: u128 = self
            .filled()
            .map(|(index, n)| {
                let (low, width) = range_of(index);
                u128::from(low + width / 2) * u128::from(n)
            })
            .sum();
        Some(Nanos((sum / u128::from(self.count)) as u64))
    }

    /// The standard deviation, from bucket midpoints. `None` when empty.
    pub fn deviation(&self) -> Option<Nanos> {
        let mean = self.mean()?.0 as f64;
        let squares: f64 = self
            .filled()
            .map(|(index, n)| {
                let (low, width) = range_of(index);
                ((low + width / 2) as f64 - mean).powi(2) * n as f64
            })
            .sum();
        Some(Nanos((squares / self.count as f64).sqrt() as u64))
    }

    /// Number of values in the bucket of `value` and below.
    pub fn count_up_to(&self, value: Nanos) -> u64 {
        let last = index_of(value.0.min(VALUE_MAX.0));
        self.filled().take_while(|(index, _)| *index <= last).map(|(_, n)| n).sum()
    }

    /// HdrHistogram's V2 compressed encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut counts = Vec::with_capacity(self.pages.len() * PAGE / 4);
        let mut next = 0;
        for (index, n) in self.filled() {
            if index > next {
                put_varint(&mut counts, next as i64 - index as i64);
            }
            put_varint(&mut counts, i64::try_from(n).unwrap_or(i64::MAX));
            next = index + 1;
        }
        let mut plain = Vec::with_capacity(HEADER_LEN + counts.len());
        plain.extend(COOKIE_V2.to_be_bytes());
        plain.extend((counts.len() as u32).to_be_bytes());
        plain.extend(0u32.to_be_bytes()); // normalizing index offset
        plain.extend(3u32.to_be_bytes()); // significant digits
        plain.extend(1u64.to_be_bytes()); // lowest value
        plain.extend(VALUE_MAX.0.to_be_bytes());
        plain.extend(1f64.to_be_bytes()); // integer to double ratio
        plain.extend(counts);

        let mut deflate = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        deflate.write_all(&plain).expect("writing to memory");
        let deflated = deflate.finish().expect("writing to memory");
        let mut out = Vec::with_capacity(8 + deflated.len());
        out.extend(COOKIE_V2_COMPRESSED.to_be_bytes());
        out.extend((deflated.len() as u32).to_be_bytes());
        out.extend(deflated);
        out
    }

    /// [`Histogram::encode`] in base64, as in HdrHistogram's interval logs.
    pub fn encode_base64(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(self.encode())
    }

    /// Decodes the output of [`Histogram::encode`], or of any HdrHistogram with 3 significant
    /// digits and a lowest value of 1.
    ///
    /// # Errors
    /// If the bytes are not such a histogram. Allocation is bounded by a histogram's full size.
    pub fn decode(bytes: &[u8]) -> Result<Histogram, DecodeError> {
        let (cookie, rest) = take_u32(bytes)?;
        if cookie != COOKIE_V2_COMPRESSED {
            return Err(DecodeError("not a V2 compressed histogram"));
        }
        let (len, deflated) = take_u32(rest)?;
        let deflated = deflated.get(..len as usize).ok_or(DecodeError("truncated"))?;
        let mut plain = Vec::new();
        flate2::read::ZlibDecoder::new(deflated)
            .take(DECODED_MAX + 1)
            .read_to_end(&mut plain)
            .map_err(|_| DecodeError("corrupt zlib data"))?;
        if plain.len() as u64 > DECODED_MAX {
            return Err(DecodeError("more counts than there are buckets"));
        }
        if plain.len() < HEADER_LEN || take_u32(&plain)?.0 != COOKIE_V2 {
            return Err(DecodeError("the compressed data is not a V2 histogram"));
        }
        let payload_len = take_u32(&plain[4..])?.0 as usize;
        if take_u32(&plain[12..])?.0 != 3 || plain[16..24] != 1u64.to_be_bytes() {
            return Err(DecodeError("not 3 significant digits with a lowest value of 1"));
        }
        let mut counts = plain[HEADER_LEN..].get(..payload_len).ok_or(DecodeError("truncated"))?;
        let mut histogram = Histogram::new();
        let mut index = 0usize;
        while !counts.is_empty() {
            let n = get_varint(&mut counts)?;
            let skip = if n < 0 { n.unsigned_abs() as usize } else { 1 };
            if n > 0 {
                if index >= BUCKETS {
                    return Err(DecodeError("a value above one hour"));
                }
                if histogram.count + n as u64 > DECODED_COUNT_MAX {
                    return Err(DecodeError("more values than a run can have"));
                }
                histogram.add(index, n as u64);
            }
            index = index.saturating_add(skip);
        }
        Ok(histogram)
    }
}

impl PartialEq for Histogram {
    fn eq(&self, other: &Histogram) -> bool {
        self.count == other.count && self.filled().eq(other.filled())
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Histogram({} values, max {:?})", self.count, self.max())
    }
}

/// The reason why bytes could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(&'static str);

fn take_u32(bytes: &[u8]) -> Result<(u32, &[u8]), DecodeError> {
    let (head, rest) = bytes.split_first_chunk::<4>().ok_or(DecodeError("truncated"))?;
    Ok((u32::from_be_bytes(*head), rest))
}

/// ZigZag LEB128 in at most nine bytes, the ninth with all eight bits (HdrHistogram's
/// `ZigZagEncoding`).
fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut bits = ((value << 1) ^ (value >> 63)) as u64;
    for _ in 0..8 {
        if bits < 0x80 {
            out.push(bits as u8);
            return;
        }
        out.push(bits as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}

fn get_varint(bytes: &mut &[u8]) -> Result<i64, DecodeError> {
    let mut bits = 0u64;
    for i in 0..9 {
        let (&byte, rest) = bytes.split_first().ok_or(DecodeError("truncated"))?;
        *bytes = rest;
        if i == 8 {
            bits |= u64::from(byte) << 56;
            break;
        }
        bits |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            break;
        }
    }
    Ok((bits >> 1) as i64 ^ -((bits & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::new();
        values.iter().for_each(|v| histogram.record(Nanos(*v)));
        histogram
    }

    fn reference(values: &[u64]) -> hdrhistogram::Histogram<u64> {
        let mut histogram = hdrhistogram::Histogram::new_with_bounds(1, VALUE_MAX.0, 3).unwrap();
        values.iter().for_each(|v| histogram.record(*v).unwrap());
        histogram
    }

    fn values() -> impl Strategy<Value = Vec<u64>> {
        let value = prop_oneof![0u64..5_000, 0u64..100_000_000, 0..=VALUE_MAX.0];
        proptest::collection::vec(value, 0..300)
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference(values in values()) {
            let (own, reference) = (of(&values), reference(&values));
            prop_assert_eq!(own.count(), reference.len());
            if !values.is_empty() {
                for q in [0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
                    prop_assert_eq!(own.quantile(q).unwrap().0, reference.value_at_quantile(q));
                }
                let off = own.mean().unwrap().0 as f64 - reference.mean();
                prop_assert!(off.abs() <= 1.0 + reference.mean() * 1e-9);
            }
        }

        #[test]
        fn encodings_are_interchangeable_with_the_reference(values in values()) {
            let own = of(&values);
            prop_assert_eq!(&Histogram::decode(&own.encode()).unwrap(), &own);
            let read: hdrhistogram::Histogram<u64> =
                Deserializer::new().deserialize(&mut own.encode().as_slice()).unwrap();
            prop_assert_eq!(&read, &reference(&values));
            let mut written = Vec::new();
            V2DeflateSerializer::new().serialize(&reference(&values), &mut written).unwrap();
            prop_assert_eq!(&Histogram::decode(&written).unwrap(), &own);
        }

        #[test]
        fn merging_is_exact_in_any_grouping(a in values(), b in values(), c in values()) {
            let all = of(&[a.as_slice(), &b, &c].concat());
            let mut left = of(&a);
            left.merge(&of(&b));
            left.merge(&of(&c));
            let mut tail = of(&b);
            tail.merge(&of(&c));
            let mut right = of(&a);
            right.merge(&tail);
            prop_assert_eq!(&left, &all);
            prop_assert_eq!(&right, &all);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Histogram::decode(&bytes);
        }
    }

    #[test]
    fn a_value_above_an_hour_counts_as_an_hour() {
        assert_eq!(of(&[u64::MAX]), of(&[VALUE_MAX.0]));
    }

    #[test]
    fn a_cleared_histogram_is_empty() {
        let mut histogram = of(&[1, 1_000_000]);
        histogram.clear();
        assert_eq!(histogram, Histogram::new());
        assert_eq!((histogram.min(), histogram.mean(), histogram.max()), (None, None, None));
    }
}
