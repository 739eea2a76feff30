//! Active health checks of upstreams, on the keeper's thread.
//!
//! Calls show which upstreams fail ([`super::attempt`], breakers). Checks show what calls cannot: that
//! an upstream that gets no calls works again, that it has fallen behind the others, that it is on
//! another chain ([`super::chain`]), and that a PATH instance has no session for the service
//! (`/ready/{service}`).
//!
//! # What is checked
//! The chain id of each upstream of a service with a `chain_id`, and the latest block of each upstream
//! of a service with several: with one there is no choice. Every half block time, from 1 s to 5 s,
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
use plimsoll_registry::model::Kind;
use plimsoll_rpc::json;
use plimsoll_rpc::request::Call;

use super::attempt::{self, Received};
use super::chain::{self, CONFIRMED_INTERVAL, Seen, parse_hex};
use super::judge::judge;
use super::routing::{Exclusion, Route, Service, request_start};
use super::worker::Worker;
use crate::error::ErrorKind;
use crate::observe::stats::RelayOutcome;
use crate::protocol::Category;
use crate::upstream::{Failure, Request, Reuse, Use};

/// How often the upstreams are scanned for due checks.
const SCAN_INTERVAL: Duration = Duration::from_millis(250);

/// The shortest interval of checks: chains with faster blocks are followed by their calls.
const INTERVAL_MIN: Nanos = Nanos::from_secs(1);

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
    /// Its latest block, and when it reported it; 0 if never.
    height: AtomicU64,
    height_at: AtomicU64,
}

impl Checks {
    /// The latest block that the upstream has reported.
    pub(crate) fn height(&self) -> Option<u64> {
        Some(self.height.load(Ordering::Relaxed)).filter(|height| *height > 0)
    }

    /// Records the latest block.
    pub(crate) fn record_height(&self, height: u64, now: Nanos) {
        self.height.store(height, Ordering::Relaxed);
        self.height_at.store(now.0.max(1), Ordering::Relaxed);
    }

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
pub(crate) fn interval(service: &Service) -> Nanos {
    let half = service.model.block_time.map_or(INTERVAL_MAX, |time| Nanos(time.0 / 2));
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
            let usual = interval(service);
            let calls = service.calls.sum(|calls| calls.total());
            let is_active = service.state.activity.is_recent(calls, now);
            let current = if is_active { usual } else { CONFIRMED_INTERVAL };
            let is_checked = service.model.health_checks && service.routes.len() > 1;
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
    let asked = ask_health(&worker, &service, route).await;
    let now = worker.local.now();
    let checks = &route.state.checks;
    checks.is_running.store(false, Ordering::Relaxed);
    match asked {
        Ok(report) => {
            checks.misses.store(0, Ordering::Relaxed);
            checks.is_unready.store(report.is_unready, Ordering::Relaxed);
            if let Some(height) = report.height {
                checks.record_height(height, now);
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
struct Report {
    is_unready: bool,
    height: Option<u64>,
}

async fn ask_health(worker: &Worker, service: &Service, route: &Route) -> Result<Report, Failure> {
    const HEIGHT: &str = "eth_getBlockByNumber";
    let is_unready =
        route.upstream.model.kind == Kind::Path && is_unready(worker, service, route).await?;
    if !route.upstream.model.methods.permit(HEIGHT) {
        return Ok(Report { is_unready, height: None });
    }
    let block = ask(worker, service, route, HEIGHT, b"[\"latest\",false]", After::Pool).await?;
    let number = block.as_deref().and_then(|block| {
        let mut members = json::members(block).map_while(Result::ok);
        members.find(|member| *member.plain() == *b"number").and_then(|it| parse_hex(it.value))
    });
    Ok(Report { is_unready, height: number })
}

/// Decides which upstreams of a service are in rotation, and logs changes.
fn assess(service: &Service, now: Nanos) {
    let routes = service.routes.iter();
    let is_answering = |route: &&Route| {
        route.state.checks.misses.load(Ordering::Relaxed) < MISSES_MAX
            && !route.state.chain.is_another()
    };
    let heights = routes.filter(is_answering).filter_map(|route| route.state.checks.height());
    let best = heights.max().unwrap_or_default();
    for route in &service.routes {
        let checks = &route.state.checks;
        let is_behind = |allowance: u64| {
            checks.height().is_some_and(|height| height.saturating_add(allowance) < best)
        };
        let why = if checks.misses.load(Ordering::Relaxed) >= MISSES_MAX {
            Some(Exclusion::Unanswered)
        } else if checks.is_unready.load(Ordering::Relaxed) {
            Some(Exclusion::NotReady)
        } else if service.model.sync_allowance.is_some_and(is_behind) {
            Some(Exclusion::Behind)
        } else {
            None
        };
        let before = route.state.exclude(why, now);
        if before != why {
            report(service, route, why, best);
        }
    }
}

fn report(service: &Service, route: &Route, why: Option<Exclusion>, best: u64) {
    let (upstream, service) = (&*route.upstream.model.id, &*service.model.id);
    let Some(why) = why else {
        tracing::info!(upstream, service, "upstream {upstream} is in rotation for {service} again");
        return;
    };
    let reason = match why {
        Exclusion::Unanswered => String::from("it does not answer health checks"),
        Exclusion::NotReady => String::from("it reports that it is not ready"),
        Exclusion::Behind => {
            let height = route.state.checks.height().unwrap_or_default();
            format!("it is at block {height}, {} behind", best - height)
        }
    };
    tracing::warn!(
        upstream,
        service,
        "upstream {upstream} is out of rotation for {service}: {reason}"
    );
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
    Err(Failure { retry_after: received.retry_after, ..Failure::new(kind, true, message) })
}

/// Whether a PATH instance reports that it cannot serve the service.
async fn is_unready(worker: &Worker, service: &Service, route: &Route) -> Result<bool, Failure> {
    let model = &route.upstream.model;
    let path = format!("/ready/{}", service.model.id);
    let mut head = request_start("GET", model, &path, &[]);
    head.extend_from_slice(&worker.shared.via);
    head.extend_from_slice(b"\r\n");
    let received = exchange(worker, service, route, "GET", [&head, b""], After::Pool).await?;
    let body = received.response.body();
    // Whatever else answers does not know this path, and says nothing about the service.
    let is_object = json::validate(body).is_ok() && json::kind(body) == Some(json::Kind::Object);
    let mut members = json::members(if is_object { body } else { b"{}" }).map_while(Result::ok);
    let ready = members.find(|member| *member.plain() == *b"ready");
    Ok(ready.is_some_and(|ready| ready.value == b"false"))
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
    let timeout = CHECK_TIMEOUT.min(interval(service)).min(service.model.timeout);
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
