//! The calls that wait for a slot of an upstream: one bounded queue for the process, fair between
//! accounts.
//!
//! How long a call may wait is decided by [`crate::line`].
//!
//! # One queue
//! A call that any of five upstreams can answer waits for the first free slot of any of them. So calls
//! do not wait at an upstream, but with the list of those that they accept; a free slot
//! ([`super::gate`]) is offered to the calls that accept it. Only calls that wait, and slots that are
//! returned while calls wait, take the lock.
//!
//! # Fairness
//! What an account can take from others is slots, for as long as its calls last. So a free slot goes to
//! the waiting account that holds the fewest (max-min fairness); among equals to the one whose turn is
//! longest ago. An account that asks for less than its share is always first: it waits for one slot to
//! be returned, whatever others send. Compared with fair queueing of calls (Demers, Keshav and Shenker
//! 1989), an account with slow calls gets no more than its share of the slots, and nothing has to be
//! known about a call before it is sent. All keys of an endpoint are one account. The calls of an
//! account are served in the order of their arrival.
//!
//! # Shedding
//! A call that would not be served within its wait is refused at once: its place in the order, times
//! the measured interval between two slots of its service; but not while the limit of an upstream is a
//! guess. A call that has waited in vain is refused then, or at its turn if the queue stands by that
//! time ([`crate::line`]). The answer says when to try again: when the queue will have been served.
//! Serving the newest call first, as Facebook does, is not needed: the queue is never longer than what can
//! be served in time.
//!
//! # Limits
//! At most [`WAITERS_MAX`] calls wait; beyond it, the account with most waiting calls loses its last
//! one. A grant looks at each account with waiting calls and at the first call of
//! each.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plimsoll_measure::Nanos;
use tokio::sync::oneshot;

use super::gate::Gate;
use crate::account::InUse;
use crate::line::{Line, WAIT_UNKNOWN, Waited};
use crate::local::Local;

/// The most calls that wait.
pub(crate) const WAITERS_MAX: usize = 10_000;

/// The time of an answer while none is known.
const TIME_UNKNOWN: Nanos = Nanos::from_millis(100);

/// The queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// `limits.upstream_connections`.
    connections_max: AtomicU32,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// The accounts with waiting calls.
    accounts: Vec<AccountQueue>,
    waiters: usize,
    ids: u64,
    turns: u64,
}

#[derive(Debug)]
struct AccountQueue {
    in_use: Arc<InUse>,
    /// In the order of their ids.
    waiters: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    since: Nanos,
    accepts: Vec<Arc<Gate>>,
    line: Arc<Line>,
    grant: oneshot::Sender<Grant>,
}

/// A slot for a call that has waited, or the loss of its place.
#[derive(Debug)]
struct Grant {
    /// How the wait ended.
    how: Waited,
    slot: Option<(Arc<Gate>, u32)>,
    account: Arc<InUse>,
    at: Nanos,
}

impl Drop for Grant {
    fn drop(&mut self) {
        // The call left as it was given the slot.
        if let Some((gate, _)) = self.slot.take() {
            self.account.slots.fetch_sub(1, Relaxed);
            gate.leave(|| self.at);
        }
    }
}

/// A call that is to wait.
pub(crate) struct Request<'a> {
    pub(crate) account: &'a Arc<InUse>,
    pub(crate) line: &'a Arc<Line>,
    /// The gates whose slots it accepts.
    pub(crate) accepts: Vec<Arc<Gate>>,
    /// When it began to wait.
    pub(crate) since: Nanos,
    /// The end of a wait that it goes on with.
    pub(crate) until: Option<Nanos>,
    /// When the call itself times out.
    pub(crate) deadline: Nanos,
}

/// A call that is not served, and when it may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shed {
    pub(crate) how: Waited,
    pub(crate) retry_after: Nanos,
}

/// A place in the queue; dropping it leaves the queue.
pub(crate) struct Place<'a> {
    queue: &'a Waiting,
    account: &'a Arc<InUse>,
    line: &'a Arc<Line>,
    id: u64,
    /// When the call is refused.
    pub(crate) until: Nanos,
    local: &'a Local,
    granted: oneshot::Receiver<Grant>,
    is_over: bool,
}

impl Default for Waiting {
    fn default() -> Waiting {
        Waiting { connections_max: AtomicU32::new(u32::MAX), queue: Mutex::default() }
    }
}

impl Waiting {
    /// Sets the bound of all gates.
    pub(crate) fn set_connections_max(&self, max: usize) {
        self.connections_max.store(u32::try_from(max).unwrap_or(u32::MAX).max(1), Relaxed);
    }

    #[inline]
    pub(super) fn connections_max(&self) -> u32 {
        self.connections_max.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a call.
    ///
    /// # Errors
    /// It would not be served in time, or too many calls wait.
    pub(crate) fn enqueue<'a>(
        &'a self,
        request: Request<'a>,
        local: &'a Local,
    ) -> Result<Place<'a>, Shed> {
        let Request { account, line, accepts, since, until, deadline } = request;
        let now = local.now();
        let mut queue = self.lock();
        let times = accepts.iter().filter_map(|gate| gate.time());
        let time = times.min().unwrap_or(TIME_UNKNOWN);
        let slots = accepts.iter().map(|gate| gate.limit()).fold(0, u32::saturating_add).max(1);
        let pace = line.pace(Nanos(time.0 / u64::from(slots)));
        // While the limit is a guess, no call is refused before it has waited.
        let is_known = accepts.iter().all(|gate| gate.is_known());
        let until = until.unwrap_or_else(|| {
            let half = Nanos((deadline - now).0 / 2);
            let least = if is_known { Nanos::ZERO } else { WAIT_UNKNOWN };
            now + account.crowd.allowed(time, now).max(least).min(half)
        });
        let retry_after = Nanos(pace.0.saturating_mul(u64::from(line.waiting()) + 1));
        let refused = |how| {
            line.count(how);
            account.crowd.refused();
            Err(Shed { how, retry_after })
        };
        // Calls that wait may not use the slots that are kept.
        let is_free = accepts.iter().any(|gate| gate.has_room(account, now));
        let ahead = queue.ahead(account, line);
        let turn = now + Nanos(pace.0.saturating_mul(ahead + 1)) + line.stalled(now);
        if is_known && !is_free && turn > until {
            return refused(Waited::Early);
        }
        if queue.waiters >= WAITERS_MAX && !queue.shed_longest(account, now) {
            return refused(Waited::Full);
        }
        queue.ids += 1;
        let id = queue.ids;
        let (sender, granted) = oneshot::channel();
        for gate in &accepts {
            gate.waiting.fetch_add(1, SeqCst);
        }
        line.added(now);
        account.crowd.added(now);
        queue.waiters += 1;
        let gates = accepts.clone();
        let waiter = Waiter { id, since, accepts, line: line.clone(), grant: sender };
        match queue.accounts.iter_mut().find(|one| Arc::ptr_eq(&one.in_use, account)) {
            Some(one) => one.waiters.push_back(waiter),
            None => {
                let waiters = VecDeque::from([waiter]);
                queue.accounts.push(AccountQueue { in_use: account.clone(), waiters });
            }
        }
        // One may have been returned before this call was seen to wait.
        for gate in &gates {
            queue.hand_over(gate, now);
        }
        Ok(Place { queue: self, account, line, id, until, local, granted, is_over: false })
    }

    /// Gives free slots of a gate to waiting calls.
    #[cold]
    pub(super) fn hand_over(&self, gate: &Arc<Gate>, now: Nanos) {
        self.lock().hand_over(gate, now);
    }
}

impl Queue {
    fn hand_over(&mut self, gate: &Arc<Gate>, now: Nanos) {
        while gate.waiting.load(SeqCst) > 0 {
            let Some((at, place)) = self.next(gate) else { return };
            let account = self.accounts[at].in_use.clone();
            // If it has none for the account that holds fewest, it has none for any.
            let Some(number) = gate.take(&account, now) else { return };
            let time = gate.time().unwrap_or(TIME_UNKNOWN);
            let waited = now - self.accounts[at].waiters[place].since;
            if gate.is_known() && account.crowd.is_stale(waited, time) {
                gate.put_back();
                self.refuse(at, place, Waited::Late, now);
                continue;
            }
            let Some(waiter) = self.take(at, place, now) else { return gate.put_back() };
            self.turns += 1;
            account.turn.store(self.turns, Relaxed);
            account.slots.fetch_add(1, Relaxed);
            waiter.line.granted(waited, now);
            account.crowd.served(waited, time, now);
            let slot = Some((gate.clone(), number));
            let grant = Grant { how: Waited::Served, slot, account, at: now };
            if let Err(mut grant) = waiter.grant.send(grant) {
                // It has left; here, the lock is held.
                grant.slot = None;
                grant.account.slots.fetch_sub(1, Relaxed);
                gate.put_back();
            }
        }
    }

    /// The call that is to get a slot of this gate: its account's place, and its own there.
    fn next(&self, gate: &Arc<Gate>) -> Option<(usize, usize)> {
        let mut best: Option<((u64, u64), (usize, usize))> = None;
        for (at, one) in self.accounts.iter().enumerate() {
            let key = (one.in_use.slots.load(Relaxed), one.in_use.turn.load(Relaxed));
            if best.is_some_and(|(least, _)| least <= key) {
                continue;
            }
            let accepts = |waiter: &Waiter| waiter.accepts.iter().any(|one| Arc::ptr_eq(one, gate));
            if let Some(place) = one.waiters.iter().position(accepts) {
                best = Some((key, (at, place)));
            }
        }
        best.map(|(_, places)| places)
    }

    /// Takes a call out of the queue.
    fn take(&mut self, at: usize, place: usize, now: Nanos) -> Option<Waiter> {
        let waiter = self.accounts[at].waiters.remove(place)?;
        waiter.line.crowd.removed(now);
        self.accounts[at].in_use.crowd.removed(now);
        if self.accounts[at].waiters.is_empty() {
            self.accounts.swap_remove(at);
        }
        self.waiters -= 1;
        for gate in &waiter.accepts {
            gate.waiting.fetch_sub(1, SeqCst);
        }
        Some(waiter)
    }

    /// The calls that are served before the next one of an account: as many of each other account as
    /// would hold fewer slots by then.
    fn ahead(&self, account: &Arc<InUse>, line: &Arc<Line>) -> u64 {
        let same = |one: &&AccountQueue| Arc::ptr_eq(&one.in_use, account);
        let own = self.accounts.iter().find(same).map_or(0, |one| one.waiters.len() as u64);
        let level = account.slots.load(Relaxed) + own + 1;
        let others =
            self.accounts.iter().filter(|one| !same(one)).filter(|one| {
                one.waiters.front().is_some_and(|first| Arc::ptr_eq(&first.line, line))
            });
        let before = |one: &AccountQueue| {
            let room = level.saturating_sub(one.in_use.slots.load(Relaxed));
            room.min(one.waiters.len() as u64)
        };
        own + others.map(before).sum::<u64>()
    }

    /// Refuses the last call of the account with most waiting calls, unless that is this one.
    fn shed_longest(&mut self, account: &Arc<InUse>, now: Nanos) -> bool {
        let longest = self.accounts.iter().enumerate().max_by_key(|(_, one)| one.waiters.len());
        let Some((at, one)) = longest else { return false };
        if Arc::ptr_eq(&one.in_use, account) {
            return false;
        }
        let place = one.waiters.len() - 1;
        self.refuse(at, place, Waited::Full, now);
        true
    }

    /// Refuses a call that waits.
    fn refuse(&mut self, at: usize, place: usize, how: Waited, now: Nanos) {
        let account = self.accounts[at].in_use.clone();
        let Some(waiter) = self.take(at, place, now) else { return };
        waiter.line.count(how);
        account.crowd.refused();
        // It may have left.
        drop(waiter.grant.send(Grant { how, slot: None, account, at: now }));
    }
}

impl<'a> Place<'a> {
    /// Waits for a slot. Returns it and its gate.
    ///
    /// # Errors
    /// No slot was free in time.
    pub(crate) async fn slot(mut self) -> Result<(Arc<Gate>, u32), Shed> {
        let until = self.local.instant(self.until);
        let granted = tokio::time::timeout_at(until, &mut self.granted).await;
        let mut granted = granted.ok().and_then(Result::ok);
        if granted.is_none() && !self.leave(Waited::Late) {
            // Its turn came at this moment.
            granted = self.granted.try_recv().ok();
        }
        self.is_over = true;
        let how = match granted {
            None => Waited::Late,
            Some(mut grant) => match grant.slot.take() {
                Some(slot) => return Ok(slot),
                None => grant.how,
            },
        };
        let pace = self.line.pace(TIME_UNKNOWN);
        let retry_after = Nanos(pace.0.saturating_mul(u64::from(self.line.waiting()).max(1)));
        Err(Shed { how, retry_after })
    }

    /// Leaves the queue; returns whether the call was still in it.
    fn leave(&mut self, how: Waited) -> bool {
        let now = self.local.now();
        let mut queue = self.queue.lock();
        let mut accounts = queue.accounts.iter();
        let Some(at) = accounts.position(|one| Arc::ptr_eq(&one.in_use, self.account)) else {
            return false;
        };
        let found = queue.accounts[at].waiters.binary_search_by_key(&self.id, |waiter| waiter.id);
        let Some(waiter) = found.ok().and_then(|place| queue.take(at, place, now)) else {
            return false;
        };
        waiter.line.count(how);
        if how == Waited::Late {
            self.account.crowd.refused();
        }
        true
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // If it was given a slot at this moment, the grant in the channel returns it.
        if !self.is_over {
            self.leave(Waited::Left);
        }
    }
}

#[cfg(test)]
mod tests;
