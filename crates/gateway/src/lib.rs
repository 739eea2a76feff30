//! The gateway: relays JSON-RPC from callers to upstreams, at a web server's cost.
//!
//! # Layout
//! - [`settings`], [`model`]: what it is told

pub mod model;
pub mod settings;
