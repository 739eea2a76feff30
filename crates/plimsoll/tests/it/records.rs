//! What a run leaves behind: its report again from its directory, whatever happened to it.

use crate::run::{Done, Folder, RPC, command, plimsoll, start};
use crate::server::{Reply, Server};
use plimsoll_measure::Snapshot;
use plimsoll_measure::samples::Reader;
use plimsoll_measure::wire::{self, Reading};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// A server that fails in several ways.
fn server() -> Server {
    Server::start(|number, received| match (received.line(), number % 4) {
        ("GET /page", 0) => Reply::with(500, "", "no"),
        ("GET /page", _) => Reply::ok("fine"),
        (_, 0) => Reply::ok(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"x"}}"#),
        _ => Reply::ok(r#"{"jsonrpc":"2.0","id":1,"result":"0x1"}"#),
    })
}

/// Two streams, one of them with stages, and a target that refuses connections.
fn plan(server: &Server, seconds: u64) -> String {
    format!(
        "timeout = \"2s\"\nwarmup = \"200ms\"\n\
         [[objective]]\nthat = \"success > 1%\"\nwhere = {{ chain = \"eth\" }}\n\
         [[stream]]\nname = \"calls\"\nrate = \"200/s\"\nduration = \"{seconds}s\"\n\
         [[stream.target]]\nname = \"rpc\"\ntags = {{ chain = \"eth\" }}\nrequest = \"POST {0}/\"\nbody = '{RPC}'\n\
         [[stream.target]]\nname = \"gone\"\ntags = {{ chain = \"boba\" }}\nrequest = \"GET http://127.0.0.1:9/\"\n\
         [[stream]]\nname = \"pages\"\n\
         stages = [{{ rate = \"50/s\", for = \"1s\" }}, {{ rate = \"100/s\", for = \"{1}s\" }}]\n\
         [[stream.target]]\nname = \"page\"\nrequest = \"GET {0}/page\"\n",
        server.url(),
        seconds - 1
    )
}

/// A finished run in `out`.
fn run(folder: &Folder, args: &[&str]) -> Done {
    let server = server();
    let (plan, out) = (folder.file("plan.toml", plan(&server, 2)), folder.path().join("out"));
    let all = ["run", &plan, "--workers", "2", "--out", out.to_str().unwrap()];
    plimsoll(&[&all, args].concat())
}

fn report(run: &Path, args: &[&str]) -> Done {
    plimsoll(&[&["report", run.to_str().unwrap()], args].concat())
}

fn json(run: &Path, args: &[&str]) -> Value {
    let done = report(run, &[&["--format", "json"], args].concat());
    serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}\n{}", done.stderr))
}

fn count(summary: &Value, pointer: &str) -> u64 {
    summary.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer}"))
}

#[test]
fn the_report_on_a_run_directory_is_that_of_the_run() {
    let folder = Folder::new();
    let done = run(&folder, &[]);
    let out = folder.path().join("out");
    let text = report(&out, &[]);
    assert_eq!(text.code, done.code, "{}", text.stderr);
    let without_directory = |text: &str| {
        let lines = text.lines().filter(|line| !line.contains("/out"));
        lines.map(|line| line.to_string() + "\n").collect::<String>()
    };
    assert_eq!(without_directory(&text.stdout), without_directory(&done.stdout));
    let kept = std::fs::read_to_string(out.join("summary.json")).unwrap();
    assert!(report(&out, &["--format", "json"]).stdout.trim_end() == kept, "another summary");
    // It needs neither the summary, nor the records, nor the host, nor what is not a file of a run.
    for name in ["summary.json", "samples.parquet", "host.json"] {
        std::fs::remove_file(out.join(name)).unwrap();
    }
    let again = report(&out.join("snapshots.jsonl"), &["--format", "json"]);
    assert!(again.stdout.trim_end() == kept && again.code == done.code, "another summary");
}

#[test]
fn a_run_that_is_killed_is_reported_up_to_its_last_second() {
    let server = server();
    let folder = Folder::new();
    let (plan, out) = (folder.file("plan.toml", plan(&server, 60)), folder.path().join("out"));
    let mut child = start(&["run", &plan, "--out", out.to_str().unwrap()]);
    server.wait_for(600); // More than three seconds.
    let running = report(&out, &[]);
    assert!(running.stderr.contains("out is still running; this is its report so far"));
    assert!(running.stdout.contains("by this report: it is still running"), "{}", running.stdout);
    child.kill().unwrap();
    child.wait().unwrap();
    let text = std::fs::read_to_string(out.join("snapshots.jsonl")).unwrap();
    let Reading { snapshots, facts, .. } = wire::read(&text).unwrap();
    assert!(snapshots.len() >= 2 && facts.is_none());
    let mut sum = snapshots[0].blank();
    snapshots.iter().for_each(|second| sum.append(second));
    let summary = json(&out, &[]);
    assert_eq!(count(&summary, "/requests/scheduled"), sum.total().requests.scheduled);
    assert_eq!(
        (&summary["cut_short"], summary["warmup"]["duration_ns"].as_u64()),
        (&true.into(), Some(200_000_000))
    );
    let findings = summary["verdict"]["findings"].as_array().unwrap();
    let cut = findings.iter().find(|finding| finding["id"] == "cut_short").unwrap();
    assert!(
        cut["evidence"].as_str().unwrap().contains("a kill, a crash or a loss of power"),
        "{cut}"
    );
    assert_eq!(report(&out, &[]).code, 130);
    // The records of the same seconds are there.
    let parquet = folder.path().join("all.parquet");
    let done = report(&out, &["--format", "parquet", "--output", parquet.to_str().unwrap()]);
    let all = thousands(sum.total().requests.scheduled);
    let expected = format!("{all} of {all} requests written");
    assert!(done.stderr.contains(&expected), "{expected}: {}", done.stderr);
}

/// `1,234`.
fn thousands(n: u64) -> String {
    if n < 1000 { n.to_string() } else { format!("{},{:03}", n / 1000, n % 1000) }
}

#[test]
fn files_cut_at_any_byte_are_reported() {
    let folder = Folder::new();
    run(&folder, &["--record", "all"]);
    let out = folder.path().join("out");
    let whole = std::fs::read(out.join("snapshots.jsonl")).unwrap();
    let start = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for part in [0, start / 2, start, start + 9, whole.len() / 2, whole.len() - 9, whole.len() - 1]
    {
        std::fs::write(out.join("snapshots.jsonl"), &whole[..part]).unwrap();
        let done = report(&out, &["--format", "json"]);
        let seconds: Vec<Snapshot> = match wire::read(std::str::from_utf8(&whole[..part]).unwrap())
        {
            Ok(reading) => reading.snapshots,
            Err(_) => Vec::new(),
        };
        if seconds.is_empty() {
            assert_eq!(done.code, 2, "{}", done.stderr);
            let named = done.stderr.contains("snapshots.jsonl")
                || done.stderr.contains("no complete second");
            assert!(named && done.stderr.contains("\n  hint: "), "{}", done.stderr);
            continue;
        }
        let summary: Value = serde_json::from_str(&done.stdout).unwrap();
        let scheduled: u64 = seconds.iter().map(|own| own.total().requests.scheduled).sum();
        assert_eq!(count(&summary, "/requests/scheduled"), scheduled);
        assert_eq!(summary["cut_short"], true);
    }
}

#[test]
fn only_what_was_asked_for_is_recorded() {
    for (record, files) in [("errors", 1), ("none", 0)] {
        let folder = Folder::new();
        run(&folder, &["--record", record]);
        let out = folder.path().join("out");
        let found = std::fs::read_dir(&out).unwrap().filter(|entry| {
            entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("samples.")
        });
        assert_eq!(found.count(), files);
        let parquet = folder.path().join("records.parquet");
        let done = report(&out, &["--format", "parquet", "--output", parquet.to_str().unwrap()]);
        if record == "none" {
            assert_eq!(done.code, 2);
            assert!(done.stderr.contains("has no records of single requests"), "{}", done.stderr);
            assert!(std::fs::read_dir(folder.path()).unwrap().count() == 2, "no part is left");
            continue;
        }
        let summary = json(&out, &[]);
        let errors = count(&summary, "/requests/failed") + count(&summary, "/requests/unsent");
        let all = thousands(count(&summary, "/requests/scheduled"));
        let expected = format!("warning: {errors} of {all} requests written");
        assert!(done.stderr.contains(&expected), "{expected}: {}", done.stderr);
        // Records of errors alone do not say what a part of the run was like.
        let part = json(&out, &["--target", "page"]);
        assert_eq!(part["status"], Value::Null, "{part}");
    }
}

#[test]
fn a_full_disk_ends_the_recording_and_the_summary_is_kept() {
    let server = Server::start(|_, _| Reply::ok("fine"));
    let folder = Folder::new();
    let (disk, out) = (folder.path().join("disk"), folder.path().join("disk/out"));
    std::fs::create_dir(&disk).unwrap();
    let bin = env!("CARGO_BIN_EXE_plimsoll");
    let script = format!(
        "mount -t tmpfs -o size=160k tmpfs {0}\n\
         {bin} run {url}/ --rate 2000 --duration 4s --out {1} || echo run $? >&2\n\
         {bin} report {1} --format json > {2}/report.json || echo report $? >&2\n\
         cp {1}/summary.json {2}/summary.json\n\
         cp {1}/samples.bin {2}/samples.bin\n",
        disk.display(),
        out.display(),
        folder.path().display(),
        url = server.url()
    );
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "sh", "-c", &script]).stdin(Stdio::null());
    let done = Done::from(command.output().unwrap());
    assert!(
        done.stderr.contains("the run continues without recording its requests"),
        "{}",
        done.stderr
    );
    assert!(done.stderr.contains("run 1\n"), "{}", done.stderr);
    assert!(done.stdout.contains("scheduled         8,000"), "{}", done.stdout);
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let summary: Value = serde_json::from_str(&read("summary.json")).unwrap();
    assert_eq!(count(&summary, "/requests/scheduled"), 8000);
    assert!(read("report.json").trim_end() == read("summary.json"), "another summary");
    let samples = std::fs::read(folder.path().join("samples.bin")).unwrap();
    let (_, mut samples) = Reader::new(samples.as_slice()).unwrap();
    while samples.next_block().unwrap().is_some() {}
}

#[test]
fn what_is_not_a_run_directory_is_refused_with_a_reason() {
    let folder = Folder::new();
    run(&folder, &[]);
    let out = folder.path().join("out");
    let dir = |name: &str, files: &[(&str, &str)]| {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(path.join(name), text).unwrap());
        path
    };
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let (plan, snapshots) = (read("plan.toml"), read("snapshots.jsonl"));
    let newer = snapshots.replace("plimsoll/snapshots/2", "plimsoll/snapshots/9");
    let other = plan.replace("name = \"gone\"", "name = \"other\"");
    let check = |path: &Path, message: &str| {
        let done = report(path, &[]);
        assert_eq!(done.code, 2, "{message}: {}", done.stderr);
        assert!(
            done.stderr.contains(message) && done.stderr.contains("\n  hint: "),
            "{}",
            done.stderr
        );
        assert_eq!(done.stdout, "");
    };
    check(&folder.path().join("nowhere"), "cannot read");
    check(&dir("empty", &[]), "is not a run directory: it has no plan.toml");
    check(&dir("half", &[("plan.toml", &plan)]), "it has no snapshots.jsonl");
    let both = [("plan.toml", plan.as_str()), ("snapshots.jsonl", newer.as_str())];
    check(&dir("newer", &both), "expected \"plimsoll/snapshots/2\"");
    let both = [("plan.toml", other.as_str()), ("snapshots.jsonl", snapshots.as_str())];
    check(&dir("other", &both), "plan.toml is not the plan of snapshots.jsonl");
    let both = [("plan.toml", ""), ("snapshots.jsonl", snapshots.as_str())];
    check(&dir("torn", &both), "plan.toml");
    let stray = folder.file("results.bin", [0u8, 1, 2]);
    check(Path::new(&stray), "is not a run directory");
    // An existing file is never overwritten, nor a link, nor a file that is being written.
    for name in ["taken.csv.part", "precious"] {
        folder.file(name, "mine");
    }
    std::os::unix::fs::symlink("precious", folder.path().join("link.csv")).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.path().join("dangling.csv")).unwrap();
    for name in ["link.csv", "dangling.csv"] {
        let to = folder.path().join(name);
        let done = report(&out, &["--format", "csv", "--output", to.to_str().unwrap()]);
        assert_eq!(done.code, 2, "{}", done.stderr);
    }
    let new = folder.path().join("new.csv");
    let write = ["--format", "csv", "--output", new.to_str().unwrap()];
    let done = report(&out, &[&write[..], &["--target", "nobody"]].concat());
    assert_eq!(done.code, 2, "{}", done.stderr);
    let files = |part: &str| {
        let names = std::fs::read_dir(folder.path()).unwrap().map(|own| own.unwrap().file_name());
        names.filter(|own| own.to_str().unwrap().contains(part)).count()
    };
    assert_eq!(
        (files("new.csv"), files("precious")),
        (0, 1),
        "nothing is left of a report that failed"
    );
    assert_eq!(
        report(&out, &["--format", "csv", "-o", "-"]).stdout,
        report(&out, &["--format", "csv"]).stdout
    );
    assert_eq!(report(&out, &["-o", "/dev/null"]).stdout, "");
    let taken = folder.file("taken.csv", "mine");
    let done = report(&out, &["--format", "csv", "--output", &taken]);
    assert_eq!((done.code, std::fs::read_to_string(&taken).unwrap().as_str()), (2, "mine"));
    assert!(done.stderr.contains("exists"), "{}", done.stderr);
    // A reader that leaves early is no error.
    let mut child = command(&["report", out.to_str().unwrap()]).spawn().unwrap();
    drop(child.stdout.take());
    let done = Done::from(child.wait_with_output().unwrap());
    assert!(!done.stderr.contains("error") && !done.stderr.contains("panicked"), "{}", done.stderr);
}
