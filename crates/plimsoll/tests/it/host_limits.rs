//! Limits of the host are reported, and attributed to the instrument.
//!
//! Both tests set real kernel limits, one of them in a separate network namespace.

use crate::run::{Done, Folder, RunResult};
use crate::server::{Reply, Server};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
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
        "users = 100\nrequests = 2000\nconnections = { max = 100 }\n\
         [[target]]\nrequest = \"GET http://127.0.0.1:8080/\"\n",
    );
    let bin = env!("CARGO_BIN_EXE_plimsoll");
    let done = sh(&format!(
        "ip link set lo up\n\
         echo 40000 40049 > /proc/sys/net/ipv4/ip_local_port_range\n\
         echo 0 > /proc/sys/net/ipv4/tcp_tw_reuse\n\
         nginx -c {here}/nginx.conf\n\
         {bin} run {plan} --no-out 2>{here}/refused || refused=$?\n\
         {bin} run {plan} --no-out --format json --force || code=$?\n\
         nginx -c {here}/nginx.conf -s stop\n\
         [ \"$refused\" = 98 ] || exit 1\n\
         exit ${{code:-0}}\n"
    ));
    // 100 users keep more connections open than there are ports: certain before anything is sent.
    let refused = std::fs::read_to_string(folder.path().join("refused")).unwrap();
    assert!(
        refused.contains("nothing was sent") && refused.contains("each needs a port"),
        "{refused}"
    );
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
    assert_eq!(refused.code, 98);
    let fix = "fix: use fewer users, or raise the hard limit: ulimit -Hn 12";
    assert!(refused.stderr.contains(fix), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("hint: --force runs the plan regardless"),
        "{}",
        refused.stderr
    );
    assert_eq!(server.received().len(), 0, "nothing was sent");

    let result = RunResult::of(run("--force"));
    assert!(result.errors("fd_exhausted") > 0, "{}", result.summary["errors"]);
    assert_eq!(result.done.code, 98);
    let findings = result.summary["verdict"]["findings"].as_array().unwrap();
    let has = |id: &str| findings.iter().any(|finding| finding["id"] == id);
    assert!(has("fds_exhausted") && has("forced"), "{}", result.summary["verdict"]);
}

#[test]
fn a_metrics_page_without_descriptors_uses_no_cpu_and_comes_back() {
    let server = Server::start(|_, _| Reply::ok("fine"));
    // All descriptors but a few are taken by connections that the shell opened for the run.
    let script = format!(
        "ulimit -n 64; for fd in $(seq 20 44); do eval \"exec $fd</dev/null\"; done; ulimit -n 61\n\
         exec {} run --url {}/ --rate 10/s -d 1h --no-out --metrics 127.0.0.1:0 --force --workers 1",
        env!("CARGO_BIN_EXE_plimsoll"),
        server.url()
    );
    let mut child = Command::new("bash")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("http://127.0.0.1:") || !line.contains("metrics") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it says where the metrics are");
    }
    let address: String = line.split("http://").nth(1).unwrap().trim().replace("/metrics", "");
    server.wait_for(5);
    // Each scrape that stays connected takes a descriptor, until none is left.
    let mut held: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let before = (server.received().len(), metrics_ticks(child.id()));
    server.wait_for(before.0 + 10);
    let spent = metrics_ticks(child.id()) - before.1;
    // A second at 10/s, in which a spinning thread spends most of 100 ticks.
    assert!(spent < 20, "{spent} ticks");
    held.clear();
    let mut socket = TcpStream::connect(&address).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    socket.read_to_string(&mut page).unwrap();
    assert!(page.contains("plimsoll_run_planned_rate{stream=\"main\"} 10"), "{page}");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// CPU time of the thread that serves metrics, in hundredths of a second.
fn metrics_ticks(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stats = threads.map(|t| std::fs::read_to_string(t.unwrap().path().join("stat")).unwrap());
    let stat = stats.into_iter().find(|stat| stat.contains("(metrics)")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
