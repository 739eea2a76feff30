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

use super::shared::{self, HEADER_LEN, Name, Register, Reply, Shared, SharedCounts, SharedEntry};
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
    queue: mpsc::Sender<Write>,
    tasks: [AbortHandle; 2],
}

/// What nobody waits for.
#[derive(Debug)]
enum Write {
    Put(Name, SharedEntry),
    Release(String),
}

impl Write {
    /// The bytes of its answer.
    fn bytes(&self) -> u64 {
        match self {
            Write::Put(_, entry) => entry.result.len() as u64,
            Write::Release(_) => 0,
        }
    }
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
}

impl Redis {
    /// Queues a write, or counts that it was skipped or lost.
    fn enqueue(&self, write: Write) {
        let counters = &self.inner.counters;
        if !self.is_used() {
            return count(&counters.skipped, 1);
        }
        let bytes = write.bytes();
        let queued = self.inner.queued_bytes.fetch_add(bytes, Relaxed) + bytes;
        if queued > QUEUE_BYTES_MAX || self.queue.try_send(write).is_err() {
            self.inner.queued_bytes.fetch_sub(bytes, Relaxed);
            count(&counters.lost, 1);
        }
    }
}

/// Replaces a register if it has the old value, where an empty text means none.
const REPLACE: &str = "\
local now = redis.call('GET', KEYS[1])
if (now or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1";

/// A register that nobody reads for this long ends: a chain that has been restarted while no replica
/// ran is served from its new heads.
const REGISTER_TTL: Duration = Duration::from_secs(600);

impl Shared for Redis {
    fn is_used(&self) -> bool {
        self.inner.link.load().is_some()
    }

    fn trouble(&self) -> Option<String> {
        self.inner.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn counts(&self) -> SharedCounts {
        let counters = &self.inner.counters;
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        SharedCounts {
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

    fn get<'a>(&'a self, name: &'a Name) -> Reply<'a, SharedEntry> {
        Box::pin(self.inner.get(name))
    }

    fn put(&self, name: Name, entry: SharedEntry) {
        self.enqueue(Write::Put(name, entry));
    }

    fn claim<'a>(&'a self, name: &'a Name, span: Nanos) -> Reply<'a, bool> {
        let mut pipe = redis::pipe();
        let millis = (span.0 / 1_000_000).max(1);
        pipe.cmd("SET").arg(name.claim()).arg(1).arg("NX").arg("PX").arg(millis);
        Box::pin(async move {
            let [claimed] = self.inner.ask(&pipe).await?;
            Some(claimed != Value::Nil)
        })
    }

    fn release(&self, name: &Name) {
        self.enqueue(Write::Release(name.claim()));
    }

    fn read<'a>(&'a self, register: &'a str) -> Reply<'a, Register> {
        let mut pipe = redis::pipe();
        pipe.cmd("GET").arg(register).cmd("TIME");
        pipe.cmd("PEXPIRE").arg(register).arg(REGISTER_TTL.as_millis() as u64);
        Box::pin(async move {
            let [value, time, _] = self.inner.ask(&pipe).await?;
            let (secs, micros): (u64, u64) = redis::from_redis_value(time).ok()?;
            let time = Nanos::from_secs(secs) + Nanos::from_micros(micros);
            Some((redis::from_redis_value(value).ok()?, time))
        })
    }

    fn replace<'a>(
        &'a self,
        register: &'a str,
        old: Option<&'a [u8]>,
        new: &'a [u8],
    ) -> Reply<'a, bool> {
        let mut pipe = redis::pipe();
        let command = pipe.cmd("EVAL").arg(REPLACE).arg(1).arg(register);
        command.arg(old.unwrap_or_default()).arg(new).arg(REGISTER_TTL.as_millis() as u64);
        Box::pin(async move {
            let [replaced] = self.inner.ask(&pipe).await?;
            Some(replaced == Value::Int(1))
        })
    }

    fn remove<'a>(&'a self, prefix: &'a str) -> Reply<'a, u64> {
        Box::pin(self.inner.remove(prefix))
    }
}

impl Inner {
    async fn get(&self, name: &Name) -> Option<SharedEntry> {
        let mut pipe = redis::pipe();
        // A part, so that a foreign value of any length takes no more memory than one of ours.
        let last = HEADER_LEN + self.settings.result_max;
        pipe.cmd("GETRANGE").arg(&name.text).arg(0).arg(last);
        pipe.cmd("PTTL").arg(&name.text);
        let [value, left] = self.ask(&pipe).await?;
        let (value, left) = match (redis::from_redis_value(value), redis::from_redis_value(left)) {
            (Ok(value), Ok(left)) => (value, left),
            _ => (Vec::new(), 0),
        };
        if value.is_empty() {
            count(&self.counters.misses, 1);
            return None;
        }
        let entry = self.read(name, value, left).await;
        let counter = if entry.is_some() { &self.counters.hits } else { &self.counters.foreign };
        count(counter, 1);
        entry
    }

    /// Sends commands that a call waits for, and returns their answers; `None` if Redis is not used,
    /// does not answer in time, or refuses one of them.
    async fn ask<const N: usize>(&self, pipe: &redis::Pipeline) -> Option<[Value; N]> {
        let Some(link) = self.link.load_full() else {
            count(&self.counters.skipped, 1);
            return None;
        };
        let mut connection = link.connection.clone();
        let mut pipe = pipe.clone();
        let pipe = pipe.ignore_errors();
        let asking = pipe.query_async::<Vec<RedisResult<Value>>>(&mut connection);
        let answers = match timeout(self.settings.timeout, asking).await {
            Err(_) => {
                count(&self.counters.slow, 1);
                if link.slow.fetch_add(1, Relaxed) + 1 >= SLOW_MAX {
                    let limit = self.settings.timeout.as_secs_f64() * 1e3;
                    self.unlink(&link, &format!("it took longer than {limit} ms to answer"));
                }
                return None;
            }
            Ok(answers) => answers.and_then(|answers| answers.into_iter().collect()),
        };
        let answers: Vec<Value> = match answers {
            Ok(answers) => answers,
            Err(error) => {
                self.failed(&link, &error, 1);
                return None;
            }
        };
        link.slow.store(0, Relaxed);
        answers.try_into().ok()
    }

    /// Removes the answers whose names begin with this text, a few at a time.
    async fn remove(&self, prefix: &str) -> Option<u64> {
        let link = self.link.load_full()?;
        let mut connection = link.connection.clone();
        let pattern = glob(prefix);
        let (mut cursor, mut removed) = (0u64, 0);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(1_000);
            let scanning = scan.query_async::<(u64, Vec<Vec<u8>>)>(&mut connection);
            let (next, names) = timeout(WRITE_TIMEOUT, scanning).await.ok()?.ok()?;
            if !names.is_empty() {
                let mut unlink = redis::cmd("UNLINK");
                unlink.arg(names);
                let unlinking = unlink.query_async::<u64>(&mut connection);
                removed += timeout(WRITE_TIMEOUT, unlinking).await.ok()?.ok()?;
            }
            cursor = next;
            if cursor == 0 {
                return Some(removed);
            }
        }
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
    async fn write_queued(self: Arc<Inner>, mut queue: mpsc::Receiver<Write>) {
        let mut batch = Vec::with_capacity(WRITES_MAX);
        while queue.recv_many(&mut batch, WRITES_MAX).await > 0 {
            let bytes: u64 = batch.iter().map(Write::bytes).sum();
            let (mut pipe, writes) = (redis::pipe(), batch.len() as u64);
            for write in batch.drain(..) {
                match write {
                    Write::Put(name, entry) => {
                        let left = entry.remaining.0 / 1_000_000;
                        let is_long = entry.result.len() > offload::INLINE_MAX;
                        let text = name.text.clone();
                        let value = if is_long {
                            let encoding = offload::run(move || shared::encode(&name, &entry));
                            encoding.await.unwrap_or_default()
                        } else {
                            shared::encode(&name, &entry)
                        };
                        pipe.cmd("SET").arg(text).arg(value).arg("PX").arg(left.max(1));
                    }
                    Write::Release(claim) => drop(pipe.cmd("DEL").arg(claim)),
                }
            }
            self.queued_bytes.fetch_sub(bytes, Relaxed);
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

/// A pattern for names that begin with this text.
fn glob(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for character in prefix.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern + "*"
}

#[cfg(test)]
mod tests;
