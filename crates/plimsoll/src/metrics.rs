//! The Prometheus endpoint of a run: `GET /metrics` on the address given with `--metrics`.
//!
//! The page is rendered once per second; a scrape only returns it.

use crate::usage_error;
use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Pause after a connection could not be accepted for want of descriptors. The connection stays in
/// the backlog, so that without a pause the thread would spin, on a core that the run needs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The current page.
#[derive(Clone, Default)]
pub(crate) struct Page(Arc<Mutex<String>>);

impl Page {
    /// Replaces the page.
    pub(crate) fn set(&self, text: String) {
        *self.0.lock().expect("no holder panics") = text;
    }

    fn get(&self) -> String {
        self.0.lock().expect("no holder panics").clone()
    }
}

/// Serves the page on its own thread until the process ends, and returns the address it listens on.
pub(crate) fn serve(address: &str, page: Page) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address).map_err(|error| {
        let hint = "ADDR must be IP:PORT, such as 127.0.0.1:9464; port 0 picks a free port";
        usage_error(format!("cannot serve metrics on {address}: {error}"), hint)
    })?;
    let bound = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("metrics".into())
        .spawn(move || runtime.block_on(accept(listener, page)))
        .context("cannot spawn the metrics thread")?;
    Ok(bound)
}

async fn accept(listener: TcpListener, page: Page) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let page = page.clone();
                let answer = service_fn(move |request: Request<Incoming>| {
                    let response = answer(&request, &page);
                    async move { Ok::<_, Infallible>(response) }
                });
                tokio::task::spawn_local(async move {
                    let served = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), answer)
                        .await;
                    // A scraper that disconnects early does not affect the run.
                    drop(served);
                });
            }
        })
        .await;
}

fn answer(request: &Request<Incoming>, page: &Page) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/metrics" => (StatusCode::OK, page.get()),
        _ => (StatusCode::NOT_FOUND, "see /metrics\n".to_string()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    response
}
