//! Exact weights: targets are dealt from shuffled decks.
//!
//! A deck holds each target as often as its weight says, in lowest terms. Arrival number `seq` gets
//! the card at place `seq mod size` of deck number `seq / size`, each deck shuffled by its own key.
//! So the shares are exact over every whole deck, nothing is remembered, and any arrival's card can
//! be told without the ones before it.

use plimsoll_measure::rng::Key;

/// The deck of a stream.
#[derive(Clone, Debug)]
pub struct Deck {
    key: Key,
    /// For each target the number of cards up to and with its own.
    upto: Vec<u64>,
}

impl Deck {
    /// A deck of targets by weight.
    ///
    /// # Panics
    /// When there is no weight above zero.
    pub fn new(weights: &[u32], key: Key) -> Deck {
        let divisor = weights.iter().fold(0, |a, b| gcd(a, u64::from(*b)));
        assert!(divisor > 0, "a deck needs a weight above zero");
        let mut cards = 0;
        let upto = weights.iter().map(|weight| {
            cards += u64::from(*weight) / divisor;
            cards
        });
        Deck { key, upto: upto.collect() }
    }

    /// How many cards it has.
    pub fn size(&self) -> u64 {
        self.upto.last().copied().unwrap_or(0)
    }

    /// The target of arrival number `seq`.
    #[inline]
    pub fn deal(&self, seq: u64) -> usize {
        if self.upto.len() == 1 {
            return 0;
        }
        let size = self.size();
        let card = self.key.with(seq / size).permute(seq % size, size);
        self.upto.partition_point(|upto| *upto <= card)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_are_exact_over_each_deck(
            weights in proptest::collection::vec(0u32..50, 1..12),
            seed: u64,
            first in 0u64..1000,
        ) {
            prop_assume!(weights.iter().any(|w| *w > 0));
            let deck = Deck::new(&weights, Key::new(seed));
            let mut dealt = vec![0u64; weights.len()];
            for seq in first * deck.size()..(first + 1) * deck.size() {
                dealt[deck.deal(seq)] += 1;
            }
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            for (weight, dealt) in weights.iter().zip(dealt) {
                prop_assert_eq!(u64::from(*weight) * deck.size(), dealt * total);
            }
        }
    }

    #[test]
    fn the_order_differs_from_deck_to_deck() {
        let deck = Deck::new(&[40, 20, 20, 20], Key::new(1));
        assert_eq!(deck.size(), 5);
        let order = |round: u64| (0..5).map(|i| deck.deal(round * 5 + i)).collect::<Vec<_>>();
        let orders: std::collections::HashSet<_> = (0..2000).map(order).collect();
        assert_eq!(orders.len(), 60, "5! / 2! orders of a 2-1-1-1 deck");
    }
}
