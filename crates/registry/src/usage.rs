//! What customers have used: counted by the gateway, kept in the database, for quotas and invoices.
//!
//! # What must hold
//! - Nothing is counted twice, whatever is killed, hangs, fails or is restarted, and whenever.
//! - A gateway that is killed loses what it has counted in the last half second, and nothing else.
//! - No call ever waits for any of this.
//!
//! # How
//! Workers count in tables of their own and hand them over every quarter of a second ([`Inbox`]). A
//! thread ([`Recorder`]) appends what was handed over to a file ([`spool`]), and every half second sends
//! what the file has as one [`Batch`] to the database, in one transaction. The file makes what was
//! counted survive the process, also while the database cannot be reached; it is a write-ahead log that
//! is almost always empty.
//!
//! # Why nothing is counted twice
//! A batch has an id: a random one of its writer and a sequence number. The transaction first raises the
//! writer's number in the database, and changes nothing if that is not lower. So a batch may be sent any
//! number of times, as long as it never changes: what belongs to it is written down in the file's header
//! before it is first sent, and only what the database has acknowledged is removed. If the answer to the
//! commit is lost, or the gateway is killed at any step, the same batch is sent again ([`delivery`]).
//!
//! # Limits
//! - The file takes at most `usage.spool` bytes. It is rewritten when most of it can be merged: hours of
//!   small additions become one row for each hour, endpoint, key, service and method.
//! - What does not fit, or cannot be written because the disk is full, stays in memory in the same merged
//!   form. Beyond [`ROWS_MAX`] rows, methods are no longer distinguished, and beyond twice as many
//!   endpoints are not: the totals stay right. This is counted.
//! - Rows older than `usage.keep` are removed, and with them the numbers of writers that have not been
//!   heard of since. A file older than that must not be put back.

mod delivered;
mod delivery;
pub mod money;
mod query;
mod recorder;
mod rows;
#[cfg(test)]
mod simulation;
mod spool;

pub use delivered::{DELIVERED_MAX, Delivered, DeliveredUnits};
pub use query::{Filter, Group, Grouping, Span, UsageQuery, fold, parse_moment, show_moment};
pub use query::{Period, Totals, month_start};
pub use recorder::{Figures, Inbox, Recorder, TotalsAnswer};
pub use rows::{ROWS_MAX, Rows};

/// What is counted. Bytes are those of the texts of calls and answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls.
    pub calls: u64,
    /// Of these, answered with a result.
    pub ok: u64,
    /// Of these, answered with an error object of the chain.
    pub errors: u64,
    /// Of these, answered with an error of the gateway. The others were cancelled by their callers.
    pub failed: u64,
    /// Of these, answered without a relay of their own: from the cache, or with another call's answer.
    pub hits: u64,
    /// Requests that were sent to upstreams.
    pub relays: u64,
    /// Of these, sent because an earlier one took long.
    pub hedges: u64,
    /// Bytes of calls.
    pub bytes_in: u64,
    /// Bytes of answers.
    pub bytes_out: u64,
    /// What the answered calls are charged.
    pub compute_units: u64,
    /// What quotas were charged when calls were admitted, whatever became of the calls. Not part of reports
    /// ([`Counts::values`]): it is added to the sums of the day alone.
    pub admitted_units: u64,
}

impl Counts {
    /// The number of figures.
    pub const COUNT: usize = 10;

    /// The names, in the order of [`Counts::values`].
    pub const NAMES: [&'static str; Counts::COUNT] = [
        "calls",
        "ok",
        "errors",
        "failed",
        "hits",
        "relays",
        "hedges",
        "bytes_in",
        "bytes_out",
        "compute_units",
    ];

    /// The figures of reports.
    pub fn values(&self) -> [u64; Counts::COUNT] {
        let Counts { calls, ok, errors, failed, hits, .. } = *self;
        let Counts { relays, hedges, bytes_in, bytes_out, compute_units, .. } = *self;
        [calls, ok, errors, failed, hits, relays, hedges, bytes_in, bytes_out, compute_units]
    }

    /// The counts with these figures of reports.
    pub fn of(values: [u64; Counts::COUNT]) -> Counts {
        let [calls, ok, errors, failed, hits, relays, hedges, bytes_in, bytes_out, compute_units] =
            values;
        Counts {
            calls,
            ok,
            errors,
            failed,
            hits,
            relays,
            hedges,
            bytes_in,
            bytes_out,
            compute_units,
            admitted_units: 0,
        }
    }

    /// Whether any figure of reports is not zero.
    pub fn has_figures(&self) -> bool {
        self.values().iter().any(|value| *value > 0)
    }

    /// Adds others; the largest number stays the largest.
    pub fn add(&mut self, other: &Counts) {
        let mut sums = self.values();
        for (sum, value) in sums.iter_mut().zip(other.values()) {
            *sum = sum.saturating_add(value);
        }
        let admitted_units = self.admitted_units.saturating_add(other.admitted_units);
        *self = Counts { admitted_units, ..Counts::of(sums) };
    }

    /// Calls whose callers disconnected before they had the answer.
    pub fn cancelled(&self) -> u64 {
        self.calls.saturating_sub(self.ok + self.errors + self.failed)
    }
}

/// When, for whom and for what something was counted. Sorted by hour first.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// Hours since 1970, in UTC.
    pub hour: u64,
    /// The endpoint's id; empty for calls that come through none, and for the gateway's own.
    pub endpoint: String,
    /// The name of the endpoint's key; empty without one.
    pub key: String,
    /// The service's id.
    pub service: String,
    /// The name of a known method, [`OTHER`] or [`REST`].
    pub method: String,
}

/// Stands for methods that the gateway does not know.
pub const OTHER: &str = "other";

/// Stands for requests that are not JSON-RPC.
pub const REST: &str = "REST";

/// What is written in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The id of its writer.
    pub writer: String,
    /// Higher than that of the writer's earlier batches.
    pub sequence: u64,
    /// What is added.
    pub rows: Vec<(Subject, Counts)>,
}

impl Batch {
    /// Rows of a batch: one statement of some hundred kilobytes, which takes milliseconds.
    pub const ROWS_MAX: usize = 2_000;
}

/// The result of writing a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Written durably.
    Written,
    /// It had been written before.
    Known,
}

/// Nanoseconds of an hour.
pub const HOUR_NS: u64 = 3_600_000_000_000;

/// A random id of a writer.
fn new_writer() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let part = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", part(), part())
}
