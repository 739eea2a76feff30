//! Simulated chain nodes with consistent answers, a capacity that is known in closed form, and
//! scheduled faults.
//!
//! For tests of everything that talks to chain nodes, and for trying a plan before it is pointed at
//! a real system. The same seed gives the same chains. Only what is visible over the wire is
//! simulated: there is no consensus, no virtual machine and no trie.
//!
//! # Layout
//! - [`sim`]: a running simulator: start, inspect, change, stop
//! - [`settings`], [`service`]: its settings
//! - `server`, `http`, `http2`, `websocket`, `feed`, `control`, `wire`, `timer`: serving
//! - `node`, `chain`: the answers, and the chain they are computed from
//! - [`capacity`], [`distribution`]: servers, queue, and distributions of durations
//! - [`faults`]: faults of a node
//! - [`seen`]: recorded requests and counts
//! - [`proxy`]: a TCP proxy that injects network faults
//! - [`wallet`]: accounts to send transactions from
//! - [`verify`]: checks that a node's methods agree with each other

pub mod capacity;
mod chain;
mod control;
pub mod distribution;
mod events;
pub mod faults;
mod feed;
mod http;
mod http2;
mod node;
pub mod proxy;
pub mod seen;
mod server;
pub mod service;
pub mod settings;
pub mod sim;
mod timer;
pub mod verify;
pub mod wallet;
mod websocket;
mod wire;

pub use capacity::Capacity;
pub use distribution::Distribution;
pub use faults::{Fault, FaultKind, Window};
pub use proxy::{LinkFault, LinkFaultKind, Proxy, ProxySettings};
pub use seen::{Counts, Seen};
pub use service::Service;
pub use settings::{Date, ManualDate, Settings, StartError, TlsFiles};
pub use sim::Sim;
pub use wallet::Wallet;
