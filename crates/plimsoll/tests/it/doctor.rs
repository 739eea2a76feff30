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
    assert!(text.stdout.contains("plan.toml (10/s for 1s):\n"), "{}", text.stdout);
    assert!(text.stdout.contains("\nthis host can carry the load"), "{}", text.stdout);
}

#[test]
fn a_plan_that_this_host_cannot_carry() {
    let folder = Folder::new();
    // A host without an address. 2,000,000 new connections per second take more ports than there are, even with reuse after 1 s.
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
    // A target that closes first frees them at once.
    assert_eq!(ports["status"], "warning");
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
        descriptors["value"].as_str().unwrap().contains("51,000 at the connection limit"),
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
fn tune_prints_what_the_doctor_asks_for_and_changes_nothing() {
    let setting = "/proc/sys/net/ipv4/ip_local_port_range";
    let before = std::fs::read_to_string(setting).unwrap();
    let folder = Folder::new();
    let plan = folder.file(
        "plan.toml",
        format!(
            "rate = \"2000000/s\"\nduration = \"1s\"\nconnections = {{ reuse = false }}\n{TARGET}"
        ),
    );
    let doctor = plimsoll(&["doctor", &plan, "--no-calibration", "--format", "json"]);
    let asked = of(&checks(&doctor.stdout), "ephemeral_ports")["fix"].to_string();
    let done = plimsoll(&["tune", &plan]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let range = "net.ipv4.ip_local_port_range";
    assert_eq!(
        done.stdout.contains(&format!("{range} = ")),
        asked.contains(range),
        "{}",
        done.stdout
    );
    // Nothing that the load does not need.
    assert!(!done.stdout.contains("net.core.somaxconn = 65535"), "{}", done.stdout);
    let few = folder
        .file("few.toml", format!("rate = 1\nduration = \"1s\"\nconnections.max = 2\n{TARGET}"));
    let done = plimsoll(&["tune", &few]);
    assert_eq!((done.code, done.stdout.as_str()), (0, ""), "{}", done.stderr);
    assert!(done.stderr.contains("nothing needs changing for"), "{}", done.stderr);
    assert_eq!(before, std::fs::read_to_string(setting).unwrap());
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
