//! The keeper: the gateway's thread for background work.
//!
//! It resolves names and queries upstreams for their chain ids, so that neither the program's main
//! loop nor the workers have to. Blocking work runs on separate threads, so that a hung lookup does
//! not delay others.

pub(crate) mod dns;

use std::io;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

/// Threads for blocking work. Each name has at most one lookup in flight, so that this many names may
/// hang before others have to wait.
const BLOCKING_THREADS: usize = 64;

/// A task for the thread.
type Job = Box<dyn FnOnce() + Send>;

/// The keeper's thread.
pub(crate) struct Keeper {
    handle: Handle,
    jobs: mpsc::UnboundedSender<Job>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread or its runtime cannot be created.
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
            // Tasks must be dropped before the runtime that they use.
            drop(tasks);
            // A hung lookup must not keep the process from exiting.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(run)?;
        Ok(Keeper { handle, jobs, stop, thread: Some(thread) })
    }

    /// Starts a task on the thread; the task need not be `Send`.
    pub(crate) fn run<F: Future<Output = ()> + 'static>(
        &self,
        task: impl FnOnce() -> F + Send + 'static,
    ) {
        let job = move || drop(tokio::task::spawn_local(task()));
        // The thread receives jobs until the keeper is dropped.
        let _ = self.jobs.send(Box::new(job));
    }

    /// A handle for starting tasks on the keeper's runtime.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // The panic hook has reported a panic; stopping must not panic again.
            let _ = thread.join();
        }
    }
}
