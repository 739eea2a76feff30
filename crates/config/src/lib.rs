//! Documents: TOML with places, variables, all problems at once, the nearest known key.
//!
//! It knows no key of any document; a crate that has a document reads it through [`Table`], which
//! remembers which keys were asked for and reports the rest as unknown.
//!
//! # Layout
//! - `document`: [`Document`], [`Table`], [`Field`]: reading with places
//! - `attached`: [`Attached`]: a file that a document names, with places of its own
//! - `problem`: [`Problem`], [`Problems`]: what is wrong, where, and how to mend it
//! - `variables`: [`Variables`], [`Text`]: `${NAME}` and what of it may be shown
//! - `values`: rates, durations and sizes as people write them
//! - `nearest`: the known word that an unknown one was probably meant to be

mod attached;
mod document;
mod nearest;
mod problem;
pub mod values;
mod variables;

pub use attached::{Attached, Spot};
pub use document::{Document, Field, Table};
pub use nearest::nearest;
pub use problem::{Place, Problem, Problems};
pub use variables::{Text, Variables};
