//! Vegeta 12: flags, results and reports.
//!
//! Byte for byte what vegeta 12.13.0 reads and writes, where its output is deterministic.
//!
//! # Layout
//! - `flags`: [`flags::parse`]: command lines in Go's syntax, and the flags of each command
//! - `duration`, `timestamp`: [`Duration`] and [`Timestamp`] in Go's notations
//! - `hit`: [`Hit`]: the result of one request
//! - `reader`: [`Reader`]: reads results; `source`: its buffer; `error`: [`ReadError`]
//! - `merge`: [`Merge`]: reads several inputs as one
//! - `plot`: [`Plot`]: an HTML page
//! - `encoder`: [`Encoder`]: writes results
//! - `metrics`: [`Metrics`]: the figures of a report; `latencies`, `buckets`: distributions
//! - `report`: reports from them; `columns`: aligned text
//! - `gob`, `json`, `csv`: the encodings; `escape`: strings in JSON

mod buckets;
mod columns;
mod csv;
pub mod duration;
mod encoder;
mod error;
mod escape;
pub mod flags;
mod gob;
#[cfg(test)]
mod golden;
mod hit;
mod json;
mod latencies;
mod merge;
mod metrics;
mod plot;
#[cfg(test)]
mod properties;
mod reader;
pub mod report;
mod source;
mod timestamp;

pub use buckets::{BadBuckets, Buckets};
pub use duration::Duration;
pub use encoder::Encoder;
pub use error::{Place, Problem, ReadError};
pub use gob::GobEncoder;
pub use hit::{Fields, Headers, Hit};
pub use latencies::{EXACT_MAX, Latencies};
pub use merge::{Input, Merge};
pub use metrics::{ERRORS_BYTES_MAX, ERRORS_MAX, Metrics};
pub use plot::{ATTACKS_MAX, POINTS_MAX, Plot, THRESHOLD_MIN};
pub use reader::{RECORD_MAX, Reader};
pub use timestamp::{BadTime, Timestamp};
