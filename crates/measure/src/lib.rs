//! The measurements of a run: units, clock, seeded randomness, histogram, counters, snapshots.
//!
//! Pure data and arithmetic: no sockets, no threads, no files. All counts can be merged exactly
//! across workers, seconds, agents and runs.
//!
//! # Layout
//! - `units`: [`Nanos`], the type for time in every public interface
//! - `clock`: the run's monotonic clock and the wall clock, passed to everything else as parameters
//! - `rng`: random values addressable by index
//! - `histogram`: a paged HDR histogram and its V2 encoding
//! - `names`: closed enums (error classes, sides, reasons) and tallies over them
//! - `snapshot`: the counts of one second, and their sums
//! - `host`: [`HostSample`], what the host did to the process in a second
//! - `prometheus`: the text exposition format; `scrape`: metrics scraped from other processes
//! - `log`: logs of other processes
//! - `wire`: `snapshots.jsonl`
//! - `samples`: `samples.bin`, one record per arrival
//! - `finding`: the findings of a verdict
//! - `facts`: [`RunFacts`], facts about a run other than its counts

pub mod clock;
pub mod facts;
pub mod finding;
pub mod histogram;
pub mod host;
pub mod log;
pub mod names;
pub mod prometheus;
pub mod rng;
pub mod samples;
pub mod scrape;
pub mod snapshot;
pub mod units;
pub mod wire;

pub use clock::{Clock, WallClock};
pub use facts::{RunFacts, StartFacts};
pub use finding::{Finding, FindingId, Note, Severity};
pub use histogram::Histogram;
pub use host::{
    CpuTimes, HostSample, Sending, Sockets, Softnet, TcpCounter, ThreadTime, Throttled, Usage,
};
pub use log::{Followed, LogEvent, Matched};
pub use names::{ErrorClass, Fault, Listed, OpenReason, Side, Tally};
pub use samples::Sample;
pub use scrape::Scraped;
pub use snapshot::{
    Connections, Imbalance, MessageCounts, Order, OriginCounts, Requests, RpcCounts, ServiceSum,
    Snapshot, SplitCounts, SplitValue, Stats, StatusCounts, StreamCounts, StreamLimits, Window,
    WorkerTime,
};
pub use units::Nanos;
