//! Pages for operators and monitoring: health, readiness, metrics.
//!
//! Health and readiness are served on every listener, under the default paths of PATH, Kubernetes and
//! load balancers ([`Probe`]), even to connections beyond the limits (`serve/refusal.rs`).

mod limits;
mod usage;

use plimsoll_measure::Nanos;
use plimsoll_registry::settings::Faces;
use plimsoll_rpc::json;

use super::{METRICS, TEXT, cors, parameter, wrong_method};
use crate::call::message::{Answer, JSON};
use crate::call::relay::shown;
use crate::call::routing::{Excluded, Routing, Service};
use crate::call::worker::{Shared, State};
use crate::error::{Error, ErrorKind};
use crate::heads::Served;
use crate::http1::Fields;
use crate::offload;
use crate::payload::Payload;
use std::sync::Arc;

/// The methods of `/`, and of the server as a whole.
pub(super) const SERVER_METHODS: &str = "GET, HEAD, POST, OPTIONS";

/// The methods of pages.
pub(super) const PAGE_METHODS: &str = "GET, HEAD, OPTIONS";

/// A health or readiness probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe<'p> {
    /// Whether the process is alive.
    Health,
    /// Whether calls can be served: for all services, or for this one.
    Ready(Option<&'p str>),
    /// Readiness in PATH's older format.
    Healthz,
}

impl<'p> Probe<'p> {
    /// The probe at this path.
    pub(super) fn find(path: &'p str) -> Option<Probe<'p>> {
        Some(match path {
            "/health" | "/health/" | "/livez" => Probe::Health,
            "/" | "/ready" | "/ready/" | "/readyz" => Probe::Ready(None),
            "/healthz" => Probe::Healthz,
            path => Probe::Ready(Some(path.strip_prefix("/ready/")?)),
        })
    }

    /// The answer.
    fn answer<'a>(self, routing: &Routing, shared: &Shared) -> Answer<'a> {
        match self {
            Probe::Health => Answer::new(200, TEXT, Vec::new()),
            Probe::Ready(asked) => Readiness::of(routing, asked, shared).answer(),
            Probe::Healthz => Readiness::of(routing, None, shared).healthz_answer(),
        }
    }
}

/// A request for a page.
pub(crate) struct PageRequest<'r> {
    pub(crate) method: &'r str,
    pub(crate) path: &'r str,
    pub(crate) query: Option<&'r str>,
    pub(crate) fields: &'r Fields<'r>,
    /// What its listener serves.
    pub(crate) faces: Faces,
}

/// Answers probes and metrics requests.
///
/// # Errors
/// There is no such page, or not for this method.
pub(crate) async fn answer<'a>(
    shared: &Arc<Shared>,
    state: &Arc<State>,
    asked: &PageRequest<'_>,
) -> Result<Answer<'a>, Error> {
    let PageRequest { method, path, query, fields, faces } = *asked;
    let probe = Probe::find(path);
    let cors = cors::rule(&state.settings.cors, faces);
    if method == "OPTIONS" && path == "*" {
        // About the server, not about a path (RFC 9110 §9.3.7).
        return Ok(cors::options(SERVER_METHODS, cors, fields));
    }
    if probe.is_none() && !(path == "/metrics" && faces.admin) {
        return Err(Error::new(ErrorKind::NoSuchPath, no_such_path(path, faces)));
    }
    match method {
        "GET" | "HEAD" => {}
        // Without an origin it is a probe, as HAProxy sends it by default.
        "OPTIONS" if path == "/" && !cors::is_preflight(fields) => {}
        "OPTIONS" if path == "/" => return Ok(cors::options(SERVER_METHODS, cors, fields)),
        "OPTIONS" => return Ok(cors::options(PAGE_METHODS, cors, fields)),
        method => return Err(wrong_method(method, "use GET")),
    }
    let Some(probe) = probe else { return Ok(metrics_page(shared, state).await) };
    let is_detailed =
        query.and_then(|query| parameter(query, "detailed")).as_deref() == Some("true");
    match probe {
        Probe::Ready(asked) if is_detailed && faces.admin => {
            let mut readiness = Readiness::of(&state.routing, asked, shared);
            readiness.details = Some(Details { now: readiness.now, shared });
            Ok(readiness.answer())
        }
        probe => Ok(probe.answer(&state.routing, shared)),
    }
}

/// The message for a path that this listener does not serve; says where it is served, if anywhere.
fn no_such_path(path: &str, faces: Faces) -> &'static str {
    let is_below = |prefix: &str| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let is_operators = path == "/metrics" || path == super::cache::PATH || is_below("/api/v1");
    let is_callers = is_below("/v1") || is_below("/api/gateway");
    if is_below("/api/v1") && faces.admin && faces.serves_calls() {
        "no such path here; the admin API needs a listener without calls: set admin_listen"
    } else if is_operators && !faces.admin {
        "no such path here; pages for operators are served at the address of admin_listen"
    } else if is_callers && !faces.serves_calls() {
        "no such path here; calls are served at the addresses of listen"
    } else {
        "no such path"
    }
}

/// The metrics page, built on another thread because it sums thousands of counters.
async fn metrics_page<'a>(shared: &Arc<Shared>, state: &Arc<State>) -> Answer<'a> {
    let (shared, state) = (shared.clone(), state.clone());
    let page = offload::run(move || shared.metrics(&state)).await.unwrap_or_default();
    let mut answer = Answer::new(200, METRICS, Vec::new());
    answer.body = Payload::Whole(page.into_bytes());
    answer
}

/// Whether calls can be served.
struct Readiness<'s> {
    /// The services in question. A service without an upstream is not ready if requested by name, but is
    /// left out if all services are requested.
    services: Vec<&'s Arc<Service>>,
    asked: Option<&'s str>,
    is_draining: bool,
    /// Whether quotas do not know yet what has been used.
    awaits_totals: bool,
    /// The time of the request.
    now: Nanos,
    /// Set if the request asks for details.
    details: Option<Details<'s>>,
}

/// The sources of a page with details.
struct Details<'s> {
    /// The time of the request.
    now: Nanos,
    shared: &'s Shared,
}

impl<'s> Readiness<'s> {
    fn of(routing: &'s Routing, asked: Option<&'s str>, shared: &Shared) -> Readiness<'s> {
        let services = match asked {
            Some(id) => {
                Vec::from_iter(routing.service(id).filter(|service| service.model.id == id))
            }
            None => {
                let mut services = routing.services();
                services.retain(|service| !service.routes.is_empty() && service.is_listed);
                services
            }
        };
        let (is_draining, now) = (shared.is_draining(), shared.time.now());
        let awaits_totals = shared.limits.totals.is_pending();
        Readiness { services, asked, is_draining, awaits_totals, now, details: None }
    }

    fn is_one_ready(&self, service: &Service) -> bool {
        let is_open = !self.is_draining && !self.awaits_totals;
        is_open && service.why_unready(self.now).is_none()
    }

    /// One service that can be called suffices: a load balancer must not lose the gateway, and with it
    /// all other services, because of one whose upstreams are wrong.
    fn is_ready(&self) -> bool {
        self.services.iter().any(|one| self.is_one_ready(one))
    }

    fn status(&self) -> u16 {
        if self.is_ready() { 200 } else { 503 }
    }

    /// Why the gateway is not ready, if the services' states do not show it.
    fn message(&self) -> Option<String> {
        match (self.is_draining, self.asked) {
            (true, _) => Some("shutting down".to_string()),
            (false, _) if self.awaits_totals => {
                Some("waiting for the database to say what quotas have left".to_string())
            }
            (false, Some(id)) if self.services.is_empty() => {
                Some(format!("there is no service {}", shown(id)))
            }
            (false, None) if self.services.is_empty() => {
                Some("no service has an upstream".to_string())
            }
            _ => None,
        }
    }

    /// The answer in PATH's format.
    fn answer<'a>(&self) -> Answer<'a> {
        let mut body = format!("{{\"ready\":{},\"services\":{{", self.is_ready()).into_bytes();
        for (at, service) in self.services.iter().enumerate() {
            if at > 0 {
                body.push(b',');
            }
            json::write_text(&mut body, &service.model.id);
            let one = self.is_one_ready(service);
            let is_elsewhere = service.routes.iter().any(|route| route.state.chain.is_another());
            let upstreams = service.routes.len();
            let text =
                format!(":{{\"ready\":{one},\"endpoint_count\":{upstreams},\"has_session\":{one}");
            body.extend_from_slice(text.as_bytes());
            if let Some(heads) = &service.heads {
                let Served { latest, safe, finalized } = heads.board.served();
                for (name, number) in
                    [("perceived", latest), ("safe", safe), ("finalized", finalized)]
                {
                    if let Some(number) = number {
                        let text = format!(",\"{name}_block_height\":{number}");
                        body.extend_from_slice(text.as_bytes());
                    }
                }
            }
            if is_elsewhere {
                body.extend_from_slice(b",\"error\":");
                json::write_text(&mut body, &service.other_chains());
            }
            if let Some(details) = &self.details {
                let why = service.why_unready(self.now).filter(|_| !is_elsewhere);
                if let Some(why) = why {
                    body.extend_from_slice(b",\"error\":");
                    json::write_text(&mut body, &why);
                }
                details.upstreams(service, &mut body);
            }
            body.push(b'}');
        }
        body.push(b'}');
        if let Some(details) = &self.details {
            details.config(&mut body);
            limits::write(details.shared, details.now, &mut body);
            usage::write(details.shared, &mut body);
        }
        if let Some(message) = self.message() {
            body.extend_from_slice(b",\"message\":");
            json::write_text(&mut body, &message);
        }
        body.extend_from_slice(b"}\n");
        with_retry(Answer::new(self.status(), JSON, body))
    }

    /// The answer in the format of PATH's deprecated `/healthz`.
    fn healthz_answer<'a>(&self) -> Answer<'a> {
        let word = if self.is_ready() { "ready" } else { "not_ready" };
        let mut body =
            format!("{{\"deprecated\":true,\"status\":\"{word}\",\"imageTag\":").into_bytes();
        json::write_text(&mut body, env!("CARGO_PKG_VERSION"));
        body.extend_from_slice(b",\"readyStates\":{");
        for (at, service) in self.services.iter().enumerate() {
            if at > 0 {
                body.push(b',');
            }
            json::write_text(&mut body, &service.model.id);
            body.extend_from_slice(format!(":{}", self.is_one_ready(service)).as_bytes());
        }
        body.extend_from_slice(b"},\"configuredServiceIDs\":[");
        for (at, service) in self.services.iter().enumerate() {
            if at > 0 {
                body.push(b',');
            }
            json::write_text(&mut body, &service.model.id);
        }
        body.extend_from_slice(b"]}\n");
        with_retry(Answer::new(self.status(), JSON, body))
    }
}

impl Details<'_> {
    /// The state of a service's upstreams. Their URLs may be secret, so only ids are shown.
    fn upstreams(&self, service: &Service, body: &mut Vec<u8>) {
        body.extend_from_slice(b",\"endpoints\":[");
        for (at, route) in service.routes.iter().enumerate() {
            if at > 0 {
                body.push(b',');
            }
            body.extend_from_slice(b"{\"address\":");
            json::write_text(body, &route.upstream.model.id);
            let excluded = route.why_excluded(self.now);
            let (usable, in_flight) = (excluded.is_none(), route.upstream.in_flight());
            let cooldown = excluded
                .and_then(Excluded::until)
                .map_or(0, |until| (until - self.now).0.div_ceil(1_000_000_000));
            let text = format!(
                ",\"is_fallback\":{},\"tier\":{},\"in_cooldown\":{},\"cooldown_remaining\":\"{cooldown}s\"\
                 ,\"usable\":{usable},\"in_flight\":{in_flight}",
                route.upstream.model.tier > 0,
                route.upstream.model.tier,
                cooldown > 0,
            );
            body.extend_from_slice(text.as_bytes());
            if let Some(head) = service.head_of(at) {
                body.extend_from_slice(format!(",\"perceived_block_height\":{head}").as_bytes());
            }
            if let Some((since, why)) = route.upstream.health.down() {
                let secs = (self.now - since).as_secs_f64() as u64;
                let text = format!(",\"failing_for_s\":{secs},\"error\":");
                body.extend_from_slice(text.as_bytes());
                json::write_text(body, &why);
            } else if let Some(excluded) = excluded {
                body.extend_from_slice(b",\"error\":");
                json::write_text(body, &excluded.reason());
            }
            let limited = route.upstream.parking.methods(self.now);
            if !limited.is_empty() {
                body.extend_from_slice(b",\"rate_limited\":");
                json::write_text(body, &limited.join(", "));
            }
            body.push(b'}');
        }
        body.push(b']');
    }

    /// Whether the configuration in use is the latest. Problems are not shown: they quote the file.
    fn config(&self, body: &mut Vec<u8>) {
        let (rejected, at) = (self.shared.is_config_rejected(), self.shared.reloaded_at());
        let at = at.rfc3339();
        let text = format!(",\"config\":{{\"rejected\":{rejected},\"applied_at\":\"{at}\"");
        body.extend_from_slice(text.as_bytes());
        if rejected {
            body.extend_from_slice(b",\"error\":");
            let why = "the last change was rejected; the log lists its problems";
            json::write_text(body, why);
        }
        body.push(b'}');
        self.database(body);
    }

    /// The state of the database and of the entries in use.
    fn database(&self, body: &mut Vec<u8>) {
        let report = self.shared.database();
        let text = format!(
            ",\"database\":{{\"state\":\"{}\",\"sequence\":{},\"from_disk\":{}",
            report.contact.name(),
            report.sequence,
            report.from_disk
        );
        body.extend_from_slice(text.as_bytes());
        if let Some(since) = report.since {
            body.extend_from_slice(format!(",\"since\":\"{}\"", since.rfc3339()).as_bytes());
        }
        for (name, why) in [("error", &report.why), ("snapshot_error", &report.snapshot_error)] {
            if !why.is_empty() {
                body.extend_from_slice(format!(",\"{name}\":").as_bytes());
                json::write_text(body, why);
            }
        }
        body.push(b'}');
    }
}

fn with_retry(mut answer: Answer<'_>) -> Answer<'_> {
    if answer.status == 503 {
        answer.fields.push(crate::error::RetryAfter::SOON.field());
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_paths_of_another_listener_are_explained() {
        let callers = Faces { admin: false, ..Faces::ALL };
        let operators = Faces { admin: true, ..Faces::NONE };
        let check = |path: &str, faces: Faces, words: &str| {
            let message = no_such_path(path, faces);
            assert!(message.starts_with("no such path") && message.ends_with(words), "{path}");
        };
        for path in ["/metrics", "/api/v1/usage", "/api/v1/cache"] {
            check(path, callers, "at the address of admin_listen");
        }
        check("/api/v1/usage", Faces::ALL, "set admin_listen");
        for path in ["/v1", "/v1/x", "/api/gateway", "/api/gateway/e"] {
            check(path, operators, "at the addresses of listen");
        }
        for path in ["/config", "/v1x", "/api/v1x", "/v2"] {
            check(path, callers, "no such path");
            check(path, operators, "no such path");
            check(path, Faces::ALL, "no such path");
        }
    }
}
