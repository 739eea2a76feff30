//! The gateway's registry: what a gateway process does and what it relays, read, checked and joined.
//!
//! It knows no socket of a caller or an upstream; how calls are relayed is the gateway's concern.
//!
//! # Layout
//! - [`settings`], [`model`]: the resolved forms
//! - [`config`]: the file, the environment and flags
//! - [`store`]: the database that adds entries, behind a narrow seam
//! - [`sources`]: all of these joined, and whether any of them changed

pub mod config;
pub mod model;
pub mod settings;
pub mod sources;
pub mod store;

pub use model::Definitions;
pub use settings::Settings;
