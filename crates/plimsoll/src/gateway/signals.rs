//! What a gateway process is asked from outside: by signals, or by the end of who started it.

use anyhow::Context;
use std::io::Read;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// A process whose supervisor is gone finishes what is under way, but no longer than this.
pub(super) const ORPHAN_DRAIN: Duration = Duration::from_secs(5);

/// What the process is asked from outside.
pub(super) enum Asked {
    Stop,
    Reload,
    /// The process that started it is gone.
    Orphaned,
}

/// Signals, and the end of the pipe that a supervisor holds.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    supervisor: Option<oneshot::Receiver<()>>,
    orphaned: bool,
}

impl Signals {
    /// Listens for signals, and where there is a supervisor for its end.
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

    /// Whether there was a supervisor that is gone.
    pub(super) fn is_orphaned(&self) -> bool {
        self.orphaned
    }

    /// Waits for the next.
    pub(super) async fn next(&mut self) -> Asked {
        let supervisor = async {
            match &mut self.supervisor {
                Some(gone) => drop(gone.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.hang_up.recv() => Asked::Reload,
            () = supervisor => {
                self.supervisor = None;
                self.orphaned = true;
                Asked::Orphaned
            }
        }
    }
}

/// Waits on a thread for the end of stdin, which comes when the supervisor ends, however it ends.
fn watch_supervisor() -> anyhow::Result<oneshot::Receiver<()>> {
    let (gone, seen) = oneshot::channel();
    std::thread::Builder::new().name("supervisor".into()).spawn(move || {
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut [0; 64]), Ok(n) if n > 0) {}
        // Nobody listens when the process is ending anyway.
        let _ = gone.send(());
    })?;
    Ok(seen)
}
