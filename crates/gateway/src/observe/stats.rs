//! Counters without locks or contention.
//!
//! Each worker is the only writer of its shard, so that counting is a load and a store on a cache line
//! that no other thread writes; readers sum the shards. Counters belong to a service or a route rather
//! than to a `Routing`, and survive its replacement.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_measure::Nanos;
use plimsoll_rpc::method::{self, Method};

use crate::cache::class::Reason;
use crate::error::{ErrorKind, Fault};
pub(crate) use crate::limits::refused::{Limited, WrongKey};
use crate::protocol::Category;

/// A counter with one writer and any number of readers.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        // With one writer, no addition can be lost between the load and the store.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn take(&self, n: u64) {
        self.add(n.wrapping_neg());
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One `T` per worker, each on its own cache lines.
#[derive(Debug)]
pub(crate) struct Sharded<T>(Box<[Shard<T>]>);

#[derive(Debug, Default)]
#[repr(align(128))] // two lines: processors fetch them in pairs
struct Shard<T>(T);

impl<T: Default> Sharded<T> {
    pub(crate) fn new(workers: usize) -> Sharded<T> {
        Sharded((0..workers).map(|_| Shard::default()).collect())
    }

    /// The shard of a worker; only this worker may write to it.
    #[inline]
    pub(crate) fn of(&self, worker: usize) -> &T {
        &self.0[worker].0
    }

    /// The last shard.
    pub(crate) fn last(&self) -> &T {
        self.of(self.0.len() - 1)
    }

    /// All shards.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|shard| &shard.0)
    }

    /// A value, summed over all workers.
    pub(crate) fn sum(&self, figure: impl Fn(&T) -> u64) -> u64 {
        self.0.iter().fold(0, |sum, shard| sum.wrapping_add(figure(&shard.0)))
    }
}

/// Counters other than those of calls and relays.
#[derive(Debug)]
pub(crate) struct Counts {
    /// Open connections from callers.
    pub(crate) downstream: Counter,
    /// Open connections to upstreams, including idle ones.
    pub(crate) upstream: Counter,
    /// Requests refused before their service was known, by the error's index in the table.
    pub(crate) refused: [Counter; crate::error::TABLE.len()],
    /// Calls that limits did not admit: of the endpoint, of the key.
    pub(crate) limited: [[Counter; Limited::NAMES.len()]; 2],
    /// Requests without a valid key.
    pub(crate) wrong_keys: [Counter; WrongKey::NAMES.len()],
}

impl Default for Counts {
    fn default() -> Counts {
        Counts {
            downstream: Counter::default(),
            upstream: Counter::default(),
            refused: std::array::from_fn(|_| Counter::default()),
            limited: Default::default(),
            wrong_keys: Default::default(),
        }
    }
}

/// Upper bounds of the duration buckets.
pub(crate) const EDGES: [Nanos; 17] = [
    Nanos(100_000),
    Nanos(250_000),
    Nanos(500_000),
    Nanos::from_millis(1),
    Nanos(2_500_000),
    Nanos::from_millis(5),
    Nanos::from_millis(10),
    Nanos::from_millis(25),
    Nanos::from_millis(50),
    Nanos::from_millis(100),
    Nanos::from_millis(250),
    Nanos::from_millis(500),
    Nanos::from_secs(1),
    Nanos::from_millis(2_500),
    Nanos::from_secs(5),
    Nanos::from_secs(10),
    Nanos::from_secs(30),
];

/// A histogram of durations.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    /// One per bound, and one for longer durations.
    pub(crate) buckets: [Counter; EDGES.len() + 1],
    pub(crate) sum_ns: Counter,
}

impl Durations {
    #[inline]
    pub(crate) fn add(&self, span: Nanos) {
        let bucket = EDGES.partition_point(|edge| *edge < span);
        self.buckets[bucket].add(1);
        self.sum_ns.add(span.0);
    }
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A result.
    Ok,
    /// An upstream's error object: the chain's answer, not a failure of the relay.
    RpcError,
    /// One of the gateway's own errors.
    Failed(Fault),
    /// The caller disconnected before there was an answer.
    Cancelled,
    /// The answer was not fully delivered to the caller.
    Truncated,
}

impl Outcome {
    pub(crate) const NAMES: [&str; 7] =
        ["ok", "rpc_error", "caller", "gateway", "upstream", "cancelled", "truncated"];

    #[inline]
    pub(crate) fn place(self) -> usize {
        match self {
            Outcome::Ok => 0,
            Outcome::RpcError => 1,
            Outcome::Failed(fault) => 2 + fault as usize,
            Outcome::Cancelled => 5,
            Outcome::Truncated => 6,
        }
    }
}

/// How a call used the cache, the cheapest way first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CacheUse {
    /// The answer was in the process's memory.
    Hit,
    /// The answer was in the second level, from this or another replica.
    Shared,
    /// The answer was that of another call, which was in flight.
    Coalesced,
    /// The call was relayed; its answer may have been stored.
    Miss,
    /// The cache was not used.
    #[default]
    Bypass,
}

impl CacheUse {
    pub(crate) const NAMES: [&str; 5] = ["hit", "shared", "coalesced", "miss", "bypass"];

    /// The name in headers and metrics.
    pub(crate) fn name(self) -> &'static str {
        CacheUse::NAMES[self as usize]
    }
}

/// Counts of calls by how they used the cache, and by outcome.
type ByUse = [[Counter; Outcome::NAMES.len()]; CacheUse::NAMES.len()];

/// The counters of a service's calls.
#[derive(Debug)]
pub(crate) struct Calls {
    /// By method, unknown methods last; allocated when a method is first called.
    by_method: [OnceLock<Box<ByUse>>; method::NAMES.len() + 1],
    /// Calls that bypassed the cache, by [`Reason`].
    pub(crate) bypassed: [Counter; Reason::ALL.len()],
    /// Answers that were not stored, by [`Reason`].
    pub(crate) not_stored: [Counter; Reason::ALL.len()],
    pub(crate) durations: [Durations; Outcome::NAMES.len()],
    /// Calls refused for lack of capacity, in the order of [`SHED`].
    pub(crate) shed: [Counter; SHED.len()],
    /// Attempts beyond the first, by [`Extra`].
    pub(crate) extra: [Counter; Extra::NAMES.len()],
    /// The same, refused by the budget.
    pub(crate) refused_extra: [Counter; Extra::NAMES.len()],
    /// Hedges that were answered first.
    pub(crate) hedges_won: Counter,
}

/// Why a call was attempted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extra {
    /// An attempt failed or was slow.
    Retry,
    /// The first attempt took longer than usual.
    Hedge,
    /// An attempt provably never reached its upstream.
    Elsewhere,
    /// A pooled connection had been closed by its upstream: the same upstream was asked again.
    Stale,
}

impl Extra {
    pub(crate) const NAMES: [&str; 4] = ["retry", "hedge", "elsewhere", "stale_connection"];
}

/// The errors of calls refused for lack of capacity.
pub(crate) const SHED: [ErrorKind; 3] =
    [ErrorKind::LimitReached, ErrorKind::Overloaded, ErrorKind::Busy];

impl Default for Calls {
    fn default() -> Calls {
        let by_method = [const { OnceLock::new() }; method::NAMES.len() + 1];
        Calls {
            by_method,
            bypassed: Default::default(),
            not_stored: Default::default(),
            durations: Default::default(),
            shed: Default::default(),
            extra: Default::default(),
            refused_extra: Default::default(),
            hedges_won: Counter::default(),
        }
    }
}

impl Calls {
    #[inline]
    pub(crate) fn add(
        &self,
        method: Option<Method>,
        cache: CacheUse,
        outcome: Outcome,
        span: Nanos,
    ) {
        let place = method.map_or(method::NAMES.len(), Method::place);
        let counts = self.by_method[place].get_or_init(Box::default);
        counts[cache as usize][outcome.place()].add(1);
        self.durations[outcome.place()].add(span);
    }

    /// All calls.
    pub(crate) fn total(&self) -> u64 {
        let counts = self.durations.iter().flat_map(|durations| &durations.buckets);
        counts.map(Counter::get).fold(0, u64::wrapping_add)
    }

    /// Calls by index of the method, with one more index for unknown methods, of the use of the cache
    /// and of the outcome.
    pub(crate) fn count(&self, method: usize, cache: usize, outcome: usize) -> u64 {
        self.by_method[method].get().map_or(0, |counts| counts[cache][outcome].get())
    }
}

/// The outcome of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelayOutcome {
    Ok,
    /// An error object of this category.
    Rpc(Category),
    /// No usable answer, for this reason.
    Failed(ErrorKind),
    /// The answer was no longer needed.
    Cancelled,
}

/// The errors of failed relays, in the order of their indices.
const FAILURES: [ErrorKind; 9] = [
    ErrorKind::Unreachable,
    ErrorKind::WrongChain,
    ErrorKind::TimedOut,
    ErrorKind::Broken,
    ErrorKind::BadStatus,
    ErrorKind::BadAnswer,
    ErrorKind::AnswerTooLarge,
    ErrorKind::Internal,
    ErrorKind::Busy,
];

impl RelayOutcome {
    /// The outcome of a relay that failed with this error.
    pub(crate) fn failed(kind: ErrorKind) -> RelayOutcome {
        match kind {
            ErrorKind::UpstreamLimited => RelayOutcome::Rpc(Category::RateLimited),
            ErrorKind::UpstreamDenied => RelayOutcome::Rpc(Category::Unauthorized),
            kind => RelayOutcome::Failed(kind),
        }
    }

    pub(crate) const COUNT: usize = 2 + Category::ALL.len() + FAILURES.len();

    /// The outcome's index.
    pub(crate) fn place(self) -> usize {
        match self {
            RelayOutcome::Ok => 0,
            RelayOutcome::Rpc(category) => 1 + category as usize,
            RelayOutcome::Failed(kind) => {
                let failure = FAILURES.iter().position(|failure| *failure == kind);
                1 + Category::ALL.len() + failure.expect("a relay fails in one of these ways")
            }
            RelayOutcome::Cancelled => RelayOutcome::COUNT - 1,
        }
    }

    /// The outcome's label in metrics.
    pub(crate) fn name(self) -> &'static str {
        RelayOutcome::label(self.place())
    }

    /// The label of the outcome with this index.
    pub(crate) fn label(place: usize) -> &'static str {
        match place {
            0 => "ok",
            place if place <= Category::ALL.len() => Category::ALL[place - 1].word(),
            place => {
                let failure = FAILURES.get(place - 1 - Category::ALL.len());
                failure.map_or("cancelled", |kind| kind.row().name)
            }
        }
    }
}

/// The counters of one service's relays to one upstream.
#[derive(Debug, Default)]
pub(crate) struct Relays {
    outcomes: [Counter; RelayOutcome::COUNT],
    /// Answers that were not strictly valid JSON-RPC and were corrected.
    pub(crate) loose: Counter,
    /// Answers that differed from what other upstreams agreed on.
    pub(crate) dissents: Counter,
    /// When a call was last answered, in nanoseconds on our clock.
    answered_at: Counter,
    pub(crate) durations: Durations,
}

impl Relays {
    #[inline]
    pub(crate) fn add(&self, outcome: RelayOutcome, span: Nanos) {
        self.outcomes[outcome.place()].add(1);
        self.durations.add(span);
    }

    pub(crate) fn count(&self, place: usize) -> u64 {
        self.outcomes[place].get()
    }

    #[inline]
    pub(crate) fn answered(&self, at: Nanos) {
        self.answered_at.set(at.0);
    }

    /// When a call was last answered.
    pub(crate) fn answered_at(&self) -> Nanos {
        Nanos(self.answered_at.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let durations = Durations::default();
        for span in [Nanos(1), EDGES[0], Nanos(EDGES[0].0 + 1), Nanos::from_secs(31)] {
            durations.add(span);
        }
        let counts: Vec<u64> = durations.buckets.iter().map(Counter::get).collect();
        assert_eq!((counts[0], counts[1], counts[17]), (2, 1, 1));
        assert_eq!(durations.sum_ns.get(), 1 + 100_000 + 100_001 + 31_000_000_000);
    }

    #[test]
    fn outcomes_have_distinct_indices() {
        let all = [RelayOutcome::Ok]
            .into_iter()
            .chain(Category::ALL.map(RelayOutcome::Rpc))
            .chain(FAILURES.map(RelayOutcome::Failed))
            .chain([RelayOutcome::Cancelled]);
        for (at, outcome) in all.enumerate() {
            assert_eq!(outcome.place(), at);
        }
        assert_eq!(RelayOutcome::label(0), "ok");
        assert_eq!(RelayOutcome::label(RelayOutcome::COUNT - 1), "cancelled");
        assert_eq!(RelayOutcome::label(RelayOutcome::COUNT - 2), "busy");
        for outcome in [Outcome::Ok, Outcome::RpcError, Outcome::Cancelled, Outcome::Truncated] {
            let word = format!("{outcome:?}").to_lowercase();
            assert_eq!(Outcome::NAMES[outcome.place()].replace('_', ""), word);
        }
        for fault in Fault::ALL {
            assert_eq!(Outcome::NAMES[Outcome::Failed(fault).place()], fault.word());
        }
    }

    #[test]
    fn shards_add_up() {
        let sharded: Sharded<Counter> = Sharded::new(3);
        sharded.of(0).add(5);
        sharded.of(2).add(7);
        sharded.of(2).take(1);
        assert_eq!(sharded.sum(Counter::get), 11);
    }
}
