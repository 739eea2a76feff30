//! Hashes and addresses from which the chain can recover what they identify.
//!
//! A real node finds a transaction by its hash in an index that grows with the chain. Here a hash
//! contains its value: 128 bits, encrypted by a four-round Feistel network keyed by the seed,
//! followed by a check value. The bytes look random, but the chain decrypts them in constant time
//! and memory, whatever its length. This is not cryptographically secure.
//!
//! Invariant: `open(seal(value)) == Some(value)`, and other bytes open to `None`, with a probability
//! of error of 2^-32 (addresses) or 2^-128 (hashes).

use plimsoll_measure::rng::Key;

/// Bytes of a seal that contain the value; the rest is the check value.
const VALUE_LEN: usize = 16;

/// What a seal identifies; for example, the address of an account is never taken for a contract.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Account = 1,
    Contract = 2,
    Transaction = 3,
    Block = 4,
}

/// The seals of one chain.
#[derive(Clone, Copy)]
pub(crate) struct Seals {
    key: Key,
}

impl Seals {
    pub(crate) fn new(key: Key) -> Seals {
        Seals { key }
    }

    /// The `N` bytes (20 or 32) that identify `value`.
    pub(crate) fn seal<const N: usize>(self, kind: Kind, value: u128) -> [u8; N] {
        const { assert!(N > VALUE_LEN) };
        let key = self.key.with(kind as u64);
        let (mut left, mut right) = ((value >> 64) as u64, value as u64);
        for round in 0..4 {
            (left, right) = (right, left ^ key.with(round).with(right).bits());
        }
        let mut bytes = [0; N];
        bytes[..8].copy_from_slice(&left.to_be_bytes());
        bytes[8..VALUE_LEN].copy_from_slice(&right.to_be_bytes());
        let mut check = key.with(left).with(right).sequence();
        for chunk in bytes[VALUE_LEN..].chunks_mut(8) {
            chunk.copy_from_slice(&check.bits().to_be_bytes()[..chunk.len()]);
        }
        bytes
    }

    /// The value of `bytes`, if this chain sealed them.
    pub(crate) fn open<const N: usize>(self, kind: Kind, bytes: &[u8; N]) -> Option<u128> {
        let key = self.key.with(kind as u64);
        let half = |from: usize| bytes[from..].first_chunk().map(|half| u64::from_be_bytes(*half));
        let (mut left, mut right) = (half(0)?, half(8)?);
        for round in (0..4).rev() {
            (left, right) = (right ^ key.with(round).with(left).bits(), left);
        }
        let value = u128::from(left) << 64 | u128::from(right);
        (self.seal::<N>(kind, value) == *bytes).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn seals_open(seed: u64, value: u128, flip in 0..256usize) {
            let seals = Seals::new(Key::new(seed));
            let mut hash: [u8; 32] = seals.seal(Kind::Block, value);
            prop_assert_eq!(seals.open(Kind::Block, &hash), Some(value));
            prop_assert_eq!(seals.open(Kind::Transaction, &hash), None);
            prop_assert_eq!(Seals::new(Key::new(seed ^ 1)).open(Kind::Block, &hash), None);
            hash[flip / 8] ^= 1 << (flip % 8);
            prop_assert_eq!(seals.open(Kind::Block, &hash), None);
            let address: [u8; 20] = seals.seal(Kind::Account, value);
            prop_assert_eq!(seals.open(Kind::Account, &address), Some(value));
        }
    }
}
