//! The HTTP servers of a run: its metrics and its live page. Each has a thread of its own.
//!
//! A peer that is slow, hangs or sends nonsense takes one of [`CONNECTIONS_MAX`] places, and a connection
//! without a request ends after [`HEAD_TIMEOUT`].

use crate::usage_error;
use anyhow::Context;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_FRAME_OPTIONS};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

/// Connections at once; further ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 100;
/// The longest wait for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that accepts nothing for this long is disconnected, in milliseconds.
const STALLED_MS: u32 = 30_000;
/// Pause after a connection could not be accepted for want of descriptors. The connection stays in
/// the backlog, so that without a pause the thread would spin, on a core that the run needs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A body of known length or a stream.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Closes a connection from its server's side, whatever is still to be sent.
#[derive(Clone, Default)]
pub(crate) struct Hangup(Arc<Notify>);

impl Hangup {
    /// Closes it.
    pub(crate) fn now(&self) {
        self.0.notify_one();
    }

    /// Returns once it is to be closed.
    pub(crate) async fn asked(&self) {
        self.0.notified().await;
    }
}

/// Binds an address. `what` is served there; `example` is an address that a user could give.
pub(crate) fn bind(address: &str, what: &str, example: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| {
        let hint = format!("ADDR must be IP:PORT, such as {example}; port 0 picks a free port");
        usage_error(format!("cannot serve {what} on {address}: {error}"), hint)
    })
}

/// Answers requests on a thread of its own until the process ends, and returns the address.
pub(crate) fn serve(
    listener: TcpListener,
    thread: &str,
    answer: impl Fn(&Request<Incoming>, &Hangup) -> Response<Body> + Send + 'static,
) -> anyhow::Result<SocketAddr> {
    let bound = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name(thread.into())
        .spawn(move || {
            tokio::task::LocalSet::new().block_on(&runtime, accept(listener, Arc::new(answer)));
        })
        .with_context(|| format!("cannot spawn the thread {thread}"))?;
    Ok(bound)
}

async fn accept(
    listener: TcpListener,
    answer: Arc<impl Fn(&Request<Incoming>, &Hangup) -> Response<Body> + 'static>,
) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Ends a connection whose peer accepts nothing, whatever is being sent; kernels without it keep it.
        let _ = setsockopt(&socket, sockopt::TcpUserTimeout, &STALLED_MS);
        let (answer, hangup) = (answer.clone(), Hangup::default());
        let hung_up = hangup.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let response = answer(&request, &hangup);
            async move { Ok::<_, Infallible>(response) }
        });
        tokio::task::spawn_local(async move {
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(socket), service);
            // A peer that leaves early does not affect the run.
            tokio::select! {
                _ = served => {}
                () = hung_up.asked() => {}
            }
            drop(place);
        });
    }
}

/// A response with a body of this type.
pub(crate) fn respond(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}

/// A body of known length.
pub(crate) fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).boxed_unsync()
}
