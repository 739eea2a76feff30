//! A second level on virtual time, as slow as Redis sometimes is.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use plimsoll_measure::Nanos;
use plimsoll_measure::rng::{Key, Sequence};
use tokio::time::Instant;

use crate::cache::shared::{Name, Register, Reply, Shared, SharedCounts, SharedEntry};

/// How long a call waits for it, as by default.
const TIMEOUT: Duration = Duration::from_millis(5);

pub(super) struct Store {
    start: Instant,
    contents: Mutex<Contents>,
}

struct Contents {
    answers: HashMap<String, (Instant, SharedEntry)>,
    registers: HashMap<String, Vec<u8>>,
    claims: HashMap<String, Instant>,
    random: Sequence,
}

#[allow(clippy::disallowed_methods)] // the virtual clock
fn now() -> Instant {
    Instant::now()
}

impl Store {
    pub(super) fn new(seed: u64) -> Store {
        let contents = Contents {
            answers: HashMap::new(),
            registers: HashMap::new(),
            claims: HashMap::new(),
            random: Key::new(seed).with(2).sequence(),
        };
        Store { start: now(), contents: Mutex::new(contents) }
    }

    /// Sets a register.
    pub(super) fn set(&self, register: &str, value: Vec<u8>) {
        self.with(|contents| contents.registers.insert(register.into(), value));
    }

    fn with<T>(&self, action: impl FnOnce(&mut Contents) -> T) -> T {
        action(&mut self.contents.lock().expect("no panic"))
    }

    /// An action after the time that a request takes to arrive; its outcome arrives later, or too late.
    fn ask<'a, T: 'a>(&'a self, action: impl FnOnce(&mut Contents) -> T + 'a) -> Reply<'a, T> {
        let [there, back] = self.with(|contents| {
            // One in fifty is slow, one way or the other.
            [(); 2].map(|()| {
                let slow = if contents.random.below(100) == 0 { 20_000 } else { 0 };
                Duration::from_micros(100 + contents.random.below(1_500) + slow)
            })
        });
        Box::pin(async move {
            tokio::time::sleep(there).await;
            let outcome = self.with(action);
            if there + back > TIMEOUT {
                tokio::time::sleep(TIMEOUT.saturating_sub(there)).await;
                return None;
            }
            tokio::time::sleep(back).await;
            Some(outcome)
        })
    }
}

impl Shared for Store {
    fn is_used(&self) -> bool {
        true
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    fn counts(&self) -> SharedCounts {
        SharedCounts::default()
    }

    fn get<'a>(&'a self, name: &'a Name) -> Reply<'a, SharedEntry> {
        let found = self.ask(|contents| {
            let (since, entry) = contents.answers.get(&name.text)?;
            let age = Nanos::from(now() - *since);
            (age < entry.remaining)
                .then(|| SharedEntry { remaining: entry.remaining - age, ..entry.clone() })
        });
        Box::pin(async move { found.await? })
    }

    fn put(&self, name: Name, entry: SharedEntry) {
        self.with(|contents| contents.answers.insert(name.text, (now(), entry)));
    }

    fn claim<'a>(&'a self, name: &'a Name, span: Nanos) -> Reply<'a, bool> {
        self.ask(move |contents| {
            let is_free = contents.claims.get(&name.text).is_none_or(|until| *until <= now());
            if is_free {
                contents.claims.insert(name.text.clone(), now() + Duration::from(span));
            }
            is_free
        })
    }

    fn release(&self, name: &Name) {
        self.with(|contents| contents.claims.remove(&name.text));
    }

    fn read<'a>(&'a self, register: &'a str) -> Reply<'a, Register> {
        // Its clock has another origin.
        let time = move || Nanos::from(now() - self.start) + Nanos::from_secs(1_700_000_000);
        self.ask(move |contents| (contents.registers.get(register).cloned(), time()))
    }

    fn replace<'a>(
        &'a self,
        register: &'a str,
        old: Option<&'a [u8]>,
        new: &'a [u8],
    ) -> Reply<'a, bool> {
        self.ask(move |contents| {
            let is_old = contents.registers.get(register).map(Vec::as_slice) == old;
            if is_old {
                contents.registers.insert(register.into(), new.to_vec());
            }
            is_old
        })
    }

    fn remove<'a>(&'a self, _: &'a str) -> Reply<'a, u64> {
        Box::pin(std::future::ready(None))
    }
}
