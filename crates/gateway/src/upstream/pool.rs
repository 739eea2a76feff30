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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::Time;
    use crate::observe::stats::Sharded;
    use crate::permit::Capacity;
    use crate::transport::io::Io;
    use crate::transport::timer::Timer;
    use crate::upstream::{IDLE_MAX, OpenConnection};
    use plimsoll_registry::settings::Limits;
    use std::net::IpAddr;
    use std::rc::Rc;
    use tokio::net::{TcpListener, TcpStream};

    #[test]
    fn connections_end_when_they_are_old_or_lead_elsewhere() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let capacity = Arc::new(Capacity::new(&Limits::default()));
            let local = Local::new(0, Time::start(), capacity, Arc::new(Sharded::new(1)));
            let local = Rc::new(local);
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let to = listener.local_addr().expect("an address");
            let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
            let secs = Nanos::from_secs;
            let now = secs(1_000);
            // (opened, idle since, idle for at most, leads to, is kept)
            let rows = [
                (now, now, IDLE_MAX, None, true),
                (now, now - secs(49), IDLE_MAX, Some(ip(1)), true),
                // idle for too long, also by the upstream's own word
                (now, now - secs(51), IDLE_MAX, None, false),
                (now, now - secs(5), secs(4), None, false),
                // too old
                (now - secs(301), now, IDLE_MAX, None, false),
                // the name has another address by now
                (now, now, IDLE_MAX, Some(ip(2)), false),
            ];
            for (row, (opened_at, idle_since, idle_max, address, is_kept)) in
                rows.into_iter().enumerate()
            {
                let pool = Pool::new(1);
                let stream = TcpStream::connect(to).await.expect("a connection");
                let _other = listener.accept().await.expect("its other end");
                let connection = Connection {
                    io: Io::Plain(stream),
                    timer: Timer::new(local.instant(now)),
                    opened_at,
                    idle_since,
                    idle_max,
                    address,
                    _open: OpenConnection::new(&local),
                };
                pool.idle.borrow_mut().push(connection);
                pool.tidy(now, Some(&[ip(1)].into()));
                assert_eq!(!pool.is_empty(), is_kept, "row {row}");
                assert_eq!(pool.take(false, now).is_some(), is_kept, "row {row}");
            }
            assert_eq!(local.counts().upstream.get(), 0);
        });
    }
}
