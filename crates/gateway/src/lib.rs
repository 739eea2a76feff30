//! The gateway: relays JSON-RPC from callers to upstreams, at a web server's cost.
//!
//! # Layout
//! - [`settings`], [`model`]: what it is told
//! - [`config`]: the file, the environment and flags that say it
//! - [`store`]: the database that adds to it, behind a narrow seam
//! - [`sources`]: everything that says it, joined, and whether it changed
//! - [`gateway`]: a running one: started, told of changes, drained
//! - `worker`: what the tasks of a thread share
//! - `acceptor`: where connections come in
//! - `session`, `http1`, `io`, `tls`, `timer`: callers' connections
//! - `face`, `rest`: what a request asks for
//! - `relay`: the way of a JSON-RPC body, call by call
//! - `registry`: what may be called, and which upstream takes the next call
//! - `budget`: what long bodies may take in sum
//! - `upstream`: the client's side of HTTP
//! - [`error`], [`category`]: our errors, and what upstreams' errors mean
//! - `stats`, [`metrics`], `access_log`: what is told of it
//! - `fuzz`: doors for fuzzing

mod acceptor;
mod access_log;
mod budget;
pub mod category;
pub mod config;
pub mod error;
mod face;
#[doc(hidden)]
pub mod fuzz;
pub mod gateway;
mod http1;
mod io;
pub mod metrics;
pub mod model;
mod registry;
mod relay;
mod rest;
mod session;
pub mod settings;
pub mod sources;
mod stats;
pub mod store;
mod timer;
mod tls;
mod upstream;
mod worker;

pub use gateway::{Drained, Gateway, Outside, Process, StartError};
pub use model::Definitions;
pub use settings::Settings;
