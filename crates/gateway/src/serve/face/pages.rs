//! What operators and their machines ask: health, readiness, metrics.

use plimsoll_rpc::json;

use super::{Answer, JSON, TEXT, metrics_page, wrong_method};
use crate::call::routing::Service;
use crate::call::worker::{View, Worker};
use crate::error::{Error, ErrorKind};

/// Answers what is no call.
pub(super) fn answer<'a>(
    worker: &Worker,
    view: &View,
    method: &str,
    path: &str,
) -> Result<Answer<'a>, Error> {
    let read = |answer: &dyn Fn() -> Answer<'a>| match method {
        "GET" | "HEAD" => Ok(answer()),
        method => Err(wrong_method(method)),
    };
    match path {
        "/health" => read(&|| Answer::new(200, TEXT, Vec::new())),
        "/metrics" => read(&|| metrics_page(worker, view)),
        "/ready" => read(&|| ready(worker, &view.registry.services(), None)),
        _ => match path.strip_prefix("/ready/") {
            Some(id) => read(&|| {
                let service = view.registry.service(id).filter(|service| service.model.id == id);
                ready(worker, &Vec::from_iter(service), Some(id))
            }),
            None => Err(Error::new(ErrorKind::NoSuchPath, "there is no such path here")),
        },
    }
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
        asked.is_some()
            || (!service.routes.is_empty() && service.model.id != crate::call::routing::OTHER)
    };
    let shown: Vec<_> = services.iter().filter(serving).collect();
    let all = !draining && !shown.is_empty() && shown.iter().all(|one| !one.routes.is_empty());
    let mut body = format!("{{\"ready\":{all},\"services\":{{").into_bytes();
    for (at, service) in shown.iter().enumerate() {
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
        (false, Some(id)) if shown.is_empty() => {
            Some(format!("there is no service {}", crate::call::relay::shown(id)))
        }
        (false, None) if shown.is_empty() => Some("no service has an upstream".to_string()),
        _ => None,
    };
    if let Some(message) = message {
        body.extend_from_slice(b",\"message\":");
        json::write_text(&mut body, &message);
    }
    body.extend_from_slice(b"}\n");
    Answer::new(if all { 200 } else { 503 }, JSON, body)
}
