//! Redis as the second level of the cache.
//!
//! # Reading
//! One round trip: the value and the time that it still has. A caller waits for at most
//! [`RedisSettings::timeout`], a few milliseconds; after that its call is relayed as if there were no
//! Redis. After [`link::SLOW_MAX`] timeouts in a row, or an error of the connection, the connection is given
//! up and Redis is skipped without waiting.
//!
//! # Back again
//! A task of the keeper connects again and again, with pauses that double up to [`link::PAUSE_MAX`]. Redis is
//! used once it has accepted the password, has a supported version, and answers within the timeout. One
//! that is only reachable now and then keeps its long pauses until a connection has lasted for
//! [`link::STABLE_AFTER`].
//!
//! # Writing
//! Nobody waits for it. Answers are queued, at most [`queue::QUEUE_MAX`] of them and [`queue::QUEUE_BYTES_MAX`] bytes,
//! and written by a task of the keeper, many in one round trip. What does not fit, or cannot be written
//! in time, is lost and counted.
//!
//! A Redis that is full, read-only or loading refuses writes or reads; they are counted, and the rest
//! goes on. Replicas then serve their own heads.
//!
//! # Layout
//! - [`link`]: the connection, and what is logged about it
//! - [`check`]: whether it is a Redis that can be used, and what its errors mean
//! - [`queue`]: the writes
//! - [`leases`]: the store of shared limits

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use plimsoll_measure::{Clock, Nanos};
use redis::{Client, RedisResult, Value};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::shared::{
    self, HEADER_LEN, Name, Register, RegisterReply, Reply, Shared, SharedCounts, SharedEntry,
    Unanswered,
};
use crate::offload;

mod check;
mod leases;
mod link;
mod queue;

pub use check::UrlError;
use link::{Link, SLOW_MAX, Trouble};
use queue::{QUEUE_MAX, WRITE_TIMEOUT, Write};

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

#[derive(Debug)]
struct Inner {
    settings: RedisSettings,
    client: Client,
    clock: Clock,
    /// The connection; `None` while Redis is not used.
    link: ArcSwapOption<Link>,
    lost_link: Notify,
    /// Why it is not used, or what it last refused.
    trouble: Mutex<Trouble>,
    queued_bytes: AtomicU64,
    counters: Counters,
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

/// Reads a register; a value of another type, which is not ours, as an empty text.
const READ: &str = "\
local now = redis.pcall('GET', KEYS[1])
if type(now) == 'table' and string.find(now.err, 'WRONGTYPE', 1, true) then return '' end
return now";

/// Replaces a register if it has the old value, where an empty text means none or one of another type.
const REPLACE: &str = "\
local now = redis.pcall('GET', KEYS[1])
if type(now) == 'table' then now = '' end
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
        self.inner.trouble().now.clone()
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
            let [claimed] = self.inner.ask(&pipe).await.ok()?;
            Some(claimed != Value::Nil)
        })
    }

    fn release(&self, name: &Name) {
        self.enqueue(Write::Release(name.claim()));
    }

    fn read<'a>(&'a self, register: &'a str) -> RegisterReply<'a, Register> {
        let mut pipe = redis::pipe();
        pipe.cmd("EVAL").arg(READ).arg(1).arg(register).cmd("TIME");
        pipe.cmd("PEXPIRE").arg(register).arg(REGISTER_TTL.as_millis() as u64);
        Box::pin(async move {
            let [value, time, _] = self.inner.ask(&pipe).await?;
            let strange = |_| Unanswered::Late;
            let (secs, micros): (u64, u64) = redis::from_redis_value(time).map_err(strange)?;
            let time = Nanos::from_secs(secs) + Nanos::from_micros(micros);
            Ok((redis::from_redis_value(value).map_err(strange)?, time))
        })
    }

    fn replace<'a>(
        &'a self,
        register: &'a str,
        old: Option<&'a [u8]>,
        new: &'a [u8],
    ) -> RegisterReply<'a, bool> {
        let mut pipe = redis::pipe();
        let command = pipe.cmd("EVAL").arg(REPLACE).arg(1).arg(register);
        command.arg(old.unwrap_or_default()).arg(new).arg(REGISTER_TTL.as_millis() as u64);
        Box::pin(async move {
            let [replaced] = self.inner.ask(&pipe).await?;
            Ok(replaced == Value::Int(1))
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
        let [value, left] = self.ask(&pipe).await.ok()?;
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

    /// Sends commands that a call waits for, and returns their answers.
    ///
    /// # Errors
    /// Redis is not used, does not answer in time, or refuses one of them.
    async fn ask<const N: usize>(&self, pipe: &redis::Pipeline) -> Result<[Value; N], Unanswered> {
        let Some(link) = self.link.load_full() else {
            count(&self.counters.skipped, 1);
            return Err(Unanswered::Late);
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
                return Err(Unanswered::Late);
            }
            Ok(answers) => answers.and_then(|answers| answers.into_iter().collect()),
        };
        let answers: Vec<Value> = match answers {
            Ok(answers) => answers,
            Err(error) => {
                self.failed(&link, &error, 1);
                let is_refused = error.code().is_some();
                return Err(if is_refused { Unanswered::Refused } else { Unanswered::Late });
            }
        };
        link.slow.store(0, Relaxed);
        answers.try_into().map_err(|_| Unanswered::Late)
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
