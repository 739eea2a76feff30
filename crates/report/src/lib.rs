//! The results of a run: its figures, and whether they are valid.
//!
//! Turns snapshots and plans into text and JSON. It opens no files and does not depend on the engine.
//!
//! # Layout
//! - `fold`: [`Fold`]: sums a run up second by second; [`Narrow`]: a part of it
//! - `summary`: [`Summary`]: all figures of a finished run
//! - `seconds`: [`Seconds`]: when something happened
//! - `objectives`: whether objectives hold
//! - `timeline`: [`Timeline`]: the host during the run
//! - `verdict`: [`Verdict`]: findings, and whether the generator distorted the run
//! - `scrapes`: [`Scrapes`]: what other processes reported
//! - `text`: the report for a terminal; `progress`: one line during the run; `tone`: colours
//! - `parquet`: samples as a Parquet file
//! - `json`: `summary.json`; `prometheus`: metrics during the run

mod fold;
mod json;
mod objectives;
mod parquet;
mod progress;
mod prometheus;
mod scrapes;
mod seconds;
mod summary;
#[cfg(test)]
mod synthetic;
mod text;
mod timeline;
mod tone;
mod verdict;

pub use fold::{Fold, Narrow};
pub use objectives::Judged;
pub use parquet::{ParquetReader, ParquetWriter, ReadError, Row};
pub use progress::{Part, progress};
pub use prometheus::{METRICS, Metric, exposition};
pub use scrapes::{Calls, Evenness, Process, Relays, Scrapes};
pub use seconds::Seconds;
pub use summary::{CpuPerRequest, Group, Rates, Split, StageOf, StreamGroup, Summary};
pub use text::{clean, paragraph};
pub use timeline::{Span, Timeline};
pub use tone::Tone;
pub use verdict::{Headroom, Verdict};
