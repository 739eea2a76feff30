//! Names to addresses, on a thread of its own, so that a slow name server delays no arrival.
//!
//! The system's resolver answers (`/etc/hosts`, search domains and all), every address it gives is
//! used, and the plan's `dns_ttl` says how long: the system does not tell a record's own.

use super::Message;
use super::kernel::Mailbox;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender, channel};

/// What a worker wants to know.
pub(crate) struct Question {
    pub(crate) pool: usize,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The answer: all addresses, or why there is none.
pub(crate) struct Resolved {
    pub(crate) pool: usize,
    pub(crate) addresses: Result<Vec<SocketAddr>, String>,
}

/// Asks the system; never gives an empty list.
pub(crate) fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found: io::Result<Vec<SocketAddr>> = (host, port).to_socket_addrs().map(Iterator::collect);
    match found {
        Ok(addresses) if addresses.is_empty() => Err("the name has no addresses".into()),
        Ok(addresses) => Ok(addresses),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a host needs no asking.
pub(crate) fn is_literal(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
}

/// Starts the thread; it ends when the last sender is dropped.
///
/// # Errors
/// The system starts no thread.
pub(crate) fn start() -> io::Result<Sender<(Question, Mailbox)>> {
    let (sender, questions): (_, Receiver<(Question, Mailbox)>) = channel();
    let serve = move || {
        for (question, asker) in questions {
            let addresses = lookup(&question.host, question.port);
            // A worker that has ended needs no answer.
            asker.send(Message::Resolved(Resolved { pool: question.pool, addresses }));
        }
    };
    std::thread::Builder::new().name("resolver".into()).spawn(serve)?;
    Ok(sender)
}
