//! Opening and closing connections.
//!
//! # Several addresses
//! An attempt that has not connected after 250 ms (the delay recommended by RFC 8305 §5) is slow:
//! it continues, but its address is avoided and another attempt is made to the next address. At the
//! connection limit, a slow attempt is dropped to make room. A failed attempt fails an arrival only
//! if every address has failed recently. Names are resolved again every `dns_ttl`, even if no
//! connection is opened; if that fails, the known addresses stay in use.

use super::{Dispatcher, FollowUp};
use crate::arrival::{Exchange, Id};
use crate::connection::{Connection, Failure};
use crate::pool::{Name, Pool};
use crate::request::{Hop, tls_start};
use crate::system::resolve::{Query, Resolved, is_literal};
use crate::system::{Route, System};
use plimsoll_measure::{ErrorClass, Fault, Nanos, OpenReason};
use plimsoll_plan::Origin;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

/// Maximum number of origins; redirects to further ones fail.
const POOLS_MAX: usize = 256;
/// Maximum number of connections opened to an origin before answers are read again.
const OPENED_MAX: usize = 16;
/// A worker that is this late dispatches arrivals in a burst that is not in the plan. It opens only
/// one connection per iteration: on time, its existing connections would have carried them.
const BEHIND: Nanos = Nanos(500_000);
/// Delay before a failed name resolution is retried.
const RESOLVE_RETRY: Nanos = Nanos::from_secs(1);
/// An attempt that takes longer than this is slow.
const SLOW: Nanos = Nanos::from_millis(250);

/// Connection state across all pools.
#[derive(Default)]
pub(super) struct Opening {
    /// Pools that may need connections.
    needed: VecDeque<usize>,
    /// Connections being established, in the order of opening, with their serial numbers.
    attempts: VecDeque<(u32, u64)>,
    /// When an attempt has to be checked next.
    pub(super) next_check: Nanos,
    serial: u64,
    pub(super) established: u64,
    pub(super) established_peak: u64,
}

impl<S: System> Dispatcher<S> {
    /// Queues a pool for [`Dispatcher::open_needed`], which runs once per iteration, because
    /// arrivals are waiting or a connection was closed.
    pub(super) fn may_need_connections(&mut self, pool: usize) {
        if !std::mem::replace(&mut self.pools[pool].listed, true) {
            self.opening.needed.push_back(pool);
        }
    }

    /// Whether [`Dispatcher::open_needed`] has work.
    pub(super) fn wants_to_open(&self) -> bool {
        !self.opening.needed.is_empty()
    }

    /// Opens connections for waiting arrivals, up to the limit. This runs after available answers
    /// were read, because they free connections, and opens only a few per iteration. Otherwise a
    /// worker that was delayed briefly would open a connection for each arrival that became due
    /// meanwhile, and be delayed by that.
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
                Name::Resolving => return,
                Name::Failed(why) => {
                    let error = std::io::Error::other(why.clone());
                    let failure = Failure::caused_by(ErrorClass::Dns, error);
                    if now >= self.pools[pool].queried_at + RESOLVE_RETRY {
                        self.resolve(pool, now);
                    }
                    self.fail_waiting(pool, &failure, None, now);
                }
                Name::Resolved => {
                    let reason = self.pools[pool].reason(self.shared.plan.connections.reuse);
                    let Some(address) = self.pools[pool].next_address(now) else { return };
                    self.open(pool, address, reason, now);
                }
            }
        }
        self.may_need_connections(pool);
    }

    /// Opens a connection to each address of a name without one, so that all of them carry load
    /// even at low rates.
    fn serve_all_addresses(&mut self, pool: usize, now: Nanos) {
        if !self.shared.plan.connections.reuse {
            return;
        }
        while let Some(address) = self.pools[pool].unserved(now) {
            self.open(pool, address, OpenReason::NewAddress, now);
        }
    }

    /// Opens one connection. If that fails at once, a waiting arrival may fail too.
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
            let offered = (state.tls.as_ref(), state.limits.offer, state.opening.as_ref());
            Connection::new(socket, offered, (pool, address), (serial, sampled), now)
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

    /// Handles a failure to connect to an address. A waiting arrival fails if no address is left.
    fn unreachable(&mut self, pool: usize, address: usize, failure: &Failure, now: Nanos) {
        let is_local = matches!(failure.class, ErrorClass::FdExhausted | ErrorClass::PortExhausted);
        let at = self.pools[pool].addresses[address].at;
        if is_local || self.pools[pool].avoid(address, now) {
            self.fail_waiting(pool, failure, Some(at), now);
        }
        self.may_need_connections(pool);
    }

    /// Fails the longest-waiting arrival because a connection could not be opened.
    fn fail_waiting(
        &mut self,
        pool: usize,
        failure: &Failure,
        peer: Option<SocketAddr>,
        now: Nanos,
    ) {
        if let Some(id) = self.next_waiting(pool, now) {
            self.fail_with(id, failure, peer, now);
        }
    }

    pub(super) fn established(&mut self, key: usize, now: Nanos) {
        let connection = &self.connections[key];
        let (index, address) = (connection.pool as usize, connection.address as usize);
        let pool = &mut self.pools[index];
        let has_settled = connection.has_settled();
        pool.speaks(connection.peer_streams(), now);
        pool.attempt_ended(connection.slow, (pool.tls.is_some() && !has_settled, has_settled));
        let took = now - connection.opened_at;
        pool.established(took);
        if took < SLOW {
            pool.reached(address);
        }
        self.opening.established += 1;
        self.opening.established_peak = self.opening.established_peak.max(self.opening.established);
        self.recorder.counts.connections.opened += 1;
        self.may_need_connections(index);
    }

    /// Marks attempts as slow and closes those that timed out.
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
                self.close_connection(key as usize, OpenReason::AfterTimeout, None, now);
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

    /// At the limit, drops a slow attempt to make room for one to another address.
    fn make_room(&mut self, pool: usize, now: Nanos) {
        let state = &self.pools[pool];
        let needs_room = state.open >= state.limit() && state.needs_connection();
        if !needs_room || state.slow == 0 {
            return;
        }
        let is_slow = |(key, serial): &&(u32, u64)| {
            self.connections
                .get(*key as usize)
                .is_some_and(|own| own.serial == *serial && own.slow && own.pool as usize == pool)
        };
        if let Some((key, _)) = self.opening.attempts.iter().find(is_slow).copied() {
            self.close_connection(key as usize, OpenReason::AfterTimeout, None, now);
        }
    }

    /// Marks an attempt as slow: another address is tried in parallel or, at the limit, instead.
    fn slowed(&mut self, key: usize, now: Nanos) {
        let connection = &self.connections[key];
        let (index, address) = (connection.pool as usize, connection.address as usize);
        let pool = &mut self.pools[index];
        pool.connecting -= 1;
        pool.slow += 1;
        pool.avoid(address, now);
        self.may_need_connections(index);
    }

    /// Removes and closes a connection.
    pub(super) fn close_connection(
        &mut self,
        key: usize,
        reason: OpenReason,
        failure: Option<Failure>,
        now: Nanos,
    ) {
        let connection = self.connections.remove(key);
        debug_assert!(connection.is_idle(), "a connection's exchanges end before it");
        let (index, address) = (connection.pool as usize, connection.address as usize);
        let (established, listed, slow) =
            (connection.is_established(), connection.listed, connection.slow);
        let phase = (connection.is_handshaking(), connection.is_settling());
        let sampled = connection.sampled;
        let used = connection.is_used();
        if let Some(socket) = connection.close()
            && !self.system.linger(socket)
        {
            self.recorder.counts.faults.count(Fault::ClosedAtOnce);
        }
        let pool = &mut self.pools[index];
        pool.closed(address, sampled, now);
        if established {
            self.opening.established -= 1;
            pool.count_lost(reason);
            let free = &mut pool.addresses[address].free;
            if listed && let Some(at) = free.iter().rposition(|free| *free as usize == key) {
                free.remove(at);
            }
            match failure {
                // The peer spoke before it was asked: another connection would do no better.
                Some(failure) if !used && failure.fault.is_some() => {
                    self.unreachable(index, address, &failure, now);
                }
                Some(Failure { fault: Some(fault), .. }) => {
                    self.recorder.counts.faults.count(fault)
                }
                _ => {}
            }
        } else {
            pool.attempt_ended(slow, phase);
            match failure {
                Some(failure) => self.unreachable(index, address, &failure, now),
                None => _ = pool.avoid(address, now),
            }
        }
        self.may_need_connections(index);
    }

    /// Closes a connection to an address that its name no longer has, if it is idle; otherwise it is
    /// closed after its last exchange.
    pub(super) fn retire(&mut self, key: usize, now: Nanos) {
        if self.connections[key].is_idle() {
            self.close_connection(key, OpenReason::NewAddress, None, now);
        }
    }

    /// Closes every connection.
    pub(crate) fn close_all(&mut self) {
        for connection in self.connections.drain() {
            if let Some(socket) = connection.close() {
                self.system.linger(socket);
            }
        }
        self.opening.established = 0;
    }

    fn resolve(&mut self, pool: usize, now: Nanos) {
        let state = &mut self.pools[pool];
        if state.querying || is_literal(&state.origin.host) {
            return;
        }
        state.querying = true;
        state.queried_at = now;
        let (host, port) = (state.origin.host.clone(), state.origin.port);
        self.system.resolve(Query { pool, host, port });
    }

    /// Resolves names again that are in use and whose addresses are older than `dns_ttl`.
    pub(crate) fn refresh_names(&mut self, now: Nanos) {
        let ttl = self.shared.plan.connections.dns_ttl;
        for pool in 0..self.pools.len() {
            let state = &self.pools[pool];
            let in_use = state.open > 0 || state.waiting_live > 0;
            if in_use && matches!(state.name, Name::Resolved) && now >= state.queried_at + ttl {
                self.resolve(pool, now);
            }
        }
    }

    /// Handles the result of a name resolution.
    pub(crate) fn on_resolved(&mut self, resolved: Resolved) {
        let now = self.system.now();
        let pool = resolved.pool;
        let state = &mut self.pools[pool];
        state.querying = false;
        match resolved.addresses {
            Ok(list) => {
                for key in state.set_addresses(list) {
                    self.connections[key as usize].listed = false;
                    self.retire(key as usize, now);
                }
            }
            // Keep using the known addresses.
            Err(_) if matches!(state.name, Name::Resolved) => {}
            Err(why) => state.name = Name::Failed(why),
        }
        self.may_need_connections(pool);
    }

    /// Makes the redirected request the arrival's next exchange.
    pub(super) fn follow(&mut self, id: Id, mut hop: Box<Hop>, now: Nanos) {
        match self.pool_of(&hop.spec.url.origin(), now) {
            Ok(pool) => {
                hop.request.pool = pool;
                let exchange = &mut self.arrivals.get_mut(id).exchange;
                hop.before = exchange.hop.take();
                *exchange = Exchange::new(exchange.request, Some(hop), now);
                self.follow_ups.push_back(FollowUp::Request(id));
            }
            Err(failure) => self.fail_with(id, &failure, None, now),
        }
    }

    /// Sends the request that an arrival carries itself.
    pub(super) fn deliver_own(&mut self, id: Id, now: Nanos) {
        let hop = self.arrivals[id].exchange.hop.as_ref().expect("it carries a request");
        match self.pool_of(&hop.spec.url.origin(), now) {
            Ok(pool) => {
                let hop = self.arrivals.get_mut(id).exchange.hop.as_mut();
                hop.expect("as above").request.pool = pool;
                self.deliver(pool, id, now);
            }
            Err(failure) => self.fail_with(id, &failure, None, now),
        }
    }

    /// Sends an arrival's request again, on another connection; `why` counts such requests.
    pub(super) fn retry(&mut self, id: Id, why: Fault, now: Nanos) {
        self.recorder.counts.faults.count(why);
        let arrival = self.arrivals.get_mut(id);
        // The time so far stays part of its latency.
        match arrival.exchange.sent_at {
            Some(sent_at) => arrival.served += now - sent_at,
            None => arrival.waited += now - arrival.exchange.since,
        }
        let (request, hop) = (arrival.exchange.request, arrival.exchange.hop.take());
        arrival.exchange = Exchange::new(request, hop, now);
        self.follow_ups.push_back(FollowUp::Request(id));
    }

    /// The pool for a redirect's origin, created if needed.
    fn pool_of(&mut self, origin: &Origin, now: Nanos) -> Result<usize, Failure> {
        if let Some(index) = self.pools.iter().position(|pool| pool.origin == *origin) {
            return Ok(index);
        }
        if self.pools.len() >= POOLS_MAX {
            return Err(Failure::fault(Fault::TooManyOrigins));
        }
        let tls = tls_start(&self.shared.plan, self.shared.tls.as_ref(), origin)
            .map_err(|why| Failure::caused_by(ErrorClass::Tls, std::io::Error::other(why)))?;
        let is_http = |pool: &&Pool| !pool.origin.scheme.is_websocket();
        let first = self.pools.iter().find(is_http).expect("only HTTP redirects");
        let (limits, slot) = (first.limits, self.shared.redirects_slot);
        let mut pool = Pool::new(origin.clone(), slot, tls, Name::Resolving, limits);
        if self.is_holding() {
            pool.hold(now);
        }
        if let Ok(ip) = origin.host.parse::<IpAddr>() {
            pool.set_addresses(vec![(ip, origin.port).into()]);
        }
        self.pools.push(pool);
        let index = self.pools.len() - 1;
        self.resolve(index, now);
        Ok(index)
    }
}
