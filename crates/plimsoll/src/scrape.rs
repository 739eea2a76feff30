//! Reads figures of other processes once a second during a run: their Prometheus metrics, or what the kernel
//! counts for a process or control group of this host ([`local`]).
//!
//! Runs on its own thread, so that scraping cannot delay or fail the run: failed scrapes are counted with
//! their reason. The first scrape starts before the run and the last after it has ended, so that counters
//! cover the whole run.

mod local;

use crate::usage_error;
use anyhow::Context;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use local::Local;
use plimsoll_measure::{Clock, Scraped, Snapshot, WallClock, prometheus};
use plimsoll_plan::{Plan, RelaysFrom, Scrape, ScrapeSource, Url};
use std::error::Error;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Scrape interval.
const EVERY: Duration = Duration::from_secs(1);
/// Timeout of a scrape: below the interval, so that scrapes never overlap. It is also the longest that
/// scraping delays the end of a run.
const PAGE_TIMEOUT: Duration = Duration::from_millis(900);
/// The largest page, in bytes. A gateway's has about ten thousand.
const PAGE_MAX: usize = 4 << 20;

/// What was scraped since the last call to [`Scraper::add_to`], one entry per scrape of the plan.
type Inbox = Arc<Mutex<Vec<Scraped>>>;

/// Scrapes until [`Scraper::finish`] is called.
pub(crate) struct Scraper {
    inbox: Inbox,
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Scraper {
    /// Starts scraping; `None` if the plan has no scrapes.
    ///
    /// # Errors
    /// A process or control group of this host does not exist.
    pub(crate) fn start(plan: &Plan) -> anyhow::Result<Option<Scraper>> {
        let scrapes = &plan.scrapes;
        if scrapes.is_empty() {
            return Ok(None);
        }
        check_local(scrapes)?;
        let inbox: Inbox = Arc::new(Mutex::new(vec![Scraped::default(); scrapes.len()]));
        let (end, ended) = oneshot::channel();
        let counted = plan.cost.as_ref().and_then(|cost| match &cost.relays {
            RelaysFrom::Metric(metric) => Some(metric.metric.as_str()),
            RelaysFrom::Answers => None,
        });
        let pages: Vec<Arc<Read>> =
            scrapes.iter().map(|scrape| Arc::new(Read::of(scrape, counted))).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let filled = inbox.clone();
        let thread = std::thread::Builder::new()
            .name("scrapes".into())
            .spawn(move || runtime.block_on(read_until(ended, &pages, &filled)))
            .context("cannot spawn the scraping thread")?;
        Ok(Some(Scraper { inbox, end, thread }))
    }

    /// Moves what was scraped since the last call into a snapshot.
    pub(crate) fn add_to(&self, second: &mut Snapshot) {
        drain(&self.inbox, second);
    }

    /// Scrapes once more, stops the thread, and adds the results to a snapshot.
    pub(crate) fn finish(self, last: &mut Snapshot) {
        // Fails only if the thread has already ended.
        let _ = self.end.send(());
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        drain(&self.inbox, last);
    }
}

fn drain(inbox: &Inbox, into: &mut Snapshot) {
    for (place, read) in inbox.lock().expect("no holder panics").iter_mut().enumerate() {
        let read = std::mem::take(read);
        if read.reads > 0 || !read.failures.is_empty() {
            into.scraped(place, &read);
        }
    }
}

/// Scrapes all pages every second, and once more after `ended`.
async fn read_until(mut ended: oneshot::Receiver<()>, pages: &[Arc<Read>], inbox: &Inbox) {
    let start = (WallClock::now(), Clock::start());
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // A scrape in progress when the run ends is cancelled, so that the end waits for one scrape at most.
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

async fn read_all(pages: &[Arc<Read>], inbox: &Inbox, start: (WallClock, Clock)) {
    let mut reads = JoinSet::new();
    for (place, page) in pages.iter().cloned().enumerate() {
        reads.spawn(async move { (place, page.read(start).await) });
    }
    while let Some(read) = reads.join_next().await {
        let (place, read) = read.expect("reading a page does not panic");
        inbox.lock().expect("no holder panics")[place].append(&read);
    }
}

/// All processes and control groups that do not exist: unlike a page, they will not appear later.
fn check_local(scrapes: &[Scrape]) -> anyhow::Result<()> {
    let missing = scrapes.iter().filter_map(|scrape| {
        let why = Local::of(scrape)?.used().err()?;
        Some(format!("the scrape \"{}\": {why}", scrape.name))
    });
    let missing: Vec<String> = missing.collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(usage_error(missing.join("\n"), "start it before the run, or remove the [[scrape]]"))
}

/// What is read each second.
enum Read {
    Page(Page),
    Local(Mutex<Local>),
}

impl Read {
    /// `counted`: a metric that is needed even if it is not charted.
    fn of(scrape: &Scrape, counted: Option<&str>) -> Read {
        match (&scrape.source, Local::of(scrape)) {
            (ScrapeSource::Url { url, .. }, _) => Read::Page(Page::of(url, scrape, counted)),
            (_, local) => Read::Local(Mutex::new(local.expect("the other sources are local"))),
        }
    }

    async fn read(&self, start: (WallClock, Clock)) -> Scraped {
        match self {
            Read::Page(page) => page.read(start).await,
            Read::Local(local) => local.lock().expect("no holder panics").read(now(start)),
        }
    }
}

/// The start's wall-clock time plus a monotonic clock.
fn now((start, clock): (WallClock, Clock)) -> WallClock {
    WallClock { unix_ns: start.unix_ns.saturating_add(clock.now().0) }
}

/// The location of a metrics page.
struct Page {
    host: String,
    port: u16,
    authority: String,
    path: String,
    /// The names of metrics that are charted.
    wanted: Vec<String>,
}

impl Page {
    fn of(url: &Url, scrape: &Scrape, counted: Option<&str>) -> Page {
        let (host, path) = (url.host.clone(), url.path.clone());
        let charted = scrape.charts.iter().map(|chart| chart.metric.clone());
        let wanted = charted.chain(counted.map(String::from)).collect();
        Page { host, port: url.port, authority: url.authority(), path, wanted }
    }

    /// Scrapes the page.
    async fn read(&self, start: (WallClock, Clock)) -> Scraped {
        let text = match tokio::time::timeout(PAGE_TIMEOUT, self.text()).await {
            Ok(Ok(text)) => text,
            Ok(Err(why)) => return Scraped::failure(why),
            Err(_) => {
                return Scraped::failure(format!(
                    "no response within {} ms",
                    PAGE_TIMEOUT.as_millis()
                ));
            }
        };
        let at = now(start);
        match prometheus::parse(&text) {
            Ok(samples) => {
                let wanted: Vec<&str> = self.wanted.iter().map(String::as_str).collect();
                Scraped::page(at, samples, &wanted)
            }
            Err(fault) => Scraped::failure(format!("not in Prometheus text format: {fault}")),
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
        // Ends when `sender` is dropped, or with an error that `sender` also returns.
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
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                format!("page larger than {PAGE_MAX} bytes")
            } else {
                in_full(&*error)
            }
        })?;
        String::from_utf8(body.to_bytes().into()).map_err(|_| "page is not valid UTF-8".into())
    }
}

/// An error with its chain of sources.
fn in_full(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}
