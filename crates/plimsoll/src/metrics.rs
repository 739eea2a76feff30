//! The Prometheus endpoint of a run: `GET /metrics` on the address given with `--metrics`.
//!
//! The page is rendered once per second; a scrape only returns it.

use crate::web::{self, full, respond};
use hyper::StatusCode;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

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

/// Serves the page until the process ends, and returns the address it listens on.
pub(crate) fn serve(address: &str, page: Page) -> anyhow::Result<SocketAddr> {
    let listener = web::bind(address, "metrics", "127.0.0.1:9464")?;
    web::serve(listener, "metrics", move |request, _| {
        let (status, text) = match request.uri().path() {
            "/metrics" => (StatusCode::OK, page.get()),
            _ => (StatusCode::NOT_FOUND, "see /metrics\n".to_string()),
        };
        respond(status, "text/plain; version=0.0.4", full(text))
    })
}
