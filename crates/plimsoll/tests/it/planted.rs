//! Planted faults: each known cause of a bad run, alone and in pairs, and the verdict that it must get.
//!
//! `cargo test` plants the faults whose outcome does not depend on the machine's timing, and replays
//! recordings of the others. `bench/run verdict` plants all of them, on a quiet machine, and records
//! the timed ones: it sets `PLIMSOLL_RECORD` to the folder of the recordings. `PLIMSOLL_ROWS` selects the
//! rows whose names contain a text. A fault that needs a missing privilege is skipped, with the reason.
//!
//! # Layout
//! - `table`: the faults and the expected verdicts
//! - `targets`: targets, healthy or not; `host`: faults of the generator's host
//! - `judge`: whether a verdict is right; the confusion matrix
//! - `record`: recordings and their replay
//! - `unreadable`: hosts and files that cannot be read in full

mod host;
mod judge;
mod record;
mod table;
mod targets;
mod unreadable;

use crate::run::Folder;
use host::{Cpus, Planted};
use judge::{Judged, Outcome, matrix};
use record::Ran;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use table::Row;
use targets::Target;

/// Faults planted at a time by `cargo test`.
const AT_A_TIME: usize = 4;

#[test]
fn every_planted_fault_gets_its_verdict() {
    let record = std::env::var_os("PLIMSOLL_RECORD").map(PathBuf::from);
    let lanes = if record.is_some() { 1 } else { AT_A_TIME };
    let mut rows = table::rows();
    let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "a name for each row");
    if let Ok(part) = std::env::var("PLIMSOLL_ROWS") {
        rows.retain(|row| row.name.contains(&part));
    }
    let queue = Mutex::new(rows.into_iter().enumerate());
    let judged = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                loop {
                    let Some((place, row)) = queue.lock().unwrap().next() else { return };
                    // A thread for each row: it moves to a network namespace and to a CPU.
                    let (name, expected) = (row.name, row.expected.clone());
                    let to = record.clone();
                    let row = std::thread::spawn(move || judge(row, to.as_deref())).join();
                    let row = row.unwrap_or_else(|_| Judged {
                        name,
                        expected,
                        outcomes: Err("the test panicked".into()),
                        busy: record.is_none(),
                        wrong: vec!["the test panicked".into()],
                    });
                    judged.lock().unwrap().push((place, row));
                }
            });
        }
    });
    let mut judged = judged.into_inner().unwrap();
    judged.sort_by_key(|(place, _)| *place);
    let judged: Vec<Judged> = judged.into_iter().map(|(_, row)| row).collect();
    println!("<!-- matrix -->\n{}<!-- end of matrix -->", matrix(&judged));
    let wrong = judged.iter().filter(|row| !row.wrong.is_empty());
    let wrong: Vec<_> =
        wrong.map(|row| format!("{}: {}", row.name, row.wrong.join("; "))).collect();
    assert!(wrong.is_empty(), "wrong verdicts:\n{}", wrong.join("\n"));
}

fn judge(row: Row, record: Option<&Path>) -> Judged {
    let planted = match record {
        None if row.timing => Err(None),
        _ => plant(&row, record).map_err(Some),
    };
    let outcomes = match planted {
        Ok(outcomes) => Ok(outcomes),
        // A fault that cannot be planted here may have been recorded elsewhere.
        Err(why) if row.timing => replays(&row).map_err(|missing| why.unwrap_or(missing)),
        Err(why) => Err(why.unwrap_or_default()),
    };
    let busy = record.is_none() && !row.timing;
    let mut wrong: Vec<String> = match &outcomes {
        // A missing recording is an error, a missing privilege is not.
        Err(missing) if row.timing && record.is_none() => vec![missing.clone()],
        Err(_) => Vec::new(),
        Ok(outcomes) => {
            outcomes.iter().flat_map(|outcome| row.expected.wrong(outcome, busy)).collect()
        }
    };
    let mut seen = BTreeSet::new();
    wrong.retain(|what| seen.insert(what.clone()));
    let Row { name, expected, .. } = row;
    Judged { name, expected, outcomes, busy, wrong }
}

/// The folder of a row's recording.
fn recording(row: &Row, run: usize) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { ' ' };
    let words: String = row.name.chars().map(plain).collect();
    let name = words.split_whitespace().collect::<Vec<_>>().join("-");
    if row.runs > 1 { format!("{name}-{run:02}") } else { name }
}

fn replays(row: &Row) -> Result<Vec<Outcome>, String> {
    let replay = |run| record::replay(&record::folder().join(recording(row, run)));
    (1..=row.runs).map(replay).collect()
}

/// Plants a fault and runs its plan.
///
/// # Errors
/// The privilege or program that is missing.
fn plant(row: &Row, record: Option<&Path>) -> Result<Vec<Outcome>, String> {
    // With a CPU for the generator, targets and generator do not slow each other down.
    let cpus = match record {
        Some(_) => Some(Cpus::separate()?),
        None => None,
    };
    // The kernel counts a full accept queue for the whole namespace, where other rows would see it.
    let overflows = matches!(row.target, Target::SlowToAccept(..));
    host::isolate(overflows || row.host.iter().any(|plant| plant.needs_namespace()))?;
    let planted = Planted::before(&row.host, cpus.as_ref())?;
    Ok((1..=row.runs).map(|run| run_once(row, run, &planted, record)).collect())
}

fn run_once(row: &Row, run: usize, planted: &Planted, record: Option<&Path>) -> Outcome {
    let targets = row.target.start();
    let folder = Folder::new();
    let plan = folder.file("given.toml", row.plan(&targets.urls));
    let out = folder.path().join("out");
    let mut args = vec!["run", &plan, "--out", out.to_str().unwrap(), "--format", "json"];
    args.extend(&row.flags);
    match Ran::read(&out, planted.run(&args), planted.cpus()) {
        Ok(ran) => {
            if let Some(record) = record.filter(|_| row.timing) {
                ran.write(&record.join(recording(row, run)), row.name);
            }
            ran.outcome()
        }
        Err(done) => Outcome {
            code: done.code,
            summary: Value::Null,
            stderr: done.stderr,
            from: "planted".into(),
        },
    }
}

#[test]
fn every_recording_belongs_to_a_row() {
    let rows = table::rows();
    let timed = rows.iter().filter(|row| row.timing);
    let known: BTreeSet<String> =
        timed.flat_map(|row| (1..=row.runs).map(|run| recording(row, run))).collect();
    let entries = std::fs::read_dir(record::folder()).unwrap();
    for entry in entries {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name), "bench/verdict/{name} belongs to no row");
    }
}
