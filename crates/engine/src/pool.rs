//! The connections of one worker to one origin, and the arrivals that wait for one.
//!
//! It decides how many connections are needed, to which of the name's addresses, and why; opening
//! and closing them is the dispatcher's.
//!
//! # Addresses
//! Connections are spread over all addresses of a name, and requests over all addresses that have a
//! free connection, in turn. An address that failed or is slow to connect is avoided for a while as
//! long as there is another. When the name's addresses change, connections to those that are gone
//! are closed as soon as they are idle.
//!
//! # The limit
//! How long arrivals waited because the limit was reached, how many connections were in use and
//! what service time exchanges had below and at the limit is added up in [`OriginCounts`]: the
//! verdict tells from it whether the limit was too low or the target too slow.
//!
//! Below it: `fullness` (time in use and at the limit), `fastest` (the shortest service time of late).

mod fastest;
mod fullness;

use crate::arrival::Id;
use crate::connection::TlsStart;
use fastest::Fastest;
use fullness::Fullness;
use plimsoll_measure::{Nanos, OpenReason, OriginCounts};
use plimsoll_plan::Origin;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// An arrival that waits, told apart from a later one at the same place by its number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) arrival: Id,
    pub(crate) stream: u16,
    pub(crate) scheduled_at: Nanos,
    pub(crate) seq: u64,
}

/// What is known of a name.
pub(crate) enum Name {
    /// It is being asked for, for the first time.
    Asked,
    /// It has the pool's addresses.
    Known,
    /// It has none, and never had.
    Failed(String),
}

/// One of a name's addresses.
pub(crate) struct Address {
    pub(crate) at: SocketAddr,
    /// Connections with capacity, the one used last on top. What is taken from it is asked again.
    pub(crate) free: Vec<u32>,
    /// Open, whatever their phase.
    pub(crate) open: usize,
    /// Not tried before this instant while there is another.
    avoid_until: Nanos,
    /// The name has it no more.
    pub(crate) retired: bool,
    /// Which source address is next.
    next_source: usize,
}

/// The connections to one origin.
pub(crate) struct Pool {
    pub(crate) origin: Origin,
    /// The place in a snapshot where it is counted.
    pub(crate) slot: usize,
    pub(crate) tls: Option<TlsStart>,
    pub(crate) name: Name,
    pub(crate) addresses: Vec<Address>,
    /// When the addresses were asked for last.
    pub(crate) asked_at: Nanos,
    /// Whether an answer is on its way.
    pub(crate) asking: bool,
    /// The most connections.
    pub(crate) limit: usize,
    /// Open, whatever their phase.
    pub(crate) open: usize,
    /// Of these, on their way to being established, the slow ones left out.
    pub(crate) connecting: usize,
    /// Of these, slow: another address is being tried.
    pub(crate) slow: usize,
    /// Of these, in the TLS handshake.
    pub(crate) handshaking: usize,
    /// Of these, in the sample of which read lag is measured.
    sampled: usize,
    /// In the order they came; entries of arrivals that ended meanwhile are skipped.
    pub(crate) waiting: VecDeque<Waiting>,
    /// Of these, still waiting.
    pub(crate) waiting_live: usize,
    /// Whether it is among those that may need connections.
    pub(crate) listed: bool,
    /// When an arrival last had to wait because the limit was reached.
    capped_at: Option<Nanos>,
    fullness: Fullness,
    fastest: Fastest,
    /// The mean service time of the last answers, nanoseconds; zero before the first.
    mean: f64,
    next_open: usize,
    next_free: usize,
    /// Connections that were lost and not replaced yet, by why.
    lost: [usize; 3],
}

const LOST: [OpenReason; 3] =
    [OpenReason::TargetClosed, OpenReason::AfterTimeout, OpenReason::AfterError];
/// How long an address that failed is avoided while there is another.
const AVOIDED: Nanos = Nanos::from_secs(5);

/// One connection in this many has every answer's receipt stamped by the kernel.
const SAMPLED_EVERY: usize = 64;
/// The weight of an answer in the mean of the last ones.
const MEAN_WEIGHT: f64 = 1.0 / 16.0;

impl Pool {
    pub(crate) fn new(
        origin: Origin,
        slot: usize,
        tls: Option<TlsStart>,
        name: Name,
        limit: usize,
    ) -> Pool {
        Pool {
            origin,
            slot,
            tls,
            name,
            addresses: Vec::new(),
            asked_at: Nanos::ZERO,
            asking: false,
            limit,
            open: 0,
            connecting: 0,
            slow: 0,
            handshaking: 0,
            sampled: 0,
            waiting: VecDeque::new(),
            waiting_live: 0,
            listed: false,
            capped_at: None,
            fullness: Fullness::default(),
            fastest: Fastest::default(),
            mean: 0.0,
            next_open: 0,
            next_free: 0,
            lost: [0; 3],
        }
    }

    /// Workers begin at different addresses, so that few connections use them all too.
    pub(crate) fn start_at(&mut self, worker: usize) {
        (self.next_open, self.next_free) = (worker, worker);
    }

    /// Whether one more connection is needed and allowed: one for each arrival that waits and has
    /// none on its way. Remembers when the limit forbade it.
    pub(crate) fn wants_connection(&mut self, now: Nanos) -> bool {
        if self.waiting_live <= self.connecting {
            return false;
        }
        let is_capped = self.open >= self.limit;
        // Attempts that get nowhere are not the limit's doing.
        if is_capped && self.connecting + self.slow < self.limit {
            self.capped_at = Some(now);
            self.fullness.cap(now);
        }
        !is_capped
    }

    /// Whether an arrival had to wait because the limit was reached, at `since` or later.
    #[inline]
    pub(crate) fn was_capped(&self, since: Nanos) -> bool {
        self.capped_at.is_some_and(|at| at >= since)
    }

    /// An address without any connection, where the name has several: it is to have one, too.
    pub(crate) fn unserved(&self, now: Nanos) -> Option<usize> {
        if self.usable() < 2 || self.open >= self.limit || self.open == self.connecting + self.slow
        {
            return None;
        }
        self.addresses
            .iter()
            .position(|address| !address.retired && address.open == 0 && address.avoid_until <= now)
    }

    /// How many addresses the name has.
    pub(crate) fn usable(&self) -> usize {
        self.addresses.iter().filter(|address| !address.retired).count()
    }

    /// The address to connect to next: in turn, those that failed lately last.
    pub(crate) fn next_address(&mut self, now: Nanos) -> Option<usize> {
        let count = self.addresses.len();
        let in_turn = (0..count).map(|step| (self.next_open + step) % count.max(1));
        let usable = in_turn.filter(|place| !self.addresses[*place].retired);
        let avoided = |place: &usize| self.addresses[*place].avoid_until > now;
        let place = usable.min_by_key(avoided)?;
        self.next_open = place + 1;
        Some(place)
    }

    /// Takes note that an address failed or is slow; whether all of them did lately.
    pub(crate) fn avoid(&mut self, address: usize, now: Nanos) -> bool {
        self.addresses[address].avoid_until = now + AVOIDED;
        self.addresses.iter().all(|address| address.retired || address.avoid_until > now)
    }

    /// Takes note that an address can be reached.
    pub(crate) fn reached(&mut self, address: usize) {
        self.addresses[address].avoid_until = Nanos::ZERO;
    }

    /// Which of `of` source addresses connects to an address next.
    pub(crate) fn next_source(&mut self, address: usize, of: usize) -> usize {
        let next = &mut self.addresses[address].next_source;
        let source = *next % of.max(1);
        *next = source + 1;
        source
    }

    /// The name has these addresses now. Those that it has no more are retired; their idle
    /// connections, which the caller is to close, are given back.
    pub(crate) fn learn(&mut self, list: Vec<SocketAddr>) -> Vec<u32> {
        let mut idle = Vec::new();
        for address in &mut self.addresses {
            address.retired = !list.contains(&address.at);
            if address.retired {
                idle.append(&mut address.free);
            }
        }
        for at in list {
            if self.addresses.iter().any(|known| known.at == at) {
                continue;
            }
            let fresh = Address {
                at,
                free: Vec::new(),
                open: 0,
                avoid_until: Nanos::ZERO,
                retired: false,
                next_source: 0,
            };
            // Places stay what they are while a connection refers to them.
            match self.addresses.iter_mut().find(|known| known.retired && known.open == 0) {
                Some(place) => *place = fresh,
                None => self.addresses.push(fresh),
            }
        }
        self.name = Name::Known;
        idle
    }

    /// A connection that may have capacity, of the next address that has one.
    #[inline]
    pub(crate) fn take_free(&mut self) -> Option<u32> {
        if let [only] = self.addresses.as_mut_slice() {
            return only.free.pop();
        }
        let count = self.addresses.len();
        for step in 0..count {
            let place = (self.next_free + step) % count;
            if let Some(key) = self.addresses[place].free.pop() {
                self.next_free = place + 1;
                return Some(key);
            }
        }
        None
    }

    /// Whether the connection that is opened now belongs to the sample of which read lag is
    /// measured: one in 64 of those that are open, at least one.
    pub(crate) fn wants_sample(&self) -> bool {
        self.sampled * SAMPLED_EVERY <= self.open
    }

    /// Remembers that an established connection was lost.
    pub(crate) fn lose(&mut self, why: OpenReason) {
        if let Some(place) = LOST.iter().position(|lost| *lost == why) {
            self.lost[place] += 1;
        }
    }

    /// Why the connection that is opened now is needed.
    pub(crate) fn reason(&mut self, reuse: bool) -> OpenReason {
        if !reuse {
            return OpenReason::ReuseOff;
        }
        match self.lost.iter().position(|n| *n > 0) {
            Some(place) => {
                self.lost[place] -= 1;
                LOST[place]
            }
            None => OpenReason::NoneIdle,
        }
    }

    /// A connection to an address is opened.
    pub(crate) fn opened(&mut self, address: usize, sampled: bool, now: Nanos) {
        self.fullness.step(now, self.open);
        self.addresses[address].open += 1;
        self.open += 1;
        self.connecting += 1;
        self.sampled += usize::from(sampled);
    }

    /// An attempt to connect is over, established or not.
    pub(crate) fn attempt_ended(&mut self, slow: bool, handshaking: bool) {
        *(if slow { &mut self.slow } else { &mut self.connecting }) -= 1;
        self.handshaking -= usize::from(handshaking);
    }

    /// A connection to an address is closed, whatever its phase.
    pub(crate) fn closed(&mut self, address: usize, sampled: bool, now: Nanos) {
        self.fullness.step(now, self.open);
        self.addresses[address].open -= 1;
        self.open -= 1;
        self.sampled -= usize::from(sampled);
        self.fullness.uncap(now);
    }

    /// A connection was established after this long.
    pub(crate) fn established(&mut self, took: Nanos) {
        self.fullness.counts.connected.add(took);
    }

    /// A request is wanted here.
    #[inline]
    pub(crate) fn want(&mut self) {
        self.fullness.counts.wanted += 1;
    }

    /// An exchange begins; whether arrivals waited at the limit then.
    #[inline]
    pub(crate) fn begin(&mut self, now: Nanos) -> bool {
        self.fullness.step(now, self.open);
        self.fullness.in_use += 1;
        let peak = &mut self.fullness.counts.in_use_peak;
        *peak = (*peak).max(self.fullness.in_use);
        self.fullness.capped_since.is_some()
    }

    /// An exchange is over, in whatever way.
    #[inline]
    pub(crate) fn end(&mut self, now: Nanos) {
        self.fullness.step(now, self.open);
        self.fullness.in_use -= 1;
    }

    /// A whole answer came.
    #[inline]
    pub(crate) fn answered(&mut self, service_time: Nanos, capped: bool, now: Nanos) {
        let counts = &mut self.fullness.counts;
        if capped { &mut counts.service_capped } else { &mut counts.service_free }
            .add(service_time);
        self.fastest.add(service_time, now);
        let weight = if self.mean == 0.0 { 1.0 } else { MEAN_WEIGHT };
        self.mean += weight * (service_time.0 as f64 - self.mean);
    }

    /// No arrival waits any more.
    #[inline]
    pub(crate) fn uncap(&mut self, now: Nanos) {
        self.fullness.uncap(now);
    }

    /// An arrival ended without an answer because waiting at the limit left it too little time.
    pub(crate) fn starve(&mut self) {
        self.fullness.counts.starved += 1;
    }

    /// Whether an answer cannot be expected by `deadline`: what is left is less than the shortest
    /// service time of the last ten seconds. Before the first answer nothing is known.
    #[inline]
    pub(crate) fn is_hopeless(&self, deadline: Nanos, now: Nanos) -> bool {
        self.fastest.of_late(now).is_some_and(|fastest| deadline - now < fastest)
    }

    /// Whether an answer by `deadline` is unlikely: what is left is less than the shortest service
    /// time and twice what answers take longer than that on average, at most as long again.
    ///
    /// The arrival that has waited longest is the next to be sent. Were it sent as long as an answer
    /// is just possible, each would be sent with hardly more time than the fastest answer takes, and
    /// the smallest jitter would make it fail. More than twice the shortest is never asked for: the
    /// mean of a target that has just stalled says nothing about its next answer.
    pub(crate) fn is_unlikely(&self, deadline: Nanos, now: Nanos) -> bool {
        self.fastest.of_late(now).is_some_and(|fastest| {
            let longer = Nanos(self.mean as u64) - fastest;
            deadline - now < fastest + (longer + longer).min(fastest)
        })
    }

    /// Adds what was counted until `now` to a snapshot's origin, which may have that of others.
    pub(crate) fn report(&mut self, now: Nanos, into: &mut OriginCounts) {
        self.fullness.step(now, self.open);
        self.fullness.restart_cap(now);
        let mut counts = std::mem::take(&mut self.fullness.counts);
        self.fullness.counts.in_use_peak = self.fullness.in_use;
        counts.limit = self.limit as u64;
        counts.open = (self.open - self.connecting - self.slow) as u64;
        into.join(&counts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(addresses: &[&str]) -> Pool {
        let origin = plimsoll_plan::Url::parse("http://h/").unwrap().origin();
        let mut pool = Pool::new(origin, 0, None, Name::Asked, 10);
        pool.learn(addresses.iter().map(|at| at.parse().unwrap()).collect());
        pool
    }

    #[test]
    fn addresses_take_turns_and_those_that_failed_come_last() {
        let mut pool = pool(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
        let mut next = |now| pool.next_address(now).unwrap();
        assert_eq!([next(Nanos(1)), next(Nanos(1)), next(Nanos(1)), next(Nanos(1))], [0, 1, 2, 0]);
        assert!(!pool.avoid(1, Nanos(1)));
        let mut next = |now| pool.next_address(now).unwrap();
        assert_eq!([next(Nanos(2)), next(Nanos(2)), next(Nanos(2))], [2, 0, 2]);
        let later = Nanos(1) + AVOIDED;
        assert_eq!([next(later), next(later)], [0, 1]);
        assert!(!pool.avoid(0, later) && !pool.avoid(1, later) && pool.avoid(2, later), "all");
    }

    #[test]
    fn addresses_that_a_name_has_no_more_are_retired() {
        let mut pool = pool(&["10.0.0.1:1", "10.0.0.2:1"]);
        pool.addresses[0].free.push(7);
        pool.addresses[0].open = 1;
        let new = ["10.0.0.2:1", "10.0.0.3:1"].map(|at| at.parse().unwrap()).to_vec();
        assert_eq!(pool.learn(new.clone()), [7], "idle connections to the first are closed");
        assert_eq!((pool.usable(), pool.addresses.len()), (2, 3));
        pool.addresses[0].open = 0;
        let newer = vec!["10.0.0.4:1".parse().unwrap()];
        pool.learn(newer);
        assert_eq!((pool.usable(), pool.addresses.len()), (1, 3), "its place was used again");
    }

    #[test]
    fn time_in_use_and_at_the_limit_adds_up() {
        let mut pool = pool(&["10.0.0.1:1"]);
        assert!(!pool.begin(Nanos(100)));
        assert!(!pool.begin(Nanos(200)));
        pool.end(Nanos(300));
        (pool.open, pool.waiting_live) = (10, 1);
        assert!(!pool.wants_connection(Nanos(350)));
        let mut counts = OriginCounts::default();
        pool.report(Nanos(400), &mut counts);
        assert_eq!((counts.in_use.0, counts.capped.0, counts.in_use_peak), (400, 50, 2));
        pool.uncap(Nanos(450));
        let mut counts = OriginCounts::default();
        pool.report(Nanos(500), &mut counts);
        assert_eq!((counts.in_use.0, counts.capped.0, counts.in_use_peak), (100, 50, 1));
    }
}
