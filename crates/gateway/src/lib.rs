//! The gateway: relays JSON-RPC from callers to upstreams, at a web server's cost.
//!
//! # Layout
//! Layers; each uses only those below it.
//! - [`gateway`]: a running gateway: started, reconfigured, drained
//! - [`warnings()`]: settings that probably do not do what was meant
//! - `serve`: listeners, sessions, faces
//! - `call`: permits, routes, attempts, judging
//! - `upstream`: the client's side of HTTP
//! - `keeper`: background work: name resolution
//! - [`observe`]: counters, metrics, logs
//! - `local`, `permit`, `buffer`, `payload`, `gzip`, `offload`: a thread's own, the process's capacity,
//!   bodies, long work
//! - [`protocol`]: what a service speaks: the meanings of errors
//! - `transport`, `http1`, [`error`], `host`: sockets, HTTP/1.1 messages, the gateway's own errors
//! - `fuzz`: entry points for fuzzing

mod buffer;
mod call;
pub mod error;
#[doc(hidden)]
pub mod fuzz;
pub mod gateway;
mod gzip;
mod host;
mod http1;
mod keeper;
mod local;
pub mod observe;
mod offload;
mod payload;
mod permit;
pub mod protocol;
mod serve;
mod transport;
mod upstream;
mod warnings;

pub use gateway::{Drained, Gateway, StartError};
pub use host::{Host, Process, Resolve};
pub use plimsoll_registry::{Definitions, Settings};
pub use warnings::warnings;
