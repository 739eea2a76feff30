//! A simulated world: chain nodes whose answers agree, whose capacity is known in closed form, and
//! which fail on a timetable.
//!
//! For tests of everything that speaks to chain nodes, and for trying a plan before it is pointed at
//! a real system. The same seed gives the same world. It simulates what is seen over the wire, not
//! how a chain works: there is no consensus, no virtual machine and no trie.
//!
//! # Layout
//! - [`sim`]: a running simulator as a library: start, ask, change, stop
//! - [`settings`], [`service`]: what it is started with
//! - `server`, `http`, `control`, `wire`, `timer`: serving
//! - `node`, `chain`: the answers, and the chain they are made from
//! - [`capacity`], [`distribution`]: servers, queue and how long things take
//! - [`faults`]: what goes wrong when
//! - [`seen`]: what it saw
//! - [`proxy`]: a TCP proxy with faults, for before anything real
//! - [`wallet`]: accounts to send from
//! - [`verify`]: whether a node agrees with itself

pub mod capacity;
mod chain;
mod control;
pub mod distribution;
pub mod faults;
mod http;
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
mod wire;

pub use capacity::Capacity;
pub use distribution::Distribution;
pub use faults::{Fault, FaultKind, Window};
pub use proxy::{LinkFault, LinkFaultKind, Proxy, ProxySettings};
pub use seen::{Counts, Seen};
pub use service::Service;
pub use settings::{Date, HeldDate, Settings, StartError};
pub use sim::Sim;
pub use wallet::Wallet;
