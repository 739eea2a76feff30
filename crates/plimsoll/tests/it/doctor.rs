//! `plimsoll doctor` and `plimsoll tune` on this host.

use crate::run::{Folder, command, plimsoll};
use serde_json::Value;
use std::process::{Command, Stdio};

const TARGET: &str = "[[target]]\nrequest = \"GET http://127.0.0.1:9/\"\n";

fn checks(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn of<'a>(report: &'a Value, id: &str) -> &'a Value {
    let all = report["checks"].as_array().unwrap();
    all.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no {id} in {report}"))
}

#[test]
fn a_plan_that_this_host_carries() {
    let folder = Folder::new();
    let plan = folder.file("plan.toml", format!("rate = \"10/s\"\nduration = \"1s\"\n{TARGET}"));
    let done = plimsoll(&["doctor", &plan, "--no-calibration", "--format", "json"]);
    let report = checks(&done.stdout);
    assert_eq!((done.code, &report["ok"]), (0, &Value::Bool(true)), "{report}");
    assert_eq!(of(&report, "ephemeral_ports")["status"], "ok");
    let text = plimsoll(&["doctor", &plan, "--no-calibration"]);
    assert!(text.stdout.ends_with("nothing blocks this load\n") || text.stdout.contains("warning"));
}

#[test]
fn a_plan_that_this_host_cannot_carry() {
    let folder = Folder::new();
    // 2,000,000 new connections per second take more ports than there are, even with reuse after 1 s.
    let plan = format!(
        "rate = \"2000000/s\"\nduration = \"1s\"\nconnections = {{ reuse = false }}\n{TARGET}\
         [[target]]\nname = \"unknown\"\nrequest = \"GET http://no-such-host.invalid/\"\n"
    );
    let plan = folder.file("plan.toml", plan);
    let done = plimsoll(&["doctor", &plan, "--no-calibration", "--format", "json"]);
    let report = checks(&done.stdout);
    assert_eq!((done.code, &report["ok"]), (98, &Value::Bool(false)), "{report}");
    assert_eq!(of(&report, "dns")["status"], "blocks");
    let ports = of(&report, "ephemeral_ports");
    assert_eq!(ports["status"], "blocks");
    assert!(ports["fix"].as_str().unwrap().contains("connections.reuse = true"), "{ports}");
    assert_eq!(report["checks"][0]["status"], "blocks", "the worst first");
}

#[test]
fn a_gateway_is_checked_against_its_configuration() {
    let folder = Folder::new();
    let file = "listen = [\"127.0.0.1:0\"]\nlimits = { connections = 50000, memory = \"1GiB\" }\n\
                [[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"http://127.0.0.1:9/\"\n";
    let path = folder.file("gateway.toml", file);
    let mut limited = Command::new("sh");
    let program = command(&[]);
    limited.args(["-c", "ulimit -n 1000 && exec \"$0\" \"$@\""]).arg(program.get_program());
    limited.args(["doctor", &path, "--format", "json"]);
    let done = limited.stdout(Stdio::piped()).output().unwrap();
    let report = checks(&String::from_utf8(done.stdout).unwrap());
    let descriptors = of(&report, "descriptors");
    assert_eq!(descriptors["status"], "warning", "{descriptors}");
    assert!(
        descriptors["value"].as_str().unwrap().contains("51,000 at the limit"),
        "{descriptors}"
    );
    assert_eq!(of(&report, "accept_queue")["status"], "note");
}

#[test]
fn bad_input_is_explained() {
    let missing = plimsoll(&["doctor", "no-such-plan.toml"]);
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("cannot read no-such-plan.toml"), "{}", missing.stderr);
    let folder = Folder::new();
    let invalid = folder.file("plan.toml", "rate = 5\ntarget = []\n");
    assert_eq!(plimsoll(&["doctor", &invalid]).code, 2);
    let undo = plimsoll(&["tune", "--undo", &invalid]);
    assert_eq!(undo.code, 2, "{}", undo.stderr);
}

#[test]
fn tune_prints_files_and_changes_nothing() {
    let before = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_tw_reuse").unwrap();
    let done = plimsoll(&["tune"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stdout.contains("# /etc/sysctl.d/90-plimsoll.conf"), "{}", done.stdout);
    assert!(done.stdout.contains("# not set: net.ipv4.tcp_fin_timeout"), "{}", done.stdout);
    assert!(done.stdout.contains("hard nofile"), "{}", done.stdout);
    let after = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_tw_reuse").unwrap();
    assert_eq!(before, after);
}

#[test]
fn watching_ends_with_ctrl_c() {
    let mut watching = command(&["doctor", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 5];
    std::io::Read::read_exact(watching.stdout.as_mut().unwrap(), &mut first).unwrap();
    assert_eq!(&first, b"ports");
    let pid = nix::unistd::Pid::from_raw(watching.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(watching.wait().unwrap().success());
}
