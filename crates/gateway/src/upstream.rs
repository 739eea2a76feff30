//! The client's side of HTTP/1.1: requests to upstreams over pooled connections.
//!
//! Each worker has connections of its own, the one used last taken first. [`Client::send`] writes a
//! request and reads the head of the response; a caller that has a place for the [`Reply`] does it in
//! two steps, which moves less. The rest of the reply is read as a whole or in pieces. A failure says whether any
//! byte of the request may have reached the upstream, and whether it came over a pooled connection
//! that the upstream had closed meanwhile. What is tried again is for the caller to decide; nothing is
//! resent here.
//!
//! Requests of different callers that could influence what follows on a connection (REST) have pools
//! of their own, see [`Use`].
//!
//! Invariant: a connection goes back to the pool only after a whole response with nothing behind it,
//! and only once the request's sender has accepted it as the answer, so that no response can be taken
//! for the answer to another request.

mod connect;
mod health;
mod limiter;
mod pool;
mod reply;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BufMut;
use plimsoll_measure::Nanos;
use plimsoll_registry::model;
use plimsoll_registry::settings::{Limits, Settings};
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsConnector;

use crate::error::{Error, ErrorKind, RetryAfter};
use crate::keeper::dns::Resolver;
use crate::local::Local;
use crate::observe::stats::{Counter, Sharded};
use crate::transport::io::{Io, write_all};
use crate::transport::timer::{Late, Timer};

pub(crate) use health::{Failed, Health};
pub(crate) use limiter::Limiter;
use pool::Pool;
use reply::Source;
pub(crate) use reply::{Reading, Reply, ReplyPieces, Response, Reusable};

/// A connection that was idle for this long is closed: less than what nodes and proxies allow (60 s
/// and more), so that it is rarely closed under a request.
const IDLE_MAX: Nanos = Nanos::from_secs(50);

/// A connection is used for this long at most, so that changes behind a name or a balancer are
/// followed within minutes.
const AGE_MAX: Nanos = Nanos::from_secs(300);

/// Where calls are relayed to.
pub(crate) struct Upstream {
    pub(crate) model: model::Upstream,
    /// Tells upstreams apart in a worker's pools; another address or other headers make another one.
    pub(crate) serial: u64,
    /// What its `ca` file held when it was read.
    pub(crate) ca: Option<Vec<u8>>,
    pub(crate) connector: Option<TlsConnector>,
    /// Relays under way, by worker.
    pub(crate) in_flight: Arc<Sharded<Counter>>,
    pub(crate) limiter: Option<Limiter>,
    pub(crate) health: Arc<Health>,
}

impl Upstream {
    /// How many relays are under way, in this process.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.sum(Counter::get)
    }

    /// Whether one more call may be sent now; if so, it counts.
    pub(crate) fn admit(&self, now: Nanos) -> bool {
        self.limiter.as_ref().is_none_or(|limiter| limiter.admit(now))
    }
}

/// A connection to an upstream.
pub(crate) struct Connection {
    io: Io,
    timer: Timer,
    opened_at: Nanos,
    idle_since: Nanos,
    /// How long it may be idle.
    idle_max: Nanos,
    /// Where it leads to, if that was found by name.
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
    /// Calls that the gateway wrote itself, under ids of its own.
    Calls,
    /// Requests as callers wrote them.
    Rest,
}

/// Which connections a request may go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// A pooled one, as far as the runtime knows that it is open.
    Pooled,
    /// A pooled one whose socket was asked.
    Checked,
    /// A new one.
    New,
}

/// A request, ready to be sent.
pub(crate) struct Request<'a> {
    /// The HTTP method.
    pub(crate) method: &'a str,
    /// Head and body, in parts that are written one after another; without a second part there is no
    /// third.
    pub(crate) parts: [&'a [u8]; 3],
    pub(crate) usage: Use,
    pub(crate) reuse: Reuse,
    /// When the response must be here.
    pub(crate) deadline: Nanos,
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    pub(crate) message: Cow<'static, str>,
    /// Whether any byte of the request may have reached the upstream.
    pub(crate) sent: bool,
    /// Whether a pooled connection ended before a byte of the response: the upstream may have closed
    /// it before the request arrived.
    pub(crate) stale: bool,
    /// When the upstream may be called again.
    pub(crate) retry_after: Option<RetryAfter>,
    /// Details for operators only.
    pub(crate) said: Option<Box<Said>>,
}

/// What an upstream, or the system, said of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// The HTTP status, where there was one.
    pub(crate) status: Option<u16>,
    /// The start of the body, or the system's words.
    pub(crate) words: Vec<u8>,
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
        self.said.as_ref().and_then(|said| said.status)
    }

    /// The same failure with details for operators.
    #[cold]
    pub(crate) fn with(mut self, status: Option<u16>, words: &[u8]) -> Failure {
        const WORDS_MAX: usize = 1 << 10;
        let words = words[..words.len().min(WORDS_MAX)].to_vec();
        self.said = Some(Box::new(Said { status, words }));
        self
    }

    pub(crate) fn new(
        kind: ErrorKind,
        sent: bool,
        message: impl Into<Cow<'static, str>>,
    ) -> Failure {
        Failure { kind, message: message.into(), sent, stale: false, retry_after: None, said: None }
    }
}

/// A worker's connections to all upstreams.
pub(crate) struct Client {
    pub(crate) local: Rc<Local>,
    resolver: Arc<Resolver>,
    pools: RefCell<BTreeMap<(u64, Use), Rc<Pool>>>,
    /// Connections in use to one upstream.
    connections_max: usize,
}

impl Client {
    pub(crate) fn new(local: Rc<Local>, resolver: Arc<Resolver>, settings: &Settings) -> Client {
        let connections_max = settings.limits.upstream_connections.div_ceil(settings.workers);
        Client { local, resolver, pools: RefCell::default(), connections_max }
    }

    /// Sends a request and reads the head of the response.
    ///
    /// # Errors
    /// There is none within the deadline and the limits.
    pub(crate) async fn send(
        &self,
        upstream: &Upstream,
        request: &Request<'_>,
        limits: &Limits,
    ) -> Result<Reply, Failure> {
        let mut reply = self.prepare(upstream, request, limits).await?;
        reply.begin(request).await?;
        Ok(reply)
    }

    /// Finds a connection for a request and makes the reply that is to come over it; nothing is sent
    /// before [`Reply::begin`].
    ///
    /// # Errors
    /// There is no connection to be had.
    pub(crate) async fn prepare(
        &self,
        upstream: &Upstream,
        request: &Request<'_>,
        limits: &Limits,
    ) -> Result<Reply, Failure> {
        let pool = self.pool(upstream, request.usage);
        let place = match pool.place_now() {
            Some(place) => place,
            None => Box::pin(pool.place(&self.local, request.deadline)).await?,
        };
        let pooled = match request.reuse {
            Reuse::New => None,
            reuse => pool.take(reuse == Reuse::Checked, self.local.recent()),
        };
        let was_pooled = pooled.is_some();
        let connection = match pooled {
            Some(connection) => connection,
            None => Box::pin(self.connect(upstream, request.deadline)).await?,
        };
        let from = Source { connection, was_pooled, pool, place };
        Ok(Reply::new(self.local.clone(), from, request, limits))
    }

    #[inline]
    fn pool(&self, upstream: &Upstream, usage: Use) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        let make = || Rc::new(Pool::new(self.connections_max));
        pools.entry((upstream.serial, usage)).or_insert_with(make).clone()
    }

    /// Closes connections that are not needed any more; `upstreams` are those that exist.
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
            pool.tidy(now, addresses.as_ref());
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

    /// Reads what has come, once, up to `room` bytes; false: the upstream closed the connection.
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
                let message = format!("the upstream broke the connection: {error}");
                Err(Failure::new(ErrorKind::Broken, true, message))
            }
            Err(Late) => {
                let message = match was_empty {
                    true => "the upstream did not answer in time",
                    false => "the upstream did not finish its answer in time",
                };
                Err(Failure::new(ErrorKind::TimedOut, true, message))
            }
        }
    }
}
