//! Vegeta 12: flags, results and reports.
//!
//! Byte for byte what vegeta 12.13.0 reads and writes, where its output is deterministic.
//!
//! # Layout
//! - `duration`: [`Duration`], in Go's notation
//! - `flags`: [`flags::parse`]: command lines in Go's syntax, and the flags of each command

pub mod duration;
pub mod flags;

pub use duration::Duration;
