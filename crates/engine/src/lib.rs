//! The load engine: a plan is sent as planned, and every arrival is accounted for.
//!
//! It knows no terminal, no files and no reports: it yields one [`Second`] after another. A worker
//! thread has everything it needs for itself; nothing is shared on the hot path.
//!
//! # Layout
//! - `prepare`: [`Prepared`]: everything that can fail or take time, before the clock starts
//! - `crew`: the workers' threads
//! - `running`: [`Running`]: seconds come out; `control`: [`Control`]: commands go in
//! - `worker`: the event loop of one thread; `wake`: when it sleeps and when it spins
//! - `dispatch`: an arrival's way to a connection, and its end
//! - `source`: what is due: the open model's pacers, the closed model's users
//! - `arrival`: what is known of an arrival on its way, by deadline
//! - `pool`: the connections to one origin, and the arrivals that wait for one
//! - `connection`: the protocol seam: what a connection can carry and what it yields; below it
//!   `transport` (TLS) and [`http1`] (the response parser)
//! - `request`: targets as bytes; `judge`: an answer against its expectation
//! - `recorder`: the only place that counts
//! - `system`: the machine: clock, poll, sockets, names
//! - `simulation` (tests): the same engine on a simulated machine, thousands of seeds
//! - `tls`: certificates; `errors`: what the kernel's errors mean

mod arrival;
mod connection;
mod control;
mod crew;
mod dispatch;
mod errors;
pub mod http1;
mod judge;
mod pool;
mod prepare;
mod recorder;
mod request;
mod running;
#[cfg(test)]
mod simulation;
mod source;
mod system;
mod tls;
mod wake;
mod worker;

pub use control::{CommandError, Control};
pub use prepare::{Prepared, Settings, Spin, StartError};
pub use running::{RunError, Running, Second, TraceRecord};
