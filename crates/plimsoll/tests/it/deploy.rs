//! What is in `deploy/`: each reference leads to something that exists, programs accept their
//! configuration, and the system that it describes works when it is made of processes.
//!
//! No Docker engine is needed, and none is used: that the images start is not tested here.

mod compose;
mod metrics;
mod topology;

use crate::clients::python;
use crate::gateway::{Process, eth};
use crate::run::Folder;
use crate::server::{Reply, Server};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").canonicalize().unwrap()
}

fn text(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A YAML file as JSON.
fn yaml(name: &str) -> Value {
    let path = folder().join(name);
    python("yaml_to_json.py", &[path.to_str().unwrap()])[0].take()
}

/// Checks that a command succeeds.
#[track_caller]
fn succeeds(command: &mut Command) {
    let done = command.output().unwrap();
    let output = [done.stdout, done.stderr].concat();
    assert!(done.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output));
}

/// All strings in a document.
fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(strings).collect(),
        Value::Object(members) => members.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn prometheus_accepts_its_configuration_and_every_alert_fires_when_it_should() {
    let promtool = || Command::new("promtool");
    let at = |name: &str| folder().join("prometheus").join(name);
    succeeds(promtool().args(["check", "config"]).arg(at("prometheus.yaml")));
    succeeds(promtool().args(["test", "rules"]).arg(at("alerts.test.yaml")));
}

/// `systemd-analyze` wants the program to exist.
#[test]
fn systemd_accepts_the_unit() {
    let temporary = Folder::new();
    let unit = text("systemd/plimsoll-gateway.service");
    let program = env!("CARGO_BIN_EXE_plimsoll");
    let unit = unit.replace("/usr/local/bin/plimsoll", program);
    let path = temporary.file("plimsoll-gateway.service", &unit);
    let done = Command::new("systemd-analyze").args(["verify", &path]).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success() && said.is_empty(), "{said}");
}

/// The files that the image is made of exist, and it does not run as root.
#[test]
fn the_image_is_made_of_files_that_exist() {
    let file = text("docker/Dockerfile");
    let root = folder().join("..");
    let copied = file.lines().filter_map(|line| line.strip_prefix("COPY "));
    for line in copied.filter(|line| !line.starts_with("--from=")) {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.pop();
        words.iter().for_each(|path| assert!(root.join(path).exists(), "{path}"));
    }
    let toolchain = file.lines().find_map(|line| line.strip_prefix("FROM rust:")).unwrap();
    let manifest: toml::Table =
        std::fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    let needed = manifest["workspace"]["package"]["rust-version"].as_str().unwrap();
    assert!(toolchain.starts_with(needed), "{toolchain}, but Cargo.toml has {needed}");
    let user = file.lines().rfind(|line| line.starts_with("USER ")).unwrap();
    assert_eq!(user, "USER 10001:10001");
}

#[test]
fn the_images_health_check_distinguishes_a_gateway_from_anything_else() {
    let is_healthy = |address: &str| {
        let mut check = Command::new(folder().join("docker/healthcheck"));
        check.arg(address).output().unwrap().status.success()
    };
    let (chain, temporary) = (eth(), Folder::new());
    let upstream = format!("eth={}", chain.url("eth"));
    let gateway = Process::start(&temporary, &["--listen", "127.0.0.1:0", "--upstream", &upstream]);
    let address = gateway.address("");
    assert!(is_healthy(&address));
    gateway.stop();
    assert!(!is_healthy(&address));
    let broken = Server::start(|_, _| Reply::with(503, "", ""));
    assert!(!is_healthy(&broken.address.to_string()));
}
