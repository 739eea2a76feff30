//! The access log's line for a request.
//!
//! Invariant: a line contains no endpoint id in full and no key, wherever the caller put it, except in
//! `X-Request-ID`, which is logged as sent. Ids are masked, paths that the gateway does not serve are
//! shortened to their first word, services that it does not know are masked, and methods that HTTP does
//! not know are `other`.

use std::borrow::Cow;
use std::net::IpAddr;

use plimsoll_config::is_word;
use plimsoll_measure::Nanos;
use plimsoll_registry::model::masked;

use super::pages::Probe;
use super::{RequestContext, access, named};
use crate::call::forwarded;
use crate::call::message::Answer;
use crate::call::routing::Routing;
use crate::call::worker::{View, Worker};
use crate::error::CallError;
use crate::observe::access_log::{Entry, Line};
use crate::observe::stats::CacheUse;

/// Replaces the parts of a path that are not shown.
const HIDDEN: &str = "…";

/// A request, as far as its line describes it.
pub(super) struct Described<'a> {
    pub(super) worker: &'a Worker,
    pub(super) view: &'a View,
    pub(super) client: IpAddr,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) service: Option<&'a [u8]>,
    pub(super) request_id: Option<&'a [u8]>,
    pub(super) bytes_in: usize,
    pub(super) start: Nanos,
}

impl<'a> Described<'a> {
    pub(super) fn of(context: &'a RequestContext<'_, '_>) -> Described<'a> {
        let RequestContext { worker, view, request, .. } = context;
        let trusted = &view.settings.trusted_proxies;
        Described {
            worker,
            view,
            client: forwarded::client(
                request.peer,
                forwarded::received(request).as_deref(),
                trusted,
            ),
            method: request.method,
            path: context.path,
            query: context.query,
            service: request.fields.service,
            request_id: context.id.as_deref(),
            bytes_in: request.body.bytes().len(),
            start: request.start,
        }
    }

    /// The line, still without the fields about the answer's body; `refused`: the error of a request
    /// that was refused before it became a call.
    pub(super) fn line(&self, answer: &Answer<'_>, refused: Option<CallError>) -> Line {
        let Described { worker, view, .. } = self;
        let summary = &answer.summary;
        let in_path = self.path.strip_prefix("/api/gateway/").filter(|id| !id.is_empty());
        let (endpoint, _) = named(in_path, self.query);
        let mut named = Vec::new();
        summary.write_upstreams(&mut named);
        let now = worker.local.now();
        Line::new(&Entry {
            at: worker.shared.started.unix_ns + now.0,
            instance: &view.settings.instance,
            client: self.client,
            method: shown_method(self.method),
            path: shown_path(self.path, refused.is_none(), &view.routing),
            service: self.logged_service(endpoint.as_deref()),
            endpoint: endpoint.map(|id| shown_endpoint(&id, &view.routing)),
            rpc_method: summary.method.map(|method| method.name()),
            upstreams: &String::from_utf8_lossy(&named).replace(", ", ","),
            cache: summary.cache.map(CacheUse::name),
            status: answer.status,
            calls: summary.calls,
            failed: summary.failed,
            attempts: summary.attempts,
            bytes_in: self.bytes_in,
            took: now - self.start,
            request_id: self.request_id,
            error: refused.or(summary.error),
            upstream_status: summary.upstream_status,
        })
    }

    /// The endpoint's service, the only one, or the one that the caller named.
    fn logged_service(&self, endpoint: Option<&str>) -> Option<Cow<'a, str>> {
        let routing = &self.view.routing;
        let service = match (self.path, self.method) {
            (path, _) if path.starts_with("/api/gateway") => &routing.endpoint(endpoint?)?.service,
            ("/", "POST") => routing.only_service()?,
            _ => return self.service.map(|id| shown_service(id, routing)),
        };
        Some(Cow::Borrowed(service.model.id.as_str()))
    }
}

/// An endpoint's id as the log shows it; nothing of a key in its place.
fn shown_endpoint(id: &str, routing: &Routing) -> String {
    if access::is_key(routing, id) { HIDDEN.into() } else { masked(id) }
}

/// The HTTP methods that lines show; any other token may be an id, and long.
const METHODS: [&str; 10] =
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"];

/// An HTTP method as the log shows it.
fn shown_method(method: &str) -> &'static str {
    METHODS.into_iter().find(|known| *known == method).unwrap_or("other")
}

/// Shorter ids occur in words by chance; a word that is one is hidden, but not one that contains one.
const ID_WITHIN_MIN: usize = 4;

/// Whether a word is the id of an endpoint, or contains one, in any case. Words are short.
fn names_endpoint(word: &str, routing: &Routing) -> bool {
    [word, &word.to_ascii_lowercase()].into_iter().any(|word| {
        let is_id = |id: &str| routing.endpoint(id).is_some();
        let within = |start: usize| (start + ID_WITHIN_MIN..=word.len()).map(move |end| start..end);
        is_id(word) || (0..word.len()).flat_map(within).any(|part| is_id(&word[part]))
    })
}

/// A service's id: as received if the gateway knows it.
fn shown_service<'i>(id: &'i [u8], routing: &Routing) -> Cow<'i, str> {
    match String::from_utf8_lossy(id) {
        id if is_service(&id, routing) => id,
        id => masked(&id).into(),
    }
}

fn is_service(id: &str, routing: &Routing) -> bool {
    routing.service(id).is_some_and(|service| service.is_listed)
}

/// A path as the log shows it; `is_call`: whether the request became a call.
fn shown_path<'p>(path: &'p str, is_call: bool, routing: &Routing) -> Cow<'p, str> {
    let is_known = match Probe::find(path) {
        Some(Probe::Ready(Some(service))) => is_service(service, routing),
        Some(_) => true,
        None => {
            matches!(path, "/metrics" | "/v1" | "/v1/" | "/api/gateway" | "/api/gateway/" | "*")
        }
    };
    let is_shown =
        |part: &str| part.is_empty() || (is_word(part) && !names_endpoint(part, routing));
    let word = |part: &'p str| if is_shown(part) { part } else { HIDDEN };
    if is_known || path.is_empty() {
        return Cow::Borrowed(path);
    }
    if path.starts_with("/api/gateway/") {
        return Cow::Borrowed("/api/gateway/…");
    }
    if is_call && path.starts_with("/v1/") {
        return path.split('/').map(word).collect::<Vec<_>>().join("/").into();
    }
    let (first, rest) = match path.trim_start_matches('/').split_once('/') {
        Some((first, _)) => (first, "/…"),
        None => (path.trim_start_matches('/'), ""),
    };
    format!("/{}{rest}", word(first)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_registry::model::{self, Definitions};

    #[test]
    fn paths_are_shown_without_ids() {
        let routing = Routing::empty(0);
        let check = |path: &str, is_call: bool, shown: &str| {
            assert_eq!(shown_path(path, is_call, &routing), shown, "{path}");
        };
        for known in ["/", "/v1", "/v1/", "/api/gateway", "/ready", "/healthz", "/metrics", "*"] {
            check(known, false, known);
        }
        check("/api/gateway/alice", true, "/api/gateway/…");
        check("/api/gateway/alice", false, "/api/gateway/…");
        for (typo, shown) in [
            ("//api/gateway/alice_1", "/api/…"),
            ("/Api/gateway/alice_1", "/Api/…"),
            ("/api/gatewayalice_1", "/api/…"),
            ("/api/v1/gateway/alice_1", "/api/…"),
            ("/api%2fgateway/alice_1", "/…/…"),
            ("/api/gateway&endpoint=alice_1", "/api/…"),
            ("/api/gateway;endpoint=alice_1", "/api/…"),
            ("/v1;endpoint=alice_1", "/…"),
            ("/v1/alice_1", "/v1/…"),
            ("/ready/alice_1", "/ready/…"),
            ("/ethpath_1764014188689_1764014188693", "/…"),
            ("/health/alice_1", "/health/…"),
        ] {
            check(typo, false, shown);
        }
        assert_eq!(shown_service(b"customer-4711", &routing), "cust…4711");
        // REST: words stay, and everything else is hidden.
        check(
            "/v1/cosmos/bank/v1beta1/balances/kava1qv7",
            true,
            "/v1/cosmos/bank/v1beta1/balances/…",
        );
        check("/v1/eth/v1/node/health/", true, "/v1/eth/v1/node/health/");
        check("/v1/ethpath_1764014188689_1764014188693", true, "/v1/…");
    }

    #[test]
    fn nothing_of_a_key_is_shown() {
        let routing = Routing::empty(0);
        for (id, shown) in [
            ("customer-4711", "cust…4711"),
            ("plk_0123456789", HIDDEN),
            ("acme/plk_0123456789", HIDDEN),
            ("acme/s3cret-text-of-a-key", HIDDEN),
            ("ACME%2FPLK_0123456789", HIDDEN),
        ] {
            assert_eq!(shown_endpoint(id, &routing), shown);
        }
    }

    #[test]
    fn words_that_contain_an_id_are_hidden() {
        let endpoint = |id: &str| model::Endpoint::named(id, "eth");
        let definitions = Definitions {
            services: vec![model::Service::named("eth")],
            endpoints: ["acme", "e"].map(endpoint).into(),
            ..Definitions::default()
        };
        let routing = Routing::compile(&definitions, &Routing::empty(0), 1, &mut 0).expect("valid");
        for (path, is_call, shown) in [
            ("/acme", false, "/…"),
            ("/x-acme", false, "/…"),
            ("/acmex/y", false, "/…/…"),
            ("/gatewayacme", false, "/…"),
            ("/ACME", false, "/…"),
            ("/e", false, "/…"),
            ("/eth", false, "/eth"),
            ("/v1/acmes/eth/e", true, "/v1/…/eth/…"),
        ] {
            assert_eq!(shown_path(path, is_call, &routing), shown, "{path}");
        }
    }

    #[test]
    fn only_known_methods_are_shown() {
        let long = "M".repeat(20_000);
        for (method, shown) in [
            ("POST", "POST"),
            ("QUERY", "QUERY"),
            ("post", "other"),
            ("acme", "other"),
            (&long, "other"),
        ] {
            assert_eq!(shown_method(method), shown);
        }
    }
}
