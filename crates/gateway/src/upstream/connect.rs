//! Opens connections to upstreams: name resolution, TCP, TLS.
//!
//! Addresses are raced as described in RFC 8305 ("Happy Eyeballs"): address families alternate, the
//! next address is tried when the previous one failed or did not connect within [`ATTEMPT_DELAY`],
//! and the first connection wins. A dead address costs a quarter of a second, not the whole
//! timeout.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use plimsoll_measure::Nanos;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use super::{Client, Connection, Failure, OpenConnection, Upstream};
use crate::error::ErrorKind;
use crate::transport::io::Io;
use crate::transport::timer::Timer;

/// The connect timeout. An upstream that takes longer is treated as unreachable.
const CONNECT_TIMEOUT: Nanos = Nanos::from_secs(5);

/// The delay before the next address is tried in parallel (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// At most this many addresses of a name are tried.
const ADDRESSES_MAX: usize = 16;

impl Client {
    /// Opens a connection.
    ///
    /// # Errors
    /// The upstream is unreachable; nothing was sent.
    pub(super) async fn connect(
        &self,
        upstream: &Upstream,
        deadline: Nanos,
    ) -> Result<Connection, Failure> {
        let now = self.local.now();
        let until = self.local.instant(deadline.min(now + CONNECT_TIMEOUT));
        // Counted from the start, because the socket already takes a descriptor.
        let open = OpenConnection::new(&self.local);
        let opening = self.open(upstream, now);
        let (io, address) = match tokio::time::timeout_at(until, opening).await {
            Ok(opened) => opened?,
            Err(_) => return Err(unreachable("no connection within the timeout", "")),
        };
        let named = upstream.model.address.host.parse::<IpAddr>().is_err();
        Ok(Connection {
            io,
            timer: Timer::new(until),
            opened_at: self.local.now(),
            idle_since: now,
            idle_max: super::IDLE_MAX,
            address: named.then_some(address),
            _open: open,
        })
    }

    async fn open(&self, upstream: &Upstream, now: Nanos) -> Result<(Io, IpAddr), Failure> {
        let address = &upstream.model.address;
        let addresses: Vec<IpAddr> = match address.host.parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) => {
                let found = self.resolver.lookup(&address.host, now).await;
                let found =
                    found.map_err(|why| unreachable("its name could not be resolved", why))?;
                interleaved(&found)
            }
        };
        let sockets = addresses.into_iter().map(|ip| SocketAddr::new(ip, address.port));
        let (connected, ip) = race(sockets, async |address| {
            self.network.connect(address).await.map(|connected| (connected, address.ip()))
        })
        .await
        .map_err(|error| match public_reason(&error) {
            // The system's message would only repeat the reason.
            Some(reason) => unreachable(reason, ""),
            None => unreachable("connecting failed", error),
        })?;
        let io = match connected {
            Io::Plain(stream) => with_tls(upstream, stream).await?,
            io => io,
        };
        Ok((io, ip))
    }
}

/// Where connections are opened.
#[derive(Clone)]
pub(crate) enum Network {
    /// The host's network.
    Host,
    /// Simulated upstreams.
    #[cfg(test)]
    Simulated(crate::transport::memory::Connect),
}

impl Network {
    async fn connect(&self, address: SocketAddr) -> io::Result<Io> {
        match self {
            Network::Host => TcpStream::connect(address).await.map(Io::Plain),
            #[cfg(test)]
            Network::Simulated(connect) => connect(address).await.map(Io::Memory),
        }
    }
}

/// Alternates address families, starting with the family of the first address.
fn interleaved(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (first, second): (Vec<IpAddr>, Vec<IpAddr>) =
        addresses.iter().partition(|ip| ip.is_ipv6() == first_is_v6);
    let mut rest = second.into_iter();
    let mut all = Vec::with_capacity(addresses.len());
    for ip in first {
        all.push(ip);
        all.extend(rest.next());
    }
    all.extend(rest);
    all.truncate(ADDRESSES_MAX);
    all
}

/// Tries addresses, each in parallel with earlier ones still pending. The first success wins and
/// cancels the others.
///
/// # Errors
/// The last failure, if all addresses failed.
async fn race<T, F: Future<Output = io::Result<T>>>(
    mut addresses: impl Iterator<Item = SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut attempts = FuturesUnordered::new();
    let mut why = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    loop {
        let next = addresses.next();
        let more = next.is_some();
        attempts.extend(next.map(&connect));
        // Ends when the next address is due; never if there are no more addresses.
        let delay = async {
            if more {
                tokio::time::sleep(ATTEMPT_DELAY).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::pin!(delay);
        loop {
            tokio::select! {
                biased;
                done = attempts.next() => match done {
                    Some(Ok(connected)) => return Ok(connected),
                    // Try the next address immediately.
                    Some(Err(error)) if more => {
                        why = error;
                        break;
                    }
                    Some(Err(error)) => why = error,
                    None if more => break,
                    None => return Err(why),
                },
                () = &mut delay => break,
            }
        }
    }
}

/// Establishes TLS if the upstream uses it.
async fn with_tls(upstream: &Upstream, stream: TcpStream) -> Result<Io, Failure> {
    // Requests are written in one go and must not wait for the acknowledgement of earlier data.
    let _ = stream.set_nodelay(true);
    let Some(connector) = &upstream.connector else { return Ok(Io::Plain(stream)) };
    let host = upstream.model.address.host.clone();
    let name = ServerName::try_from(host)
        .map_err(|why| unreachable("its host is not a valid TLS server name", why))?;
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Io::Tls(Box::new(stream.into()))),
        Err(error) => Err(unreachable("the TLS handshake failed", error)),
    }
}

/// A failure that reports `what` to callers. `why` may name addresses and certificates, so it is
/// only logged for operators.
fn unreachable(what: &'static str, why: impl std::fmt::Display) -> Failure {
    let failure =
        Failure::new(ErrorKind::Unreachable, false, format!("cannot reach the upstream: {what}"));
    failure.with_detail(None, why.to_string().as_bytes())
}

/// What a system error means, if it is known; without an address, so that it may be returned to
/// callers.
fn public_reason(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => "the connection was refused",
        io::ErrorKind::TimedOut => "the connection was not established in time",
        io::ErrorKind::NotFound => "its name has no address",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "there is no route to it"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
    }

    /// Races addresses on paused time. Returns the port that won, the ports tried and the time
    /// taken.
    fn raced(count: u16, outcome: fn(u16) -> Option<bool>) -> (io::Result<u16>, Vec<u16>, u128) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let tried = RefCell::new(Vec::new());
            let start = tokio::time::Instant::now();
            let won = race(addresses(count).into_iter(), async |address| {
                tried.borrow_mut().push(address.port());
                match outcome(address.port()) {
                    None => std::future::pending().await,
                    Some(true) => Ok(address.port()),
                    Some(false) => Err(io::ErrorKind::ConnectionRefused.into()),
                }
            });
            let won = tokio::time::timeout(Duration::from_secs(3), won).await;
            let won = won.unwrap_or_else(|late| Err(late.into()));
            (won, tried.into_inner(), start.elapsed().as_millis())
        })
    }

    #[test]
    fn a_dead_address_costs_the_attempt_delay() {
        let (won, tried, took) = raced(3, |port| (port > 1).then_some(true));
        assert_eq!((won.ok(), tried, took), (Some(2), vec![1, 2], 250));
    }

    #[test]
    fn a_refused_address_costs_no_time() {
        let (won, tried, took) = raced(3, |port| Some(port == 3));
        assert_eq!((won.ok(), tried, took), (Some(3), vec![1, 2, 3], 0));
    }

    #[test]
    fn all_addresses_are_tried_before_giving_up() {
        let (won, tried, took) = raced(2, |_| Some(false));
        let kind = won.map_err(|error| error.kind());
        assert_eq!((kind, tried, took), (Err(io::ErrorKind::ConnectionRefused), vec![1, 2], 0));
        let (won, tried, _) = raced(3, |_| None);
        assert!(won.is_err());
        assert_eq!(tried, [1, 2, 3]);
        assert!(raced(0, |_| None).0.is_err());
    }

    #[test]
    fn address_families_alternate() {
        let ips = |text: &str| -> Vec<IpAddr> {
            text.split(' ').map(|ip| ip.parse().expect("an address")).collect()
        };
        let check = |given: &str, order: &str| assert_eq!(interleaved(&ips(given)), ips(order));
        check("::1 ::2 ::3 127.0.0.1", "::1 127.0.0.1 ::2 ::3");
        check("127.0.0.1 ::1 ::2 127.0.0.2", "127.0.0.1 ::1 127.0.0.2 ::2");
        check("127.0.0.1", "127.0.0.1");
        assert!(interleaved(&[]).is_empty());
    }
}
