//! What follows an answer: the arrival's fate, or another request for it.
//!
//! What an arrival starts may be several requests (a redirect that is followed); here is where that
//! is decided.

use crate::connection::Answer;
use crate::exchange::Exchange;
use crate::judge::{Verdict, judge};
use crate::request::{Hop, Request};
use crate::worker::Shared;
use plimsoll_measure::{ErrorClass, Fault, RpcCounts};
use plimsoll_plan::{Draw, RpcExpect};
use plimsoll_rpc::judge::Expected;

/// What follows an answer.
pub(super) enum Step {
    /// The arrival has its fate.
    Finish(Verdict),
    /// Another request is to be sent for it.
    Follow(Box<Hop>),
}

/// The request that an arrival sends now.
pub(super) fn request_of<'a>(shared: &'a Shared<'_>, exchange: &'a Exchange) -> &'a Request {
    match &exchange.hop {
        Some(hop) => &hop.request,
        None => &shared.requests[exchange.turn as usize],
    }
}

/// What decides the placeholders of an arrival's request.
pub(super) fn draw_of(shared: &Shared<'_>, exchange: &Exchange) -> Draw {
    let key = shared.plan.streams[exchange.stream as usize].key;
    Draw { seq: exchange.seq, key: key.with(3).with(exchange.seq) }
}

/// What follows an answer: its judgement, or the redirect that it asks for.
pub(super) fn step(
    shared: &Shared<'_>,
    exchange: &Exchange,
    answer: &Answer<'_>,
    (body, decoded): (&mut Vec<u8>, &mut Vec<u8>),
    counts: &mut RpcCounts,
) -> Step {
    let plan = shared.plan;
    let turn = &plan.turns[exchange.turn as usize];
    let request = &shared.requests[exchange.turn as usize];
    if plan.redirects > 0 && matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
        let (url, left) = match &exchange.hop {
            Some(hop) => (&hop.url, hop.left),
            None => (&turn.url, plan.redirects),
        };
        let fault = |fault| Step::Finish(Err((ErrorClass::Protocol, Some(fault))));
        if left == 0 {
            return fault(Fault::TooManyRedirects);
        }
        let Some(location) = answer.location else { return fault(Fault::BadLocation) };
        let close = !plan.connections.reuse;
        return match Hop::after((url, left), turn, answer.status, location, close) {
            Ok(hop) => Step::Follow(Box::new(hop)),
            Err(_) => fault(Fault::BadLocation),
        };
    }
    // What a drawn request asked is told by drawing it again.
    let drawn = if request.expected.is_none() && turn.expect.rpc != RpcExpect::Off {
        request.render_body(draw_of(shared, exchange), body);
        Expected::of(body).ok()
    } else {
        None
    };
    let expected = request.expected.as_ref().or(drawn.as_ref());
    Step::Finish(judge(&turn.expect, expected, answer, plan.body_max, decoded, counts))
}
