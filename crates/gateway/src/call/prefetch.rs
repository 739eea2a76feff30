//! Calls that the keeper makes for each new block, so that the first callers find the answers.
//!
//! They go the way of a caller's read: through the cache, to an upstream that has the block, at its rate
//! limit. Nothing is made while a service is not called, because its head is then hardly followed.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use plimsoll_registry::model::Prefetch;
use plimsoll_rpc::method::{Class, Method};
use plimsoll_rpc::request::Call;

use super::cached;
use super::dispatch::Dispatched;
use super::message::Summary;
use super::relay::{self, Bound};
use super::routing::Service;
use super::target::Target;
use super::trace::CallTrace;
use super::worker::Worker;

/// What has been done for a service.
#[derive(Debug, Default)]
pub(crate) struct Prefetched {
    branch: AtomicU64,
    /// The latest block, plus 1.
    head: AtomicU64,
    /// Calls made.
    pub(crate) calls: AtomicU64,
}

/// Makes a service's calls if there is a new block, or another branch.
pub(super) fn start(worker: &Rc<Worker>, service: &Arc<Service>) {
    if service.model.prefetch.is_empty() || worker.shared.caching.cache.is_none() {
        return;
    }
    let Some(heads) = &service.heads else { return };
    let moment = heads.moment();
    let Some(latest) = moment.served.latest else { return };
    let done = &service.state.prefetched;
    let branch = done.branch.swap(moment.branch, Relaxed);
    let head = done.head.swap(latest + 1, Relaxed);
    if branch == moment.branch && head > latest {
        return;
    }
    for place in 0..service.model.prefetch.len() {
        let (worker, service) = (worker.clone(), service.clone());
        tokio::task::spawn_local(async move {
            make(&worker, &service, &service.model.prefetch[place]).await;
        });
    }
}

async fn make(worker: &Rc<Worker>, service: &Arc<Service>, prefetch: &Prefetch) {
    let view = worker.view();
    let target = Target::of(worker, &view, service);
    let params = prefetch.params.as_ref().map(String::as_bytes);
    let call = Call { id: None, method: prefetch.method.as_str().into(), params };
    let method = Method::find(&prefetch.method);
    if service.protocol.class(method) != Some(Class::Read) {
        return;
    }
    let mut buffer = Vec::new();
    let Bound { call: sent, named, moment } =
        relay::bound(&target, &call, method, &mut buffer).await;
    let dispatched = Dispatched {
        call: &sent,
        method,
        class: Class::Read,
        is_repeatable: true,
        named,
        prefer: None,
        delivery: None,
        trace: CallTrace::default(),
    };
    service.state.prefetched.calls.fetch_add(1, Relaxed);
    // A failure is the next caller's to see.
    let _ = cached::answered(&target, dispatched, params, moment, &mut Summary::default()).await;
}
