//! The workers' threads: each waits for the clock, works, and reports at once when it cannot.

use crate::dispatch::Dispatcher;
use crate::pool::Pool;
use crate::prepare::{Shared, StartError, refuse};
use crate::running::{FromWorker, Reporter, RunError};
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

/// How to get more threads.
pub(crate) const NO_THREADS: &str = "raise ulimit -u or lower --workers";

/// The workers that were started so far.
pub(crate) struct Crew {
    pub(crate) inbox: Receiver<FromWorker>,
    reports: Sender<FromWorker>,
    pub(crate) mailboxes: Vec<Mailbox>,
    pub(crate) emptied: Vec<Sender<Snapshot>>,
    pub(crate) gates: Vec<Sender<Clock>>,
    pub(crate) threads: Vec<JoinHandle<()>>,
}

impl Crew {
    pub(crate) fn new(workers: usize) -> Crew {
        let (reports, inbox) = channel();
        Crew {
            inbox,
            reports,
            mailboxes: Vec::with_capacity(workers),
            emptied: Vec::with_capacity(workers),
            gates: Vec::with_capacity(workers),
            threads: Vec::with_capacity(workers),
        }
    }

    /// Starts a worker's thread, which waits for the clock.
    ///
    /// # Errors
    /// The system gives no descriptors or no thread.
    pub(crate) fn start_worker(
        &mut self,
        shared: &Arc<Shared>,
        index: usize,
        resolver: &Sender<(resolve::Question, Mailbox)>,
        (sources, pools): (Vec<Source>, Vec<Pool>),
        cpu: Option<usize>,
    ) -> Result<(), StartError> {
        let kernel = Kernel::new(resolver.clone()).map_err(|error| {
            refuse(format!("cannot set up epoll for worker {index}: {error}"), "raise ulimit -n")
        })?;
        self.mailboxes.push(kernel.mailbox());
        let dispatcher = Dispatcher::new(shared.clone(), kernel, sources, pools);
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
        let thread = thread
            .map_err(|error| refuse(format!("cannot spawn worker {index}: {error}"), NO_THREADS))?;
        self.threads.push(thread);
        self.gates.push(open);
        self.emptied.push(give_back);
        Ok(())
    }
}

/// A worker's thread: it waits for the clock, and works.
fn run_worker(
    mut worker: Worker<Kernel>,
    index: usize,
    gate: &Receiver<Clock>,
    reports: &Sender<FromWorker>,
) {
    // A run that was prepared and dropped never starts.
    let Ok(clock) = gate.recv() else { return };
    report_failure(index, reports, || {
        worker.system().start(clock)?;
        worker.work()
    });
}

/// Reports at once when a worker cannot work any more, or panics.
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
    // When nobody listens any more, the run is lost anyway.
    let _ = reports.send(FromWorker::Failed(RunError { worker, why }));
}

fn pin_to(cpu: usize) {
    let mut set = CpuSet::new();
    if set.set(cpu).is_ok() {
        // Refused only where a sandbox forbids it; the thread then moves about.
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}
