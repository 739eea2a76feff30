//! The cache of answers: which answers may be stored, under which key, where, and for how long.
//!
//! # Layout
//! - [`Cache`]: both levels together, as the relay uses them
//! - [`class`]: whether a call may be answered from the cache, and the class of an answer
//! - [`key`]: the key of a call, shared by all its spellings
//! - [`store`]: the first level, in this process's memory
//! - [`lease`]: the served heads, shared by replicas
//! - [`flight`]: one relay for calls that miss at the same time
//! - [`shared`]: the second level: what replicas share, as names and values
//! - [`redis`]: Redis as the second level
//!
//! # A call
//! [`Cache::find`] decides whether the cache is used at all, and looks into the first level. After a
//! miss the call joins a flight ([`flight`]). Its leader looks again ([`Cache::find_again`]), asks the
//! second level ([`Cache::find_shared`]), relays the call, and stores the answer ([`Cache::keep`])
//! before it lands. A call that bypasses the cache is relayed, and nothing else happens.
//!
//! All of these get the same [`Asked`], with the moment at which the call arrived. What an answer is
//! valid for therefore follows from what the gateway served before it was requested, never after.

pub mod class;
pub mod flight;
pub mod key;
pub mod lease;
pub mod redis;
pub mod shared;
pub mod store;

use std::sync::Arc;

use bytes::Bytes;
use plimsoll_measure::Nanos;
use plimsoll_registry::settings::TimesToLive;
use plimsoll_rpc::method::Method;

use class::{Class, Moment, Plan, Reason, Scope};
use flight::FlightKey;
use key::{Canonical, Key, Keys};
use shared::{Anchor, Name, Shared, SharedEntry};
use store::{Entry, Figures, Selection, Store, StoreLimits};

/// A call as the cache sees it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Whose answers it may share: the service, its chain, and how many upstreams have to agree.
    pub space: &'a str,
    /// The method; `None` if it is not known.
    pub method: Option<Method>,
    /// The parameters as they are sent, with bound tags: a valid JSON text.
    pub params: Option<&'a [u8]>,
    /// What was served when the call arrived.
    pub moment: Moment,
    /// How long the service's answers hold.
    pub times: &'a TimesToLive,
    /// Whether reorganisations of the chain are seen: the hashes of blocks are known. If not, young
    /// answers about a block are not stored, because nothing would end them.
    pub sees_branches: bool,
}

/// A call that outlives its caller.
#[derive(Clone, Debug)]
pub struct OwnedAsked {
    space: String,
    /// The method.
    pub method: Method,
    /// The parameters as they are sent.
    pub params: Option<Bytes>,
    /// What was served when the call arrived.
    pub moment: Moment,
    times: TimesToLive,
    sees_branches: bool,
}

impl OwnedAsked {
    /// A copy of a call; `None` if its method is not known.
    pub fn of(asked: &Asked<'_>) -> Option<OwnedAsked> {
        let Asked { space, method, params, moment, times, sees_branches } = *asked;
        Some(OwnedAsked {
            space: space.into(),
            method: method?,
            params: params.map(Bytes::copy_from_slice),
            moment,
            times: *times,
            sees_branches,
        })
    }

    /// The call.
    pub fn asked(&self) -> Asked<'_> {
        Asked {
            space: &self.space,
            method: Some(self.method),
            params: self.params.as_deref(),
            moment: self.moment,
            times: &self.times,
            sees_branches: self.sees_branches,
        }
    }
}

/// A call that is not in the first level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    method: Method,
    key: Key,
    scope: Scope,
}

impl Ticket {
    /// The flight of the call.
    pub fn flight(&self, asked: &Asked<'_>) -> FlightKey {
        FlightKey::new(self.key, self.scope, &asked.moment)
    }
}

/// A result that was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its class.
    pub class: Class,
    /// The stored bytes.
    pub result: Bytes,
}

/// Answers about the head hold for at most this long: the first call after it is relayed, and shows
/// whether there is a new block before the next poll does.
pub const HEAD_TTL_MAX: Nanos = Nanos::from_secs(1);

/// What the first level has for a call.
#[derive(Debug)]
pub enum Found {
    /// The cache is not used.
    Bypass(Reason),
    /// The result.
    Hit(Bytes),
    /// No answer.
    Miss(Ticket),
}

/// Both levels.
pub struct Cache {
    keys: Keys,
    store: Store,
    shared: Option<Arc<dyn Shared>>,
}

impl Cache {
    /// An empty first level, and perhaps a second one.
    ///
    /// # Panics
    /// The limits are not possible ([`StoreLimits::is_possible`]).
    pub fn new(limits: StoreLimits, shared: Option<Arc<dyn Shared>>) -> Cache {
        Cache { keys: Keys::default(), store: Store::new(limits), shared }
    }

    /// Looks into the first level. `buffer` is empty, and is left so.
    pub fn find(&self, asked: &Asked<'_>, now: Nanos, buffer: &mut Vec<u8>) -> Found {
        let scope = match class::plan(asked.method, asked.params, asked.moment.served) {
            Plan::Bypass(reason) => return Found::Bypass(reason),
            Plan::Use(scope) => scope,
        };
        let Some(method) = asked.method else { return Found::Bypass(Reason::UnknownMethod) };
        let is_off = match scope {
            Scope::Fixed(class) => ttl(asked.times, class) == Nanos::ZERO,
            // The answer may be final.
            Scope::Branch => {
                let is_young_off = asked.times.young == Nanos::ZERO || !asked.sees_branches;
                is_young_off && asked.times.finalized == Nanos::ZERO
            }
            Scope::Head => asked.times.young == Nanos::ZERO,
        };
        if is_off {
            return Found::Bypass(Reason::Off);
        }
        let Some(call) = Canonical::write(asked.space, method, asked.params, buffer) else {
            buffer.clear();
            return Found::Bypass(Reason::TooLong);
        };
        let ticket = Ticket { method, key: self.keys.key(&call), scope };
        buffer.clear();
        match self.find_again(asked, &ticket, now) {
            Some(result) => Found::Hit(result),
            None => Found::Miss(ticket),
        }
    }

    /// Looks into the first level again: another leader may have landed since.
    pub fn find_again(&self, asked: &Asked<'_>, ticket: &Ticket, now: Nanos) -> Option<Bytes> {
        let entry = self.store.get(ticket.key, &asked.moment, now)?;
        // The class may have been turned off since the answer was stored.
        (ttl(asked.times, entry.class) > Nanos::ZERO).then_some(entry.result)
    }

    /// Asks the second level, and stores what it has in the first. `is_known` says whether the served
    /// chain has a block. A shared answer is classified like one of an upstream, because it may be one
    /// that this gateway must not serve yet.
    pub async fn find_shared(
        &self,
        asked: &Asked<'_>,
        ticket: &Ticket,
        is_known: impl Fn(Anchor) -> bool,
        now: Nanos,
    ) -> Option<Bytes> {
        let (shared, name) = self.second_level(asked, ticket)?;
        let found = shared.get(&name).await?;
        let is_on_branch = found.class != Class::Young || found.anchor.is_some_and(is_known);
        let is_of_head = found.head.is_none_or(|head| asked.moment.served.latest == Some(head));
        if !is_on_branch || !is_of_head {
            return None;
        }
        let class = self.classify(asked, ticket, &found.result).ok()?;
        let holds = found.remaining.min(time_to_live(asked, ticket, class));
        self.put(asked, ticket, class, found.result.clone(), now + holds);
        Some(found.result)
    }

    /// Stores a result in both levels, if it may be. `anchor` is the served latest block of the call's
    /// moment, if its hash is known; without it young answers are not shared.
    ///
    /// # Errors
    /// Why it was not stored.
    pub fn keep(
        &self,
        asked: &Asked<'_>,
        ticket: &Ticket,
        result: &[u8],
        anchor: Option<Anchor>,
        now: Nanos,
    ) -> Result<Kept, Reason> {
        let class = self.classify(asked, ticket, result)?;
        let remaining = time_to_live(asked, ticket, class);
        if remaining == Nanos::ZERO {
            return Err(Reason::Off);
        }
        // A part of an upstream's buffer would keep all of it.
        let result = Bytes::copy_from_slice(result);
        self.put(asked, ticket, class, result.clone(), now + remaining);
        let is_shared = class != Class::Young || anchor.is_some();
        if is_shared && let Some((shared, name)) = self.second_level(asked, ticket) {
            let anchor = anchor.filter(|_| class == Class::Young);
            let (head, result) = (head(asked, ticket), result.clone());
            shared.put(name, SharedEntry { result, class, head, anchor, remaining });
        }
        Ok(Kept { class, result })
    }

    /// Claims the right to relay a call, among replicas: those that do not get it wait for the answer in
    /// the second level. `None` if there is no second level or it cannot be reached.
    pub async fn claim(&self, asked: &Asked<'_>, ticket: &Ticket, span: Nanos) -> Option<bool> {
        let (shared, name) = self.second_level(asked, ticket)?;
        shared.claim(&name, span).await
    }

    /// Gives up a claim: the call has been answered, or has failed.
    pub fn release(&self, asked: &Asked<'_>, ticket: &Ticket) {
        if let Some((shared, name)) = self.second_level(asked, ticket) {
            shared.release(&name);
        }
    }

    /// The class of a result that may be stored.
    fn classify(&self, asked: &Asked<'_>, ticket: &Ticket, result: &[u8]) -> Result<Class, Reason> {
        if !self.store.admits(result.len()) {
            return Err(Reason::TooLong);
        }
        let (Asked { params, moment, .. }, Ticket { method, scope, .. }) = (asked, *ticket);
        let class = class::classify(method, *params, scope, result, moment.served)?;
        if class == Class::Young && scope == Scope::Branch && !asked.sees_branches {
            return Err(Reason::NoHashes);
        }
        Ok(class)
    }

    fn put(&self, asked: &Asked<'_>, ticket: &Ticket, class: Class, result: Bytes, end: Nanos) {
        let entry = Entry {
            result,
            class,
            branch: asked.moment.branch,
            head: head(asked, ticket),
            expires_at: end,
            space: self.keys.space(asked.space),
            method: ticket.method,
        };
        self.store.put(ticket.key, entry);
    }

    /// The second level and the name of a call in it.
    fn second_level(&self, asked: &Asked<'_>, ticket: &Ticket) -> Option<(&dyn Shared, Name)> {
        let shared = self.shared.as_deref()?;
        let mut buffer = Vec::new();
        let call = Canonical::write(asked.space, ticket.method, asked.params, &mut buffer)?;
        Some((shared, Name::new(asked.space, ticket.method, &call)))
    }

    /// Removes from the first level what is selected; returns the number of entries.
    pub fn drop_selected(&self, space: Option<&str>, method: Option<Method>) -> u64 {
        let space = space.map(|space| self.keys.space(space));
        self.store.drop_selected(&Selection { space, method })
    }

    /// Removes a call from the first level; returns whether it was there.
    pub fn drop_call(&self, space: &str, method: Method, params: Option<&[u8]>) -> bool {
        let mut buffer = Vec::new();
        let call = Canonical::write(space, method, params, &mut buffer);
        call.is_some_and(|call| self.store.drop_key(self.keys.key(&call)))
    }

    /// Bytes of the longest result that is stored.
    pub fn entry_max(&self) -> u64 {
        self.store.entry_max()
    }

    /// The second level, if there is one.
    pub fn shared(&self) -> Option<&Arc<dyn Shared>> {
        self.shared.as_ref()
    }

    /// Removes what is selected from the second level; returns the number of answers, or `None` if there
    /// is none or it cannot be reached.
    pub async fn drop_shared(&self, space: &str, method: Option<Method>) -> Option<u64> {
        self.shared.as_ref()?.remove(&Name::prefix(space, method)).await
    }

    /// Removes a call from the second level.
    pub async fn drop_shared_call(
        &self,
        space: &str,
        method: Method,
        params: Option<&[u8]>,
    ) -> Option<u64> {
        let shared = self.shared.as_ref()?;
        let mut buffer = Vec::new();
        let call = Canonical::write(space, method, params, &mut buffer)?;
        shared.remove(&Name::new(space, method, &call).text).await
    }

    /// The figures of the first level.
    pub fn figures(&self) -> Figures {
        self.store.figures()
    }
}

/// The latest block for answers that end with it.
fn head(asked: &Asked<'_>, ticket: &Ticket) -> Option<u64> {
    asked.moment.served.latest.filter(|_| ticket.scope == Scope::Head)
}

/// How long an answer holds.
fn time_to_live(asked: &Asked<'_>, ticket: &Ticket, class: Class) -> Nanos {
    let longest = if ticket.scope == Scope::Head { HEAD_TTL_MAX } else { Nanos(u64::MAX) };
    ttl(asked.times, class).min(longest)
}

fn ttl(times: &TimesToLive, class: Class) -> Nanos {
    match class {
        Class::Static => times.fixed,
        Class::Immutable => times.immutable,
        Class::Final => times.finalized,
        Class::Young => times.young,
    }
}

#[cfg(test)]
mod reorganisations;
#[cfg(test)]
mod tests;
