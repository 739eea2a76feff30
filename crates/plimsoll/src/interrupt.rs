//! Ctrl-C: the first drains, the second stops at once and keeps the results, the third ends the
//! process.

use crate::tell;
use anyhow::Context;
use plimsoll_engine::Control;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

const INTERRUPTED: i32 = 130;

/// Listens for signals until it is dropped.
pub(crate) struct Interrupts {
    seen: Arc<AtomicU8>,
    /// The run that signals stop, once there is one.
    run: Arc<Mutex<Option<Control>>>,
    handle: Handle,
}

impl Interrupts {
    /// Begins to listen.
    pub(crate) fn listen() -> anyhow::Result<Interrupts> {
        let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen for Ctrl-C")?;
        let handle = signals.handle();
        let (seen, run) = (Arc::new(AtomicU8::new(0)), Arc::new(Mutex::new(None::<Control>)));
        let (count, target) = (seen.clone(), run.clone());
        let listen = move || {
            for _ in &mut signals {
                let run = target.lock().expect("no holder panics");
                run.iter().for_each(Control::stop);
                match count.fetch_add(1, Ordering::Relaxed) {
                    0 => tell(
                        "\nstopping: finishing what is in flight; Ctrl-C again to stop at once",
                    ),
                    1 => tell("\nstopping at once; results are kept"),
                    _ => std::process::exit(INTERRUPTED),
                }
            }
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(listen)
            .context("cannot start a thread")?;
        Ok(Interrupts { seen, run, handle })
    }

    /// From now on signals stop this run; those that came before stop it at once.
    pub(crate) fn stop_run(&self, control: Control) {
        let mut run = self.run.lock().expect("no holder panics");
        (0..self.seen.load(Ordering::Relaxed)).for_each(|_| control.stop());
        *run = Some(control);
    }

    /// Whether there was any.
    pub(crate) fn any(&self) -> bool {
        self.seen.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        self.handle.close();
    }
}
