//! The connection to Redis: made, checked, given up, and what is logged about it.

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use plimsoll_measure::Nanos;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError, Value};
use tokio::time::{sleep, timeout};

use super::{Inner, check, count};

/// Timeouts in a row after which the connection is given up.
pub(super) const SLOW_MAX: u32 = 3;

/// The time for connecting, with authentication.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The first and the longest pause before connecting again.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A connection that has lasted this long is considered stable.
const STABLE_AFTER: Nanos = Nanos::from_secs(10);

/// The same trouble is logged again only after this long.
const LOG_PAUSE: Nanos = Nanos::from_secs(60);

/// Troubles that are remembered as logged; further ones within [`LOG_PAUSE`] are not logged.
const LOGGED_MAX: usize = 16;

/// A connection in use.
pub(super) struct Link {
    pub(super) connection: MultiplexedConnection,
    /// Timeouts in a row.
    pub(super) slow: AtomicU32,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("slow", &self.slow).finish_non_exhaustive()
    }
}

/// What is wrong with Redis at present, and what has been logged about it.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    pub(super) now: Option<String>,
    /// Whether `now` has not been logged, because it was logged shortly before.
    is_unlogged: bool,
    logged: Vec<(String, Nanos)>,
    /// Whether the log says that Redis is used.
    is_announced: bool,
}

impl Trouble {
    /// Records trouble; returns whether to log it. A Redis that fails again and again, or in several
    /// ways at once, must not fill the log.
    fn begins(&mut self, why: &str, now: Nanos) -> bool {
        if self.now.as_deref() == Some(why) && !self.is_unlogged {
            return false;
        }
        self.now = Some(why.into());
        self.logged.retain(|(_, at)| now - *at < LOG_PAUSE);
        let is_known = self.logged.iter().any(|(logged, _)| logged == why);
        self.is_unlogged = is_known || self.logged.len() >= LOGGED_MAX;
        if self.is_unlogged {
            return false;
        }
        self.logged.push((why.into(), now));
        self.is_announced = false;
        true
    }

    /// Records that Redis is used; returns whether to log it.
    fn is_over(&mut self) -> bool {
        self.now = None;
        !std::mem::replace(&mut self.is_announced, true)
    }
}

impl Inner {
    /// Counts reads or writes that failed. Errors of Redis itself leave the connection usable.
    #[cold]
    pub(super) fn failed(&self, link: &Arc<Link>, error: &RedisError, n: u64) {
        if error.code() == Some("WRONGTYPE") {
            return count(&self.counters.foreign, n);
        }
        count(&self.counters.failed, n);
        if error.code().is_some() {
            self.report(&check::refused(error));
        } else {
            self.unlink(link, &check::explain(error));
        }
    }

    /// Stops using a connection, unless that has been done.
    #[cold]
    pub(super) fn unlink(&self, link: &Arc<Link>, why: &str) {
        let before = self.link.compare_and_swap(link, None);
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, link)) {
            self.report(&format!("{why}; calls are relayed without it until it is back"));
            self.lost_link.notify_one();
        }
    }

    /// Records trouble, and logs it if it is new.
    fn report(&self, why: &str) {
        if self.trouble().begins(why, self.clock.now()) {
            tracing::warn!("the cache in Redis at {}: {why}", check::address(&self.client));
        }
    }

    pub(super) fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects, and again whenever the connection is lost.
    pub(super) async fn keep_connected(self: Arc<Inner>) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.connect().await {
                Ok(connection) => {
                    let link = Link { connection, slow: AtomicU32::new(0) };
                    self.link.store(Some(Arc::new(link)));
                    if self.trouble().is_over() {
                        let address = check::address(&self.client);
                        tracing::info!("the cache in Redis at {address} is used");
                    }
                    let since = self.clock.now();
                    self.lost_link.notified().await;
                    if self.clock.now() - since > STABLE_AFTER {
                        pause = PAUSE_MIN;
                    }
                }
                Err(why) => self.report(&format!("{why}; calls are relayed without it")),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None);
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|error| check::explain(&error))?,
            Err(_) => return Err(format!("it did not answer within {CONNECT_TIMEOUT:?}")),
        };
        match timeout(CONNECT_TIMEOUT, check::version(&mut connection)).await {
            Ok(checked) => checked?,
            Err(_) => return Err(format!("it did not answer within {CONNECT_TIMEOUT:?}")),
        }
        let ping = async { redis::cmd("PING").query_async::<Value>(&mut connection).await };
        match timeout(self.settings.timeout, ping).await {
            Ok(pong) => pong.map_err(|error| check::explain(&error))?,
            Err(_) => {
                let limit = self.settings.timeout.as_secs_f64() * 1e3;
                return Err(format!("it takes longer than {limit} ms to answer"));
            }
        };
        Ok(connection)
    }
}
