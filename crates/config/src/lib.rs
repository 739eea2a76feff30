//! TOML documents: positions, variables, all problems at once, suggestions for unknown keys.
//!
//! This crate knows no particular keys. Other crates read their documents through [`Table`], which
//! remembers the keys that were read and reports the rest as unknown.
//!
//! # Layout
//! - `document`: [`Document`], [`Table`], [`Field`]: reading with positions
//! - `attached`: [`Attached`]: a file referenced by a document
//! - `file`: [`read_file`]: reads a file that a user named
//! - `json`: [`Json`]: a value as JSON
//! - `problem`: [`Problem`], [`Problems`]: what is wrong, where, and how to fix it
//! - `variables`: [`Variables`], [`Text`]: `${NAME}` substitution
//! - `lines`: lines of a log without what looks like a secret
//! - [`money`]: amounts and prices
//! - `redact`: which parts of a value may be printed
//! - `secrets`: [`Secrets`]: masks secret values in text from elsewhere
//! - `values`: parsing and printing rates, durations and sizes
//! - `nearest`: the known word nearest to an unknown one

mod attached;
mod document;
mod file;
mod json;
mod lines;
pub mod money;
mod nearest;
mod problem;
mod redact;
mod secrets;
pub mod values;
mod variables;

pub use attached::{Attached, Spot};
pub use document::{Document, Field, Table};
pub use file::read_file;
pub use json::Json;
pub use lines::{arguments_without_secrets, without_secrets};
pub use nearest::{nearest, nearest_within};
pub use problem::{Place, Problem, Problems};
pub use redact::{REDACTED, authority_of, is_secret, is_word, secret_within};
pub use secrets::{Secrets, percent_decoded};
pub use variables::{Text, Variables, placeholders};
