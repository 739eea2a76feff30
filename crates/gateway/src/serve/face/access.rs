//! Decides whether a request may call an endpoint: its network, its origin, its key.
//!
//! A key is presented in `Authorization: Bearer`, in `X-Api-Key`, or in the path behind the endpoint's
//! id. It is hashed and forgotten: no message, log line, metric or upstream request contains it. The
//! answer does not say whether a wrong key is unknown, expired or another endpoint's; the log does, at
//! most once in ten seconds for each endpoint, and without the key. The answer also names what is wrong
//! with the form of a key, such as a missing "Bearer", because that depends on the request alone.

use std::sync::atomic::Ordering::Relaxed;

use plimsoll_measure::Nanos;
use plimsoll_registry::model::{KEY_PREFIX, check_id, masked};
use plimsoll_registry::settings::Cors;
use sha2::{Digest, Sha256};

use super::RequestContext;
use crate::call::forwarded;
use crate::call::relay::shown;
use crate::call::routing::{Access, Endpoint, Key, Routing};
use crate::error::{Error, ErrorKind};
use crate::limits::is_time;
use crate::observe::stats::WrongKey;

/// The longest key that is hashed, in bytes.
const KEY_LEN_MAX: usize = 256;

/// How often a wrong key is logged for an endpoint. [`crate::call::floods`] logs how many there were.
const LOG_EVERY: Nanos = Nanos::from_secs(10);

/// How often a wrong key is logged at all.
const LOG_EVERY_OF_ALL: Nanos = Nanos::from_millis(100);

/// Whether a text in the place of an endpoint's id is a key, or contains one.
pub(super) fn is_key(routing: &Routing, id: &str) -> bool {
    if routing.endpoint(id).is_some() {
        return false;
    }
    let lower = id.to_ascii_lowercase();
    ["/", "%2f", KEY_PREFIX].iter().any(|part| lower.contains(part))
        || routing.has_key(&Sha256::digest(id).into())
}

/// The message for an id that no endpoint has. Repeats only what may be an id, and is not a key.
#[cold]
pub(super) fn unknown_endpoint(routing: &Routing, id: &str) -> String {
    if is_key(routing, id) {
        let form = "/api/gateway/ID, with the API key in the header Authorization: Bearer KEY";
        return format!("there is no such endpoint; call {form}");
    }
    match check_id(id) {
        Ok(()) => format!("there is no endpoint {}", shown(id)),
        Err(_) => "there is no such endpoint: this is not a valid id".into(),
    }
}

/// Why a request has no valid key: the kind that is counted, and what is wrong with its form if that is
/// known.
struct Wrong {
    key: WrongKey,
    form: Option<&'static str>,
}

impl From<WrongKey> for Wrong {
    fn from(key: WrongKey) -> Wrong {
        Wrong { key, form: None }
    }
}

fn malformed(form: &'static str) -> Wrong {
    Wrong { key: WrongKey::Malformed, form: Some(form) }
}

/// Checks a request to an endpoint, and finds its key. `in_path`: what stands behind the endpoint's id.
///
/// # Errors
/// The caller's network, origin or key is not allowed.
#[inline]
pub(super) fn check<'e>(
    context: &RequestContext<'_, '_>,
    endpoint: &'e Endpoint,
    in_path: Option<&str>,
) -> Result<Option<&'e Key>, Error> {
    let access = &endpoint.access;
    if access.is_open() {
        return Ok(None);
    }
    if access.has_networks() {
        check_network(context, access)?;
    }
    if let Some(Cors::Origins(origins)) = &access.origins {
        check_origin(context, origins)?;
    }
    if !access.needs_key() {
        return Ok(None);
    }
    let found = presented(context, in_path).and_then(|presented| find(context, access, presented));
    found.map(Some).map_err(|wrong| refused(context, endpoint, wrong))
}

fn check_network(context: &RequestContext<'_, '_>, access: &Access) -> Result<(), Error> {
    let RequestContext { view, request, .. } = context;
    let chain = forwarded::received(request);
    let trusted = &view.settings.trusted_proxies;
    let client = forwarded::client(request.peer, chain.as_deref(), trusted);
    if access.permits(client) {
        return Ok(());
    }
    let message = format!("this endpoint may not be called from {}", client.to_canonical());
    Err(Error::new(ErrorKind::NetworkDenied, message))
}

fn check_origin(context: &RequestContext<'_, '_>, origins: &[String]) -> Result<(), Error> {
    let origin = context.request.fields.origin;
    if origin.is_some_and(|origin| origins.iter().any(|known| known.as_bytes() == origin)) {
        return Ok(());
    }
    let message = match origin {
        Some(_) => "this endpoint may not be called from pages of this origin",
        None => {
            "this endpoint may be called only from pages of certain origins, and the request has no Origin"
        }
    };
    Err(Error::new(ErrorKind::OriginDenied, message))
}

/// The key that a request presents.
fn presented<'r>(
    context: &RequestContext<'_, 'r>,
    in_path: Option<&'r str>,
) -> Result<&'r [u8], Wrong> {
    let fields = context.request.fields;
    let is_bearer = |scheme: &[u8]| scheme.eq_ignore_ascii_case(b"bearer ");
    let bearer = fields.authorization.and_then(|value| {
        let (scheme, key) = value.split_at_checked(b"bearer ".len())?;
        is_bearer(scheme).then(|| key.trim_ascii())
    });
    if fields.is_key_repeated {
        return Err(WrongKey::Conflicting.into());
    }
    let places = [in_path.map(str::as_bytes), fields.api_key, bearer];
    let mut keys = places.into_iter().flatten().filter(|key| !key.is_empty());
    let Some(key) = keys.next() else {
        return Err(unread(context));
    };
    if keys.any(|other| other != key) { Err(WrongKey::Conflicting.into()) } else { Ok(key) }
}

/// Why there is no key in any place where one is read.
#[cold]
fn unread(context: &RequestContext<'_, '_>) -> Wrong {
    let fields = context.request.fields;
    match (fields.authorization, fields.api_key) {
        (Some(value), _) if value.trim_ascii().is_empty() => {
            malformed("the header Authorization is empty")
        }
        (Some(value), _) if value.trim_ascii().eq_ignore_ascii_case(b"bearer") => {
            malformed("there is no key behind Bearer in the header Authorization")
        }
        (Some(value), _) if value.starts_with(KEY_PREFIX.as_bytes()) => {
            malformed("the word Bearer is missing before the key in the header Authorization")
        }
        (Some(_), _) => malformed("the header Authorization is not in the form Bearer KEY"),
        (None, Some(_)) => malformed("the header X-Api-Key is empty"),
        (None, None) if context.query.is_some_and(|query| query.contains(KEY_PREFIX)) => Wrong {
            key: WrongKey::Missing,
            form: Some("API keys are not read from the query of the URL"),
        },
        (None, None) => WrongKey::Missing.into(),
    }
}

/// What is wrong with the form of a key that is not known. A key in the configuration may be any text, so
/// that the form says something only about keys that are not there.
#[cold]
fn unknown(presented: &[u8]) -> Wrong {
    let is_quote = |byte: &u8| matches!(byte, b'"' | b'\'' | b'<' | b'>');
    if presented.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"bearer ")) {
        malformed("the word Bearer stands before the key where the key is expected alone")
    } else if presented.first().is_some_and(is_quote) && presented.last().is_some_and(is_quote) {
        malformed("the API key is in quotes")
    } else if presented.iter().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control()) {
        malformed("the API key contains white space or a control character")
    } else {
        WrongKey::Unknown.into()
    }
}

/// The key with this text.
fn find<'e>(
    context: &RequestContext<'_, '_>,
    access: &'e Access,
    presented: &[u8],
) -> Result<&'e Key, Wrong> {
    if presented.len() > KEY_LEN_MAX {
        return Err(malformed("the API key is longer than any key"));
    }
    let hash: [u8; 32] = Sha256::digest(presented).into();
    match access.key(&hash) {
        Some(key) if key.has_expired(|| context.worker.shared.limits.calendar.now()) => {
            Err(WrongKey::Expired.into())
        }
        Some(key) => Ok(key),
        None if context.view.routing.has_key(&hash) => Err(WrongKey::Foreign.into()),
        None => Err(unknown(presented)),
    }
}

/// The error for a request without a valid key; counts and logs it.
#[cold]
fn refused(context: &RequestContext<'_, '_>, endpoint: &Endpoint, wrong: Wrong) -> Error {
    let (worker, Wrong { key: wrong, form }) = (context.worker, wrong);
    worker.local.counts().wrong_keys[wrong as usize].add(1);
    let now = worker.local.recent();
    let may_log = endpoint.access.ledger().is_none_or(|ledger| {
        ledger.refused.wrong_keys[wrong as usize].fetch_add(1, Relaxed);
        is_time(&ledger.refused.logged_at, now, LOG_EVERY)
    });
    if may_log && worker.shared.limits.may_log(now, LOG_EVERY_OF_ALL) {
        let id = endpoint.access.account.endpoint.as_deref().unwrap_or_default();
        let (id, peer) = (masked(id), context.request.peer);
        tracing::info!("endpoint {id}: a request from {peer} {}", wrong.words());
    }
    let (kind, message) = match wrong {
        WrongKey::Missing => (
            ErrorKind::MissingKey,
            "this endpoint needs an API key: send the header Authorization: Bearer KEY",
        ),
        WrongKey::Conflicting => {
            (ErrorKind::ConflictingKeys, "the request presents different API keys; send one")
        }
        WrongKey::Malformed | WrongKey::Unknown | WrongKey::Expired | WrongKey::Foreign => {
            (ErrorKind::InvalidKey, "the API key is not valid for this endpoint")
        }
    };
    match form {
        Some(form) => {
            let fix = "send the header Authorization: Bearer KEY";
            Error::new(kind, format!("this endpoint needs an API key: {form}; {fix}"))
        }
        None => Error::new(kind, message),
    }
}
