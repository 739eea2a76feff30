//! The access log: a line of JSON for a sample of the calls.
//!
//! Lines are made by the workers and written by a thread of their own, so that a slow disk slows no
//! call: when it cannot keep up, lines are dropped and counted.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use plimsoll_measure::{Nanos, WallClock};
use plimsoll_rpc::json;

use plimsoll_registry::settings::Network;

use crate::error::CallError;

/// Lines that wait to be written.
const LINES_MAX: usize = 4_096;

/// Lines that wait are written together, this many bytes at a time.
const BATCH: usize = 32 << 10;

/// Where lines go.
pub(crate) struct AccessLog {
    /// `None`: stderr.
    file: Option<PathBuf>,
    /// Opened when it is first needed.
    lines: OnceLock<SyncSender<Order>>,
    outcome: Arc<Outcome>,
}

/// Orders to the thread that writes.
enum Order {
    Write(Vec<u8>),
    /// Open the file again: it was moved away.
    Reopen,
}

/// What became of lines.
#[derive(Default)]
struct Outcome {
    dropped: AtomicU64,
    /// Why the last write failed; `None`: it did not.
    trouble: Mutex<Option<String>>,
}

/// One call, as it is logged.
pub(crate) struct Entry<'a> {
    /// Since 1970, in nanoseconds.
    pub(crate) at: u64,
    pub(crate) instance: &'a str,
    pub(crate) client: IpAddr,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) endpoint: Option<Cow<'a, str>>,
    pub(crate) service: Option<&'a [u8]>,
    /// The call's method, where it is one that is known.
    pub(crate) rpc_method: Option<&'a str>,
    pub(crate) upstreams: &'a str,
    pub(crate) status: u16,
    pub(crate) calls: u32,
    pub(crate) failed: u32,
    pub(crate) attempts: u32,
    pub(crate) bytes_in: usize,
    pub(crate) took: Nanos,
    /// What the request is called.
    pub(crate) request_id: Option<&'a [u8]>,
    /// The first error that it was answered with.
    pub(crate) error: Option<CallError>,
    /// The HTTP status of the last upstream response.
    pub(crate) upstream_status: Option<u16>,
}

/// A line that waits for the end of its answer.
pub(crate) struct Line(Vec<u8>);

impl AccessLog {
    /// A log that is appended to a file, or goes to stderr, once it is opened.
    pub(crate) fn new(file: Option<&Path>) -> AccessLog {
        let file = file.map(Path::to_path_buf);
        AccessLog { file, lines: OnceLock::new(), outcome: Arc::default() }
    }

    /// Opens it, unless it is open.
    ///
    /// # Errors
    /// The file cannot be opened, or there is no thread to be had.
    pub(crate) fn open(&self) -> io::Result<()> {
        if self.lines.get().is_some() {
            return Ok(());
        }
        let out: Box<dyn Write + Send> = match &self.file {
            Some(path) => Box::new(open_file(path)?),
            None => Box::new(io::stderr()),
        };
        let (lines, waiting) = sync_channel(LINES_MAX);
        let outcome = self.outcome.clone();
        std::thread::Builder::new().name("access-log".into()).spawn({
            let file = self.file.clone();
            move || write(out, file.as_deref(), &waiting, &outcome)
        })?;
        // Only one thread opens it: the one that starts and reloads.
        let _ = self.lines.set(lines);
        Ok(())
    }

    /// Writes a line at the end of its answer.
    pub(crate) fn write(&self, line: Line, bytes_out: u64, complete: bool) {
        let Some(lines) = self.lines.get() else { return };
        if lines.try_send(Order::Write(line.finish(bytes_out, complete))).is_err() {
            self.outcome.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Opens its file again, so that another program may move it away.
    pub(crate) fn reopen(&self) {
        if let Some(lines) = self.lines.get() {
            // Where too much waits to be written, the next time will do.
            let _ = lines.try_send(Order::Reopen);
        }
    }

    /// Lines that were not written.
    pub(crate) fn dropped(&self) -> u64 {
        self.outcome.dropped.load(Ordering::Relaxed)
    }

    /// Why lines cannot be written at present, with the file.
    pub(crate) fn trouble(&self) -> Option<String> {
        let trouble = self.outcome.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.file.as_ref().map_or("stderr".into(), |file| file.to_string_lossy());
        trouble.as_ref().map(|why| format!("{file}: {why}"))
    }
}

/// Writes lines until nobody can send any more. A full disk is no reason to stop relaying: what
/// cannot be written is counted, and the next lines are tried.
fn write(
    mut out: Box<dyn Write + Send>,
    file: Option<&Path>,
    waiting: &Receiver<Order>,
    outcome: &Outcome,
) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut is_torn = false;
    let mut next = waiting.recv().ok();
    while let Some(order) = next.take() {
        let mut failed = None;
        match order {
            Order::Reopen => {
                // What cannot be opened again is written to as before.
                match file.map(open_file) {
                    Some(Ok(again)) => (out, is_torn) = (Box::new(again), false),
                    Some(Err(error)) => failed = Some(error),
                    None => {}
                }
            }
            Order::Write(line) => {
                batch.clear();
                if is_torn {
                    // A part of the batch before may have been written.
                    batch.push(b'\n');
                }
                batch.extend_from_slice(&line);
                let mut lines = 1;
                while batch.len() < BATCH {
                    match waiting.try_recv() {
                        Ok(Order::Write(line)) => batch.extend_from_slice(&line),
                        other => {
                            next = other.ok();
                            break;
                        }
                    }
                    lines += 1;
                }
                failed = out.write_all(&batch).err();
                is_torn = failed.is_some();
                if is_torn {
                    outcome.dropped.fetch_add(lines, Ordering::Relaxed);
                }
            }
        }
        let failed = failed.map(|error| error.to_string());
        *outcome.trouble.lock().unwrap_or_else(PoisonError::into_inner) = failed;
        next = next.or_else(|| waiting.recv().ok());
    }
}

/// Opens a log that only its owner may read.
fn open_file(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}

impl Line {
    /// Everything that is known when the answer is ready.
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
        text("path", entry.path);
        if let Some(id) = entry.request_id {
            text("request_id", &String::from_utf8_lossy(id));
        }
        if let Some(error) = entry.error {
            text("error", error.kind);
        }
        if let Some(endpoint) = &entry.endpoint {
            text("endpoint", &masked(endpoint));
        }
        if let Some(service) = entry.service {
            text("service", &String::from_utf8_lossy(service));
        }
        if let Some(method) = entry.rpc_method {
            text("method", method);
        }
        if !entry.upstreams.is_empty() {
            text("upstream", entry.upstreams);
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

    /// Adds what became of the answer's body: bytes handed to the caller's socket, and whether that
    /// was all of it.
    fn finish(mut self, bytes_out: u64, complete: bool) -> Vec<u8> {
        let truncated = if complete { "" } else { ",\"truncated\":true" };
        self.0.extend_from_slice(format!(",\"bytes_out\":{bytes_out}{truncated}}}\n").as_bytes());
        self.0
    }
}

/// Whose call it is: the nearest address of X-Forwarded-For that no trusted proxy has, as far as
/// trusted proxies vouch for it.
pub(crate) fn client(peer: IpAddr, forwarded_for: Option<&[u8]>, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.holds(address));
    let mut client = peer;
    let chain = forwarded_for.unwrap_or_default().rsplit(|byte| *byte == b',');
    for hop in chain {
        if !is_trusted(client) {
            break;
        }
        let hop = std::str::from_utf8(hop).ok().and_then(|hop| hop.trim().parse().ok());
        let Some(hop) = hop else { break };
        client = hop;
    }
    client
}

/// An endpoint's id, shortened: it is its customer's credential.
fn masked(id: &str) -> Cow<'_, str> {
    const SHOWN: usize = 4;
    let mut back = id.char_indices().rev().map(|(at, _)| at);
    match back.nth(SHOWN - 1) {
        Some(at) if at > 2 * SHOWN => {
            let front: String = id.chars().take(SHOWN).collect();
            Cow::Owned(format!("{front}…{}", &id[at..]))
        }
        _ => Cow::Borrowed(id),
    }
}

/// Whether X-Forwarded-For holds nothing but addresses.
pub(crate) fn is_chain(forwarded_for: &[u8]) -> bool {
    let is_address =
        |hop: &[u8]| std::str::from_utf8(hop).is_ok_and(|hop| hop.trim().parse::<IpAddr>().is_ok());
    forwarded_for.split(|byte| *byte == b',').all(is_address)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that is full now and then: the write that meets it gets this many bytes through.
    struct Disk {
        written: Arc<Mutex<Vec<u8>>>,
        full: Arc<Mutex<Option<usize>>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut full = self.full.lock().expect("no panic");
            let n = full.map_or(bytes.len(), |room| room.min(bytes.len()));
            if n == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            full.iter_mut().for_each(|room| *room -= n);
            self.written.lock().expect("no panic").extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_costs_lines_and_is_told_until_there_is_room() {
        let (written, full) = (Arc::default(), Arc::new(Mutex::new(None)));
        let disk = Disk { written: Arc::clone(&written), full: full.clone() };
        let outcome = Outcome::default();
        let trouble = || outcome.trouble.lock().expect("no panic").clone();
        let said = |wanted: bool| {
            while trouble().is_some() != wanted {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            let disk: Box<dyn Write + Send> = Box::new(disk);
            let outcome = &outcome;
            let (lines, waiting) = sync_channel(LINES_MAX);
            let log = move |room: Option<usize>, line: &str| {
                *full.lock().expect("no panic") = room;
                lines.send(Order::Write(line.as_bytes().to_vec())).expect("it is waited for");
            };
            // Ends when `log` is gone.
            scope.spawn(move || write(disk, None, &waiting, outcome));
            log(Some(3), "one\n");
            said(true);
            assert_eq!(trouble().as_deref(), Some("no storage space"));
            log(Some(0), "two\n");
            while outcome.dropped.load(Ordering::Relaxed) < 2 {
                std::thread::yield_now();
            }
            log(None, "three\n");
            said(false);
        });
        assert_eq!(outcome.dropped.load(Ordering::Relaxed), 2);
        let written = written.lock().expect("no panic");
        assert_eq!(String::from_utf8_lossy(&written), "one\nthree\n");
    }

    #[test]
    fn endpoints_are_not_logged_as_they_are_called() {
        assert_eq!(masked("ethpath_1764014188689_1764014188693"), "ethp…8693");
        assert_eq!(masked("abcdefghijklm"), "abcd…jklm");
        assert_eq!(masked("short_1"), "short_1");
        assert_eq!(masked(""), "");
    }

    #[test]
    fn clients_are_believed_as_far_as_proxies_are_trusted() {
        let trusted: Vec<Network> =
            ["127.0.0.1", "10.0.0.0/8"].map(|text| Network::parse(text).expect(text)).into();
        let check = |peer: &str, chain: &str, client: &str| {
            let ip = |text: &str| -> IpAddr { text.parse().expect(text) };
            let chain = Some(chain.as_bytes()).filter(|chain| !chain.is_empty());
            assert_eq!(super::client(ip(peer), chain, &trusted), ip(client));
        };
        check("203.0.113.9", "", "203.0.113.9");
        check("203.0.113.9", "198.51.100.1", "203.0.113.9"); // nobody vouches for it
        check("127.0.0.1", "198.51.100.1", "198.51.100.1");
        check("127.0.0.1", "198.51.100.1, 10.1.2.3", "198.51.100.1");
        check("127.0.0.1", "6.6.6.6, 198.51.100.1, 10.1.2.3", "198.51.100.1"); // forged in front
        check("127.0.0.1", "garbage", "127.0.0.1");
        check("127.0.0.1", "", "127.0.0.1");
    }
}
