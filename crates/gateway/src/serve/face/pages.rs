//! What operators and their machines ask: health, readiness, metrics.

use plimsoll_rpc::json;

use super::{TEXT, metrics_page, wrong_method};
use crate::call::message::{Answer, JSON};
use crate::call::relay::shown;
use crate::call::routing::Service;
use crate::call::worker::{View, Worker};
use crate::error::{Error, ErrorKind};

/// Answers what is no call.
pub(super) async fn answer<'a>(
    worker: &Worker,
    view: &View,
    method: &str,
    path: &str,
) -> Result<Answer<'a>, Error> {
    let id = path.strip_prefix("/ready/");
    if !matches!(path, "/health" | "/metrics" | "/ready") && id.is_none() {
        return Err(Error::new(ErrorKind::NoSuchPath, "there is no such path here"));
    }
    if !matches!(method, "GET" | "HEAD") {
        return Err(wrong_method(method));
    }
    Ok(match (path, id) {
        ("/health", _) => Answer::new(200, TEXT, Vec::new()),
        ("/metrics", _) => metrics_page(worker, view).await,
        (_, None) => ready(worker, &view.routing.services(), None),
        (_, Some(id)) => {
            let service = view.routing.service(id).filter(|service| service.model.id == id);
            ready(worker, &Vec::from_iter(service), Some(id))
        }
    })
}

/// Whether calls can be taken, in PATH's words: 200 when every service asked for can, else 503.
fn ready<'a>(
    worker: &Worker,
    services: &[&std::sync::Arc<Service>],
    asked: Option<&str>,
) -> Answer<'a> {
    let draining = worker.shared.is_draining();
    // With nothing to relay to, a service that was asked for by name is not ready; among all, those
    // without an upstream are not what this gateway is there for, unless none has any.
    let serving = |service: &&&std::sync::Arc<Service>| {
        asked.is_some() || (!service.routes.is_empty() && service.is_listed)
    };
    let listed: Vec<_> = services.iter().filter(serving).collect();
    let all = !draining && !listed.is_empty() && listed.iter().all(|one| !one.routes.is_empty());
    let mut body = format!("{{\"ready\":{all},\"services\":{{").into_bytes();
    for (at, service) in listed.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        json::write_text(&mut body, &service.model.id);
        let upstreams = service.routes.len();
        let one = upstreams > 0 && !draining;
        let text =
            format!(":{{\"ready\":{one},\"endpoint_count\":{upstreams},\"has_session\":{one}}}");
        body.extend_from_slice(text.as_bytes());
    }
    body.push(b'}');
    let message = match (draining, asked) {
        (true, _) => Some("stopping: no new calls".to_string()),
        (false, Some(id)) if listed.is_empty() => {
            Some(format!("there is no service {}", shown(id)))
        }
        (false, None) if listed.is_empty() => Some("no service has an upstream".to_string()),
        _ => None,
    };
    if let Some(message) = message {
        body.extend_from_slice(b",\"message\":");
        json::write_text(&mut body, &message);
    }
    body.extend_from_slice(b"}\n");
    Answer::new(if all { 200 } else { 503 }, JSON, body)
}
