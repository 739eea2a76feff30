//! The head of a REST answer: which of an upstream's headers reach the caller.
//!
//! Headers that apply to one connection, that the gateway sets itself, or that are for the gateway
//! as a client (cookies, other addresses) are dropped. The upstream's URL is private and may contain a
//! key: a `Location` or `Link` that leads to the upstream is rewritten to lead to the gateway, and
//! other headers with a URL of the upstream are dropped. Whatever a header is, it is dropped if it would
//! reveal a secret that the upstream is called with.

use std::borrow::Cow;

use plimsoll_registry::model;

use crate::call::message::Answer;
use crate::http1;
use crate::upstream::Secrets;

/// Response headers that are not forwarded.
const DROPPED_HEADERS: &[&str] = &[
    "alt-svc",
    "connection",
    "content-length",
    "content-type",
    "date",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "refresh",
    "server",
    "set-cookie",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-request-id",
];

/// Replaces a Content-Type that would reveal the upstream's URL.
const UNKNOWN_TYPE: &[u8] = b"application/octet-stream";

/// Response headers with a URL.
const LOCATION_HEADERS: &[&str] = &["content-location", "location"];

/// The header names listed in a message's Connection headers, which must not be forwarded (RFC 9110
/// §7.6.1).
#[derive(Default)]
struct ConnectionOptions(Vec<Vec<u8>>);

impl ConnectionOptions {
    fn read(&mut self, name: &str, value: &[u8]) {
        if name.eq_ignore_ascii_case("connection") {
            self.0.extend(value.split(|byte| *byte == b',').map(|one| one.trim_ascii().to_vec()));
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
    }
}

fn is_in(names: &[&str], name: &str) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether only the gateway may set this response header.
fn is_reserved(name: &str) -> bool {
    let starts = |start: &str| {
        name.get(..start.len()).is_some_and(|front| front.eq_ignore_ascii_case(start))
    };
    starts("access-control-") || starts("x-plimsoll-")
}

/// The answer for the caller, without its body.
pub(super) fn head<'a>(
    status: u16,
    head: &[u8],
    method: &str,
    upstream: &model::Upstream,
    secrets: &Secrets,
) -> Answer<'a> {
    let mut options = ConnectionOptions::default();
    http1::visit_response_fields(head, |field| options.read(field.name, field.value));
    // The Content-Length of a response without a body is that of the omitted body.
    let bodiless = method == "HEAD" || status == 304;
    let mut answer = Answer::new(status, b"", Vec::new());
    http1::visit_response_fields(head, |field| {
        if field.name.eq_ignore_ascii_case("content-type") {
            let reveals = secrets.are_in(field.value)
                || names_upstream(&String::from_utf8_lossy(field.value), upstream);
            answer.content_type = Cow::Owned(match field.value {
                _ if reveals => UNKNOWN_TYPE.to_vec(),
                value => value.to_vec(),
            });
        }
        let is_length = bodiless && field.name.eq_ignore_ascii_case("content-length");
        let is_dropped = is_in(DROPPED_HEADERS, field.name)
            || options.contains(field.name)
            || is_reserved(field.name);
        if is_dropped && !is_length {
            return;
        }
        let text = std::str::from_utf8(field.value);
        let value = if is_in(LOCATION_HEADERS, field.name) {
            text.ok().and_then(|location| public_location(location, upstream))
        } else if field.name.eq_ignore_ascii_case("link") {
            text.ok().and_then(|links| public_links(links, upstream))
        } else {
            let names_upstream = names_upstream(&String::from_utf8_lossy(field.value), upstream);
            (!names_upstream).then(|| field.value.to_vec())
        };
        if let Some(value) = value.filter(|value| !secrets.are_in(value)) {
            answer.fields.push((field.name.to_ascii_lowercase().into(), value));
        }
    });
    answer
}

/// A Location as the caller may see it: `/v1/…` if it leads to the upstream, unchanged except for
/// credentials if it leads elsewhere; `None` if it leads to a path of the upstream that is not
/// served, or would reveal the upstream's URL.
fn public_location(location: &str, upstream: &model::Upstream) -> Option<Vec<u8>> {
    let (base, key) = match upstream.path().split_once('?') {
        Some((base, query)) => (base, query),
        None => (upstream.path(), ""),
    };
    let base = base.trim_end_matches('/');
    let (scheme, after_scheme) = match location.split_once("//") {
        Some((scheme, rest)) if scheme.is_empty() || is_scheme(scheme) => (scheme, Some(rest)),
        _ => ("", None),
    };
    let path = match after_scheme {
        None => location,
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            if !is_host_of(authority, upstream) {
                return Some(format!("{scheme}//{authority}{path}").into_bytes());
            }
            if path.is_empty() { "/" } else { path }
        }
    };
    let (path, fragment) = path.split_at(path.find('#').unwrap_or(path.len()));
    let (path, query) = path.split_once('?').map_or((path, ""), |(path, query)| (path, query));
    // The pairs of the configured URL are added to each request.
    let is_own = |pair: &&str| key.split('&').any(|own| own == *pair);
    let query = query.split('&').filter(|pair| !is_own(pair)).collect::<Vec<_>>().join("&");
    let mark = if query.is_empty() { "" } else { "?" };
    let rest = format!("{mark}{query}{fragment}");
    let (start, rest) = if path.starts_with('/') {
        let below =
            path.strip_prefix(base).filter(|below| below.is_empty() || below.starts_with('/'));
        (format!("/v1{}", below?), rest)
    } else {
        (String::new(), format!("{path}{rest}"))
    };
    let reveals = |secret: &str| !secret.is_empty() && rest.contains(secret);
    let is_private = (base != "/v1" && reveals(base)) || key.split('&').any(reveals);
    (!is_private).then(|| format!("{start}{rest}").into_bytes())
}

/// A Link as the caller may see it: each of its links like a Location; `None` if none is left.
fn public_links(links: &str, upstream: &model::Upstream) -> Option<Vec<u8>> {
    let mut public = Vec::new();
    let mut rest = links;
    // Text between links is skipped.
    while let Some((location, behind)) =
        rest.split_once('<').and_then(|(_, link)| link.split_once('>'))
    {
        let mut is_quoted = false;
        let ends = |character: char| {
            is_quoted ^= character == '"';
            character == ',' && !is_quoted
        };
        let (parameters, others) = behind.split_at(behind.find(ends).unwrap_or(behind.len()));
        rest = others;
        let location = public_location(location.trim(), upstream);
        if let Some(location) = location.filter(|_| !names_upstream(parameters, upstream)) {
            let between: &[u8] = if public.is_empty() { b"<" } else { b", <" };
            public.extend([between, &location, b">", parameters.trim_end().as_bytes()].concat());
        }
    }
    (!public.is_empty()).then_some(public)
}

/// Whether a text contains a URL of the upstream.
fn names_upstream(text: &str, upstream: &model::Upstream) -> bool {
    let ends = |character: char| character.is_whitespace() || "/?#\"'<>,;|\\".contains(character);
    text.split("//").skip(1).any(|rest| {
        let authority = rest.split(ends).next().unwrap_or_default();
        is_host_of(authority.rsplit_once('@').map_or(authority, |(_, host)| host), upstream)
    })
}

fn is_scheme(text: &str) -> bool {
    text.strip_suffix(':').is_some_and(|name| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Whether an authority names the upstream's host, on any port.
fn is_host_of(authority: &str, upstream: &model::Upstream) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.trim_end_matches('.').eq_ignore_ascii_case(upstream.address.host.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_config::Text;
    use plimsoll_registry::model::{Address, Kind};

    fn upstream(url: &str) -> model::Upstream {
        let address = Address::parse(url).expect("a URL");
        model::Upstream::at("a", Kind::Evm, Text::plain(url), address)
    }

    #[test]
    fn locations_do_not_reveal_the_upstream() {
        let check = |url: &str, location: &str, public: Option<&str>| {
            let found = public_location(location, &upstream(url));
            let found = found.map(|found| String::from_utf8(found).expect("text"));
            assert_eq!(found.as_deref(), public, "{location} from {url}");
        };
        let node = "https://node.example/KEY1/";
        check(node, "https://node.example/KEY1/eth/v1?a=b#c", Some("/v1/eth/v1?a=b#c"));
        check(node, "HTTP://u:p@NODE.example:8545/KEY1", Some("/v1"));
        check(node, "//node.example./KEY1/x", Some("/v1/x"));
        check(node, "/KEY1/x/", Some("/v1/x/"));
        // paths that the gateway does not serve
        check(node, "https://node.example", None);
        check(node, "https://node.example/KEY12", None);
        check(node, "/login", None);
        check(node, "https://node.example/?next=/KEY1/x", None);
        // relative
        check(node, "x/y?a=b", Some("x/y?a=b"));
        check(node, "../KEY1/x", None);
        check("http://node/eth", "/eth/eth/v1/x", Some("/v1/eth/v1/x"));
        check(node, "?u=//node.example", Some("?u=//node.example"));
        // elsewhere
        check(node, "https://other.example/KEY", Some("https://other.example/KEY"));
        check(node, "https://u:p@other.example/x", Some("https://other.example/x"));
        check(node, "ipfs://cid", Some("ipfs://cid"));
        // a key in the query
        let node = "http://[::1]:8545?apikey=SECRET&v=2";
        check(node, "http://[::1]:8545/x?apikey=SECRET&a=b&v=2", Some("/v1/x?a=b"));
        check(node, "/x?apikey=SECRET&v=2", Some("/v1/x"));
        check(node, "x?apikey=SECRET", Some("x"));
        check(node, "/x?u=apikey=SECRET", None);
        check("http://path:3069/v1", "http://path:3069/v1/x", Some("/v1/x"));
    }

    #[test]
    fn links_do_not_reveal_the_upstream() {
        let check = |links: &str, public: Option<&str>| {
            let found = public_links(links, &upstream("https://node.example/KEY1/?k=SECRET"));
            let found = found.map(|found| String::from_utf8(found).expect("text"));
            assert_eq!(found.as_deref(), public, "{links}");
        };
        let next = "<https://node.example/KEY1/x?page=2&k=SECRET>; rel=\"next\"";
        check(next, Some("</v1/x?page=2>; rel=\"next\""));
        check("</KEY1/x>;rel=a , <x>", Some("</v1/x>;rel=a, <x>"));
        check("<https://other.example/x,y>; rel=x", Some("<https://other.example/x,y>; rel=x"));
        // One that the gateway does not serve.
        check(
            "<https://node.example/login>, </KEY1/x>; title=\"a, <b>\"",
            Some("</v1/x>; title=\"a, <b>\""),
        );
        check("<https://node.example/login>", None);
        check("</KEY1/x>; anchor=\"https://u:p@NODE.example:8545/KEY1\"", None);
        // Not links.
        check("", None);
        check("https://node.example/KEY1/", None);
        check("<https://node.example/KEY1/", None);
    }

    #[test]
    fn urls_of_the_upstream_are_found() {
        let check = |text: &str, expected: bool| {
            assert_eq!(
                names_upstream(text, &upstream("https://node.example/KEY1/")),
                expected,
                "{text}"
            );
        };
        check("0; url=HTTPS://NODE.example", true);
        check("a=\"//u:p@node.example.:1/KEY1\"", true);
        check("https://other/, https://node.example,", true);
        check("node.example", false);
        check("https://node.example.org/ https://a.node.example/", false);
    }

    #[test]
    fn headers_for_the_gateway_are_dropped() {
        let response =
            b"HTTP/1.1 201 X\r\nETag: \"1\"\r\nX-Request-ID: theirs\r\nVia: 1.1 node\r\n\
            Proxy-Connection: close\r\nSet-Cookie: a=b\r\nX-Hop: 1\r\nConnection: x-hop\r\n\
            Location: http://node:1/x\r\nContent-Location: /x\r\nContent-Type: a/b\r\n\
            X-Plimsoll-Via: 1\r\nAlt-Svc: h2=\":1\"\r\nContent-Length: 1\r\n\
            Refresh: 1; url=http://node:1/x\r\nLink: <http://node:1/y>; rel=next\r\n\
            X-Self: http://node:1/x\r\nX-Docs: http://docs/x\r\n\r\n";
        let answer = head(201, response, "POST", &upstream("http://node:1/"), &Secrets::default());
        let fields: Vec<(&str, &str)> = answer
            .fields
            .iter()
            .map(|(name, value)| (&**name, std::str::from_utf8(value).expect("text")))
            .collect();
        let expected = [
            ("etag", "\"1\""),
            ("location", "/v1/x"),
            ("content-location", "/v1/x"),
            ("link", "</v1/y>; rel=next"),
            ("x-docs", "http://docs/x"),
        ];
        assert_eq!(fields, expected);
        assert_eq!(&*answer.content_type, b"a/b");
    }

    #[test]
    fn headers_that_reveal_a_secret_are_dropped() {
        let upstream = upstream("http://127.0.0.1:8545/KEY1SECRETabc");
        let secrets = Secrets::of(&upstream);
        let check = |line: &str, public: Option<&str>| {
            let response = format!("HTTP/1.1 200 X\r\n{line}\r\n\r\n");
            let answer = head(200, response.as_bytes(), "GET", &upstream, &secrets);
            let found = answer.fields.first();
            let found = found.map(|(_, value)| std::str::from_utf8(value).expect("text"));
            assert_eq!(found, public, "{line}");
            (*answer.content_type).to_vec()
        };
        check("Location: http://127.0.0.1:8545/KEY1SECRETabc/x", Some("/v1/x"));
        check("Link: </KEY1SECRETabc/x>; rel=next", Some("</v1/x>; rel=next"));
        check("X-Version: 1", Some("1"));
        for line in [
            "Location: http://localhost:8545/KEY1SECRETabc/x",
            "Location: https://other/KEY1SECRETabc/x",
            "Location: //127.1:8545/KEY1SECRETabc",
            "Location: ///KEY1SECRETabc",
            "Location: http:\\\\127.0.0.1:8545\\KEY1SECRETabc",
            "Location: /%4bEY1SECRETabc/x",
            "X-Original-URI: /KEY1SECRETabc/x",
            "X-Up: 127.0.0.1:8545/KEY1SECRETabc",
            "X-Url: http%3A%2F%2F127.0.0.1%3A8545%2FKEY1SECRETab%63",
            "Link: </KEY1SECRETabc/x>; title=\"/KEY1SECRETabc/\"",
            "Server-Timing: up;desc=\"/KEY1SECRETabc\"",
            "ETag: \"KEY1SECRETabc\"",
        ] {
            check(line, None);
        }
        let type_of = |value: &str| check(&format!("Content-Type: {value}"), None);
        assert_eq!(type_of("text/html; charset=utf-8"), b"text/html; charset=utf-8");
        assert_eq!(type_of("text/html; u=/KEY1SECRETabc"), UNKNOWN_TYPE);
        assert_eq!(type_of("text/html; u=\"http://127.0.0.1:1/\""), UNKNOWN_TYPE);
    }
}
