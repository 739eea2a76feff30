//! The generated transactions, nonces and balances, in closed form.
//!
//! All generated transactions form one infinite sequence, numbered by *ordinal*, which is cut into
//! blocks. The sequence consists of rounds: in each round every one of the [`ACCOUNTS`] accounts
//! sends exactly one transaction, in an order that differs between rounds, so the nonce of a
//! transaction is its round. What an account sends repeats every [`CYCLE`] rounds. Nonces and
//! balances at any block therefore take a few multiplications, whatever the height, and nothing has
//! to be stored or replayed.
//!
//! Invariant: every result equals what counting from the start of the sequence would give.

use plimsoll_measure::rng::Key;

/// Number of accounts that send generated transactions; a power of two, so that the order can be
/// inverted arithmetically.
pub(crate) const ACCOUNTS: u64 = 1024;
/// Number of rounds after which the transactions of an account repeat.
pub(crate) const CYCLE: u64 = 8;
/// Number of blocks after which block sizes repeat.
const PATTERN_LEN: usize = 16;
/// Block sizes in quarters of the mean; on average 4.
const PATTERN: [u64; PATTERN_LEN] = [0, 2, 4, 6, 8, 4, 4, 1, 7, 4, 3, 5, 4, 4, 2, 6];
/// Distance from the sender of a transfer to its receiver, by round in the cycle.
const HOPS: [u64; CYCLE as usize] = [1, 17, 333, 5, 512, 700, 129, 64];

const _: () = assert!(ACCOUNTS.is_power_of_two() && ACCOUNTS.is_multiple_of(CYCLE));

/// What a generated transaction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Moves ether to another account.
    Transfer,
    /// Moves tokens to another account: one log.
    Token,
    /// Calls the ledger contract: three logs, with four, no and two topics.
    Record,
    /// Creates a contract.
    Create,
    /// Calls the reverter and fails.
    Revert,
}

/// The position of a generated transaction in the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// The round, which is the nonce.
    pub(crate) round: u64,
    /// The sending account.
    pub(crate) account: u64,
}

impl Turn {
    pub(crate) fn action(self) -> Action {
        use Action::{Create, Record, Revert, Token, Transfer};
        const ACTIONS: [Action; CYCLE as usize] =
            [Transfer, Token, Transfer, Record, Token, Create, Token, Revert];
        ACTIONS[(self.kind()) as usize]
    }

    /// Whether it is a legacy transaction; the others have dynamic fees.
    pub(crate) fn is_legacy(self) -> bool {
        matches!(self.kind(), 0 | 4 | 7)
    }

    fn kind(self) -> u64 {
        (self.round + self.account) % CYCLE
    }

    fn phase(self) -> u64 {
        self.round % CYCLE
    }

    /// The receiver of a transfer.
    pub(crate) fn receiver(self) -> u64 {
        (self.account + HOPS[self.phase() as usize]) % ACCOUNTS
    }

    /// Amount of a transfer, in wei.
    pub(crate) fn value(self) -> u128 {
        match self.action() {
            Action::Transfer => u128::from(1 + self.phase()) * 1_000_000_000_000_000 + 7,
            _ => 0,
        }
    }

    /// Amount of a token transfer, in token units.
    pub(crate) fn tokens(self) -> u128 {
        match self.action() {
            Action::Token => u128::from(1 + self.phase()) * 1_000_000_000_000_000_000,
            _ => 0,
        }
    }

    /// Gas price in wei; above every base fee.
    pub(crate) fn gas_price(self) -> u128 {
        u128::from(20 + self.phase()) * 1_000_000_000
    }

    pub(crate) fn gas_used(self) -> u64 {
        match self.action() {
            Action::Transfer => 21_000,
            Action::Token => 51_234,
            Action::Record => 84_321,
            Action::Create => 210_987,
            Action::Revert => 23_456,
        }
    }

    fn spent(self) -> u128 {
        self.value() + self.gas_price() * u128::from(self.gas_used())
    }
}

/// The sequence of generated transactions of one chain.
#[derive(Clone)]
pub(crate) struct Ledger {
    key: Key,
    /// Number of transactions before each block of the pattern, and in the whole pattern.
    before: [u64; PATTERN_LEN + 1],
}

impl Ledger {
    /// A sequence whose blocks have `mean` transactions on average.
    pub(crate) fn new(key: Key, mean: u64) -> Ledger {
        let shift = key.with(0).bits() as usize;
        let mut before = [0; PATTERN_LEN + 1];
        for at in 0..PATTERN_LEN {
            before[at + 1] = before[at] + PATTERN[(at + shift) % PATTERN_LEN] * mean / 4;
        }
        Ledger { key, before }
    }

    /// The first ordinal of block `number`; block 0 has no transactions.
    pub(crate) fn first(&self, number: u64) -> u64 {
        let Some(blocks) = number.checked_sub(1) else { return 0 };
        let (cycles, rest) = (blocks / PATTERN_LEN as u64, blocks % PATTERN_LEN as u64);
        cycles * self.before[PATTERN_LEN] + self.before[rest as usize]
    }

    /// The block that contains `ordinal`; `None` if all blocks are empty.
    pub(crate) fn block_of(&self, ordinal: u64) -> Option<u64> {
        let cycle = self.before[PATTERN_LEN];
        let (cycles, rest) = (ordinal.checked_div(cycle)?, ordinal % cycle);
        let at = self.before[1..].partition_point(|before| *before <= rest);
        cycles.checked_mul(PATTERN_LEN as u64)?.checked_add(at as u64 + 1)
    }

    /// The turn at `ordinal`.
    pub(crate) fn turn(&self, ordinal: u64) -> Turn {
        let round = ordinal / ACCOUNTS;
        let (factor, offset) = self.order(round);
        let account = (ordinal % ACCOUNTS).wrapping_mul(factor).wrapping_add(offset) % ACCOUNTS;
        Turn { round, account }
    }

    /// The ordinal of a turn.
    pub(crate) fn ordinal(&self, turn: Turn) -> u64 {
        let (factor, offset) = self.order(turn.round);
        let place = turn.account.wrapping_sub(offset).wrapping_mul(inverse(factor)) % ACCOUNTS;
        turn.round * ACCOUNTS + place
    }

    /// The nonce of `account` at the end of block `number`.
    pub(crate) fn nonce(&self, account: u64, number: u64) -> u64 {
        let end = self.first(number + 1);
        let turn = Turn { round: end / ACCOUNTS, account };
        turn.round + u64::from(self.ordinal(turn) < end)
    }

    /// Wei that `account` has received and spent at the end of block `number`.
    pub(crate) fn ether(&self, account: u64, number: u64) -> (u128, u128) {
        self.flows(account, number, Turn::value, Turn::spent)
    }

    /// Token units that `account` has received and sent at the end of block `number`.
    pub(crate) fn tokens(&self, account: u64, number: u64) -> (u128, u128) {
        self.flows(account, number, Turn::tokens, Turn::tokens)
    }

    fn flows(
        &self,
        account: u64,
        number: u64,
        gain: impl Fn(Turn) -> u128,
        loss: impl Fn(Turn) -> u128,
    ) -> (u128, u128) {
        let sum = |sender: u64, phase: u64, amount: u128| match amount {
            0 => 0,
            amount => amount * u128::from(times(self.nonce(sender, number), phase)),
        };
        let (mut gained, mut lost) = (0, 0);
        for phase in 0..CYCLE {
            lost += sum(account, phase, loss(Turn { round: phase, account }));
            let sender = account.wrapping_sub(HOPS[phase as usize]) % ACCOUNTS;
            gained += sum(sender, phase, gain(Turn { round: phase, account: sender }));
        }
        (gained, lost)
    }

    /// The order of a round: position `p` belongs to account `p × factor + offset`.
    fn order(&self, round: u64) -> (u64, u64) {
        let bits = self.key.with(1).with(round).bits();
        (bits >> 32 | 1, bits & u64::from(u32::MAX))
    }
}

/// The number of rounds in `0..rounds` that are at `phase` of the cycle.
fn times(rounds: u64, phase: u64) -> u64 {
    rounds / CYCLE + u64::from(rounds % CYCLE > phase)
}

/// The inverse of an odd number modulo 2^64, by Newton's iteration: each step doubles the number of
/// correct bits.
fn inverse(odd: u64) -> u64 {
    (0..5).fold(odd, |x, _| x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Compares the closed forms with counting from the start of the sequence.
    #[test]
    fn closed_forms_match_counting() {
        let ledger = Ledger::new(Key::new(5), 20);
        let (mut nonces, mut ether, mut tokens) = (HashMap::new(), HashMap::new(), HashMap::new());
        let watched = [0, 1, 17, 512, 1023];
        let mut ordinal = 0;
        for number in 0..1200 {
            assert_eq!(ledger.first(number), ordinal, "block {number}");
            while ordinal < ledger.first(number + 1) {
                assert_eq!(ledger.block_of(ordinal), Some(number));
                let turn = ledger.turn(ordinal);
                assert_eq!(ledger.ordinal(turn), ordinal);
                let nonce: &mut u64 = nonces.entry(turn.account).or_default();
                assert_eq!(*nonce, turn.round);
                *nonce += 1;
                let moved = |sums: &mut HashMap<u64, (u128, u128)>, gain, loss| {
                    sums.entry(turn.receiver()).or_default().0 += gain;
                    sums.entry(turn.account).or_default().1 += loss;
                };
                moved(&mut ether, turn.value(), turn.spent());
                moved(&mut tokens, turn.tokens(), turn.tokens());
                ordinal += 1;
            }
            for account in watched {
                let counted = nonces.get(&account).copied().unwrap_or_default();
                assert_eq!(ledger.nonce(account, number), counted);
                let counted = ether.get(&account).copied().unwrap_or_default();
                assert_eq!(ledger.ether(account, number), counted, "{account} at {number}");
                let counted = tokens.get(&account).copied().unwrap_or_default();
                assert_eq!(ledger.tokens(account, number), counted, "{account} at {number}");
            }
        }
        assert!(ordinal > 20 * ACCOUNTS, "several cycles");
    }

    #[test]
    fn blocks_may_be_empty() {
        let ledger = Ledger::new(Key::new(5), 0);
        assert_eq!((ledger.first(1000), ledger.block_of(0), ledger.nonce(3, 1000)), (0, None, 0));
    }
}
