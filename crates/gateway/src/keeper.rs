//! The keeper: one thread, owned by the gateway, for work that belongs to no call.
//!
//! Name resolution runs here now; probes and other background work have their place here, so that
//! none of it lives in the program's loop or inside a worker. The thread runs a runtime; work that
//! blocks goes to threads of its own, so that one hung lookup holds up no other.

pub(crate) mod dns;

use std::io;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::watch;

/// Threads for work that blocks. Each name has at most one lookup in flight, so this many names may
/// hang at a time before others wait.
const BLOCKING_THREADS: usize = 64;

/// The thread.
pub(crate) struct Keeper {
    handle: Handle,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts it.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn start() -> io::Result<Keeper> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("keeper-blocking")
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, mut stopped) = watch::channel(false);
        let run = move || {
            // An error means that the gateway is gone.
            let _ = runtime.block_on(stopped.wait_for(|stop| *stop));
            // A lookup that hangs must not keep the process from ending.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(run)?;
        Ok(Keeper { handle, stop, thread: Some(thread) })
    }

    /// Where to start its tasks.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so; stopping must not panic again.
            let _ = thread.join();
        }
    }
}
