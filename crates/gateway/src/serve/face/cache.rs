//! `/api/v1/cache`: the cache's figures, and removing answers from it.
//!
//! Only on listeners with the admin face. Answers are removed only through a listener that serves no
//! calls, or from this host: removing them costs relays, so callers must not be able to. On listeners of
//! the admin API, the path is part of it, and needs its token.

use std::fmt::Write;

use plimsoll_rpc::json::{self, Kind};
use plimsoll_rpc::method::{self, Method};
use plimsoll_rpc::request;

use super::{RequestContext, wrong_method};
use crate::cache::Cache;
use crate::cache::key::PARAMS_MAX;
use crate::call::message::{Answer, JSON};
use crate::call::relay::shown;
use crate::call::routing::Service;
use crate::call::worker::{Shared, State};
use crate::error::{Error, ErrorKind};
use crate::http1::unescaped;
use crate::observe::stats::{CacheUse, Outcome};
use crate::protocol::evm::block_param::BlockParam;

/// The path.
pub(super) const PATH: &str = "/api/v1/cache";

/// Answers a request for the page.
///
/// # Errors
/// The method, the caller or a parameter is not right.
pub(super) async fn answer<'a>(context: &RequestContext<'_, '_>) -> Result<Answer<'a>, Error> {
    let (shared, state) = (&context.worker.shared, &**context.view);
    let text = match context.request.method {
        "GET" | "HEAD" => figures(shared, state),
        "DELETE" => {
            let request = context.request;
            let is_local =
                request.peer.to_canonical().is_loopback() && request.fields.forwarded_for.is_none();
            if request.faces.serves_calls() && !is_local {
                let message = "answers are removed from this host, or through a listener with only \
                               the admin face";
                return Err(Error::new(ErrorKind::NoSuchPath, message));
            }
            let selection = Selection::of_query(context.query.unwrap_or_default())?;
            remove(shared, state, &selection).await?
        }
        method => return Err(wrong_method(method, "use GET or DELETE")),
    };
    Ok(Answer::new(200, JSON, text.into_bytes()))
}

fn quoted(text: &str) -> String {
    let mut out = Vec::new();
    json::write_text(&mut out, text);
    String::from_utf8(out).unwrap_or_default()
}

/// The figures, as JSON.
pub(in crate::serve) fn figures(shared: &Shared, state: &State) -> String {
    let figures = shared.cache_figures();
    let (store, caching) = (figures.store, &shared.caching);
    let limit = if caching.cache.is_some() { state.settings.cache.memory } else { 0 };
    let mut text = format!(
        "{{\"memory\":{{\"limit\":{limit},\"bytes\":{},\"entries\":{},\"stored\":{},\"evicted\":{},\
         \"ended\":{},\"dropped\":{},\"too_large\":{}}},\"flights\":{{\"now\":{},\"waiting\":{},\
         \"full\":{}}},\"redis\":",
        store.bytes,
        store.entries,
        store.stored,
        store.evicted,
        store.ended,
        store.dropped,
        store.too_large,
        caching.flights.flights(),
        caching.flights.waiters(),
        figures.flights_full
    );
    match figures.shared {
        None => text += "null",
        Some((counts, is_used)) => {
            write!(text, "{{\"used\":{is_used}").expect("writing to memory");
            for (name, count) in counts.named() {
                write!(text, ",\"{name}\":{count}").expect("writing to memory");
            }
            let trouble = caching.second_level().and_then(|shared| shared.trouble());
            let trouble = trouble.map_or("null".into(), |why| quoted(&why));
            write!(text, ",\"trouble\":{trouble}}}").expect("writing to memory");
        }
    }
    let services = state.routing.services();
    let services: Vec<String> = services.into_iter().map(|one| of_service(one)).collect();
    text + &format!(",\"services\":[{}]}}", services.join(","))
}

/// The calls of a service by method and use of the cache.
fn of_service(service: &Service) -> String {
    let mut methods = Vec::new();
    for method in 0..=method::NAMES.len() {
        let uses = (0..CacheUse::NAMES.len()).map(|used| {
            let outcomes = 0..Outcome::NAMES.len();
            let count = |outcome| service.calls.sum(|calls| calls.count(method, used, outcome));
            outcomes.map(count).sum::<u64>()
        });
        let uses: Vec<u64> = uses.collect();
        if uses.iter().any(|count| *count > 0) {
            let name = method::NAMES.get(method).copied().unwrap_or("other");
            let uses = CacheUse::NAMES.into_iter().zip(uses);
            let uses: Vec<String> = uses.map(|(name, n)| format!("\"{name}\":{n}")).collect();
            methods.push(format!("\"{name}\":{{{}}}", uses.join(",")));
        }
    }
    format!("{{\"service\":{},\"methods\":{{{}}}}}", quoted(&service.model.id), methods.join(","))
}

/// What to remove, as asked: the answers of a service, of a method, of one call.
#[derive(Default)]
pub(in crate::serve) struct Selection {
    pub(in crate::serve) service: Option<String>,
    pub(in crate::serve) method: Option<String>,
    /// The call's params, in JSON.
    pub(in crate::serve) key: Option<String>,
}

impl Selection {
    /// The selection in a query. A misspelt name must not remove everything.
    ///
    /// # Errors
    /// A parameter is unknown, or is given twice.
    pub(in crate::serve) fn of_query(query: &str) -> Result<Selection, Error> {
        let mut selection = Selection::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match name {
                "service" => &mut selection.service,
                "method" => &mut selection.method,
                "key" => &mut selection.key,
                _ => {
                    let message = "unknown parameter; use service, method and key";
                    return Err(Error::new(ErrorKind::InvalidRequest, message));
                }
            };
            if place.replace(unescaped(value).into_owned()).is_some() {
                let message = format!("the parameter {name} is given twice");
                return Err(Error::new(ErrorKind::InvalidRequest, message));
            }
        }
        Ok(selection)
    }
}

/// What to remove.
struct Selected<'a> {
    cache: &'a Cache,
    services: Vec<&'a Service>,
    method: Option<Method>,
    /// The parameters of a single call.
    params: Option<Vec<u8>>,
}

/// Removes the selected answers from both levels; returns the numbers, as JSON.
///
/// # Errors
/// The selection is not one of answers that may be stored.
pub(in crate::serve) async fn remove(
    shared: &Shared,
    state: &State,
    selection: &Selection,
) -> Result<String, Error> {
    let selected = Selected::of(shared, state, selection)?;
    let (mut memory, mut redis) = (0, None);
    let mut is_complete = true;
    for service in &selected.services {
        for space in &service.spaces {
            let Selected { cache, method, .. } = selected;
            let removed = match (&selected.params, method) {
                (Some(params), Some(method)) => {
                    let params = Some(&params[..]);
                    memory += u64::from(cache.drop_call(space, method, params));
                    cache.drop_shared_call(space, method, params).await
                }
                _ => {
                    memory += cache.drop_selected(Some(space), method);
                    cache.drop_shared(space, method).await
                }
            };
            is_complete &= removed.is_some() || selected.cache.shared().is_none();
            redis = removed.map(|removed| removed + redis.unwrap_or_default()).or(redis);
        }
    }
    let redis = redis.map_or("null".to_string(), |removed: u64| removed.to_string());
    let problem = if is_complete {
        ""
    } else {
        ",\"problem\":\"Redis could not be asked: answers there were not removed, and may be used again\""
    };
    Ok(format!("{{\"memory\":{memory},\"redis\":{redis}{problem}}}"))
}

impl<'a> Selected<'a> {
    fn of(
        shared: &'a Shared,
        state: &'a State,
        selection: &Selection,
    ) -> Result<Selected<'a>, Error> {
        let wrong = |message: String| Err(Error::new(ErrorKind::InvalidRequest, message));
        let Some(cache) = &shared.caching.cache else {
            return wrong("the cache is off (cache.memory = 0)".into());
        };
        let known = state.routing.services().into_iter().filter(|service| service.is_listed);
        let services: Vec<&Service> = match &selection.service {
            None => known.map(|service| &**service).collect(),
            Some(id) => match known.into_iter().find(|service| service.model.id == *id) {
                Some(service) => vec![service],
                None => return wrong(format!("there is no service {}", shown(id))),
            },
        };
        let method = match &selection.method {
            None => None,
            Some(name) => match Method::find(name) {
                Some(method) => Some(method),
                None => return wrong(format!("no answers of {} are stored", shown(name))),
            },
        };
        let mut params = None;
        if let Some(key) = &selection.key {
            let ([service], Some(method)) = (&services[..], method) else {
                return wrong("a key needs its service and method".into());
            };
            params = Some(bound(service, method, key)?);
        }
        Ok(Selected { cache, services, method, params })
    }
}

/// The parameters of a call, with tags replaced by the served numbers.
fn bound(service: &Service, method: Method, key: &str) -> Result<Vec<u8>, Error> {
    let call = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{}\",\"params\":{key}}}",
        method.name()
    );
    let params = match request::parse(call.as_bytes(), 1) {
        Ok(request::Body::Single(call)) if key.len() <= PARAMS_MAX => call.params,
        _ => None,
    };
    // A key with more members after the params would be read as another call's.
    let is_whole = |params: &&[u8]| {
        matches!(json::kind(params), Some(Kind::Array | Kind::Object))
            && **params == *key.trim_ascii().as_bytes()
    };
    let Some(params) = params.filter(is_whole) else {
        let message = "a key is the call's params, such as [\"0x1b4\",false]";
        return Err(Error::new(ErrorKind::InvalidRequest, message));
    };
    let mut bound = Vec::new();
    if let Some(heads) = &service.heads {
        BlockParam::of(method).bind(params, |tag| heads.board.head(tag), &mut bound);
    }
    Ok(if bound.is_empty() { params.to_vec() } else { bound })
}
