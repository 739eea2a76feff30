//! Serves WebSocket: JSON-RPC calls, and subscriptions with `eth_subscribe`.
//!
//! Calls are answered as over HTTP, with the same capacity, latency and faults, each as soon as it is done.
//! A batch of calls is one message. Subscriptions are answered at once. Clients that offer compression get it, without
//! context takeover.
//!
//! # Bounds
//! A connection has at most [`CALLS_MAX`] calls in progress and reads no more before one is answered. A peer
//! that reads nothing for the time that the settings allow, or whose subscriptions are too many blocks behind, is disconnected
//! and counted.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use plimsoll_measure::Nanos;
use plimsoll_rpc::request::{self, Body, Call};
use plimsoll_websocket::{
    COMPRESSION, Deflate, Inflate, Message, Opcode, Reader, Role, Violation, accept_compression,
    accept_of, put, put_close, put_compressed,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::task::JoinSet;

use crate::http::{self, Caller, Outcome, plain, write_failure};
use crate::node::failure::Failure;
use crate::node::news::{News, Topic};
use crate::node::params::Params;
use crate::node::write::Object;
use crate::seen::Seen;
use crate::sim::Host;
use crate::wire::Delivery;

/// Maximum number of calls in progress on a connection.
const CALLS_MAX: usize = 1_000;
/// Maximum number of subscriptions on a connection.
const SUBSCRIPTIONS_MAX: usize = 1_000;
/// How often the peer is asked whether it is there, as by geth.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Bytes per read.
const READ: usize = 2 << 10;

const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
const EXTENSIONS: HeaderName = HeaderName::from_static("sec-websocket-extensions");
const ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

thread_local! {
    /// Shared by the connections of a thread, so that an idle one holds neither.
    static DEFLATE: RefCell<Deflate> = RefCell::default();
    static INFLATE: RefCell<Inflate> = RefCell::default();
}

/// A connection that becomes a WebSocket, and the service that it is for.
pub(crate) struct Upgrade {
    io: OnUpgrade,
    host: usize,
    is_compressed: bool,
}

/// The response to a request that opens a WebSocket; `None` for other requests.
pub(crate) fn upgrade<B>(
    caller: &Caller,
    request: &mut Request<B>,
) -> Option<Response<Full<Bytes>>> {
    let header = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    let asks = header(UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"));
    if !asks || request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return None;
    }
    if header(VERSION) != Some(b"13") {
        let mut response = plain(StatusCode::UPGRADE_REQUIRED, "use version 13\n".into());
        response.headers_mut().insert(VERSION, HeaderValue::from_static("13"));
        return Some(response);
    }
    let Some(key) = header(KEY).and_then(|key| str::from_utf8(key).ok()) else {
        return Some(plain(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing\n".into()));
    };
    let accept = HeaderValue::try_from(accept_of(key)).expect("base64");
    let offers = request.headers().get_all(EXTENSIONS).iter();
    let is_compressed = accept_compression(offers.filter_map(|value| value.to_str().ok()));
    let host = match http::find_host(caller, request) {
        Ok(host) => &host.node.service.name,
        Err(response) => return Some(*response),
    };
    let hosts = &caller.shared.hosts;
    let host = hosts.iter().position(|own| own.node.service.name == *host)?;
    let io = hyper::upgrade::on(request);
    *caller.upgrade.lock().unwrap_or_else(PoisonError::into_inner) =
        Some(Upgrade { io, host, is_compressed });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(ACCEPT, accept);
    if is_compressed {
        headers.insert(EXTENSIONS, HeaderValue::from_static(COMPRESSION));
    }
    Some(response)
}

/// Serves the WebSocket that the connection has become, if it has.
pub(crate) async fn serve(caller: &Caller) {
    let upgrade = caller.upgrade.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(Upgrade { io, host, is_compressed }) = upgrade else { return };
    let Ok(io) = io.await else { return };
    let caller = Arc::new(Caller {
        shared: caller.shared.clone(),
        timer: caller.timer.clone(),
        control: caller.control.clone(),
        connection: caller.connection,
        host: Some(host),
        feeds: caller.feeds.clone(),
        is_websocket: true,
        upgrade: Mutex::default(),
    });
    let message_max = caller.shared.settings.body_max;
    let mut session = Session {
        caller,
        host,
        out: Vec::new(),
        is_compressed,
        subscriptions: Vec::new(),
        subscribed: 0,
        news: None,
        notified: None,
        calls: JoinSet::new(),
    };
    let mut reader = Reader::new(Role::Server, message_max);
    if is_compressed {
        reader.allow_compression();
    }
    // Errors are caused by the peer, or by an injected fault.
    let _ = session.run(TokioIo::new(io), reader).await;
}

/// A subscription.
struct Subscription {
    id: u64,
    topic: Topic,
    /// A notification that is sent after the next one.
    late: Option<Vec<u8>>,
}

/// One connection.
struct Session {
    caller: Arc<Caller>,
    host: usize,
    /// What is to be written.
    out: Vec<u8>,
    is_compressed: bool,
    subscriptions: Vec<Subscription>,
    /// How many subscriptions there were.
    subscribed: u64,
    /// Received while there are subscriptions.
    news: Option<broadcast::Receiver<Arc<News>>>,
    /// The timestamp of the block whose notifications wait to be written.
    notified: Option<Nanos>,
    calls: JoinSet<Outcome>,
}

/// The connection is closed.
enum End {
    Failed,
    /// With this code and reason, once what was written before is sent.
    Close(u16, &'static str),
    /// Because the peer does not read.
    SlowReader,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Failed
    }
}

impl From<Violation> for End {
    fn from(violation: Violation) -> End {
        End::Close(violation.code(), "")
    }
}

impl Session {
    fn host(&self) -> &Host {
        &self.caller.shared.hosts[self.host]
    }

    async fn run(
        &mut self,
        io: impl AsyncRead + AsyncWrite,
        mut reader: Reader,
    ) -> Result<(), io::Error> {
        let (mut reading, mut writing) = tokio::io::split(io);
        let mut buffer = vec![0; READ];
        let mut ping =
            tokio::time::interval_at(tokio::time::Instant::now() + PING_EVERY, PING_EVERY);
        loop {
            let event = async {
                tokio::select! {
                    read = reading.read(&mut buffer), if self.calls.len() < CALLS_MAX => {
                        let n = read?;
                        if n == 0 {
                            return Err(End::Failed);
                        }
                        self.read(&buffer[..n], &mut reader)?;
                    }
                    Some(done) = self.calls.join_next(), if !self.calls.is_empty() => {
                        self.answer(done.map_err(io::Error::other)?)?;
                    }
                    news = next(&mut self.news) => match news {
                        Ok(news) => self.notify(&news)?,
                        Err(RecvError::Lagged(_)) => return Err(End::SlowReader),
                        Err(RecvError::Closed) => return Err(End::Failed),
                    },
                    _ = ping.tick() => put(&mut self.out, Opcode::Ping, true, None, b""),
                }
                Ok(())
            };
            let end = event.await.err();
            if let Some(End::Close(code, reason)) = end {
                put_close(&mut self.out, code, reason, None);
            }
            let most = self.caller.shared.settings.slow_reader;
            let written = tokio::time::timeout(most.into(), async {
                writing.write_all(&self.out).await?;
                writing.flush().await
            });
            let is_slow = match written.await {
                Ok(written) => written.map(|()| false)?,
                Err(_) => true,
            };
            if let Some(block) = self.notified.take() {
                let shared = &self.caller.shared;
                shared.record.delay(shared.calendar.unix() - block);
            }
            self.out.clear();
            self.out.shrink_to(READ);
            if is_slow || matches!(end, Some(End::SlowReader)) {
                self.caller.shared.record.slow_readers.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            if end.is_some() {
                return writing.shutdown().await;
            }
        }
    }

    fn read(&mut self, mut input: &[u8], reader: &mut Reader) -> Result<(), End> {
        INFLATE.with_borrow_mut(|inflate| {
            while let Some(message) = reader.next(&mut input, inflate)? {
                self.receive(message)?;
            }
            Ok(())
        })
    }

    fn receive(&mut self, message: Message<'_>) -> Result<(), End> {
        match message {
            Message::Text(text) => self.call(text.as_bytes()),
            Message::Binary(bytes) => self.call(bytes),
            Message::Ping(bytes) => put(&mut self.out, Opcode::Pong, true, None, bytes),
            Message::Pong(_) => {}
            Message::Close { code, .. } => return Err(End::Close(code.unwrap_or(1000), "")),
        }
        Ok(())
    }

    /// Begins to answer a message.
    fn call(&mut self, body: &[u8]) {
        let shared = self.caller.shared.clone();
        let body = Bytes::copy_from_slice(body);
        let now = shared.clock.now();
        let order = shared.record.request(|order| Seen {
            order,
            connection: self.caller.connection,
            at: now,
            service: self.host().node.service.name.clone(),
            path: String::new(),
            headers: Vec::new(),
            body: body.clone(),
        });
        if let Ok(Body::Single(call)) = request::parse(&body, 1)
            && let Some(outcome) = self.subscribe(&call)
        {
            shared.record.call(&call.method);
            if let Some(id) = call.id {
                self.say(&reply(id, outcome));
            }
            return;
        }
        // Resets the faults of the previous answer.
        self.caller.control.set(Delivery::Intact);
        let (caller, host) = (self.caller.clone(), self.host);
        self.calls.spawn(async move {
            let host = &caller.shared.hosts[host];
            http::outcome(&caller, host, &body, order, now).await
        });
    }

    /// Sends what a message led to.
    fn answer(&mut self, outcome: Outcome) -> Result<(), End> {
        match outcome {
            Outcome::Close(code) => return Err(End::Close(code, "simulated fault")),
            // To a notification.
            Outcome::Answer(out) if out.is_empty() => {}
            Outcome::Answer(out) | Outcome::Full(out) => self.say(&out),
            Outcome::Status(status, _) => {
                let mut out = Vec::new();
                let message = format!("simulated status {status}");
                write_failure(&mut out, None, &Failure::server(message));
                self.say(&out);
            }
        }
        Ok(())
    }

    /// Sends a message of text; what is not UTF-8 is replaced.
    fn say(&mut self, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        put_text(&mut self.out, text.as_bytes(), self.is_compressed);
    }

    /// The result of `eth_subscribe` or `eth_unsubscribe`; `None` for other calls.
    fn subscribe(&mut self, call: &Call<'_>) -> Option<Result<String, Failure>> {
        match &*call.method {
            "eth_subscribe" => Some(Topic::read(call.params).and_then(|topic| {
                if self.subscriptions.len() == SUBSCRIPTIONS_MAX {
                    return Err(Failure::limit(format!(
                        "more than {SUBSCRIPTIONS_MAX} subscriptions"
                    )));
                }
                self.subscribed += 1;
                let id = self.subscribed;
                self.subscriptions.push(Subscription { id, topic, late: None });
                if self.news.is_none() {
                    self.news = Some(self.caller.feeds.subscribe(self.host));
                }
                Ok(format!("\"{id:#x}\""))
            })),
            "eth_unsubscribe" => Some(self.unsubscribe(call.params)),
            _ => None,
        }
    }

    fn unsubscribe(&mut self, params: Option<&[u8]>) -> Result<String, Failure> {
        let id = Params::read(params, 1)?.need(0)?.number()?;
        let Some(at) = self.subscriptions.iter().position(|own| own.id == id) else {
            return Err(Failure::server("subscription not found"));
        };
        self.subscriptions.remove(at);
        if self.subscriptions.is_empty() {
            self.news = None;
        }
        Ok("true".into())
    }

    /// Sends the notifications of all subscriptions.
    fn notify(&mut self, news: &News) -> Result<(), End> {
        let shared = self.caller.shared.clone();
        let (now, service) = (shared.clock.now(), &shared.hosts[self.host].node.service.name);
        let (mut sent, mut close) = (0, None);
        for Subscription { id, topic, late } in &mut self.subscriptions {
            news.results(topic, &mut |result| {
                let effects = shared.faults.apply_to_notification(service, topic.name(), now);
                close = close.or(effects.close);
                if effects.is_dropped || close.is_some() {
                    return;
                }
                let message = notification(*id, result);
                if effects.is_late && late.is_none() {
                    *late = Some(message);
                    return;
                }
                let again = effects.is_repeated.then_some(&message);
                let late = late.take();
                for message in [Some(&message), again, late.as_ref()].into_iter().flatten() {
                    put_text(&mut self.out, message, self.is_compressed);
                    sent += 1;
                }
            });
        }
        shared.record.notifications.fetch_add(sent, Ordering::Relaxed);
        self.notified = (sent > 0).then(|| news.unix());
        close.map_or(Ok(()), |code| Err(End::Close(code, "simulated fault")))
    }
}

/// Appends a message, compressed if that was agreed on and makes it shorter.
fn put_text(out: &mut Vec<u8>, text: &[u8], is_compressed: bool) {
    if !is_compressed {
        return put(out, Opcode::Text, true, None, text);
    }
    DEFLATE.with_borrow_mut(|deflate| match deflate.message(text) {
        Some(payload) => put_compressed(out, Opcode::Text, None, payload),
        None => put(out, Opcode::Text, true, None, text),
    });
}

/// The next news; never ready while there are no subscriptions.
async fn next(news: &mut Option<broadcast::Receiver<Arc<News>>>) -> Result<Arc<News>, RecvError> {
    match news {
        Some(news) => news.recv().await,
        None => std::future::pending().await,
    }
}

/// The answer to a call about subscriptions.
fn reply(id: &[u8], outcome: Result<String, Failure>) -> Vec<u8> {
    let mut out = Vec::new();
    match outcome {
        Err(failure) => write_failure(&mut out, Some(id), &failure),
        Ok(result) => {
            let mut object = Object::open(&mut out);
            object.raw("jsonrpc", "\"2.0\"");
            object.member("id").extend_from_slice(id);
            object.raw("result", &result).close();
        }
    }
    out
}

fn notification(id: u64, result: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(result.len() + 100);
    let mut object = Object::open(&mut out);
    object.raw("jsonrpc", "\"2.0\"").raw("method", "\"eth_subscription\"");
    let mut params = Object::open(object.member("params"));
    params.raw("subscription", &format!("\"{id:#x}\""));
    params.member("result").extend_from_slice(result);
    params.close();
    object.close();
    out
}
