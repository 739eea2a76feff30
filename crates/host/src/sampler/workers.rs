//! The workers' threads: time on a CPU, time waiting for one.

use super::file::{Buffer, WatchedFile};
use crate::{Source, parse};
use plimsoll_measure::{Nanos, ThreadTime};

/// The folder with an entry per thread.
const TASKS: &str = "/proc/self/task";
/// Workers that are sampled at most; each costs two reads per second.
const WORKERS_MAX: usize = 1024;

/// Whether threads' times can be read.
///
/// # Errors
/// The path, and why not.
pub(super) fn check(source: &Source) -> Result<(), String> {
    let Some(id) = source.names(TASKS).pop() else { return Err(format!("{TASKS}: no thread")) };
    let path = format!("{TASKS}/{id}/schedstat");
    WatchedFile::open(source, &path).map(drop).map_err(|why| format!("{path}: {why}"))
}

/// A worker's thread.
pub(super) struct Worker {
    /// Time on a CPU, time waiting for one.
    times: WatchedFile,
    status: Option<WatchedFile>,
    /// As of the last sample; stays when the thread has ended.
    last: ThreadTime,
}

impl Worker {
    /// The threads named `worker-0`, `worker-1`, … in this order.
    pub(super) fn all(source: &Source) -> Vec<Worker> {
        let mut found: Vec<(usize, Worker)> = source
            .names(TASKS)
            .iter()
            .filter_map(|id| {
                let name = source.text(&format!("{TASKS}/{id}/comm"))?;
                let number = name.trim_end().strip_prefix("worker-")?.parse().ok()?;
                Some((number, Worker::open(source, id)?))
            })
            .collect();
        found.sort_unstable_by_key(|(number, _)| *number);
        found.truncate(WORKERS_MAX);
        found.into_iter().map(|(_, worker)| worker).collect()
    }

    fn open(source: &Source, id: &str) -> Option<Worker> {
        let file = |name| WatchedFile::open(source, &format!("{TASKS}/{id}/{name}"));
        let (times, last) = (file("schedstat").ok()?, ThreadTime::default());
        Some(Worker { times, status: file("status").ok(), last })
    }

    /// The thread's times since it started.
    pub(super) fn read(&mut self, buffer: &mut Buffer) -> ThreadTime {
        let times = self.times.read(buffer, |text| {
            let mut numbers = parse::numbers(text).map(Nanos);
            numbers.next().zip(numbers.next())
        });
        if let Some((cpu, run_delay)) = times {
            (self.last.cpu, self.last.run_delay) = (cpu, run_delay);
        }
        let status = self.status.as_ref();
        let preempted = status
            .and_then(|file| file.read(buffer, |t| parse::value(t, "nonvoluntary_ctxt_switches")));
        self.last.preempted = preempted.unwrap_or(self.last.preempted);
        self.last
    }
}
