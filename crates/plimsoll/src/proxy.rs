//! Notes that a proxy from the environment is not used.
//!
//! Other clients send through the proxy that `HTTP_PROXY` and similar variables name. A load generator
//! that did so would measure the proxy.

use plimsoll_plan::{Origin, Scheme};
use std::net::IpAddr;

/// A note for the first origin that a client honouring the environment would reach through a proxy.
/// Names the variable and not its value, which may contain a password.
pub(crate) fn note(origins: &[Origin]) -> Option<String> {
    let (name, origin) = unused(origins)?;
    Some(note_text(name, origin))
}

/// The variable that such a client would use, and the first origin that it would use it for.
pub(crate) fn unused(origins: &[Origin]) -> Option<(&'static str, &Origin)> {
    unused_of(origins, |name| std::env::var(name).ok())
}

fn note_text(name: &str, origin: &Origin) -> String {
    format!(
        "note: {name} is set but not used: connections to {origin} are direct, because a proxy \
         would be measured together with the target"
    )
}

fn unused_of(
    origins: &[Origin],
    variable: impl Fn(&str) -> Option<String>,
) -> Option<(&'static str, &Origin)> {
    let set = |name: &&str| variable(name).is_some_and(|value| !value.is_empty());
    let no_proxy = ["no_proxy", "NO_PROXY"].iter().find_map(|name| variable(name));
    let no_proxy = no_proxy.unwrap_or_default();
    let proxied = |origin: &&Origin| !is_direct(origin) && !is_excepted(origin, &no_proxy);
    origins.iter().filter(proxied).find_map(|origin| {
        let names = match origin.scheme {
            Scheme::Http | Scheme::Ws => ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"],
            Scheme::Https | Scheme::Wss => ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        };
        Some((names.into_iter().find(set)?, origin))
    })
}

/// Whether clients connect to this host directly in any case.
fn is_direct(origin: &Origin) -> bool {
    origin.host == "localhost" || origin.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether `NO_PROXY` lists the origin: `*`, a host, a domain with or without a leading dot, each
/// optionally with a port, an address, or a network such as `10.0.0.0/8`.
fn is_excepted(origin: &Origin, no_proxy: &str) -> bool {
    no_proxy.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        if let Some((network, length)) = entry.split_once('/') {
            return contains(network, length, &origin.host);
        }
        let unbracketed = entry.trim_start_matches('[').trim_end_matches(']');
        if entry == "*" || unbracketed == origin.host {
            return true;
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, Some(port)),
            _ => (entry.as_str(), None),
        };
        let name = name.trim_start_matches("*.").trim_start_matches('.');
        let within = origin.host.strip_suffix(name).is_some_and(|rest| {
            rest.is_empty() || rest.ends_with('.') && origin.host.parse::<IpAddr>().is_err()
        });
        !name.is_empty() && within && port.is_none_or(|port| port == origin.port.to_string())
    })
}

/// Whether a network contains an address.
fn contains(network: &str, length: &str, host: &str) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()) << 96, 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    let (Ok(network), Ok(length), Ok(host)) =
        (network.parse::<IpAddr>(), length.parse::<u32>(), host.parse::<IpAddr>())
    else {
        return false;
    };
    let ((network, most), (host, own)) = (bits(network), bits(host));
    most == own && length <= most && (network ^ host).checked_shr(128 - length).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_plan::Url;

    #[test]
    fn a_proxy_is_noted_if_it_applies() {
        let check = |url: &str, variables: &[(&str, &str)], noted: Option<&str>| {
            let origins = [Url::parse(url).unwrap().origin()];
            let variable = |name: &str| {
                variables.iter().find(|(own, _)| *own == name).map(|(_, value)| value.to_string())
            };
            let note = unused_of(&origins, variable).map(|(name, origin)| note_text(name, origin));
            let name = note.as_ref().map(|note| note.split(' ').nth(1).unwrap());
            assert_eq!(name, noted, "{url} {variables:?}");
            assert!(!note.unwrap_or_default().contains("secret"));
        };
        let proxy = ("HTTP_PROXY", "http://a:secret@proxy:3128");
        check("http://h.example/", &[], None);
        check("http://h.example/", &[proxy], Some("HTTP_PROXY"));
        check("http://h.example/", &[("http_proxy", "p"), proxy], Some("http_proxy"));
        check("http://h.example/", &[("HTTP_PROXY", "")], None);
        check("https://h.example/", &[proxy], None);
        check("https://h.example/", &[("https_proxy", "p")], Some("https_proxy"));
        check("https://h.example/", &[("ALL_PROXY", "socks5://p")], Some("ALL_PROXY"));
        check("http://localhost:8080/", &[proxy], None);
        check("http://127.0.0.1:8080/", &[proxy], None);
        check("http://[::1]/", &[proxy], None);
        let excepted = |url: &str, list: &str, except: bool| {
            let noted = if except { None } else { Some("HTTP_PROXY") };
            check(url, &[proxy, ("NO_PROXY", list)], noted);
            check(url, &[proxy, ("no_proxy", list)], noted);
        };
        excepted("http://h.example/", "*", true);
        excepted("http://h.example/", "other, h.example", true);
        excepted("http://h.example/", "EXAMPLE", true);
        excepted("http://h.example/", ".example", true);
        excepted("http://h.example/", "*.example", true);
        excepted("http://h.example/", "ample", false);
        excepted("http://h.example/", "h.example:80", true);
        excepted("http://h.example/", "h.example:81", false);
        excepted("http://10.1.2.3/", "10.0.0.0/8", true);
        excepted("http://10.1.2.3/", "11.0.0.0/8", false);
        excepted("http://10.1.2.3/", "0.0.0.0/0", true);
        excepted("http://10.1.2.3/", "10.1.2.3", true);
        excepted("http://10.1.2.3/", "2.3", false);
        excepted("http://[fd00::1]/", "fd00::/8", true);
        excepted("http://[fd00::1]/", "[fd00::1]", true);
        excepted("http://[fd00::1]/", "10.0.0.0/99,x/y,,:", false);
    }
}
