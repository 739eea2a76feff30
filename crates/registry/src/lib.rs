//! The gateway's registry: reads, checks and joins a gateway's settings and definitions.
//!
//! It opens no connections to callers or upstreams; relaying calls is the gateway crate's job.
//!
//! # Layout
//! - [`settings`], [`model`]: resolved settings and definitions
//! - [`config`]: the file, the environment and flags
//! - [`restrict`]: files that only their owner may read
//! - [`store`]: the database of entries
//! - [`usage`]: what customers have used, on its way to the database and in it
//! - [`sources`]: joins configuration and database, and detects changes

pub mod config;
pub mod model;
mod private;
pub mod settings;
pub mod sources;
pub mod store;
pub mod usage;

pub use model::Definitions;
pub use private::restrict;
pub use settings::Settings;
