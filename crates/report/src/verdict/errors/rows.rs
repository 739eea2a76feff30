//! The findings on failures in the network and at the target, by what they count.

use plimsoll_measure::{ErrorClass, Fault, FindingId, Side};

/// A finding, if there is anything to count.
pub(super) struct Row {
    pub(super) id: FindingId,
    pub(super) of: Counted,
    pub(super) side: Side,
    /// The evidence, with `{n}` for `12 of 5,000 requests`; the end of it, after the number, for
    /// connections. Settings as in `Case::advise`.
    pub(super) text: &'static str,
    pub(super) fix: &'static str,
}

/// Faults without an answer, or with one that is valid HTTP: those of redirects, and of targets that do
/// not speak HTTP/2 or WebSocket, or open no subscription or event stream.
const VALID: [Fault; 14] = [
    Fault::BadLocation,
    Fault::TooManyRedirects,
    Fault::TooManyOrigins,
    Fault::SecretBody,
    Fault::Http2NotOffered,
    Fault::NotHttp2,
    Fault::SettingsTimeout,
    Fault::NotUpgraded,
    Fault::BadAccept,
    Fault::UpgradeTimeout,
    Fault::BadMessage,
    Fault::BadSubscription,
    Fault::NotEventStream,
    Fault::EventTooLong,
];

/// What a row counts.
pub(super) enum Counted {
    /// Arrivals of these classes, without those that have one of these faults, which have their own row.
    Classes(&'static [ErrorClass], &'static [Fault]),
    /// Arrivals with one of these faults.
    Faults(&'static [Fault]),
    /// Connections with this fault, and the evidence for a single one.
    Connections(Fault, &'static str),
    /// Arrivals that were refused with status 429, whether with a JSON-RPC error or not.
    RateLimited,
}

/// Too Many Requests.
pub(super) const RATE_LIMITED: u16 = 429;

pub(super) const ROWS: [Row; 33] = {
    use ErrorClass::*;
    [
        Row {
            id: FindingId::DnsFailed,
            of: Counted::Classes(&[Dns], &[]),
            side: Side::Network,
            text: "{n} failed because the host name could not be resolved",
            fix: "check the host name and the resolver: getent ahosts HOST",
        },
        Row {
            id: FindingId::Unreachable,
            of: Counted::Classes(&[Unreachable, ConnectTimeout], &[]),
            side: Side::Network,
            text: "{n} failed because no connection to the target could be established",
            fix: "check the address, the route and the firewalls between this host and the target",
        },
        Row {
            id: FindingId::TargetRefused,
            of: Counted::Classes(&[Refused], &[]),
            side: Side::Target,
            text: "{n} failed because the target refused the connection",
            fix: "check that the target is running and listens on this port",
        },
        Row {
            id: FindingId::TargetReset,
            of: Counted::Classes(
                &[Reset, ClosedEarly],
                &[
                    Fault::StaleKeepAlive,
                    Fault::Truncated,
                    Fault::RefusedStream,
                    Fault::StreamReset,
                    Fault::EnhanceYourCalm,
                    Fault::Goaway,
                    Fault::ClosedByPeer,
                    Fault::StreamEnded,
                ],
            ),
            side: Side::Target,
            text: "{n} failed because the target reset or closed the connection before the answer was complete",
            fix: "look for crashes and restarts of the target or of a load balancer in front of it",
        },
        Row {
            id: FindingId::TargetTruncated,
            of: Counted::Faults(&[Fault::Truncated]),
            side: Side::Target,
            text: "{n} failed because the target closed the connection in the middle of the answer",
            fix: "look for crashes and restarts of the target or of a load balancer in front of it, and \
                  for limits on the size or time of its answers",
        },
        Row {
            id: FindingId::TargetReset,
            of: Counted::Faults(&[Fault::StaleKeepAlive]),
            side: Side::Target,
            text: "{n} failed because the target closed a connection that had been used before, instead of \
                   answering; it may have closed it as idle just as the request was sent",
            fix: "look for crashes and restarts of the target; if connections are idle between requests, \
                  raise its keep-alive timeout above that time, or {do not reuse connections}",
        },
        Row {
            id: FindingId::TargetGoaway,
            of: Counted::Faults(&[Fault::RefusedStream]),
            side: Side::Target,
            text: "{n} were refused by the target without being processed (REFUSED_STREAM)",
            fix: "lower {http2.streams}, or raise the target's limit of streams per connection (nginx: \
                  http2_max_concurrent_streams)",
        },
        Row {
            id: FindingId::TargetGoaway,
            of: Counted::Faults(&[Fault::EnhanceYourCalm]),
            side: Side::Target,
            text: "{n} failed because the target ended their stream or connection as excessive load \
                   (ENHANCE_YOUR_CALM)",
            fix: "lower the rate or {http2.streams}, or raise the limits of the target or of the load \
                  balancer in front of it",
        },
        Row {
            id: FindingId::TargetGoaway,
            of: Counted::Faults(&[Fault::Goaway]),
            side: Side::Target,
            text: "{n} failed because the target ended their connection with GOAWAY",
            fix: "look for restarts of the target or of a load balancer in front of it, and for its limit \
                  of requests per connection (nginx: keepalive_requests)",
        },
        Row {
            id: FindingId::TargetReset,
            of: Counted::Faults(&[Fault::StreamReset]),
            side: Side::Target,
            text: "{n} failed because the target reset their HTTP/2 stream",
            fix: "see the reset error in the list of errors, which names the code, and the target's log",
        },
        Row {
            id: FindingId::GoawayLocal,
            of: Counted::Connections(
                Fault::GoawayLocal,
                "1 connection was ended by this side with GOAWAY, because the target broke the HTTP/2 \
                 protocol",
            ),
            side: Side::Target,
            text: "connections were ended by this side with GOAWAY, because the target broke the HTTP/2 \
                   protocol",
            fix: "the table of errors says what the target sent; compare with protocol = \"http1\"",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Faults(&[Fault::Http2NotOffered, Fault::NotHttp2, Fault::SettingsTimeout]),
            side: Side::Target,
            text: "{n} failed because the target does not speak HTTP/2",
            fix: "{use HTTP/1.1}, or switch HTTP/2 on at the target (nginx: listen … http2)",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Faults(&[Fault::NotUpgraded, Fault::BadAccept, Fault::UpgradeTimeout]),
            side: Side::Target,
            text: "{n} failed because the target did not open a WebSocket",
            fix: "check the path of the URL, and that proxies in front of the target pass Upgrade on; the \
                  table of errors says what the target answered",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Connections(
                Fault::NotCompressed,
                "1 WebSocket connection was opened without the compression that the plan asks for; its \
                 messages were sent uncompressed",
            ),
            side: Side::Target,
            text: "WebSocket connections were opened without the compression that the plan asks for; their \
                   messages were sent uncompressed",
            fix: "enable permessage-deflate at the target or in the proxy in front of it, or remove \
                  compression from the plan",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Faults(&[Fault::BadMessage]),
            side: Side::Target,
            text: "{n} failed because the target broke the WebSocket protocol",
            fix: "the table of errors says what the target sent",
        },
        Row {
            id: FindingId::TargetReset,
            of: Counted::Faults(&[Fault::ClosedByPeer]),
            side: Side::Target,
            text: "{n} failed because the target closed their WebSocket",
            fix: "the list of errors has the code and the reason that the target gave; look for its limits of \
                  calls, time and idle time per connection",
        },
        Row {
            id: FindingId::TargetReset,
            of: Counted::Faults(&[Fault::StreamEnded]),
            side: Side::Target,
            text: "{n} failed because the target ended their event stream",
            fix: "look for restarts, and for limits of time per request at the target or a proxy in front of it \
                  (nginx: proxy_read_timeout)",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Faults(&[
                Fault::BadSubscription,
                Fault::NotEventStream,
                Fault::EventTooLong,
            ]),
            side: Side::Target,
            text: "{n} failed because the target opened no subscription or event stream that can be read",
            fix: "the table of errors says what the target answered; check the URL and the method",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Connections(
                Fault::UnknownAnswer,
                "1 message answered no call of its WebSocket connection",
            ),
            side: Side::Target,
            text: "messages answered no call of their WebSocket connection",
            fix: "check that the target returns the id of each call; --trace 5 prints whole exchanges",
        },
        Row {
            id: FindingId::TargetStalled,
            of: Counted::Classes(&[ResponseTimeout], &[Fault::PingTimeout, Fault::SilentStream]),
            side: Side::Target,
            text: "{n} got no complete answer within the timeout of {the timeout}",
            fix: "lower the load, or raise {timeout} if such latency is acceptable",
        },
        Row {
            id: FindingId::TargetStalled,
            of: Counted::Faults(&[Fault::PingTimeout, Fault::SilentStream]),
            side: Side::Target,
            text: "{n} failed because the target did not answer a ping before the next one, or sent nothing on \
                   an event stream for longer than the plan allows",
            fix: "look for connections that the target or a proxy in front of it has forgotten; a longer ping \
                  or silence gives a busy target more time",
        },
        Row {
            id: FindingId::TargetStalled,
            of: Counted::Faults(&[Fault::HandshakeTimeout]),
            side: Side::Target,
            text: "{n} failed because the target accepted the connection but did not answer the TLS \
                   handshake within the timeout of {the timeout}",
            fix: "check that the port speaks TLS, and that the target has capacity for handshakes; \
                  use http:// if it does not",
        },
        Row {
            id: FindingId::TargetRateLimited,
            of: Counted::RateLimited,
            side: Side::Target,
            text: "{n} were refused with HTTP status 429 (Too Many Requests)",
            fix: "lower the rate, or raise the target's limit for this client",
        },
        Row {
            id: FindingId::TargetRpcErrors,
            of: Counted::Classes(&[RpcError], &[]),
            side: Side::Target,
            text: "{n} got a JSON-RPC error",
            fix: "see the error codes; --trace 5 prints whole exchanges",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Classes(&[Tls], &[Fault::HandshakeTimeout]),
            side: Side::Target,
            text: "{n} failed in the TLS handshake",
            fix: "see the tls error in the list of errors, which names the cause and what to set",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Classes(&[Protocol], &VALID),
            side: Side::Target,
            text: "{n} got an answer that is not valid HTTP",
            fix: "the table of errors says what is wrong with it; if the port speaks TLS, use https://; if it \
                  speaks only HTTP/2, {use HTTP/2}; --trace 5 prints whole exchanges",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Faults(&[Fault::TooManyOrigins]),
            side: Side::Target,
            text: "{n} were redirected to one origin too many: targets and redirects span \
                   more than 256 origins",
            fix: "lower {redirects}, or send to the hosts that the redirects lead to",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Faults(&[Fault::TooManyRedirects]),
            side: Side::Target,
            text: "{n} were redirected more often than the plan allows",
            fix: "raise {redirects}, or look for redirects that lead in a circle; --trace 5 \
                  prints whole exchanges",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Faults(&[Fault::BadLocation]),
            side: Side::Target,
            text: "{n} got a redirect without a usable Location",
            fix: "check the target's redirects; --trace 5 prints whole exchanges",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Faults(&[Fault::SecretBody]),
            side: Side::Target,
            text: "a redirect that would have sent a body with a secret variable to another origin was \
                    not followed for",
            fix: "send to the origin that the redirect leads to, if it may have the secret",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Connections(
                Fault::BytesAfter,
                "1 answer was followed by bytes that belong to no request; the connection was closed",
            ),
            side: Side::Target,
            text: "answers were followed by bytes that belong to no request; the connections were \
                    closed",
            fix: "compare Content-Length with the body that the target sends; --trace 5 prints whole \
                  exchanges",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Classes(&[BodyTooLarge], &[]),
            side: Side::Target,
            text: "{n} got a body larger than {max_body}",
            fix: "raise {max_body}, or request less",
        },
        Row {
            id: FindingId::TargetErrors,
            of: Counted::Classes(&[Status, RpcMismatch, Check], &[]),
            side: Side::Target,
            text: "{n} got an unexpected answer",
            fix: "see the tables of errors and statuses; --trace 5 prints whole exchanges",
        },
    ]
};
