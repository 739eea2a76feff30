//! Picks the upstream of an attempt; if all that would do are at their limit, the call waits for a
//! slot.
//!
//! The rules of waiting are those of [`crate::upstream::waiting`]. First attempts and retries wait; a
//! retry that is refused leaves the call with what its earlier attempts have brought. A hedge never
//! waits, and is not made while calls wait for its upstream: it would take a slot from one that has
//! none.

use plimsoll_measure::Nanos;

use super::relay::not_routed;
use super::routing::{Admitted, Need, Tried};
use super::target::Target;
use crate::error::{Error, ErrorKind, RetryAfter};
use crate::line::Waited;
use crate::upstream::waiting::{Request, Shed};

/// A call that was given slots that it could not use gives up after this many: its upstreams change
/// faster than it can follow.
const GRANTS_MAX: usize = 8;

/// The longest Retry-After: an upstream that hangs now may work again in a moment.
const RETRY_MAX: Nanos = Nanos::from_secs(30);

/// Picks a route and takes a slot of its upstream.
///
/// # Errors
/// There is no route, or the call would wait too long.
#[inline]
pub(super) async fn admitted<'a>(
    target: &Target<'a>,
    need: &Need<'_>,
    tried: &Tried,
) -> Result<Admitted<'a>, Error> {
    match at_once(target, need, tried) {
        Err(ErrorKind::Overloaded) => Box::pin(awaited(target, need, tried)).await,
        Err(kind) => Err(not_routed(kind, target, need.method)),
        Ok(admitted) => Ok(admitted),
    }
}

/// Picks a route that has a free slot now.
///
/// # Errors
/// There is none; [`ErrorKind::Overloaded`]: one is worth a wait.
#[inline]
pub(super) fn at_once<'a>(
    target: &Target<'a>,
    need: &Need<'_>,
    tried: &Tried,
) -> Result<Admitted<'a>, ErrorKind> {
    let (service, local): (&'a _, &'a _) = (&**target.service, &*target.worker.local);
    service.pick(need, tried, &target.account.in_use, local)
}

/// Waits for a slot.
///
/// # Errors
/// None was free in time.
#[cold]
pub(super) async fn awaited<'a>(
    target: &Target<'a>,
    need: &Need<'_>,
    tried: &Tried,
) -> Result<Admitted<'a>, Error> {
    let (service, local) = (&**target.service, &*target.worker.local);
    let account = &target.account.in_use;
    let queue = target.view.routing.waiting();
    let deadline = target.start + service.model.timeout;
    let (since, mut until) = (local.now(), None);
    for _ in 0..GRANTS_MAX {
        let accepts = service.awaited(need, tried, local.now());
        if !accepts.is_empty() {
            let line = &service.state.line;
            let request = Request { account, line, accepts, since, until, deadline };
            let place = queue.enqueue(request, local).map_err(|shed| overloaded(target, shed))?;
            until = Some(place.until);
            let (gate, number) = place.slot().await.map_err(|shed| overloaded(target, shed))?;
            if let Some(admitted) = service.pick_granted(&gate, number, need, tried, account, local)
            {
                return Ok(admitted);
            }
        }
        match at_once(target, need, tried) {
            Err(ErrorKind::Overloaded) => {}
            Err(kind) => return Err(not_routed(kind, target, need.method)),
            Ok(admitted) => return Ok(admitted),
        }
    }
    Err(overloaded(target, Shed { how: Waited::Late, retry_after: Nanos::ZERO }))
}

/// The error for a call that is shed.
#[cold]
fn overloaded(target: &Target<'_>, shed: Shed) -> Error {
    let id = &target.service_id;
    let message = match shed.how {
        Waited::Late => {
            format!("the upstreams of {id} are at their capacity; no turn came in time")
        }
        _ => format!("the upstreams of {id} are at their capacity; try again later"),
    };
    let retry_after = Some(RetryAfter::of(shed.retry_after.min(RETRY_MAX)));
    Error { retry_after, ..Error::new(ErrorKind::Overloaded, message) }
}
