//! Decides what follows an answer: the end of the arrival, or another request.
//!
//! An arrival has several exchanges if it follows redirects.

use crate::arrival::Arrival;
use crate::connection::Answer;
use crate::gzip::Gunzip;
use crate::judge::{Cause, Judgement, judge};
use crate::prepare::Shared;
use crate::request::{Hop, Request, Style, Unfollowed};
use plimsoll_measure::{ErrorClass, Fault, RpcCounts};
use plimsoll_plan::{RpcExpect, Values};
use plimsoll_rpc::judge::Expected;

/// The step after an answer.
pub(super) enum Step {
    /// The arrival ends.
    Finish(Judgement),
    /// The arrival sends another request.
    Follow(Box<Hop>),
}

impl Step {
    /// Whether the arrival ends with an error of this class.
    pub(super) fn fails_with(&self, class: ErrorClass) -> bool {
        matches!(self, Step::Finish(Judgement { outcome: Err(cause), .. }) if cause.class == class)
    }
}

/// An arrival's current request.
pub(super) fn request_of<'a>(shared: &'a Shared, arrival: &'a Arrival) -> &'a Request {
    match &arrival.exchange.hop {
        Some(hop) => &hop.request,
        None => &shared.requests[arrival.exchange.request as usize],
    }
}

/// The placeholder values of an arrival's requests.
pub(super) fn values_of(shared: &Shared, arrival: &Arrival) -> Values {
    shared.plan.streams[arrival.stream as usize].values(arrival.number)
}

/// The step after an answer: its judgement, or the redirect to follow.
pub(super) fn step(
    shared: &Shared,
    arrival: &Arrival,
    answer: &Answer<'_>,
    body: &mut Vec<u8>,
    gzip: (&mut Gunzip, &mut Vec<u8>),
    counts: &mut RpcCounts,
) -> Step {
    let plan = &shared.plan;
    let index = arrival.exchange.request as usize;
    let (spec, request) = (&plan.requests[index], &shared.requests[index]);
    if plan.redirects > 0
        && spec.standing.is_none()
        && matches!(answer.status, 301 | 302 | 303 | 307 | 308)
    {
        return follow(shared, arrival, answer);
    }
    if let Some(call) = answer.call {
        // Over WebSocket, it was sent with an id of its connection.
        body.clear();
        body.extend_from_slice(call.to_string().as_bytes());
        let expected = Expected::of_id(body);
        return Step::Finish(judge(
            &spec.expect,
            Some(&expected),
            answer,
            plan.body_max,
            gzip,
            counts,
        ));
    }
    // A body with placeholders is rendered again to find out what it asked.
    let rendered = if request.expected.is_none() && spec.expect.rpc != RpcExpect::Off {
        request.render_body(values_of(shared, arrival), body);
        Expected::of(body).ok()
    } else {
        None
    };
    let expected = request.expected.as_ref().or(rendered.as_ref());
    Step::Finish(judge(&spec.expect, expected, answer, plan.body_max, gzip, counts))
}

/// The redirect in an answer, resolved against the request it answers.
fn follow(shared: &Shared, arrival: &Arrival, answer: &Answer<'_>) -> Step {
    let plan = &shared.plan;
    let (before, left) = match &arrival.exchange.hop {
        Some(hop) => (&hop.spec, hop.left),
        None => (&plan.requests[arrival.exchange.request as usize], plan.redirects),
    };
    let style = Style::of(plan);
    let hop = match (left, answer.location) {
        (0, _) => Err(Fault::TooManyRedirects),
        (_, None) => Err(Fault::BadLocation),
        (left, Some(location)) => {
            let values = values_of(shared, arrival);
            let hop = Hop::after(before, values, (answer.status, location), left - 1, style);
            let fed = arrival.exchange.hop.as_ref().and_then(|hop| hop.fed.clone());
            hop.map(|hop| Hop { fed, ..hop }).map_err(|why| match why {
                Unfollowed::BadLocation => Fault::BadLocation,
                Unfollowed::SecretBody => Fault::SecretBody,
            })
        }
    };
    match hop {
        Ok(hop) => Step::Follow(Box::new(hop)),
        Err(fault) => {
            Step::Finish(Judgement { outcome: Err(Cause::protocol(fault)), rpc_code: None })
        }
    }
}
