//! Hosts and files that cannot be read in full: a clear message, and everything else is still done.

use crate::planted::record;
use crate::run::{Done, Folder, RPC, RunResult};
use plimsoll_measure::{FindingId, Listed, wire};
use plimsoll_sim::{Settings, Sim};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

/// Runs a shell script in a mount namespace of its own; `None` without the privilege.
fn in_mounts(script: &str) -> Option<Done> {
    let unshare = |script: &str| -> Done {
        let mut command = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["--mount", "sh", "-ec", script]).stdin(Stdio::null());
        command.output().unwrap().into()
    };
    let allowed = unshare("mount -t tmpfs none /proc");
    if allowed.code != 0 {
        let why = allowed.stderr.trim();
        let _ = writeln!(std::io::stderr(), "skipped: needs a mount namespace: {why}");
        return None;
    }
    Some(unshare(script))
}

const BIN: &str = env!("CARGO_BIN_EXE_plimsoll");

#[test]
fn without_proc_a_run_is_complete_and_names_what_it_could_not_read() {
    let sim = Sim::start(Settings::default()).unwrap();
    let folder = Folder::new();
    let out = folder.path().join("out");
    let script = format!(
        "mount -t tmpfs none /proc\nexec {BIN} run --url {} -b '{RPC}' --rate 100/s -n 50 \
         --out {} --format json",
        sim.url("eth"),
        out.display()
    );
    let Some(done) = in_mounts(&script) else { return };
    let result = RunResult::of(done);
    assert_eq!(result.count("/requests/ok"), 50, "{}", result.done.stderr);
    result.assert_code(0);
    let text = std::fs::read_to_string(out.join("snapshots.jsonl")).unwrap();
    let unread = wire::read(&text).unwrap().header.unread;
    for source in ["/proc/stat: ", "/proc/net/sockstat: ", "/proc/net/snmp: ", "/proc/self/fd: "] {
        assert!(unread.iter().any(|line| line.starts_with(source)), "{source} in {unread:?}");
    }
    let findings = result.summary["verdict"]["findings"].as_array().unwrap();
    assert!(findings.iter().all(|finding| finding["side"] == "generator"), "{findings:?}");
}

#[test]
fn without_proc_the_doctor_says_what_it_cannot_read() {
    let script = format!("mount -t tmpfs none /proc\nexec {BIN} doctor --format json");
    let Some(done) = in_mounts(&script) else { return };
    assert_eq!(done.code, 0, "{}", done.stderr);
    for source in ["/proc/stat", "/proc/net/sockstat", "/proc/meminfo"] {
        let words = format!("cannot read {source}");
        assert!(done.stdout.contains(&words), "{words}: {}", done.stdout);
    }
}

#[test]
fn with_a_read_only_proc_sys_a_run_is_complete_and_tune_says_why_it_is_not() {
    let sim = Sim::start(Settings::default()).unwrap();
    let read_only = "mount --bind /proc/sys /proc/sys\nmount -o remount,bind,ro /proc/sys\n";
    let run = format!(
        "{read_only}exec {BIN} run --url {} -b '{RPC}' --rate 100/s -n 50 --no-out --format json",
        sim.url("eth")
    );
    let Some(done) = in_mounts(&run) else { return };
    let result = RunResult::of(done);
    assert_eq!(result.count("/requests/ok"), 50, "{}", result.done.stderr);
    result.assert_code(0);
    // tune saves previous values before it writes: to folders that only this namespace sees.
    let folder = Folder::new();
    let plan = folder.file(
        "plan.toml",
        "rate = \"20000/s\"\nduration = \"10s\"\nconnections = { reuse = false }\n\
         [[target]]\nrequest = \"GET http://10.0.0.1/\"\n",
    );
    let tune = format!(
        "mkdir -p /var/lib\nmount -t tmpfs none /var/lib\nmount -t tmpfs none /etc\n\
         {read_only}exec {BIN} tune {plan} --apply"
    );
    let done = in_mounts(&tune).unwrap();
    assert_ne!(done.code, 0);
    for words in ["cannot write /proc/sys/", "Read-only file system", "hint: "] {
        assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
    }
}

#[test]
fn a_newer_run_directory_gives_the_same_verdict_and_names_what_was_ignored() {
    assert_eq!(FindingId::from_name("a_finding_of_a_newer_version"), None);
    let from = record::folder().join("limit-too-low-long-timeout");
    let text = |name: &str| std::fs::read_to_string(from.join(name)).unwrap();
    let (plan, snapshots) = (text("plan.toml"), text("snapshots.jsonl"));
    let recording: Value = serde_json::from_str(&text("recording.json")).unwrap();
    let newer: String = snapshots
        .lines()
        .enumerate()
        .map(|(number, line)| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            if number > 0 {
                line["findings"] = json!([{ "id": "a_finding_of_a_newer_version" }]);
                line["faults"]["a fault of a newer version"] = json!(3);
                line["host"]["a_source"] = json!({ "of": "a newer version" });
            }
            line.to_string() + "\n"
        })
        .collect();
    let notes = wire::read(&newer).unwrap().ignored;
    for words in ["\"findings\"", "\"a fault of a newer version\"", "\"host.a_source\""] {
        let noted = notes.iter().any(|note| note.contains(words) && note.ends_with("ignored"));
        assert!(noted, "{words} in {notes:?}");
    }
    let facts = &recording["facts"];
    let same = record::summary(&plan, &newer, facts) == record::summary(&plan, &snapshots, facts);
    assert!(same, "unknown fields change the figures");
}
