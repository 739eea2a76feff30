//! Admission control: the process's calls in flight and bytes of memory, counted across threads.
//!
//! An admitted call holds a [`Permit`]; memory beyond what a permit covers is covered by a
//! [`Share`]. Both release what they took exactly once, when they are dropped, so it is released on
//! every path out of a call (an error, a timeout, a caller that disconnects).
//!
//! # What is charged
//! - a connection: its session and socket, and the state of TLS and HTTP/2;
//! - a request that arrives in several reads, and an HTTP/2 stream: their buffers;
//! - a call: its small buffers ([`CALL_BYTES`]);
//! - every other buffer: long bodies, decoded bodies, long answers, batches.
//!
//! Bytes are charged when memory is allocated, not when a length is announced. Growth is charged
//! before the buffer grows.
//!
//! # Priorities
//! The total never exceeds `limits.memory`. Within it, each [`Purpose`] has a quota, so that
//! callers with long bodies, or with many calls on one connection, cannot cause single short calls
//! to be shed: some memory is reserved for the first call of each connection.
//!
//! When long buffers take more than half of their quota, the process is under pressure: callers
//! that do not read their answers are disconnected early.
//!
//! Invariant: when nothing is in flight and nobody is connected, all counts are zero.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_registry::settings::Limits;

use crate::error::{Error, ErrorKind};

/// The memory of a connection: its task, its timer, its socket's registration.
pub(crate) const CONNECTION_BYTES: u64 = 4 << 10;

/// The memory that TLS adds to a connection: keys and buffers.
pub(crate) const TLS_BYTES: u64 = 16 << 10;

/// The memory that HTTP/2 adds to a connection: header tables, stream slabs, frame buffers.
pub(crate) const HTTP2_BYTES: u64 = 16 << 10;

/// The memory charged for a call: the buffers of its request, of the upstream request, of the
/// response and of its answer, at most 8 KiB each, and its task.
pub(crate) const CALL_BYTES: u64 = 32 << 10;

/// What memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A connection.
    Connection,
    /// A long body or answer.
    Long,
    /// A call in addition to others on its connection, or a request that arrives in several reads.
    Further,
    /// A connection's only call.
    First,
}

impl Purpose {
    const COUNT: usize = 4;

    /// In eighths of `limits.memory`: how much this purpose may hold, and how much may be held in
    /// total after it takes more.
    const fn quota(self) -> (u64, u64) {
        match self {
            Purpose::Connection => (4, 8),
            Purpose::Long => (4, 7),
            Purpose::Further => (2, 7),
            Purpose::First => (8, 8),
        }
    }
}

/// The calls and the memory of the process.
#[derive(Debug, Default)]
pub(crate) struct Capacity {
    calls: AtomicU64,
    bytes: AtomicU64,
    /// `bytes` by purpose, except [`Purpose::First`], which has no quota of its own.
    by_purpose: [AtomicU64; Purpose::COUNT - 1],
    calls_max: AtomicU64,
    bytes_max: AtomicU64,
    endpoint_calls_max: AtomicU64,
}

impl Capacity {
    pub(crate) fn new(limits: &Limits) -> Capacity {
        let capacity = Capacity::default();
        capacity.set_limits(limits);
        capacity
    }

    /// Replaces the limits; calls and memory already held are kept.
    pub(crate) fn set_limits(&self, limits: &Limits) {
        self.calls_max.store(limits.calls as u64, Ordering::Relaxed);
        self.bytes_max.store(limits.memory, Ordering::Relaxed);
        self.endpoint_calls_max.store(limits.calls_per_endpoint as u64, Ordering::Relaxed);
    }

    /// Calls in flight.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Bytes charged.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether memory is short, so that callers that hold it idly should be disconnected.
    pub(crate) fn is_under_pressure(&self) -> bool {
        let held = self.by_purpose[Purpose::Long as usize].load(Ordering::Relaxed);
        held > self.eighths(Purpose::Long.quota().0) / 2
    }

    /// Admits a call. `purpose` is [`Purpose::First`] for its connection's only call, otherwise
    /// [`Purpose::Further`].
    ///
    /// # Errors
    /// Too many calls are in flight, in the process or for the endpoint, or memory is used up.
    #[inline]
    pub(crate) fn enter<'a>(
        &'a self,
        endpoint: &'a AtomicU64,
        purpose: Purpose,
    ) -> Result<Permit<'a>, Error> {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        let of_endpoint = endpoint.fetch_add(1, Ordering::Relaxed);
        let has_memory = self.charge(purpose, CALL_BYTES);
        // From here on, dropping the permit releases everything.
        let permit = Permit { capacity: self, endpoint, purpose };
        if calls >= self.calls_max.load(Ordering::Relaxed) {
            return Err(busy("too many calls in flight (limits.calls); try again"));
        }
        if of_endpoint >= self.endpoint_calls_max.load(Ordering::Relaxed) {
            return Err(busy(
                "too many calls in flight for this endpoint (limits.calls_per_endpoint); try again",
            ));
        }
        if !has_memory {
            return Err(busy(MEMORY_USED_UP));
        }
        Ok(permit)
    }

    /// Charges bytes, and returns whether they are within the limits. Must be undone if not.
    #[inline]
    fn charge(&self, purpose: Purpose, bytes: u64) -> bool {
        let (own, all) = purpose.quota();
        let held = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let fits = held <= self.eighths(all);
        match self.by_purpose.get(purpose as usize) {
            None => fits,
            Some(account) => {
                let held = account.fetch_add(bytes, Ordering::Relaxed) + bytes;
                fits && held <= self.eighths(own)
            }
        }
    }

    #[inline]
    fn release(&self, purpose: Purpose, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(account) = self.by_purpose.get(purpose as usize) {
            account.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn eighths(&self, count: u64) -> u64 {
        self.bytes_max.load(Ordering::Relaxed) / 8 * count
    }
}

/// Admits a call to be in flight.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    capacity: &'a Capacity,
    endpoint: &'a AtomicU64,
    purpose: Purpose,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.capacity.calls.fetch_sub(1, Ordering::Relaxed);
        self.endpoint.fetch_sub(1, Ordering::Relaxed);
        self.capacity.release(self.purpose, CALL_BYTES);
    }
}

/// Bytes charged for a buffer or a connection.
#[derive(Debug)]
pub(crate) struct Share {
    capacity: Arc<Capacity>,
    purpose: Purpose,
    bytes: u64,
}

impl Share {
    /// An empty share.
    pub(crate) fn new(capacity: &Arc<Capacity>, purpose: Purpose) -> Share {
        Share { capacity: capacity.clone(), purpose, bytes: 0 }
    }

    /// Whether the share is for this purpose.
    pub(crate) fn is_for(&self, purpose: Purpose) -> bool {
        self.purpose == purpose
    }

    /// Whether the share is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Charges for `bytes` more, before the memory is allocated.
    ///
    /// # Errors
    /// The limits would be exceeded; nothing is charged.
    pub(crate) fn add(&mut self, bytes: u64) -> Result<(), Error> {
        if !self.capacity.charge(self.purpose, bytes) {
            self.capacity.release(self.purpose, bytes);
            return Err(busy(MEMORY_USED_UP));
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Charges so that `bytes` are covered in total.
    ///
    /// # Errors
    /// As [`Share::add`].
    pub(crate) fn cover(&mut self, bytes: u64) -> Result<(), Error> {
        match bytes.checked_sub(self.bytes) {
            None | Some(0) => Ok(()),
            Some(more) => self.add(more),
        }
    }

    /// Releases what exceeds `bytes`.
    pub(crate) fn reduce(&mut self, bytes: u64) {
        let excess = self.bytes.saturating_sub(bytes);
        self.bytes -= excess;
        self.capacity.release(self.purpose, excess);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.capacity.release(self.purpose, self.bytes);
    }
}

const MEMORY_USED_UP: &str = "limits.memory is used up; try again";

fn busy(why: &'static str) -> Error {
    Error::new(ErrorKind::Busy, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(calls: usize, memory: u64) -> Arc<Capacity> {
        let limits = Limits { calls, calls_per_endpoint: 2, memory, ..Limits::default() };
        Arc::new(Capacity::new(&limits))
    }

    fn is_empty(capacity: &Capacity) -> bool {
        let accounts = [&capacity.calls, &capacity.bytes].into_iter().chain(&capacity.by_purpose);
        accounts.into_iter().all(|account| account.load(Ordering::Relaxed) == 0)
    }

    #[test]
    fn permits_are_released_once_whether_granted_or_not() {
        let capacity = capacity(3, 1 << 20);
        let (one, other) = (AtomicU64::new(0), AtomicU64::new(0));
        let enter = |endpoint| capacity.enter(endpoint, Purpose::First);
        let held = [enter(&one), enter(&one)].map(|permit| permit.expect("room"));
        // The endpoint is full, the process is not.
        assert!(capacity.enter(&one, Purpose::First).is_err());
        let third = capacity.enter(&other, Purpose::Further).expect("room");
        assert!(capacity.enter(&other, Purpose::First).is_err());
        drop(third);
        assert!(capacity.enter(&other, Purpose::First).is_ok());
        drop(held);
        assert!(is_empty(&capacity));
        assert_eq!(one.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn memory_is_reserved_for_first_calls() {
        let capacity = capacity(10_000, 8 << 20);
        let fill = |purpose| {
            let mut share = Share::new(&capacity, purpose);
            while share.add(64 << 10).is_ok() {}
            share
        };
        let long = fill(Purpose::Long);
        assert_eq!(long.bytes, 4 << 20);
        assert!(capacity.is_under_pressure());
        let further = fill(Purpose::Further);
        assert_eq!(further.bytes, 2 << 20);
        let connections = fill(Purpose::Connection);
        assert_eq!(connections.bytes, 2 << 20, "all memory is used");
        drop(connections);
        let endpoint = AtomicU64::new(0);
        assert!(capacity.enter(&endpoint, Purpose::Further).is_err());
        assert!(capacity.enter(&endpoint, Purpose::First).is_ok());
        let mut more = Share::new(&capacity, Purpose::Long);
        assert!(more.add(1).is_err());
        drop(further);
        assert!(more.add(1).is_err(), "the quota of its purpose is used up");
        drop((long, more));
        assert!(is_empty(&capacity) && !capacity.is_under_pressure());
    }

    #[test]
    fn shares_grow_and_shrink() {
        let capacity = capacity(1, 8 << 10);
        let mut share = Share::new(&capacity, Purpose::First);
        assert!(share.cover(4 << 10).is_ok() && share.cover(1 << 10).is_ok());
        assert!(share.cover(9 << 10).is_err());
        share.reduce(5 << 10);
        assert_eq!((share.bytes, capacity.bytes()), (4 << 10, 4 << 10));
        share.reduce(1 << 10);
        assert_eq!((share.bytes, capacity.bytes()), (1 << 10, 1 << 10));
        drop(share);
        assert!(is_empty(&capacity));
    }
}
