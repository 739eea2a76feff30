//! The threads of this process: CPU time, and time spent waiting for a CPU.

use crate::Source;
use plimsoll_measure::Nanos;

/// A thread's accounts, since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Time on a CPU.
    pub cpu: Nanos,
    /// Time ready to run, while the CPU did something else.
    pub run_delay: Nanos,
}

impl Thread {
    /// The threads of this process; those that end meanwhile are left out.
    pub fn all(source: &Source) -> Vec<Thread> {
        let ids = source.names("/proc/self/task");
        ids.iter().filter_map(|id| Thread::read(source, id)).collect()
    }

    fn read(source: &Source, id: &str) -> Option<Thread> {
        let folder = format!("/proc/self/task/{id}");
        let name = source.text(&format!("{folder}/comm"))?.trim_end().to_string();
        // Time on a CPU, time waiting for one, both in nanoseconds, and the number of time slices.
        let times = source.numbers(&format!("{folder}/schedstat"))?;
        Some(Thread { name, cpu: Nanos(times[0]), run_delay: Nanos(*times.get(1)?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    #[test]
    fn threads_are_read() {
        let host = Fixture::new(&[
            ("proc/self/task/7/comm", "worker-0\n"),
            ("proc/self/task/7/schedstat", "900 30 4\n"),
            ("proc/self/task/8/comm", "ended\n"),
        ]);
        let worker = Thread { name: "worker-0".into(), cpu: Nanos(900), run_delay: Nanos(30) };
        assert_eq!(Thread::all(&host.source()), [worker]);
        assert_eq!(Thread::all(&Fixture::new(&[]).source()), []);
        assert!(Thread::all(&Source::host()).iter().any(|thread| thread.cpu > Nanos::ZERO));
    }
}
