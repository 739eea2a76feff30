//! Limits of the host are reported, and attributed to the instrument.
//!
//! Both tests set real kernel limits, one of them in a separate network namespace.

use crate::run::{Done, Folder, RunResult};
use crate::server::{Reply, Server};
use std::process::{Command, Stdio};

fn sh(script: &str) -> Done {
    let mut command = Command::new("unshare");
    // Without root, a user namespace is required.
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--net", "sh", "-ec", script]).stdin(Stdio::null()).output().unwrap().into()
}

#[test]
fn exhausted_ports_invalidate_the_run() {
    let folder = Folder::new();
    let here = folder.path().display();
    folder.file(
        "nginx.conf",
        format!(
            "daemon on; pid {here}/pid; error_log {here}/log; events {{}}\n\
             http {{ access_log off; server {{ listen 127.0.0.1:8080; location / {{ return 200 fine; }} }} }}\n"
        ),
    );
    let plan = folder.file(
        "plan.toml",
        "users = 100\nrequests = 2000\n\
         [[target]]\nrequest = \"GET http://127.0.0.1:8080/\"\n",
    );
    let bin = env!("CARGO_BIN_EXE_plimsoll");
    let done = sh(&format!(
        "ip link set lo up\n\
         echo 40000 40049 > /proc/sys/net/ipv4/ip_local_port_range\n\
         echo 0 > /proc/sys/net/ipv4/tcp_tw_reuse\n\
         nginx -c {here}/nginx.conf\n\
         {bin} run {plan} --no-out --format json || code=$?\n\
         nginx -c {here}/nginx.conf -s stop\n\
         exit ${{code:-0}}\n"
    ));
    let result = RunResult::of(done);
    assert!(result.errors("port_exhausted") >= 50, "{}", result.summary["errors"]);
    assert_eq!(
        (result.done.code, result.summary["verdict"]["limited_by"].as_str()),
        (98, Some("generator"))
    );
    let findings = result.summary["verdict"]["findings"].as_array().unwrap();
    let ports = findings.iter().find(|finding| finding["id"] == "ports_exhausted").unwrap();
    assert_eq!(
        (ports["severity"].as_str(), ports["side"].as_str()),
        (Some("invalid"), Some("generator"))
    );
    assert!(ports["fix"].as_str().unwrap().contains("ip_local_port_range"));
}

#[test]
fn exhausted_descriptors_invalidate_the_run() {
    let server = Server::start(|_, _| {
        let held = std::sync::mpsc::channel::<()>();
        let _ = held.1.recv_timeout(std::time::Duration::from_millis(300));
        Reply::ok("fine")
    });
    let run = |force: &str| {
        let script = format!(
            "ulimit -n 30; exec {} run --url {}/ --users 100 -n 200 --no-out --format json {force}",
            env!("CARGO_BIN_EXE_plimsoll"),
            server.url()
        );
        let sh = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output();
        Done::from(sh.unwrap())
    };
    let refused = run("");
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("hint: raise the hard limit"), "{}", refused.stderr);

    let result = RunResult::of(run("--force"));
    assert!(result.errors("fd_exhausted") > 0, "{}", result.summary["errors"]);
    assert_eq!(result.done.code, 98);
    let findings = result.summary["verdict"]["findings"].as_array().unwrap();
    let has = |id: &str| findings.iter().any(|finding| finding["id"] == id);
    assert!(has("fds_exhausted") && has("forced"), "{}", result.summary["verdict"]);
}
