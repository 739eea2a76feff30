//! The connections of one worker to one host, and the arrivals that wait for one.

use crate::connection::TlsStart;
use crate::exchange::Id;
use crate::request::Origin;
use plimsoll_measure::{Nanos, OpenReason};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// An arrival that waits, told apart from a later one in the same place by its number.
#[derive(Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) exchange: Id,
    pub(crate) scheduled_at: Nanos,
    pub(crate) seq: u64,
}

/// What is known of a host's addresses.
pub(crate) enum Addresses {
    /// Being asked for, for the first time.
    Asked,
    Known(Vec<SocketAddr>),
    /// The last answer was that there is none.
    Failed(String),
}

/// The connections to one host.
pub(crate) struct Pool {
    pub(crate) origin: Origin,
    pub(crate) tls: Option<TlsStart>,
    pub(crate) addresses: Addresses,
    /// When the addresses were learnt.
    pub(crate) learnt_at: Nanos,
    /// Whether an answer is on its way.
    pub(crate) asking: bool,
    /// Which address is next.
    pub(crate) turn: usize,
    /// The most connections.
    pub(crate) limit: usize,
    /// Open, whatever their phase.
    pub(crate) open: usize,
    /// Of these, not established yet.
    pub(crate) connecting: usize,
    /// Those with capacity, the one used last on top. Who is taken from it is asked again.
    pub(crate) free: Vec<u32>,
    /// In the order they came; what was given up meanwhile is skipped.
    pub(crate) waiting: VecDeque<Waiting>,
    /// Of these, still waiting.
    pub(crate) waiting_live: usize,
    /// Whether it is among those that may need connections.
    pub(crate) unopened: bool,
    /// When an arrival last had to wait because the limit was reached.
    pub(crate) capped_at: Option<Nanos>,
    /// Connections that were lost and not replaced yet, by why.
    lost: [usize; 3],
}

const LOST: [OpenReason; 3] =
    [OpenReason::TargetClosed, OpenReason::AfterTimeout, OpenReason::AfterError];

impl Pool {
    pub(crate) fn new(
        origin: Origin,
        tls: Option<TlsStart>,
        addresses: Addresses,
        limit: usize,
        now: Nanos,
    ) -> Pool {
        Pool {
            origin,
            tls,
            addresses,
            learnt_at: now,
            asking: false,
            turn: 0,
            limit,
            open: 0,
            connecting: 0,
            free: Vec::new(),
            waiting: VecDeque::new(),
            waiting_live: 0,
            unopened: false,
            capped_at: None,
            lost: [0; 3],
        }
    }

    /// Whether one more connection is needed and allowed: one for each arrival that waits and has
    /// none on its way. Remembers when the limit forbade it.
    pub(crate) fn wants_connection(&mut self, now: Nanos) -> bool {
        if self.waiting_live <= self.connecting {
            return false;
        }
        let is_capped = self.open >= self.limit;
        // Attempts that get nowhere are not the limit's doing.
        if is_capped && self.connecting < self.limit {
            self.capped_at = Some(now);
        }
        !is_capped
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

    /// The next address to connect to.
    pub(crate) fn next_address(&mut self) -> Option<SocketAddr> {
        let Addresses::Known(list) = &self.addresses else { return None };
        let address = list[self.turn % list.len()];
        self.turn = self.turn.wrapping_add(1);
        Some(address)
    }

    /// How many addresses there are.
    pub(crate) fn address_count(&self) -> usize {
        match &self.addresses {
            Addresses::Known(list) => list.len(),
            _ => 0,
        }
    }
}
