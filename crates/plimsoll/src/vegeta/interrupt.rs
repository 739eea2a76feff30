//! Ctrl-C while results are read: what was read is reported.
//!
//! When results come from a pipe, the first Ctrl-C only stops the program that writes them, which the
//! terminal sent it too: its last results are waited for. The second ends reading, and one more ends
//! the process, because reading from a pipe may block.

use crate::tell;
use anyhow::Context;
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The exit code of an interrupted process.
const INTERRUPTED: i32 = 130;

/// How often Ctrl-C was pressed.
pub(super) struct Interrupts {
    seen: Arc<AtomicU8>,
    /// How many stop reading.
    enough: u8,
}

impl Interrupts {
    /// Starts handling SIGINT, unless it is ignored, as in a background job. `piped`: results are
    /// read from stdin.
    pub(super) fn listen(piped: bool) -> anyhow::Result<Interrupts> {
        let interrupts = Interrupts { seen: Arc::default(), enough: if piped { 2 } else { 1 } };
        if plimsoll_host::is_ignored(SIGINT) {
            return Ok(interrupts);
        }
        let mut signals = Signals::new([SIGINT]).context("cannot install a signal handler")?;
        let (seen, enough) = (interrupts.seen.clone(), interrupts.enough);
        let listen = move || {
            for _ in &mut signals {
                let count = seen.fetch_add(1, Ordering::Relaxed) + 1;
                if count > enough {
                    std::process::exit(INTERRUPTED);
                }
                if count < enough {
                    tell("\nwaiting for the last results; press Ctrl-C again to report now");
                }
            }
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(listen)
            .context("cannot spawn the signal thread")?;
        Ok(interrupts)
    }

    /// Whether reading should end.
    pub(super) fn is_enough(&self) -> bool {
        self.seen.load(Ordering::Relaxed) >= self.enough
    }
}
