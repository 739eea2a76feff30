//! Keccak-256, Ethereum's hash (SHA-3 with its original padding), and Ethereum's bloom filter.

use sha3::{Digest, Keccak256};

/// A 256-bit hash.
pub(crate) type Hash = [u8; 32];

/// The hash of `bytes`.
pub(crate) fn keccak(bytes: &[u8]) -> Hash {
    Keccak256::digest(bytes).into()
}

/// A bloom filter of addresses and topics (Yellow Paper, 4.3.1).
#[derive(Clone)]
pub(crate) struct Bloom(pub(crate) [u8; 256]);

impl Bloom {
    pub(crate) fn empty() -> Bloom {
        Bloom([0; 256])
    }

    /// Adds an address or a topic: sets three bits, given by the low 11 bits of the first three 16-bit
    /// words of its hash.
    pub(crate) fn add(&mut self, entry: &[u8]) {
        for (at, bit) in bits(entry) {
            self.0[at] |= bit;
        }
    }
}

fn bits(entry: &[u8]) -> [(usize, u8); 3] {
    let hash = keccak(entry);
    [0, 2, 4].map(|from| {
        let bit = usize::from(u16::from_be_bytes([hash[from], hash[from + 1]]) & 0x7ff);
        (255 - bit / 8, 1 << (bit % 8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes() {
        let check = |text: &[u8], start: [u8; 4]| assert_eq!(keccak(text)[..4], start);
        check(b"", [0xc5, 0xd2, 0x46, 0x01]);
        check(b"Transfer(address,address,uint256)", [0xdd, 0xf2, 0x52, 0xad]);
        check(b"transfer(address,uint256)", [0xa9, 0x05, 0x9c, 0xbb]);
    }

    #[test]
    fn a_bloom_filter_contains_added_entries() {
        let mut bloom = Bloom::empty();
        bloom.add(b"one");
        assert!(bits(b"one").iter().all(|(at, bit)| bloom.0[*at] & bit != 0));
        assert!(bloom.0.iter().map(|byte| byte.count_ones()).sum::<u32>() <= 3);
    }
}
