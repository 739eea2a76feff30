//! Decides whether a request may call an endpoint: its network, its origin, its key.
//!
//! A key is presented in `Authorization: Bearer`, in `X-Api-Key`, or in the path behind the endpoint's
//! id. It is hashed and forgotten: no message, log line, metric or upstream request contains it. The
//! answer does not say whether a wrong key is unknown, expired or another endpoint's; the log does, at
//! most once a second, and without the key.

use plimsoll_measure::Nanos;
use plimsoll_registry::model::masked;
use plimsoll_registry::settings::Cors;
use sha2::{Digest, Sha256};

use super::RequestContext;
use crate::call::forwarded;
use crate::call::routing::{Access, Endpoint, Key};
use crate::error::{Error, ErrorKind};
use crate::observe::stats::WrongKey;

/// The longest key that is hashed, in bytes.
const KEY_LEN_MAX: usize = 256;

/// How often a wrong key is logged.
const LOG_EVERY: Nanos = Nanos::from_secs(1);

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
) -> Result<&'r [u8], WrongKey> {
    let fields = context.request.fields;
    let is_bearer = |scheme: &[u8]| scheme.eq_ignore_ascii_case(b"bearer ");
    let bearer = fields.authorization.and_then(|value| {
        let (scheme, key) = value.split_at_checked(b"bearer ".len())?;
        is_bearer(scheme).then(|| key.trim_ascii())
    });
    if fields.is_key_repeated {
        return Err(WrongKey::Conflicting);
    }
    let places = [in_path.map(str::as_bytes), fields.api_key, bearer];
    let mut keys = places.into_iter().flatten().filter(|key| !key.is_empty());
    let Some(key) = keys.next() else {
        let is_other = fields.authorization.is_some() || fields.api_key.is_some();
        return Err(if is_other { WrongKey::Malformed } else { WrongKey::Missing });
    };
    if keys.any(|other| other != key) { Err(WrongKey::Conflicting) } else { Ok(key) }
}

/// The key with this text.
fn find<'e>(
    context: &RequestContext<'_, '_>,
    access: &'e Access,
    presented: &[u8],
) -> Result<&'e Key, WrongKey> {
    if presented.len() > KEY_LEN_MAX {
        return Err(WrongKey::Malformed);
    }
    let hash: [u8; 32] = Sha256::digest(presented).into();
    match access.key(&hash) {
        Some(key) if key.has_expired(|| context.worker.shared.limits.calendar.now()) => {
            Err(WrongKey::Expired)
        }
        Some(key) => Ok(key),
        None if context.view.routing.has_key(&hash) => Err(WrongKey::Foreign),
        None => Err(WrongKey::Unknown),
    }
}

/// The error for a request without a valid key; counts and logs it.
#[cold]
fn refused(context: &RequestContext<'_, '_>, endpoint: &Endpoint, wrong: WrongKey) -> Error {
    let worker = context.worker;
    worker.local.counts().wrong_keys[wrong as usize].add(1);
    if worker.shared.limits.may_log(worker.local.recent(), LOG_EVERY) {
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
    Error::new(kind, message)
}
