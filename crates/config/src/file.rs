//! Reads a file that a user named.
//!
//! Only regular files are read. Opening a pipe that nobody writes to would wait forever, and a device
//! such as `/dev/zero` has no end.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Reads a regular file of at most `len_max` bytes.
///
/// # Errors
/// A message with the path: the file cannot be read, is not a regular file, or is too large.
pub fn read_file(path: &Path, len_max: u64) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let failed = |error| format!("cannot read {shown}: {error}");
    let kind = fs::metadata(path).map_err(failed)?.file_type();
    let what = if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        // Files in /proc have no length, so the reported length is not used.
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(len_max + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > len_max {
            return Err(format!("{shown} is larger than {len_max} bytes"));
        }
        return Ok(bytes);
    };
    Err(format!("cannot read {shown}: it is {what}, not a regular file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        let folder = std::env::temp_dir().join(format!("plimsoll-file-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (file, socket) = (folder.join("file"), folder.join("socket"));
        fs::write(&file, "12345").unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(read_file(&file, 5), Ok(b"12345".to_vec()));
        assert!(!read_file(Path::new("/proc/self/status"), 1 << 20).unwrap().is_empty());
        let check = |path: &Path, ends: &str| {
            let message = read_file(path, 4).unwrap_err();
            assert!(message.ends_with(ends), "{message}");
        };
        check(&file, "file is larger than 4 bytes");
        check(&folder.join("none"), "No such file or directory (os error 2)");
        check(&folder, "it is a directory, not a regular file");
        check(&socket, "it is a socket, not a regular file");
        check(Path::new("/dev/zero"), "it is a device, not a regular file");
        fs::remove_dir_all(folder).unwrap();
    }
}
