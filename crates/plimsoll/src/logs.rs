//! Follows the logs of a plan during a run: lines that match patterns, by second, each with an example.
//!
//! A thread of its own looks at all logs every [`POLL`], so that nothing here can delay the load or fail the
//! run. What it may do is bounded: bytes read per poll ([`POLL_BYTES_MAX`]), the length of a line, and
//! one example per pattern and second. What is not read because of that is counted.
//!
//! Commands run only with `--allow-commands`, and only on this host: agents read plans that other hosts send,
//! and follow nothing ([`crate::fleet`]).
//!
//! # Layout
//! - `tail`: a file, as `tail -F` follows it
//! - `command`: the output of a command
//! - `lines`: bytes to lines, and lines to counts

mod command;
mod lines;
mod tail;

use crate::usage_error;
use anyhow::Context;
use command::Command;
pub(crate) use command::kill_all;
use lines::Counter;
use plimsoll_measure::{Followed, Snapshot};
use plimsoll_plan::{LogSource, Plan};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tail::Tail;

/// How often logs are looked at; a line counts at most this much later than it was written.
const POLL: Duration = Duration::from_millis(100);
/// Bytes of all logs that are read per poll: 20 MiB a second, of which matching takes a tenth of a
/// processor or so, depending on the patterns.
const POLL_BYTES_MAX: usize = 2 << 20;

/// What was followed since the last call to [`LogFollower::add_to`], one entry per log of the plan.
type Inbox = Arc<Mutex<Vec<Followed>>>;

/// Follows logs until [`LogFollower::finish`] is called or it is dropped.
pub(crate) struct LogFollower {
    inbox: Inbox,
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A problem if the plan runs commands, and its user did not allow it.
pub(crate) fn check_commands(plan: &Plan, allowed: bool) -> anyhow::Result<()> {
    let commands = plan.logs.iter().filter(|log| matches!(log.source, LogSource::Command(_)));
    let commands: Vec<String> =
        commands.map(|log| format!("\n  {}: {}", log.name, log.source)).collect();
    if allowed || commands.is_empty() {
        return Ok(());
    }
    Err(usage_error(
        format!(
            "the plan runs commands on this host, to follow what they print:{}",
            commands.concat()
        ),
        "if that is what you want, add --allow-commands",
    ))
}

impl LogFollower {
    /// Opens files, runs commands and starts following; `None` if the plan has no logs.
    ///
    /// # Errors
    /// A command cannot be run. A file may be missing: it may appear later.
    pub(crate) fn start(plan: &Plan) -> anyhow::Result<Option<LogFollower>> {
        if plan.logs.is_empty() {
            return Ok(None);
        }
        let secrets = Arc::new(plan.secrets_of_all());
        let mut sources = Vec::with_capacity(plan.logs.len());
        for log in &plan.logs {
            let reader = match &log.source {
                LogSource::File(path) => Reader::File(Tail::start(path)),
                LogSource::Command(arguments) => {
                    let started = Command::start(arguments).map_err(|why| {
                        let program = &arguments[0].shown;
                        usage_error(
                            format!("the log \"{}\": cannot run {program}: {why}", log.name),
                            "",
                        )
                    });
                    Reader::Command(started?)
                }
            };
            let counter = Counter::new(log.patterns.clone(), secrets.clone());
            sources.push(Source { reader, counter });
        }
        let inbox: Inbox = Arc::new(Mutex::new(vec![Followed::default(); sources.len()]));
        let (end, ended) = channel();
        let filled = inbox.clone();
        let thread = std::thread::Builder::new()
            .name("logs".into())
            .spawn(move || follow(sources, &ended, &filled))
            .context("cannot spawn the thread that follows logs")?;
        Ok(Some(LogFollower { inbox, end: Some(end), thread: Some(thread) }))
    }

    /// Moves what was followed since the last call into a snapshot.
    pub(crate) fn add_to(&self, second: &mut Snapshot) {
        for (place, own) in self.inbox.lock().expect("no holder panics").iter_mut().enumerate() {
            let own = std::mem::take(own);
            if !own.is_empty() {
                second.followed(place, &own);
            }
        }
    }

    /// Reads what is left, ends the commands, and adds the results to a snapshot.
    pub(crate) fn finish(mut self, last: &mut Snapshot) {
        self.stop();
        self.add_to(last);
    }

    fn stop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }
}

impl Drop for LogFollower {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

enum Reader {
    File(Tail),
    Command(Command),
}

struct Source {
    reader: Reader,
    counter: Counter,
}

impl Source {
    /// Reads what is new; `budget` is how many bytes may still be read. `is_last`: an incomplete line counts.
    fn poll(&mut self, budget: &mut usize, is_last: bool) -> Followed {
        let mut own = Followed::default();
        match &mut self.reader {
            Reader::File(tail) => tail.poll(&self.counter, budget, is_last, &mut own),
            Reader::Command(command) => command.poll(&self.counter, budget, is_last, &mut own),
        }
        own
    }
}

fn follow(mut sources: Vec<Source>, ended: &Receiver<()>, inbox: &Inbox) {
    let mut first = 0;
    loop {
        let is_last = !matches!(ended.recv_timeout(POLL), Err(RecvTimeoutError::Timeout));
        let mut budget = POLL_BYTES_MAX;
        // Each poll begins with another log, so that none takes the budget of all others.
        for turn in 0..sources.len() {
            let place = (first + turn) % sources.len();
            let own = sources[place].poll(&mut budget, is_last);
            if !own.is_empty() {
                inbox.lock().expect("no holder panics")[place].append(&own);
            }
        }
        first = (first + 1) % sources.len();
        if is_last {
            break;
        }
    }
    command::end(sources.iter_mut().filter_map(|own| match &mut own.reader {
        Reader::Command(command) => Some(command),
        Reader::File(_) => None,
    }));
}
