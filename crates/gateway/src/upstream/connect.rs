//! Opening a connection to an upstream: name, addresses, TCP, TLS.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use plimsoll_measure::Nanos;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use super::{Connection, Failure, Open};
use crate::call::routing::Upstream;
use crate::call::worker::Worker;
use crate::error::ErrorKind;
use crate::transport::io::Io;
use crate::transport::timer::Timer;

/// An upstream that does not take a connection within this time is as good as gone; waiting longer
/// would only hide it.
const CONNECT_TIME: Nanos = Nanos::from_secs(5);

/// Opens a connection.
///
/// # Errors
/// There is none; nothing was sent.
pub(super) async fn connect(
    worker: &Rc<Worker>,
    upstream: &Upstream,
    deadline: Nanos,
) -> Result<Connection, Failure> {
    let until = worker.instant(deadline.min(worker.now() + CONNECT_TIME));
    let io = match tokio::time::timeout_at(until, open(upstream)).await {
        Ok(opened) => opened?,
        Err(_) => return Err(unreachable(upstream, "it did not take a connection in time")),
    };
    let _open = Open::new(worker);
    Ok(Connection { io, timer: Timer::new(until), idle_since: Nanos::ZERO, _open })
}

async fn open(upstream: &Upstream) -> Result<Io, Failure> {
    let address = &upstream.model.address;
    let addresses = match address.host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, address.port)],
        Err(_) => tokio::net::lookup_host((address.host.as_str(), address.port))
            .await
            .map_err(|error| unreachable(upstream, format!("its name has no address: {error}")))?
            .collect(),
    };
    let mut why = String::from("its name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return secure(upstream, stream).await,
            Err(error) => why = error.to_string(),
        }
    }
    Err(unreachable(upstream, why))
}

async fn secure(upstream: &Upstream, stream: TcpStream) -> Result<Io, Failure> {
    // Requests are written in one piece and must not wait for each other's acknowledgements.
    let _ = stream.set_nodelay(true);
    let Some(connector) = &upstream.connector else { return Ok(Io::Plain(stream)) };
    let host = upstream.model.address.host.clone();
    let name = ServerName::try_from(host)
        .map_err(|_| unreachable(upstream, "its host cannot be the name in a certificate"))?;
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Io::Tls(Box::new(stream.into()))),
        Err(error) => Err(unreachable(upstream, format!("TLS: {error}"))),
    }
}

/// The upstream's id is enough for its operator; its address may be a secret.
fn unreachable(upstream: &Upstream, why: impl std::fmt::Display) -> Failure {
    let message = format!("cannot reach upstream {}: {why}", upstream.model.id);
    Failure::new(ErrorKind::Unreachable, false, message)
}
