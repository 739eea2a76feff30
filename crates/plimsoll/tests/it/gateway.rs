//! `plimsoll gateway` as a process: start without configuration, reloads, supervision, shutdown.

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

/// Far longer than any test takes; a test that waits this long has failed.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A gateway process. Its stderr is read continuously, so that the pipe never fills; it is killed on
/// drop.
pub(crate) struct Process {
    child: Child,
    output: Arc<(Mutex<String>, Condvar)>,
    /// How much of the output `wait_for_next` has already passed.
    seen: Cell<usize>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `plimsoll gateway` in a folder.
    pub(crate) fn start(folder: &Folder, args: &[&str]) -> Process {
        let mut command = command(&[&["gateway"], args].concat());
        command.current_dir(folder.path());
        Process::spawn(command)
    }

    /// Starts a command, without configuration variables from the tests' own environment. No load
    /// balancer has to notice that it stops, unless the test sets `PLIMSOLL_IDLE_CLOSE`.
    pub(crate) fn spawn(mut command: Command) -> Process {
        for name in ["DATABASE_URL", "PATH_GATEWAY_INSTANCES", "PLIMSOLL_LISTEN"] {
            command.env_remove(name);
        }
        let is_unset = |command: &Command, of: &str| command.get_envs().all(|(name, _)| name != of);
        if is_unset(&command, "OTEL_EXPORTER_OTLP_ENDPOINT") {
            command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
        }
        if is_unset(&command, "PLIMSOLL_IDLE_CLOSE") {
            command.env("PLIMSOLL_IDLE_CLOSE", "50ms");
        }
        let mut child = command.spawn().unwrap();
        let output = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let (mut stderr, shared) = (BufReader::new(child.stderr.take().unwrap()), output.clone());
        let reader = std::thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|n| n > 0) {
                shared.0.lock().unwrap().push_str(&line);
                shared.1.notify_all();
                line.clear();
            }
        });
        Process { child, output, seen: Cell::new(0), reader: Some(reader) }
    }

    /// Whether the output contains `text` by now.
    pub(crate) fn has_logged(&self, text: &str) -> bool {
        self.output.0.lock().unwrap().contains(text)
    }

    /// Waits for a line that begins with `start` and contains `text`, after those that
    /// `wait_for_next` has passed.
    #[track_caller]
    pub(crate) fn wait_for_line(&self, start: &str, text: &str) -> String {
        let seen = self.seen.get();
        let is_it = |line: &&str| line.starts_with(start) && line.contains(text);
        let output = self.output.0.lock().unwrap();
        let waits = |output: &mut String| !output[seen..].lines().any(|line| is_it(&line));
        let (output, late) = self.output.1.wait_timeout_while(output, TIMEOUT, waits).unwrap();
        let rest = &output[seen..];
        assert!(!late.timed_out(), "no line {start}…{text} in the output:\n{rest}");
        rest.lines().find(is_it).unwrap().to_string()
    }

    /// Waits until the output contains `text`; returns all output so far.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) -> String {
        self.wait_from(0, text)
    }

    /// Waits until `text` appears after the line that the last such wait found.
    #[track_caller]
    pub(crate) fn wait_for_next(&self, text: &str) {
        let seen = self.seen.get();
        let output = self.wait_from(seen, text);
        let at = seen + output[seen..].find(text).unwrap();
        self.seen.set(at + output[at..].find('\n').unwrap() + 1);
    }

    #[track_caller]
    fn wait_from(&self, seen: usize, text: &str) -> String {
        let output = self.output.0.lock().unwrap();
        let waits = |output: &mut String| !output[seen..].contains(text);
        let (output, late) = self.output.1.wait_timeout_while(output, TIMEOUT, waits).unwrap();
        assert!(!late.timed_out(), "no \"{text}\" in the output:\n{}", &output[seen..]);
        output.clone()
    }

    /// The address an instance listens on: `127.0.0.1:PORT`.
    pub(crate) fn address(&self, instance: &str) -> String {
        let text = format!("{instance}: listening on http://");
        let output = self.wait_for(&text);
        let rest = &output[output.rfind(&text).unwrap() + text.len()..];
        rest.split_whitespace().next().unwrap().to_string()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for it to exit; returns the exit code.
    pub(crate) fn end(self) -> Option<i32> {
        self.wait().0
    }

    /// Stops it with SIGTERM and checks that it exits with 0; returns all output.
    pub(crate) fn stop(self) -> String {
        self.signal(Signal::SIGTERM);
        let (code, output) = self.wait();
        assert_eq!(code, Some(0), "{output}");
        output
    }

    fn wait(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        self.reader.take().unwrap().join().unwrap();
        let output = self.output.0.lock().unwrap().clone();
        (code, output)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A response.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let pairs = self.head.lines().filter_map(|line| line.split_once(": "));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// A caller with its own connection, which never retries.
pub(crate) struct Caller(BufReader<TcpStream>);

impl Caller {
    pub(crate) fn connect(address: &str) -> std::io::Result<Caller> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Caller(BufReader::new(stream)))
    }

    pub(crate) fn send(&mut self, request: &str, body: &str) -> std::io::Result<Response> {
        self.send_with(request, "", body)
    }

    /// Sends a request with further headers, which are whole lines.
    pub(crate) fn send_with(
        &mut self,
        request: &str,
        headers: &str,
        body: &str,
    ) -> std::io::Result<Response> {
        self.write(request, headers, body)?;
        self.read()
    }

    /// Sends a request without waiting for the response.
    pub(crate) fn write(
        &mut self,
        request: &str,
        headers: &str,
        body: &str,
    ) -> std::io::Result<()> {
        let length = body.len();
        let text = format!(
            "{request} HTTP/1.1\r\nHost: h\r\nTarget-Service-Id: eth\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        self.0.get_mut().write_all(text.as_bytes())
    }

    /// Reads the next response.
    pub(crate) fn read(&mut self) -> std::io::Result<Response> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let mut response = Response { status: 0, head, body: String::new() };
        response.status = response.head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = response.header("content-length").map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        response.body = String::from_utf8(body).unwrap();
        Ok(response)
    }
}

/// Sends one request over a new connection.
pub(crate) fn ask(address: &str, request: &str, body: &str) -> Response {
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
fn a_gateway_without_upstreams_says_so_and_is_not_ready() {
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
fn simulate_prints_a_call_that_works() {
    let folder = Folder::new();
    let process = Process::start(&folder, &["--listen", "127.0.0.1:0", "--simulate"]);
    let output = process.wait_for("try: ");
    let output = if output.ends_with('\n') { output } else { process.wait_for("}'\n") };
    let line = output.lines().find_map(|line| line.strip_prefix("try: ")).unwrap();
    let done = std::process::Command::new("sh").args(["-c", line]).output().unwrap();
    let answer: Value = serde_json::from_slice(&done.stdout).expect(line);
    assert!(answer["result"].as_str().unwrap().starts_with("0x"), "{answer}");
    assert!(folder.path().join("plimsoll.db").exists(), "the database is created at startup");
    process.stop();
}

#[test]
fn entries_are_applied_at_run_time_and_calls_make_no_queries() {
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
    let send = || ask(&address, "POST /api/gateway?endpoint=ethpath_1", BLOCK_NUMBER);
    assert_eq!(send().status, 404);
    entries(&["endpoint", "add", "ethpath_1", "--service", "eth", "--deny", "eth_call"]);
    process.wait_for("reloaded: added 1 endpoint (eth…h_1)");
    assert_eq!(send().status, 200);
    let denied = r#"{"jsonrpc":"2.0","method":"eth_call","params":[],"id":"x"}"#;
    let denied = ask(&address, "POST /api/gateway?endpoint=ethpath_1", denied);
    assert_eq!((denied.status, &denied.json()["id"]), (403, &json!("x")));
    // During ten thousand calls the only queries are those that poll for changes.
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
    process.wait_for("reloaded: removed 1 endpoint (");
    assert_eq!(send().status, 404);
}

#[test]
fn the_first_real_upstream_ends_the_simulation_for_good() {
    let (folder, sim) = (Folder::new(), eth());
    let process = Process::start(&folder, &["--listen", "127.0.0.1:0", "--simulate"]);
    let address = process.address("");
    let response = ask(&address, "POST /v1", BLOCK_NUMBER);
    assert_eq!(response.header("x-plimsoll-upstream"), Some("simulated-eth"));
    // Named after the port that the kernel chose.
    let port = address.rsplit(':').next().unwrap();
    assert!(response.header("x-plimsoll-instance").unwrap().ends_with(&format!(":{port}")));
    let database = format!("sqlite:{}", folder.path().join("plimsoll.db").display());
    let entries = |args: &[&str]| {
        let done = plimsoll(&[&["gateway", "upstream"], args, &["--database", &database]].concat());
        assert_eq!(done.code, 0, "{}", done.stderr);
    };
    entries(&["add", "node-a", "--service", "eth", "--url", &sim.url("eth")]);
    process.wait_for("reloaded: added 1 upstream (node-a); removed 4 upstreams (simulated-");
    let response = ask(&address, "POST /v1", BLOCK_NUMBER);
    assert_eq!(response.header("x-plimsoll-upstream"), Some("node-a"));
    entries(&["disable", "node-a"]);
    process.wait_for("reloaded: removed 1 upstream (node-a)");
    process.wait_for_line("20", " WARN no upstream is left: calls are answered with no_upstream");
    let response = ask(&address, "POST /v1", BLOCK_NUMBER);
    assert_eq!(response.json()["error"]["data"]["kind"], "no_upstream");
}

#[test]
fn an_invalid_change_is_rejected_and_the_old_one_stays() {
    let (folder, sim) = (Folder::new(), eth());
    let upstream =
        format!("[[upstream]]\nid = \"node\"\nservice = \"eth\"\nurl = \"{}\"\n", sim.url("eth"));
    let head = "listen = [\"127.0.0.1:0\"]\ndatabase = \"off\"\n";
    folder.file("gateway.toml", format!("{head}{upstream}"));
    let process = Process::start(&folder, &[]);
    let address = process.address("");
    assert_eq!(call(&address)["id"], 7);
    folder.file("gateway.toml", format!("{head}reveal = 5\nrevael = true\n{upstream}"));
    let output = process.wait_for("revael");
    let line = process.wait_for_line("20", "config change rejected");
    assert!(
        line.contains("Z ERROR config change rejected; still using the previous one"),
        "{line}"
    );
    while metric(&address, "plimsoll_config_rejected") != 1.0 {
        std::thread::yield_now();
    }
    let detailed = ask(&address, "GET /ready?detailed=true", "");
    assert_eq!((detailed.status, &detailed.json()["config"]["rejected"]), (200, &json!(true)));
    let before = metric(&address, "plimsoll_config_last_reload_seconds");
    assert!(output.contains("rejected") && output.contains("gateway.toml:3:"), "{output}");
    assert_eq!(call(&address)["id"], 7, "the previous configuration stays in use");
    let log = "access_log = { sample = \"100%\" }\n";
    folder.file("gateway.toml", format!("{head}reveal = false\n{log}{upstream}"));
    process.signal(Signal::SIGHUP);
    process.wait_for("reloaded: changed 2 settings (reveal, access_log.sample); now ");
    while metric(&address, "plimsoll_config_rejected") != 0.0 {
        std::thread::yield_now();
    }
    assert!(metric(&address, "plimsoll_config_last_reload_seconds") > before);
    const SYNCING: &str = r#"{"jsonrpc":"2.0","id":7,"method":"eth_syncing","params":[]}"#;
    assert_eq!(ask(&address, "POST /v1", SYNCING).header("x-plimsoll-upstream"), None);
    process.wait_for("\"upstream\":\"node\",\"cache\":\"bypass\",\"status\":200");
}

#[test]
fn a_shutdown_under_load_fails_no_call() {
    let (folder, sim) = (Folder::new(), eth());
    let upstream = format!("eth={}", sim.url("eth"));
    let start = || {
        let args = ["gateway", "--listen", "127.0.0.1:0", "--upstream", &upstream];
        let mut command = command(&args);
        command.args(["--database", "off"]).current_dir(folder.path());
        command.env("PLIMSOLL_IDLE_CLOSE", "2s");
        Process::spawn(command)
    };
    let (first, second) = (start(), start());
    let addresses = [first.address(""), second.address("")];
    // Callers keep their connection, move to the other gateway after `connection: close`, and never
    // retry a call.
    let (ready, calls) = (Arc::new((Mutex::new(0), Condvar::new())), 2_000);
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (addresses, ready) = (addresses.clone(), ready.clone());
            std::thread::spawn(move || {
                let mut at = 0;
                let mut caller = Caller::connect(&addresses[at]).unwrap();
                for number in 0..calls {
                    let response = caller.send("POST /v1", BLOCK_NUMBER).expect("an answer");
                    assert_eq!((response.status, &response.json()["id"]), (200, &json!(7)));
                    if response.header("connection") == Some("close") {
                        at = 1;
                        caller = Caller::connect(&addresses[at]).unwrap();
                    }
                    if number == 100 {
                        *ready.0.lock().unwrap() += 1;
                        ready.1.notify_all();
                    }
                }
                at
            })
        })
        .collect();
    let waiting = ready.0.lock().unwrap();
    drop(ready.1.wait_while(waiting, |callers| *callers < 8).unwrap());
    first.signal(Signal::SIGTERM);
    for caller in callers {
        assert_eq!(caller.join().expect("no call failed"), 1, "every caller has moved");
    }
    assert_eq!(first.end(), Some(0));
}

#[test]
fn instances_are_restarted_and_stop_with_their_supervisor() {
    let (folder, sim) = (Folder::new(), eth());
    let upstream = format!("eth={}", sim.url("eth"));
    let process = Process::start(
        &folder,
        &["--instances", "3", "--listen", "127.0.0.1:0", "--upstream", &upstream],
    );
    process.wait_for("3 instances");
    let addresses = ["gw-1", "gw-2", "gw-3"].map(|name| process.address(name));
    for (address, name) in addresses.iter().zip(["gw-1", "gw-2", "gw-3"]) {
        let response = ask(address, "POST /v1", BLOCK_NUMBER);
        assert_eq!(response.header("x-plimsoll-instance"), Some(name));
    }
    let killed = std::process::Command::new("pkill")
        .args(["-9", "-P", &process.child.id().to_string(), "-f", "instance=gw-2"])
        .status();
    assert!(killed.unwrap().success());
    process.wait_for("gw-2 was killed by signal 9 (SIGKILL)");
    let output = process.wait_for("restarting in");
    let after = output.find("gw-2 was killed").unwrap();
    let again = loop {
        let address = process.address("gw-2");
        let output = process.output.0.lock().unwrap();
        if output.rfind("gw-2: listening").unwrap() > after {
            break address;
        }
        drop(process.output.1.wait_timeout(output, TIMEOUT).unwrap());
    };
    assert_eq!(call(&again)["id"], 7);
    // If the supervisor is killed, its instances shut down by themselves.
    process.signal(Signal::SIGKILL);
    for name in ["gw-1", "gw-2", "gw-3"] {
        process.wait_for_line(&format!("{name}: 20"), " INFO stopped after");
    }
}

#[test]
fn addresses_in_use_are_reported() {
    let folder = Folder::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for args in [&["--instances", "1"], &["--instances", "2"]] {
        let mut command = command(&["gateway", "--listen", &address, "--database", "off"]);
        let done: Done = command.args(args).current_dir(folder.path()).output().unwrap().into();
        assert_ne!(done.code, 0);
        // Another test may have the port of the second instance.
        let names_address = done.stderr.contains(&format!("cannot listen on {address}"));
        let is_second = args[1] == "2" && done.stderr.contains("cannot listen on 127.0.0.1:");
        assert!(names_address || is_second, "{}", done.stderr);
        assert!(done.stderr.contains("--listen"), "{}", done.stderr);
    }
}

#[test]
fn a_simulated_chain_is_consistent_through_the_gateway() {
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
