//! Reads other processes' Prometheus pages, each once a second, while a run goes on.
//!
//! On a thread of its own, so that the run neither waits for it nor fails with it: a page that cannot
//! be read is counted with its reason. The first pages are asked for before the run begins and the
//! last after it has ended, so that counters cover all of it.

use anyhow::Context;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use plimsoll_measure::{Clock, Scraped, Snapshot, WallClock, prometheus};
use plimsoll_plan::Scrape;
use std::error::Error;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// How often each page is read.
const EVERY: Duration = Duration::from_secs(1);
/// How long a page may take: less than until the next, so that pages never overlap, and the most that
/// the end of a run waits for.
const PAGE_TIMEOUT: Duration = Duration::from_millis(900);
/// The largest page, in bytes. A gateway's has some ten thousand.
const PAGE_MAX: usize = 4 << 20;

/// What was read since somebody last looked, a place for each scrape of the plan.
type Inbox = Arc<Mutex<Vec<Scraped>>>;

/// Reads pages until it is told to end.
pub(crate) struct Scraper {
    inbox: Inbox,
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Scraper {
    /// Begins to read; `None` when there is nothing to read.
    pub(crate) fn start(scrapes: &[Scrape]) -> anyhow::Result<Option<Scraper>> {
        if scrapes.is_empty() {
            return Ok(None);
        }
        let inbox: Inbox = Arc::new(Mutex::new(vec![Scraped::default(); scrapes.len()]));
        let (end, ended) = oneshot::channel();
        let pages: Vec<Arc<Page>> =
            scrapes.iter().map(|scrape| Arc::new(Page::of(scrape))).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let filled = inbox.clone();
        let thread = std::thread::Builder::new()
            .name("scrapes".into())
            .spawn(move || runtime.block_on(read_until(ended, &pages, &filled)))
            .context("cannot start a thread")?;
        Ok(Some(Scraper { inbox, end, thread }))
    }

    /// Moves what was read since the last time into a snapshot.
    pub(crate) fn add_to(&self, second: &mut Snapshot) {
        empty(&self.inbox, second);
    }

    /// Reads each page once more and ends; what is new goes into a snapshot.
    pub(crate) fn finish(self, last: &mut Snapshot) {
        // When the thread is gone already there is nobody to tell.
        let _ = self.end.send(());
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        empty(&self.inbox, last);
    }
}

fn empty(inbox: &Inbox, into: &mut Snapshot) {
    for (place, read) in inbox.lock().expect("no holder panics").iter_mut().enumerate() {
        let read = std::mem::take(read);
        if read.reads > 0 || !read.failures.is_empty() {
            into.scraped(place, &read);
        }
    }
}

/// Reads all pages every second, and once more when it is told to end.
async fn read_until(mut ended: oneshot::Receiver<()>, pages: &[Arc<Page>], inbox: &Inbox) {
    let start = (WallClock::now(), Clock::start());
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // A page that is being read when the run ends is given up, so that the end waits for one at most.
    loop {
        tokio::select! {
            biased;
            _ = &mut ended => break,
            _ = ticks.tick() => {}
        }
        tokio::select! {
            biased;
            _ = &mut ended => break,
            () = read_all(pages, inbox, start) => {}
        }
    }
    read_all(pages, inbox, start).await;
}

async fn read_all(pages: &[Arc<Page>], inbox: &Inbox, start: (WallClock, Clock)) {
    let mut reads = JoinSet::new();
    for (place, page) in pages.iter().cloned().enumerate() {
        reads.spawn(async move { (place, page.read(start).await) });
    }
    while let Some(read) = reads.join_next().await {
        let (place, read) = read.expect("reading a page does not panic");
        inbox.lock().expect("no holder panics")[place].append(&read);
    }
}

/// Where a page is.
struct Page {
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Page {
    fn of(scrape: &Scrape) -> Page {
        let url = &scrape.url;
        let (host, path) = (url.host.clone(), url.path.clone());
        Page { host, port: url.port, authority: url.authority(), path }
    }

    /// The page; the date goes on by a clock that nobody sets.
    async fn read(&self, (start, clock): (WallClock, Clock)) -> Scraped {
        let text = match tokio::time::timeout(PAGE_TIMEOUT, self.text()).await {
            Ok(Ok(text)) => text,
            Ok(Err(why)) => return Scraped::failure(why),
            Err(_) => {
                return Scraped::failure(format!("no page within {} ms", PAGE_TIMEOUT.as_millis()));
            }
        };
        let at = WallClock { unix_ns: start.unix_ns.saturating_add(clock.now().0) };
        match prometheus::parse(&text) {
            Ok(samples) => Scraped::page(at, samples),
            Err(fault) => {
                Scraped::failure(format!("not a page in Prometheus text format: {fault}"))
            }
        }
    }

    async fn text(&self) -> Result<String, String> {
        let socket = match self.host.parse::<IpAddr>() {
            Ok(address) => TcpStream::connect((address, self.port)).await,
            Err(_) => TcpStream::connect((self.host.as_str(), self.port)).await,
        };
        let socket = socket.map_err(|error| error.to_string())?;
        let wrong = |error: hyper::Error| in_full(&error);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(wrong)?;
        // Ends with the sender, or with what the sender is told.
        let connection = tokio::spawn(connection);
        let request = Request::get(self.path.as_str())
            .header(HOST, self.authority.as_str())
            .header(ACCEPT, "text/plain;version=0.0.4")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(wrong)?;
        if response.status() != StatusCode::OK {
            return Err(format!("status {}", response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), PAGE_MAX).collect().await;
        connection.abort();
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => format!("a page of more than {PAGE_MAX} bytes"),
            false => in_full(&*error),
        })?;
        String::from_utf8(body.to_bytes().into()).map_err(|_| "a page that is not UTF-8".into())
    }
}

/// An error and what it came from.
fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}
