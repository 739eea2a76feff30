//! Files that only their owner may read, because they contain credentials: the access log and the
//! database.

use std::fs::{Permissions, metadata, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Makes a file readable by its owner only, if at present everyone may read it. A file that is readable
/// by its group but not by others stays so: its operator has chosen that, for example with logrotate's
/// `create 0640`. Devices and pipes are left alone.
///
/// Works on the path, because closing a descriptor of a database releases SQLite's locks.
pub fn restrict(path: &Path) {
    let Ok(metadata) = metadata(path) else { return };
    let mode = metadata.permissions().mode();
    if metadata.is_file() && mode & 0o007 != 0 {
        // Fails if the file belongs to another user, who is then responsible for it.
        let _ = set_permissions(path, Permissions::from_mode(mode & 0o700));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_everyone_may_read_are_restricted() {
        let path = std::env::temp_dir().join(format!("plimsoll-private-{}", std::process::id()));
        std::fs::write(&path, "").expect("a temporary file");
        let check = |before: u32, after: u32| {
            set_permissions(&path, Permissions::from_mode(before)).expect("its owner");
            restrict(&path);
            let mode = metadata(&path).expect("it exists").permissions().mode();
            assert_eq!(mode & 0o777, after, "{before:o}");
        };
        check(0o644, 0o600);
        check(0o666, 0o600);
        check(0o444, 0o400);
        check(0o640, 0o640);
        check(0o600, 0o600);
        std::fs::remove_file(&path).expect("it exists");
    }
}
