//! Errors in the words of Go's HTTP client, so that results of both tools can be compared.
//!
//! One difference is intended: the local port is left out of errors of established connections, because
//! with it every error of a run is a different one.

use plimsoll_engine::CapturedResult;
use plimsoll_measure::{ErrorClass, Fault};
use std::net::IpAddr;

/// A request as its result names it.
pub(super) struct Request<'r> {
    pub(super) method: &'r str,
    pub(super) url: &'r str,
    /// The local address that connections are bound to; vegeta's default is 0.0.0.0.
    pub(super) source: IpAddr,
}

const TIMEOUT: &str = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
const TIMEOUT_IN_BODY: &str =
    "context deadline exceeded (Client.Timeout or context cancellation while reading body)";
const TIMEOUT_WAITING: &str = "net/http: request canceled while waiting for connection \
                               (Client.Timeout exceeded while awaiting headers)";
const BROKEN: &str = "net/http: HTTP/1.x transport connection broken: ";

/// The error of a request that got no complete answer.
pub(super) fn error(
    result: &CapturedResult<'_>,
    (class, fault): (ErrorClass, Option<Fault>),
    request: &Request<'_>,
) -> String {
    let prefixed =
        |text: &str| format!("{} {:?}: {text}", verb(request.method), masked(request.url));
    match (class, fault) {
        (ErrorClass::ResponseTimeout, _) if result.has_begun => TIMEOUT_IN_BODY.into(),
        (ErrorClass::NoConnection | ErrorClass::Tls, _) if result.text.is_empty() => {
            prefixed(TIMEOUT_WAITING)
        }
        (ErrorClass::ResponseTimeout | ErrorClass::Late | ErrorClass::ConnectTimeout, _) => {
            prefixed(TIMEOUT)
        }
        (ErrorClass::Tls, _) => prefixed(&format!("tls: {}", result.text)),
        (ErrorClass::Dns, _) => {
            prefixed(&format!("lookup {}: {}", host(request.url), lookup_words(result.text)))
        }
        (ErrorClass::ClosedEarly, _) if result.has_begun => "unexpected EOF".into(),
        (ErrorClass::ClosedEarly, _) => prefixed("EOF"),
        (ErrorClass::Protocol, Some(fault)) if result.has_begun => fault.to_string(),
        (ErrorClass::Protocol, Some(fault)) => prefixed(&format!("{BROKEN}{fault}")),
        (class, _) => match result.errno {
            Some(errno) => prefixed(&system_words(result, errno, request.source)),
            None => prefixed(&class.to_string()),
        },
    }
}

/// An error of the system, while connecting or on a connection.
fn system_words(result: &CapturedResult<'_>, errno: i32, source: IpAddr) -> String {
    let full = std::io::Error::from_raw_os_error(errno).to_string();
    let words = full.split(" (os error").next().unwrap_or(&full);
    let mut words = words.to_string();
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    let peer = result.peer.map(|peer| peer.to_string()).unwrap_or_default();
    if result.was_sent {
        return format!("read tcp {peer}: read: {words}");
    }
    let call = if is_out_of_descriptors(errno) { "socket" } else { "connect" };
    format!("dial tcp {source}:0->{peer}: {call}: {words}")
}

/// The error of a body whose gzip is damaged.
pub(super) fn gzip(error: &std::io::Error) -> &'static str {
    let text = error.to_string();
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "unexpected EOF",
        _ if text.contains("header") => "gzip: invalid header",
        _ if text.contains("checksum") => "gzip: invalid checksum",
        _ => "flate: corrupt input",
    }
}

fn is_out_of_descriptors(errno: i32) -> bool {
    [nix::libc::EMFILE, nix::libc::ENFILE].contains(&errno)
}

/// The words for a failed look-up.
fn lookup_words(text: &str) -> &str {
    let is_unknown = ["not known", "No address", "no addresses"].iter().any(|of| text.contains(of));
    if is_unknown { "no such host" } else { text }
}

/// `Get` for GET.
pub(super) fn verb(method: &str) -> String {
    let (first, rest) = method.split_at(method.len().min(1));
    format!("{first}{}", rest.to_ascii_lowercase())
}

/// The URL with its password hidden.
pub(super) fn masked(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.into() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((user, host)) if user.contains(':') => {
            let name = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{name}:***@{host}{path}")
        }
        _ => url.into(),
    }
}

/// The host of a URL.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    match host.strip_prefix('[') {
        Some(literal) => literal.split(']').next().unwrap_or(literal),
        None => host.split(':').next().unwrap_or(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_request() {
        let check = |url: &str, host_is: &str, shown: &str| {
            assert_eq!((host(url), masked(url).as_str()), (host_is, shown));
        };
        check("http://h:80/x", "h", "http://h:80/x");
        check("http://[::1]:80", "::1", "http://[::1]:80");
        check("http://u:p@h/x@y", "h", "http://u:***@h/x@y");
        check("http://u@h", "h", "http://u@h");
        assert_eq!([verb("GET"), verb("X"), verb("")], ["Get", "X", ""]);
        assert_eq!(
            lookup_words("failed to lookup address information: Name or service not known"),
            "no such host"
        );
    }
}
