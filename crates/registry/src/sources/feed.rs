//! Follows a database on a server: a thread of its own keeps a gateway's entries up to date, so that
//! nothing else ever waits for the server, or for the disk with the snapshot, however they fail.
//!
//! The thread asks for changes when the server announces one, and every [`POLL_INTERVAL`] in any case: an
//! announcement may be lost without a trace (a proxy between, a connection that died silently), and the
//! question is also how a server that hangs is noticed. After a failure it tries again with growing
//! pauses that stay below a second, so that changes made meanwhile are in use within a second of the
//! server's return.
//!
//! Everything read is also written to a [`Snapshot`]. If the server cannot be reached at the
//! start, the snapshot's entries are used until it can.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::snapshot::Snapshot;
use crate::store::{Entries, Listener, Status, Store, StoreError, StoreErrorKind};

/// How often changes are asked for.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The pause after a failure; it doubles with each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(800);

/// How long a start waits for a server that cannot be reached if there is no snapshot: the two may be
/// started at the same time.
pub const START_MAX: Duration = Duration::from_secs(30);

/// How long the maker of a change waits until this process knows it.
const REACH_MAX: Duration = Duration::from_secs(2);

/// What is known of a database.
#[derive(Clone, Debug, Default)]
struct Known {
    /// `None`: nothing yet.
    entries: Option<Arc<Entries>>,
    /// Why the last attempt failed; `None` if it succeeded.
    error: Option<StoreError>,
}

/// The entries of a database on a server, kept up to date by a thread.
#[derive(Debug)]
pub(super) struct Feed {
    store: Arc<Store>,
    known: watch::Receiver<Known>,
    /// Woken by new entries only.
    news: watch::Receiver<()>,
    /// The entries last taken.
    taken: Option<Arc<Entries>>,
    /// The thread ends when this is dropped.
    _alive: oneshot::Sender<()>,
}

impl Feed {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(
        store: Store,
        snapshot: Snapshot,
        status: Arc<Status>,
    ) -> std::io::Result<Feed> {
        let store = Arc::new(store);
        let (publish, known) = watch::channel(Known::default());
        let (announce, news) = watch::channel(());
        let (_alive, ended) = oneshot::channel();
        let server = store.clone();
        let follower = Follower { server, snapshot, status, publish, announce, ears: None };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("registry".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = follower.run() => {}
                    _ = ended => {}
                }
            });
            // A name that is being resolved must not keep the thread.
            runtime.shutdown_background();
        })?;
        Ok(Feed { store, known, news, taken: None, _alive })
    }

    /// The database, for changes.
    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What is known, for others than the gateway itself.
    pub(super) fn view(&self) -> View {
        View(self.known.clone())
    }

    /// The present entries; waits until there are some, at the start.
    ///
    /// # Errors
    /// The database has never been reached, and there is no snapshot of it.
    pub(super) async fn take(&mut self) -> Result<Arc<Entries>, StoreError> {
        let deadline = Instant::now() + START_MAX;
        loop {
            let Known { entries, error } = self.known.borrow_and_update().clone();
            if let Some(entries) = entries {
                self.taken = Some(entries.clone());
                return Ok(entries);
            }
            if let Some(error) = error
                && (Instant::now() >= deadline
                    || !matches!(error.kind, StoreErrorKind::Unreachable(_)))
            {
                return Err(error);
            }
            // At the deadline the loop returns the last error.
            if let Ok(Err(_)) = timeout_at(deadline, self.known.changed()).await {
                return Err(self.store.unreachable("its thread has ended"));
            }
        }
    }

    /// Whether there are entries that were not taken yet.
    ///
    /// # Errors
    /// Why the database cannot be used at present.
    pub(super) fn is_new(&self) -> Result<bool, StoreError> {
        let known = self.known.borrow();
        let is_new = match (&known.entries, &self.taken) {
            (Some(entries), Some(taken)) => !Arc::ptr_eq(entries, taken),
            (entries, _) => entries.is_some(),
        };
        match &known.error {
            Some(error) if !is_new => Err(error.clone()),
            _ => Ok(is_new),
        }
    }

    /// Waits for new entries.
    pub(super) async fn news(&mut self) {
        if self.news.changed().await.is_err() {
            // The thread has ended; nothing new will come.
            std::future::pending::<()>().await;
        }
    }
}

/// What a feed knows.
#[derive(Clone, Debug)]
pub(super) struct View(watch::Receiver<Known>);

impl View {
    /// The entries; `None` before there are any.
    pub(super) fn entries(&self) -> Option<Arc<Entries>> {
        self.0.borrow().entries.clone()
    }

    /// Waits until a change is known, for at most [`REACH_MAX`].
    pub(super) async fn reach(&mut self, sequence: u64) {
        let is_there = |known: &Known| {
            known.entries.as_ref().is_some_and(|entries| entries.sequence >= sequence)
        };
        // A reader sees the change a moment later.
        let _ = tokio::time::timeout(REACH_MAX, self.0.wait_for(is_there)).await;
    }
}

/// What is followed: a database on a server, or a scripted one in tests on virtual time.
trait Followed {
    /// Hears what the server announces.
    type Ears: Ears;

    /// Brings what is known up to date; returns whether anything was new.
    async fn refresh(&self, known: &mut Entries) -> Result<bool, StoreError>;

    /// Starts to listen; `None` if that is not possible now.
    async fn listen(&self) -> Option<Self::Ears>;
}

/// Hears what a server announces.
trait Ears {
    /// The number of the session that leads to the same server.
    fn session(&self) -> u64;

    /// Waits for a change; returns false once the connection is lost.
    async fn hear(&mut self) -> bool;
}

impl Followed for Arc<Store> {
    type Ears = Listener;

    async fn refresh(&self, known: &mut Entries) -> Result<bool, StoreError> {
        Store::refresh(self, known).await
    }

    async fn listen(&self) -> Option<Listener> {
        Store::listen(self).await
    }
}

impl Ears for Listener {
    fn session(&self) -> u64 {
        self.session
    }

    async fn hear(&mut self) -> bool {
        Listener::hear(self).await
    }
}

/// The thread's state.
struct Follower<S: Followed> {
    server: S,
    snapshot: Snapshot,
    status: Arc<Status>,
    publish: watch::Sender<Known>,
    announce: watch::Sender<()>,
    ears: Option<S::Ears>,
}

impl<S: Followed> Follower<S> {
    async fn run(mut self) {
        let mut entries = Entries::default();
        let mut pause = PAUSE_FIRST;
        loop {
            let before = entries.session;
            match self.server.refresh(&mut entries).await {
                Ok(is_new) => {
                    pause = PAUSE_FIRST;
                    self.took(&entries, is_new, before);
                    self.wait(entries.session).await;
                }
                Err(error) => {
                    self.failed(error, &mut entries);
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Publishes what was read. `before`: the session of the previous read.
    fn took(&mut self, entries: &Entries, is_new: bool, before: u64) {
        self.status.is_up(entries.sequence);
        let is_first = self.publish.borrow().entries.is_none();
        let is_whole = before != entries.session;
        if is_new || is_first || is_whole {
            self.status.snapshot_written(self.snapshot.write(entries, is_whole));
        }
        if is_new || is_first {
            self.publish
                .send_replace(Known { entries: Some(Arc::new(entries.clone())), error: None });
            self.announce.send_replace(());
        } else if self.publish.borrow().error.is_some() {
            self.publish.send_modify(|known| known.error = None);
        }
    }

    /// Publishes a failure; if nothing was ever read, the snapshot's entries with it.
    fn failed(&mut self, mut error: StoreError, entries: &mut Entries) {
        self.status.is_down(&error.kind.to_string());
        let mut known = self.publish.borrow().clone();
        // A program that is too old for the database must not serve what it knew of it.
        let is_usable = !matches!(error.kind, StoreErrorKind::Newer { .. });
        if known.entries.is_none() && is_usable {
            match self.snapshot.read() {
                Ok(Some(saved)) => {
                    self.status.uses_snapshot(saved.sequence);
                    *entries = saved.clone();
                    known.entries = Some(Arc::new(saved));
                }
                Ok(None) => {}
                Err(why) => {
                    let why = format!("{}: {why}", self.snapshot.path().display());
                    if let StoreErrorKind::Unreachable(reason) = &mut error.kind {
                        *reason += &format!("; the entries saved on disk cannot be used, {why}");
                    }
                    self.status.snapshot_written(Err(why));
                }
            }
        }
        known.error = Some(error);
        self.publish.send_replace(known);
    }

    /// Waits until it is time to ask for changes. The ears belong to the same server as the session.
    async fn wait(&mut self, session: u64) {
        let poll = Instant::now() + POLL_INTERVAL;
        if self.ears.as_ref().is_none_or(|ears| ears.session() != session) {
            self.ears = self.server.listen().await;
            if self.ears.is_some() {
                // Changes may have been made before it listened.
                return;
            }
        }
        let Some(ears) = &mut self.ears else {
            return tokio::time::sleep_until(poll).await;
        };
        if let Ok(false) = timeout_at(poll, ears.hear()).await {
            self.ears = None;
            tokio::time::sleep_until(poll).await;
        }
    }
}

#[cfg(test)]
mod tests;
