//! Connections: opened when they are needed, lost when they end, closed at the end.
//!
//! # Several addresses
//! An attempt that has not connected after 250 ms (RFC 8305 §5 recommends this delay) is slow: it
//! goes on, its address is avoided, and another attempt is made to the next address. At the limit on
//! connections a slow attempt is dropped to make room. Only when every address has failed lately
//! does a failed attempt fail an arrival. A name's addresses are asked for again every `dns_ttl`,
//! also when no connection is opened; when that fails, those that are known stay in use.

use super::{Dispatcher, Next};
use crate::arrival::{Exchange, Id};
use crate::connection::{Connection, Failure};
use crate::judge::Why;
use crate::pool::{Name, Pool};
use crate::request::{Hop, tls_start};
use crate::system::resolve::{Question, Resolved, is_literal};
use crate::system::{Route, System};
use plimsoll_measure::{ErrorClass, Nanos, OpenReason};
use plimsoll_plan::Origin;
use std::collections::VecDeque;
use std::net::IpAddr;

/// More origins than this are not followed to by redirects.
const POOLS_MAX: usize = 256;
/// More connections than this are not opened to an origin without reading answers in between.
const OPENED_MAX: usize = 16;
/// A worker that is this late takes arrivals up in a burst that the plan does not have. It opens
/// one connection an iteration: had it been on time, those that it has would have carried them.
const BEHIND: Nanos = Nanos(500_000);
/// A name that could not be resolved is asked for again after this long.
const ASK_AGAIN: Nanos = Nanos::from_secs(1);
/// An attempt that has not connected after this long is slow.
const SLOW: Nanos = Nanos::from_millis(250);

/// What is known of connections over all pools.
#[derive(Default)]
pub(super) struct Opening {
    /// Pools that may need connections.
    needed: VecDeque<usize>,
    /// Connections that are not established, in the order they were opened, with serial numbers.
    attempts: VecDeque<(u32, u64)>,
    /// When one of them has to be looked at.
    pub(super) next_check: Nanos,
    serial: u64,
    pub(super) established: u64,
    pub(super) established_peak: u64,
}

impl<S: System> Dispatcher<S> {
    /// Arrivals wait in a pool, or a connection of it was lost: [`Dispatcher::open_needed`] sees to
    /// it once an iteration.
    pub(super) fn may_need_connections(&mut self, pool: usize) {
        if !std::mem::replace(&mut self.pools[pool].listed, true) {
            self.opening.needed.push_back(pool);
        }
    }

    /// Whether [`Dispatcher::open_needed`] has something to do.
    pub(super) fn wants_to_open(&self) -> bool {
        !self.opening.needed.is_empty()
    }

    /// Opens connections for arrivals that wait, as far as the limit allows: after the answers that
    /// are there were read, because they free connections, and few in one iteration. Otherwise a
    /// worker that was held up for a moment would open one for each arrival that became due
    /// meanwhile, and be held up by that.
    pub(crate) fn open_needed(&mut self) {
        if self.opening.needed.is_empty() {
            return;
        }
        let now = self.system.now();
        for _ in 0..self.opening.needed.len() {
            let Some(pool) = self.opening.needed.pop_front() else { break };
            self.pools[pool].listed = false;
            self.open_for(pool, now);
        }
    }

    fn open_for(&mut self, pool: usize, now: Nanos) {
        let most = if self.lag > BEHIND { 1 } else { OPENED_MAX };
        for _ in 0..most {
            self.make_room(pool, now);
            if !self.pools[pool].wants_connection(now) {
                return self.serve_all_addresses(pool, now);
            }
            match &self.pools[pool].name {
                Name::Asked => return,
                Name::Failed(why) => {
                    let error = std::io::Error::other(why.clone());
                    let failure =
                        Failure { class: ErrorClass::Dns, fault: None, error: Some(error) };
                    if now >= self.pools[pool].asked_at + ASK_AGAIN {
                        self.ask(pool, now);
                    }
                    self.fail_waiting(pool, &failure, now);
                }
                Name::Known => {
                    let reason = self.pools[pool].reason(self.shared.plan.connections.reuse);
                    let Some(address) = self.pools[pool].next_address(now) else { return };
                    self.open(pool, address, reason, now);
                }
            }
        }
        self.may_need_connections(pool);
    }

    /// Each of a name's addresses has a connection, so that all of them carry load at low rates too.
    fn serve_all_addresses(&mut self, pool: usize, now: Nanos) {
        if !self.shared.plan.connections.reuse {
            return;
        }
        while let Some(address) = self.pools[pool].unserved(now) {
            self.open(pool, address, OpenReason::NewAddress, now);
        }
    }

    /// Opens one connection; where that fails at once, so does an arrival that waits for one.
    fn open(&mut self, pool: usize, address: usize, reason: OpenReason, now: Nanos) {
        self.recorder.counts.connections.reasons.count(reason);
        let state = &mut self.pools[pool];
        let to = state.addresses[address].at;
        let sources = &self.shared.plan.connections.sources;
        let same_kind = |ip: &&IpAddr| ip.is_ipv4() == to.is_ipv4();
        let source = state.next_source(address, sources.iter().filter(same_kind).count());
        let from = sources.iter().filter(same_kind).nth(source).copied();
        let entry = self.connections.vacant_entry();
        let (key, serial) = (entry.key(), self.opening.serial);
        let sampled = state.wants_sample();
        let opened = self.system.connect(Route { to, from }, key).and_then(|socket| {
            Connection::new(socket, state.tls.as_ref(), (pool, address), (serial, sampled), now)
        });
        match opened {
            Ok(connection) => {
                entry.insert(connection);
                self.opening.serial += 1;
                self.opening.attempts.push_back((key as u32, serial));
                state.opened(address, sampled, now);
                let check = now + if state.usable() > 1 { SLOW } else { self.shared.plan.timeout };
                self.opening.next_check = match self.opening.attempts.len() {
                    1 => check,
                    _ => self.opening.next_check.min(check),
                };
            }
            Err(error) => self.unreachable(pool, address, &Failure::of_open(error), now),
        }
    }

    /// An address could not be connected to. An arrival fails of it when no address is left.
    fn unreachable(&mut self, pool: usize, address: usize, failure: &Failure, now: Nanos) {
        let generators =
            matches!(failure.class, ErrorClass::FdExhausted | ErrorClass::PortExhausted);
        if generators || self.pools[pool].avoid(address, now) {
            self.fail_waiting(pool, failure, now);
        }
        self.may_need_connections(pool);
    }

    /// The arrival that has waited longest fails with a connection that could not be opened.
    fn fail_waiting(&mut self, pool: usize, failure: &Failure, now: Nanos) {
        if let Some(id) = self.next_waiting(pool, now) {
            self.note_failure(id, failure);
            self.fail(id, now, Why { class: failure.class, fault: failure.fault });
        }
    }

    pub(super) fn established(&mut self, key: usize, now: Nanos) {
        let connection = &self.connections[key];
        let (place, address) = (connection.pool as usize, connection.address as usize);
        let pool = &mut self.pools[place];
        pool.attempt_ended(connection.slow, pool.tls.is_some());
        let took = now - connection.opened_at;
        pool.established(took);
        if took < SLOW {
            pool.reached(address);
        }
        self.opening.established += 1;
        self.opening.established_peak = self.opening.established_peak.max(self.opening.established);
        self.recorder.counts.connections.opened += 1;
        self.may_need_connections(place);
    }

    /// Looks after attempts that are slow or have had their time.
    pub(crate) fn check_attempts(&mut self, now: Nanos) {
        if self.opening.attempts.is_empty() {
            self.opening.next_check = Nanos::MAX;
        }
        if now < self.opening.next_check {
            return;
        }
        let timeout = self.shared.plan.timeout;
        let mut next_check = Nanos::MAX;
        for _ in 0..self.opening.attempts.len() {
            let Some((key, serial)) = self.opening.attempts.pop_front() else { break };
            let attempt = self.connections.get_mut(key as usize);
            let attempt = attempt.filter(|own| own.serial == serial && !own.is_established());
            let Some(attempt) = attempt else { continue };
            let (pool, opened_at) = (attempt.pool as usize, attempt.opened_at);
            if now >= opened_at + timeout {
                self.lose(key as usize, OpenReason::AfterTimeout, None, now);
                continue;
            }
            let may_be_slow = !attempt.slow && self.pools[pool].usable() > 1;
            if may_be_slow && now >= opened_at + SLOW {
                attempt.slow = true;
                self.slowed(key as usize, now);
            } else if may_be_slow {
                next_check = next_check.min(opened_at + SLOW);
            }
            next_check = next_check.min(opened_at + timeout);
            self.opening.attempts.push_back((key, serial));
        }
        self.opening.next_check = next_check;
    }

    /// At the limit a slow attempt gives way to one that an arrival waits for.
    fn make_room(&mut self, pool: usize, now: Nanos) {
        let state = &self.pools[pool];
        let needs_room = state.open >= state.limit && state.waiting_live > state.connecting;
        if !needs_room || state.slow == 0 {
            return;
        }
        let is_slow = |(key, serial): &&(u32, u64)| {
            self.connections
                .get(*key as usize)
                .is_some_and(|own| own.serial == *serial && own.slow && own.pool as usize == pool)
        };
        if let Some((key, _)) = self.opening.attempts.iter().find(is_slow).copied() {
            self.lose(key as usize, OpenReason::AfterTimeout, None, now);
        }
    }

    /// An attempt is slow: another address is tried beside it, or in its place at the limit.
    fn slowed(&mut self, key: usize, now: Nanos) {
        let connection = &self.connections[key];
        let (place, address) = (connection.pool as usize, connection.address as usize);
        let pool = &mut self.pools[place];
        pool.connecting -= 1;
        pool.slow += 1;
        pool.avoid(address, now);
        self.may_need_connections(place);
    }

    /// A connection is over.
    pub(super) fn lose(
        &mut self,
        key: usize,
        why: OpenReason,
        failure: Option<Failure>,
        now: Nanos,
    ) {
        let connection = self.connections.remove(key);
        debug_assert!(connection.is_idle(), "what a connection carries ends before it");
        let (place, address) = (connection.pool as usize, connection.address as usize);
        let (established, listed, slow) =
            (connection.is_established(), connection.listed, connection.slow);
        let (handshaking, sampled) = (connection.is_handshaking(), connection.sampled);
        connection.close();
        let pool = &mut self.pools[place];
        pool.closed(address, sampled, now);
        if established {
            self.opening.established -= 1;
            pool.lose(why);
            let free = &mut pool.addresses[address].free;
            if listed && let Some(at) = free.iter().rposition(|free| *free as usize == key) {
                free.remove(at);
            }
            if let Some(fault) = failure.and_then(|failure| failure.fault) {
                self.recorder.counts.faults.count(fault);
            }
        } else {
            pool.attempt_ended(slow, handshaking);
            match failure {
                Some(failure) => self.unreachable(place, address, &failure, now),
                None => _ = pool.avoid(address, now),
            }
        }
        self.may_need_connections(place);
    }

    /// Closes an idle connection to an address that its name has no more.
    pub(super) fn retire(&mut self, key: usize, now: Nanos) {
        self.lose(key, OpenReason::NewAddress, None, now);
    }

    /// Closes every connection.
    pub(crate) fn close_all(&mut self) {
        for connection in self.connections.drain() {
            connection.close();
        }
        self.opening.established = 0;
    }

    fn ask(&mut self, pool: usize, now: Nanos) {
        let state = &mut self.pools[pool];
        if state.asking || is_literal(&state.origin.host) {
            return;
        }
        state.asking = true;
        state.asked_at = now;
        let (host, port) = (state.origin.host.clone(), state.origin.port);
        self.system.ask(Question { pool, host, port });
    }

    /// Asks again for the addresses of names that are in use and were learnt too long ago.
    pub(crate) fn refresh_names(&mut self, now: Nanos) {
        let ttl = self.shared.plan.connections.dns_ttl;
        for pool in 0..self.pools.len() {
            let state = &self.pools[pool];
            let in_use = state.open > 0 || state.waiting_live > 0;
            if in_use && matches!(state.name, Name::Known) && now >= state.asked_at + ttl {
                self.ask(pool, now);
            }
        }
    }

    /// Addresses have come, or the name has none.
    pub(crate) fn learn(&mut self, resolved: Resolved) {
        let now = self.system.now();
        let pool = resolved.pool;
        let state = &mut self.pools[pool];
        state.asking = false;
        match resolved.addresses {
            Ok(list) => {
                for key in state.learn(list) {
                    self.connections[key as usize].listed = false;
                    self.retire(key as usize, now);
                }
            }
            // Addresses that worked a moment ago are better than none.
            Err(_) if matches!(state.name, Name::Known) => {}
            Err(why) => state.name = Name::Failed(why),
        }
        self.may_need_connections(pool);
    }

    /// Makes the request that a redirect asks for the arrival's next exchange.
    pub(super) fn follow(&mut self, id: Id, mut hop: Box<Hop>, now: Nanos) {
        match self.pool_of(&hop.spec.url.origin(), now) {
            Ok(pool) => {
                hop.request.pool = pool;
                let exchange = &mut self.arrivals.get_mut(id).exchange;
                *exchange = Exchange::new(exchange.request, Some(hop), now);
                self.next.push_back(Next::Request(id));
            }
            Err(why) => {
                let error = Some(std::io::Error::other(why));
                let failure = Failure { class: ErrorClass::Tls, fault: None, error };
                self.note_failure(id, &failure);
                self.fail(id, now, Why::of(failure.class));
            }
        }
    }

    /// The pool of an origin that a redirect leads to.
    fn pool_of(&mut self, origin: &Origin, now: Nanos) -> Result<usize, String> {
        if let Some(place) = self.pools.iter().position(|pool| pool.origin == *origin) {
            return Ok(place);
        }
        if self.pools.len() >= POOLS_MAX {
            return Err(format!("targets and redirects span more than {POOLS_MAX} origins"));
        }
        let tls = tls_start(&self.shared.plan, self.shared.tls.as_ref(), origin)?;
        let (limit, slot) = (self.pools[0].limit, self.shared.redirects_slot);
        let mut pool = Pool::new(origin.clone(), slot, tls, Name::Asked, limit);
        if let Ok(ip) = origin.host.parse::<IpAddr>() {
            pool.learn(vec![(ip, origin.port).into()]);
        }
        self.pools.push(pool);
        let place = self.pools.len() - 1;
        self.ask(place, now);
        Ok(place)
    }
}
