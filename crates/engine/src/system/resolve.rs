//! Name resolution on a separate thread, so that a slow name server does not delay arrivals.
//!
//! Uses the system's resolver (including `/etc/hosts` and search domains) and all addresses it
//! returns. The plan's `dns_ttl` sets how long they are used, because the system does not expose a
//! record's TTL.

use super::Message;
use super::kernel::Mailbox;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};

/// A request to resolve a name.
pub(crate) struct Query {
    pub(crate) pool: usize,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The result: all addresses, or why the name did not resolve.
pub(crate) struct Resolved {
    pub(crate) pool: usize,
    pub(crate) addresses: Result<Vec<SocketAddr>, String>,
}

/// Resolves a name with the system's resolver; the list is never empty.
pub(crate) fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found: io::Result<Vec<SocketAddr>> = (host, port).to_socket_addrs().map(Iterator::collect);
    match found {
        Ok(addresses) if addresses.is_empty() => Err("the name has no addresses".into()),
        Ok(addresses) => Ok(addresses),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a host is an IP address.
pub(crate) fn is_literal(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
}

/// Spawns the thread; it ends when the last sender is dropped.
///
/// # Errors
/// If the thread cannot be spawned.
pub(crate) fn start() -> io::Result<Sender<(Query, Mailbox)>> {
    let (sender, queries): (_, Receiver<(Query, Mailbox)>) = channel();
    let serve = move || {
        for (query, mailbox) in queries {
            let addresses = lookup(&query.host, query.port);
            // Fails if the worker has ended.
            mailbox.send(Message::Resolved(Resolved { pool: query.pool, addresses }));
        }
    };
    std::thread::Builder::new().name("resolver".into()).spawn(serve)?;
    Ok(sender)
}
