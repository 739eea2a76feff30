//! `GET /SERVICE/events`: the headers of new blocks as an event stream (Server-Sent Events).
//!
//! The id of an event is the number of its block, and `Last-Event-ID` continues after that block, as far as
//! [`RESUMED_MAX`] goes back. A comment is sent every [`HEARTBEAT_EVERY`]. Faults of notifications apply with
//! `method = "events"`; a `close` ends the stream in the middle of an event.
//!
//! # Bounds
//! A few events wait for a peer; one that reads nothing for the time that the settings allow, or is too many
//! blocks behind, is disconnected and counted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::channel::{Channel, Sender};
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, interval_at, sleep, timeout};

use crate::http::{Caller, find_host};
use crate::node::news::{News, Topic};
use crate::seen::Seen;

/// How often a comment shows that the stream is alive.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);
/// Maximum number of blocks that are sent again after a reconnect.
const RESUMED_MAX: u64 = 64;
/// Events that may wait in the stream's body, besides those in the peer's window.
const WAITING_MAX: usize = 8;
/// Between half an event and the end of its stream: an end discards what was not written.
const CUT_AFTER: Duration = Duration::from_millis(10);
/// Its name in faults.
const NAME: &str = "events";

/// The body of an event stream.
pub(crate) type Body = Channel<Bytes, io::Error>;

/// The response to a request for events; `None` for other requests.
pub(crate) fn respond<B>(caller: &Arc<Caller>, request: &Request<B>) -> Option<Response<Body>> {
    if request.method() != Method::GET || !request.uri().path().ends_with("/events") {
        return None;
    }
    let shared = &caller.shared;
    let name = find_host(caller, request).ok().map(|host| host.node.service.name.clone());
    let host = match &name {
        Some(name) => shared.hosts.iter().position(|own| own.node.service.name == *name)?,
        // `/events` alone stands for the first service.
        None if request.uri().path() == "/events" => 0,
        None => return None,
    };
    let last = request.headers().get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let now = shared.clock.now();
    shared.record.request(|order| Seen {
        order,
        connection: caller.connection,
        at: now,
        service: shared.hosts[host].node.service.name.clone(),
        path: request.uri().path().into(),
        headers: request
            .headers()
            .iter()
            .map(|(name, value)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into())
            })
            .collect(),
        body: Bytes::new(),
    });
    let (sender, body) = Channel::new(WAITING_MAX);
    let stream = Stream { caller: caller.clone(), host, sender, late: None };
    tokio::spawn(stream.run(last));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

/// One event stream.
struct Stream {
    caller: Arc<Caller>,
    host: usize,
    sender: Sender<Bytes, io::Error>,
    /// An event that is sent after the next one.
    late: Option<Bytes>,
}

/// The stream is over.
enum End {
    /// The peer is gone.
    Gone,
    SlowReader,
    /// By a fault.
    Cut,
}

impl Stream {
    async fn run(mut self, last: Option<u64>) {
        let shared = self.caller.shared.clone();
        if let Err(end) = self.send_all(last).await {
            if matches!(end, End::SlowReader) {
                shared.record.slow_readers.fetch_add(1, Ordering::Relaxed);
            }
            if !matches!(end, End::Gone) {
                self.sender.abort(io::ErrorKind::ConnectionAborted.into());
            }
        }
    }

    async fn send_all(&mut self, last: Option<u64>) -> Result<(), End> {
        let mut news = self.caller.feeds.subscribe(self.host);
        let shared = self.caller.shared.clone();
        let node = &shared.hosts[self.host].node;
        let head = node.view(shared.calendar.unix()).head;
        if let Some(last) = last.filter(|last| *last < head) {
            for number in last.max(head.saturating_sub(RESUMED_MAX)) + 1..=head {
                let news = self.caller.feeds.news(&shared, self.host, node.id_at(number));
                self.send(&news).await?;
            }
        }
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT_EVERY, HEARTBEAT_EVERY);
        loop {
            tokio::select! {
                news = news.recv() => match news {
                    // It was sent above.
                    Ok(news) if news.number() <= head && last.is_some() => {}
                    Ok(news) => self.send(&news).await?,
                    Err(RecvError::Lagged(_)) => return Err(End::SlowReader),
                    Err(RecvError::Closed) => return Err(End::Gone),
                },
                _ = heartbeat.tick() => self.put(Bytes::from_static(b": heartbeat\n\n")).await?,
            }
        }
    }

    /// Sends the event of a block.
    async fn send(&mut self, news: &News) -> Result<(), End> {
        let shared = self.caller.shared.clone();
        let (now, service) = (shared.clock.now(), &shared.hosts[self.host].node.service.name);
        let effects = shared.faults.apply_to_notification(service, NAME, now);
        let mut event = format!("id: {}\nevent: head\ndata: ", news.number()).into_bytes();
        news.results(&Topic::Heads, &mut |header| event.extend_from_slice(header));
        event.extend_from_slice(b"\n\n");
        let event = Bytes::from(event);
        if effects.close.is_some() {
            self.put(event.slice(..event.len() / 2)).await?;
            sleep(CUT_AFTER).await;
            return Err(End::Cut);
        }
        if effects.is_dropped {
            return Ok(());
        }
        if effects.is_late && self.late.is_none() {
            self.late = Some(event);
            return Ok(());
        }
        let again = effects.is_repeated.then(|| event.clone());
        for event in [Some(event), again, self.late.take()].into_iter().flatten() {
            self.put(event).await?;
            shared.record.notifications.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn put(&mut self, bytes: Bytes) -> Result<(), End> {
        let most = self.caller.shared.settings.slow_reader;
        match timeout(most.into(), self.sender.send_data(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::SlowReader),
        }
    }
}
