//! What a gateway needs from the program and the host it runs on.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

/// Looks a name up; may block.
pub type Resolve = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// What the program that runs the gateway provides.
#[derive(Clone)]
pub struct Host {
    /// Figures of this process.
    pub process: Arc<dyn Fn() -> Process + Send + Sync>,
    /// Database queries so far.
    pub db_queries: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Finds the addresses of an upstream's name; may block. `None`: the host's own resolver.
    pub resolve: Option<Resolve>,
}

/// Figures of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// User and system time.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
}
