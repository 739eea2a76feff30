//! Rules for connections, and the HTTP version.

use super::CONNECTIONS_MAX;
use plimsoll_config::{Field, Table};
use plimsoll_measure::Nanos;
use std::net::IpAddr;

const CONNECTIONS_DEFAULT: u64 = 2_000;
/// Servers rarely allow more than a few hundred.
const STREAMS_MAX: u64 = 10_000;

/// Rules for connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRules {
    /// Maximum number of simultaneous connections to one host and port, over all workers.
    pub max: u64,
    /// Whether the plan leaves `max` to its default.
    pub max_is_default: bool,
    /// Whether connections are reused.
    pub reuse: bool,
    /// Local addresses to connect from, round-robin; empty: chosen by the kernel.
    pub sources: Vec<IpAddr>,
    /// How long resolved addresses are cached.
    pub dns_ttl: Nanos,
    /// Maximum number of idle connections kept to one host and port, over all workers; `None`: no limit.
    pub idle_max: Option<u64>,
    /// Whether a request is sent once more if its reused connection turns out to be closed (see
    /// [`RequestSpec::is_replayable`]).
    pub retry_stale: bool,
    /// Limits of HTTP/2.
    pub http2: Http2Rules,
    /// Limits of WebSockets.
    pub websocket: WebSocketRules,
}

/// Limits of WebSocket connections, which stay open: by default 8 connections with at most 100 calls each at a
/// time, or as many connections as the plan's users need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebSocketRules {
    /// Maximum number of simultaneous connections to one URL, over all workers.
    pub connections: u64,
    /// Maximum number of calls at a time on each of them.
    pub calls: u64,
}

impl Default for WebSocketRules {
    fn default() -> WebSocketRules {
        WebSocketRules { connections: 8, calls: 100 }
    }
}

/// Limits of HTTP/2 connections; [`ConnectionRules::max`] is the limit of HTTP/1.1. By default 8
/// connections, or as many as the plan's users need, with 100 streams each; without reuse, as many as of
/// HTTP/1.1, with one stream each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Rules {
    /// Maximum number of simultaneous connections to one host and port, over all workers.
    pub connections: u64,
    /// Maximum number of requests at a time on each of them; the peer may allow fewer.
    pub streams: u64,
}

impl Default for Http2Rules {
    fn default() -> Http2Rules {
        Http2Rules { connections: 8, streams: 100 }
    }
}

/// The HTTP version that requests are sent with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 or HTTP/1.1 as the server chooses in the TLS handshake (ALPN); HTTP/1.1 without TLS.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: by ALPN or, without TLS, by prior knowledge.
    Http2,
}

impl Protocol {
    /// As written in a plan.
    pub const WORDS: [(&'static str, Protocol); 3] =
        [("auto", Protocol::Auto), ("http1", Protocol::Http1), ("http2", Protocol::Http2)];

    /// Whether requests to an origin of this scheme may be sent with HTTP/2.
    pub fn may_be_http2(self, scheme: crate::Scheme) -> bool {
        match self {
            Protocol::Auto => scheme == crate::Scheme::Https,
            Protocol::Http1 => false,
            Protocol::Http2 => !scheme.is_websocket(),
        }
    }
}

/// The rules as written: limits that are not given depend on the plan's users.
pub(super) struct Written {
    rules: ConnectionRules,
    max: Option<u64>,
    http2_max: Option<u64>,
    websocket_max: Option<u64>,
}

impl Written {
    /// The rules of a plan with this number of users.
    pub(super) fn for_users(self, users: u64) -> ConnectionRules {
        let Written { mut rules, max, http2_max, websocket_max } = self;
        rules.max = max.unwrap_or(CONNECTIONS_DEFAULT.max(users));
        rules.max_is_default = max.is_none();
        let least = if rules.reuse {
            rules.http2.connections.max(users.div_ceil(rules.http2.streams))
        } else {
            // Each connection carries one request.
            rules.http2.streams = 1;
            CONNECTIONS_DEFAULT.max(users)
        };
        rules.http2.connections = http2_max.unwrap_or(least);
        let websocket = &mut rules.websocket;
        let least = websocket.connections.max(users.div_ceil(websocket.calls));
        websocket.connections = websocket_max.unwrap_or(least);
        rules
    }
}

pub(super) fn read_connections(root: &Table<'_>, protocol: Protocol) -> Written {
    let mut rules = ConnectionRules {
        max: CONNECTIONS_DEFAULT,
        max_is_default: true,
        reuse: true,
        sources: Vec::new(),
        dns_ttl: Nanos::from_secs(60),
        idle_max: None,
        retry_stale: false,
        http2: Http2Rules::default(),
        websocket: WebSocketRules::default(),
    };
    let Some(table) = root.field("connections").and_then(|f| f.table("connections")) else {
        return Written { rules, max: None, http2_max: None, websocket_max: None };
    };
    let max = table.field("max").and_then(|field| {
        if protocol == Protocol::Http2 {
            field.problem_with_key(
                "\"max\" has no effect with protocol = \"http2\"",
                "set connections = { http2 = { connections = … } }",
            );
        }
        field.integer(1, CONNECTIONS_MAX)
    });
    rules.idle_max = table.field("idle").and_then(|f| f.integer(1, CONNECTIONS_MAX));
    rules.retry_stale = table.field("retry_stale").and_then(|f| f.boolean()).unwrap_or(false);
    let http2 = table.field("http2").and_then(|field| read_http2(&field, protocol));
    let (http2_max, streams) = http2.unwrap_or_default();
    rules.http2.streams = streams.unwrap_or(rules.http2.streams);
    let websocket_max = table.field("websocket").and_then(|field| {
        let table = field.table("connections.websocket")?;
        let connections = table.field("connections").and_then(|f| f.integer(1, CONNECTIONS_MAX));
        let calls = table.field("calls").and_then(|f| f.integer(1, STREAMS_MAX));
        rules.websocket.calls = calls.unwrap_or(rules.websocket.calls);
        table.close();
        connections
    });
    rules.reuse = table.field("reuse").and_then(|f| f.boolean()).unwrap_or(true);
    if let Some(ttl) = table.field("dns_ttl").and_then(|f| f.duration_above_zero()) {
        rules.dns_ttl = ttl.into();
    }
    for source in table.field("source").and_then(|f| f.list()).unwrap_or_default() {
        let Some(text) = source.open_text("a source address") else { continue };
        match text.parse::<IpAddr>() {
            Ok(address) => rules.sources.push(address),
            Err(_) => {
                source.problem_with_value(format!("\"{text}\" is not a valid IP address"), "");
            }
        }
    }
    table.close();
    Written { rules, max, http2_max, websocket_max }
}

/// The limits of connections and of streams per connection, if given.
fn read_http2(field: &Field<'_>, protocol: Protocol) -> Option<(Option<u64>, Option<u64>)> {
    if protocol == Protocol::Http1 {
        field.problem_with_key(
            "\"http2\" has no effect with protocol = \"http1\"",
            "remove it, or set protocol = \"http2\"",
        );
    }
    let table = field.table("connections.http2")?;
    let connections = table.field("connections").and_then(|f| f.integer(1, CONNECTIONS_MAX));
    let streams = table.field("streams").and_then(|f| f.integer(1, STREAMS_MAX));
    table.close();
    Some((connections, streams))
}
