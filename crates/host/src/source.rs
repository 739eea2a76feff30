//! Where facts about the host are read from: `/proc`, `/sys` and `/run`, or a copy of them.

use std::path::PathBuf;

/// The root of the file system to read from. Tests read a copy.
#[derive(Clone, Debug)]
pub struct Source {
    root: PathBuf,
}

impl Source {
    /// This host.
    pub fn host() -> Source {
        Source::at("/")
    }

    /// A copy of a host's files.
    pub fn at(root: impl Into<PathBuf>) -> Source {
        Source { root: root.into() }
    }

    /// Where a file is.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a file; `None` if it cannot be read.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.path(path)).ok()
    }

    /// The numbers in a file, separated by white space; `None` if there are none.
    pub(crate) fn numbers(&self, path: &str) -> Option<Vec<u64>> {
        let numbers: Vec<u64> =
            self.text(path)?.split_whitespace().map_while(|word| word.parse().ok()).collect();
        (!numbers.is_empty()).then_some(numbers)
    }

    /// The first number in a file.
    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        self.numbers(path).map(|numbers| numbers[0])
    }

    /// Whether there is such a file.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The number of entries of a folder.
    pub(crate) fn count(&self, path: &str) -> Option<u64> {
        Some(std::fs::read_dir(self.path(path)).ok()?.count() as u64)
    }

    /// The names in a folder.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(path)) else { return Vec::new() };
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
    }
}
