//! Requests other than calls: PATH's health and readiness endpoints, and the control endpoint.
//!
//! | request | answer |
//! |---|---|
//! | `GET /health` | 200, empty |
//! | `GET /ready`, `GET /ready/SERVICE` | PATH's readiness |
//! | `GET /sim/faults` | the faults that are set |
//! | `PUT /sim/faults` | replaces the faults by a fault or an array of faults |
//! | `POST /sim/faults` | adds a fault or an array of faults |
//! | `DELETE /sim/faults` | clears the faults |
//! | `GET /sim/counts` | the counts |

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, Response, StatusCode};
use plimsoll_measure::Nanos;

use crate::faults::{FAULTS_MAX, Fault, from_json};
use crate::http::{Caller, json, plain, write_failure};
use crate::node::failure::Failure;
use crate::node::write::{Object, array, text};
use crate::sim::{Host, Shared};

/// Maximum size of a list of faults, in bytes.
const BODY_MAX: usize = 1 << 20;

pub(crate) async fn respond<B>(caller: &Caller, request: Request<B>) -> Response<Full<Bytes>>
where
    B: hyper::body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
{
    let shared = &caller.shared;
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    match (&method, path.as_str()) {
        (&Method::GET | &Method::HEAD, "/health") => plain(StatusCode::OK, String::new()),
        (&Method::GET, "/ready") => readiness(shared, &shared.hosts.iter().collect::<Vec<_>>()),
        (&Method::GET, "/sim/faults") => list(&shared.faults.list()),
        (&Method::GET, "/sim/counts") => counts(shared),
        (&Method::DELETE, "/sim/faults") => set(shared, Vec::new(), false),
        (&Method::PUT | &Method::POST, "/sim/faults") => {
            let body = match Limited::new(request.into_body(), BODY_MAX).collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) => return plain(StatusCode::BAD_REQUEST, format!("{error}\n")),
            };
            match from_json(&body) {
                Ok(faults) => set(shared, faults, method == Method::POST),
                Err(problems) => plain(StatusCode::BAD_REQUEST, problems + "\n"),
            }
        }
        (&Method::GET, path) if path.starts_with("/ready/") => {
            let name = &path["/ready/".len()..];
            match shared.host(name) {
                Some(host) => readiness(shared, &[host]),
                None => {
                    let message = format!("service {name} not configured");
                    let mut out = Vec::new();
                    let mut object = Object::open(&mut out);
                    object.raw("ready", "false").raw("services", "{}");
                    text(object.member("message"), &message);
                    object.close();
                    json(StatusCode::SERVICE_UNAVAILABLE, out)
                }
            }
        }
        _ => {
            let known = shared.names().map(|name| format!("POST /{name}")).collect::<Vec<_>>();
            let known = known.join(", ");
            plain(
                StatusCode::NOT_FOUND,
                format!(
                    "{method} {path} not found\nhint: use {known}, POST /v1 with Target-Service-Id, GET /ready or GET /sim/counts\n"
                ),
            )
        }
    }
}

fn set(shared: &Shared, faults: Vec<Fault>, keep: bool) -> Response<Full<Bytes>> {
    let unknown = faults.iter().filter_map(|fault| fault.service.as_deref());
    if let Some(name) = unknown.into_iter().find(|name| shared.host(name).is_none()) {
        let known = shared.names().collect::<Vec<_>>().join(", ");
        let message = format!("unknown service \"{name}\"; must be one of {known}\n");
        return plain(StatusCode::BAD_REQUEST, message);
    }
    let before = if keep { shared.faults.list().len() } else { 0 };
    if before + faults.len() > FAULTS_MAX {
        let text = format!("at most {FAULTS_MAX} faults can be set\n");
        return plain(StatusCode::BAD_REQUEST, text);
    }
    shared.faults.set(faults, keep, shared.clock.now());
    list(&shared.faults.list())
}

fn list(faults: &[Fault]) -> Response<Full<Bytes>> {
    let mut out = Vec::new();
    array(&mut out, faults, |out, fault| {
        let mut object = Object::open(out);
        text(object.member("kind"), fault.kind.name());
        object.raw("share", &format!("\"{}%\"", fault.share * 100.0));
        let spans = [("at", Some(fault.window.at)), ("for", fault.window.length)];
        for (name, span) in spans.into_iter().chain([("every", fault.window.every)]) {
            if let Some(span) = span {
                let span = plimsoll_config::values::show_duration(span.into());
                text(object.member(name), &span);
            }
        }
        for (name, value) in [("service", &fault.service), ("method", &fault.method)] {
            if let Some(value) = value {
                text(object.member(name), value);
            }
        }
        object.close();
    });
    json(StatusCode::OK, out)
}

fn counts(shared: &Shared) -> Response<Full<Bytes>> {
    let counts = shared.record.counts();
    let mut out = Vec::new();
    let mut object = Object::open(&mut out);
    object
        .raw("connections", &counts.connections.to_string())
        .raw("connections_open", &counts.connections_open.to_string())
        .raw("requests", &counts.requests.to_string())
        .raw("overflowed", &counts.overflowed.to_string())
        .raw("notifications", &counts.notifications.to_string())
        .raw("slow_readers", &counts.slow_readers.to_string());
    let delays = shared.record.delays();
    let micros =
        |delay: Option<Nanos>| delay.map_or("null".into(), |own| (own.0 / 1_000).to_string());
    Object::open(object.member("notification_delay_us"))
        .raw("p50", &micros(delays.quantile(0.5)))
        .raw("p99", &micros(delays.quantile(0.99)))
        .raw("max", &micros(delays.max()))
        .close();
    for (name, map) in [("calls", counts.calls), ("faults", shared.faults.counts())] {
        let mut inner = Object::open(object.member(name));
        map.iter().for_each(|(key, n)| {
            inner.raw(key, &n.to_string());
        });
        inner.close();
    }
    object.close();
    json(StatusCode::OK, out)
}

fn readiness(shared: &Shared, hosts: &[&Host]) -> Response<Full<Bytes>> {
    let mut out = Vec::new();
    let mut object = Object::open(&mut out);
    object.raw("ready", "true");
    let mut services = Object::open(object.member("services"));
    for host in hosts {
        let head = host.node.view(shared.calendar.unix()).head.to_string();
        Object::open(services.member(&host.node.service.name))
            .raw("ready", "true")
            .raw("endpoint_count", "1")
            .raw("has_session", "true")
            .raw("perceived_block_height", &head)
            .raw("median_block_height", &head)
            .raw("block_observations", "1")
            .close();
    }
    services.close();
    object.close();
    json(StatusCode::OK, out)
}

/// PATH's answer to a request without a service id.
pub(crate) fn no_service_id() -> Response<Full<Bytes>> {
    let body = r#"{"code":400,"message":"no service ID provided in 'Target-Service-Id' header"}"#;
    json(StatusCode::BAD_REQUEST, body.into())
}

/// PATH's answer to a request with an unknown service id.
pub(crate) fn unknown_service_id(shared: &Shared, id: &str) -> Response<Full<Bytes>> {
    let mut data = Vec::new();
    let mut object = Object::open(&mut data);
    text(object.member("service_id"), id);
    array(object.member("available_services"), shared.names(), text);
    object.close();
    let failure = Failure {
        code: plimsoll_rpc::code::INVALID_REQUEST,
        message: format!("unknown service \"{id}\""),
        data: String::from_utf8(data).ok(),
    };
    let mut out = Vec::new();
    write_failure(&mut out, None, &failure);
    json(StatusCode::BAD_REQUEST, out)
}
