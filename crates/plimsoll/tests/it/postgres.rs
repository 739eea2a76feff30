//! Four gateways on one Postgres, behind nginx and under load, while server and gateways fail.

#[path = "../../../registry/src/store/postgres/server.rs"]
mod server;

use crate::gateway::{Process, ask, eth, metric};
use crate::run::{Done, Folder, RunResult, command, start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plimsoll_measure::{Clock, Nanos};
use plimsoll_sim::Sim;
use serde_json::Value;
use server::Server;
use std::net::TcpListener;
use std::process::Child;

/// Far longer than anything here takes.
const TIMEOUT: Nanos = Nanos::from_secs(60);

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let clock = Clock::start();
    while !is_so() {
        assert!(clock.now() < TIMEOUT, "not within a minute: {what}");
        std::thread::yield_now();
    }
}

/// Gateways with the same configuration and database, each with a folder of its own for its state.
struct Replicas {
    folders: Vec<Folder>,
    processes: Vec<Process>,
    addresses: Vec<String>,
    url: String,
    _sim: Sim,
}

impl Replicas {
    /// Starts them at the same time.
    fn start(count: usize, url: &str) -> Replicas {
        let sim = eth();
        let upstream = format!(
            "[[upstream]]\nid = \"node\"\nservice = \"eth\"\nurl = \"{}\"\n",
            sim.url("eth")
        );
        let folders: Vec<Folder> = (0..count).map(|_| Folder::new()).collect();
        for folder in &folders {
            folder.file("gateway.toml", format!("{upstream}# {}", folder.path().display()));
        }
        let args = ["--listen", "127.0.0.1:0", "--database", url];
        let processes: Vec<Process> =
            folders.iter().map(|folder| Process::start(folder, &args)).collect();
        let addresses = processes.iter().map(|one| one.address("")).collect();
        Replicas { folders, processes, addresses, url: url.into(), _sim: sim }
    }

    /// Kills one and starts it again at its address.
    fn restart(&mut self, number: usize) {
        self.processes[number].signal(Signal::SIGKILL);
        let args = ["--listen", &self.addresses[number], "--database", &self.url];
        let mut again = Process::start(&self.folders[number], &args);
        std::mem::swap(&mut self.processes[number], &mut again);
        again.end();
        assert_eq!(self.processes[number].address(""), self.addresses[number]);
    }

    /// Waits until all of them show this value of a metric.
    #[track_caller]
    fn wait_for(&self, name: &str, value: f64) {
        for address in &self.addresses {
            wait_until(&format!("{name} = {value}"), || metric(address, name) == value);
        }
    }

    /// Runs `plimsoll gateway` on their database.
    fn edit(&self, line: &str) -> Done {
        let args: Vec<&str> = ["gateway", "--database", &self.url]
            .into_iter()
            .chain(line.split_whitespace())
            .collect();
        command(&args).current_dir(self.folders[0].path()).output().unwrap().into()
    }

    /// Adds an endpoint, and waits until all of them serve it.
    #[track_caller]
    fn add(&self, id: &str) {
        let added = self.edit(&format!("endpoint add {id} --service eth"));
        assert_eq!(added.code, 0, "{}", added.stderr);
        for address in &self.addresses {
            wait_until(id, || has(address, id));
        }
    }

    /// The same; returns how long it took from before the command was started until the last one served
    /// it.
    #[track_caller]
    fn time_to_add(&self, id: &str) -> Nanos {
        let clock = Clock::start();
        self.add(id);
        clock.now()
    }

    /// A change that must fail, and must not be made.
    #[track_caller]
    fn add_in_vain(&self, id: &str, words: &str) {
        let refused = self.edit(&format!("endpoint add {id} --service eth"));
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
        assert!(refused.stderr.contains("hint: "), "{}", refused.stderr);
    }
}

/// Whether a gateway serves an endpoint.
fn has(address: &str, id: &str) -> bool {
    let request = format!("POST /api/gateway?endpoint={id}");
    ask(address, &request, crate::gateway::BLOCK_NUMBER).status == 200
}

fn database(address: &str) -> Value {
    ask(address, "GET /ready?detailed=true", "").json()["database"].clone()
}

/// nginx in front of gateways. All calls of the test are reads, so any may be sent again.
struct Nginx {
    process: Child,
    address: String,
    _folder: Folder,
}

impl Nginx {
    fn start(addresses: &[String]) -> Nginx {
        let folder = Folder::new();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let here = folder.path().display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {here}/{kind};\n"))
            .concat();
        let servers: String =
            addresses.iter().map(|one| format!("server {one} max_fails=0; ")).collect();
        let config = folder.file(
            "nginx.conf",
            format!(
                "daemon off; worker_processes 1; pid {here}/pid; error_log {here}/log;\nevents {{}}\n\
                 http {{ access_log off;\n{temporary}upstream g {{ {servers} keepalive 32; }}\n\
                 server {{ listen {address}; location / {{ proxy_pass http://g; \
                 proxy_http_version 1.1; proxy_set_header Connection \"\"; \
                 proxy_next_upstream error timeout non_idempotent; }} }} }}\n"
            ),
        );
        let log = folder.path().join("log");
        let process =
            std::process::Command::new("nginx").arg("-e").arg(log).args(["-c", &config]).spawn();
        wait_until("nginx listens", || std::net::TcpStream::connect(&address).is_ok());
        Nginx { process: process.unwrap(), address, _folder: folder }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGKILL would leave its worker behind.
        let _ = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

/// The instrument, until it is stopped.
struct Load(Child);

impl Load {
    fn start(nginx: &Nginx, endpoint: &str) -> Load {
        let url = format!("http://{}/api/gateway?endpoint={endpoint}", nginx.address);
        let body = crate::gateway::BLOCK_NUMBER;
        Load(start(&[
            "run",
            "--url",
            &url,
            "--method",
            "POST",
            "--body",
            body,
            "--rate",
            "200/s",
            "--duration",
            "10m",
            "--no-out",
            "--format",
            "json",
        ]))
    }

    /// Stops it and checks that no call has failed.
    #[track_caller]
    fn stop(self) -> u64 {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT).unwrap();
        let run = RunResult::of(self.0.wait_with_output().unwrap().into());
        assert_eq!(run.count("/requests/failed"), 0, "{}", run.summary["errors"]);
        assert_eq!(run.count("/requests/unsent"), 0, "{}", run.summary["errors"]);
        run.count("/requests/ok")
    }
}

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
    server.signal(Signal::SIGCONT);
    process.address("");
    process.stop();
    let server_sql = |sql: &str| server.sql(sql);
    server_sql("UPDATE plimsoll_registry SET version = 99");
    let output = Process::start(&folder, &args);
    output.wait_for("its schema version is 99; this program supports version 2");
    assert_eq!(output.end(), Some(2), "although there is a snapshot");
    server_sql("UPDATE plimsoll_registry SET version = 2");
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

/// A change is in force everywhere within a second: by its announcement, by polling where announcements
/// are lost, and after the server was unreachable. One of three attempts may be late on a busy machine.
#[test]
fn changes_reach_every_replica_within_a_second() {
    let mut server = Server::start();
    let replicas = Replicas::start(4, &server.url());
    replicas.add("first");
    let within_a_second = |what: &str, times: &mut [Nanos]| {
        times.sort();
        assert!(times[times.len() / 2] < Nanos::from_secs(1), "{what}: {times:?}");
    };
    let add = |how: &str, number: u32| replicas.time_to_add(&format!("{how}-{number}"));
    within_a_second("announced", &mut [0, 1, 2].map(|number| add("announced", number)));

    // As behind a pooler of transactions: announcements reach nobody.
    server.sql(
        "CREATE FUNCTION pg_notify(text, text) RETURNS void LANGUAGE sql AS 'SELECT'; \
         ALTER ROLE plimsoll SET search_path = public, pg_catalog",
    );
    within_a_second("polled", &mut [0, 1, 2].map(|number| add("polled", number)));

    let mut times = [0, 1, 2].map(|number| {
        server.kill();
        replicas.wait_for("plimsoll_db_up", 0.0);
        server.start_again();
        add("after", number)
    });
    within_a_second("after the server was unreachable", &mut times);
    for process in replicas.processes {
        process.stop();
    }
}
