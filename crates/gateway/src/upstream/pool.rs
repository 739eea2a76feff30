//! A worker's idle connections to one upstream. Those in use are limited by [`super::gate`].
//!
//! # Distrust
//! An upstream, or a balancer before it, may close connections that it has promised to keep, so that
//! each request over one of them must be repeated. After [`STALE_MAX`] stale connections without an answer over a
//! pooled one in between, idle connections are discarded and not used for [`DISTRUST_MIN`], and twice as
//! long with each further stale one, up to [`DISTRUST_MAX`]. One is kept, because its end shows that
//! the upstream was restarted.

use std::cell::{Cell, RefCell};

use plimsoll_measure::Nanos;

use super::{AGE_MAX, Connection, Health};
use crate::keeper::dns::Addresses;

/// A restart breaks some connections at once; more in a row are a habit.
const STALE_MAX: u32 = 3;

/// How long pooled connections are not used at first.
const DISTRUST_MIN: Nanos = Nanos::from_secs(1);

/// The longest time.
const DISTRUST_MAX: Nanos = Nanos::from_secs(64);

/// Connections to one upstream.
#[derive(Default)]
pub(super) struct Pool {
    /// Stale connections since the last answer over a pooled one, apart from those during distrust.
    stale: Cell<u32>,
    distrusted_until: Cell<Nanos>,
    /// The most recently used connection is last.
    idle: RefCell<Vec<Connection>>,
}

impl Pool {
    /// Takes an idle connection on which nothing has arrived. With `check_socket`, the socket itself
    /// is checked, not only the runtime's readiness state. A connection that the upstream has closed is
    /// a loss.
    pub(super) fn take(
        &self,
        check_socket: bool,
        now: Nanos,
        health: &Health,
    ) -> Option<Connection> {
        if self.is_distrusted(now) {
            return None;
        }
        loop {
            let connection = self.idle.borrow_mut().pop()?;
            if connection.may_be_used(now) {
                if connection.io.is_quiet(check_socket) {
                    return Some(connection);
                }
                health.lost();
            }
        }
    }

    /// Returns a connection to the pool.
    pub(super) fn put(&self, mut connection: Connection, now: Nanos) {
        connection.idle_since = now;
        if self.is_distrusted(now) {
            self.clear();
        }
        if connection.may_be_used(now) {
            self.idle.borrow_mut().push(connection);
        }
    }

    /// Records that a pooled connection was stale.
    #[cold]
    pub(super) fn was_stale(&self, now: Nanos) {
        if self.is_distrusted(now) {
            return;
        }
        self.stale.set(self.stale.get() + 1);
        if let Some(doublings) = self.stale.get().checked_sub(STALE_MAX) {
            let span = Nanos(DISTRUST_MIN.0 << doublings.min(6)).min(DISTRUST_MAX);
            self.distrusted_until.set(now + span);
            self.clear();
        }
    }

    /// Records that an answer arrived over a pooled connection.
    #[inline]
    pub(super) fn was_good(&self) {
        self.stale.set(0);
    }

    #[inline]
    fn is_distrusted(&self, now: Nanos) -> bool {
        now < self.distrusted_until.get()
    }

    /// Closes connections that have been idle for too long, that the upstream has closed, or whose
    /// address the upstream's name no longer resolves to. Except for the first, this is a loss.
    pub(super) fn tidy(&self, now: Nanos, addresses: Option<&Addresses>, health: &Health) {
        let is_current = |one: &Connection| match (one.address, addresses) {
            (Some(address), Some(addresses)) => addresses.contains(&address),
            _ => true,
        };
        let mut is_closed = false;
        self.idle.borrow_mut().retain(|one| {
            let is_quiet = one.io.is_quiet(false);
            let is_there = is_quiet && is_current(one);
            is_closed |= !is_there;
            is_there && one.may_be_used(now)
        });
        // A restart closes many connections at once.
        if is_closed {
            health.lost();
        }
    }

    /// Closes all idle connections.
    pub(super) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Whether there are no idle connections.
    pub(super) fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty()
    }
}

impl Connection {
    /// Whether the connection is neither too old nor idle for too long.
    fn may_be_used(&self, now: Nanos) -> bool {
        now - self.idle_since <= self.idle_max && now - self.opened_at <= AGE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::{Local, Time};
    use crate::observe::stats::Sharded;
    use crate::permit::Capacity;
    use crate::transport::io::Io;
    use crate::transport::timer::Timer;
    use crate::upstream::{IDLE_MAX, OpenConnection};
    use plimsoll_registry::settings::Limits;
    use std::net::IpAddr;
    use std::rc::Rc;
    use std::sync::Arc;
    use tokio::net::{TcpListener, TcpStream};

    #[test]
    fn old_idle_and_stale_connections_are_closed() {
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
            // (opened_at, idle_since, idle_max, address, is kept)
            let rows = [
                (now, now, IDLE_MAX, None, true),
                (now, now - secs(49), IDLE_MAX, Some(ip(1)), true),
                // idle for too long, by the default or the upstream's own limit
                (now, now - secs(51), IDLE_MAX, None, false),
                (now, now - secs(5), secs(4), None, false),
                // too old
                (now - secs(301), now, IDLE_MAX, None, false),
            ];
            for (row, (opened_at, idle_since, idle_max, address, is_kept)) in
                rows.into_iter().enumerate()
            {
                let pool = Pool::default();
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
                let health = Health::default();
                pool.tidy(now, Some(&[ip(1)].into()), &health);
                assert_eq!(!pool.is_empty(), is_kept, "row {row}");
                assert_eq!(pool.take(true, now, &health).is_some(), is_kept, "row {row}");
                assert_eq!(health.losses(), 0, "the upstream closed none");
            }
            // A pool with a connection to this address, and the upstream's end of it unless it has
            // been closed.
            let pooled = async |address: Option<IpAddr>, is_closed: bool| {
                let pool = Pool::default();
                let stream = TcpStream::connect(to).await.expect("a connection");
                let (other, _) = listener.accept().await.expect("its other end");
                let other = (!is_closed).then_some(other);
                if is_closed {
                    stream.readable().await.expect("its end");
                }
                pool.put(
                    Connection {
                        io: Io::Plain(stream),
                        timer: Timer::new(local.instant(now)),
                        opened_at: now,
                        idle_since: now,
                        idle_max: IDLE_MAX,
                        address,
                        _open: OpenConnection::new(&local),
                    },
                    now,
                );
                (pool, other)
            };
            let closed = async || pooled(None, true).await.0;
            // The name no longer resolves to this address.
            let (pool, _other) = pooled(Some(ip(2)), false).await;
            let health = Health::default();
            pool.tidy(now, Some(&[ip(1)].into()), &health);
            assert!(pool.is_empty() && health.losses() == 1);
            // Distrusted after three stale ones in a row, then after each, for longer.
            let pool = closed().await;
            let rows =
                [(0, false), (0, false), (0, true), (500, true), (1_000, true), (2_999, true)];
            for (millis, is_distrusted) in rows {
                let at = now + Nanos::from_millis(millis);
                pool.was_stale(at);
                assert_eq!(pool.is_distrusted(at), is_distrusted, "{millis}");
                assert_eq!(pool.is_empty(), is_distrusted, "{millis}");
            }
            assert!(!pool.is_distrusted(now + secs(3)), "1 s and 2 s");
            pool.was_good();
            pool.was_stale(now + secs(3));
            assert!(!pool.is_distrusted(now + secs(3)));
            let health = Health::default();
            closed().await.tidy(now, None, &health);
            assert_eq!(health.losses(), 1);
            assert!(closed().await.take(true, now, &health).is_none());
            assert_eq!(health.losses(), 2);
            assert_eq!(local.counts().upstream.get(), 0);
        });
    }
}
