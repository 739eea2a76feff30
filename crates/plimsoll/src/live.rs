//! The live page of a run: the page of [`Summary::to_page`] on the address given with `--live`, and what
//! changes in it as server-sent events.
//!
//! The consumer of the run's seconds posts them on a [`Board`]; viewers read it at their own pace, so that
//! one that is slow or hangs costs its connection and nothing else. The board's memory is bounded by the
//! rows of the series. Everything is rendered once for all viewers, and figures only while someone watches. So what the
//! first viewer finds may be old: the consumer is called, and posts the current figures at once.
//!
//! # Events
//! `rows`, `facts` and `html` as in `crates/report/assets/page/live.js`; `end` when the run has ended. Their ids are
//! the board's version, so that a viewer that comes back receives only what it has not seen.

use crate::run_dir::{PAGE, PLAN, attachment};
use crate::web::{self, Body, Hangup, full, respond};
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::body::{Bytes, Incoming};
use hyper::header::HOST;
use hyper::{Method, Request, Response, StatusCode};
use plimsoll_measure::{Nanos, WallClock};
use plimsoll_report::{Scope, Summary, TimeSeries};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;

/// Where the page is unless its user says otherwise: Locust's port. If it is taken, a free one.
const DEFAULT: &str = "127.0.0.1:8089";
/// A viewer that accepts nothing for this long is disconnected.
const STALLED: Duration = Duration::from_secs(30);
/// How long the end of a run waits until its viewers know about it.
const FAREWELL: Duration = Duration::from_millis(500);
/// Sent if nothing else is, so that a viewer notices a lost connection.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Shown until the run starts; browsers ask again.
const PREPARING: &str = "<!doctype html><title>Plimsoll</title><meta http-equiv=\"refresh\" content=\"1\">\
                         <p>The run is being prepared.</p>\n";
/// Chunks on their way to a viewer.
const CHUNKS: usize = 1;

/// An event, and the version of the board since which it holds.
#[derive(Clone, Default)]
struct Post {
    version: u64,
    /// The first of its rows, if it has rows.
    from: usize,
    /// As it is sent; empty: nothing was posted.
    event: Bytes,
}

#[derive(Default)]
struct Posts {
    /// Tells this run from others on the same address.
    run: u64,
    version: u64,
    page: Bytes,
    rows: Vec<Post>,
    /// Calls the consumer of the run's seconds.
    call: Option<Box<dyn Fn() + Send>>,
    /// Complete rows in `rows`, and seconds in each.
    complete: usize,
    width: usize,
    facts: Post,
    html: Post,
    end: Post,
}

/// The number of viewers that have not seen the end.
#[derive(Default)]
struct Viewers {
    number: Mutex<usize>,
    left: Condvar,
}

impl Viewers {
    fn number(&self) -> MutexGuard<'_, usize> {
        self.number.lock().expect("no holder panics")
    }
}

/// What viewers see.
#[derive(Clone)]
pub(crate) struct Board {
    posts: Arc<Mutex<Posts>>,
    changed: Arc<watch::Sender<u64>>,
    viewers: Arc<Viewers>,
    /// Whether a viewer has come since figures were posted.
    is_called: Arc<AtomicBool>,
}

impl Board {
    /// A board on which nothing is posted.
    pub(crate) fn new() -> Board {
        let posts = Posts { run: WallClock::now().unix_ns, ..Posts::default() };
        Board {
            posts: Arc::new(Mutex::new(posts)),
            changed: Arc::new(watch::Sender::new(0)),
            viewers: Arc::default(),
            is_called: Arc::default(),
        }
    }

    fn posts(&self) -> MutexGuard<'_, Posts> {
        self.posts.lock().expect("no holder panics")
    }

    /// Posts the page before the first second. `plan` is shown on it; `run_dir` is where results are written.
    pub(crate) fn begin(&self, summary: &Summary, plan: &str, run_dir: Option<&Path>) {
        let plan = attachment(PLAN, plan.into());
        let folder = run_dir.map(|dir| dir.display().to_string()).unwrap_or_default();
        self.posts().page = summary.to_page(&[plan], Some(&folder)).into();
    }

    /// `call` is called when a viewer comes, from another thread and at most once until figures are posted.
    pub(crate) fn calls(&self, call: impl Fn() + Send + 'static) {
        self.posts().call = Some(Box::new(call));
    }

    /// Whether a viewer has come since figures were posted.
    pub(crate) fn is_called(&self) -> bool {
        self.is_called.load(Ordering::Relaxed)
    }

    fn call(&self) {
        if !self.is_called.swap(true, Ordering::Relaxed) {
            self.posts().call.iter().for_each(|call| call());
        }
    }

    /// Whether anyone looks at it.
    pub(crate) fn is_watched(&self) -> bool {
        *self.viewers.number() > 0
    }

    /// Posts the rows that are new or have changed. Times are counted from `start`.
    pub(crate) fn add(&self, series: &TimeSeries, start: Nanos) {
        let mut posts = self.posts();
        if posts.width != series.width() {
            posts.rows.clear();
            (posts.complete, posts.width) = (0, series.width());
        }
        let (from, len) = (posts.complete, series.len());
        if from == len {
            return;
        }
        let columns = series.columns(from..len, Scope::Run, start);
        // A row that was not complete is replaced.
        while posts.rows.last().is_some_and(|last| last.from >= from) {
            posts.rows.pop();
        }
        posts.complete = series.complete();
        let post = posts.next("rows", &columns);
        posts.rows.push(Post { from, ..post });
        self.tell(posts);
    }

    /// Posts the figures; `live`: the run goes on.
    pub(crate) fn show(&self, summary: &Summary, live: bool) {
        let html: serde_json::Map<String, Value> = summary
            .fragments(live)
            .into_iter()
            .map(|own| (own.id.into(), own.html.into()))
            .collect();
        self.is_called.store(false, Ordering::Relaxed);
        let (facts, html) = (summary.chart_facts(), Value::Object(html).to_string());
        let mut posts = self.posts();
        posts.facts = posts.next("facts", &facts);
        posts.html = posts.next("html", &html);
        self.tell(posts);
    }

    /// Posts that the run has ended, and waits a moment until its viewers know. `run_dir` has its report.
    pub(crate) fn end(&self, run_dir: Option<&Path>) {
        let page = run_dir.map(|dir| dir.join(PAGE));
        // Viewers do not know the working directory.
        let report =
            page.map(|page| std::path::absolute(&page).unwrap_or(page).display().to_string());
        let mut posts = self.posts();
        posts.end = posts.next("end", &json!({ "report": report }).to_string());
        self.tell(posts);
        let left = &self.viewers.left;
        let waited = left.wait_timeout_while(self.viewers.number(), FAREWELL, |number| *number > 0);
        drop(waited.expect("no holder panics"));
    }

    fn tell(&self, posts: MutexGuard<'_, Posts>) {
        let version = posts.version;
        drop(posts);
        self.changed.send_replace(version);
    }
}

impl Posts {
    /// An event of a new version.
    fn next(&mut self, name: &str, data: &str) -> Post {
        self.version += 1;
        let version = self.version;
        debug_assert!(!data.contains('\n'), "JSON on one line");
        let event = format!("event: {name}\nid: {}.{version}\ndata: {data}\n\n", self.run);
        Post { version, from: 0, event: event.into() }
    }

    /// The events after this version, in their order.
    fn since(&self, seen: u64) -> Vec<Bytes> {
        let rows = self.rows.partition_point(|post| post.version <= seen);
        let mut posts: Vec<&Post> = self.rows[rows..].iter().collect();
        posts.extend(
            [&self.facts, &self.html, &self.end].into_iter().filter(|post| post.version > seen),
        );
        posts.sort_by_key(|post| post.version);
        posts.into_iter().map(|post| post.event.clone()).collect()
    }
}

/// Serves the page until the process ends, and returns the address.
pub(crate) fn serve(asked: Option<&str>, board: &Board) -> anyhow::Result<SocketAddr> {
    let listener = match asked {
        // A port alone means this host.
        Some(port) if port.trim_start_matches(':').parse::<u16>().is_ok() => {
            let address = format!("127.0.0.1:{}", port.trim_start_matches(':'));
            web::bind(&address, "the live view", DEFAULT)?
        }
        Some(address) => web::bind(address, "the live view", DEFAULT)?,
        None => match TcpListener::bind(DEFAULT) {
            Ok(listener) => listener,
            Err(_) => web::bind("127.0.0.1:0", "the live view", DEFAULT)?,
        },
    };
    let local = listener.local_addr()?.ip().to_canonical().is_loopback();
    let board = board.clone();
    web::serve(listener, "live", move |request, hangup| answer(request, hangup, &board, local))
}

fn answer(
    request: &Request<Incoming>,
    hangup: &Hangup,
    board: &Board,
    local: bool,
) -> Response<Body> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const EVENTS: &str = "text/event-stream";
    const HTML: &str = "text/html; charset=utf-8";
    // Otherwise a page of a stranger could read this one, under a name that it has pointed here.
    if local && !request.headers().get(HOST).is_some_and(|host| is_local(host.as_bytes())) {
        let text = "this page is for this host: open it by 127.0.0.1 or localhost\n";
        return respond(StatusCode::FORBIDDEN, TEXT, full(text));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, full("only GET\n"));
    }
    match request.uri().path() {
        "/" => {
            let page = board.posts().page.clone();
            match page.is_empty() {
                true => respond(StatusCode::SERVICE_UNAVAILABLE, HTML, full(PREPARING)),
                false => respond(StatusCode::OK, HTML, full(page)),
            }
        }
        "/events" if request.method() == Method::HEAD => respond(StatusCode::OK, EVENTS, full("")),
        "/events" => {
            let seen = request.headers().get("last-event-id").and_then(|id| id.to_str().ok());
            let (sender, body) = Channel::new(CHUNKS);
            let viewer = Viewer::new(board.clone(), hangup.clone(), sender);
            tokio::task::spawn_local(viewer.watch(seen.map(String::from)));
            respond(StatusCode::OK, EVENTS, body.boxed_unsync())
        }
        _ => respond(StatusCode::NOT_FOUND, TEXT, full("see /\n")),
    }
}

/// Whether a Host header names this host.
fn is_local(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// One who watches; counted until dropped.
struct Viewer {
    board: Board,
    hangup: Hangup,
    sender: Sender<Bytes>,
}

impl Viewer {
    fn new(board: Board, hangup: Hangup, sender: Sender<Bytes>) -> Viewer {
        *board.viewers.number() += 1;
        board.call();
        Viewer { board, hangup, sender }
    }

    /// Sends what is new until the run ends or the viewer leaves. `last` is the id of the last event that it
    /// has received.
    async fn watch(mut self, last: Option<String>) {
        let mut changed = self.board.changed.subscribe();
        let run = self.board.posts().run;
        let mut seen = match last.as_deref().and_then(|id| id.split_once('.')) {
            None => 0,
            Some((of, seen)) if of == run.to_string() => seen.parse().unwrap_or(0),
            Some(_) => {
                // Its page is that of an earlier run.
                let _ = self.send(Bytes::from_static(b"event: reload\ndata: {}\n\n")).await;
                return;
            }
        };
        loop {
            let (events, version, ended) = {
                let posts = self.board.posts();
                (posts.since(seen), posts.version, posts.end.version > 0)
            };
            for event in events {
                if !self.send(event).await {
                    return;
                }
            }
            seen = version;
            if ended {
                return;
            }
            match tokio::time::timeout(HEARTBEAT, changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    if !self.send(Bytes::from_static(b":\n\n")).await {
                        return;
                    }
                }
            }
        }
    }

    /// Whether the viewer has room for it; one that has none for too long is disconnected.
    async fn send(&mut self, event: Bytes) -> bool {
        match tokio::time::timeout(STALLED, self.sender.send_data(event)).await {
            Ok(sent) => sent.is_ok(),
            Err(_) => {
                self.hangup.now();
                false
            }
        }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        *self.board.viewers.number() -= 1;
        self.board.viewers.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plimsoll_measure::{RunFacts, StartFacts};
    use plimsoll_plan::{Document, Plan, Variables};
    use plimsoll_report::Fold;

    /// A viewer with its connection, of which nothing reads the body unless the test does.
    fn viewer(board: &Board) -> (Viewer, Hangup, Channel<Bytes>) {
        let (sender, body) = Channel::new(CHUNKS);
        let hangup = Hangup::default();
        (Viewer::new(board.clone(), hangup.clone(), sender), hangup, body)
    }

    #[tokio::test(start_paused = true)]
    async fn a_viewer_that_hangs_is_disconnected() {
        let board = Board::new();
        let (watching, hangup, _unread) = viewer(&board);
        assert!(board.is_watched());
        let watched = tokio::spawn(watching.watch(None));
        // Heartbeats fill its buffer.
        let started = tokio::time::Instant::now();
        hangup.asked().await;
        watched.await.unwrap();
        assert!(started.elapsed() <= 2 * HEARTBEAT + STALLED && !board.is_watched());
    }

    #[test]
    fn the_consumer_is_called_once_until_it_posts_figures() {
        let board = Board::new();
        let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = calls.clone();
        board.calls(move || _ = counted.fetch_add(1, Ordering::Relaxed));
        let viewers = [viewer(&board), viewer(&board)];
        assert!(board.is_called() && calls.load(Ordering::Relaxed) == 1);
        let plan = Plan::read(
            &Document::new(
                "plan.toml",
                "rate = 1\nduration = \"1s\"\n[[target]]\nrequest = \"GET http://h/\"\n",
            ),
            &Variables::none(),
            Path::new("."),
        );
        let plan = plan.unwrap_or_else(|problems| panic!("{problems}"));
        let start = StartFacts {
            started_at: WallClock { unix_ns: 0 },
            cpus: 1,
            workers: 1,
            forced: Vec::new(),
        };
        let facts = RunFacts::so_far(start, Nanos::ZERO, Nanos::from_secs(1));
        let summary = Fold::new(&plan).finish(facts);
        board.show(&summary, true);
        assert!(!board.is_called());
        drop(viewers);
        let _next = viewer(&board);
        assert!(board.is_called() && calls.load(Ordering::Relaxed) == 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_viewer_that_left_is_not_counted() {
        let board = Board::new();
        let (watching, _, body) = viewer(&board);
        drop(body);
        watching.watch(None).await;
        assert!(!board.is_watched());
    }

    #[test]
    fn only_names_of_this_host_are_local() {
        let check =
            |host: &str, local: bool| assert_eq!(is_local(host.as_bytes()), local, "{host}");
        for host in
            ["127.0.0.1", "127.0.0.1:8089", "localhost:1", "LOCALHOST", "[::1]:80", "127.9.9.9:1"]
        {
            check(host, true);
        }
        for host in
            ["", "evil.example:8089", "10.0.0.1:80", "127.0.0.1.evil.example", "[::2]:80", "["]
        {
            check(host, false);
        }
    }
}
