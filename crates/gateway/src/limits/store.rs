//! What replicas share: a store of buckets, which counts the replicas, too.

use std::future::Future;
use std::pin::Pin;

use plimsoll_measure::Nanos;

use super::lease::{Grant, Request};

/// A request to a bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    /// The name of the bucket.
    pub(crate) name: &'a str,
    /// Tokens per second.
    pub(crate) rate: f64,
    /// How long the rate takes to fill the bucket.
    pub(crate) burst: Nanos,
    pub(crate) request: Request,
}

/// An answer; `None`: the store cannot be reached, or is late. It comes within the store's timeout.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Option<T>> + 'a>>;

/// A store of buckets.
pub(crate) trait Store: Send + Sync {
    /// Whether it can be reached, as far as is known.
    fn is_used(&self) -> bool;

    /// Takes tokens out of buckets; one grant for each request.
    fn lease<'a>(&'a self, asks: &'a [Ask<'a>]) -> Answer<'a, Vec<Grant>>;

    /// Records that the replica with this id runs; returns how many do.
    fn replicas<'a>(&'a self, id: &'a str) -> Answer<'a, u64>;
}
