//! Arrivals in flight, by deadline.
//!
//! An arrival has an identity (stream, number, user), a deadline and an end. It performs one
//! exchange after another: its planned request, and those that redirects lead to.
//!
//! All arrivals of a stream have the same timeout, so their deadlines are in the order in which they
//! are inserted, whether the timeout counts from the planned instant or from the start: a linked list through the slab, with appends at the end, stays sorted; removal from the middle
//! takes four writes. Nothing allocates once the slab has grown to the peak number in flight.
//!
//! An arrival whose exchange has opened and stays open has no deadline; it moves to another list of its
//! stream.

use crate::request::Hop;
use crate::standing::Held;
use plimsoll_measure::Nanos;
use plimsoll_plan::{Plan, Secrets};
use slab::Slab;

/// An arrival's index in the slab.
pub(crate) type Id = u32;

/// One planned request in flight.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) stream: u16,
    /// Whether it belongs to the warm-up.
    pub(crate) warm: bool,
    pub(crate) target: u32,
    /// The closed model's user.
    pub(crate) user: Option<u32>,
    /// Its number in the stream, the warm-up included.
    pub(crate) number: u64,
    pub(crate) scheduled_at: Nanos,
    pub(crate) dispatched_at: Nanos,
    /// When it started: later than `dispatched_at` if too many requests were in flight. `None` if its
    /// stream ended before it could start.
    pub(crate) started_at: Option<Nanos>,
    pub(crate) deadline: Nanos,
    /// When the first byte of its first exchange was accepted by the kernel.
    pub(crate) sent_at: Option<Nanos>,
    /// Time that its exchanges so far waited to be sent, and their service times.
    pub(crate) waited: Nanos,
    pub(crate) served: Nanos,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
    /// Whether a connection has returned its request, as not processed by the peer.
    pub(crate) returned: bool,
    /// If its exchange stays open and has opened.
    pub(crate) held: Option<Box<Held>>,
    pub(crate) exchange: Exchange,
    /// Whether it is in the list of those that stay open.
    is_standing: bool,
    before: Option<Id>,
    after: Option<Id>,
}

/// An arrival's current request, and the state of its response.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// The index in the plan of the arrival's request.
    pub(crate) request: u32,
    /// The request to send instead, if any: of a feed, or of a redirect.
    pub(crate) hop: Option<Box<Hop>>,
    pub(crate) state: State,
    /// When it began to wait to be sent.
    pub(crate) since: Nanos,
    /// When its first byte was accepted by the kernel.
    pub(crate) sent_at: Option<Nanos>,
    /// When the first bytes of the response were read.
    pub(crate) first_byte_at: Option<Nanos>,
    /// Whether it began while the connection limit was reached.
    pub(crate) capped: bool,
}

/// The state of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Queued in its pool.
    Waiting,
    /// On the connection with this index.
    OnConnection(u32),
}

impl Arrival {
    /// A new arrival, not yet dispatched.
    pub(crate) fn new(stream: u16, target: u32, request: u32, number: u64) -> Arrival {
        let exchange = Exchange::new(request, None, Nanos::ZERO);
        Arrival {
            stream,
            warm: false,
            target,
            user: None,
            number,
            scheduled_at: Nanos::ZERO,
            dispatched_at: Nanos::ZERO,
            started_at: None,
            deadline: Nanos::MAX,
            sent_at: None,
            waited: Nanos::ZERO,
            served: Nanos::ZERO,
            bytes_out: 0,
            bytes_in: 0,
            returned: false,
            held: None,
            exchange,
            is_standing: false,
            before: None,
            after: None,
        }
    }
}

impl Exchange {
    /// A new exchange that has been waiting since `since`.
    pub(crate) fn new(request: u32, hop: Option<Box<Hop>>, since: Nanos) -> Exchange {
        Exchange {
            request,
            hop,
            state: State::Waiting,
            since,
            sent_at: None,
            first_byte_at: None,
            capped: false,
        }
    }

    /// The secrets that its arrival has sent so far, which a target may repeat: those of the request of the
    /// plan, and of each request that was sent instead.
    pub(crate) fn secrets(&self, plan: &Plan) -> Secrets {
        let mut secrets = plan.secrets_of(self.request as usize);
        let mut next = self.hop.as_deref();
        while let Some(hop) = next {
            hop.spec.add_secrets(&mut secrets);
            next = hop.before.as_deref();
        }
        secrets
    }
}

impl Arrival {
    /// Records that the kernel accepted the first byte of its exchange.
    #[inline]
    pub(crate) fn sent(&mut self, now: Nanos) {
        self.waited += now - self.exchange.since;
        self.exchange.sent_at = Some(now);
        self.sent_at.get_or_insert(now);
    }

    /// Total time that its exchanges waited to be sent, if it ended at `ended_at`.
    #[inline]
    pub(crate) fn wait(&self, ended_at: Nanos) -> Nanos {
        match self.exchange.sent_at {
            Some(_) => self.waited,
            None => self.waited + (ended_at - self.exchange.since),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct List {
    first: Option<Id>,
    last: Option<Id>,
}

/// All arrivals in flight.
pub(crate) struct Arrivals {
    slab: Slab<Arrival>,
    /// By stream: those with a deadline, then those that stay open.
    lists: Vec<List>,
    streams: usize,
}

impl Arrivals {
    pub(crate) fn new(streams: usize) -> Arrivals {
        Arrivals { slab: Slab::new(), lists: vec![List::default(); 2 * streams], streams }
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn insert(&mut self, mut arrival: Arrival) -> Id {
        let list = arrival.stream as usize;
        let last = self.lists[list].last;
        arrival.before = last;
        let id = Id::try_from(self.slab.insert(arrival)).expect("fewer than 2^32 in flight");
        self.append(list, last, id);
        id
    }

    /// Appends to a list whose last arrival is `last`.
    #[inline]
    fn append(&mut self, list: usize, last: Option<Id>, id: Id) {
        match last {
            Some(last) => self.slab[last as usize].after = Some(id),
            None => self.lists[list].first = Some(id),
        }
        self.lists[list].last = Some(id);
    }

    /// Moves an arrival whose exchange has opened and stays open to the list of these.
    pub(crate) fn stand(&mut self, id: Id) {
        let (stream, before, after) = {
            let own = &self.slab[id as usize];
            (own.stream as usize, own.before, own.after)
        };
        self.unlink(stream, before, after);
        let list = self.streams + stream;
        let last = self.lists[list].last;
        let own = &mut self.slab[id as usize];
        (own.before, own.after, own.is_standing) = (last, None, true);
        self.append(list, last, id);
    }

    /// The arrival of a stream whose exchange has been open for longest.
    pub(crate) fn first_standing(&self, stream: usize) -> Option<Id> {
        self.lists[self.streams + stream].first
    }

    pub(crate) fn get(&self, id: Id) -> Option<&Arrival> {
        self.slab.get(id as usize)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: Id) -> &mut Arrival {
        &mut self.slab[id as usize]
    }

    pub(crate) fn remove(&mut self, id: Id) -> Arrival {
        let arrival = self.slab.remove(id as usize);
        let offset = if arrival.is_standing { self.streams } else { 0 };
        self.unlink(offset + arrival.stream as usize, arrival.before, arrival.after);
        arrival
    }

    #[inline]
    fn unlink(&mut self, list: usize, before: Option<Id>, after: Option<Id>) {
        match before {
            Some(before) => self.slab[before as usize].after = after,
            None => self.lists[list].first = after,
        }
        match after {
            Some(after) => self.slab[after as usize].before = before,
            None => self.lists[list].last = before,
        }
    }

    /// The earliest deadline and its arrival.
    pub(crate) fn first_due(&self) -> Option<(Nanos, Id)> {
        let first = |list: &List| list.first.map(|id| (self.slab[id as usize].deadline, id));
        self.lists[..self.streams].iter().filter_map(first).min()
    }

    /// Any arrival that has not ended.
    pub(crate) fn any(&self) -> Option<Id> {
        self.lists.iter().find_map(|list| list.first)
    }
}

impl std::ops::Index<Id> for Arrivals {
    type Output = Arrival;

    #[inline]
    fn index(&self, id: Id) -> &Arrival {
        &self.slab[id as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_stay_in_order_after_any_removal() {
        let mut arrivals = Arrivals::new(2);
        let add = |arrivals: &mut Arrivals, stream: u16, at: u64| {
            let mut arrival = Arrival::new(stream, 0, 0, at);
            arrival.deadline = Nanos(at);
            arrivals.insert(arrival)
        };
        let ids: Vec<Id> = (1..=6).map(|at| add(&mut arrivals, (at % 2) as u16, at)).collect();
        assert_eq!(arrivals.first_due(), Some((Nanos(1), ids[0])));
        for (leaves, first) in [(2, 1), (0, 2), (1, 4), (5, 4), (3, 5), (4, 0)] {
            arrivals.remove(ids[leaves]);
            let due = arrivals.first_due().map_or(0, |(at, _)| at.0);
            assert_eq!(due, first, "after {leaves}");
        }
        assert_eq!(arrivals.len(), 0);
        add(&mut arrivals, 0, 9);
        assert_eq!(arrivals.first_due().map(|(at, _)| at), Some(Nanos(9)));
    }
}
