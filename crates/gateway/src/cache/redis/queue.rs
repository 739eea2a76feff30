//! Writes to Redis that nobody waits for: queued, and written many in one round trip.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use redis::{RedisResult, Value};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Inner, Redis, count};
use crate::cache::shared::{self, Name, Shared, SharedEntry};
use crate::offload;

/// The time for writing queued answers.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_millis(500);

/// Answers waiting to be written.
pub(super) const QUEUE_MAX: usize = 1024;

/// Their bytes.
const QUEUE_BYTES_MAX: u64 = 16 << 20;

/// Answers written in one round trip.
const WRITES_MAX: usize = 64;

/// What nobody waits for.
#[derive(Debug)]
pub(super) enum Write {
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

impl Redis {
    /// Queues a write, or counts that it was skipped or lost.
    pub(super) fn enqueue(&self, write: Write) {
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

impl Inner {
    /// Writes what is queued.
    pub(super) async fn write_queued(self: Arc<Inner>, mut queue: mpsc::Receiver<Write>) {
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
                    self.trouble().now = None;
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
