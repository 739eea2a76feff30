//! The keeper: one thread, owned by the gateway, for work that belongs to no call.
//!
//! Names are resolved and upstreams asked for their chains here, so that none of it lives in the
//! program's loop or inside a worker. The thread runs a runtime; work that
//! blocks goes to threads of its own, so that one hung lookup holds up no other.

pub(crate) mod dns;

use std::io;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

/// Threads for work that blocks. Each name has at most one lookup in flight, so this many names may
/// hang at a time before others wait.
const BLOCKING_THREADS: usize = 64;

/// Something to do on the thread.
type Job = Box<dyn FnOnce() + Send>;

/// The thread.
pub(crate) struct Keeper {
    handle: Handle,
    jobs: mpsc::UnboundedSender<Job>,
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
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let run = move || {
            let tasks = LocalSet::new();
            runtime.block_on(tasks.run_until(async {
                loop {
                    tokio::select! {
                        // An error means that the gateway is gone.
                        _ = stopped.wait_for(|stop| *stop) => break,
                        Some(job) = queue.recv() => job(),
                    }
                }
            }));
            // Its tasks end before the runtime that they use.
            drop(tasks);
            // A lookup that hangs must not keep the process from ending.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(run)?;
        Ok(Keeper { handle, jobs, stop, thread: Some(thread) })
    }

    /// Starts a task that stays on the thread.
    pub(crate) fn run<F: Future<Output = ()> + 'static>(
        &self,
        task: impl FnOnce() -> F + Send + 'static,
    ) {
        let job = move || drop(tokio::task::spawn_local(task()));
        // The thread takes jobs until it is dropped.
        let _ = self.jobs.send(Box::new(job));
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
