//! What is known of each arrival on its way, and which is due to be given up next.
//!
//! All arrivals of a stream have the same timeout, so they are due in the order they were planned:
//! a list through the slab, appended at one end, keeps them sorted; leaving it from the middle is
//! four writes. Nothing allocates once the slab has grown to the most that was in flight.

use crate::request::Hop;
use plimsoll_measure::Nanos;
use slab::Slab;

/// An exchange's place in the slab.
pub(crate) type Id = u32;
const NONE: Id = Id::MAX;

/// An arrival on its way.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) stream: u16,
    pub(crate) warm: bool,
    pub(crate) target: u32,
    /// The place in the plan of the target's request that it sends.
    pub(crate) turn: u32,
    /// The closed model's user; `u32::MAX` in the open model.
    pub(crate) user: u32,
    pub(crate) seq: u64,
    pub(crate) scheduled_at: Nanos,
    pub(crate) dispatched_at: Nanos,
    /// [`Nanos::MAX`] until the first byte was accepted by the kernel.
    pub(crate) sent_at: Nanos,
    pub(crate) deadline: Nanos,
    /// The connection that carries it; `None` while it waits for one.
    pub(crate) connection: Option<u32>,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in: u64,
    /// A redirect that is being followed.
    pub(crate) hop: Option<Box<Hop>>,
    before: Id,
    after: Id,
}

impl Exchange {
    /// A new arrival, waiting.
    pub(crate) fn new(stream: u16, target: u32, seq: u64, scheduled_at: Nanos) -> Exchange {
        Exchange {
            stream,
            warm: false,
            target,
            turn: 0,
            user: u32::MAX,
            seq,
            scheduled_at,
            dispatched_at: scheduled_at,
            sent_at: Nanos::MAX,
            deadline: Nanos::MAX,
            connection: None,
            bytes_out: 0,
            bytes_in: 0,
            hop: None,
            before: NONE,
            after: NONE,
        }
    }

    /// Whether any byte reached the kernel.
    pub(crate) fn was_sent(&self) -> bool {
        self.sent_at != Nanos::MAX
    }
}

#[derive(Clone, Copy)]
struct List {
    first: Id,
    last: Id,
}

/// All arrivals on their way.
pub(crate) struct Exchanges {
    slab: Slab<Exchange>,
    /// By stream.
    lists: Vec<List>,
}

impl Exchanges {
    pub(crate) fn new(streams: usize) -> Exchanges {
        let empty = List { first: NONE, last: NONE };
        Exchanges { slab: Slab::new(), lists: vec![empty; streams] }
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn insert(&mut self, mut exchange: Exchange) -> Id {
        let stream = exchange.stream as usize;
        let last = self.lists[stream].last;
        exchange.before = last;
        let id = Id::try_from(self.slab.insert(exchange)).expect("fewer than 2^32 on their way");
        match self.slab.get_mut(last as usize) {
            Some(last) => last.after = id,
            None => self.lists[stream].first = id,
        }
        self.lists[stream].last = id;
        id
    }

    pub(crate) fn get(&self, id: Id) -> Option<&Exchange> {
        self.slab.get(id as usize)
    }

    pub(crate) fn get_mut(&mut self, id: Id) -> &mut Exchange {
        &mut self.slab[id as usize]
    }

    pub(crate) fn remove(&mut self, id: Id) -> Exchange {
        let exchange = self.slab.remove(id as usize);
        let list = exchange.stream as usize;
        match self.slab.get_mut(exchange.before as usize) {
            Some(before) => before.after = exchange.after,
            None => self.lists[list].first = exchange.after,
        }
        match self.slab.get_mut(exchange.after as usize) {
            Some(after) => after.before = exchange.before,
            None => self.lists[list].last = exchange.before,
        }
        exchange
    }

    /// The stream's exchange that is given up first.
    fn first_of(&self, stream: usize) -> Option<(Nanos, Id)> {
        let id = self.lists[stream].first;
        self.get(id).map(|exchange| (exchange.deadline, id))
    }

    /// The exchange that is given up first, and when.
    pub(crate) fn first_due(&self) -> Option<(Nanos, Id)> {
        (0..self.lists.len()).filter_map(|stream| self.first_of(stream)).min()
    }

    /// Any one of them.
    pub(crate) fn any(&self) -> Option<Id> {
        self.slab.iter().next().map(|(id, _)| id as Id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_stay_in_order_whoever_leaves() {
        let mut exchanges = Exchanges::new(2);
        let add = |exchanges: &mut Exchanges, stream: u16, at: u64| {
            let mut exchange = Exchange::new(stream, 0, at, Nanos(at));
            exchange.deadline = Nanos(at);
            exchanges.insert(exchange)
        };
        let ids: Vec<Id> = (1..=6).map(|at| add(&mut exchanges, (at % 2) as u16, at)).collect();
        assert_eq!(exchanges.first_due(), Some((Nanos(1), ids[0])));
        for (leaves, first) in [(2, 1), (0, 2), (1, 4), (5, 4), (3, 5), (4, 0)] {
            exchanges.remove(ids[leaves]);
            let due = exchanges.first_due().map_or(0, |(at, _)| at.0);
            assert_eq!(due, first, "after {leaves}");
        }
        assert_eq!(exchanges.len(), 0);
        add(&mut exchanges, 0, 9);
        assert_eq!(exchanges.first_due().map(|(at, _)| at), Some(Nanos(9)));
    }
}
