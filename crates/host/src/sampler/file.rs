//! Files that are read again and again.

use crate::Source;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The largest file that is read, in bytes. `/proc/stat` has a line per CPU and the count of each
/// interrupt: about 100 KiB with 1,000 CPUs.
const FILE_MAX: usize = 1 << 20;

/// What a file is read into; grows to the largest one.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
}

/// A file of `/proc` or `/sys` that stays open.
pub(super) struct WatchedFile {
    file: File,
}

impl WatchedFile {
    /// Opens a file and checks that it can be read.
    ///
    /// # Errors
    /// If either fails: some files can be opened only, such as those of a restricted container.
    pub(super) fn open(source: &Source, path: &str) -> io::Result<WatchedFile> {
        let file = File::open(source.path(path))?;
        file.read_at(&mut [0; 16], 0)?;
        Ok(WatchedFile { file })
    }

    /// The file's present text; `None` if it cannot be read, such as that of a thread that has ended,
    /// or is longer than [`FILE_MAX`].
    pub(super) fn text<'b>(&self, buffer: &'b mut Buffer) -> Option<&'b str> {
        let bytes = &mut buffer.bytes;
        let mut len = 0;
        loop {
            if len == bytes.len() {
                if len >= FILE_MAX {
                    return None;
                }
                bytes.resize((2 * len).clamp(4096, FILE_MAX), 0);
            }
            match self.file.read_at(&mut bytes[len..], len as u64) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        std::str::from_utf8(&bytes[..len]).ok()
    }

    /// Parses the file's present text.
    pub(super) fn read<T>(
        &self,
        buffer: &mut Buffer,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        parse(self.text(buffer)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    #[test]
    fn a_file_is_read_again_whole() {
        let long = "x".repeat(10_000);
        let host = Fixture::new(&[("long", &long), ("binary", "\u{fffd}"), ("empty", "")]);
        let mut buffer = Buffer::default();
        let file = WatchedFile::open(&host.source(), "/long").unwrap();
        assert_eq!(file.text(&mut buffer), Some(long.as_str()));
        host.write("long", "short");
        assert_eq!(file.text(&mut buffer), Some("short"));
        let empty = WatchedFile::open(&host.source(), "/empty").unwrap();
        assert_eq!(empty.text(&mut buffer), Some(""));
        host.write("long", &"x".repeat(FILE_MAX + 1));
        assert_eq!(file.text(&mut buffer), None);
        assert!(WatchedFile::open(&host.source(), "/absent").is_err());
        // A folder can be opened, but not read.
        assert!(WatchedFile::open(&host.source(), "/").is_err());
    }
}
