//! Looks a transaction up by its hash at every upstream that can be asked.
//!
//! # Whom it asks
//! First the upstreams that may have accepted the transaction; the others join after [`HEAD_START`],
//! or at once if there are none. All are asked concurrently, so that one that hangs delays nobody.
//!
//! # How often
//! "Not found" from one upstream proves nothing: it may not have heard of the transaction yet, and a
//! node may need a moment to index a transaction that it has just accepted or mined. So each is asked
//! [`LOOKS`] times. One that may have accepted it is asked until it has answered so often, or the
//! deadline: it may be restarting, or limiting its callers, and nobody else may know.
//!
//! # What it costs
//! Asking an upstream that was not sent the transaction again draws on the retry budget. The other
//! looks draw on none, because an error for an accepted transaction makes callers send another one. They respect the upstreams' limits, rules and drains, and occur only if a transaction
//! was neither accepted nor plainly refused.

use std::borrow::Cow;
use std::cell::RefCell;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use plimsoll_measure::Nanos;
use plimsoll_rpc::method::Method;
use plimsoll_rpc::request::Call;

use super::super::attempt::{self, JudgedResponse};
use super::super::message::Summary;
use super::super::routing::{Picked, Route};
use super::super::target::Target;
use super::super::trace::CallTrace;
use super::delivery::Delivery;
use crate::upstream::Reuse;

const METHOD: &str = "eth_getTransactionByHash";

/// How often an upstream is asked.
const LOOKS: usize = 3;

/// The pauses between two looks; the last one is repeated. Three looks take about a second.
const PAUSES: [Nanos; 5] = [
    Nanos::from_millis(300),
    Nanos::from_millis(700),
    Nanos::from_secs(1),
    Nanos::from_secs(2),
    Nanos::from_secs(4),
];

/// The last look starts this long before the deadline.
const LAST: Nanos = Nanos::from_millis(600);

/// How long upstreams that may have the transaction are asked before the others.
const HEAD_START: Nanos = Nanos::from_millis(50);

/// How long one look may take.
const LOOK_MAX: Nanos = Nanos::from_secs(1);

/// The result of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The upstream with this serial number has the transaction.
    At(u64),
    /// No upstream that answered has it.
    Nowhere,
    /// No upstream answered.
    Unanswered,
}

/// A look-up of a transaction.
pub(super) struct LookUp<'r, 'a> {
    target: &'r Target<'a>,
    delivery: &'r Delivery<'r>,
    trace: CallTrace,
    /// The attempts.
    summary: RefCell<Summary<'a>>,
}

impl<'r, 'a> LookUp<'r, 'a> {
    pub(super) fn new(
        target: &'r Target<'a>,
        delivery: &'r Delivery<'r>,
        trace: CallTrace,
    ) -> LookUp<'r, 'a> {
        LookUp { target, delivery, trace, summary: RefCell::default() }
    }

    /// The attempts made.
    pub(super) fn into_summary(self) -> Summary<'a> {
        self.summary.into_inner()
    }

    /// Looks the transaction up several times.
    pub(super) async fn run(&self) -> Found {
        self.find(LOOKS).await
    }

    /// Looks the transaction up once.
    pub(super) async fn once(&self) -> Found {
        self.find(1).await
    }

    async fn find(&self, looks: usize) -> Found {
        let params = format!("[{}]", super::text(&self.delivery.hash()));
        let call =
            Call { id: None, method: Cow::Borrowed(METHOD), params: Some(params.as_bytes()) };
        let doubted = self.delivery.doubted();
        let remembered = self.delivery.remembered();
        let is_first = |serial: u64| doubted.contains(&serial) || remembered == Some(serial);
        let routes = &self.target.service.routes;
        let has_first = routes.iter().any(|route| is_first(route.upstream.serial));
        let ask = |route: &'a Route| {
            let serial = route.upstream.serial;
            let delay = if has_first && !is_first(serial) { HEAD_START } else { Nanos::ZERO };
            self.ask(route, &call, delay, looks, doubted.contains(&serial))
        };
        let mut asking: FuturesUnordered<_> = routes.iter().map(ask).collect();
        let mut best = Found::Unanswered;
        while let Some(found) = asking.next().await {
            match found {
                Found::At(_) => return found,
                Found::Nowhere => best = found,
                Found::Unanswered => {}
            }
        }
        best
    }

    /// Asks an upstream this many times, or, if it is in doubt, until it has answered as often.
    async fn ask(
        &self,
        route: &'a Route,
        call: &Call<'_>,
        delay: Nanos,
        looks: usize,
        in_doubt: bool,
    ) -> Found {
        let (target, local) = (self.target, &self.target.worker.local);
        let deadline = target.start + target.service.model.timeout;
        let mut next = local.now() + delay;
        let (mut tries, mut answers) = (0, 0);
        while next < deadline {
            if next > local.now() {
                tokio::time::sleep_until(local.instant(next)).await;
            }
            match self.look(route, call, deadline).await {
                Some(true) => return Found::At(route.upstream.serial),
                Some(false) => answers += 1,
                None => {}
            }
            tries += 1;
            if if in_doubt { answers } else { tries } >= looks {
                break;
            }
            if !in_doubt && !target.service.state.retries.withdraw(local.now()) {
                break;
            }
            let now = local.now();
            next = now + PAUSES[(tries - 1).min(PAUSES.len() - 1)];
            let last = deadline - LAST;
            if now < last {
                next = next.min(last);
            }
        }
        if answers > 0 { Found::Nowhere } else { Found::Unanswered }
    }

    /// Whether an upstream has the transaction; `None` if it cannot be asked or does not answer.
    async fn look(&self, route: &'a Route, call: &Call<'_>, deadline: Nanos) -> Option<bool> {
        let local = &self.target.worker.local;
        let now = local.now();
        let model = &route.upstream.model;
        let is_usable =
            model.methods.permit(METHOD) && !model.drain && !route.state.chain.is_another();
        if !is_usable || !route.upstream.admit(METHOD, now) {
            return None;
        }
        let until = local.instant((now + LOOK_MAX).min(deadline));
        let asked = tokio::time::timeout_at(until, async {
            let first = self.attempt(route, call, Reuse::Checked).await;
            match first {
                // The pooled connection had been closed.
                Err(true) => self.attempt(route, call, Reuse::New).await,
                first => first,
            }
        });
        let judged = asked.await.ok()?.ok()?;
        judged.result().map(|result| result.starts_with(b"{"))
    }

    /// # Errors
    /// No answer; whether the pooled connection had been closed.
    async fn attempt(
        &self,
        route: &'a Route,
        call: &Call<'_>,
        reuse: Reuse,
    ) -> Result<JudgedResponse, bool> {
        self.summary.borrow_mut().add_attempt(&route.upstream.model.id);
        let local = &*self.target.worker.local;
        let pass = route.state.breaker.admit(local.now());
        // Beyond the limit, because an error for an accepted transaction makes callers send another one.
        let slot = route.upstream.gate.force(&self.target.account.in_use, local);
        let method = Method::find(METHOD);
        let picked = Picked { route, pass, in_use: slot.number, method };
        let result = attempt::run(self.target, call, (picked, &slot), reuse, self.trace).await;
        result.map_err(|failure| failure.stale)
    }
}
