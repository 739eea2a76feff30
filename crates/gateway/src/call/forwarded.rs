//! X-Forwarded-For: the addresses that a request has passed through.
//!
//! Only a trusted proxy's header is believed. A caller can send anything to that proxy, which appends an
//! address; so the header is read from its end, and everything before the first value that is not an
//! address is dropped. Proxies append a value or add a second header; both mean the same.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use plimsoll_registry::settings::{Network, Settings};

use super::message::Request;

pub(crate) const FORWARDED_FOR: &str = "x-forwarded-for";

/// The received header: its lines, joined by commas in their order.
pub(crate) fn received<'r>(request: &'r Request<'_>) -> Option<Cow<'r, [u8]>> {
    let last = request.fields.forwarded_for?;
    if !request.fields.is_forwarded_for_repeated {
        return Some(Cow::Borrowed(last));
    }
    let mut joined = Vec::new();
    request.all.visit(|name, value| {
        if name.eq_ignore_ascii_case(FORWARDED_FOR) {
            joined.extend_from_slice(if joined.is_empty() { b"" } else { b", " });
            joined.extend_from_slice(value);
        }
    });
    Some(Cow::Owned(joined))
}

/// The addresses of a header, from its end, up to the first value that is not an address.
fn hops(chain: &[u8]) -> impl Iterator<Item = IpAddr> {
    // Empty elements are to be ignored (RFC 9110 §5.6.1.2).
    let hops = chain.rsplit(|byte| *byte == b',').filter(|hop| !hop.trim_ascii().is_empty());
    hops.map_while(|hop| {
        let hop = std::str::from_utf8(hop).ok()?.trim();
        // Some proxies append the port.
        let address = hop.parse().or_else(|_| hop.parse().map(|hop: SocketAddr| hop.ip()));
        let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
        address.ok().or_else(bracketed)
    })
}

/// The client's address: the last one in `chain` that is not a trusted proxy, provided that the peer is a
/// trusted proxy.
pub(crate) fn client(peer: IpAddr, chain: Option<&[u8]>, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.holds(address));
    let mut client = peer;
    for hop in hops(chain.unwrap_or_default()) {
        if !is_trusted(client) {
            break;
        }
        client = hop;
    }
    client
}

/// The addresses to send: the peer's, after the received ones if the peer is a trusted proxy. `None` if
/// only the peer's is to be sent.
pub(super) fn to_send(request: &Request<'_>, settings: &Settings) -> Option<Vec<u8>> {
    let chain = received(request)?;
    let is_trusted = settings.trusted_proxies.iter().any(|network| network.holds(request.peer));
    let mut hops: Vec<IpAddr> = if is_trusted { hops(&chain).collect() } else { Vec::new() };
    hops.reverse();
    hops.push(request.peer);
    let hops: Vec<String> = hops.iter().map(IpAddr::to_string).collect();
    Some(hops.join(", ").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn hops_are_read_from_the_end() {
        let check = |chain: &str, expected: &[&str]| {
            let expected: Vec<IpAddr> = expected.iter().map(|text| ip(text)).collect();
            assert_eq!(hops(chain.as_bytes()).collect::<Vec<_>>(), expected, "{chain}");
        };
        check("198.51.100.1", &["198.51.100.1"]);
        check("1.1.1.1:443, 2.2.2.2", &["2.2.2.2", "1.1.1.1"]);
        check(
            "[2001:db8::1]:443,2001:db8::2 , [2001:db8::3]",
            &["2001:db8::3", "2001:db8::2", "2001:db8::1"],
        );
        check("3.3.3.3, unknown, 2.2.2.2", &["2.2.2.2"]);
        check("2.2.2.2, unknown", &[]);
        check("1.1.1.1,", &["1.1.1.1"]);
        check(" ,2.2.2.2,,\t, 1.1.1.1", &["1.1.1.1", "2.2.2.2"]);
        check(",", &[]);
        check("", &[]);
    }

    #[test]
    fn client_addresses_come_from_trusted_proxies_only() {
        let trusted: Vec<Network> =
            ["127.0.0.1", "10.0.0.0/8"].map(|text| Network::parse(text).expect(text)).into();
        let check = |peer: &str, chain: &str, client: &str| {
            let chain = Some(chain.as_bytes()).filter(|chain| !chain.is_empty());
            assert_eq!(super::client(ip(peer), chain, &trusted), ip(client));
        };
        check("203.0.113.9", "", "203.0.113.9");
        check("203.0.113.9", "198.51.100.1", "203.0.113.9"); // nobody vouches for it
        check("127.0.0.1", "198.51.100.1", "198.51.100.1");
        check("127.0.0.1", "198.51.100.1, 10.1.2.3", "198.51.100.1");
        check("127.0.0.1", "6.6.6.6, 198.51.100.1, 10.1.2.3", "198.51.100.1"); // forged in front
        check("127.0.0.1", "198.51.100.1:443, 10.1.2.3:80", "198.51.100.1");
        check("127.0.0.1", "6.6.6.6,,10.0.0.1", "6.6.6.6");
        check("127.0.0.1", "garbage", "127.0.0.1");
        check("127.0.0.1", "", "127.0.0.1");
    }
}
