//! The leader of a flight: asks both levels again, relays the call, stores the answer, lands.
//!
//! It owns what it uses, because the caller that started it may leave at any time.
//!
//! # Across replicas
//! A method that is expensive for nodes ([`is_expensive`]) is claimed in the second level before it is
//! relayed. A replica that does not get the claim looks for the answer every [`CLAIM_POLL`], until it
//! is there, the claim is free (the other replica's answer was not one to store, or it died), or half of
//! the call's time is over. Then it relays the call itself.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use plimsoll_measure::Nanos;
use plimsoll_registry::model::Agree;
use plimsoll_rpc::method::{Class, Method};
use plimsoll_rpc::request::Call;

use super::{Landed, Question, Relayed, charged, written};
use crate::account::Account;
use crate::cache::class::Reason;
use crate::cache::flight::Leader;
use crate::cache::shared::Anchor;
use crate::cache::{Kept, OwnedAsked, Ticket};
use crate::call::attempt::JudgedResponse;
use crate::call::chain::parse_hex;
use crate::call::dispatch::Dispatched;
use crate::call::heads::{self, Named};
use crate::call::message::Summary;
use crate::call::passed::Passed;
use crate::call::routing::Service;
use crate::call::target::Target;
use crate::call::trace::{CallTrace, RequestTrace};
use crate::call::worker::{View, Worker};
use crate::error::Shape;
use crate::heads::Hash;
use crate::limits::Allowances;
use crate::observe::stats::{CacheUse, RelayOutcome};
use crate::offload;
use crate::permit::{CALL_BYTES, Purpose, Share};

/// How often to look for the answer of another replica.
const CLAIM_POLL: Nanos = Nanos::from_millis(20);

/// Whether a method takes nodes so long that replicas should not ask for the same twice.
fn is_expensive(method: Method) -> bool {
    let name = method.name();
    let is_trace = name.starts_with("debug_trace") || name.starts_with("trace_");
    is_trace || matches!(name, "eth_getLogs" | "eth_callMany" | "eth_simulateV1")
}

/// A call that its leader owns.
pub(super) struct Leading {
    worker: Rc<Worker>,
    view: View,
    service: Arc<Service>,
    /// Its caller's.
    account: Arc<Account>,
    agree: Option<Agree>,
    passed: Passed,
    shape: Shape,
    start: Nanos,
    asked: OwnedAsked,
    /// Its parameters as its caller wrote them, if they differ.
    given: Option<Bytes>,
    class: Class,
    is_repeatable: bool,
    named: Named,
    prefer: Option<u64>,
    trace: CallTrace,
    /// Covers the task when its caller has left.
    _share: Share,
}

impl Leading {
    /// A leader for this call; `None` if memory is used up.
    pub(super) fn new(target: &Target<'_>, question: &Question<'_>) -> Option<Leading> {
        let dispatched = &question.dispatched;
        let mut share = target.worker.local.share(Purpose::First);
        share.add(CALL_BYTES).ok()?;
        Some(Leading {
            worker: target.worker.clone(),
            view: target.view.clone(),
            service: target.service.clone(),
            account: target.account.clone(),
            agree: target.agree.cloned(),
            passed: target.passed.clone(),
            shape: target.shape,
            // Not when its caller arrived: those that join later have more time left.
            start: target.worker.local.now(),
            asked: OwnedAsked::of(&question.asked())?,
            given: question.given.filter(|_| dispatched.named.is_bound).map(Bytes::copy_from_slice),
            class: dispatched.class,
            is_repeatable: dispatched.is_repeatable,
            named: dispatched.named,
            prefer: dispatched.prefer,
            trace: dispatched.trace,
            _share: share,
        })
    }

    /// Gets the answer, and ends the flight.
    pub(super) async fn run(self, ticket: Ticket, leader: Leader<Arc<Landed>>) {
        leader.land(Arc::new(self.landed(ticket).await));
    }

    async fn landed(&self, ticket: Ticket) -> Landed {
        let anchor = self.anchor();
        if let Some((result, by)) = self.found(&ticket, anchor).await {
            return self.stored(result, by);
        }
        let is_claimed = match is_expensive(self.asked.method) {
            false => false,
            true => match self.claimed(&ticket).await {
                Claimed::Answered(result) => return self.stored(result, CacheUse::Shared),
                Claimed::Ours => true,
                Claimed::Nobodys => false,
            },
        };
        let landed = self.relayed(ticket, anchor).await;
        if let (true, Some(cache)) = (is_claimed, &self.worker.shared.caching.cache) {
            cache.release(&self.asked.asked(), &ticket);
        }
        landed
    }

    /// The outcome if one of the levels has the answer.
    fn stored(&self, result: Bytes, by: CacheUse) -> Landed {
        Landed {
            outcome: charged(&self.worker.local, result).map(Relayed::stored),
            by,
            attempts: 0,
            upstreams: Vec::new(),
            upstream_status: None,
            span: self.trace.recorded(),
            is_open: false,
            is_early: false,
        }
    }

    /// The served latest block, if its hash is known and nothing has changed since the moment.
    fn anchor(&self) -> Option<Anchor> {
        let heads = self.service.heads.as_ref().filter(|_| self.service.sees_branches)?;
        let number = self.asked.moment.served.latest?;
        let hash = heads.tracker().hash(number)?;
        let is_same = heads.board.branch() == self.asked.moment.branch;
        is_same.then(|| Anchor { number, hash: short(&hash) })
    }

    /// What either level has.
    async fn found(&self, ticket: &Ticket, anchor: Option<Anchor>) -> Option<(Bytes, CacheUse)> {
        let cache = self.worker.shared.caching.cache.as_ref()?;
        let asked = self.asked.asked();
        let local = &self.worker.local;
        if let Some(result) = cache.find_again(&asked, ticket, local.now()) {
            return Some((result, CacheUse::Hit));
        }
        // Without an own block nobody else's can be compared with it.
        let is_known = |block: Anchor| {
            let known = self.service.heads.as_ref().filter(|_| anchor.is_some());
            let hash = known.and_then(|heads| heads.tracker().hash(block.number));
            hash.is_some_and(|hash| short(&hash) == block.hash)
        };
        let result = cache.find_shared(&asked, ticket, is_known, local.now()).await?;
        Some((result, CacheUse::Shared))
    }

    /// Claims the call, or waits for the replica that has.
    async fn claimed(&self, ticket: &Ticket) -> Claimed {
        let Some(cache) = &self.worker.shared.caching.cache else { return Claimed::Nobodys };
        let local = &self.worker.local;
        let timeout = self.service.model.timeout;
        let until = self.start + Nanos(timeout.0 / 2);
        loop {
            match cache.claim(&self.asked.asked(), ticket, timeout).await {
                None => return Claimed::Nobodys,
                Some(true) => return Claimed::Ours,
                Some(false) if local.now() >= until => return Claimed::Nobodys,
                Some(false) => {}
            }
            tokio::time::sleep(CLAIM_POLL.into()).await;
            if let Some((result, _)) = self.found(ticket, self.anchor()).await {
                return Claimed::Answered(result);
            }
        }
    }

    /// Relays the call and stores its answer, if it may be.
    async fn relayed(&self, ticket: Ticket, anchor: Option<Anchor>) -> Landed {
        let target = Target {
            worker: &self.worker,
            view: &self.view,
            service: &self.service,
            service_id: (&*self.service.model.id).into(),
            rules: None,
            agree: self.agree.as_ref(),
            no_cache: false,
            account: &self.account,
            // The call that started the flight has been admitted.
            allowances: Allowances::default(),
            turns: None,
            purpose: Purpose::First,
            shape: self.shape,
            passed: self.passed.clone(),
            trace: RequestTrace::default(),
            start: self.start,
        };
        let OwnedAsked { method, ref params, .. } = self.asked;
        let params = params.as_deref();
        let call = Call { id: None, method: method.name().into(), params };
        let dispatched = Dispatched {
            call: &call,
            method: Some(method),
            class: self.class,
            is_repeatable: self.is_repeatable,
            named: self.named,
            prefer: self.prefer,
            delivery: None,
            trace: self.trace,
        };
        let given = self.given.as_deref().or(params);
        let (mut is_open, mut is_early) = (false, false);
        let mut summary = Summary::default();
        let outcome = match heads::read(&target, dispatched, given, &mut summary).await {
            Ok(read) if read.is_open => {
                is_open = true;
                Ok(Relayed::of(read.judged, &self.worker.local))
            }
            Ok(read) => {
                let (relayed, reason) = self.kept(ticket, anchor, read.judged).await;
                is_early = matches!(reason, Some(Reason::Missing | Reason::Pending));
                Ok(relayed)
            }
            Err(error) => {
                is_early = error.kind.row().retryable;
                Err(error)
            }
        };
        Landed {
            outcome,
            by: CacheUse::Miss,
            attempts: summary.attempts,
            upstreams: summary.upstreams().map(String::from).collect(),
            upstream_status: summary.upstream_status,
            span: self.trace.recorded(),
            is_open,
            is_early,
        }
    }

    /// An upstream's answer, stored if it may be, and why a result was not stored.
    async fn kept(
        &self,
        ticket: Ticket,
        anchor: Option<Anchor>,
        judged: JudgedResponse,
    ) -> (Relayed, Option<Reason>) {
        let local = &*self.worker.local;
        if judged.outcome() != RelayOutcome::Ok {
            return (Relayed::of(judged, local), None);
        }
        let mut relayed = Relayed::of(judged, local);
        if let Some(number) = self.named.height {
            // The served head is the answer; the upstream's own may be news.
            if parse_hex(&relayed.value).is_some_and(|own| own > number) {
                self.service.state.has_news.store(true, Ordering::Relaxed);
            }
            relayed.value = written(format!("\"{number:#x}\""));
        }
        match self.keep(ticket, anchor, relayed.value.clone()).await {
            Ok(kept) => {
                // Otherwise the upstream's body, which is charged for, is held.
                if let Ok(stored) = charged(local, kept.result) {
                    relayed.value = stored;
                }
                (relayed, None)
            }
            Err(reason) => {
                self.service.calls.of(local.number).not_stored[reason as usize].add(1);
                (relayed, Some(reason))
            }
        }
    }

    /// Stores a result; a long one is checked on another thread.
    async fn keep(
        &self,
        ticket: Ticket,
        anchor: Option<Anchor>,
        result: Bytes,
    ) -> Result<Kept, Reason> {
        let shared = &self.worker.shared;
        let Some(cache) = &shared.caching.cache else { return Err(Reason::Off) };
        let now = self.worker.local.now();
        if result.len() <= offload::INLINE_MAX || result.len() as u64 > cache.entry_max() {
            return cache.keep(&self.asked.asked(), &ticket, &result, anchor, now);
        }
        let (shared, asked) = (shared.clone(), self.asked.clone());
        let keeping = offload::run(move || {
            let cache = shared.caching.cache.as_ref().ok_or(Reason::Off)?;
            cache.keep(&asked.asked(), &ticket, &result, anchor, now)
        });
        keeping.await.unwrap_or(Err(Reason::Off))
    }
}

/// How a claim ended.
enum Claimed {
    /// This replica relays the call, and the others wait.
    Ours,
    /// This replica relays the call, because it cannot wait.
    Nobodys,
    /// Another replica's answer.
    Answered(Bytes),
}

/// The part of a hash that an anchor has.
fn short(hash: &Hash) -> u64 {
    hash[..8].iter().fold(0, |all, byte| all << 8 | u64::from(*byte))
}
