//! Work that takes long, off the thread that serves: decompressing, compressing, scanning long JSON.
//!
//! A worker's loop serves all its callers; a body of some megabytes would stop it for tens of
//! milliseconds. Such work runs on the runtime's few threads for blocking work, first come, first
//! served; short work stays where it is, because handing it over costs more than doing it.

use bytes::Bytes;

/// Bodies up to this size are scanned, and compressed, where they are: some hundred microseconds at most.
pub(crate) const INLINE_MAX: usize = 64 << 10;

/// The threads for long work, for each worker: it must not take the workers' own processors.
pub(crate) const THREADS: usize = 2;

/// Runs `work` on another thread. Nothing is lost when the caller stops waiting: the work ends by
/// itself.
///
/// `None`: the work panicked, or the gateway is ending.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// Longer buffers are freed on another thread: giving their pages back takes milliseconds.
const DISCARD_MIN: usize = 1 << 20;

/// Frees parts of a body.
pub(crate) fn discard(parts: Vec<Bytes>) {
    if parts.iter().any(|part| part.len() >= DISCARD_MIN) {
        tokio::task::spawn_blocking(move || drop(parts));
    }
}
