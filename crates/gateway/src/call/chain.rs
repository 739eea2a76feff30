//! Whether upstreams are on their services' chains.
//!
//! A gateway that answers `eth_chainId` by itself, and is wrong, makes wallets sign for the wrong
//! chain. So each upstream of a service with a chain id is asked for it: at the start, when it answers
//! again after it had stopped, and while it is on another chain, now and then. Until one has confirmed it,
//! the gateway relays the question; an upstream on another chain is not used for the service.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use plimsoll_measure::Nanos;
use plimsoll_rpc::json;
use plimsoll_rpc::request::Call;

use super::attempt;
use super::judge::judge;
use super::routing::{Route, Service};
use super::worker::Worker;
use crate::upstream::{Failure, Request, Reuse, Use};

/// How often it is looked whom to ask.
const LOOK: Duration = Duration::from_millis(250);

/// An upstream that did not answer, or is on another chain, is asked again after this long.
const AGAIN: Nanos = Nanos::from_secs(5);

/// How long an answer may take.
const PATIENCE: Nanos = Nanos::from_secs(5);

/// The method whose answer is the chain's id.
const METHOD: &str = "eth_chainId";

/// What is known of the chain that an upstream is on.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    state: AtomicU8,
    /// The id that the upstream last reported.
    said: AtomicU64,
    /// When it was asked last, never 0; 0: not yet.
    asked_at: AtomicU64,
    /// The upstream's recoveries that were seen.
    recoveries: AtomicU32,
}

/// What [`Chain::state`] says; 0: nothing is known.
const CONFIRMED: u8 = 1;
const ANOTHER: u8 = 2;

impl Chain {
    /// Whether it is on the service's chain.
    #[inline]
    pub(crate) fn is_confirmed(&self) -> bool {
        self.state.load(Ordering::Relaxed) == CONFIRMED
    }

    /// Whether it is on another.
    #[inline]
    pub(crate) fn is_another(&self) -> bool {
        self.state.load(Ordering::Relaxed) == ANOTHER
    }

    /// The other chain's id.
    pub(crate) fn other(&self) -> Option<u64> {
        self.is_another().then(|| self.said.load(Ordering::Relaxed))
    }

    /// Whether to ask now; if so, it counts as asked.
    fn is_due(&self, recoveries: u32, now: Nanos) -> bool {
        let asked = self.asked_at.load(Ordering::Relaxed);
        let has_come_back = self.recoveries.swap(recoveries, Ordering::Relaxed) != recoveries;
        let is_open = !self.is_confirmed() && (asked == 0 || now - Nanos(asked) >= AGAIN);
        if !has_come_back && !is_open {
            return false;
        }
        self.asked_at.store(now.0.max(1), Ordering::Relaxed);
        true
    }

    /// Records an answer; whether it is news.
    fn learn(&self, id: u64, expected: u64) -> bool {
        let state = if id == expected { CONFIRMED } else { ANOTHER };
        let before = self.said.swap(id, Ordering::Relaxed);
        let changed = self.state.swap(state, Ordering::Relaxed) != state;
        changed || before != id
    }
}

/// Checks upstreams for as long as the gateway runs.
pub(crate) async fn watch(worker: Rc<Worker>) {
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        let view = worker.view();
        for service in view.routing.services() {
            let Some(expected) = service.model.chain_id else { continue };
            for (place, route) in service.routes.iter().enumerate() {
                let recoveries = route.upstream.health.recoveries();
                let may = route.upstream.model.methods.permit(METHOD);
                if may && service.is_listed && route.chain.is_due(recoveries, worker.local.now()) {
                    tokio::task::spawn_local(check(
                        worker.clone(),
                        service.clone(),
                        place,
                        expected,
                    ));
                }
            }
        }
    }
}

async fn check(worker: Rc<Worker>, service: Arc<Service>, place: usize, expected: u64) {
    let route = &service.routes[place];
    // Why an upstream does not answer, calls to it find out.
    let Ok(Some(id)) = ask(&worker, &service, route).await else { return };
    if !route.chain.learn(id, expected) {
        return;
    }
    let upstream = &*route.upstream.model.id;
    let service = &*service.model.id;
    match id == expected {
        true => tracing::info!(upstream, service, "is on chain {id}"),
        false => tracing::error!(
            upstream,
            service,
            "is on chain {id} ({id:#x}), but service {service} is chain {expected} ({expected:#x}): \
             it is not used for it; use another upstream, or set chain_id = {id} in [[service]]"
        ),
    }
}

/// The chain id that an upstream reports; `None`: it reports something else.
async fn ask(worker: &Worker, service: &Service, route: &Route) -> Result<Option<u64>, Failure> {
    let view = worker.view();
    let id = worker.next_id();
    let call = Call { id: None, method: METHOD.into(), params: Some(b"[]") };
    let (mut head, mut body) = (route.head.clone(), Vec::new());
    attempt::write_call(&call, id, b"[]", &mut body);
    attempt::end_head(worker, body.len(), &mut head);
    let request = Request {
        method: "POST",
        parts: [&head, &body, b""],
        usage: Use::Calls,
        reuse: Reuse::New,
        deadline: worker.local.now() + PATIENCE.min(service.model.timeout),
    };
    let received = attempt::receive(worker, route, &request, &view.settings.limits).await?;
    let body = received.response.body();
    let verdict = judge(service.protocol, body, received.status, id)?;
    Ok(verdict.result(body).and_then(number))
}

/// The number that a result is: `"0x1"`.
fn number(result: &[u8]) -> Option<u64> {
    let text = json::text(result)?;
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_is_asked_until_it_has_answered_and_when_it_comes_back() {
        let chain = Chain::default();
        let at = Nanos::from_secs;
        assert!(chain.is_due(0, at(0)), "at the start");
        assert!(!chain.is_due(0, at(4)) && chain.is_due(0, at(6)), "not at once again");
        assert!(chain.learn(1337, 1) && chain.is_another() && chain.other() == Some(1337));
        assert!(!chain.learn(1337, 1), "that is known");
        assert!(!chain.is_due(0, at(10)) && chain.is_due(0, at(12)), "it may be put right");
        assert!(chain.learn(1, 1) && chain.is_confirmed() && chain.other().is_none());
        assert!(!chain.is_due(0, at(1_000)), "it is known");
        assert!(chain.is_due(1, at(1_001)) && !chain.is_due(1, at(1_002)), "it has come back");
        assert!(chain.is_confirmed(), "meanwhile it is believed");
    }

    #[test]
    fn ids_are_numbers_in_hexadecimal() {
        assert_eq!(number(b"\"0x1\""), Some(1));
        assert_eq!(number(b"\"0x539\""), Some(1337));
        for other in [&b"1"[..], b"\"1\"", b"\"0x\"", b"null", b"\"0x10000000000000000\""] {
            assert_eq!(number(other), None);
        }
    }
}
