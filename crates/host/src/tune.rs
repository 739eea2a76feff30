//! Kernel settings for a load: which to change, as files or at once, and back.
//!
//! The settings are those that the checks of [`crate::doctor`] ask for; nothing is decided here.
//!
//! # Undo
//! Previous values are on disk before the first one is changed, and a recorded value is never
//! overwritten. So [`undo`] restores the values from before the first [`apply`], even if settings were
//! applied several times or the process was killed in between. A file is written only if none exists
//! or this module wrote it.

use crate::doctor::{Demand, Observed, examine};
use crate::{Facts, Source};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A kernel setting that should be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// As `sysctl` names it.
    pub key: String,
    /// The value now.
    pub current: String,
    /// The value it should have.
    pub value: String,
    /// Why.
    pub why: String,
}

/// Settings that guides recommend, and that do not help.
pub const OBSOLETE: [(&str, &str); 3] = [
    (
        "net.ipv4.ip_conntrack_max",
        "removed in Linux 2.6.25; the setting is net.netfilter.nf_conntrack_max",
    ),
    ("net.ipv4.tcp_fin_timeout", "limits FIN_WAIT_2; it does not shorten TIME_WAIT, which is 60 s"),
    (
        "net.ipv4.tcp_tw_recycle",
        "removed in Linux 4.12; it dropped connections of clients behind NAT",
    ),
];

/// Where the settings are kept over restarts.
const SYSCTL_FILE: &str = "/etc/sysctl.d/90-plimsoll.conf";
const LIMITS_FILE: &str = "/etc/security/limits.d/90-plimsoll.conf";
/// Where the previous values are kept.
const STATE_FILE: &str = "/var/lib/plimsoll/tune.undo";
/// The first line of every file of this module.
const MARK: &str = "# Written by plimsoll tune";

/// What to change on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Kernel settings; each occurs once.
    pub settings: Vec<Setting>,
    /// The limit of descriptors per process; `None` if the present one is enough.
    pub descriptors: Option<u64>,
}

impl Changes {
    /// What a demand needs, by the doctor's checks. Values that are good enough stay, and settings
    /// that this kernel does not have are left out.
    pub fn new(source: &Source, demand: &Demand) -> Changes {
        let mut changes = Changes::default();
        for check in examine(&Facts::read(source), &Observed::default(), demand) {
            changes.descriptors = changes.descriptors.max(check.descriptors);
            for (key, value) in check.settings {
                let known = changes.settings.iter().any(|setting| setting.key == key);
                if let Some(current) = read(source, key).filter(|_| !known) {
                    let why = check.why.clone();
                    changes.settings.push(Setting { key: key.into(), current, value, why });
                }
            }
        }
        changes
    }

    /// Whether nothing needs to be changed.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.descriptors.is_none()
    }

    /// The files to write, each with its path.
    pub fn files(&self) -> Vec<(&'static str, String)> {
        let sysctl =
            (!self.settings.is_empty()).then(|| (SYSCTL_FILE, sysctl_file(&self.settings)));
        let limits = self.descriptors.map(|limit| (LIMITS_FILE, limits_file(limit)));
        sysctl.into_iter().chain(limits).collect()
    }
}

fn path_of(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}

fn read(source: &Source, key: &str) -> Option<String> {
    let text = source.text(&path_of(key))?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The file for `/etc/sysctl.d`.
fn sysctl_file(settings: &[Setting]) -> String {
    let mut out = format!("{MARK}; apply with: sysctl --system\n");
    for Setting { key, current, value, why } in settings {
        out += &format!("# {why} (was {current})\n{key} = {value}\n");
    }
    for (key, why) in OBSOLETE {
        out += &format!("# not set: {key}: {why}\n");
    }
    out
}

/// The file for `/etc/security/limits.d`.
fn limits_file(limit: u64) -> String {
    format!(
        "{MARK}; applies to new logins. Services need LimitNOFILE={limit} in their unit.\n\
         *    soft nofile {limit}\n*    hard nofile {limit}\nroot soft nofile {limit}\nroot hard nofile {limit}\n"
    )
}

/// Makes the changes now and for later starts, after saving the previous values.
///
/// # Errors
/// Why a file cannot be written, with its path: mostly that this is not root.
pub fn apply(source: &Source, changes: &Changes) -> io::Result<Vec<String>> {
    let mut state = State::read(source)?;
    for setting in &changes.settings {
        state.add(&format!("{} = {}", setting.key, setting.current));
    }
    // What was applied before stays in the file.
    let mut all = changes.clone();
    for (key, current) in state.values() {
        if let Some(value) =
            read(source, key).filter(|_| all.settings.iter().all(|one| one.key != key))
        {
            let (key, current) = (key.to_string(), current.to_string());
            all.settings.push(Setting { key, current, value, why: "applied earlier".into() });
        }
    }
    let files = all.files();
    for (path, _) in &files {
        if let Some(text) = source.text(path)
            && !text.starts_with(MARK)
        {
            let message = format!("{path} exists and was not written by plimsoll tune");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        state.add(&format!("file {path}"));
    }
    write_new(&source.path(STATE_FILE), &state.text())?;
    let mut done = Vec::new();
    for Setting { key, value, .. } in &changes.settings {
        write_setting(source, key, value)?;
        done.push(format!("{key} = {value}"));
    }
    for (path, text) in &files {
        write_new(&source.path(path), text)?;
        done.push(format!("wrote {path}"));
    }
    Ok(done)
}

/// Restores the values from before the first [`apply`], and removes its files.
///
/// # Errors
/// Nothing was applied, or a value cannot be written; it can be tried again.
pub fn undo(source: &Source) -> io::Result<Vec<String>> {
    let state = State::read(source)?;
    if state.lines.is_empty() {
        let message = format!("nothing to undo: there is no {STATE_FILE}");
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    let mut done = Vec::new();
    for line in &state.lines {
        if let Some(path) = line.strip_prefix("file ")
            && source.text(path).is_some_and(|text| text.starts_with(MARK))
        {
            fs::remove_file(source.path(path)).map_err(|error| named(path, &error))?;
            done.push(format!("removed {path}"));
        }
    }
    for (key, value) in state.values() {
        write_setting(source, key, value)?;
        done.push(format!("{key} = {value}"));
    }
    fs::remove_file(source.path(STATE_FILE)).map_err(|error| named(STATE_FILE, &error))?;
    Ok(done)
}

/// What to restore.
#[derive(Default)]
struct State {
    lines: Vec<String>,
}

impl State {
    fn read(source: &Source) -> io::Result<State> {
        let text = match fs::read_to_string(source.path(STATE_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(error) => return Err(named(STATE_FILE, &error)),
        };
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Ok(State { lines: lines.map(str::to_string).collect() })
    }

    /// The settings and their previous values.
    fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().filter_map(|line| line.split_once(" = "))
    }

    /// Adds a line, unless its key has one: the oldest value is the one to restore.
    fn add(&mut self, line: &str) {
        let key = |line: &str| line.split(" = ").next().unwrap_or_default().to_string();
        if !self.lines.iter().any(|known| key(known) == key(line)) {
            self.lines.push(line.into());
        }
    }

    fn text(&self) -> String {
        format!("{MARK}: what plimsoll tune --undo restores\n{}\n", self.lines.join("\n"))
    }
}

fn write_setting(source: &Source, key: &str, value: &str) -> io::Result<()> {
    let path = path_of(key);
    fs::write(source.path(&path), format!("{value}\n")).map_err(|error| named(&path, &error))
}

/// Writes a file that is whole on disk or not there.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let shown = path.display().to_string();
    let write = || {
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)?;
        let mut temporary = PathBuf::from(path);
        temporary.set_extension("new");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(folder)?.sync_all()
    };
    write().map_err(|error: io::Error| named(&shown, &error))
}

fn named(path: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Destination;
    use crate::fixture::Fixture;

    fn host() -> Fixture {
        Fixture::new(&[
            ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
            ("proc/sys/net/ipv4/tcp_tw_reuse", "2\n"),
            ("proc/sys/net/core/somaxconn", "128\n"),
            ("proc/sys/net/ipv4/tcp_max_syn_backlog", "70000\n"),
        ])
    }

    /// Many new connections to another host, and many accepted.
    fn demand() -> Demand {
        let name = "10.0.0.1:80".to_string();
        let to = Destination { name, is_local: false, connections: 10, needed: 1, opened: 5_000.0 };
        Demand { destinations: vec![to], accepted: 3_000, ..Demand::default() }
    }

    /// The changes for a demand. The limit of descriptors is that of the process, whatever the files
    /// say, so it is replaced.
    fn changes(source: &Source, demand: &Demand) -> Changes {
        Changes { descriptors: Some(1_000_000), ..Changes::new(source, demand) }
    }

    fn values(source: &Source) -> Vec<Option<String>> {
        let keys = ["net.ipv4.ip_local_port_range", "net.ipv4.tcp_tw_reuse", "net.core.somaxconn"];
        keys.iter().map(|key| read(source, key)).collect()
    }

    #[test]
    fn only_values_that_are_too_small_change() {
        let host = host();
        let found = changes(&host.source(), &demand());
        let pairs: Vec<_> =
            found.settings.iter().map(|one| (one.key.as_str(), one.value.as_str())).collect();
        let expected = [
            ("net.ipv4.ip_local_port_range", "10000 65535"),
            ("net.ipv4.tcp_tw_reuse", "1"),
            ("net.core.somaxconn", "4096"),
        ];
        assert_eq!(pairs, expected);
        let file = sysctl_file(&found.settings);
        assert!(file.contains("net.core.somaxconn = 4096\n"), "{file}");
        assert!(file.contains("# not set: net.ipv4.ip_conntrack_max"), "{file}");
        assert!(limits_file(1_000_000).contains("hard nofile 1000000"));
    }

    #[test]
    fn undo_restores_what_was_there_before_the_first_time() {
        let host = host();
        let source = host.source();
        let before = values(&source);
        apply(&source, &changes(&source, &demand())).unwrap();
        assert_eq!(changes(&source, &demand()).settings, [], "nothing is left to change");
        let more = changes(&source, &Demand { accepted: 60_000, ..demand() });
        assert_eq!(more.settings[0].value, "65535");
        apply(&source, &more).unwrap();
        let file = source.text(SYSCTL_FILE).unwrap();
        assert!(file.contains("tcp_tw_reuse = 1\n"), "what was applied first stays: {file}");
        assert!(source.has(SYSCTL_FILE) && source.has(LIMITS_FILE));
        undo(&source).unwrap();
        assert_eq!(values(&source), before);
        assert!(!source.has(SYSCTL_FILE) && !source.has(LIMITS_FILE) && !source.has(STATE_FILE));
        let again = undo(&source).unwrap_err().to_string();
        assert!(again.contains("nothing to undo"), "{again}");
    }

    #[test]
    fn a_process_killed_on_the_way_can_be_undone() {
        let host = host();
        let source = host.source();
        let before = values(&source);
        let all = changes(&source, &demand()).settings;
        // Killed after the first of three settings: only that one is written.
        let mut state = State::default();
        all.iter().for_each(|one| state.add(&format!("{} = {}", one.key, one.current)));
        write_new(&source.path(STATE_FILE), &state.text()).unwrap();
        write_setting(&source, &all[0].key, &all[0].value).unwrap();
        // It is run again before it is undone.
        apply(&source, &changes(&source, &demand())).unwrap();
        undo(&source).unwrap();
        assert_eq!(values(&source), before);
    }

    #[test]
    fn files_of_others_are_left_alone() {
        let host = host();
        let source = host.source();
        write_new(&source.path(LIMITS_FILE), "* hard nofile 5\n").unwrap();
        let before = values(&source);
        let error = apply(&source, &changes(&source, &demand())).unwrap_err();
        assert!(error.to_string().contains("was not written by plimsoll tune"), "{error}");
        assert_eq!(values(&source), before);
        assert_eq!(source.text(LIMITS_FILE).as_deref(), Some("* hard nofile 5\n"));
    }

    #[test]
    fn nothing_is_changed_without_a_need_or_without_the_setting() {
        let bare = Fixture::new(&[]);
        assert_eq!(Changes::new(&bare.source(), &demand()).settings, []);
        assert!(Changes::new(&host().source(), &Demand::default()).is_empty());
    }
}
