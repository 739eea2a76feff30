//! Absolute `http`, `https`, `ws` and `wss` URLs, the origins they belong to, and references that redirects
//! resolve against them (RFC 3986).
//!
//! What a user or a target wrote is checked here: no byte of it can end a request line early.

use plimsoll_config::{Text, percent_decoded};
use std::fmt;

/// The URL scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS.
    Https,
    /// WebSocket over plain TCP.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Scheme {
    /// The port if the URL has none.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http | Scheme::Ws => 80,
            Scheme::Https | Scheme::Wss => 443,
        }
    }

    /// The name in URLs.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Ws => "ws",
            Scheme::Wss => "wss",
        }
    }

    /// Whether connections use TLS.
    pub fn is_secure(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Wss)
    }

    /// Whether connections become WebSockets.
    pub fn is_websocket(self) -> bool {
        matches!(self, Scheme::Ws | Scheme::Wss)
    }
}

/// An absolute URL, without its fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// How connections to it begin.
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
    /// Reads an absolute `http` or `https` URL.
    ///
    /// # Errors
    /// A message that never contains a password.
    pub fn parse(text: &str) -> Result<Url, String> {
        match Url::parse_any(text)? {
            url if url.scheme.is_websocket() => {
                let scheme = url.scheme.name();
                Err(format!("unsupported scheme \"{scheme}\"; use http or https"))
            }
            url => Ok(url),
        }
    }

    /// Reads an absolute `ws` or `wss` URL.
    ///
    /// # Errors
    /// A message that never contains a password.
    pub fn parse_websocket(text: &str) -> Result<Url, String> {
        match Url::parse_any(text)? {
            url if url.scheme.is_websocket() => Ok(url),
            url => Err(format!("unsupported scheme \"{}\"; use ws or wss", url.scheme.name())),
        }
    }

    fn parse_any(text: &str) -> Result<Url, String> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| {
            let shown = Text::plain(text).hiding_secrets_of_url().shown;
            format!("\"{shown}\" is not a valid URL; write it like http://host:port/path")
        })?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "ws" => Scheme::Ws,
            "wss" => Scheme::Wss,
            other => return Err(format!("unsupported scheme \"{other}\"; use http or https")),
        };
        let has_at = rest.contains('@');
        let rest = rest.split('#').next().unwrap_or("");
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        let (user, host_port) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(read_user(user)?), host),
            None => (None, authority),
        };
        if user.is_none() && has_at && !is_host_port(host_port) {
            // The part after the colon may be a password.
            return Err("the port is not a number; in a user name or password, percent-encode \"/\" as %2F, \
                        \"?\" as %3F and \"#\" as %23"
                .into());
        }
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

    /// The URL that a redirect's `Location` refers to, relative to this URL (RFC 3986 §5.2). Spaces
    /// and bytes outside ASCII are percent-encoded.
    ///
    /// # Errors
    /// If it contains control characters or is not an `http` or `https` URL.
    pub fn join(&self, location: &[u8]) -> Result<Url, String> {
        let location = percent_encode(location)?;
        let location = location.split('#').next().unwrap_or("");
        if has_scheme(location) {
            let url = Url::parse(location)?;
            return Ok(Url { path: without_dots(&url.path), ..url });
        }
        if location.starts_with("//") {
            let url = Url::parse(&format!("{}:{location}", self.scheme.name()))?;
            return Ok(Url { path: without_dots(&url.path), ..url });
        }
        let base = self.path.split('?').next().unwrap_or("");
        let path = match location.as_bytes().first() {
            None => self.path.clone(),
            Some(b'?') => format!("{base}{location}"),
            Some(b'/') => without_dots(location),
            Some(_) => {
                let folder = base.rfind('/').map_or("/", |at| &base[..=at]);
                without_dots(&format!("{folder}{location}"))
            }
        };
        Ok(Url { path, ..self.clone() })
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
    /// Of a WebSocket, a number that differs between paths, since connections are not shared between them;
    /// otherwise zero.
    pub endpoint: u64,
    /// Whether its connections are those of exchanges that stay open, which share none with requests.
    pub stays_open: bool,
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
        let endpoint = if self.scheme.is_websocket() { crate::show::digest(&self.path) } else { 0 };
        let (host, port) = (self.host.clone(), self.port);
        Origin { scheme: self.scheme, host, port, endpoint, stays_open: false }
    }
}

/// Shows the URL without its user name and password.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = if self.user.is_some() { "[redacted]@" } else { "" };
        write!(f, "{}://{user}{}{}", self.scheme.name(), self.authority(), self.path)
    }
}

fn read_user(text: &str) -> Result<(String, String), String> {
    let (name, password) = text.split_once(':').unwrap_or((text, ""));
    let decode = |part: &str| {
        percent_decoded(part).ok_or("malformed percent-encoding in the user name or password")
    };
    Ok((decode(name)?, decode(password)?))
}

/// Whether what follows the colon, if there is one, is a number.
fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_none_or(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
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

/// Whether a reference begins with a scheme (RFC 3986 §3.1). A colon after the first `/` or `?`
/// belongs to the path or the query, as in `/login?next=http://host/`.
fn has_scheme(reference: &str) -> bool {
    let end = reference.find([':', '/', '?']);
    end.is_some_and(|end| end > 0 && reference.as_bytes()[end] == b':')
}

/// Replaces spaces and bytes outside ASCII by `%` and two hexadecimal digits, so that the text can
/// be sent in a request line. All other characters stay as they are.
///
/// # Errors
/// If it contains a control character: what stands behind a line break would be another header or
/// another request.
pub fn percent_encode(text: &[u8]) -> Result<String, String> {
    let mut encoded = String::with_capacity(text.len());
    for byte in text {
        match byte {
            0x21..=0x7e => encoded.push(char::from(*byte)),
            0x00..=0x1f | 0x7f => {
                return Err(format!("a control character (0x{byte:02x}) in the URL"));
            }
            b' ' | 0x80.. => encoded += &format!("%{byte:02X}"),
        }
    }
    Ok(encoded)
}

/// A path as Go's client sends it: unchanged if all of its characters may be in a path, and otherwise decoded
/// and escaped anew.
///
/// # Errors
/// If its percent-encoding is malformed, or it contains a control character.
pub(crate) fn go_escaped(path: &[u8]) -> Result<String, String> {
    percent_encode(path)?;
    let is_kept = |b: &u8| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(b);
    let decoded = percent_bytes(path).ok_or("malformed percent-encoding in the path")?;
    if path.iter().all(|b| is_kept(b) || b"!'()*[]%".contains(b)) {
        return Ok(path.iter().copied().map(char::from).collect());
    }
    let escaped = |b: &u8| if is_kept(b) { char::from(*b).into() } else { format!("%{b:02X}") };
    Ok(decoded.iter().map(escaped).collect())
}

/// Decodes `%` and two hexadecimal digits; `None` if others follow a `%`.
fn percent_bytes(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match first {
            b'%' => {
                let (digits, after) = after.split_at_checked(2)?;
                let digit = |b: u8| char::from(b).to_digit(16);
                (digit(digits[0])? * 16 + digit(digits[1])?, after)
            }
            other => (u32::from(*other), after),
        };
        decoded.push(byte as u8);
        rest = after;
    }
    Some(decoded)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls() {
        let check = |text: &str, shown: &str| {
            assert_eq!(Url::parse(text).unwrap().to_string(), shown);
        };
        check("http://Example.org", "http://example.org/");
        check("HTTP://example.org:80/a?b=c#d", "http://example.org/a?b=c");
        check("https://example.org:8443?x", "https://example.org:8443/?x");
        check("https://u:p%40ss@h/", "https://[redacted]@h/");
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
            assert_eq!(base.join(location.as_bytes()).unwrap().to_string(), joined, "{location}");
        };
        check("http://other/x", "http://other/x");
        check("HTTP://Other:80/a/../x", "http://other/x");
        check("//other/x", "https://other/x");
        check("//other", "https://other/");
        check("/x?y#z", "https://h:8443/x?y");
        check("?y", "https://h:8443/a/b?y");
        check("#z", "https://h:8443/a/b?c");
        check("x", "https://h:8443/a/x");
        check("../x/./y", "https://h:8443/x/y");
        check("..", "https://h:8443/");
        check("", "https://h:8443/a/b?c");
        // A colon beyond the first segment starts no scheme.
        check("/login?next=http://other/", "https://h:8443/login?next=http://other/");
        check("login?next=http://other/", "https://h:8443/a/login?next=http://other/");
        check("?next=http://other/", "https://h:8443/a/b?next=http://other/");
        check("/a:b", "https://h:8443/a:b");
        check("./a:b", "https://h:8443/a/a:b");
        check("/x?a=../b", "https://h:8443/x?a=../b"); // dots in a query are data
        // What cannot stand in a request line is encoded.
        check("/a b?c d", "https://h:8443/a%20b?c%20d");
        check("/bücher", "https://h:8443/b%C3%BCcher");
        check("/100%", "https://h:8443/100%");
        check("/{{seq}}", "https://h:8443/{{seq}}");
        assert_eq!(base.join(b"/\xff\xfe").unwrap().path, "/%FF%FE");
        let refused =
            |location: &str| assert!(base.join(location.as_bytes()).is_err(), "{location}");
        refused("/a\rb");
        refused("/a\r\nX: y");
        refused("/a\tb");
        refused("/a\0");
        refused("/a\x7f");
        refused("http://a\tb/");
        refused("mailto:x@h");
        refused("javascript:alert(1)");
        refused("http:relative");
        refused("http:/one-slash");
        refused("//");
        refused("http://b\u{fc}cher.de/");
        refused("http://h:99999/");
    }

    /// The examples of RFC 3986 §5.4, as far as the result is an `http` URL.
    #[test]
    fn references_resolve_as_in_the_rfc() {
        let base = Url::parse("http://a/b/c/d;p?q").unwrap();
        for row in [
            "g b/c/g",
            "./g b/c/g",
            "g/ b/c/g/",
            "/g g",
            "?y b/c/d;p?y",
            "g?y b/c/g?y",
            "g#s b/c/g",
            "g?y#s b/c/g?y",
            ";x b/c/;x",
            "g;x b/c/g;x",
            "g;x?y#s b/c/g;x?y",
            ". b/c/",
            "./ b/c/",
            ".. b/",
            "../ b/",
            "../g b/g",
            "../.. ",
            "../../ ",
            "../../g g",
            "../../../g g",
            "../../../../g g",
            "/./g g",
            "/../g g",
            "g. b/c/g.",
            ".g b/c/.g",
            "g.. b/c/g..",
            "..g b/c/..g",
            "./../g b/g",
            "./g/. b/c/g/",
            "g/./h b/c/g/h",
            "g/../h b/c/h",
            "g;x=1/./y b/c/g;x=1/y",
            "g;x=1/../y b/c/y",
            "g?y/./x b/c/g?y/./x",
            "g?y/../x b/c/g?y/../x",
        ] {
            let (location, path) = row.split_once(' ').unwrap();
            assert_eq!(base.join(location.as_bytes()).unwrap().path, format!("/{path}"), "{row}");
        }
        assert_eq!(base.join(b"//g").unwrap().to_string(), "http://g/");
        assert_eq!(base.join(b"").unwrap().path, "/b/c/d;p?q");
        assert!(base.join(b"g:h").is_err() && base.join(b"http:g").is_err());
    }

    #[test]
    fn paths_are_escaped_as_in_go() {
        let check = |path: &[u8], sent: Option<&str>| {
            assert_eq!(go_escaped(path).ok().as_deref(), sent, "{}", path.escape_ascii());
        };
        check(b"", Some(""));
        check(b"/it's!(x)*[]%2f%41", Some("/it's!(x)*[]%2f%41"));
        check(b"/it's%2f\"", Some("/it%27s/%22"));
        check(b"/a\"b<c>|d^`{}\\e", Some("/a%22b%3Cc%3E%7Cd%5E%60%7B%7D%5Ce"));
        check(b"/ \xff%0a", Some("/%20%FF%0A"));
        for malformed in [b"/%".as_slice(), b"/%2", b"/%zz", b"/%+1", b"/a\r", b"/\x7f"] {
            check(malformed, None);
        }
    }

    proptest! {
        #[test]
        fn whatever_a_location_holds_is_sent_as_one_word(location: Vec<u8>) {
            let base = Url::parse("http://h/a").unwrap();
            if let Ok(url) = base.join(&location) {
                let sent = format!("{}{}", url.authority(), url.path);
                prop_assert!(sent.bytes().all(|b| (0x21..=0x7e).contains(&b)), "{sent}");
                prop_assert!(url.path.starts_with('/'));
            }
        }
    }
}
