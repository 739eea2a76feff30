//! Transactions that upstreams take without saying so, or refuse; and what must hold for them: one
//! that an upstream has accepted, and that can be reached again before the deadline, is answered with
//! its hash.

use std::time::Duration;

use plimsoll_measure::rng::Key;

use super::Outcome;
use super::calls::{CallRecord, sent_hash};
use super::checks::RECOVERY;
use super::script::{Arrival, Ask, CALLING, FAULTS_END, Fault, Kind, NodeScript};

/// What an upstream does with transactions for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum SendKind {
    /// It takes them, and resets the connection.
    Reset,
    /// It takes them, and never answers.
    Stall,
    /// It takes them, and answers with an internal error.
    Internal,
    /// It takes them, and answers 429 with this Retry-After in seconds.
    Limit,
    /// It takes them after this many milliseconds.
    Late(u64),
    /// It refuses them: an index of [`REFUSALS`].
    Refuse(usize),
}

/// The seconds of [`SendKind::Limit`].
pub(super) const RETRY_AFTER: u64 = 1;

/// The messages of refusals. "Already known" is said only of transactions that another upstream has.
pub(super) const REFUSALS: [&str; 5] = [
    "nonce too low",
    "insufficient funds for gas * price + value",
    "replacement transaction underpriced",
    "txpool is full",
    KNOWN,
];

/// The refusal that means acceptance.
pub(super) const KNOWN: &str = "already known";

/// A time in which an upstream handles transactions unusually.
#[derive(Clone, Copy, Debug)]
pub(super) struct SendFault {
    pub(super) from: Duration,
    pub(super) to: Duration,
    pub(super) kind: SendKind,
}

/// Draws faults of transactions for a third of the seeds, with more transactions. The other draws do
/// not depend on these.
pub(super) fn draw(seed: u64, nodes: &mut [NodeScript], arrivals: &mut Vec<Arrival>) {
    let mut random = Key::new(seed).with(0x5e4d).sequence();
    if random.below(3) > 0 {
        return;
    }
    let end = FAULTS_END.as_millis() as u64;
    for node in nodes {
        for _ in 0..random.below(3) {
            let from = random.below(end - 3_000);
            let to = (from + 1_000 + random.below(8_000)).min(end);
            let kind = match random.below(10) {
                0..2 => SendKind::Reset,
                2 => SendKind::Stall,
                3 => SendKind::Internal,
                4 => SendKind::Limit,
                5 => SendKind::Late(1_000 + random.below(1_400)),
                _ => SendKind::Refuse(random.below(REFUSALS.len() as u64) as usize),
            };
            let (from, to) = (Duration::from_millis(from), Duration::from_millis(to));
            node.sends.push(SendFault { from, to, kind });
        }
    }
    for _ in 0..20 {
        let at = Duration::from_millis(random.below(end)).min(CALLING);
        arrivals.push(Arrival { at, ask: Ask::Send, leaves_after: None });
    }
    arrivals.sort_by_key(|arrival| arrival.at);
}

/// The time before the deadline in which an upstream must be reachable to be asked: a look and the
/// longest pause between two.
const REACHABLE: Duration = Duration::from_millis(1_600);

/// An error for a transaction that an upstream has and could have been asked for.
pub(super) fn failure(outcome: &Outcome, record: &CallRecord) -> Option<String> {
    let is_error = record.answer.as_ref()?["error"].is_object();
    if record.ask != Ask::Send || !is_error {
        return None;
    }
    let world = outcome.world.transactions.borrow();
    let holders = world.get(&sent_hash(&record.request))?;
    let deadline = record.start + outcome.script.timeout;
    let asked_by = deadline.saturating_sub(REACHABLE);
    let is_reachable = |(place, at): &&(usize, Duration)| {
        let node = &outcome.nodes[*place];
        let limits = node.limited_at.borrow();
        let is_free = |(at, secs): &(Duration, u64)| {
            *at > deadline || *at + Duration::from_secs(*secs) <= asked_by
        };
        let script = &outcome.script.nodes[*place];
        *at <= asked_by
            && script.faults.iter().all(|fault| is_over(fault, asked_by, deadline))
            && limits.iter().all(is_free)
    };
    let (place, at) = holders.iter().find(is_reachable)?;
    Some(format!("an error for a transaction that {place} accepted at {at:?}: {record:?}"))
}

/// Whether a fault leaves its upstream reachable in this time.
fn is_over(fault: &Fault, from: Duration, to: Duration) -> bool {
    let after = match fault.kind {
        Kind::Lagging(_)
        | Kind::Reorganised(_)
        | Kind::Forked
        | Kind::Ahead(_)
        | Kind::Uneven
        | Kind::LimitingCalls(_)
        | Kind::Lying => return true,
        // Health checks must notice that it is back.
        Kind::WrongChain | Kind::Switched | Kind::Overloaded(_) => RECOVERY,
        _ => Duration::ZERO,
    };
    fault.from > to || fault.to + after <= from
}

mod tests;
