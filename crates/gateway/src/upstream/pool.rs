//! A worker's connections to one upstream: those that are idle, and places for those in use.

use std::cell::RefCell;
use std::sync::Arc;

use plimsoll_measure::Nanos;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{AGE_MAX, Connection, Failure};
use crate::error::ErrorKind;
use crate::keeper::dns::Addresses;
use crate::local::Local;

/// Connections to one upstream.
pub(super) struct Pool {
    /// The one used last is at the end.
    idle: RefCell<Vec<Connection>>,
    places: Arc<Semaphore>,
}

/// A place for a connection in use.
pub(super) type Place = OwnedSemaphorePermit;

impl Pool {
    /// A pool in which `most` connections may be in use.
    pub(super) fn new(most: usize) -> Pool {
        Pool { idle: RefCell::default(), places: Arc::new(Semaphore::new(most.max(1))) }
    }

    /// A place for an exchange, if there is one.
    pub(super) fn place_now(&self) -> Option<Place> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// Waits for a place, first come, first served.
    pub(super) async fn place(&self, local: &Local, deadline: Nanos) -> Result<Place, Failure> {
        let acquired = self.places.clone().acquire_owned();
        match tokio::time::timeout_at(local.instant(deadline), acquired).await {
            Ok(Ok(place)) => Ok(place),
            _ => {
                let message = "every connection to the upstream was in use until the timeout";
                Err(Failure::new(ErrorKind::TimedOut, false, message))
            }
        }
    }

    /// An idle connection on which nothing has come since, if there is one; `sure`: as of now, not
    /// only as far as the runtime knows.
    pub(super) fn take(&self, sure: bool, now: Nanos) -> Option<Connection> {
        loop {
            let connection = self.idle.borrow_mut().pop()?;
            if connection.may_be_used(now) && connection.io.is_quiet(sure) {
                return Some(connection);
            }
        }
    }

    pub(super) fn give(&self, mut connection: Connection, now: Nanos) {
        connection.idle_since = now;
        if connection.may_be_used(now) {
            self.idle.borrow_mut().push(connection);
        }
    }

    /// Closes connections that have been idle for too long, that the upstream has closed, or whose
    /// address the upstream's name has no more.
    pub(super) fn tidy(&self, now: Nanos, addresses: Option<&Addresses>) {
        let is_current = |one: &Connection| match (one.address, addresses) {
            (Some(address), Some(addresses)) => addresses.contains(&address),
            _ => true,
        };
        self.idle
            .borrow_mut()
            .retain(|one| one.may_be_used(now) && is_current(one) && one.io.is_quiet(false));
    }

    /// Closes all idle connections.
    pub(super) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Whether it holds no idle connection.
    pub(super) fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty()
    }
}

impl Connection {
    /// Whether it is neither too old nor idle for longer than the upstream allows.
    fn may_be_used(&self, now: Nanos) -> bool {
        now - self.idle_since <= self.idle_max && now - self.opened_at <= AGE_MAX
    }
}
