//! Targets: requests, and the answers expected to them.

use crate::Template;
use plimsoll_config::Text;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

/// The URL scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// The port if the URL has none.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }

    /// The name in URLs.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// An absolute `http` or `https` URL, without its fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// A name or an address, lower case; an IPv6 address without brackets.
    pub host: String,
    /// The port, explicit or default.
    pub port: u16,
    /// User name and password, percent-decoded.
    pub user: Option<(String, String)>,
    /// Path and query, beginning with `/`.
    pub path: String,
}

impl Url {
    /// Reads an absolute URL.
    ///
    /// # Errors
    /// A message that never contains a password.
    pub fn parse(text: &str) -> Result<Url, String> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| {
            format!("\"{text}\" is not a valid URL; write it like http://host:port/path")
        })?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => return Err(format!("unsupported scheme \"{other}\"; use http or https")),
        };
        let rest = rest.split('#').next().unwrap_or("");
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        let (user, host_port) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(read_user(user)?), host),
            None => (None, authority),
        };
        let (host, port) = split_port(host_port)?;
        let port = match port {
            None | Some("") => scheme.default_port(),
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| format!("port \"{port}\" must be a number from 1 to 65535"))?,
        };
        check_host(host)?;
        let path = if path.starts_with('/') { path.into() } else { format!("/{path}") };
        Ok(Url { scheme, host: host.to_ascii_lowercase(), port, user, path })
    }

    /// Resolves a redirect's `Location` against this URL (RFC 3986 §5.2, for the forms that servers send:
    /// absolute, `//host`, `/path`, `?query` and a relative path).
    ///
    /// # Errors
    /// A message if the location is not a valid URL.
    pub fn join(&self, location: &str) -> Result<Url, String> {
        if location.contains("://") {
            return Url::parse(location);
        }
        if location.starts_with("//") {
            return Url::parse(&format!("{}:{location}", self.scheme.name()));
        }
        let location = location.split('#').next().unwrap_or("");
        let (base, _) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let path = match location.as_bytes().first() {
            None => self.path.clone(),
            Some(b'/') => location.to_string(),
            Some(b'?') => format!("{base}{location}"),
            Some(_) => {
                let folder = base.rfind('/').map_or("/", |at| &base[..=at]);
                format!("{folder}{location}")
            }
        };
        Ok(Url { path: without_dots(&path), ..self.clone() })
    }

    /// `host` or `host:port`, as in the `Host` header.
    pub fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == self.scheme.default_port() { host } else { format!("{host}:{}", self.port) }
    }
}

/// The endpoint of connections: requests to the same origin share them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// The host, as in [`Url`].
    pub host: String,
    /// The port, explicit or default.
    pub port: u16,
}

/// `http://host:port`, always with the port.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{}://{open}{}{close}:{}", self.scheme.name(), self.host, self.port)
    }
}

impl Url {
    /// The URL's origin.
    pub fn origin(&self) -> Origin {
        Origin { scheme: self.scheme, host: self.host.clone(), port: self.port }
    }
}

/// Shows the URL without its password.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|(name, _)| format!("{name}:[redacted]@"));
        let user = user.unwrap_or_default();
        write!(f, "{}://{user}{}{}", self.scheme.name(), self.authority(), self.path)
    }
}

fn read_user(text: &str) -> Result<(String, String), String> {
    let (name, password) = text.split_once(':').unwrap_or((text, ""));
    let decode = |part: &str| {
        percent_decode(part).ok_or("malformed percent-encoding in the user name or password")
    };
    Ok((decode(name)?, decode(password)?))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| char::from(b?).to_digit(16);
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            out.push((high * 16 + low) as u8);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

fn split_port(text: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(inside) = text.strip_prefix('[') {
        let (host, rest) = inside.split_once(']').ok_or("\"[\" without \"]\"")?;
        host.parse::<std::net::Ipv6Addr>()
            .map_err(|_| format!("\"{host}\" is not a valid IPv6 address"))?;
        return match rest {
            "" => Ok((host, None)),
            _ => Ok((host, Some(rest.strip_prefix(':').ok_or("expected \":port\" after \"]\"")?))),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            Err("an IPv6 address must be in [brackets]".into())
        }
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

fn check_host(host: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    match host.chars().find(|c| !allowed(*c)) {
        None if host.is_empty() => Err("the URL has no host".into()),
        None => Ok(()),
        Some(c) if !c.is_ascii() => Err(format!(
            "'{c}' is not allowed in a host name; write the name in its xn-- (punycode) form"
        )),
        Some(c) => Err(format!("'{}' is not allowed in a host name", c.escape_default())),
    }
}

/// Removes dot segments from a path (RFC 3986 §5.2.4).
fn without_dots(path: &str) -> String {
    let (path, query) = path.find('?').map_or((path, ""), |at| path.split_at(at));
    let mut kept: Vec<&str> = Vec::new();
    let last = path.rsplit('/').next().unwrap_or("");
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    let slash = if matches!(last, "." | "..") && !kept.is_empty() { "/" } else { "" };
    format!("/{}{slash}{query}", kept.join("/"))
}

/// A header of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name, as sent.
    pub name: String,
    /// Its value.
    pub value: Template,
    /// The value without secrets, for display.
    pub shown: String,
}

/// A request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// No body.
    Empty,
    /// Written in the plan.
    Inline(Text, Template),
    /// From a file; placeholders are replaced if it is text.
    File(PathBuf, Template),
    /// Binary data, sent unchanged.
    Bytes(Template),
}

impl Body {
    /// The bytes, with placeholders.
    pub fn template(&self) -> Option<&Template> {
        match self {
            Body::Empty => None,
            Body::Inline(_, template) | Body::File(_, template) | Body::Bytes(template) => {
                Some(template)
            }
        }
    }
}

/// An inclusive range of HTTP statuses.
pub type StatusRange = RangeInclusive<u16>;

/// The expected JSON-RPC answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RpcExpect {
    /// The body is not inspected.
    Off,
    /// A result.
    Result,
    /// An error, for requests that should be rejected.
    Error,
    /// A well-formed result or error.
    Any,
}

impl RpcExpect {
    /// As written in a plan.
    pub const WORDS: [(&'static str, RpcExpect); 4] = [
        ("result", RpcExpect::Result),
        ("error", RpcExpect::Error),
        ("any", RpcExpect::Any),
        ("off", RpcExpect::Off),
    ];
}

/// Conditions for an answer to count as `ok`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// Accepted HTTP statuses.
    pub status: Vec<StatusRange>,
    /// The expected JSON-RPC answer.
    pub rpc: RpcExpect,
    /// A string that the body must contain.
    pub contains: Option<String>,
}

impl Expect {
    /// Whether a status is accepted.
    #[inline]
    pub fn allows(&self, status: u16) -> bool {
        self.status.iter().any(|range| range.contains(&status))
    }

    /// Whether the body must be inspected.
    pub fn reads_body(&self) -> bool {
        self.rpc != RpcExpect::Off || self.contains.is_some()
    }
}

/// One request template, or several that are sent in turn, under one name.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name in the report; unique in the plan.
    pub name: String,
    /// Index of its stream in the plan.
    pub stream: usize,
    /// Share relative to the stream's other targets; zero: never sent.
    pub weight: u32,
    /// Its own tags and its stream's labels.
    pub tags: BTreeMap<String, String>,
    /// Indices of its requests in the plan; at least one.
    pub requests: Range<usize>,
}

/// One request template.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestSpec {
    /// The method, in capitals.
    pub method: String,
    /// The URL.
    pub url: Url,
    /// The URL without secrets, for display.
    pub url_shown: String,
    /// Path and query, with placeholders.
    pub path: Template,
    /// Sorted by name; headers of the same name are in the order of the plan.
    pub headers: Vec<Header>,
    /// The body.
    pub body: Body,
    /// The expected answer.
    pub expect: Expect,
}

impl Target {
    /// Whether the target has all of these tags.
    pub fn has_tags(&self, tags: &BTreeMap<String, String>) -> bool {
        tags.iter().all(|(tag, value)| self.tags.get(tag) == Some(value))
    }

    /// The index in the plan of the request for the target's card `number`.
    #[inline]
    pub fn request(&self, number: u64) -> usize {
        match self.requests.len() {
            1 => self.requests.start,
            several => self.requests.start + (number % several as u64) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let check = |text: &str, shown: &str| {
            assert_eq!(Url::parse(text).unwrap().to_string(), shown);
        };
        check("http://Example.org", "http://example.org/");
        check("HTTP://example.org:80/a?b=c#d", "http://example.org/a?b=c");
        check("https://example.org:8443?x", "https://example.org:8443/?x");
        check("https://u:p%40ss@h/", "https://u:[redacted]@h/");
        check("http://[::1]:3069/v1", "http://[::1]:3069/v1");
        check("http://127.0.0.1:3069", "http://127.0.0.1:3069/");
        let user = Url::parse("http://u:p%40ss@h/").unwrap().user;
        assert_eq!(user, Some(("u".into(), "p@ss".into())));
    }

    #[test]
    fn bad_urls() {
        let check = |text: &str, message: &str| {
            assert_eq!(Url::parse(text).unwrap_err(), message, "{text}");
        };
        check(
            "example.org/x",
            "\"example.org/x\" is not a valid URL; write it like http://host:port/path",
        );
        check("ftp://h/", "unsupported scheme \"ftp\"; use http or https");
        check("http:///x", "the URL has no host");
        check("http://h:0/", "port \"0\" must be a number from 1 to 65535");
        check("http://h:99999/", "port \"99999\" must be a number from 1 to 65535");
        check("http://::1/", "an IPv6 address must be in [brackets]");
        check("http://[::g]/", "\"::g\" is not a valid IPv6 address");
        check("http://a b/", "' ' is not allowed in a host name");
        check(
            "http://bücher.de/",
            "'ü' is not allowed in a host name; write the name in its xn-- (punycode) form",
        );
        check("http://u%zz@h/", "malformed percent-encoding in the user name or password");
    }

    #[test]
    fn redirects_resolve() {
        let base = Url::parse("https://h:8443/a/b?c").unwrap();
        let check = |location: &str, joined: &str| {
            assert_eq!(base.join(location).unwrap().to_string(), joined, "{location}");
        };
        check("http://other/x", "http://other/x");
        check("//other/x", "https://other/x");
        check("/x?y#z", "https://h:8443/x?y");
        check("?y", "https://h:8443/a/b?y");
        check("x", "https://h:8443/a/x");
        check("../x/./y", "https://h:8443/x/y");
        check("..", "https://h:8443/");
        check("", "https://h:8443/a/b?c");
    }
}
