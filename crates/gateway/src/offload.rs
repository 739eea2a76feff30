//! Runs long computations off the worker threads: decompressing, compressing, scanning long JSON.
//!
//! A worker's event loop serves all its callers; a body of several megabytes would block it for
//! tens of milliseconds. Such work runs on the runtime's few blocking threads, in FIFO order. Short
//! work runs inline, because moving it costs more than doing it.

use bytes::Bytes;

/// Bodies up to this size are scanned and compressed inline: a few hundred microseconds at most.
pub(crate) const INLINE_MAX: usize = 64 << 10;

/// Blocking threads per worker. Few, so that they do not take CPU time from the workers.
pub(crate) const THREADS: usize = 2;

/// Runs `work` on another thread. If the future is dropped, the work still runs to its end.
///
/// Returns `None` if the work panicked or the gateway is shutting down.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// Buffers of at least this size are freed on another thread, because unmapping takes milliseconds.
const DISCARD_MIN: usize = 1 << 20;

/// Frees the parts of a body.
pub(crate) fn discard(parts: Vec<Bytes>) {
    if parts.iter().any(|part| part.len() >= DISCARD_MIN) {
        tokio::task::spawn_blocking(move || drop(parts));
    }
}
