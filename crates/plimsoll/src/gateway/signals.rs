//! Signals, and the exit of the supervisor.

use crate::lifeline;
use anyhow::Context;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// How long a process whose supervisor has exited may keep draining.
pub(super) const ORPHAN_DRAIN: Duration = Duration::from_secs(5);

/// A request to the process.
pub(super) enum Event {
    Stop,
    Reload,
    /// The supervisor has exited.
    Orphaned,
}

/// Receives signals, and notices when the supervisor's pipe closes.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    supervisor: Option<oneshot::Receiver<()>>,
    orphaned: bool,
}

impl Signals {
    /// Registers the signal handlers and, if `supervised`, watches the supervisor's pipe.
    pub(super) fn listen(supervised: bool) -> anyhow::Result<Signals> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        let supervisor = supervised.then(watch_supervisor).transpose()?;
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            supervisor,
            orphaned: false,
        })
    }

    /// Whether the process had a supervisor that has exited.
    pub(super) fn is_orphaned(&self) -> bool {
        self.orphaned
    }

    /// Waits for the next event.
    pub(super) async fn next(&mut self) -> Event {
        let supervisor = async {
            match &mut self.supervisor {
                Some(gone) => drop(gone.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Event::Stop,
            _ = self.terminate.recv() => Event::Stop,
            _ = self.hang_up.recv() => Event::Reload,
            () = supervisor => {
                self.supervisor = None;
                self.orphaned = true;
                Event::Orphaned
            }
        }
    }
}

/// Notices when the supervisor exits.
fn watch_supervisor() -> anyhow::Result<oneshot::Receiver<()>> {
    let (gone, seen) = oneshot::channel();
    // The receiver is gone if the process is already exiting.
    lifeline::when_parent_ends(|| _ = gone.send(()))?;
    Ok(seen)
}
