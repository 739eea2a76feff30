//! Command lines, files and reports of other load generators, so that existing scripts keep working.
//!
//! Sends nothing and opens no files: readers and writers are passed in.
//!
//! # Layout
//! - `vegeta`: flags, results and reports of vegeta 12

pub mod vegeta;
