//! Where the exchanges of a connection are, by their consecutive numbers.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Places by number.
pub(super) type Numbered<N> = HashMap<N, u32, BuildHasherDefault<NumberHasher>>;

/// The numbers are consecutive, so that a multiplication spreads them.
#[derive(Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed");
    }

    #[inline]
    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    #[inline]
    fn write_u64(&mut self, number: u64) {
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
