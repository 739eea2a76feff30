//! Ctrl-C: the first drains, the second stops immediately and keeps the results. A further one ends the
//! process as soon as the run directory is written, even if the report cannot be printed. SIGTERM,
//! SIGHUP and SIGQUIT do the same.
//!
//! While a run is being prepared, DNS resolution and reading a file (a pipe, NFS) may block indefinitely,
//! so the first signal ends the process; there are no results to keep yet.

use crate::{logs, tell, terminal};
use anyhow::Context;
use nix::sys::signal::Signal;
use plimsoll_engine::Control;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

const INTERRUPTED: i32 = 130;

/// What a signal acts on.
enum Stage {
    /// Nothing that needs to be stopped.
    Idle,
    /// A run that is being prepared, and its directory, which has no results yet.
    Preparing(Option<PathBuf>),
    Running(Control),
    /// The results of a run were written, if they could be.
    Written,
    /// The records of a run become a Parquet file, which can be made later, too.
    Converting,
}

/// Handles signals until dropped.
pub(crate) struct Interrupts {
    seen: Arc<AtomicU8>,
    /// The first signal; zero before.
    first: Arc<AtomicI32>,
    stage: Arc<Mutex<Stage>>,
    handle: Handle,
}

impl Interrupts {
    /// Starts handling signals.
    pub(crate) fn listen() -> anyhow::Result<Interrupts> {
        let hangup = (!plimsoll_host::is_ignored(SIGHUP)).then_some(SIGHUP);
        let all = [SIGINT, SIGTERM, SIGQUIT].into_iter().chain(hangup);
        let mut signals = Signals::new(all).context("cannot install signal handlers")?;
        let handle = signals.handle();
        // A limit on the size of files (ulimit -f) is an error of a write, not the end of the process.
        signal_hook::flag::register(Signal::SIGXFSZ as i32, Arc::default())
            .context("cannot install signal handlers")?;
        let (seen, stage) = (Arc::new(AtomicU8::new(0)), Arc::new(Mutex::new(Stage::Idle)));
        let first = Arc::new(AtomicI32::new(0));
        let (count, target, number) = (seen.clone(), stage.clone(), first.clone());
        let listen = move || {
            for signal in &mut signals {
                // Locked until the signal is counted, so that `stop_run` misses none.
                let stage = target.lock().expect("no holder panics");
                if let Stage::Running(control) = &*stage {
                    control.stop();
                }
                let _ = number.compare_exchange(0, signal, Ordering::Relaxed, Ordering::Relaxed);
                let before = count.load(Ordering::Relaxed);
                count.store(before.saturating_add(1), Ordering::Relaxed);
                let said = match (before, &*stage) {
                    (_, Stage::Preparing(run_dir)) => abandon(run_dir.as_deref()),
                    (_, Stage::Converting) => {
                        tell("\nstopped; the requests stay recorded in samples.bin");
                        end_process()
                    }
                    (0, _) => {
                        "stopping: waiting for the answers to requests already sent; press Ctrl-C again to stop now"
                    }
                    (1, _) => "stopping now; the results so far are kept",
                    (_, Stage::Running(_)) => "writing the results",
                    (_, Stage::Idle | Stage::Written) => end_process(),
                };
                drop(stage);
                // On a thread of its own: it may block while nobody reads stderr, and the next signal must not
                // wait for that.
                let told = std::thread::Builder::new().name("message".into());
                let _ = told.spawn(move || tell(&format!("\n{said}")));
            }
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(listen)
            .context("cannot spawn the signal thread")?;
        Ok(Interrupts { seen, first, stage, handle })
    }

    /// From now on, a signal removes the run directory and ends the process; immediately if one has
    /// already arrived.
    pub(crate) fn prepare_run(&self, run_dir: Option<&Path>) {
        let mut stage = self.stage.lock().expect("no holder panics");
        if self.seen.load(Ordering::Relaxed) > 0 {
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

    /// From now on only the conversion of records is left: a signal ends the process.
    pub(crate) fn converting(&self) {
        *self.stage.lock().expect("no holder panics") = Stage::Converting;
    }

    /// From now on there are no results to lose: a third signal ends the process.
    pub(crate) fn results_written(&self) {
        *self.stage.lock().expect("no holder panics") = Stage::Written;
    }

    /// The first signal that was received, as its sender calls it. Waits for a signal that is being handled,
    /// such as one that has just ended the run.
    pub(crate) fn first(&self) -> Option<&'static str> {
        let _counted = self.stage.lock().expect("no holder panics");
        match self.first.load(Ordering::Relaxed) {
            0 => None,
            SIGINT => Some("Ctrl-C"),
            SIGTERM => Some("SIGTERM"),
            SIGHUP => Some("SIGHUP (the terminal was closed)"),
            _ => Some("SIGQUIT"),
        }
    }
}

/// Ends the process before the run starts, and removes the run directory.
fn abandon(run_dir: Option<&Path>) -> ! {
    // Errors are ignored: the directory then stays.
    run_dir.iter().for_each(|dir| _ = std::fs::remove_dir_all(dir));
    end_process()
}

/// Leaves a terminal as it was, and no command running.
fn end_process() -> ! {
    logs::kill_all();
    terminal::restore();
    std::process::exit(INTERRUPTED)
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        self.handle.close();
    }
}
