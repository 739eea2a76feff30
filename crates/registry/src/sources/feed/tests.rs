//! How soon a change is known, on virtual time: announced, when announcements are lost, and after the
//! server was unreachable.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::sync::Notify;

use super::*;

/// A server, as far as a feed sees it.
struct Server {
    sequence: Cell<u64>,
    is_up: Cell<bool>,
    /// The number of the connection; a restart ends it.
    session: Cell<u64>,
    announced: Rc<Notify>,
    /// Whether announcements are lost without a trace.
    is_mute: Cell<bool>,
    /// Whether nobody can listen.
    is_deaf: Cell<bool>,
    lost: Rc<Notify>,
    asked: Cell<u32>,
}

struct OpenEars {
    session: u64,
    announced: Rc<Notify>,
    lost: Rc<Notify>,
}

impl Ears for OpenEars {
    fn session(&self) -> u64 {
        self.session
    }

    async fn hear(&mut self) -> bool {
        tokio::select! {
            () = self.announced.notified() => true,
            () = self.lost.notified() => false,
        }
    }
}

impl Followed for Rc<Server> {
    type Ears = OpenEars;

    async fn refresh(&self, known: &mut Entries) -> Result<bool, StoreError> {
        self.asked.set(self.asked.get() + 1);
        if !self.is_up.get() {
            let kind = StoreErrorKind::Unreachable("refused".into());
            return Err(StoreError { database: "test".into(), kind });
        }
        let is_new = known.sequence != self.sequence.get();
        (known.sequence, known.session) = (self.sequence.get(), self.session.get());
        Ok(is_new)
    }

    async fn listen(&self) -> Option<OpenEars> {
        let ears = OpenEars {
            session: self.session.get(),
            announced: self.announced.clone(),
            lost: self.lost.clone(),
        };
        (self.is_up.get() && !self.is_deaf.get()).then_some(ears)
    }
}

impl Server {
    fn change(&self) {
        self.sequence.set(self.sequence.get() + 1);
        if self.is_up.get() && !self.is_mute.get() {
            self.announced.notify_one();
        }
    }

    fn stop(&self) {
        self.is_up.set(false);
        self.lost.notify_one();
    }

    fn start(&self) {
        self.is_up.set(true);
        self.session.set(self.session.get() + 1);
    }
}

/// Runs a test beside a feed of a server; it is given the entries that the feed publishes.
fn with<F: Future<Output = ()>>(test: impl FnOnce(Rc<Server>, watch::Receiver<Known>) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder =
        std::env::temp_dir().join(format!("plimsoll-feed-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let server = Rc::new(Server {
        sequence: Cell::new(1),
        is_up: Cell::new(true),
        session: Cell::new(1),
        announced: Rc::default(),
        is_mute: Cell::new(false),
        is_deaf: Cell::new(false),
        lost: Rc::default(),
        asked: Cell::new(0),
    });
    let (publish, known) = watch::channel(Known::default());
    let (announce, _news) = watch::channel(());
    let follower = Follower {
        server: server.clone(),
        snapshot: Snapshot::of(&folder, "test"),
        status: Arc::default(),
        publish,
        announce,
        ears: None,
    };
    runtime.block_on(async {
        tokio::select! {
            () = follower.run() => {}
            () = test(server, known) => {}
        }
    });
    std::fs::remove_dir_all(folder).unwrap();
}

/// How long it takes until the feed knows the server's present state.
async fn time_to_know(server: &Server, known: &mut watch::Receiver<Known>) -> Duration {
    let start = Instant::now();
    let sequence = server.sequence.get();
    let is_known =
        |known: &Known| known.entries.as_ref().is_some_and(|entries| entries.sequence == sequence);
    known.wait_for(is_known).await.unwrap();
    start.elapsed()
}

#[test]
fn an_announced_change_is_known_at_once() {
    with(async |server, mut known| {
        time_to_know(&server, &mut known).await;
        for millis in 0..200 {
            // At all phases of the poll.
            sleep(Duration::from_millis(37 * millis)).await;
            server.change();
            let took = time_to_know(&server, &mut known).await;
            assert_eq!(took, Duration::ZERO, "{millis}");
        }
    });
}

#[test]
fn a_change_whose_announcement_is_lost_is_known_with_the_next_poll() {
    for is_deaf in [false, true] {
        with(async |server, mut known| {
            server.is_mute.set(true);
            server.is_deaf.set(is_deaf);
            time_to_know(&server, &mut known).await;
            let longest = RefCell::new(Duration::ZERO);
            for step in 0..200 {
                sleep(Duration::from_millis(37 * step)).await;
                server.change();
                let took = time_to_know(&server, &mut known).await;
                longest.replace_with(|longest| took.max(*longest));
            }
            let longest = longest.into_inner();
            assert!(longest <= POLL_INTERVAL && longest > POLL_INTERVAL / 2, "{longest:?}");
        });
    }
}

#[test]
fn a_change_made_meanwhile_is_known_within_a_second_of_the_servers_return() {
    with(async |server, mut known| {
        time_to_know(&server, &mut known).await;
        for step in 0..100 {
            server.stop();
            sleep(Duration::from_millis(1 + 97 * step)).await;
            server.change();
            server.start();
            let took = time_to_know(&server, &mut known).await;
            assert!(took <= PAUSE_MAX, "{step}: {took:?}");
            // It listens again.
            sleep(Duration::from_millis(1)).await;
            server.change();
            assert_eq!(time_to_know(&server, &mut known).await, Duration::ZERO, "{step}");
        }
    });
}

#[test]
fn a_feed_asks_no_more_than_it_must() {
    with(async |server, mut known| {
        time_to_know(&server, &mut known).await;
        sleep(Duration::from_millis(1)).await;
        let asked = server.asked.get();
        sleep(Duration::from_secs(100)).await;
        assert_eq!(server.asked.get() - asked, 200);
        server.stop();
        let asked = server.asked.get();
        sleep(Duration::from_secs(100)).await;
        let asked = server.asked.get() - asked;
        assert!((120..135).contains(&asked), "{asked}");
    });
}
