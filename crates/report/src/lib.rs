//! What a run showed, and whether it may be believed.
//!
//! It reads snapshots and plans and writes text and JSON; it opens no files and knows no engine.
//!
//! # Layout
//! - `summary`: [`Summary`]: all figures of a run, from the sum of its snapshots
//! - `objectives`: whether they hold
//! - `verdict`: [`Verdict`]: findings, and whether the instrument was the limit
//! - `scrapes`: [`Scrapes`]: what other processes told of themselves
//! - `text`: the report for a terminal; `progress`: one line while it runs
//! - `json`: `summary.json`; `prometheus`: figures while it runs

mod json;
mod objectives;
mod progress;
mod prometheus;
mod scrapes;
mod summary;
mod text;
mod verdict;

pub use objectives::{Judged, judge_objective};
pub use progress::progress_line;
pub use prometheus::exposition;
pub use scrapes::{Calls, Evenness, Process, Relays, Scrapes};
pub use summary::{Group, Summary};
pub use verdict::Verdict;
