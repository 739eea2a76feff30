//! A copy of the last valid configuration file, for instances restarted while the file is invalid: a
//! mistake in the file must not keep a crashed instance down.

use plimsoll_registry::config::{Config, Inputs};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the file is checked; the same as in the instances.
const POLL_INTERVAL: Duration = Duration::from_millis(400);

/// A copy of the file, updated whenever the file changes and is valid; removed on drop.
pub(super) struct LastValid {
    copy: Option<PathBuf>,
    /// Dropped to end the thread.
    alive: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LastValid {
    /// Starts copying the file of `inputs`, if there is one, on its own thread: reading may block.
    pub(super) fn keep(inputs: &Inputs) -> anyhow::Result<LastValid> {
        let mut kept = LastValid { copy: None, alive: None, thread: None };
        let Some(file) = inputs.file.clone() else { return Ok(kept) };
        let name = format!("plimsoll-{}.toml", std::process::id());
        let copy = std::env::temp_dir().join(name);
        let mut seen = None;
        // The first copy exists before any instance starts.
        renew(inputs, &file, &copy, &mut seen);
        let (alive, ended) = channel();
        let (inputs, to) = (inputs.clone(), copy.clone());
        let watch = move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(POLL_INTERVAL) {
                renew(&inputs, &file, &to, &mut seen);
            }
        };
        kept.thread = Some(std::thread::Builder::new().name("last-valid".into()).spawn(watch)?);
        kept.copy = Some(copy);
        kept.alive = Some(alive);
        Ok(kept)
    }

    /// The path of the copy.
    pub(super) fn copy(&self) -> Option<&Path> {
        self.copy.as_deref()
    }
}

impl Drop for LastValid {
    fn drop(&mut self) {
        self.alive = None;
        if let Some(thread) = self.thread.take() {
            // A panic was already reported by the panic hook.
            let _ = thread.join();
        }
        if let Some(copy) = &self.copy {
            // The file was never valid if there is no copy.
            let _ = std::fs::remove_file(copy);
        }
    }
}

/// Copies the file if it changed and is valid. Errors leave the previous copy in place.
fn renew(inputs: &Inputs, file: &Path, copy: &Path, seen: &mut Option<String>) {
    let text = std::fs::read_to_string(file).ok();
    if text == *seen {
        return;
    }
    if let (Some(text), Ok(_)) = (&text, Config::read(inputs)) {
        let _ = write(copy, text);
    }
    *seen = text;
}

/// Replaces the copy atomically; only this user may read it.
fn write(copy: &Path, text: &str) -> std::io::Result<()> {
    let new = copy.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&new, copy)
}
