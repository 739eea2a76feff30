//! What a running gateway reports about its sources: pending restarts, files that disappear and come
//! back.

use crate::gateway::Process;
use crate::run::{Folder, command};
use std::process::Command;

#[test]
fn a_pending_restart_is_repeated_until_the_key_has_its_old_value() {
    let folder = Folder::new();
    let file = |workers: u8, reveal: bool| {
        let text = format!("listen = [\"127.0.0.1:0\"]\nworkers = {workers}\nreveal = {reveal}\n");
        folder.file("gateway.toml", text)
    };
    file(1, true);
    let mut starts = command(&["gateway", "--database", "off"]);
    starts.current_dir(folder.path());
    let running = Process::spawn(starts);
    running.wait_for_next("listening on http://127.0.0.1:");
    let pending = "WARN workers changed; restart the gateway to apply it";
    file(2, true);
    running.wait_for_next(pending);
    file(2, false);
    running.wait_for_next("changed 1 setting (reveal)");
    running.wait_for_next(pending);
    file(1, true);
    running.wait_for_next("changed 1 setting (reveal)");
    let output = running.stop();
    assert_eq!(output.matches(pending).count(), 2, "{output}");
}

/// A file, a database and a certificate that disappear while a gateway runs, and come back.
#[test]
fn missing_files_are_reported_and_so_is_their_return() {
    let folder = Folder::new();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", "/CN=h", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(made.status.success());
    let file = "listen = [\"127.0.0.1:0\"]\ntls = { cert = \"cert.pem\", key = \"key.pem\" }\n\
                [[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"http://127.0.0.1:1/\"\n";
    folder.file("gateway.toml", file);
    let mut starts = command(&["gateway"]);
    starts.current_dir(folder.path());
    let running = Process::spawn(starts);
    running.wait_for_next("try: curl -sk https://127.0.0.1:");
    let path = |name: &str| folder.path().join(name);
    let hide = |name: &str| std::fs::rename(path(name), path("hidden")).unwrap();
    let restore = |name: &str| std::fs::rename(path("hidden"), path(name)).unwrap();
    hide("cert.pem");
    running
        .wait_for_next("ERROR the certificate cannot be reloaded; still using the previous one: ");
    restore("cert.pem");
    running.wait_for_next("INFO reloaded the certificate");
    hide("plimsoll.db");
    running.wait_for_next("WARN cannot check for changes: database ");
    restore("plimsoll.db");
    running.wait_for_next("INFO the database sqlite:");
    hide("gateway.toml");
    running.wait_for_next("ERROR config change rejected");
    let said = running.wait_for("gateway.toml: cannot be read");
    assert!(!said.contains("choose another file"), "{said}");
    running.wait_for_next("hint: restore it");
    restore("gateway.toml");
    running.wait_for_next("reloaded: ");
    running.stop();
}
