//! The connections of one worker to one origin, and the arrivals waiting for one.
//!
//! A pool decides how many connections are needed, to which address, and for what reason; the
//! dispatcher opens and closes them.
//!
//! # Addresses
//! Connections are spread over all addresses of a name, and requests go to all addresses with a
//! free connection in turn. An address that failed or is slow to connect is avoided for a while if
//! there is another. When the name's addresses change, connections to removed addresses are closed
//! as soon as they are idle.
//!
//! # The limit
//! [`OriginCounts`] sums how long arrivals waited because the limit was reached, the connections in
//! use, and the service times below and at the limit. From these, the verdict distinguishes a limit
//! that is too low from a target that is too slow.
//!
//! Submodules: `limits` (of connections and streams), `utilization` (time in use and at the limit),
//! `fastest` (the shortest recent service time).

mod fastest;
mod limits;
mod utilization;

use crate::arrival::Id;
use crate::connection::{Opening, TlsStart};
use fastest::Fastest;
pub(crate) use limits::Limits;
use limits::Spoken;
use plimsoll_measure::{Nanos, OpenReason, OriginCounts};
use plimsoll_plan::Origin;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use utilization::Utilization;

/// A queue entry for a waiting arrival. The other fields distinguish the arrival from a later one
/// with the same slab index.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) arrival: Id,
    pub(crate) stream: u16,
    pub(crate) scheduled_at: Nanos,
    pub(crate) number: u64,
}

/// The state of a name's resolution.
pub(crate) enum Name {
    /// Being resolved for the first time.
    Resolving,
    /// Resolved to the pool's addresses.
    Resolved,
    /// Never resolved; the last error.
    Failed(String),
}

/// One of a name's addresses.
pub(crate) struct Address {
    pub(crate) at: SocketAddr,
    /// Connections with capacity; the last is used next. Capacity is checked again when one is taken.
    pub(crate) free: VecDeque<u32>,
    /// Open, whatever their phase.
    pub(crate) open: usize,
    /// Not tried before this instant if there is another address.
    avoid_until: Nanos,
    /// No longer an address of the name.
    pub(crate) retired: bool,
    /// Index of the next source address.
    next_source: usize,
}

/// The connections to one origin.
pub(crate) struct Pool {
    pub(crate) origin: Origin,
    /// Index of its counts in a snapshot.
    pub(crate) slot: usize,
    pub(crate) tls: Option<TlsStart>,
    pub(crate) name: Name,
    pub(crate) addresses: Vec<Address>,
    /// When the name was last queried.
    pub(crate) queried_at: Nanos,
    /// Whether a query is pending.
    pub(crate) querying: bool,
    pub(crate) limits: Limits,
    /// What opens its connections as WebSockets, if they are.
    pub(crate) opening: Option<Arc<Opening>>,
    spoken: Spoken,
    /// Open, whatever their phase.
    pub(crate) open: usize,
    /// Of these, being established, excluding slow ones.
    pub(crate) connecting: usize,
    /// Of these, slow: another address is being tried.
    pub(crate) slow: usize,
    /// Of these, in the TLS handshake.
    pub(crate) handshaking: usize,
    /// Of these, waiting for the peer's HTTP/2 settings.
    pub(crate) settling: usize,
    /// Of these, sampled for read lag.
    sampled: usize,
    /// In order of arrival; entries of arrivals that have ended are skipped.
    pub(crate) waiting: VecDeque<Waiting>,
    /// Number of these still waiting.
    pub(crate) waiting_live: usize,
    /// Whether the pool is queued for [`crate::dispatch::Dispatcher::open_needed`].
    pub(crate) listed: bool,
    /// When an arrival last had to wait because the limit was reached.
    capped_at: Option<Nanos>,
    utilization: Utilization,
    fastest: Fastest,
    /// Moving average of service times, in nanoseconds; zero before the first answer.
    mean: f64,
    next_open: usize,
    next_free: usize,
    /// Connections that were lost and not yet replaced, by reason.
    lost: [usize; 3],
}

const LOST: [OpenReason; 3] =
    [OpenReason::TargetClosed, OpenReason::AfterTimeout, OpenReason::AfterError];
/// How long a failed address is avoided if there is another.
const AVOIDED: Nanos = Nanos::from_secs(5);

/// One connection in this many requests a receive timestamp for every answer.
const SAMPLED_EVERY: usize = 64;
/// The weight of an answer in the moving average.
const MEAN_WEIGHT: f64 = 1.0 / 16.0;

impl Pool {
    pub(crate) fn new(
        origin: Origin,
        slot: usize,
        tls: Option<TlsStart>,
        name: Name,
        limits: Limits,
    ) -> Pool {
        let spoken = Spoken::at_first(limits.offer.protocol, origin.scheme);
        Pool {
            origin,
            slot,
            tls,
            name,
            addresses: Vec::new(),
            queried_at: Nanos::ZERO,
            querying: false,
            limits,
            opening: None,
            spoken,
            open: 0,
            connecting: 0,
            slow: 0,
            handshaking: 0,
            settling: 0,
            sampled: 0,
            waiting: VecDeque::new(),
            waiting_live: 0,
            listed: false,
            capped_at: None,
            utilization: Utilization::default(),
            fastest: Fastest::default(),
            mean: 0.0,
            next_open: 0,
            next_free: 0,
            lost: [0; 3],
        }
    }

    /// Makes workers begin at different addresses, so that even a few connections use all
    /// addresses.
    pub(crate) fn start_at(&mut self, worker: usize) {
        (self.next_open, self.next_free) = (worker, worker);
    }

    /// Whether another connection is needed and allowed. Records when the limit prevented it.
    pub(crate) fn wants_connection(&mut self, now: Nanos) -> bool {
        if !self.needs_connection() {
            return false;
        }
        let limit = self.limit();
        let is_capped = self.open >= limit;
        // If all connections are still being established, the limit is not the cause.
        if is_capped && self.connecting + self.slow < limit {
            self.capped_at = Some(now);
            self.utilization.cap(now);
        }
        !is_capped
    }

    /// Whether an arrival had to wait at the limit at `since` or later.
    #[inline]
    pub(crate) fn was_capped(&self, since: Nanos) -> bool {
        self.capped_at.is_some_and(|at| at >= since)
    }

    /// An address without a connection, if the name has several addresses.
    pub(crate) fn unserved(&self, now: Nanos) -> Option<usize> {
        if self.usable() < 2
            || self.open >= self.limit()
            || self.open == self.connecting + self.slow
        {
            return None;
        }
        self.addresses
            .iter()
            .position(|address| !address.retired && address.open == 0 && address.avoid_until <= now)
    }

    /// Number of addresses of the name.
    pub(crate) fn usable(&self) -> usize {
        self.addresses.iter().filter(|address| !address.retired).count()
    }

    /// The address to connect to next: in turn, with recently failed ones last.
    pub(crate) fn next_address(&mut self, now: Nanos) -> Option<usize> {
        let count = self.addresses.len();
        let in_turn = (0..count).map(|step| (self.next_open + step) % count.max(1));
        let usable = in_turn.filter(|index| !self.addresses[*index].retired);
        let avoided = |index: &usize| self.addresses[*index].avoid_until > now;
        let index = usable.min_by_key(avoided)?;
        self.next_open = index + 1;
        Some(index)
    }

    /// Records that an address failed or is slow; returns whether all addresses are avoided now.
    pub(crate) fn avoid(&mut self, address: usize, now: Nanos) -> bool {
        self.addresses[address].avoid_until = now + AVOIDED;
        self.addresses.iter().all(|address| address.retired || address.avoid_until > now)
    }

    /// Records that an address is reachable.
    pub(crate) fn reached(&mut self, address: usize) {
        self.addresses[address].avoid_until = Nanos::ZERO;
    }

    /// The index of the source address, out of `of`, for the next connection to an address.
    pub(crate) fn next_source(&mut self, address: usize, of: usize) -> usize {
        let next = &mut self.addresses[address].next_source;
        let source = *next % of.max(1);
        *next = source + 1;
        source
    }

    /// Replaces the name's addresses. Removed addresses are retired; returns their idle
    /// connections, which the caller must close.
    pub(crate) fn set_addresses(&mut self, list: Vec<SocketAddr>) -> Vec<u32> {
        let mut idle = Vec::new();
        for address in &mut self.addresses {
            address.retired = !list.contains(&address.at);
            if address.retired {
                idle.extend(address.free.drain(..));
            }
        }
        for at in list {
            if self.addresses.iter().any(|known| known.at == at) {
                continue;
            }
            let fresh = Address {
                at,
                free: VecDeque::new(),
                open: 0,
                avoid_until: Nanos::ZERO,
                retired: false,
                next_source: 0,
            };
            // Indices stay valid while connections refer to them.
            match self.addresses.iter_mut().find(|known| known.retired && known.open == 0) {
                Some(index) => *index = fresh,
                None => self.addresses.push(fresh),
            }
        }
        self.name = Name::Resolved;
        idle
    }

    /// Takes a connection that may have capacity, from the next address with one.
    #[inline]
    pub(crate) fn take_free(&mut self) -> Option<u32> {
        if let [only] = self.addresses.as_mut_slice() {
            return only.free.pop_back();
        }
        let count = self.addresses.len();
        for step in 0..count {
            let index = (self.next_free + step) % count;
            if let Some(key) = self.addresses[index].free.pop_back() {
                self.next_free = index + 1;
                return Some(key);
            }
        }
        None
    }

    /// Whether the next connection should be sampled for read lag: one in 64 of the open ones, at
    /// least one.
    pub(crate) fn wants_sample(&self) -> bool {
        self.sampled * SAMPLED_EVERY <= self.open
    }

    /// Records that an established connection was lost.
    pub(crate) fn count_lost(&mut self, reason: OpenReason) {
        if let Some(index) = LOST.iter().position(|lost| *lost == reason) {
            self.lost[index] += 1;
        }
    }

    /// The reason for opening the next connection.
    pub(crate) fn reason(&mut self, reuse: bool) -> OpenReason {
        if !reuse {
            return OpenReason::ReuseOff;
        }
        match self.lost.iter().position(|n| *n > 0) {
            Some(index) => {
                self.lost[index] -= 1;
                LOST[index]
            }
            None => OpenReason::NoneIdle,
        }
    }

    /// Records that a connection to an address was opened.
    pub(crate) fn opened(&mut self, address: usize, sampled: bool, now: Nanos) {
        self.step(now);
        self.addresses[address].open += 1;
        self.open += 1;
        self.connecting += 1;
        self.sampled += usize::from(sampled);
    }

    /// Records the end of a connection attempt, successful or not, and in which phase it was.
    pub(crate) fn attempt_ended(&mut self, slow: bool, (handshaking, settling): (bool, bool)) {
        *(if slow { &mut self.slow } else { &mut self.connecting }) -= 1;
        self.handshaking -= usize::from(handshaking);
        self.settling -= usize::from(settling);
    }

    /// Sums connection time up to `now`.
    #[inline]
    fn step(&mut self, now: Nanos) {
        self.utilization.step(now, self.open * self.carries());
    }

    /// Records that a connection to an address was closed, whatever its phase.
    pub(crate) fn closed(&mut self, address: usize, sampled: bool, now: Nanos) {
        self.step(now);
        self.addresses[address].open -= 1;
        self.open -= 1;
        self.sampled -= usize::from(sampled);
        self.utilization.uncap(now);
    }

    /// Records how long a connection took to establish.
    pub(crate) fn established(&mut self, took: Nanos) {
        self.utilization.counts.connected.add(took);
    }

    /// Records that an arrival wants to send a request here.
    #[inline]
    pub(crate) fn count_wanted(&mut self) {
        self.utilization.counts.wanted += 1;
    }

    /// Records the start of an exchange; returns whether arrivals are waiting at the limit.
    #[inline]
    pub(crate) fn begin(&mut self, now: Nanos) -> bool {
        self.step(now);
        self.utilization.in_use += 1;
        let peak = &mut self.utilization.counts.in_use_peak;
        *peak = (*peak).max(self.utilization.in_use);
        self.utilization.capped_since.is_some()
    }

    /// Records the end of an exchange, successful or not.
    #[inline]
    pub(crate) fn end(&mut self, now: Nanos) {
        self.step(now);
        self.utilization.in_use -= 1;
    }

    /// Records a complete answer.
    #[inline]
    pub(crate) fn answered(&mut self, service_time: Nanos, capped: bool, now: Nanos) {
        let counts = &mut self.utilization.counts;
        if capped { &mut counts.service_capped } else { &mut counts.service_free }
            .add(service_time);
        self.fastest.add(service_time, now);
        let weight = if self.mean == 0.0 { 1.0 } else { MEAN_WEIGHT };
        self.mean += weight * (service_time.0 as f64 - self.mean);
    }

    /// Records that no arrival is waiting.
    #[inline]
    pub(crate) fn uncap(&mut self, now: Nanos) {
        self.utilization.uncap(now);
    }

    /// Records that arrivals are held back because too many requests are in flight.
    pub(crate) fn hold(&mut self, now: Nanos) {
        self.utilization.held = true;
        self.utilization.cap(now);
    }

    /// Records that no arrival is held back any more.
    pub(crate) fn release(&mut self, now: Nanos) {
        self.utilization.held = false;
        if self.waiting_live == 0 {
            self.utilization.uncap(now);
        }
    }

    /// Whether another idle connection would be one too many.
    pub(crate) fn has_idle(&self, max: usize) -> bool {
        self.addresses.iter().map(|address| address.free.len()).sum::<usize>() >= max
    }

    /// Records that an arrival ended without an answer because waiting at the limit left too little
    /// time.
    pub(crate) fn count_starved(&mut self) {
        self.utilization.counts.starved += 1;
    }

    /// Whether no answer can be expected by `deadline`: the time left is less than the shortest
    /// service time of the last ten seconds. False before the first answer.
    #[inline]
    pub(crate) fn is_hopeless(&self, deadline: Nanos, now: Nanos) -> bool {
        self.fastest.recent(now).is_some_and(|fastest| deadline - now < fastest)
    }

    /// Whether an answer by `deadline` is unlikely: the time left is less than the shortest service
    /// time plus a margin of twice the average excess over it, at most the shortest service time
    /// again.
    ///
    /// The longest-waiting arrival is sent next. Without the margin, each would be sent with hardly
    /// more time than the fastest answer takes, and fail at the slightest jitter. The margin is
    /// capped because after a stall the average says nothing about the next answer.
    pub(crate) fn is_unlikely(&self, deadline: Nanos, now: Nanos) -> bool {
        self.fastest.recent(now).is_some_and(|fastest| {
            let longer = Nanos(self.mean as u64) - fastest;
            deadline - now < fastest + (longer + longer).min(fastest)
        })
    }

    /// Adds the counts up to `now` to an origin of a snapshot, which may include other pools.
    pub(crate) fn report(&mut self, now: Nanos, into: &mut OriginCounts) {
        self.step(now);
        self.utilization.restart_cap(now);
        let mut counts = std::mem::take(&mut self.utilization.counts);
        self.utilization.counts.in_use_peak = self.utilization.in_use;
        self.report_limits(&mut counts);
        counts.open = (self.open - self.connecting - self.slow) as u64;
        into.join(&counts);
    }
}

#[cfg(test)]
mod tests;
