//! The last entries that a gateway read from a database server, in a file: a gateway that is started
//! while the server cannot be reached serves them.
//!
//! The file is replaced atomically, so that it is always complete, whatever happens to the process, and
//! only its owner may read it: ids of endpoints are credentials. It names its database; a file of
//! another one is not used. Gateways that share a folder share the file; one that is behind does not
//! overwrite a newer state.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use plimsoll_measure::WallClock;
use serde_json::{Value, json};

use crate::store::{Entries, Entry, EntryKind};

/// The format's name and version.
const SCHEMA: &str = "plimsoll/registry/1";

/// The longest part of a file's name that is made from a database's.
const NAME_MAX: usize = 120;

/// A larger file is not read: it is not ours.
const SIZE_MAX: u64 = 1 << 30;

/// The file of one database.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    path: PathBuf,
    database: String,
}

impl Snapshot {
    /// The file in a folder for a database, which is named without secrets.
    pub(super) fn of(folder: &Path, database: &str) -> Snapshot {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let name: String = database.chars().take(NAME_MAX).map(plain).collect();
        Snapshot { path: folder.join(format!("registry-{name}.json")), database: database.into() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn read(&self) -> Result<Option<Entries>, String> {
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
            Ok(found) if found.len() > SIZE_MAX => return Err("it is too large".into()),
            Ok(_) => {}
        }
        let text = fs::read_to_string(&self.path).map_err(|error| error.to_string())?;
        let value: Value =
            serde_json::from_str(&text).map_err(|error| format!("it is damaged: {error}"))?;
        if value["schema"] != SCHEMA {
            return Err("it has another format".into());
        }
        if value["database"] != self.database {
            return Err("it belongs to another database".into());
        }
        parse(&value).map(Some).ok_or_else(|| "it is damaged: a member is missing".into())
    }

    /// Writes the entries, unless the file has newer ones; `is_whole`: they were loaded as a whole, and
    /// replace even those with a higher number, because the database was replaced.
    ///
    /// # Errors
    /// Why the file cannot be written.
    pub(super) fn write(&self, entries: &Entries, is_whole: bool) -> Result<(), String> {
        let is_newer = |there: &Entries| there.sequence > entries.sequence;
        if !is_whole && self.read().ok().flatten().is_some_and(|there| is_newer(&there)) {
            return Ok(());
        }
        let text = self.show(entries);
        self.replace(text.as_bytes()).map_err(|error| format!("{}: {error}", self.path.display()))
    }

    fn replace(&self, bytes: &[u8]) -> std::io::Result<()> {
        let new = self.path.with_extension(format!("{}.new", std::process::id()));
        let written = (|| {
            let options = OpenOptions::new().write(true).create(true).truncate(true).clone();
            let mut file = options.clone().mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            // The rename itself must survive a crash of the host, too.
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        })();
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }

    fn show(&self, entries: &Entries) -> String {
        let entry = |entry: &Entry| {
            json!({
                "kind": entry.kind.name(), "id": entry.id, "service": entry.service,
                "definition": entry.definition, "disabled": entry.disabled,
            })
        };
        let value = json!({
            "schema": SCHEMA, "database": self.database, "saved_at": WallClock::now().rfc3339(),
            "sequence": entries.sequence,
            "entries": entries.entries.iter().map(entry).collect::<Vec<_>>(),
        });
        format!("{value}\n")
    }
}

fn parse(value: &Value) -> Option<Entries> {
    let text = |value: &Value| match value {
        Value::Null => Some(None),
        Value::String(text) => Some(Some(text.clone())),
        _ => None,
    };
    let entry = |value: &Value| {
        let word = value["kind"].as_str()?;
        Some(Entry {
            kind: EntryKind::ALL.into_iter().find(|kind| kind.name() == word)?,
            id: value["id"].as_str()?.into(),
            service: text(&value["service"])?,
            definition: text(&value["definition"])?,
            disabled: value["disabled"].as_bool()?,
        })
    };
    let mut entries: Vec<Entry> =
        value["entries"].as_array()?.iter().map(entry).collect::<Option<_>>()?;
    entries.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
    Some(Entries { sequence: value["sequence"].as_u64()?, entries, ..Entries::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn entries(sequence: u64, ids: &[&str]) -> Entries {
        let entry = |id: &&str| Entry {
            kind: EntryKind::Endpoint,
            id: id.to_string(),
            service: Some("eth".into()),
            definition: Some("methods = { deny = [\"ä\"] }".into()),
            disabled: id.len() > 1,
        };
        Entries { sequence, entries: ids.iter().map(entry).collect(), ..Entries::default() }
    }

    #[test]
    fn files_are_complete_private_and_of_one_database() {
        let folder = std::env::temp_dir().join(format!("plimsoll-snapshot-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let snapshot = Snapshot::of(&folder, "postgres://[redacted]@h:1/db");
        assert!(snapshot.read().unwrap().is_none());
        let read = || snapshot.read().unwrap().unwrap();
        snapshot.write(&entries(2, &["a", "bb"]), true).unwrap();
        assert_eq!(read().entries, entries(2, &["a", "bb"]).entries);
        let mode = fs::metadata(snapshot.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // One that is behind does not overwrite; a database that was replaced does.
        snapshot.write(&entries(1, &["a"]), false).unwrap();
        assert_eq!(read().sequence, 2);
        snapshot.write(&entries(1, &["a"]), true).unwrap();
        assert_eq!(read().sequence, 1);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no file is left over");

        let text = fs::read_to_string(snapshot.path()).unwrap();
        let check = |text: &str, words: &str| {
            fs::write(snapshot.path(), text).unwrap();
            let why = snapshot.read().unwrap_err();
            assert!(why.contains(words), "{why}");
        };
        check(&text[..text.len() / 2], "damaged");
        check("", "damaged");
        check(&text.replace("registry/1", "registry/9"), "another format");
        check(&text.replace("@h:1/", "@h:2/"), "another database");
        check(&text.replace("\"endpoint\"", "\"x\""), "a member is missing");
        fs::remove_dir_all(&folder).unwrap();
        let why = snapshot.write(&entries(3, &[]), true).unwrap_err();
        assert!(why.contains("No such file"), "{why}");
    }
}
