//! `/api/v1/cache`: the cache's figures, and removing answers from it.
//!
//! Only on listeners with the admin face. Answers are removed only through a listener that serves no
//! calls, or from this host: removing them costs relays, so callers must not be able to.

use std::fmt::Write;

use plimsoll_rpc::json;
use plimsoll_rpc::method::{self, Method};
use plimsoll_rpc::request;

use super::{RequestContext, parameter, wrong_method};
use crate::cache::Cache;
use crate::cache::key::PARAMS_MAX;
use crate::call::message::{Answer, JSON};
use crate::call::relay::shown;
use crate::call::routing::Service;
use crate::call::worker::{Shared, State};
use crate::error::{Error, ErrorKind};
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
            remove(shared, state, context.query.unwrap_or_default()).await?
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
fn figures(shared: &Shared, state: &State) -> String {
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

/// What to remove.
struct Selected<'a> {
    cache: &'a Cache,
    services: Vec<&'a Service>,
    method: Option<Method>,
    /// The parameters of a single call.
    params: Option<Vec<u8>>,
}

/// Removes what the query selects from both levels; returns the numbers.
async fn remove(shared: &Shared, state: &State, query: &str) -> Result<String, Error> {
    let selected = Selected::of(shared, state, query)?;
    let (mut memory, mut redis) = (0, None);
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
            redis = removed.map(|removed| removed + redis.unwrap_or_default()).or(redis);
        }
    }
    let redis = redis.map_or("null".to_string(), |removed: u64| removed.to_string());
    Ok(format!("{{\"memory\":{memory},\"redis\":{redis}}}"))
}

impl<'a> Selected<'a> {
    fn of(shared: &'a Shared, state: &'a State, query: &str) -> Result<Selected<'a>, Error> {
        let wrong = |message: String| Err(Error::new(ErrorKind::InvalidRequest, message));
        let Some(cache) = &shared.caching.cache else {
            return wrong("the cache is off (cache.memory = 0)".into());
        };
        let known = state.routing.services().into_iter().filter(|service| service.is_listed);
        let services: Vec<&Service> = match parameter(query, "service") {
            None => known.map(|service| &**service).collect(),
            Some(id) => match known.into_iter().find(|service| service.model.id == id) {
                Some(service) => vec![service],
                None => return wrong(format!("there is no service {}", shown(&id))),
            },
        };
        let method = match parameter(query, "method") {
            None => None,
            Some(name) => match Method::find(&name) {
                Some(method) => Some(method),
                None => return wrong(format!("no answers of {} are stored", shown(&name))),
            },
        };
        let mut params = None;
        if let Some(key) = parameter(query, "key") {
            let ([service], Some(method)) = (&services[..], method) else {
                return wrong("a key needs its service and method".into());
            };
            params = Some(bound(service, method, &key)?);
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
    let Some(params) = params else {
        let message = "a key is the call's params, such as [\"0x1b4\",false]";
        return Err(Error::new(ErrorKind::InvalidRequest, message));
    };
    let mut bound = Vec::new();
    if let Some(heads) = &service.heads {
        BlockParam::of(method).bind(params, |tag| heads.board.head(tag), &mut bound);
    }
    Ok(if bound.is_empty() { params.to_vec() } else { bound })
}
