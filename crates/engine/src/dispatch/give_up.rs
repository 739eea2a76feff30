//! Giving arrivals up: at their deadline, at the end of the grace period, at the second Ctrl-C.

use super::Dispatcher;
use super::step::request_of;
use crate::connection::Readiness;
use crate::exchange::Id;
use crate::pool::Addresses;
use plimsoll_measure::{ErrorClass, Nanos, OpenReason};

impl Dispatcher<'_> {
    /// Gives up what is past its deadline, and connections that are not established in time.
    pub(crate) fn give_up_late(&mut self, now: Nanos) {
        while let Some((deadline, id)) = self.exchanges.first_due() {
            if deadline > now {
                break;
            }
            self.give_up(id, None, now);
        }
        while let Some((deadline, key, opened_at)) = self.attempts.front().copied() {
            let stale = self.connections.get(key).is_none_or(|connection| {
                connection.opened_at != opened_at || connection.is_established()
            });
            if deadline > now && !stale {
                break;
            }
            self.attempts.pop_front();
            if !stale {
                self.lose(key, OpenReason::AfterTimeout, None, now);
            }
        }
    }

    /// Gives up everything that is on its way.
    pub(crate) fn give_up_all(&mut self, class: ErrorClass, now: Nanos) {
        while let Some(id) = self.exchanges.any() {
            self.give_up(id, Some(class), now);
        }
    }

    fn give_up(&mut self, id: Id, class: Option<ErrorClass>, now: Nanos) {
        let exchange = self.exchanges.get(id).expect("what is given up is on its way");
        let sent = exchange.was_sent();
        match exchange.connection.map(|key| key as usize) {
            Some(key) => {
                let timeout =
                    if sent { ErrorClass::ResponseTimeout } else { ErrorClass::NoConnection };
                self.end_trace(key, id);
                self.finish(id, now, None, Err((class.unwrap_or(timeout), None)));
                self.connections[key].abandon(id);
                self.on_ready(key, Readiness::NONE);
            }
            None => {
                let pool = request_of(self.shared, exchange).pool;
                self.pools[pool].waiting_live -= 1;
                let since = exchange.dispatched_at;
                let class = class.unwrap_or_else(|| self.class_of_waiting(pool, since, sent));
                self.finish(id, now, None, Err((class, None)));
                self.forget_late(pool, now);
            }
        }
    }

    /// Why an arrival that waited since an instant got no connection in time.
    fn class_of_waiting(&self, pool: usize, since: Nanos, sent: bool) -> ErrorClass {
        let place = pool;
        let pool = &self.pools[place];
        match &pool.addresses {
            _ if sent => ErrorClass::ResponseTimeout,
            Addresses::Asked | Addresses::Failed(_) => ErrorClass::Dns,
            _ if pool.capped_at.is_some_and(|at| at >= since) => ErrorClass::NoConnection,
            _ if self.is_handshaking(place) => ErrorClass::Tls,
            Addresses::Known(_) => ErrorClass::ConnectTimeout,
        }
    }

    fn is_handshaking(&self, pool: usize) -> bool {
        let mut connections = self.connections.iter().map(|(_, connection)| connection);
        connections
            .any(|connection| connection.pool as usize == pool && connection.is_handshaking())
    }
}
