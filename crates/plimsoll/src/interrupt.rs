//! Ctrl-C: the first drains, the second stops immediately and keeps the results, the third ends the
//! process. SIGTERM and SIGHUP do the same.
//!
//! While a run is being prepared, DNS resolution may block indefinitely, so the second signal ends the
//! process; there are no results to keep yet.

use crate::tell;
use anyhow::Context;
use plimsoll_engine::Control;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

const INTERRUPTED: i32 = 130;

/// What a signal acts on.
enum Stage {
    /// Nothing that needs to be stopped.
    Idle,
    /// A run that is being prepared, and its directory, which has no results yet.
    Preparing(Option<PathBuf>),
    Running(Control),
}

/// Handles signals until dropped.
pub(crate) struct Interrupts {
    seen: Arc<AtomicU8>,
    stage: Arc<Mutex<Stage>>,
    handle: Handle,
}

impl Interrupts {
    /// Starts handling signals.
    pub(crate) fn listen() -> anyhow::Result<Interrupts> {
        let hangup = (!plimsoll_host::is_ignored(SIGHUP)).then_some(SIGHUP);
        let all = [SIGINT, SIGTERM].into_iter().chain(hangup);
        let mut signals = Signals::new(all).context("cannot install signal handlers")?;
        let handle = signals.handle();
        let (seen, stage) = (Arc::new(AtomicU8::new(0)), Arc::new(Mutex::new(Stage::Idle)));
        let (count, target) = (seen.clone(), stage.clone());
        let listen = move || {
            for _ in &mut signals {
                // Locked until the signal is counted, so that `stop_run` misses none.
                let stage = target.lock().expect("no holder panics");
                if let Stage::Running(control) = &*stage {
                    control.stop();
                }
                match (count.fetch_add(1, Ordering::Relaxed), &*stage) {
                    (0, Stage::Preparing(_)) => {
                        tell("\nstopping: waiting for DNS; press Ctrl-C again to stop now")
                    }
                    (_, Stage::Preparing(run_dir)) => {
                        abandon(run_dir.as_deref());
                    }
                    (0, _) => tell(
                        "\nstopping: waiting for requests in flight; press Ctrl-C again to stop now",
                    ),
                    (1, _) => tell("\nstopping now; results are kept"),
                    _ => std::process::exit(INTERRUPTED),
                }
            }
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(listen)
            .context("cannot spawn the signal thread")?;
        Ok(Interrupts { seen, stage, handle })
    }

    /// From now on, a second signal removes the run directory and ends the process; immediately if both
    /// signals have already arrived.
    pub(crate) fn prepare_run(&self, run_dir: Option<&Path>) {
        let mut stage = self.stage.lock().expect("no holder panics");
        if self.seen.load(Ordering::Relaxed) > 1 {
            abandon(run_dir);
        }
        *stage = Stage::Preparing(run_dir.map(Path::to_path_buf));
    }

    /// From now on, signals stop this run. Signals received earlier take effect immediately.
    pub(crate) fn stop_run(&self, control: Control) {
        let mut stage = self.stage.lock().expect("no holder panics");
        (0..self.seen.load(Ordering::Relaxed)).for_each(|_| control.stop());
        *stage = Stage::Running(control);
    }

    /// Whether any signal was received. Waits for a signal that is being handled, such as one that has just
    /// ended the run.
    pub(crate) fn any(&self) -> bool {
        let _counted = self.stage.lock().expect("no holder panics");
        self.seen.load(Ordering::Relaxed) > 0
    }
}

/// Ends the process before the run starts, and removes the run directory.
fn abandon(run_dir: Option<&Path>) -> ! {
    // Errors are ignored: the directory then stays.
    run_dir.iter().for_each(|dir| _ = std::fs::remove_dir_all(dir));
    std::process::exit(INTERRUPTED)
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        self.handle.close();
    }
}
