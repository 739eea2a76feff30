//! The results of a run: its figures, and whether they are valid.
//!
//! Turns snapshots and plans into text and JSON. It opens no files and does not depend on the engine.
//!
//! # Layout
//! - `fold`: [`Fold`]: sums a run up second by second
//! - `narrow`: [`Narrow`]: a part of a run, selected by [`Filters`]
//! - `activity`: [`Activity`]: when streams were active, and rates
//! - `fleet`: a run over several agents, with a row for each
//! - `merge`: [`Merge`]: the sum of several runs
//! - `summary`: [`Summary`]: all figures of a finished run
//! - `seconds`: [`Seconds`]: when something happened
//! - `objectives`: whether objectives hold
//! - `timeline`: [`Timeline`]: the host during the run
//! - `series`: [`TimeSeries`]: the run over time, for charts
//! - `verdict`: [`Verdict`]: findings, and whether the generator distorted the run
//! - `scrapes`: [`Scrapes`]: what other processes reported
//! - `logs`: [`Logs`]: lines of logs that matched patterns
//! - `cost`: [`Cost`]: what relays cost, and a projection
//! - `text`: the report for a terminal; `progress`: one line during the run; `tone`: colours
//! - `parquet`: samples as a Parquet file
//! - `json`: `summary.json`; `prometheus`: metrics during the run
//! - `figures`: the names of figures, for all formats
//! - `csv`, `junit`: formats for spreadsheets and CI; `hdr`: HdrHistogram's two text formats
//! - `html`: the report as a page with charts
//! - [`uplot`]: the chart library that HTML pages embed

mod activity;
mod cost;
mod csv;
mod figures;
mod fleet;
mod fold;
mod hdr;
mod html;
mod json;
mod junit;
mod logs;
mod merge;
mod narrow;
mod objectives;
mod parquet;
mod progress;
mod prometheus;
mod records;
mod scrapes;
mod seconds;
mod series;
mod summary;
#[cfg(test)]
mod synthetic;
mod text;
mod timeline;
mod tone;
pub mod uplot;
mod verdict;

pub use activity::{Activity, Rates};
pub use cost::{Cost, CostOf, Known, Projection, Resource, Step, Unknown};
pub use figures::TimeFigure;
pub use fleet::{AgentFigures, AgentPart, AgentRecords, AgentRow};
pub use fold::Fold;
pub use hdr::IntervalLog;
pub use html::{Attachment, Fragment};
pub use logs::{Example, LogLines, Logs, PatternLines};
pub use merge::{Merge, Merged, MergedRun, Run};
pub use narrow::{Filters, Narrow, Problem, Scope};
pub use objectives::{Judged, Unjudged};
pub use parquet::{ParquetReader, ParquetWriter, ReadError, Row};
pub use progress::{Part, progress};
pub use prometheus::{METRICS, Metric, exposition};
pub use records::Details;
pub use scrapes::{Calls, Evenness, Process, Relays, Scrapes};
pub use seconds::Seconds;
pub use series::{Recent, TimeSeries};
pub use summary::{CpuPerRequest, Group, Split, StageOf, StreamGroup, Summary};
pub use text::{Line, clean, paragraph};
pub use timeline::{Span, Timeline};
pub use tone::Tone;
pub use verdict::{Headroom, Verdict};
