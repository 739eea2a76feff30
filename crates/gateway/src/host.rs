//! What a gateway needs from the program that runs it, and from the host.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use plimsoll_registry::store::Status;

/// Resolves a host name; may block.
pub type Resolve = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// What the program that runs the gateway provides.
#[derive(Clone)]
pub struct Host {
    /// Resource usage of this process.
    pub process: Arc<dyn Fn() -> Process + Send + Sync>,
    /// What the process observes of its database.
    pub database: Arc<Status>,
    /// Resolves an upstream's host name; may block. `None`: the system's resolver.
    pub resolve: Option<Resolve>,
}

/// Resource usage of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// User and system CPU time.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
}
