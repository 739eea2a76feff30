//! What connections speak and carry, and the limits that follow from it.

use super::Pool;
use crate::connection::Offer;
use plimsoll_measure::{Nanos, OriginCounts, StreamLimits};
use plimsoll_plan::{Protocol, Scheme};

/// A worker's limits for the connections to one origin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Maximum number of HTTP/1.1 connections…
    pub(crate) http1: usize,
    /// …and of HTTP/2 or WebSocket connections.
    pub(crate) shared: usize,
    /// Maximum number of requests in flight to all origins: if it is lower, it is the one that arrivals
    /// wait for.
    pub(crate) in_flight: usize,
    /// What connections offer.
    pub(crate) offer: Offer,
}

/// What the connections to an origin speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    /// Not known before the first TLS handshake is complete.
    Unknown,
    Http1,
    WebSocket,
    /// The most streams that the peer allows at a time.
    Http2 {
        streams: u32,
    },
}

impl Spoken {
    /// What is known before the first connection.
    pub(super) fn at_first(protocol: Protocol, scheme: Scheme) -> Spoken {
        match protocol {
            _ if scheme.is_websocket() => Spoken::WebSocket,
            Protocol::Auto if scheme.is_secure() => Spoken::Unknown,
            Protocol::Auto | Protocol::Http1 => Spoken::Http1,
            Protocol::Http2 => Spoken::Http2 { streams: u32::MAX },
        }
    }
}

impl Pool {
    /// Maximum number of connections.
    pub(crate) fn limit(&self) -> usize {
        let Limits { http1, shared, .. } = self.limits;
        match self.spoken {
            Spoken::Unknown => http1.min(shared),
            Spoken::Http1 => http1,
            Spoken::Http2 { .. } | Spoken::WebSocket => shared,
        }
    }

    /// How many exchanges a connection carries at a time.
    #[inline]
    pub(super) fn carries(&self) -> usize {
        match self.spoken {
            Spoken::Unknown | Spoken::Http1 => 1,
            Spoken::Http2 { streams } => streams.min(self.limits.offer.streams) as usize,
            Spoken::WebSocket => self.limits.offer.streams as usize,
        }
    }

    /// Records what an established connection speaks: with HTTP/2, the most streams that the peer allows
    /// at a time.
    #[inline]
    pub(crate) fn speaks(&mut self, streams: Option<u32>, now: Nanos) {
        let spoken = streams.map_or(Spoken::Http1, |streams| Spoken::Http2 { streams });
        if self.spoken != spoken && self.spoken != Spoken::WebSocket {
            self.step(now);
            self.spoken = spoken;
        }
    }

    /// Whether there are more waiting arrivals than the attempts in progress will carry.
    pub(crate) fn needs_connection(&self) -> bool {
        self.waiting_live > self.connecting * self.carries().max(1)
    }

    /// Lists a connection as having capacity. HTTP/2 and WebSocket connections take turns, since each has room for many
    /// requests; of HTTP/1.1 connections, the most recently used is used next.
    #[inline]
    pub(crate) fn list_free(&mut self, address: usize, key: u32) {
        let is_shared = matches!(self.spoken, Spoken::Http2 { .. } | Spoken::WebSocket);
        let free = &mut self.addresses[address].free;
        if is_shared { free.push_front(key) } else { free.push_back(key) }
    }

    /// Adds the limits to an origin's counts.
    pub(super) fn report_limits(&self, counts: &mut OriginCounts) {
        let limit = self.limit().saturating_mul(self.carries());
        counts.limit = limit.min(self.limits.in_flight) as u64;
        if let Spoken::Http2 { streams } = self.spoken {
            counts.http2 = Some(StreamLimits {
                connections: self.limits.shared as u64,
                streams: u64::from(self.limits.offer.streams),
                peer: (streams < u32::MAX).then_some(u64::from(streams)),
                in_use: self.utilization.in_use,
            });
        }
    }
}
