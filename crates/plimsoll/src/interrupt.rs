//! Ctrl-C: the first drains, the second stops at once and keeps the results, the third ends the
//! process. SIGTERM and SIGHUP do the same.
//!
//! While a run is prepared, the resolver may block for as long as it likes: there the second signal
//! ends the process, since there are no results to keep.

use crate::tell;
use anyhow::Context;
use plimsoll_engine::Control;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

const INTERRUPTED: i32 = 130;

/// What signals act on.
enum Stage {
    /// Nothing that takes long.
    Idle,
    /// A run that is being prepared, and its directory, which has nothing in it yet.
    Preparing(Option<PathBuf>),
    Running(Control),
}

/// Listens for signals until it is dropped.
pub(crate) struct Interrupts {
    seen: Arc<AtomicU8>,
    stage: Arc<Mutex<Stage>>,
    handle: Handle,
}

impl Interrupts {
    /// Begins to listen.
    pub(crate) fn listen() -> anyhow::Result<Interrupts> {
        let hangup = (!plimsoll_host::is_ignored(SIGHUP)).then_some(SIGHUP);
        let all = [SIGINT, SIGTERM].into_iter().chain(hangup);
        let mut signals = Signals::new(all).context("cannot listen for Ctrl-C")?;
        let handle = signals.handle();
        let (seen, stage) = (Arc::new(AtomicU8::new(0)), Arc::new(Mutex::new(Stage::Idle)));
        let (count, target) = (seen.clone(), stage.clone());
        let listen = move || {
            for _ in &mut signals {
                // Held until the signal is counted: `stop_run` misses none.
                let stage = target.lock().expect("no holder panics");
                if let Stage::Running(control) = &*stage {
                    control.stop();
                }
                match (count.fetch_add(1, Ordering::Relaxed), &*stage) {
                    (0, Stage::Preparing(_)) => tell(
                        "\nstopping: waiting for host names to be resolved; Ctrl-C again to stop at once",
                    ),
                    (_, Stage::Preparing(run_dir)) => {
                        abandon(run_dir.as_deref());
                    }
                    (0, _) => tell(
                        "\nstopping: finishing what is in flight; Ctrl-C again to stop at once",
                    ),
                    (1, _) => tell("\nstopping at once; results are kept"),
                    _ => std::process::exit(INTERRUPTED),
                }
            }
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(listen)
            .context("cannot start a thread")?;
        Ok(Interrupts { seen, stage, handle })
    }

    /// From now on a second signal ends the process and removes the run directory; at once if both have
    /// come already.
    pub(crate) fn prepare_run(&self, run_dir: Option<&Path>) {
        let mut stage = self.stage.lock().expect("no holder panics");
        if self.seen.load(Ordering::Relaxed) > 1 {
            abandon(run_dir);
        }
        *stage = Stage::Preparing(run_dir.map(Path::to_path_buf));
    }

    /// From now on signals stop this run; those that came before stop it at once.
    pub(crate) fn stop_run(&self, control: Control) {
        let mut stage = self.stage.lock().expect("no holder panics");
        (0..self.seen.load(Ordering::Relaxed)).for_each(|_| control.stop());
        *stage = Stage::Running(control);
    }

    /// Whether there was any; also one that has just ended the run and is not counted yet.
    pub(crate) fn any(&self) -> bool {
        let _counted = self.stage.lock().expect("no holder panics");
        self.seen.load(Ordering::Relaxed) > 0
    }
}

/// Ends the process before its run began, without the run directory.
fn abandon(run_dir: Option<&Path>) -> ! {
    // A directory that cannot be removed stays.
    run_dir.iter().for_each(|dir| _ = std::fs::remove_dir_all(dir));
    std::process::exit(INTERRUPTED)
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        self.handle.close();
    }
}
