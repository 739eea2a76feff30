//! Exact weights: targets are dealt from shuffled decks.
//!
//! A deck contains each target in proportion to its weight, in lowest terms. Arrival number `seq` gets
//! the card at position `seq mod size` of deck number `seq / size`; each deck is shuffled by its own key.
//! So shares are exact over every complete deck, there is no state, and any arrival's card can be
//! computed without the preceding ones.
//!
//! A target's cards are numbered consecutively over all decks: card `c` of deck `d` has the number
//! `d × cards + c`. Each number is dealt once, so that a target that selects its requests by this number,
//! round-robin, has sent each equally often, to within one, after every complete deck.
//!
//! If users send for a duration, the number of requests is not known in advance and workers cannot share
//! one sequence of decks. Each worker then deals its own decks ([`Deck::part`]), so shares are exact over
//! each worker's complete decks, however fast its users are.

use plimsoll_measure::rng::Key;

/// The card dealt to an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Card {
    /// The target's index in the stream.
    pub target: usize,
    /// The number of the card among the target's cards; each number from 0 occurs once.
    pub number: u64,
}

/// The deck of a stream.
#[derive(Clone, Debug)]
pub struct Deck {
    key: Key,
    /// For each target, the number of cards up to and including its own.
    upto: Vec<u64>,
}

impl Deck {
    /// A deck of targets by weight.
    ///
    /// # Panics
    /// If no weight is above zero.
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

    /// The same deck shuffled by another key.
    pub(crate) fn with_key(&self, key: Key) -> Deck {
        Deck { key, upto: self.upto.clone() }
    }

    /// The number of cards.
    pub fn size(&self) -> u64 {
        self.upto.last().copied().unwrap_or(0)
    }

    /// The first of the arrival numbers of a worker that deals by itself: `part` is any number below
    /// 1,024 that no other worker has. Parts are whole decks apart and differ in their place in a
    /// target's requests.
    pub fn part(&self, part: u64) -> u64 {
        /// Prime, so that no file of requests has a length that divides the distance.
        const DECKS: u64 = 1_048_573;
        part * DECKS * self.size()
    }

    /// The card of arrival number `seq`.
    #[inline]
    pub fn deal(&self, seq: u64) -> Card {
        if self.upto.len() == 1 {
            return Card { target: 0, number: seq };
        }
        let size = self.size();
        let (round, place) = (seq / size, seq % size);
        let card = self.key.with(round).permute(place, size);
        let target = self.upto.partition_point(|upto| *upto <= card);
        let first = if target == 0 { 0 } else { self.upto[target - 1] };
        Card { target, number: round * (self.upto[target] - first) + (card - first) }
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
                dealt[deck.deal(seq).target] += 1;
            }
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            for (weight, dealt) in weights.iter().zip(dealt) {
                prop_assert_eq!(u64::from(*weight) * deck.size(), dealt * total);
            }
        }
    }

    proptest! {
        #[test]
        fn a_targets_cards_are_numbered_consecutively(
            weights in proptest::collection::vec(0u32..20, 1..8),
            seed: u64,
            decks in 1u64..20,
        ) {
            prop_assume!(weights.iter().any(|w| *w > 0));
            let deck = Deck::new(&weights, Key::new(seed));
            let mut numbers = vec![Vec::new(); weights.len()];
            for seq in 0..decks * deck.size() {
                let dealt = deck.deal(seq);
                numbers[dealt.target].push(dealt.number);
            }
            for mut numbers in numbers {
                numbers.sort_unstable();
                prop_assert!(numbers.iter().copied().eq(0..numbers.len() as u64));
            }
        }
    }

    proptest! {
        #[test]
        fn workers_deal_whole_decks_of_their_own(
            weights in proptest::collection::vec(1u32..20, 1..8),
            parts in 1u64..9,
            decks in 1u64..5,
        ) {
            let deck = Deck::new(&weights, Key::new(1));
            let mut dealt = vec![0u64; weights.len()];
            let mut rows = std::collections::BTreeSet::new();
            for part in 0..parts {
                let first = deck.part(part);
                for seq in first..first + decks * deck.size() {
                    let card = deck.deal(seq);
                    dealt[card.target] += 1;
                    prop_assert!(rows.insert((card.target, card.number)), "a card twice");
                }
            }
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            for (weight, dealt) in weights.iter().zip(dealt) {
                prop_assert_eq!(u64::from(*weight) * deck.size() * decks * parts, dealt * total);
            }
        }
    }

    #[test]
    fn the_order_differs_from_deck_to_deck() {
        let deck = Deck::new(&[40, 20, 20, 20], Key::new(1));
        assert_eq!(deck.size(), 5);
        let order =
            |round: u64| (0..5).map(|i| deck.deal(round * 5 + i).target).collect::<Vec<_>>();
        let orders: std::collections::HashSet<_> = (0..2000).map(order).collect();
        assert_eq!(orders.len(), 60, "5! / 2! orders of a 2-1-1-1 deck");
    }
}
