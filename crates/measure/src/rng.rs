//! Random values addressable by index: the value at (seed, stream, shard, index) does not depend on
//! which process or worker draws it, or in which order.
//!
//! A [`Key`] is a 64-bit state folded from the parts of an address by the SplitMix64 finaliser
//! (Steele, Lea, Flood 2014: "Fast splittable pseudorandom number generators"). Not
//! cryptographically secure.

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The SplitMix64 finaliser: a bijection on 64 bits with random-looking output.
#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An address in a tree of random values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    /// The root of the tree for a seed.
    pub fn new(seed: u64) -> Key {
        Key(mix(seed.wrapping_add(GOLDEN_GAMMA)))
    }

    /// The branch `part` of this key.
    #[inline]
    pub fn with(self, part: u64) -> Key {
        Key(mix(self.0 ^ mix(part.wrapping_add(GOLDEN_GAMMA))))
    }

    /// 64 random bits, always the same for this key.
    #[inline]
    pub fn bits(self) -> u64 {
        mix(self.0.wrapping_add(GOLDEN_GAMMA))
    }

    /// A sequence of values that starts at this key.
    #[inline]
    pub fn sequence(self) -> Sequence {
        Sequence { state: self.0 }
    }

    /// The image of `index` under this key's permutation of `0..len`.
    ///
    /// For `len` up to 64, a Fisher-Yates shuffle, in which every order is equally likely; above
    /// that, a four-round Feistel network over the next even power of two, applied until the value
    /// is in range (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"), fewer than
    /// four steps on average. It needs no table, however large the deck.
    ///
    /// # Panics
    /// If `index` is not below `len`.
    pub fn permute(self, index: u64, len: u64) -> u64 {
        assert!(index < len, "an index of {index} in a permutation of {len}");
        if len <= SHUFFLED_MAX {
            self.permute_by_shuffle(index, len)
        } else {
            self.permute_by_network(index, len)
        }
    }

    fn permute_by_shuffle(self, index: u64, len: u64) -> u64 {
        let mut cards: [u8; SHUFFLED_MAX as usize] = std::array::from_fn(|i| i as u8);
        let mut sequence = self.sequence();
        // Only the positions up to `index` are needed.
        for place in 0..=index {
            cards.swap(place as usize, (place + sequence.below(len - place)) as usize);
        }
        u64::from(cards[index as usize])
    }

    fn permute_by_network(self, index: u64, len: u64) -> u64 {
        let half_bits = (u64::BITS - (len - 1).leading_zeros()).div_ceil(2);
        let mask = (1u64 << half_bits) - 1;
        let mut value = index;
        loop {
            let (mut left, mut right) = (value >> half_bits, value & mask);
            for round in 0..4 {
                (left, right) = (right, left ^ (self.with(right << 2 | round).bits() & mask));
            }
            value = left << half_bits | right;
            if value < len {
                return value;
            }
        }
    }
}

/// The largest permutation that is shuffled on the stack.
const SHUFFLED_MAX: u64 = 64;

/// A sequence of random values (SplitMix64).
#[derive(Clone, Debug)]
pub struct Sequence {
    state: u64,
}

impl Sequence {
    /// The next 64 bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN_GAMMA);
        mix(self.state)
    }

    /// The next number in `[0, 1)`, with 53 random bits.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// The next number in `0..n`; zero when `n` is zero. The bias is below 2^-64 × `n`.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_are_bijections() {
        for len in [1u64, 2, 3, 5, 10, 64, 65, 1000] {
            let key = Key::new(7).with(len);
            let mut seen = vec![false; len as usize];
            for i in 0..len {
                let image = key.permute(i, len) as usize;
                assert!(!std::mem::replace(&mut seen[image], true), "{len}: {image} twice");
            }
        }
    }

    #[test]
    fn orders_of_three_are_about_equally_likely() {
        let mut counts = std::collections::HashMap::new();
        for round in 0..60_000 {
            let key = Key::new(1).with(round);
            *counts.entry([0, 1, 2].map(|i| key.permute(i, 3))).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        // 10,000 expected with a standard deviation of 91.
        assert!(counts.values().all(|n| (9_500..10_500).contains(n)), "{counts:?}");
    }

    #[test]
    fn units_are_uniform() {
        let mut sequence = Key::new(3).sequence();
        let mut cells = [0u32; 100];
        for _ in 0..100_000 {
            cells[(sequence.unit() * 100.0) as usize] += 1;
        }
        // Chi-square with 99 degrees of freedom: 148 is the 99.9 % point.
        let chi: f64 = cells.iter().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 148.0, "{chi}");
    }
}
