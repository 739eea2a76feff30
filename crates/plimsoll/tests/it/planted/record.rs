//! Recordings of runs in `bench/verdict/NAME`, and their replay through the pure functions of the report.
//!
//! A recording has the run's `plan.toml` and `snapshots.jsonl`, and `recording.json`: how it was made,
//! and the facts about the run that are in neither. It contains no names of hosts and no paths.

use crate::planted::judge::Outcome;
use crate::run::Done;
use plimsoll_config::{Document, Variables};
use plimsoll_measure::{Nanos, RunFacts, WallClock, wire};
use plimsoll_plan::Plan;
use plimsoll_report::Fold;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A recording is at most this long, in bytes, so that the repository stays small.
const LEN_MAX: usize = 150_000;

/// What makes recordings, unless `PLIMSOLL_COMMAND` says otherwise.
const COMMAND: &str =
    "PLIMSOLL_RECORD=bench/verdict cargo test --release -p plimsoll --test it planted";

/// A finished run: its run directory, and what the program printed.
pub(crate) struct Ran {
    plan: String,
    snapshots: String,
    summary: Value,
    done: Done,
    /// CPUs that the run could use.
    cpus: usize,
}

/// The folder of the recordings.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/verdict")
}

impl Ran {
    /// Reads the results of a run that wrote them to `out`.
    ///
    /// # Errors
    /// It did not start.
    pub(crate) fn read(out: &Path, done: Done, cpus: usize) -> Result<Ran, Done> {
        let text = |name: &str| std::fs::read_to_string(out.join(name));
        match (text("plan.toml"), text("snapshots.jsonl"), serde_json::from_str(&done.stdout)) {
            (Ok(plan), Ok(snapshots), Ok(summary)) => {
                Ok(Ran { plan, snapshots, summary, done, cpus })
            }
            _ => Err(done),
        }
    }

    /// The facts that neither plan nor seconds contain.
    fn facts(&self) -> Value {
        let of = |pointer: &str| self.summary.pointer(pointer).cloned().unwrap_or_default();
        let forced = "warning: started with --force: ";
        let forced = self.done.stderr.lines().filter_map(|line| line.strip_prefix(forced));
        json!({
            "duration_ns": of("/duration_ns"),
            "drain_ns": of("/drain_ns"),
            "warmup_ns": of("/warmup/duration_ns"),
            "cut_short": of("/cut_short"),
            "workers": of("/generator/workers"),
            "cpus": self.cpus,
            "forced": forced.collect::<Vec<_>>(),
        })
    }

    /// The outcome, which the report must reproduce from the run directory.
    pub(crate) fn outcome(&self) -> Outcome {
        let again = summary(&self.plan, &self.snapshots, &self.facts());
        assert_eq!(again["verdict"], self.summary["verdict"], "the report differs from the run");
        let (code, summary) = (self.done.code, self.summary.clone());
        Outcome { code, summary, stderr: self.done.stderr.clone(), from: "planted".into() }
    }

    /// Writes the recording, in place of an earlier one.
    pub(crate) fn write(&self, to: &Path, how: &str) {
        // Recordings change the working tree, so the commit is determined before the first of them.
        let commit = std::env::var("PLIMSOLL_COMMIT").unwrap_or_else(|_| "unknown".into());
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpus = std::thread::available_parallelism().unwrap();
        let recording = json!({
            "planted": how,
            "commit": commit,
            "command": std::env::var("PLIMSOLL_COMMAND").unwrap_or_else(|_| COMMAND.into()),
            "date": WallClock::now().rfc3339(),
            "host": format!("{cpus} CPUs, Linux {}", kernel.trim()),
            "exit_code": self.done.code,
            "facts": self.facts(),
        });
        let recording = serde_json::to_string_pretty(&recording).unwrap() + "\n";
        let len = self.plan.len() + self.snapshots.len() + recording.len();
        assert!(len <= LEN_MAX, "{} has {len} bytes", to.display());
        let _ = std::fs::remove_dir_all(to);
        std::fs::create_dir_all(to).unwrap();
        std::fs::write(to.join("plan.toml"), &self.plan).unwrap();
        std::fs::write(to.join("snapshots.jsonl"), &self.snapshots).unwrap();
        std::fs::write(to.join("recording.json"), recording).unwrap();
    }
}

/// Replays a recording.
///
/// # Errors
/// It is missing or damaged.
pub(crate) fn replay(from: &Path) -> Result<Outcome, String> {
    let text = |name: &str| {
        let path = from.join(name);
        std::fs::read_to_string(&path).map_err(|error| {
            format!("{}: {error}; record it with bench/run verdict", path.display())
        })
    };
    let recording: Value =
        serde_json::from_str(&text("recording.json")?).map_err(|error| error.to_string())?;
    let summary = summary(&text("plan.toml")?, &text("snapshots.jsonl")?, &recording["facts"]);
    let code = exit_code(&summary);
    let commit = recording["commit"].as_str().ok_or("a recording without its commit")?;
    let label = if recording.get("made_from").is_some() { "made by hand" } else { "recorded" };
    Ok(Outcome { code, summary, stderr: String::new(), from: format!("{label} at {commit}") })
}

/// The summary of a run without objectives, from its run directory.
pub(crate) fn summary(plan: &str, snapshots: &str, facts: &Value) -> Value {
    let document = Document::new("plan.toml", plan);
    let plan = Plan::read(&document, &Variables::none(), Path::new(".")).unwrap();
    let seconds = wire::read(snapshots).unwrap().snapshots;
    let mut fold = Fold::new(&plan);
    seconds.iter().for_each(|second| fold.add(second));
    let ns = |key: &str| Nanos(facts[key].as_u64().unwrap());
    let forced = facts["forced"].as_array().unwrap().iter();
    let summary = fold.finish(RunFacts {
        started_at: WallClock { unix_ns: 0 },
        duration: ns("duration_ns"),
        drain: ns("drain_ns"),
        warmup: ns("warmup_ns"),
        cut_short: facts["cut_short"].as_bool().unwrap(),
        stopped_by: None,
        cpus: facts["cpus"].as_u64().unwrap() as usize,
        workers: facts["workers"].as_u64().unwrap() as usize,
        forced: forced.map(|what| what.as_str().unwrap().to_string()).collect(),
    });
    serde_json::from_str(&summary.to_json()).unwrap()
}

/// The exit code of a run that ended by itself.
fn exit_code(summary: &Value) -> i32 {
    let nothing_ok = summary["verdict"]["findings"][0]["id"] == "nothing_ok";
    match summary["verdict"]["valid"] == true {
        false => 98,
        true if nothing_ok => 99,
        true => 0,
    }
}
