//! Who may call an endpoint, compiled for look-ups on the hot path.
//!
//! # Keys
//! Only hashes are known. A presented key is hashed, and its hash looked up: how long that takes says
//! something about the hash at most, which a caller cannot choose. The hash that is found is then
//! compared in constant time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use plimsoll_measure::WallClock;
use plimsoll_registry::model;
use plimsoll_registry::settings::{Cors, Network};

use super::Endpoint;
use crate::account::{Account, AccountIds, InUse};
use crate::limits::ledger::{Ledger, Ledgers};
use crate::limits::{Allowance, Allowances};

/// Keys by their hashes.
type ByHash<T> = HashMap<[u8; 32], T, foldhash::fast::RandomState>;

/// Who may call an endpoint.
pub(crate) struct Access {
    /// None: no key is needed.
    keys: ByHash<Key>,
    /// The origins of pages that may call, as a rule for CORS; `None`: those of all listeners' rule,
    /// and callers that are not pages.
    pub(crate) origins: Option<Cors>,
    networks: Vec<Network>,
    /// `None`: nothing is limited.
    allowance: Option<Arc<Allowance>>,
    /// Calls without a key.
    pub(crate) account: Arc<Account>,
}

/// A key of an endpoint.
pub(crate) struct Key {
    pub(crate) model: model::AccessKey,
    allowance: Option<Arc<Allowance>>,
    pub(crate) account: Arc<Account>,
}

impl Access {
    /// Compiles the access to an endpoint; continues the previous one of the same id.
    pub(super) fn compile(
        endpoint: &model::Endpoint,
        previous: Option<&Endpoint>,
        ledgers: &Ledgers,
        serial: &mut u64,
    ) -> Access {
        let previous = previous.map(|old| &old.access);
        let model::Access { keys, origins, networks, limits } = &endpoint.access;
        let in_use = previous.map(|old| old.account.in_use.clone());
        let in_use: Arc<InUse> = in_use.unwrap_or_default();
        let of_endpoint = ledgers.of(&endpoint.id, None);
        let ledger = |key: Option<&str>| key.map(|key| ledgers.of(&endpoint.id, Some(key)));
        let mut account = |key: Option<&str>, previous: Option<&Arc<Account>>| {
            let (endpoint, service) = (Some(endpoint.id.as_str()), &endpoint.service);
            let ids = AccountIds { endpoint, key, service };
            let ledgers = [ledger(key), Some(of_endpoint.clone())];
            Account::renewed(previous, ids, &in_use, ledgers, serial)
        };
        let allowance = |limits: &_, key: Option<&str>, previous: Option<&Arc<Allowance>>| {
            let ledger = ledger(key).unwrap_or_else(|| of_endpoint.clone());
            let allowance = Allowance::renewed(limits, (&endpoint.id, key), ledger, previous);
            allowance.is_limited().then_some(allowance)
        };
        let key = |model: &model::AccessKey| {
            let name = Some(model.name.as_str());
            let mut old = previous.into_iter().flat_map(|old| old.keys.values());
            let old = old.find(|old| old.model.name == model.name);
            let used = old.and_then(|old| old.allowance.as_ref());
            let allowance = allowance(&model.limits, name, used);
            let account = account(name, old.map(|old| &old.account));
            (model.hash, Key { model: model.clone(), allowance, account })
        };
        let keys = keys.iter().map(key).collect();
        Access {
            keys,
            origins: (!origins.is_empty()).then(|| Cors::Origins(origins.clone())),
            networks: networks.clone(),
            allowance: allowance(limits, None, previous.and_then(|old| old.allowance.as_ref())),
            account: account(None, previous.map(|old| &old.account)),
        }
    }

    /// The ledgers of the endpoint and of its keys by name, each with what it may use.
    pub(crate) fn ledgers(
        &self,
    ) -> impl Iterator<Item = (Option<&str>, Option<&Arc<Allowance>>, &Arc<Ledger>)> {
        let own = self.ledger().map(|ledger| (None, self.allowance.as_ref(), ledger));
        let keys = self.keys.values().filter_map(|key| {
            let ledger = key.account.ledgers.first()?.as_ref()?;
            Some((Some(key.model.name.as_str()), key.allowance.as_ref(), ledger))
        });
        own.into_iter().chain(keys)
    }

    /// The ledger of the endpoint.
    pub(crate) fn ledger(&self) -> Option<&Arc<Ledger>> {
        self.account.ledgers.last()?.as_ref()
    }

    /// Whether every caller may call, without limit.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.keys.is_empty() && self.networks.is_empty() && self.origins.is_none()
    }

    /// Whether calls need a key.
    #[inline]
    pub(crate) fn needs_key(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether only some networks may call.
    #[inline]
    pub(crate) fn has_networks(&self) -> bool {
        !self.networks.is_empty()
    }

    /// Whether a caller at this address may call.
    pub(crate) fn permits(&self, address: IpAddr) -> bool {
        self.networks.is_empty() || self.networks.iter().any(|network| network.holds(address))
    }

    /// The key with this hash, even if it has expired.
    #[inline]
    pub(crate) fn key(&self, hash: &[u8; 32]) -> Option<&Key> {
        self.keys.get(hash).filter(|key| {
            key.model.hash.iter().zip(hash).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
        })
    }

    /// The keys, sorted by name.
    pub(crate) fn keys(&self) -> Vec<&Key> {
        let mut keys: Vec<&Key> = self.keys.values().collect();
        keys.sort_by(|a, b| a.model.name.cmp(&b.model.name));
        keys
    }

    /// The allowances of calls with this key.
    #[inline]
    pub(crate) fn allowances<'a>(&'a self, key: Option<&'a Key>) -> Allowances<'a> {
        [key.and_then(|key| key.allowance.as_ref()), self.allowance.as_ref()]
    }

    /// All allowances: the endpoint's and those of its keys.
    pub(crate) fn all_allowances(&self) -> impl Iterator<Item = &Arc<Allowance>> {
        self.allowance.iter().chain(self.keys.values().filter_map(|key| key.allowance.as_ref()))
    }
}

impl Key {
    /// Whether it has expired.
    #[inline]
    pub(crate) fn has_expired(&self, now: impl Fn() -> WallClock) -> bool {
        self.model.expires.is_some_and(|at| at <= now())
    }
}
