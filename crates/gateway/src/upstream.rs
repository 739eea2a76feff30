//! The HTTP/1.1 client: requests to upstreams over pooled connections.
//!
//! Each worker has its own connections; the most recently used is taken first. [`Client::prepare`]
//! gets a connection, and [`Reply::begin`] writes the request and reads the head of the response. The body is then read as a whole or in
//! chunks. A [`Failure`] reports whether any byte of the request may have reached the upstream, and
//! whether a pooled connection turned out to be closed. Nothing is resent here; the caller decides
//! whether to retry.
//!
//! REST requests, which callers could use to influence later responses on a connection, have
//! separate pools; see [`Use`].
//!
//! Invariant: a connection returns to the pool only after a complete response with no bytes after
//! it, and only once the request's sender has accepted the response as the answer, so that no
//! response can be mistaken for the answer to another request.

mod connect;
pub(crate) mod gate;
mod health;
mod parking;
mod pool;
mod reply;
mod secrets;
pub(crate) mod slot;
pub(crate) mod waiting;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BufMut;
use plimsoll_measure::Nanos;
use plimsoll_registry::model;
use plimsoll_registry::settings::Limits;
use plimsoll_resilience::RateLimit;
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsConnector;

use crate::error::{Error, ErrorKind, RetryAfter};
use crate::keeper::dns::Resolver;
use crate::local::Local;
use crate::transport::io::{Io, write_all};
use crate::transport::timer::{Late, Timer};

pub(crate) use connect::Network;
use gate::Gate;
pub(crate) use health::{FailureReport, Health};
pub(crate) use parking::Parking;
use pool::Pool;
use reply::Checkout;
pub(crate) use reply::{Reading, Reply, ReplyChunks, Response, Reusable};
pub(crate) use secrets::Secrets;

/// A connection that has been idle this long is closed: less than nodes and proxies allow (60 s and
/// more), so that they rarely close it while a request is on its way.
const IDLE_MAX: Nanos = Nanos::from_secs(50);

/// The maximum age of a connection, so that changes behind a name or a balancer take effect within
/// minutes.
const AGE_MAX: Nanos = Nanos::from_secs(300);

/// An upstream, to which calls are relayed.
pub(crate) struct Upstream {
    pub(crate) model: model::Upstream,
    /// Identifies the upstream in a worker's pools; a new address or CA makes a new serial.
    pub(crate) serial: u64,
    /// The contents of its `ca` file when it was read.
    pub(crate) ca: Option<Vec<u8>>,
    pub(crate) connector: Option<TlsConnector>,
    /// Limits the calls in flight.
    pub(crate) gate: Arc<Gate>,
    pub(crate) rate_limit: Option<RateLimit>,
    /// Until when it has asked not to be called.
    pub(crate) parking: Arc<Parking>,
    pub(crate) health: Arc<Health>,
    /// What its answers must not reveal to callers.
    pub(crate) secrets: Secrets,
}

impl Upstream {
    /// Relays in flight in this process.
    pub(crate) fn in_flight(&self) -> u64 {
        self.gate.in_flight().into()
    }

    /// Whether the upstream's limits admit a call of this method now. If so, the call is counted
    /// against its rate limit.
    #[inline]
    pub(crate) fn admit(&self, method: &str, now: Nanos) -> bool {
        !self.is_parked(method, now)
            && self.rate_limit.as_ref().is_none_or(|limit| limit.admit(now))
    }

    /// Whether the upstream has asked not to be called with this method now.
    #[inline]
    pub(crate) fn is_parked(&self, method: &str, now: Nanos) -> bool {
        self.parking.until_for(method, now).is_some()
    }

    /// How long until the upstream's limits admit a call of this method.
    #[cold]
    pub(crate) fn wait(&self, method: &str, now: Nanos) -> Nanos {
        let parked = self.parking.until_for(method, now).map_or(Nanos::ZERO, |until| until - now);
        let limited = self.rate_limit.as_ref().map_or(Nanos::ZERO, |limit| limit.wait(now));
        parked.max(limited)
    }
}

/// A connection to an upstream.
pub(crate) struct Connection {
    io: Io,
    timer: Timer,
    opened_at: Nanos,
    idle_since: Nanos,
    /// How long the connection may be idle.
    idle_max: Nanos,
    /// The address of the other end, if the upstream's host is a name.
    address: Option<IpAddr>,
    _open: OpenConnection,
}

/// Counts a connection for as long as it is open.
struct OpenConnection(Rc<Local>);

impl OpenConnection {
    fn new(local: &Rc<Local>) -> OpenConnection {
        local.counts().upstream.add(1);
        OpenConnection(local.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.counts().upstream.take(1);
    }
}

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    /// Calls encoded by the gateway, with its own ids.
    Calls,
    /// Requests with contents chosen by callers.
    Rest,
}

/// Which connections a request may go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// A pooled one that is open as far as the runtime knows.
    Pooled,
    /// A pooled one whose socket was checked.
    Checked,
    /// A new one.
    New,
}

/// A request, ready to be sent.
pub(crate) struct Request<'a> {
    /// The HTTP method.
    pub(crate) method: &'a str,
    /// Head and body, in parts that are written in order. If the second part is empty, the third is
    /// not written.
    pub(crate) parts: [&'a [u8]; 3],
    pub(crate) usage: Use,
    pub(crate) reuse: Reuse,
    /// When the response must have arrived.
    pub(crate) deadline: Nanos,
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    pub(crate) message: Cow<'static, str>,
    /// Whether any byte of the request may have reached the upstream.
    pub(crate) sent: bool,
    /// Whether a pooled connection ended before any byte of the response: the upstream may have
    /// closed it before the request arrived.
    pub(crate) stale: bool,
    /// The upstream's Retry-After.
    pub(crate) retry_after: Option<RetryAfter>,
    /// Details for operators only.
    pub(crate) detail: Option<Box<Detail>>,
}

/// The longest text of a [`Detail`], in bytes.
pub(crate) const DETAIL_MAX: usize = 1 << 10;

/// Details of a failure, from the upstream or the operating system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Detail {
    /// The HTTP status, if there was one.
    pub(crate) status: Option<u16>,
    /// The start of the body, or the system's error message.
    pub(crate) text: Vec<u8>,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        let Failure { kind, message, retry_after, .. } = failure;
        Error { retry_after, ..Error::new(kind, message) }
    }
}

impl Failure {
    /// The HTTP status of the response, if there was one.
    pub(crate) fn status(&self) -> Option<u16> {
        self.detail.as_ref().and_then(|detail| detail.status)
    }

    /// The same failure with details for operators.
    #[cold]
    pub(crate) fn with_detail(mut self, status: Option<u16>, text: &[u8]) -> Failure {
        let text = text[..text.len().min(DETAIL_MAX)].to_vec();
        self.detail = Some(Box::new(Detail { status, text }));
        self
    }

    pub(crate) fn new(
        kind: ErrorKind,
        sent: bool,
        message: impl Into<Cow<'static, str>>,
    ) -> Failure {
        let message = message.into();
        Failure { kind, message, sent, stale: false, retry_after: None, detail: None }
    }
}

/// A worker's connections to all upstreams.
pub(crate) struct Client {
    pub(crate) local: Rc<Local>,
    resolver: Arc<Resolver>,
    network: Network,
    pools: RefCell<BTreeMap<(u64, Use), Rc<Pool>>>,
}

impl Client {
    pub(crate) fn new(local: Rc<Local>, resolver: Arc<Resolver>, network: Network) -> Client {
        Client { local, resolver, network, pools: RefCell::default() }
    }

    /// Gets a connection for a request and creates its reply. Nothing is sent before
    /// [`Reply::begin`].
    ///
    /// # Errors
    /// None could be opened.
    pub(crate) async fn prepare(
        &self,
        upstream: &Upstream,
        request: &Request<'_>,
        limits: &Limits,
    ) -> Result<Reply, Failure> {
        let pool = self.pool(upstream, request.usage);
        let pooled = match request.reuse {
            Reuse::New => None,
            reuse => {
                let check_socket = reuse == Reuse::Checked;
                pool.take(check_socket, self.local.recent(), &upstream.health)
            }
        };
        let was_pooled = pooled.is_some();
        let connection = match pooled {
            Some(connection) => connection,
            None => Box::pin(self.connect(upstream, request.deadline)).await?,
        };
        let checkout = Checkout { connection, was_pooled, pool };
        Ok(Reply::new(self.local.clone(), checkout, request, limits))
    }

    #[inline]
    fn pool(&self, upstream: &Upstream, usage: Use) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        pools.entry((upstream.serial, usage)).or_default().clone()
    }

    /// Whether an idle connection to the upstream is open, whose end would be noticed.
    pub(crate) fn watches(&self, upstream: &Upstream) -> bool {
        let pools = self.pools.borrow();
        pools.get(&(upstream.serial, Use::Calls)).is_some_and(|pool| !pool.is_empty())
    }

    /// Closes connections that are no longer needed; `upstreams` are the current upstreams.
    pub(crate) fn tidy(&self, upstreams: &[Arc<Upstream>]) {
        let now = self.local.now();
        self.pools.borrow_mut().retain(|(serial, _), pool| {
            let Some(upstream) = upstreams.iter().find(|one| one.serial == *serial) else {
                pool.clear();
                return false;
            };
            if pool.is_empty() {
                return true;
            }
            let host = &upstream.model.address.host;
            let named = host.parse::<IpAddr>().is_err();
            let addresses = named.then(|| self.resolver.known(host, now)).flatten();
            pool.tidy(now, addresses.as_ref(), &upstream.health);
            true
        });
    }
}

impl Connection {
    async fn write(&mut self, local: &Local, request: &Request<'_>) -> Result<(), Failure> {
        let until = local.instant(request.deadline);
        let mut sent = 0;
        let parts = match request.parts {
            [_, [], _] => &request.parts[..1],
            _ => &request.parts[..],
        };
        let writing = write_all(&mut self.io, parts, &mut sent);
        match self.timer.limit(until, writing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                let message = format!("the upstream closed the connection: {error}");
                Err(Failure::new(ErrorKind::Broken, sent > 0, message))
            }
            Err(Late) => {
                let message = "the upstream did not read the request in time";
                Err(Failure::new(ErrorKind::TimedOut, sent > 0, message))
            }
        }
    }

    /// Reads once, up to `room` bytes. Returns false if the upstream closed the connection.
    async fn read(
        &mut self,
        local: &Local,
        deadline: Nanos,
        buffer: &mut Vec<u8>,
        room: usize,
    ) -> Result<bool, Failure> {
        let was_empty = buffer.is_empty();
        let mut into = buffer.limit(room);
        let reading = self.io.read_buf(&mut into);
        match self.timer.limit(local.instant(deadline), reading).await {
            Ok(Ok(n)) => Ok(n > 0),
            Ok(Err(error)) => {
                let message = format!("the connection to the upstream failed: {error}");
                Err(Failure::new(ErrorKind::Broken, true, message))
            }
            Err(Late) => {
                let message = if was_empty {
                    "the upstream did not answer in time"
                } else {
                    "the upstream did not finish its answer in time"
                };
                Err(Failure::new(ErrorKind::TimedOut, true, message))
            }
        }
    }
}
