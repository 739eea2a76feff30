//! Redis as the second level of the cache.
//!
//! # Reading
//! One round trip: the value and the time that it still has. A caller waits for at most
//! [`RedisSettings::timeout`], a few milliseconds; after that its call is relayed as if there were no
//! Redis. After [`SLOW_MAX`] timeouts in a row, or an error of the connection, the connection is given
//! up and Redis is skipped without waiting.
//!
//! # Back again
//! A task of the keeper connects again and again, with pauses that double up to [`PAUSE_MAX`]. Redis is
//! used once it has accepted the password, has a supported version, and answers within the timeout. One
//! that is only reachable now and then keeps its long pauses until a connection has lasted for
//! [`STABLE_AFTER`].
//!
//! # Writing
//! Nobody waits for it. Answers are queued, at most [`QUEUE_MAX`] of them and [`QUEUE_BYTES_MAX`] bytes,
//! and written by a task of the keeper, many in one round trip. What does not fit, or cannot be written
//! in time, is lost and counted.
//!
//! A Redis that is full, read-only or loading refuses writes or reads; they are counted, and the rest
//! goes on.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use plimsoll_measure::{Clock, Nanos};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult, Value};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::shared::{self, HEADER_LEN, Name, Shared, SharedEntry};
use crate::offload;

mod check;

pub use check::UrlError;

/// Timeouts in a row after which the connection is given up.
const SLOW_MAX: u32 = 3;

/// The time for connecting, with authentication.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The time for writing queued answers.
const WRITE_TIMEOUT: Duration = Duration::from_millis(500);

/// The first and the longest pause before connecting again.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A connection that has lasted this long is considered stable.
const STABLE_AFTER: Nanos = Nanos::from_secs(10);

/// Answers waiting to be written.
const QUEUE_MAX: usize = 1024;

/// Their bytes.
const QUEUE_BYTES_MAX: u64 = 16 << 20;

/// Answers written in one round trip.
const WRITES_MAX: usize = 64;

/// How Redis is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSettings {
    /// `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]` or `unix:///PATH`.
    pub url: String,
    /// How long a call waits for it.
    pub timeout: Duration,
    /// Values with longer results are ignored.
    pub result_max: usize,
}

/// Counts since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedisCounts {
    /// Answers found.
    pub hits: u64,
    /// Answers not found.
    pub misses: u64,
    /// Reads and writes that were skipped because Redis was not reachable.
    pub skipped: u64,
    /// Reads that took longer than the timeout.
    pub slow: u64,
    /// Reads and writes that Redis refused, or that failed with the connection.
    pub failed: u64,
    /// Values that are not ours, or damaged.
    pub foreign: u64,
    /// Answers written.
    pub written: u64,
    /// Answers that were not written, because too many were waiting or writing took too long.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    skipped: AtomicU64,
    slow: AtomicU64,
    failed: AtomicU64,
    foreign: AtomicU64,
    written: AtomicU64,
    lost: AtomicU64,
}

fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}

/// See the module. Dropping it ends its tasks.
#[derive(Debug)]
pub struct Redis {
    inner: Arc<Inner>,
    queue: mpsc::Sender<(Name, SharedEntry)>,
    tasks: [AbortHandle; 2],
}

#[derive(Debug)]
struct Inner {
    settings: RedisSettings,
    client: Client,
    clock: Clock,
    /// The connection; `None` while Redis is not used.
    link: ArcSwapOption<Link>,
    lost_link: Notify,
    /// Why it is not used, or what it last refused.
    trouble: Mutex<Option<String>>,
    queued_bytes: AtomicU64,
    counters: Counters,
}

/// A connection in use.
struct Link {
    connection: MultiplexedConnection,
    /// Timeouts in a row.
    slow: AtomicU32,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("slow", &self.slow).finish_non_exhaustive()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Redis {
    /// Starts using Redis, with tasks on this runtime. Returns at once; whether it can be reached is
    /// logged.
    ///
    /// # Errors
    /// The URL is not valid.
    pub fn start(
        settings: RedisSettings,
        clock: Clock,
        runtime: &Handle,
    ) -> Result<Redis, UrlError> {
        let client = check::client(&settings.url)?;
        let inner = Arc::new(Inner {
            settings,
            client,
            clock,
            link: ArcSwapOption::empty(),
            lost_link: Notify::new(),
            trouble: Mutex::default(),
            queued_bytes: AtomicU64::new(0),
            counters: Counters::default(),
        });
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        let connecting = runtime.spawn(inner.clone().keep_connected());
        let writing = runtime.spawn(inner.clone().write_queued(queued));
        let tasks = [connecting.abort_handle(), writing.abort_handle()];
        Ok(Redis { inner, queue, tasks })
    }

    /// Whether it is used now.
    pub fn is_used(&self) -> bool {
        self.inner.link.load().is_some()
    }

    /// Why it is not used, or what it last refused; `None` if there is no trouble.
    pub fn trouble(&self) -> Option<String> {
        self.inner.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The counts.
    pub fn counts(&self) -> RedisCounts {
        let counters = &self.inner.counters;
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        RedisCounts {
            hits: get(&counters.hits),
            misses: get(&counters.misses),
            skipped: get(&counters.skipped),
            slow: get(&counters.slow),
            failed: get(&counters.failed),
            foreign: get(&counters.foreign),
            written: get(&counters.written),
            lost: get(&counters.lost),
        }
    }
}

impl Shared for Redis {
    fn get<'a>(
        &'a self,
        name: &'a Name,
    ) -> Pin<Box<dyn Future<Output = Option<SharedEntry>> + 'a>> {
        Box::pin(self.inner.get(name))
    }

    fn put(&self, name: Name, entry: SharedEntry) {
        let counters = &self.inner.counters;
        if !self.is_used() {
            return count(&counters.skipped, 1);
        }
        let bytes = entry.result.len() as u64;
        let queued = self.inner.queued_bytes.fetch_add(bytes, Relaxed) + bytes;
        if queued > QUEUE_BYTES_MAX || self.queue.try_send((name, entry)).is_err() {
            self.inner.queued_bytes.fetch_sub(bytes, Relaxed);
            count(&counters.lost, 1);
        }
    }
}

impl Inner {
    async fn get(&self, name: &Name) -> Option<SharedEntry> {
        let Some(link) = self.link.load_full() else {
            count(&self.counters.skipped, 1);
            return None;
        };
        let mut connection = link.connection.clone();
        let mut pipe = redis::pipe();
        // A part, so that a foreign value of any length takes no more memory than one of ours.
        let last = HEADER_LEN + self.settings.result_max;
        pipe.cmd("GETRANGE").arg(&name.text).arg(0).arg(last);
        pipe.cmd("PTTL").arg(&name.text);
        let pipe = pipe.ignore_errors();
        let reading = pipe.query_async::<Vec<RedisResult<Value>>>(&mut connection);
        let found = match timeout(self.settings.timeout, reading).await {
            Err(_) => {
                count(&self.counters.slow, 1);
                if link.slow.fetch_add(1, Relaxed) + 1 >= SLOW_MAX {
                    let limit = self.settings.timeout.as_secs_f64() * 1e3;
                    self.unlink(&link, &format!("it took longer than {limit} ms to answer"));
                }
                return None;
            }
            Ok(found) => found.and_then(value_and_time),
        };
        let (value, left) = match found {
            Ok(found) => found,
            Err(error) => {
                self.failed(&link, &error, 1);
                return None;
            }
        };
        link.slow.store(0, Relaxed);
        if value.is_empty() {
            count(&self.counters.misses, 1);
            return None;
        }
        let entry = self.read(name, value, left).await;
        let counter = if entry.is_some() { &self.counters.hits } else { &self.counters.foreign };
        count(counter, 1);
        entry
    }

    /// Reads a value with this many milliseconds left.
    async fn read(&self, name: &Name, value: Vec<u8>, left: i64) -> Option<SharedEntry> {
        // Our values always have a time.
        let remaining = Nanos::from_millis(u64::try_from(left).ok().filter(|left| *left > 0)?);
        let result_max = self.settings.result_max;
        let is_long = shared::result_len(&value)? > offload::INLINE_MAX;
        if !is_long {
            return shared::decode(name, &value, remaining, result_max);
        }
        let name = name.clone();
        offload::run(move || shared::decode(&name, &value, remaining, result_max)).await?
    }

    /// Counts reads or writes that failed. Errors of Redis itself leave the connection usable.
    #[cold]
    fn failed(&self, link: &Arc<Link>, error: &RedisError, n: u64) {
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
    fn unlink(&self, link: &Arc<Link>, why: &str) {
        let before = self.link.compare_and_swap(link, None);
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, link)) {
            self.report(&format!("{why}; calls are relayed without it until it is back"));
            self.lost_link.notify_one();
        }
    }

    /// Logs trouble that is new.
    fn report(&self, why: &str) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.as_deref() != Some(why) {
            tracing::warn!("the cache in Redis at {}: {why}", check::address(&self.client));
            *trouble = Some(why.into());
        }
    }

    /// Connects, and again whenever the connection is lost.
    async fn keep_connected(self: Arc<Inner>) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.connect().await {
                Ok(connection) => {
                    let link = Link { connection, slow: AtomicU32::new(0) };
                    self.link.store(Some(Arc::new(link)));
                    self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
                    tracing::info!(
                        "the cache in Redis at {} is used",
                        check::address(&self.client)
                    );
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

    /// Writes what is queued.
    async fn write_queued(self: Arc<Inner>, mut queue: mpsc::Receiver<(Name, SharedEntry)>) {
        let mut batch = Vec::with_capacity(WRITES_MAX);
        while queue.recv_many(&mut batch, WRITES_MAX).await > 0 {
            let bytes: usize = batch.iter().map(|(_, entry)| entry.result.len()).sum();
            let (mut pipe, writes) = (redis::pipe(), batch.len() as u64);
            for (name, entry) in batch.drain(..) {
                let left = entry.remaining.0 / 1_000_000;
                let is_long = entry.result.len() > offload::INLINE_MAX;
                let text = name.text.clone();
                let value = if is_long {
                    offload::run(move || shared::encode(&name, &entry)).await.unwrap_or_default()
                } else {
                    shared::encode(&name, &entry)
                };
                pipe.cmd("SET").arg(text).arg(value).arg("PX").arg(left.max(1));
            }
            self.queued_bytes.fetch_sub(bytes as u64, Relaxed);
            self.write(pipe.ignore_errors(), writes).await;
        }
    }

    async fn write(&self, pipe: &redis::Pipeline, writes: u64) {
        let Some(link) = self.link.load_full() else {
            return count(&self.counters.skipped, writes);
        };
        let mut connection = link.connection.clone();
        let writing = pipe.query_async::<Vec<RedisResult<Value>>>(&mut connection);
        match timeout(WRITE_TIMEOUT, writing).await {
            Err(_) => {
                count(&self.counters.lost, writes);
                self.unlink(&link, &format!("it did not accept answers within {WRITE_TIMEOUT:?}"));
            }
            Ok(Err(error)) => self.failed(&link, &error, writes),
            Ok(Ok(results)) => {
                if results.iter().all(Result::is_ok) {
                    self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
                }
                for result in results {
                    match result {
                        Ok(_) => count(&self.counters.written, 1),
                        Err(error) => self.failed(&link, &error, 1),
                    }
                }
            }
        }
    }
}

/// The value and the milliseconds that it has left, from the answers to a read.
fn value_and_time(answers: Vec<RedisResult<Value>>) -> RedisResult<(Vec<u8>, i64)> {
    let mut answers = answers.into_iter();
    let mut next = || answers.next().unwrap_or(Ok(Value::Nil));
    let value = redis::from_redis_value(next()?)?;
    Ok((value, redis::from_redis_value(next()?)?))
}

#[cfg(test)]
mod tests;
