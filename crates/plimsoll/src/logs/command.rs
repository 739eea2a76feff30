//! The output of a command that runs as long as the run: both its stdout and its stderr, since programs such
//! as `docker logs` use both.
//!
//! It has a process group of its own, so that Ctrl-C does not reach it and all of its children can be ended
//! with it: SIGTERM, and half a second later SIGKILL. Its first process is reaped only then: until then its
//! id, which is that of the group, cannot become another's. A command that writes more than may be read waits,
//! as in any pipe. If this process is killed, a command ends when it next writes.

use super::lines::{Counter, Lines};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use plimsoll_measure::{Followed, LogEvent};
use plimsoll_plan::Argument;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

/// How long commands may take to end by themselves.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often they are looked at meanwhile.
const CHECK_EVERY: Duration = Duration::from_millis(20);
/// Bytes of one read: what a pipe usually holds.
const CHUNK: usize = 64 << 10;

/// The groups that were started and not ended.
static GROUPS: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// A command that runs.
pub(super) struct Command {
    child: Child,
    outputs: Vec<Output>,
    /// Whether its end was counted.
    has_ended: bool,
    chunk: Vec<u8>,
}

trait Pipe: Read + AsFd + Send {}
impl<P: Read + AsFd + Send> Pipe for P {}

struct Output {
    pipe: Box<dyn Pipe>,
    lines: Lines,
}

impl Command {
    /// Runs a command; it has at least one argument, its program.
    pub(super) fn start(arguments: &[Argument]) -> std::io::Result<Command> {
        let mut child = std::process::Command::new(&arguments[0].value)
            .args(arguments[1..].iter().map(|own| &own.value))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        GROUPS.lock().expect("no holder panics").push(child.id() as i32);
        let stdout = child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Pipe>);
        let stderr = child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Pipe>);
        let outputs = stdout.into_iter().chain(stderr);
        let outputs = outputs.map(|pipe| Output { pipe, lines: Lines::default() }).collect();
        Ok(Command { child, outputs, has_ended: false, chunk: vec![0; CHUNK] })
    }

    /// Reads what it has written.
    pub(super) fn poll(
        &mut self,
        counter: &Counter,
        budget: &mut usize,
        is_last: bool,
        into: &mut Followed,
    ) {
        // Before its output is read, so that nothing is missed.
        let status = self.ended().filter(|_| !self.has_ended);
        let chunk = &mut self.chunk;
        self.outputs.retain_mut(|output| {
            let open = output.read(chunk, counter, budget, into);
            if !open || is_last {
                output.lines.finish(counter, into);
            }
            open
        });
        if let Some(status) = status {
            into.fail(&format!("the command ended during the run: {status}"), 1);
            self.has_ended = true;
        }
    }

    /// How its first process ended, if it has. It is not reaped.
    fn ended(&self) -> Option<String> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.group()), flags) {
            Ok(WaitStatus::Exited(_, code)) => Some(format!("exit status {code}")),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(format!("{signal}")),
            _ => None,
        }
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }
}

impl Output {
    /// Reads what is there; returns whether more may come.
    fn read(
        &mut self,
        chunk: &mut [u8],
        counter: &Counter,
        budget: &mut usize,
        into: &mut Followed,
    ) -> bool {
        loop {
            let mut fds = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
            if !matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..)) {
                return true;
            }
            if *budget == 0 {
                into.events.count(LogEvent::Held);
                return true;
            }
            let most = chunk.len().min(*budget);
            match self.pipe.read(&mut chunk[..most]) {
                Ok(0) | Err(_) => return false,
                Ok(read) => {
                    self.lines.add(&chunk[..read], counter, into);
                    *budget -= read;
                }
            }
        }
    }
}

/// Ends commands with their groups.
pub(super) fn end<'c>(commands: impl Iterator<Item = &'c mut Command>) {
    let mut all: Vec<&mut Command> = commands.collect();
    // A group whose processes have all ended does not exist.
    all.iter().for_each(|own| _ = killpg(own.group(), Signal::SIGTERM));
    let (_open, never) = channel::<()>();
    let mut waited = Duration::ZERO;
    while waited < PATIENCE && all.iter().any(|own| own.ended().is_none()) {
        let _ = never.recv_timeout(CHECK_EVERY);
        waited += CHECK_EVERY;
    }
    for own in &mut all {
        let _ = killpg(own.group(), Signal::SIGKILL);
        let mut groups = GROUPS.lock().expect("no holder panics");
        groups.retain(|group| *group != own.child.id() as i32);
        let _ = own.child.wait();
    }
}

/// Kills all commands at once, because this process ends.
pub(crate) fn kill_all() {
    if let Ok(groups) = GROUPS.try_lock() {
        groups.iter().for_each(|group| _ = killpg(Pid::from_raw(*group), Signal::SIGKILL));
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::tests::counter;
    use super::*;

    fn start(script: &str) -> Command {
        let argument = |value: &str| Argument { value: value.into(), shown: value.into() };
        Command::start(&["sh", "-c", script].map(argument)).unwrap()
    }

    /// Polls until something holds of the sum.
    fn until(command: &mut Command, holds: impl Fn(&Followed) -> bool) -> Followed {
        let (counter, mut sum) = (counter("['error']"), Followed::default());
        while !holds(&sum) {
            let mut own = Followed::default();
            command.poll(&counter, &mut 100_000, false, &mut own);
            sum.append(&own);
            std::thread::yield_now();
        }
        sum
    }

    #[test]
    fn both_outputs_and_the_end_are_followed() {
        let mut command = start("echo error 1; echo error 2 >&2; exit 3");
        let sum = until(&mut command, |sum| !sum.failures.is_empty() && sum.lines == 2);
        assert_eq!(sum.matched[0].lines, 2);
        assert_eq!(
            sum.failures,
            [("the command ended during the run: exit status 3".into(), 1)].into()
        );
        end([&mut command].into_iter());
        assert!(GROUPS.lock().unwrap().iter().all(|group| *group != command.child.id() as i32));
    }

    #[test]
    fn a_command_that_never_ends_is_killed_with_its_children() {
        // The child has the pipe, and ignores SIGTERM.
        let mut command = start(
            "trap '' TERM; sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait",
        );
        let sum = until(&mut command, |sum| sum.lines == 1);
        assert!(sum.failures.is_empty());
        let group = command.group();
        assert!(killpg(group, None).is_ok());
        end([&mut command].into_iter());
        // Killed processes exist until they are reaped, by init or the container's first process.
        let stat =
            |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert_eq!(stat(command.child.id()), "");
    }

    #[test]
    fn a_flood_waits() {
        let mut command = start("while :; do echo no match here; done");
        let sum =
            until(&mut command, |sum| sum.events.get(LogEvent::Held) > 0 || sum.bytes > 1 << 20);
        assert!(sum.lines > 0);
        end([&mut command].into_iter());
    }
}
