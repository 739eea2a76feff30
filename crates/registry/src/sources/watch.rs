//! Detects changes of a file's content: compares metadata first, and reads the content only if the
//! metadata differs.
//!
//! A change within one tick of the file system's clock may leave length and modification time
//! unchanged. Therefore a recently written file is always read.
//!
//! A file that is written in place is empty or half written for a moment, and half a configuration may
//! be valid. Therefore a change counts only once the file has been stable for [`SETTLE`], and a file
//! that has lost all its content is a problem, not a configuration.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use plimsoll_config::{Place, Problems};
use plimsoll_measure::{Nanos, WallClock};
use tokio::time::Instant;

use crate::config::{Inputs, OTHER_FILE};

/// The coarsest resolution of modification times: younger files may have changed unnoticed.
const TICK_MAX: Nanos = Nanos::from_secs(2);

/// A file that is stable for this long is assumed to be complete.
const SETTLE: Duration = Duration::from_secs(1);

/// What to do about a file without content.
const EMPTIED: &str = "restore its content; to run without entries, leave a comment in it";

/// The state of a file when it was last read.
#[derive(Debug)]
pub(super) struct Watch {
    /// How long a change must be stable.
    pub(super) settle: Duration,
    metadata: Option<Metadata>,
    content: Option<u64>,
    /// Whether the file could be read before, so that its name is right.
    was_read: bool,
    /// Whether a configuration with content was read before.
    had_content: bool,
    /// A change that is not yet stable, and since when it has been seen.
    unsettled: Option<(State, Instant)>,
}

/// A file's metadata and the hash of its content, as far as they can be read.
type State = (Option<Metadata>, Option<u64>);

impl Default for Watch {
    fn default() -> Watch {
        Watch {
            settle: SETTLE,
            metadata: None,
            content: None,
            was_read: false,
            had_content: false,
            unsettled: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Metadata {
    device: u64,
    inode: u64,
    len: u64,
    /// Since 1970; earlier times count as 1970.
    modified_ns: u64,
}

impl Metadata {
    fn of(path: &Path) -> Option<Metadata> {
        let metadata = std::fs::metadata(path).ok()?;
        let secs = u64::try_from(metadata.mtime()).unwrap_or_default();
        let modified_ns = Nanos::from_secs(secs).0.saturating_add(metadata.mtime_nsec() as u64);
        Some(Metadata {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified_ns,
        })
    }
}

impl Watch {
    /// Reads the file of `inputs`, if there is one.
    pub(super) fn read(&mut self, inputs: &Inputs) -> Result<Option<String>, Problems> {
        // Metadata first: a change between the two reads is then detected later, not missed.
        self.metadata = inputs.file.as_deref().and_then(Metadata::of);
        let hint = if self.was_read { "restore it" } else { OTHER_FILE };
        let text = inputs.read_file(hint);
        self.was_read |= text.is_ok();
        self.content = text.as_ref().ok().and_then(|text| text.as_deref()).map(hash);
        self.unsettled = None;
        let text = text?;
        let is_blank = text.as_deref().is_some_and(|text| text.trim().is_empty());
        if is_blank && self.had_content {
            let mut problems = Problems::default();
            let file = inputs.file.as_deref().unwrap_or(Path::new("")).display();
            problems.note(Place::Named(file.to_string()), "the file is empty now", EMPTIED);
            return Err(problems);
        }
        self.had_content |= !is_blank && text.is_some();
        Ok(text)
    }

    /// Records that there was a configuration with this text before.
    pub(super) fn follows(&mut self, text: &str) {
        self.had_content |= !text.trim().is_empty();
    }

    /// Whether the file's content differs from the last read and is stable.
    pub(super) fn changed(&mut self, inputs: &Inputs) -> bool {
        let Some(path) = inputs.file.as_deref() else { return false };
        let metadata = Metadata::of(path);
        let now = WallClock::now().unix_ns;
        let settled = |seen: Metadata| now.saturating_sub(seen.modified_ns) > TICK_MAX.0;
        if metadata == self.metadata && metadata.is_none_or(settled) {
            self.unsettled = None;
            return false;
        }
        let content = content(path);
        if content == self.content {
            self.metadata = metadata;
            self.unsettled = None;
            return false;
        }
        let state = (metadata, content);
        let since = match self.unsettled {
            Some((seen, since)) if seen == state => since,
            _ => Instant::now(),
        };
        self.unsettled = Some((state, since));
        since.elapsed() >= self.settle
    }
}

fn content(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok().as_deref().map(hash)
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
