//! Running the program and reading its output.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) const RPC: &str = r#"{"jsonrpc":"2.0","method":"eth_blockNumber","params":[],"id":1}"#;
pub(crate) const RPC_RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":"0x10d4f"}"#;

/// A temporary folder, which is removed when it is dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("plimsoll-it-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes or replaces a file atomically, so that no reader sees part of it, and returns its path.
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let (path, new) = (self.0.join(name), self.0.join(format!("{name}.new")));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &path).unwrap();
        path.to_str().unwrap().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The exit code and output of a command.
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Done {
        Done {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program with these arguments.
pub(crate) fn plimsoll(args: &[&str]) -> Done {
    command(args).output().unwrap().into()
}

/// Starts the program.
pub(crate) fn start(args: &[&str]) -> Child {
    command(args).spawn().unwrap()
}

/// A finished run and its summary.
pub(crate) struct RunResult {
    pub(crate) done: Done,
    pub(crate) summary: Value,
}

/// Runs a plan, reads its summary, and checks the accounting identities.
pub(crate) fn run_plan(plan: &str, args: &[&str]) -> RunResult {
    run_plan_in(&Folder::new(), plan, args)
}

/// Runs a plan that refers to files in this folder.
pub(crate) fn run_plan_in(folder: &Folder, plan: &str, args: &[&str]) -> RunResult {
    let path = folder.file("plan.toml", plan);
    let mut all = vec!["run", &path, "--no-out", "--format", "json"];
    all.extend(args);
    RunResult::of(plimsoll(&all))
}

impl RunResult {
    pub(crate) fn of(done: Done) -> RunResult {
        let summary = serde_json::from_str(&done.stdout).unwrap_or_else(|e| {
            panic!("{e}: exit {}\n{}\n{}", done.code, done.stdout, done.stderr)
        });
        let result = RunResult { done, summary };
        let n = |key: &str| result.count(&format!("/requests/{key}"));
        assert_eq!(n("scheduled"), n("sent") + n("unsent"));
        assert_eq!(n("sent"), n("ok") + n("failed"));
        let errors = result.summary["errors"].as_object().unwrap();
        let errors: u64 = errors.values().map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(errors, n("unsent") + n("failed"));
        assert_eq!(result.count("/latency/count"), n("scheduled"));
        let targets = result.summary["targets"].as_array().unwrap();
        let by_target: u64 =
            targets.iter().map(|t| t["requests"]["scheduled"].as_u64().unwrap()).sum();
        assert_eq!(by_target, n("scheduled"));
        result
    }

    /// A number in the summary, by JSON pointer; 0 if it is missing.
    pub(crate) fn count(&self, pointer: &str) -> u64 {
        self.summary.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Number of arrivals with an error of this class.
    pub(crate) fn errors(&self, class: &str) -> u64 {
        self.count(&format!("/errors/{class}"))
    }

    /// Checks the exit code. A run that was late because of a busy machine may also exit with 98.
    #[track_caller]
    pub(crate) fn assert_code(&self, code: i32) {
        let findings = self.summary["verdict"]["findings"].as_array().unwrap();
        let late = findings.iter().any(|finding| {
            finding["severity"] == "invalid"
                && (finding["id"] == "lag_high" || finding["id"] == "read_late")
        });
        let got = self.done.code;
        assert!(got == code || late && got == 98, "exit {got}, not {code}\n{}", self.summary);
    }
}
