//! Four gateways on one Postgres, behind nginx and under load, while server and gateways fail.

use crate::gateway::{Process, ask, metric};
use crate::replicas::server::Server;
use crate::replicas::{Load, Nginx, Replicas, database, has, wait_until};
use crate::run::Folder;
use nix::sys::signal::Signal;

#[test]
fn the_loss_of_the_database_hurts_nobody() {
    let mut first = Server::start();
    let standby = first.standby();
    let url = format!("postgres://plimsoll@{},{}/postgres", first.address(), standby.address());
    // All four create the tables at the same time.
    let mut replicas = Replicas::start(4, &url);
    replicas.add("e1");
    replicas.wait_for("plimsoll_db_connections", 2.0);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'plimsoll'";
    wait_until("two connections each", || first.sql(sessions) == "8");
    let nginx = Nginx::start(&replicas.addresses);
    let load = Load::start(&nginx, "e1");
    let calls =
        || replicas.addresses.iter().map(|one| metric(one, "plimsoll_calls_total")).sum::<f64>();
    wait_until("the load has started", || calls() > 200.0);

    // Killed: the connections are reset, and then refused.
    first.kill();
    replicas.add_in_vain("e-never", "cannot be reached");
    replicas.wait_for("plimsoll_db_up", 0.0);
    let shown = database(&replicas.addresses[0]);
    assert_eq!((&shown["state"], &shown["sequence"]), (&"down".into(), &1.into()), "{shown}");
    assert!(shown["error"].as_str().unwrap().contains("refused"), "{shown}");
    assert_eq!(ask(&replicas.addresses[0], "GET /ready", "").status, 200, "it serves calls");
    first.start_again();
    replicas.add("e2");
    replicas.wait_for("plimsoll_db_up", 1.0);

    // It hangs.
    first.signal(Signal::SIGSTOP);
    replicas.add_in_vain("e-never", "no answer within");
    replicas.wait_for("plimsoll_db_up", 0.0);
    first.signal(Signal::SIGCONT);
    replicas.add("e3");

    // It refuses connections.
    first.sql("CREATE DATABASE other");
    let refuse = |is_open: bool| {
        let sql = format!("ALTER DATABASE postgres ALLOW_CONNECTIONS {is_open}");
        first.sql_in("other", &sql);
    };
    refuse(false);
    first.sql_in(
        "other",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'postgres'",
    );
    replicas.add_in_vain("e-never", "not currently accepting connections");
    replicas.wait_for("plimsoll_db_up", 0.0);
    refuse(true);
    replicas.add("e4");

    // A gateway is killed while the database is up, and started again while it is not.
    replicas.restart(1);
    assert!(has(&replicas.addresses[1], "e4"));
    wait_until("the standby has everything", || {
        standby.sql("SELECT sequence FROM plimsoll_registry") == "4"
    });
    first.kill();
    replicas.restart(2);
    assert!(has(&replicas.addresses[2], "e4"), "from its snapshot");
    let shown = database(&replicas.addresses[2]);
    assert_eq!((&shown["from_disk"], &shown["sequence"]), (&true.into(), &4.into()), "{shown}");
    replicas.processes[2].wait_for("using the entries last read from it (change 4)");

    // The standby takes over. It was a standby, which accepts no changes, until now.
    replicas.add_in_vain("e-never", "accepts no changes");
    standby.promote();
    replicas.add("e5");
    replicas.wait_for("plimsoll_registry_sequence", 5.0);
    replicas.wait_for("plimsoll_registry_from_disk", 0.0);
    let calls = load.stop();
    assert!(calls > 0);

    let ids = "SELECT string_agg(id, ' ' ORDER BY id) FROM plimsoll_entry";
    assert_eq!(standby.sql(ids), "e1 e2 e3 e4 e5", "what was acknowledged, and nothing else");
    let log =
        "SELECT string_agg(sequence || ' ' || id, ', ' ORDER BY sequence) FROM plimsoll_change";
    assert_eq!(standby.sql(log), "1 e1, 2 e2, 3 e3, 4 e4, 5 e5");
    for process in replicas.processes.drain(..) {
        process.stop();
    }
}

/// Without a snapshot, a start waits for a server that is not there yet; a newer schema is an error.
#[test]
fn starts_wait_for_the_server_and_refuse_newer_schemas() {
    let mut server = Server::start();
    server.signal(Signal::SIGSTOP);
    let folder = Folder::new();
    let args = ["--listen", "127.0.0.1:0", "--database", &server.url()];
    let process = Process::start(&folder, &args);
    // It says what it waits for, and again after a while.
    process.wait_for("of at most 30 s: it has not answered yet");
    process.wait_for("no answer within 3 s");
    server.signal(Signal::SIGCONT);
    process.address("");
    process.stop();
    let server_sql = |sql: &str| server.sql(sql);
    server_sql("UPDATE plimsoll_registry SET version = 99");
    let output = Process::start(&folder, &args);
    output.wait_for("its schema version is 99; this program supports version 4");
    assert_eq!(output.end(), Some(2), "although there is a snapshot");
    server_sql("UPDATE plimsoll_registry SET version = 4");
    server.kill();
    // A snapshot that was damaged is not used, and the log says so.
    let saved = std::fs::read_dir(folder.path()).unwrap().flatten();
    let saved =
        saved.map(|one| one.path()).find(|one| one.extension().is_some_and(|e| e == "json"));
    std::fs::write(saved.unwrap(), "{\"schema\":").unwrap();
    let process = Process::start(&folder, &args);
    server.start_again();
    process.address("");
    assert!(!process.has_logged("using the entries last read"));
    process.stop();
}

/// A change comes into force everywhere: by its announcement, by polling where announcements are lost, and
/// after the server was unreachable. How soon is tested on virtual time, in the registry's feed.
#[test]
fn changes_reach_every_replica() {
    let mut server = Server::start();
    let replicas = Replicas::start(4, &server.url());
    replicas.add("announced");
    // As behind a pooler of transactions: announcements reach nobody.
    server.sql(
        "CREATE FUNCTION pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT'; \
         ALTER ROLE plimsoll SET search_path = public, pg_catalog",
    );
    replicas.add("polled");
    server.kill();
    replicas.wait_for("plimsoll_db_up", 0.0);
    server.start_again();
    replicas.add("after");
    for process in replicas.processes {
        process.stop();
    }
}
