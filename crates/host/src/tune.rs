//! Kernel settings for a load: which to change, as files or at once, and back.
//!
//! # Undo
//! Previous values are on disk before the first one is changed, and a recorded value is never
//! overwritten. So [`undo`] restores the values from before the first [`apply`], even if settings were
//! applied several times or the process was killed in between. A file is written only if none exists
//! or this module wrote it.

use crate::doctor::{Demand, PORTS};
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

/// Descriptors per process.
pub const DESCRIPTORS: u64 = 1_000_000;
/// Where the settings are kept over restarts.
const SYSCTL_FILE: &str = "/etc/sysctl.d/90-plimsoll.conf";
const LIMITS_FILE: &str = "/etc/security/limits.d/90-plimsoll.conf";
/// Where the previous values are kept.
const STATE_FILE: &str = "/var/lib/plimsoll/tune.undo";
/// The first line of every file of this module.
const MARK: &str = "# Written by plimsoll tune";

/// The settings to change on a host. Values that are good enough stay.
pub fn settings(source: &Source, demand: &Demand) -> Vec<Setting> {
    let facts = Facts::read(source);
    let mut all = Vec::new();
    let mut want = |key: &str, good: bool, value: String, why: &str| {
        if let Some(current) = read(source, key).filter(|_| !good) {
            all.push(Setting { key: key.into(), current, value, why: why.into() });
        }
    };
    // A range that begins lower keeps its beginning.
    let lower = facts.ports.filter(|ports| ports.first < 10_000);
    want(
        "net.ipv4.ip_local_port_range",
        facts.ports.is_some_and(|ports| ports.first <= 10_000 && ports.last >= 65_535),
        lower.map_or(PORTS.into(), |ports| format!("{} 65535", ports.first)),
        "more ports for outgoing connections: each holds one per destination and source address",
    );
    want(
        "net.ipv4.tcp_tw_reuse",
        facts.tw_reuse == Some(crate::TwReuse::Always),
        "1".into(),
        "a port in TIME_WAIT may be used again after 1 s instead of 60 s, if both sides send timestamps",
    );
    let queue = demand.accepted.max(4_096).next_power_of_two().clamp(4_096, 65_535);
    want(
        "net.core.somaxconn",
        facts.somaxconn.is_some_and(|now| now >= queue),
        queue.to_string(),
        "the longest accept queue of a listener on this host; servers must be restarted",
    );
    want(
        "net.ipv4.tcp_max_syn_backlog",
        facts.syn_backlog.is_some_and(|now| now >= queue),
        queue.to_string(),
        "half-open connections per listener on this host",
    );
    want(
        "net.netfilter.nf_conntrack_max",
        facts.conntrack.is_some_and(|(_, max)| max >= 1_000_000),
        "1000000".into(),
        "tracked connections; beyond them packets are dropped",
    );
    all
}

fn path_of(key: &str) -> String {
    format!("/proc/sys/{}", key.replace('.', "/"))
}

fn read(source: &Source, key: &str) -> Option<String> {
    let text = source.text(&path_of(key))?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The file for `/etc/sysctl.d`.
pub fn sysctl_file(settings: &[Setting]) -> String {
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
pub fn limits_file(demand: &Demand) -> String {
    let limit = demand.descriptors.max(DESCRIPTORS);
    format!(
        "{MARK}; applies to new logins. Services need LimitNOFILE={limit} in their unit.\n\
         *    soft nofile {limit}\n*    hard nofile {limit}\nroot soft nofile {limit}\nroot hard nofile {limit}\n"
    )
}

/// Changes the settings now and for later starts, after saving the previous values.
///
/// # Errors
/// Why a file cannot be written, with its path: mostly that this is not root.
pub fn apply(source: &Source, settings: &[Setting], demand: &Demand) -> io::Result<Vec<String>> {
    let mut state = State::read(source)?;
    for setting in settings {
        state.add(&format!("{} = {}", setting.key, setting.current));
    }
    // What was applied before stays in the file.
    let mut all = settings.to_vec();
    for (key, current) in state.values() {
        if let Some(value) = read(source, key).filter(|_| all.iter().all(|one| one.key != key)) {
            let (key, current) = (key.to_string(), current.to_string());
            all.push(Setting { key, current, value, why: "applied earlier".into() });
        }
    }
    let files = [(SYSCTL_FILE, sysctl_file(&all)), (LIMITS_FILE, limits_file(demand))];
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
    for Setting { key, value, .. } in settings {
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
    use crate::fixture::Fixture;

    fn host() -> Fixture {
        Fixture::new(&[
            ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
            ("proc/sys/net/ipv4/tcp_tw_reuse", "2\n"),
            ("proc/sys/net/core/somaxconn", "128\n"),
            ("proc/sys/net/ipv4/tcp_max_syn_backlog", "70000\n"),
        ])
    }

    fn values(source: &Source) -> Vec<Option<String>> {
        let keys = ["net.ipv4.ip_local_port_range", "net.ipv4.tcp_tw_reuse", "net.core.somaxconn"];
        keys.iter().map(|key| read(source, key)).collect()
    }

    #[test]
    fn only_values_that_are_too_small_change() {
        let host = host();
        let found = settings(&host.source(), &Demand::default());
        let pairs: Vec<_> =
            found.iter().map(|one| (one.key.as_str(), one.value.as_str())).collect();
        let expected = [
            ("net.ipv4.ip_local_port_range", "10000 65535"),
            ("net.ipv4.tcp_tw_reuse", "1"),
            ("net.core.somaxconn", "4096"),
        ];
        assert_eq!(pairs, expected);
        let file = sysctl_file(&found);
        assert!(file.contains("net.core.somaxconn = 4096\n"), "{file}");
        assert!(file.contains("# not set: net.ipv4.ip_conntrack_max"), "{file}");
        assert!(limits_file(&Demand::default()).contains("hard nofile 1000000"));
    }

    #[test]
    fn undo_restores_what_was_there_before_the_first_time() {
        let host = host();
        let source = host.source();
        let before = values(&source);
        let demand = Demand::default();
        let first = settings(&source, &demand);
        apply(&source, &first, &demand).unwrap();
        assert!(settings(&source, &demand).is_empty(), "nothing is left to change");
        let more = Demand { accepted: 60_000, ..demand };
        let second = settings(&source, &more);
        assert_eq!(second[0].value, "65535");
        apply(&source, &second, &more).unwrap();
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
        let demand = Demand::default();
        let all = settings(&source, &demand);
        // Killed after the first of three settings: only that one is written.
        let mut state = State::default();
        all.iter().for_each(|one| state.add(&format!("{} = {}", one.key, one.current)));
        write_new(&source.path(STATE_FILE), &state.text()).unwrap();
        write_setting(&source, &all[0].key, &all[0].value).unwrap();
        // It is run again before it is undone.
        apply(&source, &settings(&source, &demand), &demand).unwrap();
        undo(&source).unwrap();
        assert_eq!(values(&source), before);
    }

    #[test]
    fn files_of_others_are_left_alone() {
        let host = host();
        let source = host.source();
        write_new(&source.path(LIMITS_FILE), "* hard nofile 5\n").unwrap();
        let demand = Demand::default();
        let before = values(&source);
        let error = apply(&source, &settings(&source, &demand), &demand).unwrap_err();
        assert!(error.to_string().contains("was not written by plimsoll tune"), "{error}");
        assert_eq!(values(&source), before);
        assert_eq!(source.text(LIMITS_FILE).as_deref(), Some("* hard nofile 5\n"));
    }

    #[test]
    fn a_host_without_settings_has_nothing_to_change() {
        let host = Fixture::new(&[]);
        assert_eq!(settings(&host.source(), &Demand::default()), []);
    }
}
