//! Active health checks of upstreams, on the keeper's thread.
//!
//! Calls show which upstreams fail ([`super::attempt`], breakers). Checks show what calls cannot: that
//! an upstream that gets no calls works again, that it has fallen behind the others, that it is on
//! another chain ([`super::chain`]), and that a PATH instance has no session for the service
//! (`/ready/{service}`).
//!
//! # What is checked
//! The chain id of each upstream of a service with a `chain_id`, and the heads of each upstream
//! ([`crate::heads`]). Every half block time, from 1 s to 5 s,
//! because a head is news for about that long; services that nobody has called for a minute are
//! checked as rarely as a connection must be kept open, because each check is a paid relay at some
//! providers.
//!
//! # What follows
//! An upstream leaves rotation ([`Exclusion`]) when it refuses a connection, does not answer two checks
//! in a row, reports that it is not ready, or is further behind than the service's `sync_allowance`.
//! It returns with the first check that shows the opposite, and with a slow start. A check that is
//! answered also ends the open time of a breaker. If all upstreams are behind, the least lagging serves.
//!
//! The same scans report suppressed log lines about failures of upstreams.

mod ask;
mod rotation;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use plimsoll_measure::Nanos;
use plimsoll_registry::model::{self, Kind};
use plimsoll_rpc::json;

use super::chain::{self, CONFIRMED_INTERVAL, parse_hex};
use super::heads::ServiceHeads;
use super::prefetch;
use super::routing::{Route, Service};
use super::shed_log::ShedLog;
use super::worker::Worker;
use crate::error::ErrorKind;
use crate::heads::{BlockId, Event, Hash, Report, Standing};
use crate::sends::sized;
use crate::upstream::Failure;
pub(super) use ask::{After, ask};
use ask::{Ready, ask_ready, numbered};
use rotation::{assess, log_events, refuse_untold};

/// How often the upstreams are scanned for due checks.
const SCAN_INTERVAL: Duration = Duration::from_millis(250);

/// The shortest interval of checks: chains with faster blocks are followed by their calls.
const INTERVAL_MIN: Nanos = Nanos::from_secs(1);

/// How soon upstreams may be asked again when one of them is known to have a new block.
const NEWS_INTERVAL: Nanos = Nanos::from_millis(200);

/// The longest interval of checks, and the interval if the block time is unknown: a dead upstream that
/// gets no calls is noticed, and a returned one used, within twice this time.
const INTERVAL_MAX: Nanos = Nanos::from_secs(5);

/// The timeout of a check.
const CHECK_TIMEOUT: Nanos = Nanos::from_secs(5);

/// A report is news for this many intervals.
const STALE_INTERVALS: u64 = 4;

/// A service is checked at the full rate for this long after a call.
const ACTIVE: Nanos = Nanos::from_secs(60);

/// An upstream that has not answered this many checks in a row leaves rotation.
const MISSES_MAX: u32 = 2;

/// The state of the checks of an upstream for a service.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// When the upstream was last asked; 0 if never.
    asked_at: AtomicU64,
    is_running: AtomicBool,
    /// Checks in a row that were not answered.
    misses: AtomicU32,
    /// Whether it has reported that it is not ready.
    is_unready: AtomicBool,
    /// Checks that were answered.
    answered: AtomicU32,
    /// The numbers of its safe and finalized blocks, each plus 1; 0 if not known.
    safe: AtomicU64,
    finalized: AtomicU64,
}

impl Checks {
    /// Whether to ask now. If so, it is marked as being asked.
    fn starts(&self, interval: Nanos, now: Nanos) -> bool {
        let asked = self.asked_at.load(Ordering::Relaxed);
        if asked > 0 && now - Nanos(asked) < interval || self.is_running.load(Ordering::Relaxed) {
            return false;
        }
        self.asked_at.store(now.0.max(1), Ordering::Relaxed);
        self.is_running.store(true, Ordering::Relaxed);
        true
    }
}

/// When a service was last called, as far as the scans know.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    calls: AtomicU64,
    changed_at: AtomicU64,
    /// Since when it has been called at least once a minute.
    active_since: AtomicU64,
}

impl Activity {
    /// For how long the service has been called regularly, if it is; `calls`: how many calls it has
    /// answered.
    fn recent(&self, calls: u64, now: Nanos) -> Option<Nanos> {
        let is_recent = || now - Nanos(self.changed_at.load(Ordering::Relaxed)) < ACTIVE;
        if self.calls.swap(calls, Ordering::Relaxed) != calls {
            if !is_recent() {
                self.active_since.store(now.0, Ordering::Relaxed);
            }
            self.changed_at.store(now.0, Ordering::Relaxed);
        }
        is_recent().then(|| now - Nanos(self.active_since.load(Ordering::Relaxed)))
    }
}

/// How long a report is news while a service is in use: an upstream that has missed some checks may
/// have anything.
pub(crate) fn stale_after(service: &model::Service) -> Nanos {
    Nanos(STALE_INTERVALS * interval(service).0)
}

/// The interval of checks of a service that is in use.
pub(crate) fn interval(service: &model::Service) -> Nanos {
    let half = service.block_time.map_or(INTERVAL_MAX, |time| Nanos(time.0 / 2));
    half.max(INTERVAL_MIN).min(INTERVAL_MAX)
}

/// Checks upstreams while the gateway runs.
pub(crate) async fn watch(worker: Rc<Worker>) {
    let mut scans = tokio::time::interval(SCAN_INTERVAL);
    let mut shed_log = ShedLog::default();
    loop {
        scans.tick().await;
        let view = worker.view();
        let now = worker.local.now();
        worker.client.tidy(view.routing.upstreams());
        shed_log.report(&view.routing, now);
        for upstream in view.routing.upstreams() {
            upstream.health.flush(&upstream.model.id, now);
        }
        for service in view.routing.services().into_iter().filter(|one| one.is_listed) {
            let usual = interval(&service.model);
            let calls = service.calls.sum(|calls| calls.total());
            let active = service.state.activity.recent(calls, now);
            // Reports from before are news until there are others, so that the first one does not
            // decide alone.
            let stale_after = match active {
                Some(span) if span > stale_after(&service.model) => stale_after(&service.model),
                _ => Nanos(STALE_INTERVALS * CONFIRMED_INTERVAL.0),
            };
            let has_news = service.state.has_news.swap(false, Ordering::Relaxed);
            let current = match (has_news, active) {
                (true, _) => NEWS_INTERVAL,
                (false, Some(_)) => usual,
                (false, None) => CONFIRMED_INTERVAL,
            };
            if let Some(heads) = &service.heads {
                log_events(service, &heads.pass(stale_after, now));
            }
            for (place, route) in service.routes.iter().enumerate() {
                let due = || Due { service: service.clone(), place };
                let losses = route.upstream.health.losses();
                let is_watched = worker.client.watches(&route.upstream);
                let (state, parking) = (&route.state, &route.upstream.parking);
                let is_limited = |method| parking.limited_until(method, now).is_some();
                if route.is_chain_checked
                    && !is_limited(chain::METHOD)
                    && state.chain.is_due(losses, is_watched, usual, now)
                {
                    tokio::task::spawn_local(check_chain(worker.clone(), due()));
                }
                if is_limited(BLOCK) {
                    service.heads.iter().for_each(|heads| heads.missed(place));
                    continue;
                }
                // Another chain's heads are of no use.
                let is_checked = service.heads.is_some() && service.trusts(route);
                let is_probed = parking.is_unavailable(now);
                let current = if is_probed { current.min(INTERVAL_MIN) } else { current };
                if is_checked && state.checks.starts(current, now) {
                    tokio::task::spawn_local(check(worker.clone(), due()));
                }
            }
        }
    }
}

/// A check that is due.
struct Due {
    service: Arc<Service>,
    /// The route's index.
    place: usize,
}

async fn check_chain(worker: Rc<Worker>, due: Due) {
    let route = &due.service.routes[due.place];
    // A failure is not logged here: calls to the upstream report why it fails.
    let asked = chain::check(&worker, &due.service, route, After::Alone).await;
    if asked.is_err() || !due.service.trusts(route) {
        due.service.heads.iter().for_each(|heads| heads.missed(due.place));
    }
    if let Err(failure) = asked
        && matches!(failure.kind, ErrorKind::Unreachable | ErrorKind::Broken)
    {
        route.upstream.health.lost();
    }
    refuse_untold(&due.service);
}

/// Asks an upstream whether it is ready and for its latest block.
async fn check(worker: Rc<Worker>, due: Due) {
    let Due { service, place } = due;
    let route = &service.routes[place];
    let start = worker.local.now();
    let asked = ask_health(&worker, &service, place).await;
    let now = worker.local.now();
    let checks = &route.state.checks;
    checks.is_running.store(false, Ordering::Relaxed);
    match asked {
        Ok(report) => {
            checks.misses.store(0, Ordering::Relaxed);
            checks.is_unready.store(report.is_unready, Ordering::Relaxed);
            if let (Some(heads), Some(block)) = (&service.heads, report.block) {
                if service.trusts(route) {
                    take_report(&worker, &service, place, heads, &block);
                } else {
                    heads.missed(place);
                }
            }
            if !report.is_unready {
                route.state.breaker.end_open_time(now);
                route.upstream.parking.answered(now);
            }
        }
        // Not a sign that it does not work.
        Err(failure) if failure.kind == ErrorKind::UpstreamLimited => {
            let span = failure.retry_after.map(|after| Nanos::from_secs(after.0.into()));
            route.upstream.parking.limited(BLOCK, span, now);
        }
        // It has answered calls meanwhile: this machine or the upstream is busy.
        Err(failure) if failure.kind == ErrorKind::TimedOut && route.has_answered_since(start) => {}
        Err(failure) => {
            // A refused connection leaves no doubt.
            let misses = if failure.kind == ErrorKind::Unreachable { MISSES_MAX } else { 1 };
            checks.misses.fetch_add(misses, Ordering::Relaxed);
            service.heads.iter().for_each(|heads| heads.missed(place));
            if matches!(failure.kind, ErrorKind::Unreachable | ErrorKind::Broken) {
                route.upstream.health.lost();
            }
        }
    }
    assess(&service, now);
}

/// Takes a report, and asks again at once where it leaves something open.
fn take_report(
    worker: &Rc<Worker>,
    service: &Arc<Service>,
    place: usize,
    heads: &ServiceHeads,
    block: &Report,
) {
    let now = worker.local.now();
    let events = heads.report(place, block, now);
    log_events(service, &events);
    prefetch::start(worker, service);
    if heads.tracker().is_waiting() {
        service.state.has_news.store(true, Ordering::Relaxed);
    }
    let due = |place: usize| Due { service: service.clone(), place };
    // A PATH instance that reports heights is not asked for its chain each time.
    let standing = heads.board.upstream(place).0;
    if matches!(standing, Standing::Forked | Standing::Implausible) && is_by_heights(service) {
        tokio::task::spawn_local(check_chain(worker.clone(), due(place)));
    }
    // Whether the others have followed a reorganisation is not known.
    let is_open = |place: &usize| heads.board.upstream(*place).0 == Standing::Unknown;
    if events.iter().any(|event| matches!(event, Event::Reorganised { .. })) {
        for other in (0..service.routes.len()).filter(is_open) {
            let route = &service.routes[other];
            let is_limited = route.upstream.parking.limited_until(BLOCK, now).is_some();
            let is_checked = service.trusts(route) && !is_limited;
            if is_checked && route.state.checks.starts(Nanos::ZERO, now) {
                tokio::task::spawn_local(check(worker.clone(), due(other)));
            }
        }
    }
}

/// Whether the service's upstreams are PATH instances, which report heights.
fn is_by_heights(service: &Service) -> bool {
    service.routes.iter().all(|route| route.upstream.model.kind == Kind::Path)
}

/// What a check has found.
struct Found {
    is_unready: bool,
    block: Option<Report>,
}

/// How often safe and finalized are asked for: they move once per epoch.
const FINALITY_EVERY: u32 = 4;

async fn ask_health(worker: &Worker, service: &Service, place: usize) -> Result<Found, Failure> {
    let route = &service.routes[place];
    let ready = match route.upstream.model.kind == Kind::Path {
        true => ask_ready(worker, service, route).await?,
        false => Ready::default(),
    };
    let is_unready = ready.is_unready;
    // Next to nodes, whose hashes are known, heights alone would look like another branch.
    if let Some(latest) = ready.latest.filter(|_| is_by_heights(service)) {
        let block = Some(numbered(latest, &ready));
        return Ok(Found { is_unready, block });
    }
    let block = match &service.heads {
        Some(heads) if route.upstream.model.methods.permit(BLOCK) => {
            ask_block(worker, service, place, heads).await?
        }
        _ => {
            check_id(worker, service, route).await?;
            None
        }
    };
    Ok(Found { is_unready, block })
}

/// The method that returns a block.
const BLOCK: &str = "eth_getBlockByNumber";

/// Asks for the latest block, and for those that show which branch the upstream is on.
async fn ask_block(
    worker: &Worker,
    service: &Service,
    place: usize,
    heads: &ServiceHeads,
) -> Result<Option<Report>, Failure> {
    let route = &service.routes[place];
    let checks = &route.state.checks;
    let block = async |block: &str| {
        let params = format!("[\"{block}\",false]");
        ask(worker, service, route, BLOCK, params.as_bytes(), After::Pool).await
    };
    let Some(latest) = block("latest").await?.as_deref().and_then(block_of) else {
        check_id(worker, service, route).await?;
        return Ok(None);
    };
    let (latest, parent) = latest;
    let asks_finality =
        checks.answered.fetch_add(1, Ordering::Relaxed).is_multiple_of(FINALITY_EVERY);
    let finality = async |tag: &str, number: &AtomicU64| {
        if asks_finality {
            let found = block(tag).await?.as_deref().and_then(block_of);
            number.store(found.map_or(0, |(block, _)| block.number + 1), Ordering::Relaxed);
        }
        Ok::<_, Failure>(())
    };
    let anchor = heads.tracker().anchor(latest.number);
    // The latest block and its parent are known already.
    let anchor = anchor.filter(|anchor| anchor + 1 < latest.number);
    let anchored = async {
        match anchor {
            Some(anchor) => block(&format!("{anchor:#x}")).await,
            None => Ok(None),
        }
    };
    // At the same time, so that a slow upstream's report is not old when it is complete; the id after
    // the latest block, so that this is the block of the chain with that id.
    let (_, _, anchor, _) = tokio::try_join!(
        finality("safe", &checks.safe),
        finality("finalized", &checks.finalized),
        anchored,
        check_id(worker, service, route),
    )?;
    let anchor = anchor.as_deref().and_then(block_of);
    let number = |word: &AtomicU64| word.load(Ordering::Relaxed).checked_sub(1);
    Ok(Some(Report {
        latest,
        parent,
        safe: number(&checks.safe),
        finalized: number(&checks.finalized),
        anchor: anchor.map(|(block, _)| block),
    }))
}

/// Asks for the chain id, where it is to be checked.
async fn check_id(worker: &Worker, service: &Service, route: &Route) -> Result<(), Failure> {
    match route.is_chain_checked {
        true => chain::check(worker, service, route, After::Pool).await,
        false => Ok(()),
    }
}

/// A block and its parent's hash.
fn block_of(text: &[u8]) -> Option<(BlockId, Hash)> {
    let number = parse_hex(json::member(text, "number")?)?;
    let hash = |name: &str| sized(json::member(text, name)?);
    Some((BlockId { number, hash: hash("hash")? }, hash("parentHash")?))
}
