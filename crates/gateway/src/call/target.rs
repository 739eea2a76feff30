//! The target of a body's calls.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use plimsoll_measure::Nanos;
use plimsoll_registry::model::{Agree, MethodRules};
use plimsoll_registry::settings::Limits;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::message::Summary;
use super::passed::Passed;
use super::relay::CallAnswer;
use super::routing::Service;
use super::trace::RequestTrace;
use super::worker::{View, Worker};
use crate::account::Account;
use crate::error::{Error, ErrorKind, Shape};
use crate::limits::Allowances;
use crate::observe::stats::{Extra, Outcome, SHED};
use crate::payload::Composer;
use crate::permit::Purpose;
use crate::upstream::Failure;

/// Where the calls of a body go, and how they are answered.
pub(crate) struct Target<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) view: &'a View,
    pub(crate) service: &'a Arc<Service>,
    /// The service's id as sent to upstreams, also for unlisted services.
    pub(crate) service_id: Cow<'a, str>,
    /// The endpoint's method rules, if the call came through an endpoint.
    pub(crate) rules: Option<&'a MethodRules>,
    /// The endpoint's own rule on agreement, if it has one.
    pub(crate) agree: Option<&'a Agree>,
    /// Whether the caller wants an answer that does not come from the cache, and may.
    pub(crate) no_cache: bool,
    /// The account of the endpoint and the key, or the service's if there is no endpoint.
    pub(crate) account: &'a Arc<Account>,
    /// What the endpoint and the key may use.
    pub(crate) allowances: Allowances<'a>,
    /// Limits the calls of a multiplexed connection.
    pub(crate) turns: Option<&'a Semaphore>,
    /// Whether the request is its connection's only request.
    pub(crate) purpose: Purpose,
    pub(crate) shape: Shape,
    /// The request's headers to forward to upstreams.
    pub(crate) passed: Passed,
    pub(crate) trace: RequestTrace,
    /// When the call was received.
    pub(crate) start: Nanos,
}

impl<'a> Target<'a> {
    pub(crate) fn limits(&self) -> &'a Limits {
        &self.view.settings.limits
    }

    /// The outcome of a call that failed with this error. Counts the call as shed if it was.
    pub(crate) fn failed(&self, error: &Error) -> Outcome {
        if let Some(place) = SHED.iter().position(|kind| *kind == error.kind) {
            self.service.calls.of(self.worker.local.number).shed[place].add(1);
            self.account.in_use.shed(place, &self.worker.shared.shed_accounts);
        }
        self.failed_as(error)
    }

    /// The outcome of a call that failed with this error, which is not counted here.
    pub(super) fn failed_as(&self, error: &Error) -> Outcome {
        Outcome::Failed(error.kind.row().fault)
    }

    /// Counts a request that was refused before anything was sent upstream.
    pub(crate) fn count_refused(&self, error: &Error) {
        self.worker.local.counts().refused[error.kind as usize].add(1);
    }

    /// Answers a request that was refused before it became a call.
    pub(super) fn fail(&self, error: &Error, id: Option<&[u8]>) -> CallAnswer<'a> {
        self.count_refused(error);
        self.trace.refused(self, error);
        let mut answer = Composer::new(self.worker.local.take_buffer());
        error.write(self.shape, id.unwrap_or(b"null"), answer.text());
        let mut summary = Summary::default();
        summary.fail(error, self.shape);
        CallAnswer { status: error.status(self.shape), answer, summary, record: None }
    }

    /// Waits for one of the slots for calls of the connection.
    ///
    /// # Errors
    /// No slot became free within the service's timeout.
    pub(super) async fn connection_slot(&self) -> Result<Option<SemaphorePermit<'a>>, Error> {
        let Some(slots) = self.turns else { return Ok(None) };
        if let Ok(slot) = slots.try_acquire() {
            return Ok(Some(slot));
        }
        let until = self.worker.local.instant(self.start + self.service.model.timeout);
        match tokio::time::timeout_at(until, slots.acquire()).await {
            Ok(Ok(slot)) => Ok(Some(slot)),
            _ => {
                let message = "timed out waiting for earlier calls on this connection \
                               (limits.calls_per_connection)";
                Err(Error::new(ErrorKind::Busy, message))
            }
        }
    }

    /// Whether to repeat a request on the same upstream, because its pooled connection was stale and
    /// the budget allows it. Counts the repeat.
    pub(super) fn repeats(&self, failure: &Failure) -> bool {
        let (local, service) = (&self.worker.local, self.service);
        let repeats = failure.stale && service.state.may_repeat(failure.sent, local.now());
        if repeats {
            service.calls.of(local.number).extra[Extra::Stale as usize].add(1);
        }
        repeats
    }

    /// A target of calls that come through no endpoint.
    pub(crate) fn of(
        worker: &'a Rc<Worker>,
        view: &'a View,
        service: &'a Arc<Service>,
    ) -> Target<'a> {
        Target {
            worker,
            view,
            service,
            service_id: Cow::Borrowed(&service.model.id),
            rules: None,
            agree: None,
            no_cache: false,
            account: &service.account,
            allowances: Allowances::default(),
            turns: None,
            purpose: Purpose::First,
            shape: Shape::Own,
            passed: Passed::only(std::net::Ipv4Addr::LOCALHOST.into()),
            trace: RequestTrace::default(),
            start: worker.local.now(),
        }
    }
}
