//! Serves HTTP/2 on one connection, on top of the h2 crate.
//!
//! A stream limit is announced in the settings; requests beyond it are refused by h2. Faults of a
//! response (reset, truncate, slow) affect its stream, not the connection.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex};

use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::{Request, http::response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::events;
use crate::http::{self, Caller};
use crate::wire::{Control, Delivery};

/// How an HTTP/2 connection begins.
const PREFACE: &[u8] = b"PRI * HTTP/2";
/// The window of each stream and of the connection, so that requests of any size need few updates.
const WINDOW: u32 = 16 << 20;

/// The first bytes of a connection, and whether they are those of HTTP/2.
///
/// # Errors
/// If the connection failed or ended before that is known.
pub(crate) async fn first_bytes(stream: &TcpStream) -> io::Result<(Vec<u8>, bool)> {
    let mut read = Vec::with_capacity(PREFACE.len());
    while PREFACE.starts_with(&read) && read.len() < PREFACE.len() {
        stream.readable().await?;
        let mut buffer = [0; PREFACE.len()];
        match stream.try_read(&mut buffer[read.len()..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                let at = read.len();
                read.extend_from_slice(&buffer[at..at + n]);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let is_http2 = read == PREFACE;
    Ok((read, is_http2))
}

/// Serves a connection until it ends.
pub(crate) async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, caller: Arc<Caller>) {
    let shared = &caller.shared;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(shared.settings.http2_streams)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        // Small requests on many streams are normal here.
        .data_frame_budget(usize::MAX / 2);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
    let overloaded = Arc::new(Notify::new());
    let (mut tasks, mut streams, mut is_ending) = (JoinSet::new(), 0, false);
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                // On error, the connection is closed.
                let Some(Ok((request, respond))) = accepted else { break };
                streams += 1;
                tasks.spawn(stream(caller.clone(), request, respond, overloaded.clone()));
                let most = shared.faults.goaway_after(shared.clock.now());
                if most.is_some_and(|most| streams >= most) && !is_ending {
                    is_ending = true;
                    shared.faults.count_goaway();
                    connection.graceful_shutdown();
                }
            }
            () = overloaded.notified() => connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM),
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Answers one request.
async fn stream(
    connection: Arc<Caller>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    overloaded: Arc<Notify>,
) {
    let control = Control::default();
    let caller = Caller {
        shared: connection.shared.clone(),
        timer: connection.timer.clone(),
        control: control.clone(),
        connection: connection.connection,
        host: connection.host,
        feeds: connection.feeds.clone(),
        is_websocket: false,
        upgrade: Mutex::default(),
    };
    let (head, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Some(part) = body.data().await {
        let Ok(part) = part else { return };
        let _ = body.flow_control().release_capacity(part.len());
        if bytes.len() <= caller.shared.settings.body_max {
            bytes.extend_from_slice(&part);
        }
    }
    let request = Request::from_parts(head, Full::new(Bytes::from(bytes)));
    let Ok(response) = http::respond(Arc::new(caller), request).await;
    let delivery = control.delivery();
    match delivery {
        Delivery::Refuse => return respond.send_reset(Reason::REFUSED_STREAM),
        Delivery::Calm => return overloaded.notify_one(),
        Delivery::Cut { left: 0, .. } => return respond.send_reset(Reason::INTERNAL_ERROR),
        Delivery::Intact | Delivery::Cut { .. } | Delivery::Drip { .. } => {}
    }
    let (mut head, body) = response.into_parts();
    let body = match body {
        Either::Left(body) => body,
        Either::Right(events) => return send_events(head, events, respond).await,
    };
    let Ok(body) = body.collect().await;
    let body = body.to_bytes();
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let response = hyper::Response::from_parts(head, ());
    // Errors mean that the peer is gone, or has reset the stream.
    let Ok(mut sending) = respond.send_response(response, body.is_empty()) else { return };
    if body.is_empty() {
        return;
    }
    match delivery {
        Delivery::Cut { left, .. } => {
            let _ = sending.send_data(body.slice(..left.min(body.len())), false);
            sending.send_reset(Reason::INTERNAL_ERROR);
        }
        Delivery::Drip { bytes, every } => {
            let mut rest = body;
            while !rest.is_empty() {
                let part = rest.split_to(bytes.min(rest.len()));
                if sending.send_data(part, rest.is_empty()).is_err() {
                    return;
                }
                tokio::time::sleep(every.into()).await;
            }
        }
        _ => _ = sending.send_data(body, true),
    }
}

/// Sends an event stream as the peer's window allows, until either side ends it.
async fn send_events(
    head: response::Parts,
    mut events: events::Body,
    mut respond: SendResponse<Bytes>,
) {
    let response = hyper::Response::from_parts(head, ());
    let Ok(mut sending) = respond.send_response(response, false) else { return };
    loop {
        let frame = tokio::select! {
            frame = events.frame() => frame,
            // The peer has reset the stream, or is gone.
            _ = poll_fn(|context| sending.poll_reset(context)) => return,
        };
        let Some(Ok(frame)) = frame else { return sending.send_reset(Reason::INTERNAL_ERROR) };
        let Ok(part) = frame.into_data() else { continue };
        sending.reserve_capacity(part.len());
        while sending.capacity() < part.len() {
            match poll_fn(|context| sending.poll_capacity(context)).await {
                Some(Ok(_)) => {}
                _ => return,
            }
        }
        if sending.send_data(part, false).is_err() {
            return;
        }
    }
}
