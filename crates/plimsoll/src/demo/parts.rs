//! The processes of the demonstration and the folder that they work in.
//!
//! Each process holds the other end of a pipe from here: however this process ends, the pipe ends with
//! it, and so do they.

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A process that is still running this long after it was told to stop is killed.
const STOP_MAX: Duration = Duration::from_secs(10);

/// What would change what the processes do: it is not handed on.
const FOREIGN: [&str; 2] = ["DATABASE_URL", "PATH_GATEWAY_INSTANCES"];

/// A folder of the demonstration's own, removed at its end.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> anyhow::Result<Folder> {
        let path = std::env::temp_dir().join(format!("plimsoll-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make the folder {}", path.display()))?;
        Ok(Folder(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.0.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it is in the folder for what may be left.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A gateway process, or several under a supervisor.
pub(super) struct Part {
    child: Option<Child>,
    /// Where it listens.
    pub(super) urls: Vec<String>,
}

impl Part {
    /// Starts `plimsoll gateway` and waits until it says where it listens.
    pub(super) fn start(
        folder: &Folder,
        name: &str,
        args: &[&str],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Part> {
        let log = folder.path().join(format!("{name}.log"));
        let stderr =
            File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = gateway(folder)?;
        command.arg("--supervised").args(args).envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().with_context(|| format!("cannot start the {name}"))?;
        let stdout = child.stdout.take().context("its stdout is a pipe")?;
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        let part =
            Part { child: Some(child), urls: line.split_whitespace().map(String::from).collect() };
        if read.is_err() || part.urls.is_empty() {
            drop(part);
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            anyhow::bail!("the {name} did not start:\n{}", said.trim_end());
        }
        Ok(part)
    }

    /// Runs a command of `plimsoll gateway` to its end.
    pub(super) fn once(folder: &Folder, args: &[&str]) -> anyhow::Result<()> {
        let output = gateway(folder)?.args(args).output().context("cannot start this program")?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "gateway {}: {}", args.join(" "), said.trim_end());
        Ok(())
    }

    /// Stops it and waits for its end.
    pub(super) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        drop(child.stdin.take());
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        // It may be gone already, which is as good.
        let _ = kill(pid, Signal::SIGTERM);
        let (gone, waited) = mpsc::channel();
        let waiting = std::thread::spawn(move || {
            let _ = child.wait();
            let _ = gone.send(());
        });
        if waited.recv_timeout(STOP_MAX).is_err() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = waiting.join();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.end();
    }
}

/// This program as a gateway, away from whatever is configured where the demonstration was started.
fn gateway(folder: &Folder) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command.arg("gateway").current_dir(folder.path());
    let foreign = |name: &str| name.starts_with("PLIMSOLL_") || FOREIGN.contains(&name);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(foreign) {
            command.env_remove(name);
        }
    }
    // A group of its own: Ctrl-C in a terminal is for the demonstration, which stops it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    Ok(command)
}
