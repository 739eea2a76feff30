//! A caller's HTTP/2 connection, read and written by hyper.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::write;
use crate::budget::Share;
use crate::call::worker::{View, Worker};
use crate::error::{Error, ErrorKind, Shape};
use crate::http1::Fields;
use crate::serve::face::{self, AllFields, Answer, Request};
use crate::transport::io::Io;
use plimsoll_registry::settings::Limits;

/// Serves a connection whose first bytes are in `read` already.
pub(super) async fn serve(worker: Rc<Worker>, io: Io, read: Vec<u8>, peer: IpAddr) {
    let limits = worker.view().settings.limits;
    let mut drain = worker.shared.drain.subscribe();
    let respond = {
        let worker = worker.clone();
        service_fn(move |request| {
            let worker = worker.clone();
            async move { Ok::<_, Infallible>(respond(&worker, request, peer).await) }
        })
    };
    let connection = hyper::server::conn::http2::Builder::new(Here)
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.http2_streams)
        .max_header_list_size(u32::try_from(limits.header).unwrap_or(u32::MAX))
        .keep_alive_interval(Some(limits.idle_time.into()))
        .serve_connection(TokioIo::new(Rewound { read, at: 0, io }), respond);
    let mut connection = pin!(connection);
    // An error is the caller's way of ending it.
    tokio::select! {
        ended = connection.as_mut() => drop(ended),
        _ = drain.wait_for(|drain| *drain) => {
            // Streams that are open are answered; no new ones are taken.
            connection.as_mut().graceful_shutdown();
            drop(connection.await);
        }
    }
}

/// Runs a connection's streams on the thread that it came to.
#[derive(Clone, Copy)]
struct Here;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Here {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

async fn respond(
    worker: &Rc<Worker>,
    request: hyper::Request<Incoming>,
    peer: IpAddr,
) -> Response<Full<Bytes>> {
    let view = worker.view();
    let limits = &view.settings.limits;
    let (head, mut body) = request.into_parts();
    let mut share = None;
    let collected = collect(worker, &mut body, limits, &mut share);
    let body = match tokio::time::timeout(limits.body_time.into(), collected).await {
        Ok(body) => body,
        Err(_) => Err(Error::new(
            ErrorKind::TooSlow,
            format!("the body did not come within {}", limits.body_time),
        )),
    };
    let mut fields = Fields::default();
    let taken = head
        .headers
        .iter()
        .try_for_each(|(name, value)| fields.take(name.as_str(), value.as_bytes()));
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let refused = |error: Error| {
        worker.counts().refused[error.kind as usize].add(1);
        Answer::error(&error, Shape::Own, Vec::new())
    };
    let body = taken.and(body);
    // The call begins here: changes that were made while its body came are for it too.
    let view = worker.view();
    let answer = match &body {
        Ok(body) => {
            let request = Request {
                method: head.method.as_str(),
                target,
                fields,
                all: AllFields::Map(&head.headers),
                body,
                peer,
                start: worker.now(),
            };
            face::answer(worker, &view, &request).await
        }
        Err(error) => refused(error.clone()),
    };
    let mut response = response(worker, &view, fields.accept_encoding, answer);
    if head.method == Method::HEAD {
        take_body(&mut response);
    }
    response
}

/// Leaves of an answer what one to HEAD may have.
fn take_body(response: &mut Response<Full<Bytes>>) {
    let body = std::mem::take(response.body_mut());
    if let Some(length @ 1..) = body.size_hint().exact() {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
}

/// A body as a whole.
async fn collect(
    worker: &Worker,
    body: &mut Incoming,
    limits: &Limits,
    share: &mut Option<Share>,
) -> Result<Vec<u8>, Error> {
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let broken =
            |error| Error::new(ErrorKind::MalformedHttp, format!("the body broke off: {error}"));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if (whole.len() + data.len()) as u64 > limits.body {
            return Err(face::too_large(limits.body));
        }
        whole.extend_from_slice(&data);
        Share::cover(share, worker, whole.capacity(), limits.memory)?;
    }
    Ok(whole)
}

fn response(
    worker: &Worker,
    view: &View,
    accepts: Option<&[u8]>,
    answer: Answer<'_>,
) -> Response<Full<Bytes>> {
    let packed =
        if write::packs(view, accepts, &answer) { write::pack(&answer.body) } else { None };
    let mut fields: Vec<(&str, Vec<u8>)> = Vec::new();
    if !answer.content_type.is_empty() {
        fields.push(("content-type", answer.content_type.to_vec()));
    }
    if packed.is_some() {
        fields.push(("content-encoding", b"gzip".to_vec()));
    }
    if view.settings.reveal {
        fields.push(("x-plimsoll-instance", view.settings.instance.clone().into()));
        if answer.told.attempts > 0 {
            let mut upstreams = Vec::new();
            write::upstreams(&answer.told, &mut upstreams);
            fields.push(("x-plimsoll-upstream", upstreams));
            fields.push(("x-plimsoll-attempts", answer.told.attempts.to_string().into()));
        }
    }
    fields.extend(answer.fields.iter().map(|(name, value)| (name.as_ref(), value.clone())));
    let body = packed.unwrap_or_else(|| answer.body.clone());
    let body = Bytes::from_owner(Sent { body, _share: answer.share });
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&value)) {
            response.headers_mut().append(name, value);
        }
    }
    worker.give_buffer(answer.body);
    response
}

/// A body on its way: it counts until its last byte has gone, however slowly it is read.
struct Sent {
    body: Vec<u8>,
    _share: Option<Share>,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// A connection of which some bytes were read before.
struct Rewound {
    read: Vec<u8>,
    at: usize,
    io: Io,
}

impl AsyncRead for Rewound {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.at < this.read.len() {
            let end = this.read.len().min(this.at + into.remaining());
            into.put_slice(&this.read[this.at..end]);
            this.at = end;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_read(context, into)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}
