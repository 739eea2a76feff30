//! Real clients and a real EVM node: through the gateway, clients get exactly the results that they get
//! without it.
//!
//! Each client does the same work on identical chains, down to the hashes (`tests/clients`): first
//! directly, then through each of the gateway's faces. Its results, in the client's own types, must be
//! equal. `tests/clients/install` installs the clients and the node.

use crate::gateway::{Process, metric};
use crate::run::Folder;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const ENDPOINT: &str = "ethpath_1764014188689_1764014188693";
const BY_SERVICE: &[(&str, &str)] = &[("Target-Service-Id", "dev")];

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients").canonicalize().unwrap()
}

/// The folder in which the clients are installed.
fn installed() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../clients");
    assert!(folder.join("stamp").exists(), "run tests/clients/install first, or scripts/test");
    folder.canonicalize().unwrap()
}

fn node() -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", installed().join("node_modules"));
    command
}

/// A script of `tests/clients` in the installed Python.
pub(crate) fn python_script(script: &str) -> Command {
    let mut command = Command::new(installed().join("venv/bin/python"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(scripts().join(script));
    command
}

/// What a script of `tests/clients` prints, as JSON.
pub(crate) fn python(script: &str, args: &[&str]) -> Value {
    printed(script, python_script(script).args(args))
}

/// What a command prints, as JSON.
fn printed(what: &str, command: &mut Command) -> Value {
    let done = command.stdin(Stdio::null()).output().unwrap();
    let output = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{what}:\n{output}");
    serde_json::from_slice(&done.stdout).unwrap()
}

/// Chains in a process that exits on drop.
pub(crate) struct Chains {
    process: Child,
    pub(crate) urls: Vec<String>,
}

impl Chains {
    pub(crate) fn start(count: usize) -> Chains {
        let mut command = node();
        command.arg(scripts().join("chain.js")).arg(count.to_string());
        Chains::of(&mut command)
    }

    /// Waits for the URLs that a command prints.
    fn of(command: &mut Command) -> Chains {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Chains { process, urls: serde_json::from_str(&line).unwrap() }
    }

    /// A WebSocket server on a real library of `node` or `python`, which answers each call with its parameters.
    pub(crate) fn websocket(language: &str) -> Chains {
        Chains::serving(language, ["websocket-server.js", "websocket_server.py"])
    }

    /// A server of event streams on `node` or on a real library of `python`.
    pub(crate) fn events(language: &str) -> Chains {
        Chains::serving(language, ["events-server.js", "events_server.py"])
    }

    fn serving(language: &str, [on_node, on_python]: [&str; 2]) -> Chains {
        let mut command = if language == "node" {
            let mut command = node();
            command.arg(scripts().join(on_node));
            command
        } else {
            python_script(on_python)
        };
        Chains::of(&mut command)
    }
}

impl Drop for Chains {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// A gateway for two chains: one behind `/v1`, one behind a customer's endpoint.
struct Gateway {
    process: Process,
    address: String,
    _folder: Folder,
}

impl Gateway {
    fn start(by_service: &str, by_endpoint: &str) -> Gateway {
        let folder = Folder::new();
        let database = folder.path().join("registry.db");
        let config = folder.file(
            "gateway.toml",
            format!(
                "listen = [\"127.0.0.1:0\"]\nworkers = 1\ndatabase = \"sqlite:{}\"\n\
                 trusted_proxies = [\"127.0.0.1\"]\naccess_log = {{ sample = \"100%\" }}\n\
                 [[service]]\nid = \"dev\"\nchain_id = 1337\n\
                 [[service]]\nid = \"dev-2\"\nchain_id = 1337\n\
                 [[upstream]]\nid = \"one\"\nservice = \"dev\"\nurl = \"{by_service}\"\n\
                 [[upstream]]\nid = \"two\"\nservice = \"dev-2\"\nurl = \"{by_endpoint}\"\n\
                 [[endpoint]]\nid = \"{ENDPOINT}\"\nservice = \"dev-2\"\n",
                database.display()
            ),
        );
        let process = Process::start(&folder, &["--config", &config]);
        Gateway { address: process.address(""), process, _folder: folder }
    }

    /// The number of open connections from callers, including that of this query.
    fn connections(&self) -> u64 {
        metric(&self.address, "plimsoll_connections{side=\"downstream\"}") as u64
    }

    /// Stops it and checks that it exits with 0; returns the logged calls.
    fn stop(self) -> Vec<Value> {
        let output = self.process.stop();
        output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// nginx in front of a gateway, configured as in production: keep-alive connections and
/// `X-Forwarded-For`.
struct Nginx {
    process: Child,
    address: String,
    _folder: Folder,
}

impl Nginx {
    fn start(gateway: &str) -> Nginx {
        // nginx inherits the socket as its stdin: the kernel has chosen the port, and it is listening.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let folder = Folder::new();
        let here = folder.path().display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {here}/{kind};\n"))
            .concat();
        let config = folder.file(
            "nginx.conf",
            format!(
                "daemon off; worker_processes 1; pid {here}/pid; error_log {here}/log;\nevents {{}}\n\
                 http {{ access_log off;\n{temporary}\
                 upstream gateway {{ server {gateway}; keepalive 8; }}\n\
                 server {{ listen {address}; location / {{ proxy_pass http://gateway;\n\
                 proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
                 proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }} }}\n",
            ),
        );
        let log = folder.path().join("log");
        let process = Command::new("nginx")
            .arg("-e")
            .arg(log)
            .args(["-c", &config])
            .env("NGINX", "0;")
            .stdin(OwnedFd::from(listener))
            .spawn()
            .unwrap();
        Nginx { process, address, _folder: folder }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGKILL would leave its worker behind.
        let _ = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

#[derive(Clone, Copy)]
enum Client {
    Viem,
    Ethers,
    Web3,
}

impl Client {
    /// Runs the client against `url`; returns its results.
    fn run(self, url: &str, headers: &[(&str, &str)]) -> Value {
        let node = |script: &str| {
            let mut command = node();
            command.arg(scripts().join(script));
            command
        };
        let mut command = match self {
            Client::Viem => node("viem-client.js"),
            Client::Ethers => node("ethers-client.js"),
            Client::Web3 => python_script("web3_client.py"),
        };
        let headers: serde_json::Map<String, Value> =
            headers.iter().map(|(name, value)| (name.to_string(), json!(value))).collect();
        command.env("RPC_URL", url).env("RPC_HEADERS", Value::Object(headers).to_string());
        printed(&format!("{command:?}"), &mut command)
    }

    /// Compares the results on each route; `facts` are expected results, by JSON pointer.
    fn gets_the_same_results_on_every_route(self, facts: &[(&str, Value)]) {
        let chains = Chains::start(3);
        let gateway = Gateway::start(&chains.urls[1], &chains.urls[2]);
        let direct = self.run(&chains.urls[0], &[]);
        for (pointer, expected) in facts {
            assert_eq!(direct.pointer(pointer), Some(expected), "{pointer}: {direct}");
        }
        let by_service = self.run(&format!("http://{}/v1", gateway.address), BY_SERVICE);
        assert_same(&direct, &by_service);
        let url = format!("http://{}/api/gateway?endpoint={ENDPOINT}", gateway.address);
        assert_same(&direct, &self.run(&url, &[]));
        gateway.stop();
    }
}

/// Compares step by step, so that a failure names the step.
#[track_caller]
fn assert_same(direct: &Value, through: &Value) {
    let (direct, through) = (direct.as_object().unwrap(), through.as_object().unwrap());
    for (step, result) in direct {
        assert_eq!(Some(result), through.get(step), "{step}");
    }
    assert_eq!(direct.len(), through.len());
}

#[test]
fn viem_gets_the_same_results() {
    Client::Viem.gets_the_same_results_on_every_route(&[
        ("/chain id", json!(1337)),
        ("/value", json!("5")),
        ("/logs/0/args/value", json!("5")),
        ("/receipt/status", json!("success")),
        ("/block with transactions/transactions/0/type", json!("eip1559")),
        ("/refuse/type", json!("ContractFunctionExecutionError")),
        ("/refuse/args", json!(["42", "no further"])),
        ("/refuseInWords/args", json!(["in words"])),
        ("/unknown method/type", json!("ParseRpcError")),
        ("/no such transaction", json!("TransactionNotFoundError")),
        ("/no funds/type", json!("TransactionRejectedRpcError")),
        ("/batch/20", json!("ParseRpcError")),
    ]);
}

#[test]
fn ethers_gets_the_same_results() {
    Client::Ethers.gets_the_same_results_on_every_route(&[
        ("/chain id", json!("1337")),
        ("/value", json!("5")),
        ("/logs/0/args/1", json!("5")),
        ("/receipt/status", json!(1)),
        ("/refuse/type", json!("CALL_EXCEPTION")),
        ("/refuse/args", json!(["42", "no further"])),
        ("/refuseInWords/reason", json!("in words")),
        ("/unknown method/type", json!("UNSUPPORTED_OPERATION")),
        ("/no such transaction", Value::Null),
        ("/no funds/type", json!("INSUFFICIENT_FUNDS")),
        ("/batch/20", json!("UNSUPPORTED_OPERATION")),
    ]);
}

#[test]
fn web3_gets_the_same_results() {
    Client::Web3.gets_the_same_results_on_every_route(&[
        ("/chain id", json!(1337)),
        ("/value", json!(5)),
        ("/logs/0/args/value", json!(5)),
        ("/receipt/status", json!(1)),
        ("/refuse/type", json!("ContractCustomError")),
        ("/refuseInWords/type", json!("Web3RPCError")),
        ("/unknown method/type", json!("Web3RPCError")),
        ("/no such transaction", json!("TransactionNotFound")),
        ("/batch/19", json!(3)),
    ]);
}

#[test]
fn a_client_behind_nginx_gets_the_same_results_and_keeps_its_address() {
    let chains = Chains::start(3);
    let gateway = Gateway::start(&chains.urls[1], &chains.urls[2]);
    let nginx = Nginx::start(&gateway.address);
    let direct = Client::Viem.run(&chains.urls[0], &[]);
    let url = format!("http://{}/v1", nginx.address);
    let headers = [BY_SERVICE, &[("X-Forwarded-For", "203.0.113.9")]].concat();
    assert_same(&direct, &Client::Viem.run(&url, &headers));
    assert!(gateway.connections() > 1, "nginx keeps connections to the gateway open");
    drop(nginx);
    let calls = gateway.stop();
    assert!(calls.len() > 20, "{calls:?}");
    // nginx appended the address of its caller, itself a trusted proxy.
    for call in calls.iter().filter(|call| call["path"] == "/v1") {
        assert_eq!(call["client"], "203.0.113.9", "{call}");
    }
}

/// Checks the description of an API against its handlers, with requests that fit the description and
/// requests that do not. A stream without an end is left out.
pub(crate) fn schemathesis(url: &str, token: &str) {
    let done = Command::new(installed().join("venv/bin/schemathesis"))
        .args(["run", url, "--header", &format!("Authorization: Bearer {token}")])
        .args(["--exclude-path", "/api/v1/events/stream", "--max-examples", "30"])
        // A request that fits the description may still contradict the registry.
        .args(["--exclude-checks", "positive_data_acceptance", "--phases", "coverage,fuzzing"])
        .args(["--no-color", "--generation-database", "none", "--seed", "18"])
        // It leaves files behind.
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}
