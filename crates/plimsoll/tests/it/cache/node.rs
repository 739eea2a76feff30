//! A scripted node: it answers what the gateway asks for itself, and the rest as a test says.

use super::*;
use crate::server::{After, Reply as HttpReply, Server};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};

/// The chain of a node. Its blocks from `forked_at` on belong to the branch with this number.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) head: AtomicU64,
    pub(super) forked_at: AtomicU64,
    pub(super) branch: AtomicU64,
}

impl Chain {
    pub(super) fn at(head: u64) -> Arc<Chain> {
        Arc::new(Chain { head: head.into(), ..Chain::default() })
    }

    /// Replaces the blocks from this one on.
    pub(super) fn reorganise(&self, from: u64) {
        self.forked_at.store(from, SeqCst);
        self.branch.fetch_add(1, SeqCst);
    }

    pub(super) fn hash(&self, number: u64) -> String {
        let is_new = number >= self.forked_at.load(SeqCst);
        let branch = if is_new { self.branch.load(SeqCst) } else { 0 };
        format!("{:#066x}", u128::from(number) << 64 | u128::from(branch) << 32 | 0xab)
    }

    pub(super) fn block(&self, number: u64) -> Value {
        json!({
            "number": format!("{number:#x}"),
            "hash": self.hash(number),
            "parentHash": self.hash(number.saturating_sub(1)),
            "transactions": [],
        })
    }

    /// What a node answers that a test says nothing about.
    fn answer(&self, method: &str, params: &Value) -> Value {
        let head = self.head.load(SeqCst);
        match method {
            "eth_chainId" => json!("0x1"),
            "net_version" => json!("1"),
            "eth_syncing" => json!(false),
            "eth_blockNumber" => json!(format!("{head:#x}")),
            "eth_getBlockByNumber" => {
                let number = match params[0].as_str().unwrap_or_default() {
                    "latest" => head,
                    "safe" => head - 2,
                    "finalized" => head - 4,
                    number => parsed(number),
                };
                if number > head { Value::Null } else { self.block(number) }
            }
            _ => json!("0x0"),
        }
    }
}

pub(super) fn parsed(number: &str) -> u64 {
    u64::from_str_radix(number.trim_start_matches("0x"), 16).unwrap_or(u64::MAX)
}

/// What a node answers.
pub(super) enum Answer {
    /// What [`Chain::answer`] says.
    Usual,
    Result(Value),
    /// The text of the result.
    Raw(String),
    Error(i64, &'static str),
    /// Nothing; the connection stays open.
    Never,
}

/// Starts a node of this chain. `script` is called with the number of each request of its method, from
/// 0, the method, the parameters and the head of the request.
pub(super) fn node(
    chain: &Arc<Chain>,
    script: impl Fn(usize, &str, &Value, &str) -> Answer + Send + Sync + 'static,
) -> Server {
    let chain = chain.clone();
    let counts = Mutex::new(std::collections::HashMap::<String, usize>::new());
    Server::start(move |_, received| {
        let call: Value = serde_json::from_str(&received.body).expect(&received.body);
        let method = call["method"].as_str().unwrap();
        let number = {
            let mut counts = counts.lock().unwrap();
            let count = counts.entry(method.into()).or_default();
            *count += 1;
            *count - 1
        };
        let id = &call["id"];
        let result = match script(number, method, &call["params"], &received.head) {
            Answer::Usual => chain.answer(method, &call["params"]).to_string(),
            Answer::Result(result) => result.to_string(),
            Answer::Raw(text) => text,
            Answer::Error(code, message) => {
                let error = json!({"code": code, "message": message});
                return HttpReply::ok(
                    &json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string(),
                );
            }
            Answer::Never => return HttpReply::raw("", After::Hang),
        };
        HttpReply::ok(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}"))
    })
}

/// The parameters of all requests of a method that a node has received.
pub(super) fn asked(node: &Server, method: &str) -> Vec<Value> {
    let calls = node.received().into_iter().map(|one| serde_json::from_str(&one.body).unwrap());
    calls
        .filter(|call: &Value| call["method"] == method)
        .map(|call| call["params"].clone())
        .collect()
}

/// Holds threads until it is opened.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(super) fn wait(&self) {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(open, |open| !*open).unwrap());
    }

    pub(super) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // A test that fails must not leave threads of a server behind.
        if std::thread::panicking() {
            self.open();
        }
    }
}

/// The configuration of a service with these nodes as upstreams.
pub(super) fn service(more: &str, nodes: &[&Server]) -> String {
    let mut text =
        format!("[[service]]\nid = \"eth\"\nchain_id = 1\nblock_time = \"12s\"\n{more}\n");
    for (place, node) in nodes.iter().enumerate() {
        text += &format!(
            "[[upstream]]\nid = \"node-{place}\"\nservice = \"eth\"\nurl = \"{}\"\n",
            node.url()
        );
    }
    text
}

/// Starts a gateway, and waits until it knows the heads.
pub(super) fn start(folder: &Folder, config: &str) -> (Process, String) {
    let process = gateway(folder, config);
    let address = process.address("");
    let finalized = || call(&address, "eth_getBlockByNumber", json!(["finalized", false]));
    until("following the chain", || used(&finalized()) != "bypass");
    (process, address)
}

/// A figure of the cache.
pub(super) fn figure(address: &str, pointer: &str) -> u64 {
    let figures = ask(address, "GET /api/v1/cache", "").json();
    figures.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{figures}"))
}
