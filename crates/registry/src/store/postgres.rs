//! Postgres: a server shared by the gateways of several hosts.
//!
//! # Connections
//! One connection for statements, which several tasks of a process use in turn, and one that listens
//! for changes ([`Listener`], only in gateways). A connection whose statement failed or took longer
//! than [`STATEMENT_MAX`] is dropped, and the next use connects again, to the first of the addresses
//! that accepts changes: a standby does not. So a server that hangs delays only the task that waits
//! for it, and a failover needs nobody's help.
//!
//! # Durability
//! A change is one transaction. It starts by advancing the sequence number, which locks that row:
//! writers take turns, and one that decided on an older state finds the number moved. A change is
//! acknowledged once the server has flushed it, whatever the role's `synchronous_commit`; if the answer
//! to the commit is lost, the error says that the outcome is not known.
//!
//! # Schema
//! `plimsoll_registry` has one row with the version of the schema and the sequence number. Migrations
//! run in one transaction under an advisory lock, so gateways that start at the same time wait for the
//! first. The version is read with every poll, so that a program notices when a newer one has migrated.

pub(super) mod address;
mod listener;
#[cfg(test)]
mod server;
mod session;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

use super::status::{OpenConnection, Status};
use super::{Applied, Change, Entries, StoreErrorKind};
use address::Address;
pub(crate) use listener::Listener;
use session::{Fault, Session, kind_of, no_answer};

/// How long to wait for one address to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// How long to wait for the answers of one operation. They take milliseconds.
const STATEMENT_MAX: Duration = Duration::from_secs(3);

/// The same for a question about usage, which may have to read millions of rows, and for removing old
/// ones. Others that need the connection wait for it. The server gives up a second later.
const QUERY_MAX: Duration = Duration::from_secs(9);

/// Added to that for each change of several.
const CHANGE_MAX: Duration = Duration::from_millis(20);

/// The channel on which changes are announced.
const CHANNEL: &str = "plimsoll_registry";

type Result<T> = std::result::Result<T, StoreErrorKind>;

/// A database, connected when it is used.
#[derive(Debug)]
pub(super) struct Postgres {
    addresses: Vec<Address>,
    /// Whether to create the tables.
    create: bool,
    status: Arc<Status>,
    link: Mutex<Link>,
}

/// The connection for statements.
#[derive(Debug, Default)]
struct Link {
    session: Option<Session>,
    /// The address to try first: the one that last worked.
    first: usize,
    /// The number of sessions so far.
    number: u64,
}

/// An operation's result, unless it took too long.
type Timed<T> = std::result::Result<std::result::Result<T, Fault>, tokio::time::error::Elapsed>;

impl Postgres {
    /// A database at a valid URL; connects to nothing yet.
    pub(super) fn new(url: &str, create: bool, status: Arc<Status>) -> Result<Postgres> {
        let addresses = address::parse(url).map_err(StoreErrorKind::Url)?;
        Ok(Postgres { addresses, create, status, link: Mutex::default() })
    }

    /// Connects, unless there is a connection.
    pub(super) async fn connect(&self) -> Result<()> {
        self.link().await.map(drop)
    }

    pub(super) async fn refresh(&self, known: &mut Entries) -> Result<bool> {
        loop {
            let mut link = self.link().await?;
            // Another connection may lead to another server, whose history may differ.
            let is_same = known.session == link.number;
            let since = is_same.then_some(known.sequence);
            let session = link.session.as_mut().expect("connected above");
            let fresh = timeout(STATEMENT_MAX, session.fresh(&self.status, since)).await;
            let is_late = fresh.is_err();
            match link.settle(fresh) {
                Ok(None) => return Ok(false),
                Ok(Some(fresh)) => return Ok(known.take(fresh, link.number)),
                // The server may have been restarted since the last use.
                Err(StoreErrorKind::Unreachable(_)) if is_same && !is_late => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) async fn apply(&self, changes: &[Change], at: u64) -> Result<Applied> {
        let time = STATEMENT_MAX + CHANGE_MAX * changes.len() as u32;
        let mut is_first = true;
        loop {
            let mut link = self.link().await?;
            let session = link.session.as_mut().expect("connected above");
            let applied = timeout(time, session.apply(&self.status, changes, at)).await;
            match link.settle(applied) {
                // Nothing was written, and the server may have been restarted since the last use.
                Err(StoreErrorKind::Unreachable(_)) if std::mem::take(&mut is_first) => {}
                done => return done,
            }
        }
    }

    /// Listens on the address of the connection for statements; `None` if there is none.
    pub(super) async fn listen(&self) -> Result<Option<Listener>> {
        let (options, session) = {
            let link = self.link.lock().await;
            if link.session.is_none() {
                return Ok(None);
            }
            (self.addresses[link.first].options.clone(), link.number)
        };
        Listener::start(options, session, &self.status).await.map(Some)
    }

    pub(super) async fn close(&self) {
        if let Some(session) = self.link.lock().await.session.take() {
            // The server notices a closed socket, too.
            let _ = timeout(CONNECT_MAX, session.connection.close()).await;
        }
    }

    /// The connection for statements; connects if there is none.
    async fn link(&self) -> Result<MutexGuard<'_, Link>> {
        let mut link = self.link.lock().await;
        if link.session.is_some() {
            return Ok(link);
        }
        let mut refused: Vec<String> = Vec::new();
        let mut other = None;
        for turn in 0..self.addresses.len() {
            let place = (link.first + turn) % self.addresses.len();
            let address = &self.addresses[place];
            match self.session(address).await {
                Ok(session) => {
                    link.session = Some(session);
                    link.first = place;
                    link.number += 1;
                    return Ok(link);
                }
                Err(StoreErrorKind::Unreachable(why)) => {
                    refused.push(format!("{}: {why}", address.shown));
                }
                // A wrong password or a newer schema; another address may still work.
                Err(kind) => other = other.or(Some(kind)),
            }
        }
        Err(other.unwrap_or_else(|| StoreErrorKind::Unreachable(refused.join("; "))))
    }

    /// Connects to one address, and prepares the connection and the schema.
    async fn session(&self, address: &Address) -> Result<Session> {
        address.check_files()?;
        let options = address.options.clone().disable_statement_logging();
        let connection = timeout(CONNECT_MAX, options.connect()).await;
        let connection = connection.map_err(|_| no_answer(CONNECT_MAX))?.map_err(kind_of)?;
        let open = OpenConnection::count(&self.status);
        let mut session = Session { connection, is_committing: false, _open: open };
        let prepared = timeout(STATEMENT_MAX, session.prepare(&self.status, self.create)).await;
        match prepared {
            Ok(Ok(())) => Ok(session),
            Ok(Err(fault)) => Err(fault.into_kind()),
            Err(_) => Err(no_answer(STATEMENT_MAX)),
        }
    }
}

impl Link {
    /// The result of an operation; drops a connection on which one failed.
    fn settle<T>(&mut self, done: Timed<T>) -> Result<T> {
        let kind = match done {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(fault)) => fault.into_kind(),
            Err(_) => no_answer(STATEMENT_MAX),
        };
        let session = self.session.take();
        Err(match kind {
            StoreErrorKind::Unreachable(why) if session.is_some_and(|one| one.is_committing) => {
                StoreErrorKind::Uncertain(why)
            }
            kind => kind,
        })
    }
}

#[cfg(test)]
mod tests;
