//! Ctrl-C: the first drains, the second stops at once and keeps the results, the third ends the
//! process.

use crate::tell;
use anyhow::Context;
use plimsoll_engine::Stop;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const INTERRUPTED: i32 = 130;

/// Listens for signals until it is dropped.
pub(crate) struct Interrupts {
    seen: Arc<AtomicU8>,
    handle: Handle,
}

impl Interrupts {
    /// Passes signals on to a run.
    pub(crate) fn listen(stop: Stop) -> anyhow::Result<Interrupts> {
        let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen for Ctrl-C")?;
        let handle = signals.handle();
        let seen = Arc::new(AtomicU8::new(0));
        let count = seen.clone();
        let listen = move || {
            for _ in &mut signals {
                stop.stop();
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
        Ok(Interrupts { seen, handle })
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
