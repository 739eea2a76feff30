//! Single flight: calls with the same key that miss at the same time cause one relay.
//!
//! The first caller gets a [`Leader`], which it must move into a task of its own, and a [`Waiter`] like
//! every later caller. So a caller that leaves, first or not, cancels nobody else's answer. The leader
//! ends its flight with [`Leader::land`], or by being dropped (its task panicked, or its worker is
//! shutting down); in the second case each waiter has to relay its own call.
//!
//! A failure is shared with those that waited for it. It is not stored, so that the next caller starts
//! another flight.
//!
//! A flight is over before its waiters wake up: no caller joins a flight that has an answer. One that
//! missed in the store just before the flight's answer was stored could start a second flight; so a
//! leader must look into the store again before it relays. Then a cold key causes exactly one relay.
//!
//! Answers that depend on the branch or the head have a flight for each ([`FlightKey`]), so that a
//! caller does not get an answer from before a reorganisation or from an earlier head.
//!
//! # Limits
//! At most [`FlightLimits::flights`] flights and [`FlightLimits::waiters`] waiters in the process;
//! beyond them a call is relayed without sharing, and counted.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use tokio::sync::watch;

use super::class::{Moment, Scope};
use super::key::Key;

/// Maps with a lock each, so that workers seldom wait for each other.
const SHARDS: usize = 16;

/// What identifies a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlightKey {
    key: Key,
    branch: u64,
    head: u64,
}

impl FlightKey {
    /// The flight of a call that is sent at this moment.
    pub fn new(key: Key, scope: Scope, moment: &Moment) -> FlightKey {
        let latest = moment.served.latest.unwrap_or_default();
        let (branch, head) = match scope {
            Scope::Fixed(_) => (0, 0),
            Scope::Branch => (moment.branch, 0),
            Scope::Head => (moment.branch, latest),
        };
        FlightKey { key, branch, head }
    }
}

impl Hash for FlightKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The rest differs only around a reorganisation or a new head.
        self.key.hash(state);
    }
}

/// The limits of flights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlightLimits {
    /// Flights at a time.
    pub flights: usize,
    /// Callers that wait at a time.
    pub waiters: usize,
}

type Shard<T> = HashMap<FlightKey, watch::Receiver<Option<T>>, RandomState>;

/// The flights of the process, each of which ends in a `T`.
#[derive(Debug)]
pub struct Flights<T> {
    shards: [Mutex<Shard<T>>; SHARDS],
    limits: FlightLimits,
    flights: AtomicUsize,
    waiters: Arc<AtomicUsize>,
    full: AtomicU64,
}

/// How a call takes part in a flight.
#[derive(Debug)]
pub enum Join<T> {
    /// It starts one: the leader belongs into a task of its own.
    Lead(Leader<T>, Waiter<T>),
    /// It waits for another call's answer.
    Wait(Waiter<T>),
    /// There are too many: it has to be relayed alone.
    Full,
}

/// Holds the duty to end a flight; dropping it does so without an answer.
#[derive(Debug)]
pub struct Leader<T> {
    flights: Arc<Flights<T>>,
    key: FlightKey,
    answer: watch::Sender<Option<T>>,
}

/// Waits for a flight's answer. It may be dropped at any time.
#[derive(Debug)]
pub struct Waiter<T> {
    answer: watch::Receiver<Option<T>>,
    _place: Place,
}

/// A place among the waiters.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl<T> Flights<T> {
    /// No flights.
    pub fn new(limits: FlightLimits) -> Arc<Flights<T>> {
        Arc::new(Flights {
            shards: Default::default(),
            limits,
            flights: AtomicUsize::new(0),
            waiters: Arc::default(),
            full: AtomicU64::new(0),
        })
    }

    /// Joins the flight with this key, or starts it.
    pub fn join(self: &Arc<Flights<T>>, key: FlightKey) -> Join<T> {
        let place = Place(self.waiters.clone());
        if self.waiters.fetch_add(1, Relaxed) >= self.limits.waiters {
            return self.refuse();
        }
        let mut shard = self.shard(&key);
        if let Some(answer) = shard.get(&key) {
            return Join::Wait(Waiter { answer: answer.clone(), _place: place });
        }
        if self.flights.fetch_add(1, Relaxed) >= self.limits.flights {
            self.flights.fetch_sub(1, Relaxed);
            return self.refuse();
        }
        let (sender, answer) = watch::channel(None);
        shard.insert(key, answer.clone());
        let leader = Leader { flights: self.clone(), key, answer: sender };
        Join::Lead(leader, Waiter { answer, _place: place })
    }

    fn refuse(&self) -> Join<T> {
        self.full.fetch_add(1, Relaxed);
        Join::Full
    }

    fn shard(&self, key: &FlightKey) -> MutexGuard<'_, Shard<T>> {
        let Key(bits) = key.key;
        let shard = &self.shards[(bits >> 64) as usize % SHARDS];
        // A map is whole after each operation.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Flights now.
    pub fn flights(&self) -> usize {
        self.flights.load(Relaxed)
    }

    /// Waiters now.
    pub fn waiters(&self) -> usize {
        self.waiters.load(Relaxed)
    }

    /// How often a call was not admitted, because there were too many flights or waiters.
    pub fn full(&self) -> u64 {
        self.full.load(Relaxed)
    }
}

impl<T> Leader<T> {
    /// Ends the flight with this answer, which all waiters get.
    pub fn land(self, answer: T) {
        self.flights.shard(&self.key).remove(&self.key);
        self.answer.send_replace(Some(answer));
    }
}

impl<T> Drop for Leader<T> {
    fn drop(&mut self) {
        // After `land` another flight may have the key.
        if self.answer.borrow().is_none() {
            self.flights.shard(&self.key).remove(&self.key);
        }
        self.flights.flights.fetch_sub(1, Relaxed);
    }
}

impl<T: Clone> Waiter<T> {
    /// The answer; `None` if the flight ended without one.
    pub async fn wait(mut self) -> Option<T> {
        self.answer.wait_for(Option::is_some).await.ok()?.clone()
    }
}

#[cfg(test)]
mod tests;
