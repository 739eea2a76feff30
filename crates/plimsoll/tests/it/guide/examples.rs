//! Examples in the documents.

use super::{Block, Page, guide, root};
use crate::run::{Folder, command, plimsoll, start};
use plimsoll_sim::{Service, Settings, Sim};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a fragment of a plan needs to be one.
const LOAD: &str = "rate = 1\nduration = \"1s\"\n";
const TARGET: &str = "[[target]]\nrequest = \"GET http://127.0.0.1:1/\"\n";
const STREAM_TARGET: &str = "[[stream.target]]\nrequest = \"GET http://127.0.0.1:1/\"\n";

/// Variables of the examples that are only read.
const VARIABLES: [(&str, &str); 6] = [
    ("GATEWAY", "http://127.0.0.1:3069"),
    ("ETH_ENDPOINT_ID", "ethpath_eth"),
    ("KEY", "key"),
    ("NODE_A_KEY", "key"),
    ("NODE_A_TOKEN", "token"),
    ("TRACES_TOKEN", "token"),
];

/// Makes examples that are run short. Scenarios read these variables.
const SHORT: [(&str, &str); 12] = [
    ("DURATION", "1s"),
    ("WARMUP", "0s"),
    ("TOTAL_REQUESTS", "500"),
    ("TARGET_RPS", "500"),
    ("RATE", "200/s"),
    ("USERS", "20"),
    ("BURST_START", "200ms"),
    ("BURST_DURATION", "200ms"),
    ("BURST_RATE", "500/s"),
    ("HOST_RPS", "50"),
    ("SOCKETS", "50"),
    ("PER_SECOND", "200"),
];

/// A document with what a fragment lacks.
fn completed(text: &str) -> String {
    // Digests are shown shortened.
    let text = text.replace("…\"", &format!("{}\"", "0".repeat(56)));
    let table: toml::Table = text.parse().unwrap();
    let has = |key: &str| table.contains_key(key);
    let of_plan = [
        "target", "rate", "users", "sockets", "stream", "scrape", "log", "cost", "protocol",
        "split_by",
    ];
    let is_plan = of_plan.iter().any(|key| has(key))
        || has("connections")
        || table.get("tls").is_some_and(|tls| tls.get("ca").is_some());
    if !is_plan {
        return text;
    }
    let mut done = String::new();
    if !["rate", "users", "sockets", "stream", "stages"].iter().any(|key| has(key)) {
        done += LOAD;
    }
    done += &text;
    if has("stream") && !text.contains("[[stream.target]]") {
        done += STREAM_TARGET;
    } else if !has("stream") && !has("target") {
        done += TARGET;
    }
    done
}

/// Checks a `toml` block with the program.
fn check(block: &Block, folder: &Folder) -> Result<(), String> {
    let text = completed(&block.text);
    let path = folder.file("example.toml", &text);
    if text.contains("[[fault]]") {
        return faults_are_accepted(&path);
    }
    let mut check = command(&["check", &path]);
    check.current_dir(root()).envs(VARIABLES);
    failure(&check.output().unwrap())
}

fn failure(done: &Output) -> Result<(), String> {
    if done.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&[&done.stdout[..], &done.stderr[..]].concat()).into())
}

/// A simulator that has read its faults prints where it listens; one that refuses them prints why, and exits.
fn faults_are_accepted(path: &str) -> Result<(), String> {
    let mut chain = start(&["sim", "chain", "--listen", "127.0.0.1:0", "--faults", path]);
    let mut lines = BufReader::new(chain.stderr.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    chain.kill().unwrap();
    chain.wait().unwrap();
    if line.contains("http://") { Ok(()) } else { Err(line) }
}

/// The commands of the program in a block; a `\` at the end of a line continues it.
fn commands(block: &Block) -> Vec<String> {
    let is_setting = |word: &&str| {
        let name = word.split_once('=').map(|(name, _)| name);
        name.is_some_and(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    let runs =
        |line: &&str| line.split_whitespace().find(|word| !is_setting(word)) == Some("plimsoll");
    let text = block.text.replace("\\\n", " ");
    let lines = text.lines().map(|line| line.trim().trim_start_matches("$ "));
    lines.filter(runs).map(String::from).collect()
}

/// Replaces the program with one that only checks its arguments: it is asked for help after them.
const CHECKED: &str = "plimsoll() {
  case $1 in vegeta|man|completions|help|--*) return 0;; esac
  \"$PROGRAM\" \"$@\" --help >/dev/null
}
set -o pipefail
";

#[test]
fn every_toml_example_is_accepted() {
    let folder = Folder::new();
    let mut count = 0;
    for page in guide() {
        for block in page.blocks().iter().filter(|block| block.language == "toml") {
            count += 1;
            if let Err(problem) = check(block, &folder) {
                panic!("{}: {problem}\n{}", block.place, completed(&block.text));
            }
        }
    }
    assert!(count > 15, "only {count} examples found");
}

#[test]
fn every_shell_json_and_yaml_example_is_well_formed() {
    let folder = Folder::new();
    for page in guide() {
        for block in page.blocks() {
            let path = folder.file("example", &block.text);
            match block.language.as_str() {
                "sh" => {
                    let done = Command::new("bash").args(["-n", &path]).output().unwrap();
                    assert!(
                        failure(&done).is_ok(),
                        "{}: {}",
                        block.place,
                        failure(&done).unwrap_err()
                    );
                }
                "json" => {
                    let read = serde_json::from_str::<serde_json::Value>(&block.text);
                    assert!(read.is_ok(), "{}: {}", block.place, read.unwrap_err());
                }
                "yaml" => drop(crate::clients::python("yaml_to_json.py", &[&path])),
                _ => {}
            }
        }
    }
}

#[test]
fn every_command_in_the_documents_has_flags_that_exist() {
    let folder = Folder::new();
    let mut all: Vec<(String, String)> = Vec::new();
    for page in guide() {
        let is_shell = |block: &&Block| ["", "sh", "console"].contains(&block.language.as_str());
        for block in page.blocks().iter().filter(is_shell) {
            all.extend(commands(block).into_iter().map(|line| (block.place.clone(), line)));
        }
    }
    assert!(all.len() > 40, "only {} commands found", all.len());
    for (place, line) in all {
        // What follows a pipe is another program.
        let line = line.split(" | ").next().unwrap();
        let line = line.split(" > ").next().unwrap();
        let mut shell = Command::new("bash");
        // A loop in registry.md is over kinds of entries.
        shell.args(["-c", &format!("{CHECKED}{line}")]).env("kind", "upstream");
        shell.env("PROGRAM", program());
        let done = shell.stdin(Stdio::null()).current_dir(folder.path()).output().unwrap();
        assert!(failure(&done).is_ok(), "{place}: {line}\n{}", failure(&done).unwrap_err());
    }
}

#[test]
fn a_flag_that_does_not_exist_is_found() {
    let page = "```\nplimsoll run a.toml --bogus\n$ A=1 plimsoll run \\\n  b.toml\nother\n```\n";
    let page = Page { name: "x".into(), text: page.into() };
    let found = commands(&page.blocks()[0]);
    assert_eq!(found, ["plimsoll run a.toml --bogus", "A=1 plimsoll run    b.toml"]);
    assert_eq!(plimsoll(&["run", "a.toml", "--bogus", "--help"]).code, 2);
    assert!(check_text("rate = 1\nbogus = 2\n").is_err());
    assert!(check_text("[[scrape]]\nurl = \"http://127.0.0.1:1/metrics\"\n").is_ok());
}

fn check_text(text: &str) -> Result<(), String> {
    let page = Page { name: "x".into(), text: format!("```toml\n{text}```\n") };
    check(&page.blocks()[0], &Folder::new())
}

fn program() -> &'static str {
    env!("CARGO_BIN_EXE_plimsoll")
}

/// The program, which takes an objective that is missed and a run that this machine spoils for success: the examples
/// show how to run something, not how fast this machine is.
const TOLERANT: &str = r#"#!/bin/bash
output=$("$PROGRAM" "$@")
code=$?
printf '%s\n' "$output"
case $output in *"NO REQUEST SUCCEEDED"*) exit 1;; esac
[ $code = 98 ] || [ $code = 99 ] || exit $code
"#;

/// Puts it into a folder; returns a `PATH` that finds it.
fn tolerant(folder: &Folder) -> String {
    let path = folder.file("plimsoll", TOLERANT);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    format!("{}:{path}", folder.path().display())
}

/// Chains, and a gateway with an endpoint for each of them.
struct Subject {
    _chains: Sim,
    _gateway: crate::gateway::Process,
    variables: Vec<(&'static str, String)>,
    _folder: Folder,
}

impl Subject {
    fn start() -> Subject {
        let chains = Sim::start(Settings::for_tests(1, Service::known())).unwrap();
        let folder = Folder::new();
        let mut config = String::from("listen = [\"127.0.0.1:0\"]\ndatabase = \"off\"\n");
        for id in ["eth", "boba", "mantle", "kava"] {
            let url = chains.url(id);
            config +=
                &format!("[[upstream]]\nid = \"{id}-a\"\nservice = \"{id}\"\nurl = \"{url}\"\n");
            config += &format!("[[endpoint]]\nid = \"ethpath_{id}\"\nservice = \"{id}\"\n");
        }
        folder.file("gateway.toml", config);
        let gateway = crate::gateway::Process::start(&folder, &[]);
        let address = gateway.address("");
        let chain = chains.address();
        let mut variables = vec![
            ("GATEWAY", format!("http://{address}")),
            ("CHAINS", format!("http://{chain}")),
            ("WEBSOCKET", format!("ws://{chain}/eth")),
            ("EVENTS", format!("http://{chain}/eth/events")),
        ];
        variables
            .extend(["GW_1", "GW_2", "GW_3", "GW_4", "GW_5"].map(|name| (name, address.clone())));
        Subject { _chains: chains, _gateway: gateway, variables, _folder: folder }
    }
}

/// Writes the files of a page into a folder, and checks those in other languages.
fn write_files(page: &Page, folder: &Folder) {
    for block in page.blocks() {
        let Some(name) = block.file() else { continue };
        let path = folder.file(name, &block.text);
        let mut check = match block.language.as_str() {
            "js" => {
                let mut node = Command::new("node");
                let module = folder.file("module.mjs", &block.text);
                node.args(["--check", &module]);
                node
            }
            "python" => {
                let mut python = Command::new("python3");
                python.args(["-m", "py_compile", &path]).env("PYTHONDONTWRITEBYTECODE", "1");
                python
            }
            _ => continue,
        };
        let done = check.output().unwrap();
        assert!(failure(&done).is_ok(), "{}: {}", block.place, failure(&done).unwrap_err());
    }
}

#[test]
fn examples_that_can_be_run_work() {
    let subject = Subject::start();
    let bin = Folder::new();
    let path = tolerant(&bin);
    let mut count = 0;
    for page in guide() {
        let blocks = page.blocks();
        let folder = Folder::new();
        write_files(&page, &folder);
        let scenarios = folder.path().join("scenarios");
        std::os::unix::fs::symlink(root().join("scenarios"), scenarios).unwrap();
        for block in blocks.iter().filter(|block| block.is_run()) {
            count += 1;
            let done = run(block, folder.path(), &path, &subject);
            assert!(failure(&done).is_ok(), "{}: {}", block.place, failure(&done).unwrap_err());
        }
    }
    assert!(count >= 4, "only {count} examples found");
}

fn run(block: &Block, folder: &Path, path: &str, subject: &Subject) -> Output {
    let mut shell = Command::new("timeout");
    shell.args(["60", "bash", "-euc", &block.text]).current_dir(folder).stdin(Stdio::null());
    shell.env("PATH", path).env("PROGRAM", program());
    shell.envs(SHORT).envs(subject.variables.iter().map(|(name, value)| (*name, value.as_str())));
    shell.output().unwrap()
}
