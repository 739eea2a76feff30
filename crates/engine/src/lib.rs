//! The load engine: a plan is sent as planned, and every arrival is accounted for.
//!
//! It knows no terminal, no files and no network of its own kind: it hands a [`Snapshot`] a second
//! to a [`Sink`]. One worker thread has everything it needs for itself; nothing is shared on the
//! hot path.
//!
//! # Layout
//! - `run`: [`run`]: from a plan to workers, and from their snapshots to an [`Outcome`]
//! - `worker`: the event loop of one thread; `timer`: what wakes it
//! - `dispatch`: an arrival's way to a connection, and its end
//! - `arrivals`: what is due: the open model's pacers, the closed model's users
//! - `exchange`: what is known of an arrival on its way, by deadline
//! - `pool`: the connections to one host
//! - `connection`: the protocol seam: what a connection can carry and what it yields; below it
//!   `transport` (TCP, TLS) and [`http1`] (the response parser)
//! - `request`: targets as bytes; `judge`: an answer against its expectation
//! - `recorder`: the only place that counts
//! - `resolve`: names to addresses; `tls`: certificates; `errors`: what the kernel's errors mean
//!
//! [`Snapshot`]: plimsoll_measure::Snapshot

mod arrivals;
mod connection;
mod dispatch;
mod errors;
mod exchange;
pub mod http1;
mod judge;
mod pool;
mod recorder;
mod request;
mod resolve;
mod run;
mod timer;
mod tls;
mod worker;

pub use run::{Outcome, Settings, Sink, StartError, Stop, TraceRecord, run};
