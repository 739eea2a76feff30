//! The access log: a line of JSON for a sample of the requests.
//!
//! The workers format the lines, and a dedicated thread writes them, so that a slow disk does not slow
//! down calls. If the thread cannot keep up, lines are dropped and counted.

mod writer;

use std::borrow::Cow;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use plimsoll_measure::{Nanos, WallClock};
use plimsoll_rpc::json;

use crate::error::CallError;
use writer::{Order, Output, State, Writer, open_file};

/// Maximum number of queued lines.
const LINES_MAX: usize = 4_096;

/// The access log.
pub(crate) struct AccessLog {
    /// `None`: stderr.
    file: Option<PathBuf>,
    /// Set once the log is opened.
    lines: OnceLock<SyncSender<Order>>,
    state: Arc<State>,
}

/// The fields of a line.
pub(crate) struct Entry<'a> {
    /// Since 1970, in nanoseconds.
    pub(crate) at: u64,
    pub(crate) instance: &'a str,
    pub(crate) client: IpAddr,
    pub(crate) method: &'a str,
    /// Without anything that may be a credential.
    pub(crate) path: Cow<'a, str>,
    /// Masked.
    pub(crate) endpoint: Option<String>,
    /// The service that the caller named; masked if it is unknown.
    pub(crate) service: Option<Cow<'a, str>>,
    /// The call's method, if it is a known one.
    pub(crate) rpc_method: Option<&'a str>,
    pub(crate) upstreams: &'a str,
    /// How the calls used the cache.
    pub(crate) cache: Option<&'static str>,
    pub(crate) status: u16,
    pub(crate) calls: u32,
    pub(crate) failed: u32,
    pub(crate) attempts: u32,
    pub(crate) bytes_in: usize,
    pub(crate) took: Nanos,
    pub(crate) request_id: Option<&'a [u8]>,
    /// The first error that the caller was answered with.
    pub(crate) error: Option<CallError>,
    /// The HTTP status of the last upstream response.
    pub(crate) upstream_status: Option<u16>,
}

/// A line that is completed at the end of its answer.
pub(crate) struct Line(Vec<u8>);

impl AccessLog {
    /// A log that appends to a file, or writes to stderr, once it is opened.
    pub(crate) fn new(file: Option<&Path>) -> AccessLog {
        let file = file.map(Path::to_path_buf);
        AccessLog { file, lines: OnceLock::new(), state: Arc::default() }
    }

    /// Opens the log, unless it is already open.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread cannot be spawned.
    pub(crate) fn open(&self) -> io::Result<()> {
        if self.lines.get().is_some() {
            return Ok(());
        }
        let out: Box<dyn Output> = match &self.file {
            Some(path) => Box::new(open_file(path)?),
            None => Box::new(io::stderr()),
        };
        let (lines, waiting) = sync_channel(LINES_MAX);
        let state = self.state.clone();
        std::thread::Builder::new().name("access-log".into()).spawn({
            let file = self.file.clone();
            move || Writer { out, file, state: &state }.run(&waiting)
        })?;
        // Never set concurrently: only the thread that starts and reloads the gateway opens the log.
        let _ = self.lines.set(lines);
        Ok(())
    }

    /// Completes and queues a line at the end of its answer.
    pub(crate) fn write(&self, line: Line, bytes_out: u64, complete: bool) {
        let Some(lines) = self.lines.get() else { return };
        if lines.try_send(Order::Write(line.finish(bytes_out, complete))).is_err() {
            self.state.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reopens the file, for log rotation.
    pub(crate) fn reopen(&self) {
        if let Some(lines) = self.lines.get() {
            self.state.reopen.store(true, Ordering::Relaxed);
            // Wakes the thread; if the queue is full, it is awake.
            let _ = lines.try_send(Order::Reopen);
        }
    }

    /// The number of lines that were not written.
    pub(crate) fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::Relaxed)
    }

    /// What is wrong with the log at present, and what to do about it.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.state.trouble(self.file.as_deref())
    }
}

impl Line {
    /// Formats everything that is known when the answer is ready.
    pub(crate) fn new(entry: &Entry<'_>) -> Line {
        let mut out = Vec::with_capacity(256);
        let mut text = |name: &str, value: &str| {
            out.extend_from_slice(if out.is_empty() { b"{" } else { b"," });
            json::write_text(&mut out, name);
            out.push(b':');
            json::write_text(&mut out, value);
        };
        text("at", &WallClock { unix_ns: entry.at }.rfc3339());
        text("instance", entry.instance);
        text("client", &entry.client.to_string());
        text("http_method", entry.method);
        text("path", &entry.path);
        if let Some(id) = entry.request_id {
            text("request_id", &String::from_utf8_lossy(id));
        }
        if let Some(error) = entry.error {
            text("error", error.kind);
        }
        if let Some(endpoint) = &entry.endpoint {
            text("endpoint", endpoint);
        }
        if let Some(service) = &entry.service {
            text("service", service);
        }
        if let Some(method) = entry.rpc_method {
            text("method", method);
        }
        if !entry.upstreams.is_empty() {
            text("upstream", entry.upstreams);
        }
        if let Some(cache) = entry.cache {
            text("cache", cache);
        }
        let numbers = format!(
            ",\"status\":{},\"calls\":{},\"failed\":{},\"attempts\":{},\"bytes_in\":{},\"duration_ns\":{}",
            entry.status, entry.calls, entry.failed, entry.attempts, entry.bytes_in, entry.took.0
        );
        out.extend_from_slice(numbers.as_bytes());
        if let Some(error) = entry.error {
            out.extend_from_slice(format!(",\"code\":{}", error.code).as_bytes());
        }
        if let Some(status) = entry.upstream_status {
            out.extend_from_slice(format!(",\"upstream_status\":{status}").as_bytes());
        }
        Line(out)
    }

    /// Adds the bytes of the answer's body written to the caller's socket, and whether that was all.
    fn finish(mut self, bytes_out: u64, complete: bool) -> Vec<u8> {
        let truncated = if complete { "" } else { ",\"truncated\":true" };
        self.0.extend_from_slice(format!(",\"bytes_out\":{bytes_out}{truncated}}}\n").as_bytes());
        self.0
    }
}
