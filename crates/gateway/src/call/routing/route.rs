//! A service's route to an upstream, and what is known about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use plimsoll_measure::Nanos;
use plimsoll_measure::rng::Key;
use plimsoll_registry::model::{self, Kind};
use plimsoll_resilience::breaker::{Change, Pass, State};
use plimsoll_resilience::{Breaker, BreakerSettings, SlowStart};

use super::service::{Previous, SERVICE_ID};
use crate::call::chain::{self, Chain};
use crate::call::health::Checks;
use crate::http1::write_field;
use crate::observe::stats::{Relays, Sharded};
use crate::upstream::Upstream;

/// A service's route to an upstream.
pub(crate) struct Route {
    pub(crate) upstream: Arc<Upstream>,
    /// The part of a JSON-RPC request's head that is the same for all calls.
    pub(crate) head: Vec<u8>,
    pub(crate) relays: Arc<Sharded<Relays>>,
    pub(crate) state: Arc<RouteState>,
    /// Whether the upstream must confirm the service's chain id before it is used.
    pub(crate) is_chain_checked: bool,
}

/// What is known about an upstream as a route of one service. Outlives the replacement of the
/// `Routing`.
#[derive(Debug)]
pub(crate) struct RouteState {
    /// Whether the upstream is on the service's chain.
    pub(crate) chain: Chain,
    pub(crate) breaker: Breaker,
    pub(crate) slow_start: SlowStart,
    pub(crate) checks: Checks,
    /// Why the health checks have taken it out of rotation: an [`Exclusion`].
    exclusion: AtomicU8,
}

/// Why health checks have taken an upstream out of rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exclusion {
    /// It does not answer health checks.
    Unanswered = 1,
    /// It reports that it is not ready for the service.
    NotReady,
    /// It is further behind than the service allows.
    Behind,
    /// It is on another branch of the chain than the one that is served.
    Forked,
    /// It reports a block number that cannot be right.
    Implausible,
}

impl Exclusion {
    const ALL: [Exclusion; 5] = [
        Exclusion::Unanswered,
        Exclusion::NotReady,
        Exclusion::Behind,
        Exclusion::Forked,
        Exclusion::Implausible,
    ];

    /// The name in metrics and on the page of readiness.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Exclusion::Unanswered => "unanswered",
            Exclusion::NotReady => "not_ready",
            Exclusion::Behind => "behind",
            Exclusion::Forked => "forked",
            Exclusion::Implausible => "implausible",
        }
    }
}

impl Exclusion {
    /// The reason, for people.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Exclusion::Unanswered => "it does not answer health checks",
            Exclusion::NotReady => "it reports that it is not ready",
            Exclusion::Behind => "it is further behind than sync_allowance",
            Exclusion::Forked => "it is on another branch of the chain",
            Exclusion::Implausible => "it reports a block number that cannot be right",
        }
    }
}

/// Why an upstream is out of rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excluded {
    /// It is on the chain with this id.
    WrongChain(u64),
    /// It does not tell its chain id, and others do.
    ChainUntold,
    /// It has never answered when it was asked for its chain id.
    ChainUnanswered,
    Drained,
    /// It has asked not to be called.
    Parked {
        until: Nanos,
    },
    /// By its health checks.
    Checked(Exclusion),
    Breaker {
        until: Nanos,
    },
    /// It has failed several attempts in a row.
    Failing,
}

impl Excluded {
    /// Whether no call is sent to the upstream. Otherwise it is called when no better one is left, and
    /// may answer.
    pub(crate) fn prevents_calls(self) -> bool {
        matches!(self, Excluded::WrongChain(_) | Excluded::Drained | Excluded::Parked { .. })
    }

    /// The name in metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Excluded::WrongChain(_) => "wrong_chain",
            Excluded::ChainUntold => "chain_untold",
            Excluded::ChainUnanswered => "chain_unanswered",
            Excluded::Drained => "drained",
            Excluded::Parked { .. } => "parked",
            Excluded::Checked(why) => why.word(),
            Excluded::Breaker { .. } => "breaker",
            Excluded::Failing => "failing",
        }
    }

    /// The reason, for people.
    pub(crate) fn reason(self) -> String {
        match self {
            Excluded::WrongChain(id) => format!("it is on chain {id}"),
            Excluded::ChainUntold => "it does not tell its chain id, and others do".into(),
            Excluded::ChainUnanswered => "it has not answered eth_chainId".into(),
            Excluded::Drained => "it is drained".into(),
            Excluded::Parked { .. } => "it has asked not to be called for a while".into(),
            Excluded::Checked(why) => why.reason().into(),
            Excluded::Breaker { .. } => "its breaker is open after failed calls".into(),
            Excluded::Failing => "it has failed several attempts in a row".into(),
        }
    }

    /// When it ends, if that is known.
    pub(crate) fn until(self) -> Option<Nanos> {
        match self {
            Excluded::Parked { until } | Excluded::Breaker { until } => Some(until),
            _ => None,
        }
    }
}

impl RouteState {
    fn new(settings: BreakerSettings, slow_start: Nanos, seed: u64) -> RouteState {
        RouteState {
            chain: Chain::default(),
            breaker: Breaker::new(settings, seed),
            slow_start: SlowStart::new(slow_start),
            checks: Checks::default(),
            exclusion: AtomicU8::new(0),
        }
    }

    /// Why the upstream is out of rotation, by its health checks.
    pub(crate) fn exclusion(&self) -> Option<Exclusion> {
        let word = self.exclusion.load(Ordering::Relaxed);
        Exclusion::ALL.into_iter().find(|one| *one as u8 == word)
    }

    #[inline]
    fn is_excluded(&self) -> bool {
        self.exclusion.load(Ordering::Relaxed) != 0
    }

    /// Sets why the upstream is out of rotation; returns what it was before.
    pub(crate) fn exclude(&self, why: Option<Exclusion>, now: Nanos) -> Option<Exclusion> {
        let before = self.exclusion();
        self.exclusion.store(why.map_or(0, |why| why as u8), Ordering::Relaxed);
        if before.is_some() && why.is_none() {
            self.slow_start.begin(now);
        }
        before
    }
}

/// How good a route must be to be picked. Each level accepts what the one before it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Nothing is known against it.
    Healthy,
    /// It has just returned, and gets fewer calls than usual.
    Returning,
    /// Health checks have taken it out of rotation, or its chain must be checked first.
    Doubtful,
    /// Its breaker is open.
    Failing,
}

impl Level {
    pub(super) const ALL: [Level; 4] =
        [Level::Healthy, Level::Returning, Level::Doubtful, Level::Failing];
}

impl Route {
    /// A route to an upstream; `named` is the service's id if it is the same for all calls.
    pub(super) fn new(
        upstream: &Arc<Upstream>,
        named: Option<&str>,
        service: &model::Service,
        previous: Previous<'_>,
    ) -> Route {
        let old = previous.service.and_then(|service| {
            service.routes.iter().find(|old| old.upstream.model.id == upstream.model.id)
        });
        let relays =
            old.map_or_else(|| Arc::new(Sharded::new(previous.workers)), |old| old.relays.clone());
        // What is known about a different address, or a different chain, does not apply.
        let is_same = |old: &&Route| {
            let before = previous.service.map(|service| &service.model);
            let is_same = |before: &model::Service| {
                before.chain_id == service.chain_id
                    && before.resilience.slow_start == service.resilience.slow_start
            };
            old.upstream.serial == upstream.serial && before.is_some_and(is_same)
        };
        let seed = Key::new(previous.seed).with(upstream.serial).bits();
        let state = old.filter(is_same).map(|old| old.state.clone());
        let state = state.unwrap_or_else(|| {
            Arc::new(RouteState::new(
                BreakerSettings::default(),
                service.resilience.slow_start,
                seed,
            ))
        });
        let is_chain_checked = named.is_some()
            && service.chain_id.is_some()
            && upstream.model.methods.permit(chain::METHOD);
        let head = call_head(&upstream.model, named);
        Route { upstream: upstream.clone(), head, relays, state, is_chain_checked }
    }

    /// Why the upstream is out of rotation, if it is.
    pub(crate) fn why_excluded(&self, now: Nanos) -> Option<Excluded> {
        if let Some(id) = self.state.chain.other() {
            return Some(Excluded::WrongChain(id));
        }
        if self.upstream.model.drain {
            return Some(Excluded::Drained);
        }
        if let Some(until) = self.upstream.parking.until(now) {
            return Some(Excluded::Parked { until });
        }
        if let Some(why) = self.state.exclusion() {
            return Some(Excluded::Checked(why));
        }
        if self.is_chain_checked && self.state.chain.is_refused() {
            return Some(Excluded::ChainUntold);
        }
        match self.state.breaker.state() {
            _ if self.is_chain_checked && self.state.chain.is_unanswered() => {
                Some(Excluded::ChainUnanswered)
            }
            State::Open { until } => Some(Excluded::Breaker { until }),
            _ => self.upstream.health.is_down().then_some(Excluded::Failing),
        }
    }

    /// Whether the upstream has confirmed the service's chain since it may last have been replaced,
    /// or need not.
    #[inline]
    pub(crate) fn is_confirmed(&self) -> bool {
        !self.is_chain_checked || self.state.chain.is_confirmed_after(self.upstream.health.losses())
    }

    /// Whether the route is good enough at this level.
    #[inline]
    pub(super) fn is_at(&self, level: Level, now: Nanos, random: impl FnOnce() -> f64) -> bool {
        let state = &*self.state;
        !state.chain.is_another()
            && (level >= Level::Failing || state.breaker.is_admitting(now))
            && (level >= Level::Doubtful || self.is_confirmed() && !state.is_excluded())
            && (level >= Level::Returning || state.slow_start.takes(now, random))
    }

    /// Whether the upstream has answered a call of the service since then.
    pub(crate) fn has_answered_since(&self, start: Nanos) -> bool {
        self.relays.iter().any(|relays| relays.answered_at() > start)
    }

    /// Reports that the upstream answered a call.
    #[inline]
    pub(crate) fn succeeded(&self, pass: Option<Pass>, now: Nanos) {
        let state = &*self.state;
        match pass {
            Some(pass) if state.breaker.succeeded(pass, now).is_some() => self.closed(now),
            Some(_) => {}
            None => self.answered_anyway(now),
        }
    }

    /// A call was answered that the breaker had refused: no upstream of the service was known to work. As
    /// good as a health check, and sooner: the open time may be half a minute by now.
    #[cold]
    fn answered_anyway(&self, now: Nanos) {
        self.state.breaker.end_open_time(now);
    }

    #[cold]
    fn closed(&self, now: Nanos) {
        self.state.slow_start.begin(now);
        let upstream = &*self.upstream.model.id;
        tracing::info!(upstream, "upstream {upstream} works again: its breaker has closed");
    }

    /// Reports that a call failed for a reason that is the upstream's.
    #[cold]
    pub(crate) fn failed(&self, service: &str, pass: Option<Pass>, now: Nanos) {
        let change = pass.and_then(|pass| self.state.breaker.failed(pass, now));
        if let Some(Change::Opened { until }) = change {
            let upstream = &*self.upstream.model.id;
            let span = until - now;
            tracing::warn!(
                upstream,
                service,
                "upstream {upstream} fails: its breaker for {service} is open for {span}"
            );
        }
    }
}

/// The part of a JSON-RPC request's head that is the same for all calls.
fn call_head(model: &model::Upstream, named: Option<&str>) -> Vec<u8> {
    let mut head = request_start("POST", model, model.path(), &[]);
    head.extend_from_slice(b"content-type: application/json\r\n");
    let is_configured = |name: &str| model.headers.iter().any(|(known, _)| known == name);
    if !is_configured("accept") {
        head.extend_from_slice(b"accept: application/json\r\n");
    }
    // Upstreams with TLS are usually remote: fewer bytes are worth the cost of decompression.
    if !is_configured("accept-encoding") && model.address.tls {
        head.extend_from_slice(b"accept-encoding: gzip\r\n");
    }
    if let (Kind::Path, Some(service)) = (model.kind, named)
        && !is_configured(SERVICE_ID)
    {
        write_field(SERVICE_ID, service.as_bytes(), &mut head);
    }
    head
}

/// A request's first line and the headers of every request to this upstream, except configured ones
/// named in `without`.
pub(crate) fn request_start(
    method: &str,
    upstream: &model::Upstream,
    target: &str,
    without: &[&str],
) -> Vec<u8> {
    let is_configured = |name: &str| upstream.headers.iter().any(|(known, _)| known == name);
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if !is_configured("host") {
        head.push_str(&format!("host: {}\r\n", upstream.address.authority));
    }
    if !is_configured("user-agent") {
        head.push_str(concat!("user-agent: plimsoll/", env!("CARGO_PKG_VERSION"), "\r\n"));
    }
    for (name, value) in upstream.headers.iter().filter(|(name, _)| !without.contains(&&**name)) {
        head.push_str(&format!("{name}: {}\r\n", value.value));
    }
    head.into_bytes()
}
