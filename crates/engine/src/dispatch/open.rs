//! Connections: opened when they are needed, lost when they end, closed at the end.

use super::{Dispatcher, Next};
use crate::connection::{Connection, Failure};
use crate::exchange::Id;
use crate::pool::{Addresses, Pool};
use crate::request::{Hop, Origin, tls_start};
use crate::resolve::{Question, Resolved, is_literal};
use mio::Token;
use plimsoll_measure::{ErrorClass, Nanos, OpenReason};
use std::net::IpAddr;

/// More origins than this are not followed to by redirects.
const POOLS_MAX: usize = 256;
/// More connections than this are not opened to a host without reading answers in between.
const OPENED_MAX: usize = 16;
/// A worker that is this late takes arrivals up in a burst that the plan does not have. It opens one
/// connection a turn: had it been on time, those that it has would have carried them.
const BEHIND: Nanos = Nanos(500_000);
/// A name that could not be resolved is asked for again after this long.
const ASK_AGAIN: Nanos = Nanos::from_secs(1);

impl Dispatcher<'_> {
    /// Somebody waits in a pool, or a connection of it was lost: [`Dispatcher::open_needed`] sees to
    /// it once a turn.
    pub(super) fn may_need_connections(&mut self, pool: usize) {
        if !std::mem::replace(&mut self.pools[pool].unopened, true) {
            self.unopened.push_back(pool);
        }
    }

    /// Whether [`Dispatcher::open_needed`] has something to do.
    pub(crate) fn wants_to_open(&self) -> bool {
        !self.unopened.is_empty()
    }

    /// Opens connections for who waits, as far as the limit allows: after the answers that are there
    /// were read, because they free connections, and few in a turn. Otherwise a worker that was held
    /// up for a moment would open one for each arrival that became due meanwhile, and be held up by
    /// that.
    pub(crate) fn open_needed(&mut self) {
        if self.unopened.is_empty() {
            return;
        }
        let now = self.shared.clock.now();
        for _ in 0..self.unopened.len() {
            let Some(pool) = self.unopened.pop_front() else { break };
            self.pools[pool].unopened = false;
            self.open_for(pool, now);
        }
    }

    fn open_for(&mut self, pool: usize, now: Nanos) {
        let most = if self.lag > BEHIND { 1 } else { OPENED_MAX };
        for _ in 0..most {
            if !self.pools[pool].wants_connection(now) {
                return;
            }
            match &self.pools[pool].addresses {
                Addresses::Asked => return,
                Addresses::Failed(why) => {
                    let error = std::io::Error::other(why.clone());
                    let failure =
                        Failure { class: ErrorClass::Dns, fault: None, error: Some(error) };
                    if now >= self.pools[pool].learnt_at + ASK_AGAIN {
                        self.ask(pool);
                    }
                    self.fail_waiting(pool, &failure, now);
                }
                Addresses::Known(_) => {
                    if now >= self.pools[pool].learnt_at + self.shared.plan.connections.dns_ttl {
                        self.ask(pool);
                    }
                    let tries_left = self.pools[pool].address_count() as u32 - 1;
                    let reason = self.pools[pool].reason(self.shared.plan.connections.reuse);
                    self.recorder.counts.connections.reasons.count(reason);
                    self.open(pool, tries_left, now);
                }
            }
        }
        self.may_need_connections(pool);
    }

    /// Opens one connection; where that fails at once, for one who waits it has failed.
    fn open(&mut self, pool: usize, tries_left: u32, now: Nanos) {
        let state = &mut self.pools[pool];
        let Some(address) = state.next_address() else { return };
        let sources = &self.shared.plan.connections.sources;
        let same_kind = |ip: &&IpAddr| ip.is_ipv4() == address.is_ipv4();
        let usable = sources.iter().filter(same_kind).count();
        let source = sources.iter().filter(same_kind).nth(state.turn % usable.max(1)).copied();
        let entry = self.connections.vacant_entry();
        let poll = (&self.registry, Token(entry.key()));
        match Connection::open(pool as u32, (address, source), state.tls.as_ref(), poll, now) {
            Ok(mut connection) => {
                connection.tries_left = tries_left;
                self.attempts.push_back((now + self.shared.plan.timeout, entry.key(), now));
                entry.insert(connection);
                state.open += 1;
                state.connecting += 1;
            }
            Err(error) => {
                let failure = Failure::of_open(error);
                self.fail_waiting(pool, &failure, now);
            }
        }
    }

    /// The arrival that has waited longest fails with a connection that could not be opened.
    fn fail_waiting(&mut self, pool: usize, failure: &Failure, now: Nanos) {
        if let Some(id) = self.next_waiting(pool, now) {
            self.note_failure(id, failure);
            self.finish(id, now, None, Err((failure.class, failure.fault)));
        }
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
        let pool = connection.pool as usize;
        let tries_left = connection.tries_left;
        let established = connection.is_established();
        let listed = connection.listed;
        connection.close(&self.registry);
        let state = &mut self.pools[pool];
        state.open -= 1;
        if established {
            self.established -= 1;
            state.lose(why);
            if listed && let Some(place) = state.free.iter().rposition(|free| *free as usize == key)
            {
                state.free.remove(place);
            }
        } else {
            state.connecting -= 1;
            match failure {
                Some(_) if tries_left > 0 => self.open(pool, tries_left - 1, now),
                Some(failure) => self.fail_waiting(pool, &failure, now),
                None => {}
            }
        }
        self.may_need_connections(pool);
    }

    /// Closes every connection.
    pub(crate) fn close_all(&mut self) {
        for connection in self.connections.drain() {
            connection.close(&self.registry);
        }
        self.established = 0;
    }

    fn ask(&mut self, pool: usize) {
        let state = &mut self.pools[pool];
        if state.asking || is_literal(&state.origin.host) {
            return;
        }
        let (resolver, reply, waker) = &self.questions;
        let question = Question {
            pool,
            host: state.origin.host.clone(),
            port: state.origin.port,
            reply: reply.clone(),
            waker: waker.clone(),
        };
        state.asking = resolver.send(question).is_ok();
    }

    /// Addresses have come.
    pub(crate) fn learn(&mut self, resolved: Resolved) {
        let now = self.shared.clock.now();
        let state = &mut self.pools[resolved.pool];
        state.asking = false;
        state.learnt_at = now;
        state.addresses = match resolved.addresses {
            Ok(list) => Addresses::Known(list),
            Err(why) => Addresses::Failed(why),
        };
        self.may_need_connections(resolved.pool);
    }

    /// Makes the request that a redirect asks for the arrival's next.
    pub(super) fn follow(&mut self, id: Id, mut hop: Box<Hop>, now: Nanos) {
        match self.pool_of(&Origin::of(&hop.url), now) {
            Ok(pool) => {
                hop.request.pool = pool;
                let exchange = self.exchanges.get_mut(id);
                exchange.hop = Some(hop);
                exchange.connection = None;
                self.next.push_back(Next::Request(id));
            }
            Err(why) => {
                let error = Some(std::io::Error::other(why));
                let failure = Failure { class: ErrorClass::Tls, fault: None, error };
                self.note_failure(id, &failure);
                self.finish(id, now, None, Err((failure.class, None)));
            }
        }
    }

    fn pool_of(&mut self, origin: &Origin, now: Nanos) -> Result<usize, String> {
        if let Some(place) = self.pools.iter().position(|pool| pool.origin == *origin) {
            return Ok(place);
        }
        if self.pools.len() >= POOLS_MAX {
            return Err(format!("redirects to more than {POOLS_MAX} hosts"));
        }
        let tls = tls_start(self.shared.plan, self.shared.tls.as_ref(), origin)?;
        let literal = origin.host.parse().map(|ip: IpAddr| (ip, origin.port).into());
        let addresses = match literal {
            Ok(address) => Addresses::Known(vec![address]),
            Err(_) => Addresses::Asked,
        };
        let limit = self.pools[0].limit;
        self.pools.push(Pool::new(origin.clone(), tls, addresses, limit, now));
        let place = self.pools.len() - 1;
        self.ask(place);
        Ok(place)
    }
}
