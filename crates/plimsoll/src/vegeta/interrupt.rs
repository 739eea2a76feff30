//! Ctrl-C while results are read: what was read is reported.
//!
//! When results come from a pipe, the first Ctrl-C only stops the program that writes them, which the
//! terminal sent it too: its last results are waited for. The second ends reading. One more ends the
//! process.

use crate::tell;
use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The exit code of an interrupted process.
const INTERRUPTED: i32 = 130;

/// How long a wait for input may delay the response to Ctrl-C.
const POLL_MS: u16 = 100;

/// How often Ctrl-C was pressed.
#[derive(Clone)]
pub(super) struct Interrupts {
    seen: Arc<AtomicU8>,
    /// How many stop reading.
    enough: u8,
}

impl Interrupts {
    /// Starts handling SIGINT, unless it is ignored, as in a background job. `piped`: another program
    /// writes the results.
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

/// Stdin, which ends when Ctrl-C ends reading.
pub(super) struct InterruptibleStdin {
    /// Not [`std::io::Stdin`]: data in its buffer would be invisible to `poll`.
    stdin: File,
    interrupts: Interrupts,
}

impl InterruptibleStdin {
    pub(super) fn new(interrupts: &Interrupts) -> anyhow::Result<InterruptibleStdin> {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().context("cannot read stdin")?;
        Ok(InterruptibleStdin { stdin: stdin.into(), interrupts: interrupts.clone() })
    }
}

impl Read for InterruptibleStdin {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while !self.interrupts.is_enough() {
            // The handler restarts a read that a signal interrupts, so that a read must not block.
            match poll(&mut [PollFd::new(self.stdin.as_fd(), PollFlags::POLLIN)], POLL_MS) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return self.stdin.read(buffer),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(0)
    }
}
