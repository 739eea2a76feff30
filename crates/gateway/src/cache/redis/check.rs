//! Checks of a Redis before it is used, and what its errors mean.

use redis::aio::MultiplexedConnection;
use redis::{Client, ErrorKind, RedisError};

/// The oldest supported major version; earlier ones are no longer maintained.
const VERSION_MIN: u32 = 6;

/// A URL that the client does not accept. The configuration has checked its form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid URL of a Redis: {0}")]
pub struct UrlError(String);

/// A client for a URL, which is not connected.
///
/// # Errors
/// The URL is not valid. The message does not contain it, because it may contain a password.
pub(super) fn client(url: &str) -> Result<Client, UrlError> {
    Client::open(url).map_err(|error| UrlError(explain(&error)))
}

/// The address of a Redis, without its password.
pub(super) fn address(client: &Client) -> String {
    client.get_connection_info().addr().to_string()
}

/// Checks that the peer is a Redis of a supported version, which is neither a cluster nor a sentinel.
pub(super) async fn version(connection: &mut MultiplexedConnection) -> Result<(), String> {
    let info = redis::cmd("INFO").arg("server").query_async::<String>(connection).await;
    let info = match info {
        Ok(info) => info,
        // A user who may not ask for it; what the cache needs will show.
        Err(error) if error.code() == Some("NOPERM") => return Ok(()),
        Err(error) => return Err(explain(&error)),
    };
    let field = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(field, _)| *field == name).map(|(_, value)| value.trim())
    };
    let version = field("redis_version").ok_or("it does not report redis_version")?;
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < VERSION_MIN) {
        return Err(format!("it is Redis {version}; version {VERSION_MIN} or later is required"));
    }
    match field("redis_mode") {
        Some(mode @ ("cluster" | "sentinel")) => {
            Err(format!("it is a {mode}, which is not supported; use a single Redis"))
        }
        _ => Ok(()),
    }
}

/// What an error of a connection means.
pub(super) fn explain(error: &RedisError) -> String {
    let is_password = error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"));
    if is_password {
        return format!("it does not accept the password in the URL ({error})");
    }
    match error.kind() {
        ErrorKind::Parse | ErrorKind::RESP3NotSupported => {
            format!("it does not answer like a Redis ({error})")
        }
        _ if error.code().is_some() => refused(error),
        _ => error.to_string(),
    }
}

/// What an error that Redis returned means.
pub(super) fn refused(error: &RedisError) -> String {
    let why = match error.code() {
        Some("OOM") => "it is full; set maxmemory-policy to allkeys-lru",
        Some("READONLY") => "it is a read-only replica",
        Some("LOADING") => "it is loading its data",
        Some("NOPERM") => "its user may not use GETRANGE, PTTL and SET on plimsoll:*",
        Some("MISCONF") => "it cannot save its data and refuses writes",
        _ => return format!("it refused a command ({error})"),
    };
    format!("{why} ({error})")
}
