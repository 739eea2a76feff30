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

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use plimsoll_measure::Nanos;
use plimsoll_registry::model::{self, Kind};
use plimsoll_rpc::json;
use plimsoll_rpc::request::Call;

use super::attempt::{self, Received};
use super::chain::{self, CONFIRMED_INTERVAL, Seen, parse_hex};
use super::heads::ServiceHeads;
use super::judge::judge;
use super::routing::{Exclusion, Route, Service, request_start};
use super::worker::Worker;
use crate::error::ErrorKind;
use crate::heads::{BlockId, Event, Hash, Report, Standing};
use crate::observe::stats::RelayOutcome;
use crate::protocol::Category;
use crate::upstream::{Failure, Request, Reuse, Use};

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
}

impl Activity {
    /// Whether the service was called recently; `calls`: how many calls it has answered.
    fn is_recent(&self, calls: u64, now: Nanos) -> bool {
        if self.calls.swap(calls, Ordering::Relaxed) != calls {
            self.changed_at.store(now.0, Ordering::Relaxed);
        }
        now - Nanos(self.changed_at.load(Ordering::Relaxed)) < ACTIVE
    }
}

/// The interval of checks of a service that is in use.
pub(crate) fn interval(service: &model::Service) -> Nanos {
    let half = service.block_time.map_or(INTERVAL_MAX, |time| Nanos(time.0 / 2));
    half.max(INTERVAL_MIN).min(INTERVAL_MAX)
}

/// Checks upstreams while the gateway runs.
pub(crate) async fn watch(worker: Rc<Worker>) {
    let mut scans = tokio::time::interval(SCAN_INTERVAL);
    loop {
        scans.tick().await;
        let view = worker.view();
        let now = worker.local.now();
        worker.client.tidy(view.routing.upstreams());
        for upstream in view.routing.upstreams() {
            upstream.health.flush(&upstream.model.id, now);
        }
        for service in view.routing.services().into_iter().filter(|one| one.is_listed) {
            let usual = interval(&service.model);
            let calls = service.calls.sum(|calls| calls.total());
            let is_active = service.state.activity.is_recent(calls, now);
            let has_news = service.state.has_news.swap(false, Ordering::Relaxed);
            let current = match (has_news, is_active) {
                (true, _) => NEWS_INTERVAL,
                (false, true) => usual,
                (false, false) => CONFIRMED_INTERVAL,
            };
            if let Some(heads) = &service.heads {
                log_events(service, &heads.pass(now));
            }
            for (place, route) in service.routes.iter().enumerate() {
                let due = || Due { service: service.clone(), place };
                let seen = Seen::of(&route.upstream.health);
                let is_watched = worker.client.watches(&route.upstream);
                let state = &route.state;
                if route.upstream.parked.is_parked(now) {
                    continue;
                }
                if route.is_chain_checked && state.chain.is_due(seen, is_watched, usual, now) {
                    tokio::task::spawn_local(check_chain(worker.clone(), due()));
                }
                // Another chain's heads are of no use.
                let is_checked =
                    service.heads.is_some() && route.is_confirmed() && !state.chain.is_another();
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
    if let Err(failure) = chain::check(&worker, &due.service, route, After::Alone).await
        && matches!(failure.kind, ErrorKind::Unreachable | ErrorKind::Broken)
    {
        route.upstream.health.lost();
    }
}

/// Asks an upstream whether it is ready and for its latest block.
async fn check(worker: Rc<Worker>, due: Due) {
    let Due { service, place } = due;
    let route = &service.routes[place];
    let asked = ask_health(&worker, &service, place).await;
    let now = worker.local.now();
    let checks = &route.state.checks;
    checks.is_running.store(false, Ordering::Relaxed);
    match asked {
        Ok(report) => {
            checks.misses.store(0, Ordering::Relaxed);
            checks.is_unready.store(report.is_unready, Ordering::Relaxed);
            let is_known = !route.state.chain.is_another() && route.is_confirmed();
            if let (Some(heads), Some(block), true) = (&service.heads, report.block, is_known) {
                log_events(&service, &heads.report(place, &block, now));
                if heads.tracker().is_waiting() {
                    service.state.has_news.store(true, Ordering::Relaxed);
                }
            }
            if !report.is_unready {
                route.state.breaker.end_open_time(now);
            }
        }
        // Not a sign that it does not work.
        Err(failure) if failure.kind == ErrorKind::UpstreamLimited => {
            let span = failure.retry_after.map(|after| Nanos::from_secs(after.0.into()));
            route.upstream.parked.park(span, now);
        }
        Err(failure) => {
            // A refused connection leaves no doubt.
            let misses = if failure.kind == ErrorKind::Unreachable { MISSES_MAX } else { 1 };
            checks.misses.fetch_add(misses, Ordering::Relaxed);
            if matches!(failure.kind, ErrorKind::Unreachable | ErrorKind::Broken) {
                route.upstream.health.lost();
            }
        }
    }
    assess(&service, now);
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
    let is_path = |route: &Route| route.upstream.model.kind == Kind::Path;
    let ready = match is_path(route) {
        true => ask_ready(worker, service, route).await?,
        false => Ready::default(),
    };
    let is_unready = ready.is_unready;
    // Next to nodes, whose hashes are known, heights alone would look like another branch.
    if let Some(latest) = ready.latest.filter(|_| service.routes.iter().all(is_path)) {
        let block = Some(numbered(latest, &ready));
        return Ok(Found { is_unready, block });
    }
    let block = match &service.heads {
        Some(heads) if route.upstream.model.methods.permit(BLOCK) => {
            ask_block(worker, service, place, heads).await?
        }
        _ => None,
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
        return Ok(None);
    };
    let (latest, parent) = latest;
    if checks.answered.fetch_add(1, Ordering::Relaxed).is_multiple_of(FINALITY_EVERY) {
        for (tag, number) in [("safe", &checks.safe), ("finalized", &checks.finalized)] {
            let found = block(tag).await?.as_deref().and_then(block_of);
            number.store(found.map_or(0, |(block, _)| block.number + 1), Ordering::Relaxed);
        }
    }
    let anchor = heads.tracker().anchor(place);
    // The latest block and its parent are known already.
    let anchor = anchor.filter(|anchor| anchor + 1 < latest.number);
    let anchor = match anchor {
        Some(anchor) => block(&format!("{anchor:#x}")).await?.as_deref().and_then(block_of),
        None => None,
    };
    let number = |word: &AtomicU64| word.load(Ordering::Relaxed).checked_sub(1);
    Ok(Some(Report {
        latest,
        parent,
        safe: number(&checks.safe),
        finalized: number(&checks.finalized),
        anchor: anchor.map(|(block, _)| block),
    }))
}

/// A block and its parent's hash.
fn block_of(text: &[u8]) -> Option<(BlockId, Hash)> {
    let member = |name: &str| {
        let mut members = json::members(text).map_while(Result::ok);
        members.find(|member| *member.plain() == *name.as_bytes()).map(|member| member.value)
    };
    let number = parse_hex(member("number")?)?;
    Some((
        BlockId { number, hash: parse_hash(member("hash")?)? },
        parse_hash(member("parentHash")?)?,
    ))
}

fn parse_hash(text: &[u8]) -> Option<Hash> {
    let text = json::text(text)?;
    let digits =
        text.strip_prefix("0x").filter(|digits| digits.len() == 64 && digits.is_ascii())?;
    let mut hash = Hash::default();
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(hash)
}

/// Decides which upstreams of a service are in rotation, and logs changes.
fn assess(service: &Service, now: Nanos) {
    let fallback = service.heads.as_ref().and_then(|heads| heads.tracker().fallback());
    for (place, route) in service.routes.iter().enumerate() {
        let checks = &route.state.checks;
        let standing =
            service.heads.as_ref().map_or(Standing::Unknown, |heads| heads.board.upstream(place).0);
        let why = if checks.misses.load(Ordering::Relaxed) >= MISSES_MAX {
            Some(Exclusion::Unanswered)
        } else if checks.is_unready.load(Ordering::Relaxed) {
            Some(Exclusion::NotReady)
        } else if fallback == Some(place) {
            // All are out of rotation: this one is the best.
            None
        } else {
            match standing {
                Standing::Unknown | Standing::Current => None,
                Standing::Lagging => Some(Exclusion::Behind),
                Standing::Forked => Some(Exclusion::Forked),
                Standing::Implausible => Some(Exclusion::Implausible),
            }
        };
        let before = route.state.exclude(why, now);
        if before != why {
            log_exclusion(service, route, why);
        }
    }
    let state = &service.state;
    let is_fallback = fallback.is_some();
    if state.is_fallback.swap(is_fallback, Ordering::Relaxed) != is_fallback {
        let service = &*service.model.id;
        match fallback {
            Some(place) => {
                let _ = place;
                tracing::warn!(
                    service,
                    "every upstream of {service} is behind: the least lagging serves"
                );
            }
            None => tracing::info!(service, "an upstream of {service} has caught up"),
        }
    }
}

fn log_exclusion(service: &Service, route: &Route, why: Option<Exclusion>) {
    let (upstream, service) = (&*route.upstream.model.id, &*service.model.id);
    match why {
        None => tracing::info!(
            upstream,
            service,
            "upstream {upstream} is in rotation for {service} again"
        ),
        Some(why) => tracing::warn!(
            upstream,
            service,
            "upstream {upstream} is out of rotation for {service}: {}",
            why.reason()
        ),
    }
}

fn log_events(service: &Service, events: &[Event]) {
    for event in events {
        if let Event::Reorganised { from, served } = event {
            let service = &*service.model.id;
            tracing::warn!(
                service,
                "the chain of {service} was reorganised from block {from} or below; block {served} \
                 was served"
            );
        }
    }
}

/// What to do with a check's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Keep it as the only idle one: its end shows that the upstream was restarted.
    Alone,
    Pool,
}

/// Asks an upstream, over a pooled connection unless it is to become the only one. Returns the result;
/// `None` if the upstream does not answer such questions.
///
/// # Errors
/// It did not answer, or cannot at present.
pub(super) async fn ask(
    worker: &Worker,
    service: &Service,
    route: &Route,
    method: &str,
    params: &[u8],
    after: After,
) -> Result<Option<Vec<u8>>, Failure> {
    let id = worker.next_id();
    let call = Call { id: None, method: method.into(), params: Some(params) };
    let (mut head, mut body) = (route.head.clone(), Vec::new());
    attempt::write_call(&call, id, params, &mut body);
    attempt::end_head(worker, body.len(), &mut head);
    let received = exchange(worker, service, route, "POST", [&head, &body], after).await?;
    let (status, body) = (received.status, received.response.body());
    let verdict = judge(service.protocol, body, status, id)
        .map_err(|failure| failure.with_detail(Some(status), body))
        .map_err(|failure| Failure { retry_after: received.retry_after, ..failure })?;
    let RelayOutcome::Rpc(category) = verdict.outcome else {
        return Ok(verdict.result(body).map(<[u8]>::to_vec));
    };
    // An upstream that cannot answer at present has not answered the question.
    let kind = match category {
        Category::RateLimited => ErrorKind::UpstreamLimited,
        Category::Unauthorized => ErrorKind::UpstreamDenied,
        Category::Unavailable | Category::Timeout | Category::Internal => ErrorKind::BadStatus,
        _ => return Ok(None),
    };
    let message = format!("the upstream answered {method} with an error: {}", category.word());
    let failure = Failure::new(kind, true, message).with_detail(Some(status), body);
    Err(Failure { retry_after: received.retry_after, ..failure })
}

/// What a PATH instance reports of a service, as far as it does.
#[derive(Default)]
struct Ready {
    is_unready: bool,
    latest: Option<u64>,
    safe: Option<u64>,
    finalized: Option<u64>,
}

/// A report of heights alone: the hashes stand for the numbers, so that no branches are seen.
fn numbered(latest: u64, ready: &Ready) -> Report {
    let hash = |number: u64| {
        let mut hash = Hash::default();
        hash[24..].copy_from_slice(&number.to_be_bytes());
        hash
    };
    Report {
        latest: BlockId { number: latest, hash: hash(latest) },
        parent: hash(latest.saturating_sub(1)),
        safe: ready.safe,
        finalized: ready.finalized,
        anchor: None,
    }
}

/// Asks a PATH instance whether it can serve the service, and for its heads. Unlike calls, this costs
/// nothing.
async fn ask_ready(worker: &Worker, service: &Service, route: &Route) -> Result<Ready, Failure> {
    let (model, id) = (&route.upstream.model, &*service.model.id);
    let mut head = request_start("GET", model, &format!("/ready/{id}"), &[]);
    head.extend_from_slice(&worker.shared.via);
    head.extend_from_slice(b"\r\n");
    let received = exchange(worker, service, route, "GET", [&head, b""], After::Pool).await?;
    let body = received.response.body();
    // Whatever else answers does not know this path, and says nothing about the service.
    if json::validate(body).is_err() || json::kind(body) != Some(json::Kind::Object) {
        return Ok(Ready::default());
    }
    let member = |object: &[u8], name: &str| -> Option<Vec<u8>> {
        let mut members = json::members(object).map_while(Result::ok);
        let found = members.find(|member| *member.plain() == *name.as_bytes());
        found.map(|member| member.value.to_vec())
    };
    let is_unready = member(body, "ready").is_some_and(|ready| ready == b"false");
    let own = member(body, "services").and_then(|services| member(&services, id));
    let number = |name: &str| {
        let text = String::from_utf8(member(own.as_deref()?, name)?).ok()?;
        text.parse::<u64>().ok().filter(|number| *number > 0)
    };
    let latest = number("perceived_block_height");
    let (safe, finalized) = (number("safe_block_height"), number("finalized_block_height"));
    Ok(Ready { is_unready, latest, safe, finalized })
}

async fn exchange(
    worker: &Worker,
    service: &Service,
    route: &Route,
    method: &str,
    [head, body]: [&[u8]; 2],
    after: After,
) -> Result<Received, Failure> {
    let view = worker.view();
    let timeout = CHECK_TIMEOUT.min(interval(&service.model)).min(service.model.timeout);
    let mut request = Request {
        method,
        parts: [head, body, b""],
        usage: Use::Calls,
        reuse: if after == After::Alone { Reuse::New } else { Reuse::Checked },
        deadline: worker.local.now() + timeout,
    };
    let limits = &view.settings.limits;
    let mut received = match attempt::receive(worker, route, &request, limits).await {
        // The upstream closed the pooled connection.
        Err(failure) if failure.stale => {
            route.upstream.health.lost();
            request.reuse = Reuse::New;
            attempt::receive(worker, route, &request, limits).await?
        }
        received => received?,
    };
    let now = worker.local.now();
    match (received.reusable.take(), after) {
        (Some(reusable), After::Alone) => reusable.release_alone(now),
        (Some(reusable), After::Pool) => reusable.release(now),
        (None, _) => {}
    }
    Ok(received)
}
