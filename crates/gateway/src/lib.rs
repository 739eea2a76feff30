//! The gateway: relays JSON-RPC from callers to upstreams, at a web server's cost.
//!
//! # Layout
//! Layers; each uses only those below it.
//! - [`gateway`]: a running gateway: started, reconfigured, drained
//! - `serve`: listeners, sessions, faces
//! - `call`: routes, attempts, judging
//! - `upstream`: the client's side of HTTP
//! - [`observe`]: counters, metrics, logs
//! - [`protocol`]: what a service speaks: the meanings of errors
//! - `transport`, `http1`, [`error`]: sockets, HTTP/1.1 messages, the gateway's own errors
//! - `fuzz`: entry points for fuzzing

mod budget;
mod call;
pub mod error;
#[doc(hidden)]
pub mod fuzz;
pub mod gateway;
mod http1;
pub mod observe;
pub mod protocol;
mod serve;
mod transport;
mod upstream;

pub use gateway::{Drained, Gateway, Outside, Process, StartError};
pub use plimsoll_registry::{Definitions, Settings};
