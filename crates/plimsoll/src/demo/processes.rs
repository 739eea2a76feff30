//! The demo's child processes and their working directory.
//!
//! Each child has a pipe from this process as its stdin and exits when the pipe closes, so no child
//! outlives this process, however it ends.

use crate::lifeline;
use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A process that is still running this long after SIGTERM is killed.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Environment variables that would change the behavior of the children, besides `PLIMSOLL_*`; they are
/// not inherited.
const FOREIGN: [&str; 2] = ["DATABASE_URL", "PATH_GATEWAY_INSTANCES"];

/// The demo's temporary directory, removed when dropped.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> anyhow::Result<Folder> {
        let path = std::env::temp_dir().join(format!("plimsoll-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot create the directory {}", path.display()))?;
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
        // If removal fails, the remains stay in the system's temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A gateway process, or several under a supervisor.
pub(super) struct GatewayProcess {
    child: Option<Child>,
    /// The URLs it listens on.
    pub(super) urls: Vec<String>,
}

impl GatewayProcess {
    /// Starts `plimsoll gateway` and waits until it prints its URLs.
    pub(super) fn start(
        folder: &Folder,
        name: &str,
        args: &[&str],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<GatewayProcess> {
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
        let process = GatewayProcess {
            child: Some(child),
            urls: line.split_whitespace().map(String::from).collect(),
        };
        if read.is_err() || process.urls.is_empty() {
            drop(process);
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            anyhow::bail!("the {name} did not start:\n{}", log.trim_end());
        }
        Ok(process)
    }

    /// Runs a `plimsoll gateway` subcommand to completion.
    pub(super) fn once(folder: &Folder, args: &[&str]) -> anyhow::Result<()> {
        let output = gateway(folder)?.args(args).output().context("cannot start this program")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(
            output.status.success(),
            "gateway {}: {}",
            args.join(" "),
            stderr.trim_end()
        );
        Ok(())
    }

    /// Kills the instance with this number, counted from 0; whether it was there. Its supervisor
    /// restarts it.
    pub(super) fn kill_instance(&self, number: usize) -> bool {
        let supervisor = self.child.as_ref().map_or(0, Child::id);
        let offset = format!("--port-offset={number}");
        let found = plimsoll_host::find_child(supervisor, &[&offset]);
        let pid = found.and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        pid.is_some_and(|pid| kill(pid, Signal::SIGKILL).is_ok())
    }

    /// Stops the process and waits for it to exit.
    pub(super) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let child = self.child.take();
        child.into_iter().for_each(|child| lifeline::end(child, Some(Signal::SIGTERM), STOP_MAX));
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        self.end();
    }
}

/// A `plimsoll gateway` command that is isolated from the caller's configuration and environment.
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
    // No load balancer has to notice that it stops.
    command.env("PLIMSOLL_IDLE_CLOSE", "0s");
    // In its own process group, so that Ctrl-C in a terminal reaches only the demo, which stops it.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    Ok(command)
}
