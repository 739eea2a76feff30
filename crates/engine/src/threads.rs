//! Worker threads: each waits for the clock, runs its event loop, and reports failures at once.

use crate::dispatch::Dispatcher;
use crate::pool::Pool;
use crate::prepare::{Shared, StartError, start_error};
use crate::running::{FromWorker, Reporter, RunError};
use crate::sampling::Sampling;
use crate::source::Source;
use crate::system::kernel::{Kernel, Mailbox};
use crate::system::resolve;
use crate::worker::Worker;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use plimsoll_measure::{Clock, Snapshot};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Hint for when a thread cannot be spawned.
pub(crate) const NO_THREADS: &str = "raise ulimit -u or lower --workers";

/// The workers spawned so far.
pub(crate) struct WorkerThreads {
    pub(crate) inbox: Receiver<FromWorker>,
    pub(crate) reports: Sender<FromWorker>,
    pub(crate) mailboxes: Vec<Mailbox>,
    pub(crate) emptied: Vec<Sender<Snapshot>>,
    pub(crate) gates: Vec<Sender<Clock>>,
    pub(crate) handles: Vec<JoinHandle<()>>,
}

impl WorkerThreads {
    pub(crate) fn new(workers: usize) -> WorkerThreads {
        let (reports, inbox) = channel();
        WorkerThreads {
            inbox,
            reports,
            mailboxes: Vec::with_capacity(workers),
            emptied: Vec::with_capacity(workers),
            gates: Vec::with_capacity(workers),
            handles: Vec::with_capacity(workers),
        }
    }

    /// Spawns a worker's thread, which waits for the clock.
    ///
    /// # Errors
    /// If descriptors or a thread cannot be allocated.
    pub(crate) fn start_worker(
        &mut self,
        shared: &Arc<Shared>,
        index: usize,
        resolver: &Sender<(resolve::Query, Mailbox)>,
        (sources, pools, sampling): (Vec<Source>, Vec<Pool>, Option<Sampling>),
        cpu: Option<usize>,
    ) -> Result<(), StartError> {
        let kernel = Kernel::new(resolver.clone()).map_err(|error| {
            start_error(
                format!("cannot set up epoll for worker {index}: {error}"),
                "raise ulimit -n",
            )
        })?;
        self.mailboxes.push(kernel.mailbox());
        let dispatcher = Dispatcher::new(shared.clone(), kernel, (sources, pools), sampling, index);
        let (give_back, take_back) = channel();
        let reporter =
            Reporter::new(index, shared.plan.blank_snapshot(), self.reports.clone(), take_back);
        let worker = Worker::new(shared.clone(), reporter, dispatcher);
        let (open, gate) = channel();
        let reports = self.reports.clone();
        let body = move || {
            cpu.into_iter().for_each(pin_to);
            run_worker(worker, index, &gate, &reports);
        };
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(body);
        let thread = thread.map_err(|error| {
            start_error(format!("cannot spawn worker {index}: {error}"), NO_THREADS)
        })?;
        self.handles.push(thread);
        self.gates.push(open);
        self.emptied.push(give_back);
        Ok(())
    }
}

/// The body of a worker's thread: waits for the clock and runs the event loop.
fn run_worker(
    mut worker: Worker<Kernel>,
    index: usize,
    gate: &Receiver<Clock>,
    reports: &Sender<FromWorker>,
) {
    // The channel closes if a prepared run is dropped.
    let Ok(clock) = gate.recv() else { return };
    report_failure(index, reports, || {
        worker.system().start(clock)?;
        worker.run()
    });
}

/// Reports an error or panic of a worker at once.
pub(crate) fn report_failure(
    worker: usize,
    reports: &Sender<FromWorker>,
    work: impl FnOnce() -> io::Result<()>,
) {
    let why = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("failed to poll its sockets: {error}"),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            format!("panicked: {}", text.unwrap_or("(no message)"))
        }
    };
    // The receiver is gone only if the run was dropped.
    let _ = reports.send(FromWorker::Failed(RunError { worker, why }));
}

fn pin_to(cpu: usize) {
    let mut set = CpuSet::new();
    if set.set(cpu).is_ok() {
        // Fails only if a sandbox forbids it; the thread then stays unpinned.
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}
