//! Refusals: connections beyond the limits are answered with an error and closed.
//!
//! Probes are answered as usual: a full gateway is still alive, and a load balancer must not remove it.
//! The same holds for all pages of a listener for operators only: they are needed most when the gateway
//! is full. Only HTTP/1.1 is spoken, one request per connection.
//!
//! Each listener has a limited number of places for refusals. Peers that connect and then send
//! nothing, send slowly or do not read must not keep probes out, so a new connection always gets a
//! place. If none is free, it gets the oldest place of the network that holds most: a probe loses its
//! place only if no other network holds more, and then only to connections that come in the moment
//! between its own connection and its request.

use std::cmp::Reverse;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_registry::settings::Faces;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use super::face::pages::{self, PageRequest};
use super::face::{cors, split};
use crate::call::message::Answer;
use crate::call::worker::{Shared, State};
use crate::error::{Error, ErrorKind, Shape};
use crate::http1::{self, RequestHead};

/// Maximum number of a listener's concurrent refusals, so that refusing costs no more than serving.
pub(super) const REFUSED_MAX: usize = 64;

/// How long a refused caller may take to send its request, read the answer and close.
const REFUSAL_TIME: Duration = Duration::from_secs(5);

/// The longest head that is read from a refused caller, in bytes.
const HEAD_MAX: usize = 4 << 10;

/// A listener's refusals.
pub(super) struct Refusals {
    refuser: Refuser,
    max: usize,
    /// At most `max`, the oldest first.
    places: Vec<Place>,
}

/// A connection that is being refused.
struct Place {
    network: u128,
    task: AbortHandle,
}

impl Refusals {
    /// At most `max` concurrent refusals, at least 1.
    pub(super) fn new(
        shared: &Arc<Shared>,
        max: usize,
        faces: Faces,
        tls: Option<&TlsAcceptor>,
    ) -> Refusals {
        let tls = tls.map(|tls| {
            let mut config = (**tls.config()).clone();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            TlsAcceptor::from(Arc::new(config))
        });
        let refuser = Refuser { shared: shared.clone(), faces, tls };
        Refusals { refuser, max, places: Vec::with_capacity(max + 1) }
    }

    /// Refuses a connection. Returns when a connection that had to make room for it is closed.
    pub(super) async fn add(&mut self, stream: TcpStream, peer: IpAddr) {
        // The acceptor's own shard is the last.
        let refused = &self.refuser.shared.counts.last().refused;
        refused[ErrorKind::TooManyConnections as usize].add(1);
        let refuser = self.refuser.clone();
        let refusal = async move {
            // The connection is closed in any case.
            let _ = tokio::time::timeout(REFUSAL_TIME, refuser.refuse(stream)).await;
        };
        self.places.retain(|place| !place.task.is_finished());
        let task = tokio::spawn(refusal).abort_handle();
        self.places.push(Place { network: network(peer), task });
        if self.places.len() > self.max {
            let networks: Vec<u128> = self.places.iter().map(|place| place.network).collect();
            self.places.remove(evicted(&networks)).task.abort();
        }
        // The runtime drops aborted tasks, and continues the others, before the next accept.
        tokio::task::yield_now().await;
    }
}

/// The network that an address is counted under: an IPv4 address, or a /64 of IPv6, which one host may
/// own.
fn network(peer: IpAddr) -> u128 {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() & !u128::from(u64::MAX),
    }
}

/// Which of the connections from these networks, the oldest first, is closed: the oldest of the network
/// with most connections.
fn evicted(networks: &[u128]) -> usize {
    let held = |at: &usize| networks.iter().filter(|other| **other == networks[*at]).count();
    (0..networks.len()).max_by_key(|at| (held(at), Reverse(*at))).unwrap_or_default()
}

/// Answers refused connections of a listener.
#[derive(Clone)]
struct Refuser {
    shared: Arc<Shared>,
    faces: Faces,
    tls: Option<TlsAcceptor>,
}

impl Refuser {
    async fn refuse(&self, stream: TcpStream) -> io::Result<()> {
        match &self.tls {
            Some(tls) => self.exchange(tls.accept(stream).await?).await,
            None => self.exchange(stream).await,
        }
    }

    /// Answers one request, and waits until the caller closes: closing with unread bytes would reset the
    /// connection before the caller has read the answer.
    async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) -> io::Result<()> {
        let mut read = Vec::with_capacity(HEAD_MAX);
        while http1::head_end(&read, 0).is_none() && read.len() < HEAD_MAX {
            if stream.read_buf(&mut read).await? == 0 {
                break;
            }
        }
        let out = self.answer(&read).await;
        stream.write_all(&out).await?;
        stream.shutdown().await?;
        read.clear();
        while stream.read_buf(&mut read).await? > 0 {
            read.clear();
        }
        Ok(())
    }

    /// The complete answer.
    async fn answer(&self, read: &[u8]) -> Vec<u8> {
        let state = self.shared.state();
        let head = http1::head_end(read, 0).and_then(|end| http1::request_head(&read[..end]).ok());
        let page = match &head {
            Some(head) => self.page(&state, head).await,
            None => None,
        };
        let mut answer = page.unwrap_or_else(|| {
            let error = Error::new(ErrorKind::TooManyConnections, "too many connections");
            Answer::error(&error, Shape::Own, Vec::new())
        });
        let cors = cors::rule(&state.settings.cors, self.faces);
        match head.as_ref().and_then(|head| head.fields.origin) {
            Some(origin) => cors::permit(cors, Some(origin), &mut answer),
            None => cors::permit_any(cors, &mut answer),
        }
        let is_head = head.is_some_and(|head| head.method == "HEAD");
        let mut out = Vec::new();
        answer.write_last(is_head, b"", &mut out);
        out
    }

    /// The page that a request asks for, if it is answered here.
    async fn page<'a>(&self, state: &Arc<State>, head: &RequestHead<'_>) -> Option<Answer<'a>> {
        if cors::is_preflight(&head.fields) {
            return None;
        }
        // Metrics, and readiness with details, cost much more than probes.
        let faces = if self.faces.serves_calls() { Faces::NONE } else { self.faces };
        let (path, query) = split(head.target);
        let asked = PageRequest { method: head.method, path, query, fields: &head.fields, faces };
        pages::answer(&self.shared, state, &asked).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_with_most_connections_makes_room() {
        let check = |addresses: &[&str], expected: usize| {
            let networks: Vec<u128> =
                addresses.iter().map(|one| network(one.parse().expect(one))).collect();
            assert_eq!(evicted(&networks), expected, "{addresses:?}");
        };
        check(&["192.0.2.1"], 0);
        // The oldest of one network.
        check(&["192.0.2.1", "192.0.2.1", "192.0.2.1"], 0);
        // A probe among many.
        check(&["192.0.2.1", "192.0.2.2", "192.0.2.2"], 1);
        check(&["192.0.2.2", "192.0.2.1", "192.0.2.2"], 0);
        // A network that comes again loses its own place.
        check(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.2"], 1);
        check(&["192.0.2.1", "192.0.2.2", "192.0.2.3"], 0);
        // One host with many addresses, and one address in two notations.
        check(&["192.0.2.1", "2001:db8::1", "2001:db8::2"], 1);
        check(&["2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:1:2::1"], 1);
        check(&["192.0.2.1", "::ffff:192.0.2.2", "192.0.2.2"], 1);
    }
}
