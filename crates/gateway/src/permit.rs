//! What the process may hold at a time: calls in flight and bytes, one account for all threads.
//!
//! A call enters with a [`Permit`]; whatever holds memory beyond what a permit covers holds a
//! [`Share`]. Both settle what they took exactly once, when they are dropped, so that no path out of
//! a call (an error, a timeout, a caller that leaves) can forget to.
//!
//! # What is charged
//! - a connection: its session, or its HTTP/2 state ([`CONNECTION_BYTES`] and further);
//! - a request while it is read: its buffer;
//! - a call: the three small buffers that it uses ([`CALL_BYTES`]);
//! - every buffer beyond those: long bodies, decoded bodies, long answers, batches.
//!
//! Bytes are charged when memory is taken, never when they are only announced. Growth is charged
//! before the buffer grows.
//!
//! # Who comes first
//! Long buffers may take [`LONG_SHARE`] of the memory; the rest is left for the small buffers of
//! calls, so that callers with long bodies or answers cannot shed callers with short ones. Beyond
//! [`PRESSURE_SHARE`] the process is under pressure: callers that do not read their answers lose
//! them early.
//!
//! Invariant: when nothing is in flight and nobody is connected, both counts are zero.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_registry::settings::Limits;

use crate::error::{Error, ErrorKind};

/// What a connection takes: its task, its timer, its socket's readiness.
pub(crate) const CONNECTION_BYTES: u64 = 4 << 10;

/// What TLS adds to a connection: its keys and buffers.
pub(crate) const TLS_BYTES: u64 = 24 << 10;

/// What HTTP/2 adds to a connection: header tables, stream slabs, frame buffers.
pub(crate) const HTTP2_BYTES: u64 = 32 << 10;

/// What a call takes at least: the buffers of its request upstream, of the response and of its
/// answer, 8 KiB each, and its tasks.
pub(crate) const CALL_BYTES: u64 = 32 << 10;

/// The part of the memory that long buffers may take, in quarters.
const LONG_SHARE: u64 = 3;

/// From this part of the memory on, in quarters, the process is under pressure.
const PRESSURE_SHARE: u64 = 2;

/// The part of the memory that connections may take by themselves, in quarters.
const CONNECTIONS_SHARE: u64 = 2;

/// The accounts of a process.
#[derive(Debug)]
pub(crate) struct Capacity {
    calls: AtomicU64,
    bytes: AtomicU64,
    /// Of `bytes`, those of long buffers.
    long_bytes: AtomicU64,
    /// Of `bytes`, those of connections.
    connection_bytes: AtomicU64,
    calls_max: AtomicU64,
    bytes_max: AtomicU64,
    endpoint_calls_max: AtomicU64,
}

impl Capacity {
    pub(crate) fn new(limits: &Limits) -> Capacity {
        let capacity = Capacity {
            calls: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            long_bytes: AtomicU64::new(0),
            connection_bytes: AtomicU64::new(0),
            calls_max: AtomicU64::new(0),
            bytes_max: AtomicU64::new(0),
            endpoint_calls_max: AtomicU64::new(0),
        };
        capacity.set_limits(limits);
        capacity
    }

    /// Takes up other limits; what is held stays.
    pub(crate) fn set_limits(&self, limits: &Limits) {
        self.calls_max.store(limits.calls as u64, Ordering::Relaxed);
        self.bytes_max.store(limits.memory, Ordering::Relaxed);
        self.endpoint_calls_max.store(limits.calls_per_endpoint as u64, Ordering::Relaxed);
    }

    /// Calls in flight.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether memory is short: whoever holds it without using it should give it back.
    pub(crate) fn is_under_pressure(&self) -> bool {
        self.long_bytes.load(Ordering::Relaxed) > self.part(PRESSURE_SHARE)
    }

    /// Lets a call in.
    ///
    /// # Errors
    /// Too many calls are in flight, in the process or of the endpoint, or memory is used up.
    #[inline]
    pub(crate) fn enter<'a>(&'a self, endpoint: &'a AtomicU64) -> Result<Permit<'a>, Error> {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        let of_endpoint = endpoint.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes.fetch_add(CALL_BYTES, Ordering::Relaxed);
        // From here on, dropping the permit settles all three.
        let permit = Permit { capacity: self, endpoint };
        if calls >= self.calls_max.load(Ordering::Relaxed) {
            return Err(busy("limits.calls calls are in flight; try again"));
        }
        if of_endpoint >= self.endpoint_calls_max.load(Ordering::Relaxed) {
            return Err(busy("limits.calls_per_endpoint calls are in flight; try again"));
        }
        if bytes + CALL_BYTES > self.bytes_max.load(Ordering::Relaxed) {
            return Err(busy("limits.memory is used up; try again"));
        }
        Ok(permit)
    }

    /// So many quarters of the memory. Small amounts are not rounded down to nothing.
    fn part(&self, quarters: u64) -> u64 {
        let max = self.bytes_max.load(Ordering::Relaxed);
        max / 4 * quarters + max % 4
    }

    /// The account of one purpose, and how much it may hold.
    fn account(&self, purpose: Purpose) -> Option<(&AtomicU64, u64)> {
        match purpose {
            Purpose::Small => None,
            Purpose::Long => Some((&self.long_bytes, self.part(LONG_SHARE))),
            Purpose::Connection => Some((&self.connection_bytes, self.part(CONNECTIONS_SHARE))),
        }
    }
}

/// A call's leave to be in flight.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    capacity: &'a Capacity,
    endpoint: &'a AtomicU64,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.capacity.calls.fetch_sub(1, Ordering::Relaxed);
        self.endpoint.fetch_sub(1, Ordering::Relaxed);
        self.capacity.bytes.fetch_sub(CALL_BYTES, Ordering::Relaxed);
    }
}

/// What bytes are held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The usual buffers of a request.
    Small,
    /// A long body or answer.
    Long,
    /// A connection.
    Connection,
}

/// Bytes held by a buffer or a connection.
#[derive(Debug)]
pub(crate) struct Share {
    capacity: Arc<Capacity>,
    purpose: Purpose,
    bytes: u64,
}

impl Share {
    /// A share of nothing.
    pub(crate) fn new(capacity: &Arc<Capacity>, purpose: Purpose) -> Share {
        Share { capacity: capacity.clone(), purpose, bytes: 0 }
    }

    /// Whether it covers nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Charges for `bytes` more, before the memory is taken.
    ///
    /// # Errors
    /// That would be too much; nothing is charged.
    pub(crate) fn add(&mut self, bytes: u64) -> Result<(), Error> {
        let capacity = &self.capacity;
        let all = capacity.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let account = capacity.account(self.purpose);
        let of_purpose = account.map_or(0, |(held, _)| held.fetch_add(bytes, Ordering::Relaxed));
        let fits = all <= capacity.bytes_max.load(Ordering::Relaxed)
            && account.is_none_or(|(_, max)| of_purpose + bytes <= max);
        self.bytes += bytes;
        if fits {
            return Ok(());
        }
        self.shrink(bytes);
        Err(busy("limits.memory is used up; try again"))
    }

    /// Charges so that `bytes` are covered in all.
    ///
    /// # Errors
    /// As [`Share::add`].
    pub(crate) fn cover(&mut self, bytes: u64) -> Result<(), Error> {
        match bytes.checked_sub(self.bytes) {
            None | Some(0) => Ok(()),
            Some(more) => self.add(more),
        }
    }

    /// Gives bytes back.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        if let Some((held, _)) = self.capacity.account(self.purpose) {
            held.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.capacity.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

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

    fn is_settled(capacity: &Capacity) -> bool {
        let accounts =
            [&capacity.calls, &capacity.bytes, &capacity.long_bytes, &capacity.connection_bytes];
        accounts.iter().all(|account| account.load(Ordering::Relaxed) == 0)
    }

    #[test]
    fn permits_settle_once_whether_granted_or_not() {
        let capacity = capacity(3, 1 << 20);
        let (one, other) = (AtomicU64::new(0), AtomicU64::new(0));
        let held = [capacity.enter(&one), capacity.enter(&one)].map(|permit| permit.expect("room"));
        // The endpoint is full, the process is not.
        assert!(capacity.enter(&one).is_err());
        let third = capacity.enter(&other).expect("room");
        assert!(capacity.enter(&other).is_err());
        drop(third);
        assert!(capacity.enter(&other).is_ok());
        drop(held);
        assert!(is_settled(&capacity));
        assert_eq!(one.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn calls_need_memory() {
        let capacity = capacity(100, CALL_BYTES + CALL_BYTES / 2);
        let endpoint = AtomicU64::new(0);
        let one = capacity.enter(&endpoint).expect("room");
        assert!(capacity.enter(&endpoint).is_err());
        drop(one);
        assert!(is_settled(&capacity));
    }

    #[test]
    fn long_buffers_leave_room_for_small_ones() {
        let capacity = capacity(10, 1 << 20);
        let mut long = Share::new(&capacity, Purpose::Long);
        assert!(long.add(768 << 10).is_ok());
        assert!(capacity.is_under_pressure());
        assert!(long.add(1).is_err());
        let mut connection = Share::new(&capacity, Purpose::Connection);
        assert!(connection.add(200 << 10).is_ok());
        let mut small = Share::new(&capacity, Purpose::Small);
        assert!(small.add(56 << 10).is_ok());
        assert!(small.add(1).is_err());
        long.shrink(1 << 10);
        assert!(small.cover(57 << 10).is_ok());
        assert!(small.cover(3).is_ok(), "covered already");
        drop((long, small, connection));
        assert!(is_settled(&capacity));
    }
}
