//! What a run measures: units, clock, seeded randomness, histogram, counters, snapshots.
//!
//! Pure data and arithmetic: no sockets, no threads, no files. Everything that is counted can be
//! merged exactly, over workers, seconds, agents and runs.
//!
//! # Layout
//! - `units`: [`Nanos`], the one type for time that crosses a crate edge
//! - `clock`: the run's clock and the date, which everything else takes as a parameter
//! - `rng`: randomness that can be asked for at any index
//! - `histogram`: HDR histogram with pages, and its V2 encoding
//! - `names`: closed lists (error classes, sides, reasons) and tallies over them
//! - `snapshot`: what was counted in one second, and its sums
//! - `prometheus`: pages of metrics; `scrape`: what other processes told of themselves
//! - `wire`: `snapshots.jsonl`
//! - `finding`: what a verdict says
//! - `facts`: [`RunFacts`], what is known besides the counts

pub mod clock;
pub mod facts;
pub mod finding;
pub mod histogram;
pub mod names;
pub mod prometheus;
pub mod rng;
pub mod scrape;
pub mod snapshot;
pub mod units;
pub mod wire;

pub use clock::{Clock, WallClock};
pub use facts::RunFacts;
pub use finding::{Finding, FindingId, Note, Severity};
pub use histogram::Histogram;
pub use names::{ErrorClass, Fault, Listed, OpenReason, Side, Tally};
pub use scrape::Scraped;
pub use snapshot::{
    Connections, HostSample, OriginCounts, Requests, RpcCounts, ServiceSum, Snapshot, Stats,
    StatusCounts, StreamCounts, Window, WorkerTime,
};
pub use units::Nanos;
