//! Where a report goes: stdout, a device, or a new file.

use crate::usage_error;
use anyhow::Context;
use plimsoll_measure::WallClock;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, IsTerminal, Write, stdout};
use std::path::{Path, PathBuf};

/// Where a report goes.
pub(super) enum Output {
    Stdout,
    /// A device or a pipe.
    Device(PathBuf),
    /// A file that does not exist.
    File(PathBuf),
}

type Write_<'w> = &'w mut (dyn Write + Send);

impl Output {
    /// `asked`, or stdout. `binary`: whether the report is not for terminals.
    ///
    /// # Errors
    /// If the file exists.
    pub(super) fn of(asked: Option<&Path>, binary: bool) -> anyhow::Result<Output> {
        let Some(path) = asked.filter(|path| *path != "-") else {
            if binary && stdout().is_terminal() {
                let hint = "write it to a file with --output FILE";
                return Err(usage_error("Parquet is not printed to a terminal", hint));
            }
            return Ok(Output::Stdout);
        };
        // A link that leads nowhere exists, too.
        match path.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Output::File(path.into())),
            Err(error) => Err(usage_error(format!("cannot write {}: {error}", path.display()), "")),
            Ok(_) if path.metadata().is_ok_and(|file| !file.is_file() && !file.is_dir()) => {
                Ok(Output::Device(path.into()))
            }
            Ok(_) => {
                let hint = "results are never overwritten; choose a new file";
                Err(usage_error(format!("{} exists", path.display()), hint))
            }
        }
    }

    pub(super) fn is_stdout(&self) -> bool {
        matches!(self, Output::Stdout)
    }

    /// Writes everything or, to a file, nothing. A reader that has left (`| head`) is no error.
    ///
    /// # Errors
    /// That of `write`, or if writing fails.
    pub(super) fn write(
        &self,
        write: impl FnOnce(Write_<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        match self {
            Output::Stdout => write_all(stdout(), write, "stdout"),
            Output::Device(path) => {
                let shown = path.display().to_string();
                let file = OpenOptions::new().write(true).open(path);
                write_all(file.with_context(|| format!("cannot write {shown}"))?, write, &shown)
            }
            Output::File(path) => write_new(path, write),
        }
    }
}

fn write_all(
    out: impl Write + Send,
    write: impl FnOnce(Write_<'_>) -> anyhow::Result<()>,
    shown: &str,
) -> anyhow::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, out);
    let written = write(&mut out).and_then(|()| Ok(out.flush()?));
    // What is left in the buffer of a closed pipe is of no use.
    let _ = out.into_parts();
    match written {
        Err(error) if io_kind(&error) == Some(ErrorKind::BrokenPipe) => Ok(()),
        Err(error) if io_kind(&error).is_some() => {
            Err(error.context(format!("cannot write {shown}")))
        }
        written => written,
    }
}

/// Writes a file beside `path`, which takes its name once it is complete.
fn write_new(
    path: &Path,
    write: impl FnOnce(Write_<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}-{}.part", std::process::id(), WallClock::now().unix_ns));
    let part = path.with_file_name(name);
    let shown = path.display().to_string();
    let file = File::create_new(&part)
        .map_err(|error| usage_error(format!("cannot write {shown}: {error}"), ""))?;
    let written = write_all(file, write, &shown).and_then(|()| {
        // Unlike a renaming, a link does not replace what has appeared there meanwhile.
        match fs::hard_link(&part, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(usage_error(format!("{shown} exists"), "choose a new file"))
            }
            Ok(()) => Ok(()),
            // Not every file system has links.
            Err(_) => Ok(fs::rename(&part, path)?),
        }
    });
    // Fails if it was renamed.
    let _ = fs::remove_file(&part);
    written
}

/// The kind of the error of a system call that is the cause.
fn io_kind(error: &anyhow::Error) -> Option<ErrorKind> {
    error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind)
}
