//! Finds, names and locks the files of a folder.
//!
//! A process uses one file, which it locks; several may share a folder. A file that nobody has locked was
//! left by a process that has ended: whoever starts next delivers it. Locks end with their process,
//! however it ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use plimsoll_measure::WallClock;

use super::{Disk, OpenError, Spool};
use crate::usage::new_writer;

/// The longest part of a file's name that is made from a database's.
const NAME_MAX: usize = 100;

/// Files of a folder that are looked for; more processes than may run on a host.
const FILES_MAX: usize = 1_000;

/// Where the files for a database are.
#[derive(Clone, Debug)]
pub(in crate::usage) struct Folder {
    path: PathBuf,
    /// What their names start with.
    prefix: String,
}

/// What earlier processes have left.
#[derive(Debug, Default)]
pub(in crate::usage) struct Left {
    pub(in crate::usage) spools: Vec<Spool<LockedFile>>,
    /// What an operator should know of files that cannot be used as they are.
    pub(in crate::usage) notes: Vec<String>,
    /// Lines that could not be read.
    pub(in crate::usage) damaged: u64,
}

impl Folder {
    /// The files in a folder for a database, which is named without secrets.
    pub(in crate::usage) fn new(path: &Path, database: &str) -> Folder {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let end = database.chars().count().saturating_sub(NAME_MAX);
        let name: String = database.chars().skip(end).map(plain).collect();
        Folder { path: path.into(), prefix: format!("usage-{name}") }
    }

    fn file(&self, number: usize) -> PathBuf {
        self.path.join(format!("{}.{number}.spool", self.prefix))
    }

    /// Takes over all files that no process uses.
    pub(in crate::usage) fn left(&self) -> Left {
        let mut left = Left::default();
        let is_there = |number: &usize| self.file(*number).exists();
        for number in (0..FILES_MAX).filter(is_there) {
            let path = self.file(number);
            let note = |why: String| format!("{}: {why}", path.display());
            let file = match LockedFile::open(&path, false) {
                Ok(Some(file)) => file,
                Ok(None) => continue,
                Err(error) => {
                    left.notes.push(note(error.to_string()));
                    continue;
                }
            };
            match Spool::open(file, new_writer()) {
                Ok(spool) => {
                    if spool.damaged() > 0 {
                        left.damaged += spool.damaged();
                        let lines = spool.damaged();
                        let kept = aside(&path, |to| fs::copy(&path, to).map(drop));
                        left.notes.push(note(format!(
                            "{lines} of its additions are damaged and are not counted; the others \
                             are; {kept}"
                        )));
                    }
                    left.spools.push(spool);
                }
                Err(OpenError::Damaged) => {
                    left.damaged += 1;
                    let kept = aside(&path, |to| fs::rename(&path, to));
                    left.notes.push(note(format!("{}; {kept}", OpenError::Damaged)));
                }
                Err(error @ OpenError::Newer(_)) => left.notes.push(note(format!(
                    "{error}; it is left as it is: start the newer program to deliver it"
                ))),
                Err(error) => left.notes.push(note(error.to_string())),
            }
        }
        left
    }

    /// Creates a file for this process.
    ///
    /// # Errors
    /// Why it cannot be created.
    pub(in crate::usage) fn create(&self) -> Result<Spool<LockedFile>, String> {
        for number in 0..FILES_MAX {
            let path = self.file(number);
            let shown = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            match LockedFile::open(&path, true) {
                Ok(Some(file)) => {
                    return Spool::open(file, new_writer()).map_err(|error| shown(&error));
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(shown(&error)),
            }
        }
        Err(format!("{} has {FILES_MAX} files of usage already", self.path.display()))
    }
}

/// Keeps a file that is damaged; says where.
fn aside(path: &Path, keep: impl FnOnce(&Path) -> io::Result<()>) -> String {
    let to = path.with_extension(format!("{}.damaged", WallClock::now().unix_ns));
    match keep(&to) {
        Ok(()) => format!("it is kept as {}", to.display()),
        Err(error) => format!("it cannot be kept as {}: {error}", to.display()),
    }
}

/// A file that no other process uses.
#[derive(Debug)]
pub(in crate::usage) struct LockedFile {
    file: File,
    path: PathBuf,
}

impl LockedFile {
    /// Opens and locks a file; `None` if another process has it. `create`: creates it, and fails if it
    /// exists.
    fn open(path: &Path, create: bool) -> io::Result<Option<LockedFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(create).mode(0o600);
        let file = match options.open(path) {
            // Its process has removed it.
            Err(error) if !create && error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Between the two its process may have removed or replaced it.
        let own = file.metadata()?;
        let is_there = fs::metadata(path).is_ok_and(|found| found.ino() == own.ino());
        Ok(is_there.then(|| LockedFile { file, path: path.into() }))
    }
}

impl Disk for LockedFile {
    fn read(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut length = 0;
        while length < bytes.len() {
            match self.file.read_at(&mut bytes[length..], at + length as u64) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(length)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let write = || -> io::Result<File> {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true).mode(0o600);
            let file = options.open(&new)?;
            file.try_lock()?;
            file.write_all_at(bytes, 0)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            Ok(file)
        };
        let written = write();
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        self.file = written?;
        // After a crash of the host either file may be there; both are right.
        Ok(())
    }

    fn remove(&mut self) {
        // An empty file that stays is opened by the next process.
        let _ = fs::remove_file(&self.path);
    }
}
