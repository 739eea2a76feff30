//! The requests that a simulator received, in order, and counts.
//!
//! The record is bounded: requests beyond its limit are counted as unrecorded, not kept.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use hyper::body::Bytes;
use plimsoll_measure::{Histogram, Nanos};

use crate::node::methods::Method;

/// A recorded request.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The number of the request, from 0.
    pub order: u64,
    /// The number of its connection, from 0.
    pub connection: u64,
    /// When the request had been read, counted from the start.
    pub at: Nanos,
    /// The requested service.
    pub service: String,
    /// Path and query.
    pub path: String,
    /// Headers in order, with lower-case names.
    pub headers: Vec<(String, String)>,
    /// The whole body. The ids of its calls identify the sender.
    pub body: Bytes,
}

impl Seen {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Counts since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted.
    pub connections: u64,
    /// Connections that are open now.
    pub connections_open: u64,
    /// JSON-RPC requests; a batch counts as one.
    pub requests: u64,
    /// Requests that were not recorded, because the record was full or disabled.
    pub unrecorded: u64,
    /// Calls by method; unknown methods count as `other`. Methods without calls are omitted.
    pub calls: BTreeMap<&'static str, u64>,
    /// Requests refused because the queue was full.
    pub overflowed: u64,
    /// Notifications of subscriptions that were sent.
    pub notifications: u64,
    /// WebSocket connections that were closed because their peer did not read.
    pub slow_readers: u64,
    /// How often each kind of fault was injected.
    pub faults: BTreeMap<&'static str, u64>,
}

/// Records and counts requests.
pub(crate) struct Record {
    limit: usize,
    kept: Mutex<Vec<Seen>>,
    order: AtomicU64,
    unrecorded: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) connections_closed: AtomicU64,
    pub(crate) overflowed: AtomicU64,
    pub(crate) notifications: AtomicU64,
    pub(crate) slow_readers: AtomicU64,
    delays: Mutex<Histogram>,
    calls: Vec<AtomicU64>,
}

impl Record {
    pub(crate) fn new(limit: usize) -> Record {
        Record {
            limit,
            kept: Mutex::default(),
            order: AtomicU64::new(0),
            unrecorded: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            connections_closed: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            notifications: AtomicU64::new(0),
            slow_readers: AtomicU64::new(0),
            delays: Mutex::default(),
            calls: (0..=Method::NAMES.len()).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Counts a request, records what `describe` returns if there is room, and returns its number.
    pub(crate) fn request(&self, describe: impl FnOnce(u64) -> Seen) -> u64 {
        if self.limit == 0 {
            self.unrecorded.fetch_add(1, Ordering::Relaxed);
            return self.order.fetch_add(1, Ordering::Relaxed);
        }
        // Numbered while the lock is held, so that the record is in order.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let order = self.order.fetch_add(1, Ordering::Relaxed);
        if kept.len() < self.limit {
            kept.push(describe(order));
        } else {
            self.unrecorded.fetch_add(1, Ordering::Relaxed);
        }
        order
    }

    pub(crate) fn call(&self, method: &str) {
        let at = Method::of(method).map_or(Method::NAMES.len(), |method| method as usize);
        self.calls[at].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the time from a block's timestamp until the kernel had accepted its notification.
    pub(crate) fn delay(&self, delay: Nanos) {
        self.delays.lock().unwrap_or_else(PoisonError::into_inner).record(delay);
    }

    /// The times from a block's timestamp until the kernel had accepted a notification of it over WebSocket.
    pub(crate) fn delays(&self) -> Histogram {
        self.delays.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn forget(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn counts(&self) -> Counts {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let closed = load(&self.connections_closed);
        let names = Method::NAMES.iter().copied().chain(["other"]);
        Counts {
            connections: load(&self.connections),
            connections_open: load(&self.connections).saturating_sub(closed),
            requests: load(&self.order),
            unrecorded: load(&self.unrecorded),
            calls: names.zip(self.calls.iter().map(load)).filter(|(_, n)| *n > 0).collect(),
            overflowed: load(&self.overflowed),
            notifications: load(&self.notifications),
            slow_readers: load(&self.slow_readers),
            faults: BTreeMap::new(),
        }
    }
}
