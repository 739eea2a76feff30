//! The gateway: relays JSON-RPC from callers to upstreams, with the overhead of a web server.
//!
//! # Layout
//! Layers; each uses only the layers below it.
//! - [`gateway`]: a running gateway: starts, reconfigures, drains
//! - [`warnings()`]: warnings about settings that are probably mistakes
//! - `serve`: listeners, sessions, request routing, the admin API
//! - `call`: permits, routes, attempts, judging answers
//! - `upstream`: the HTTP client
//! - `keeper`: background work: name resolution
//! - [`observe`]: counters, metrics, access log, traces
//! - `meter`, `account`: what is counted for whom
//! - `limits`: rates and quotas of endpoints and keys
//! - `line`: how long calls may wait for an upstream
//! - `local`, `permit`, `buffer`, `payload`, `gzip`, `offload`: per-thread state, the process's
//!   capacity, bodies, long work
//! - [`cache`]: which answers are stored, under which key, where and for how long
//! - [`heads`]: which heads of a chain are served, and which upstreams have them
//! - [`agree`]: whether the answers of several upstreams agree
//! - [`sends`]: transactions that callers send, and which upstreams took them
//! - [`protocol`]: the services' protocols: the meanings of errors, where calls name blocks
//! - `transport`, `http1`, [`error`], `host`: sockets, HTTP/1.1 messages, the gateway's own errors
//! - `fuzz`: entry points for fuzzing

mod account;
pub mod agree;
mod buffer;
pub mod cache;
mod call;
pub mod error;
#[doc(hidden)]
pub mod fuzz;
pub mod gateway;
mod gzip;
pub mod heads;
mod host;
mod http1;
mod keeper;
mod limits;
mod line;
mod local;
mod meter;
pub mod observe;
mod offload;
mod payload;
mod permit;
pub mod protocol;
pub mod sends;
mod serve;
#[cfg(test)]
mod simulation;
mod transport;
mod upstream;
mod warnings;

pub use gateway::{Drained, Gateway, StartError};
pub use host::{Admin, AdminAnswer, AdminRequest, Host, Process, ReadWallClock, Resolve};
pub use plimsoll_registry::{Definitions, Settings};
pub use transport::tls::connector;
pub use warnings::{Warning, file_problems, warnings};
