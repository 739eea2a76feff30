//! `plimsoll gateway` as a process: started with nothing, told of changes, supervised, stopped.

use crate::run::{Done, Folder, command, plimsoll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plimsoll_sim::{Service, Settings, Sim};
use serde_json::{Value, json};
use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longer than anything here takes; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway process, its stderr read as it comes, so that it never waits for a reader; killed when
/// the test is done with it.
pub(crate) struct Process {
    child: Child,
    said: Arc<(Mutex<String>, Condvar)>,
    /// So much of what it said was waited for in turn.
    heard: Cell<usize>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `plimsoll gateway` in a folder.
    pub(crate) fn start(folder: &Folder, args: &[&str]) -> Process {
        let mut command = command(&[&["gateway"], args].concat());
        command.current_dir(folder.path());
        Process::spawn(command)
    }

    /// Starts it by a command, away from what is configured around the tests.
    pub(crate) fn spawn(mut command: Command) -> Process {
        for name in ["DATABASE_URL", "PATH_GATEWAY_INSTANCES", "PLIMSOLL_LISTEN"] {
            command.env_remove(name);
        }
        let mut child = command.spawn().unwrap();
        let said = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let (mut stderr, shared) = (BufReader::new(child.stderr.take().unwrap()), said.clone());
        let reader = std::thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|n| n > 0) {
                shared.0.lock().unwrap().push_str(&line);
                shared.1.notify_all();
                line.clear();
            }
        });
        Process { child, said, heard: Cell::new(0), reader: Some(reader) }
    }

    /// Waits until it has said this, and gives all that it said.
    #[track_caller]
    pub(crate) fn wait_for(&self, words: &str) -> String {
        self.wait_from(0, words)
    }

    /// Waits until it says this in a line behind the one that was waited for last.
    #[track_caller]
    pub(crate) fn wait_for_next(&self, words: &str) {
        let heard = self.heard.get();
        let said = self.wait_from(heard, words);
        let at = heard + said[heard..].find(words).unwrap();
        self.heard.set(at + said[at..].find('\n').unwrap() + 1);
    }

    #[track_caller]
    fn wait_from(&self, heard: usize, words: &str) -> String {
        let said = self.said.0.lock().unwrap();
        let waits = |said: &mut String| !said[heard..].contains(words);
        let (said, late) = self.said.1.wait_timeout_while(said, PATIENCE, waits).unwrap();
        assert!(!late.timed_out(), "it never said \"{words}\":\n{}", &said[heard..]);
        said.clone()
    }

    /// Where an instance listens: `127.0.0.1:PORT`.
    pub(crate) fn address(&self, instance: &str) -> String {
        let words = format!("{instance}: listening on http://");
        let said = self.wait_for(&words);
        let rest = &said[said.rfind(&words).unwrap() + words.len()..];
        rest.split_whitespace().next().unwrap().to_string()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for its end and gives its exit code.
    pub(crate) fn end(self) -> Option<i32> {
        self.end_with_words().0
    }

    /// Stops it as an operator does; it must go in peace. All that it said.
    pub(crate) fn stop(self) -> String {
        self.signal(Signal::SIGTERM);
        let (code, said) = self.end_with_words();
        assert_eq!(code, Some(0), "{said}");
        said
    }

    fn end_with_words(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        self.reader.take().unwrap().join().unwrap();
        let said = self.said.0.lock().unwrap().clone();
        (code, said)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A response.
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answered {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let pairs = self.head.lines().filter_map(|line| line.split_once(": "));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// A caller with a connection of its own, who never tries again.
pub(crate) struct Caller(BufReader<TcpStream>);

impl Caller {
    pub(crate) fn connect(address: &str) -> std::io::Result<Caller> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Caller(BufReader::new(stream)))
    }

    pub(crate) fn send(&mut self, request: &str, body: &str) -> std::io::Result<Answered> {
        let length = body.len();
        let text = format!(
            "{request} HTTP/1.1\r\nHost: h\r\nTarget-Service-Id: eth\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.0.get_mut().write_all(text.as_bytes())?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut answered = Answered { status: 0, head, body: String::new() };
        answered.status = answered.head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = answered.header("content-length").map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        answered.body = String::from_utf8(body).unwrap();
        Ok(answered)
    }
}

/// Asks once, over a connection of its own.
pub(crate) fn ask(address: &str, request: &str, body: &str) -> Answered {
    Caller::connect(address).unwrap().send(request, body).unwrap()
}

pub(crate) const BLOCK_NUMBER: &str =
    r#"{"jsonrpc":"2.0","method":"eth_blockNumber","params":[],"id":7}"#;

fn call(address: &str) -> Value {
    ask(address, "POST /v1", BLOCK_NUMBER).json()
}

/// A counter's value in the metrics, summed over its labels.
pub(crate) fn metric(address: &str, name: &str) -> f64 {
    let page = ask(address, "GET /metrics", "").body;
    let samples = page.lines().filter(|line| line.starts_with(name));
    samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

pub(crate) fn eth() -> Sim {
    Sim::start(Settings::for_tests(7, Service::named("eth"))).unwrap()
}

#[test]
fn with_nothing_configured_it_says_so_and_serves_nothing() {
    let folder = Folder::new();
    let process = Process::start(&folder, &["--listen", "127.0.0.1:0"]);
    process.wait_for("no upstream is configured");
    let address = process.address("");
    assert_eq!(ask(&address, "GET /health", "").status, 200);
    assert_eq!(ask(&address, "GET /ready", "").status, 503);
    let answer = ask(&address, "POST /v1", BLOCK_NUMBER).json();
    assert_eq!(answer["error"]["data"]["kind"], "no_upstream");
    process.stop();
}

#[test]
fn simulated_chains_are_there_for_a_try() {
    let folder = Folder::new();
    let process = Process::start(&folder, &["--listen", "127.0.0.1:0", "--simulate"]);
    let said = process.wait_for("try: ");
    let said = if said.ends_with('\n') { said } else { process.wait_for("}'\n") };
    let line = said.lines().find_map(|line| line.strip_prefix("try: ")).unwrap();
    let output = std::process::Command::new("sh").args(["-c", line]).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).expect(line);
    assert!(answer["result"].as_str().unwrap().starts_with("0x"), "{answer}");
    assert!(folder.path().join("plimsoll.db").exists(), "the database is there from the start");
    process.stop();
}

#[test]
fn entries_are_taken_up_while_it_runs_and_no_call_asks_the_database() {
    let (folder, sim) = (Folder::new(), eth());
    let upstream = format!("eth={}", sim.url("eth"));
    let process = Process::start(
        &folder,
        &["--listen", "127.0.0.1:0", "--upstream", &upstream, "--database", "sqlite:x.db"],
    );
    let address = process.address("");
    let database = format!("sqlite:{}", folder.path().join("x.db").display());
    let entries = |args: &[&str]| {
        let done = plimsoll(&[&["gateway"], args, &["--database", &database]].concat());
        assert_eq!(done.code, 0, "{}", done.stderr);
    };
    let asked = || ask(&address, "POST /api/gateway?endpoint=ethpath_1", BLOCK_NUMBER);
    assert_eq!(asked().status, 404);
    entries(&["endpoint", "add", "ethpath_1", "--service", "eth", "--deny", "eth_call"]);
    process.wait_for("1 endpoint\n");
    assert_eq!(asked().status, 200);
    let denied = r#"{"jsonrpc":"2.0","method":"eth_call","params":[],"id":"x"}"#;
    let denied = ask(&address, "POST /api/gateway?endpoint=ethpath_1", denied);
    assert_eq!((denied.status, &denied.json()["id"]), (403, &json!("x")));
    // Ten thousand calls, and the queries are those that look for changes.
    let before = metric(&address, "plimsoll_db_queries_total");
    let mut caller = Caller::connect(&address).unwrap();
    for _ in 0..10_000 {
        assert_eq!(
            caller.send("POST /api/gateway?endpoint=ethpath_1", BLOCK_NUMBER).unwrap().status,
            200
        );
    }
    let queries = metric(&address, "plimsoll_db_queries_total") - before;
    assert!(queries < 1_000.0, "{queries} queries for 10,000 calls");
    entries(&["endpoint", "disable", "ethpath_1"]);
    process.wait_for("0 endpoints\n");
    assert_eq!(asked().status, 404);
}

#[test]
fn simulated_chains_end_with_the_first_real_upstream_for_good() {
    let (folder, sim) = (Folder::new(), eth());
    let process = Process::start(&folder, &["--listen", "127.0.0.1:0", "--simulate"]);
    let address = process.address("");
    let answered = ask(&address, "POST /v1", BLOCK_NUMBER);
    assert_eq!(answered.header("x-plimsoll-upstream"), Some("simulated-eth"));
    // Named after the port that the kernel chose.
    let port = address.rsplit(':').next().unwrap();
    assert!(answered.header("x-plimsoll-instance").unwrap().ends_with(&format!(":{port}")));
    let database = format!("sqlite:{}", folder.path().join("plimsoll.db").display());
    let entries = |args: &[&str]| {
        let done = plimsoll(&[&["gateway", "upstream"], args, &["--database", &database]].concat());
        assert_eq!(done.code, 0, "{}", done.stderr);
    };
    entries(&["add", "node-a", "--service", "eth", "--url", &sim.url("eth")]);
    process.wait_for("1 upstream,");
    let answered = ask(&address, "POST /v1", BLOCK_NUMBER);
    assert_eq!(answered.header("x-plimsoll-upstream"), Some("node-a"));
    entries(&["disable", "node-a"]);
    process.wait_for("0 upstreams,");
    let answered = ask(&address, "POST /v1", BLOCK_NUMBER);
    assert_eq!(answered.json()["error"]["data"]["kind"], "no_upstream");
}

#[test]
fn a_change_that_is_not_valid_is_refused_and_nothing_is_lost() {
    let (folder, sim) = (Folder::new(), eth());
    let upstream =
        format!("[[upstream]]\nid = \"node\"\nservice = \"eth\"\nurl = \"{}\"\n", sim.url("eth"));
    let head = "listen = [\"127.0.0.1:0\"]\ndatabase = \"off\"\n";
    folder.file("gateway.toml", format!("{head}{upstream}"));
    let process = Process::start(&folder, &[]);
    let address = process.address("");
    assert_eq!(call(&address)["id"], 7);
    folder.file("gateway.toml", format!("{head}reveal = 5\nrevael = true\n{upstream}"));
    let said = process.wait_for("revael");
    assert!(said.contains("rejected") && said.contains("gateway.toml:3:"), "{said}");
    assert_eq!(call(&address)["id"], 7, "what was there stays");
    let log = "access_log = { sample = \"100%\" }\n";
    folder.file("gateway.toml", format!("{head}reveal = false\n{log}{upstream}"));
    process.signal(Signal::SIGHUP);
    process.wait_for("reloaded");
    assert_eq!(ask(&address, "POST /v1", BLOCK_NUMBER).header("x-plimsoll-upstream"), None);
    process.wait_for("\"method\":\"eth_blockNumber\",\"upstream\":\"node\",\"status\":200");
}

#[test]
fn a_stop_under_load_fails_no_call() {
    let (folder, sim) = (Folder::new(), eth());
    let upstream = format!("eth={}", sim.url("eth"));
    let args = ["--listen", "127.0.0.1:0", "--upstream", &upstream, "--database", "off"];
    let (first, second) = (Process::start(&folder, &args), Process::start(&folder, &args));
    let addresses = [first.address(""), second.address("")];
    // Callers keep their connection, move to the other gateway when they are told that it ends, and
    // never try a call again.
    let (stopping, calls) = (Arc::new((Mutex::new(0), Condvar::new())), 2_000);
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (addresses, told) = (addresses.clone(), stopping.clone());
            std::thread::spawn(move || {
                let mut at = 0;
                let mut caller = Caller::connect(&addresses[at]).unwrap();
                for number in 0..calls {
                    let answered = caller.send("POST /v1", BLOCK_NUMBER).expect("an answer");
                    assert_eq!((answered.status, &answered.json()["id"]), (200, &json!(7)));
                    if answered.header("connection") == Some("close") {
                        at = 1;
                        caller = Caller::connect(&addresses[at]).unwrap();
                    }
                    if number == 100 {
                        *told.0.lock().unwrap() += 1;
                        told.1.notify_all();
                    }
                }
                at
            })
        })
        .collect();
    let waiting = stopping.0.lock().unwrap();
    drop(stopping.1.wait_while(waiting, |callers| *callers < 8).unwrap());
    first.signal(Signal::SIGTERM);
    for caller in callers {
        assert_eq!(caller.join().expect("no call failed"), 1, "every caller was moved");
    }
    assert_eq!(first.end(), Some(0));
}

#[test]
fn instances_are_started_again_and_end_with_their_supervisor() {
    let (folder, sim) = (Folder::new(), eth());
    let upstream = format!("eth={}", sim.url("eth"));
    let process = Process::start(
        &folder,
        &["--instances", "3", "--listen", "127.0.0.1:0", "--upstream", &upstream],
    );
    process.wait_for("3 instances");
    let addresses = ["gw-1", "gw-2", "gw-3"].map(|name| process.address(name));
    for (address, name) in addresses.iter().zip(["gw-1", "gw-2", "gw-3"]) {
        let answered = ask(address, "POST /v1", BLOCK_NUMBER);
        assert_eq!(answered.header("x-plimsoll-instance"), Some(name));
    }
    let killed = std::process::Command::new("pkill")
        .args(["-9", "-P", &process.child.id().to_string(), "-f", "instance=gw-2"])
        .status();
    assert!(killed.unwrap().success());
    process.wait_for("gw-2 ended: signal: 9 (SIGKILL)");
    let said = process.wait_for("started again in");
    let after = said.find("gw-2 ended").unwrap();
    let again = loop {
        let address = process.address("gw-2");
        let said = process.said.0.lock().unwrap();
        if said.rfind("gw-2: listening").unwrap() > after {
            break address;
        }
        drop(process.said.1.wait_timeout(said, PATIENCE).unwrap());
    };
    assert_eq!(call(&again)["id"], 7);
    // Killed without a word: its instances end by themselves.
    process.signal(Signal::SIGKILL);
    for name in ["gw-1", "gw-2", "gw-3"] {
        process.wait_for(&format!("{name}: stopped"));
    }
}

#[test]
fn addresses_that_are_taken_are_said() {
    let folder = Folder::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for args in [&["--instances", "1"], &["--instances", "2"]] {
        let mut command = command(&["gateway", "--listen", &address, "--database", "off"]);
        let done: Done = command.args(args).current_dir(folder.path()).output().unwrap().into();
        assert_ne!(done.code, 0);
        assert!(done.stderr.contains(&format!("cannot listen on {address}")), "{}", done.stderr);
        assert!(done.stderr.contains("--listen"), "{}", done.stderr);
    }
}

#[test]
fn what_a_chain_says_through_the_gateway_agrees_with_itself() {
    let (folder, sim) = (Folder::new(), eth());
    let upstream = format!("eth={}", sim.url("eth"));
    let args = ["--listen", "127.0.0.1:0", "--upstream", &upstream, "--database", "off"];
    let process = Process::start(&folder, &args);
    let url = format!("http://{}/v1", process.address(""));
    let done = plimsoll(&[
        "sim",
        "verify",
        &url,
        "-H",
        "Target-Service-Id: eth",
        "--until",
        "finalized",
        "--blocks",
        "4",
    ]);
    assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
}
