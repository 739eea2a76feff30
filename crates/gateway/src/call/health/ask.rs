//! The requests of health checks.

use plimsoll_rpc::json;
use plimsoll_rpc::request::Call;

use super::CHECK_TIMEOUT;
use crate::call::attempt::{self, Received};
use crate::call::judge::judge;
use crate::call::routing::{Route, Service, request_start};
use crate::call::worker::Worker;
use crate::error::ErrorKind;
use crate::heads::{BlockId, Hash, Report};
use crate::observe::stats::RelayOutcome;
use crate::protocol::Category;
use crate::upstream::{Failure, Request, Reuse, Use};

/// What to do with a check's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::call) enum After {
    /// Keep it as the only idle one: its end shows that the upstream was restarted.
    Alone,
    Pool,
}

/// Asks an upstream, over a pooled connection unless it is to become the only one. Returns the result;
/// `None` if the upstream does not answer such questions.
///
/// # Errors
/// It did not answer, or cannot at present.
pub(in crate::call) async fn ask(
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
pub(super) struct Ready {
    pub(super) is_unready: bool,
    pub(super) latest: Option<u64>,
    safe: Option<u64>,
    finalized: Option<u64>,
}

/// A report of heights alone: the hashes stand for the numbers, so that no branches are seen.
pub(super) fn numbered(latest: u64, ready: &Ready) -> Report {
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
pub(super) async fn ask_ready(
    worker: &Worker,
    service: &Service,
    route: &Route,
) -> Result<Ready, Failure> {
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
    let is_unready = json::member(body, "ready").is_some_and(|ready| ready == b"false");
    let own = json::member(body, "services").and_then(|services| json::member(services, id));
    let number = |name: &str| {
        let text = std::str::from_utf8(json::member(own?, name)?).ok()?;
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
    // Not by the interval: an upstream that is slower than that still works.
    let timeout = CHECK_TIMEOUT.min(service.model.timeout);
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
