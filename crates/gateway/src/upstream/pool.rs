//! A worker's connections to one upstream: those that are idle, and places for those in use.

use std::cell::RefCell;

use plimsoll_measure::Nanos;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Connection, Failure};
use crate::call::worker::Worker;
use crate::error::ErrorKind;

/// Connections to one upstream.
pub(crate) struct Pool {
    /// The one used last is at the end.
    idle: RefCell<Vec<Connection>>,
    places: Semaphore,
}

impl Pool {
    /// A pool in which `most` connections may be in use.
    pub(crate) fn new(most: usize) -> Pool {
        Pool { idle: RefCell::default(), places: Semaphore::new(most.max(1)) }
    }

    /// A place for an exchange, if there is one.
    pub(super) fn place_now(&self) -> Option<SemaphorePermit<'_>> {
        self.places.try_acquire().ok()
    }

    /// Waits for a place, first come, first served.
    pub(super) async fn place(
        &self,
        worker: &Worker,
        deadline: Nanos,
    ) -> Result<SemaphorePermit<'_>, Failure> {
        let place = tokio::time::timeout_at(worker.instant(deadline), self.places.acquire()).await;
        match place {
            Ok(Ok(place)) => Ok(place),
            _ => {
                let message = "every connection to the upstream was in use until the timeout";
                Err(Failure::new(ErrorKind::TimedOut, false, message))
            }
        }
    }

    /// An idle connection on which nothing has come since, if there is one; `sure`: as of now, not
    /// only as far as the runtime knows.
    pub(super) fn take(&self, sure: bool) -> Option<Connection> {
        loop {
            let connection = self.idle.borrow_mut().pop()?;
            if connection.io.is_quiet(sure) {
                return Some(connection);
            }
        }
    }

    pub(super) fn give(&self, mut connection: Connection, now: Nanos) {
        connection.idle_since = now;
        self.idle.borrow_mut().push(connection);
    }

    /// Closes connections that have been idle since `oldest` or that the upstream has closed.
    pub(crate) fn tidy(&self, oldest: Nanos) {
        let stays = |one: &Connection| one.idle_since > oldest && one.io.is_quiet(false);
        self.idle.borrow_mut().retain(stays);
    }

    /// Whether it holds no idle connection.
    pub(crate) fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty()
    }
}
