//! What a gateway needs from the program that runs it, and from the host.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use plimsoll_measure::WallClock;
use plimsoll_registry::store::Status;
use plimsoll_registry::usage::Inbox;
use tokio::sync::oneshot;

/// Resolves a host name; may block.
pub type Resolve = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// Reads the wall clock.
pub type ReadWallClock = Arc<dyn Fn() -> WallClock + Send + Sync>;

/// What the program that runs the gateway provides.
#[derive(Clone)]
pub struct Host {
    /// Resource usage of this process.
    pub process: Arc<dyn Fn() -> Process + Send + Sync>,
    /// What the process observes of its database.
    pub database: Arc<Status>,
    /// Where to hand over what accounts have used. `None`: it is not recorded.
    pub usage: Option<Arc<Inbox>>,
    /// Answers requests to the admin API about the registry. `None`: there is no such API.
    pub admin: Option<Admin>,
    /// Resolves an upstream's host name; may block. `None`: the system's resolver.
    pub resolve: Option<Resolve>,
    /// The wall clock of quotas and of the expiry of keys. `None`: the system's.
    pub wall_clock: Option<ReadWallClock>,
}

/// Answers what the admin API asks about the registry; returns at once.
pub type Admin = Arc<dyn Fn(AdminRequest) -> oneshot::Receiver<AdminAnswer> + Send + Sync>;

/// An authenticated request to the admin API.
#[derive(Clone, Debug)]
pub struct AdminRequest {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// The path below `/api/v1/`, decoded.
    pub path: String,
    /// The parameters of the query, decoded, in order.
    pub query: Vec<(String, String)>,
    /// The body; empty for `GET`.
    pub body: Vec<u8>,
    /// The media types that are accepted, as written; may be empty.
    pub accept: String,
}

/// An answer of the admin API.
#[derive(Clone, Debug)]
pub struct AdminAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The media type of the body.
    pub media_type: &'static str,
    /// The document.
    pub body: Vec<u8>,
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
