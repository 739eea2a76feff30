//! Replicas of a gateway on one Postgres, behind nginx and under load.

#[path = "../../../registry/src/store/postgres/server.rs"]
pub(crate) mod server;

use crate::gateway::{Process, ask, eth, metric};
use crate::run::{Done, Folder, RunResult, command, start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plimsoll_measure::{Clock, Nanos};
use plimsoll_sim::Sim;
use serde_json::Value;
use std::net::TcpListener;
use std::process::Child;

/// Far longer than anything here takes.
const TIMEOUT: Nanos = Nanos::from_secs(60);

#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let clock = Clock::start();
    while !is_so() {
        assert!(clock.now() < TIMEOUT, "not within a minute: {what}");
        std::thread::yield_now();
    }
}

/// Gateways with the same configuration and database, each with a folder of its own for its state.
pub(crate) struct Replicas {
    pub(crate) folders: Vec<Folder>,
    pub(crate) processes: Vec<Process>,
    pub(crate) addresses: Vec<String>,
    pub(crate) url: String,
    _sim: Sim,
}

impl Replicas {
    /// Starts them at the same time.
    pub(crate) fn start(count: usize, url: &str) -> Replicas {
        Replicas::start_with(count, url, "")
    }

    /// The same, with further settings.
    pub(crate) fn start_with(count: usize, url: &str, settings: &str) -> Replicas {
        let sim = eth();
        let upstream = format!(
            "{settings}[[upstream]]\nid = \"node\"\nservice = \"eth\"\nurl = \"{}\"\n",
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
    pub(crate) fn restart(&mut self, number: usize) {
        self.processes[number].signal(Signal::SIGKILL);
        let args = ["--listen", &self.addresses[number], "--database", &self.url];
        let mut again = Process::start(&self.folders[number], &args);
        std::mem::swap(&mut self.processes[number], &mut again);
        again.end();
        assert_eq!(self.processes[number].address(""), self.addresses[number]);
    }

    /// Waits until all of them show this value of a metric.
    #[track_caller]
    pub(crate) fn wait_for(&self, name: &str, value: f64) {
        for address in &self.addresses {
            wait_until(&format!("{name} = {value}"), || metric(address, name) == value);
        }
    }

    /// Runs `plimsoll gateway` on their database.
    pub(crate) fn edit(&self, line: &str) -> Done {
        let args: Vec<&str> = ["gateway", "--database", &self.url]
            .into_iter()
            .chain(line.split_whitespace())
            .collect();
        command(&args).current_dir(self.folders[0].path()).output().unwrap().into()
    }

    /// Adds an endpoint, and waits until all of them serve it.
    #[track_caller]
    pub(crate) fn add(&self, id: &str) {
        let added = self.edit(&format!("endpoint add {id} --service eth"));
        assert_eq!(added.code, 0, "{}", added.stderr);
        for address in &self.addresses {
            wait_until(id, || has(address, id));
        }
    }

    /// A change that must fail, and must not be made.
    #[track_caller]
    pub(crate) fn add_in_vain(&self, id: &str, words: &str) {
        let refused = self.edit(&format!("endpoint add {id} --service eth"));
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
        assert!(refused.stderr.contains("hint: "), "{}", refused.stderr);
    }
}

/// Whether a gateway serves an endpoint.
pub(crate) fn has(address: &str, id: &str) -> bool {
    let request = format!("POST /api/gateway?endpoint={id}");
    ask(address, &request, crate::gateway::BLOCK_NUMBER).status == 200
}

pub(crate) fn database(address: &str) -> Value {
    ask(address, "GET /ready?detailed=true", "").json()["database"].clone()
}

/// nginx in front of gateways. All calls of the test are reads, so any may be sent again.
pub(crate) struct Nginx {
    process: Child,
    pub(crate) address: String,
    _folder: Folder,
}

impl Nginx {
    pub(crate) fn start(addresses: &[String]) -> Nginx {
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
pub(crate) struct Load(Child);

impl Load {
    pub(crate) fn start(nginx: &Nginx, endpoint: &str) -> Load {
        Load::start_with(nginx, endpoint, "X-Test: 1")
    }

    /// The same, with a header.
    pub(crate) fn start_with(nginx: &Nginx, endpoint: &str, header: &str) -> Load {
        let url = format!("http://{}/api/gateway?endpoint={endpoint}", nginx.address);
        let body = crate::gateway::BLOCK_NUMBER;
        Load(start(&[
            "run",
            "--url",
            &url,
            "--header",
            header,
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
    pub(crate) fn stop(self) -> u64 {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT).unwrap();
        let run = RunResult::of(self.0.wait_with_output().unwrap().into());
        assert_eq!(run.count("/requests/failed"), 0, "{}", run.summary["errors"]);
        assert_eq!(run.count("/requests/unsent"), 0, "{}", run.summary["errors"]);
        run.count("/requests/ok")
    }
}
