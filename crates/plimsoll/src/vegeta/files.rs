//! The files that vegeta's commands read and write. `stdin` and `stdout` name the standard streams.

use super::refused;
use anyhow::{Context, anyhow};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where a command writes: stdout or a file.
pub(super) struct Output {
    file: Option<File>,
    name: String,
}

impl Output {
    /// Creates a file, or empties it if it exists, as vegeta does; but an input is never overwritten.
    pub(super) fn create(name: &OsStr, inputs: &[&OsStr]) -> anyhow::Result<Output> {
        let is_stdout = name == "stdout";
        let path = if is_stdout { OsStr::new("/dev/stdout") } else { name };
        if let Some(output) = regular(path) {
            for input in inputs {
                let path = if *input == "stdin" { OsStr::new("/dev/stdin") } else { input };
                if regular(path).is_some_and(|input| is_same(&input, &output)) {
                    let (input, output) = (input.display(), name.display());
                    return Err(refused(
                        format!(
                            "{output} is also read, as {input}: writing would destroy the results"
                        ),
                        "write to another file",
                    ));
                }
            }
        }
        let name = name.display().to_string();
        let create = || File::create(path).with_context(|| format!("cannot create {name}"));
        let file = if is_stdout { None } else { Some(create()?) };
        Ok(Output { file, name })
    }

    /// Whether this is stdout.
    pub(super) fn is_stdout(&self) -> bool {
        self.file.is_none()
    }

    /// Writes. Returns false if the reader has closed the pipe: that is no error (`| head`), and
    /// nothing more needs to be written.
    pub(super) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<bool> {
        let done = match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(bytes).and_then(|()| stdout.flush())
            }
        };
        match done {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(anyhow!(error).context(format!("cannot write to {}", self.name))),
        }
    }
}

/// The identity of a regular file.
fn regular(path: impl AsRef<Path>) -> Option<Metadata> {
    std::fs::metadata(path).ok().filter(Metadata::is_file)
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}
