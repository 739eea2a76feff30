//! A scripted upstream: a node that answers from a chain that grows with virtual time, and fails as
//! its script says.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use plimsoll_measure::rng::{Key, Sequence};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::Instant;

use super::checks::RECOVERY;
use super::script::{BLOCK, FAULTS_END, Fault, Kind, NodeScript};
use super::sends::{KNOWN, REFUSALS, RETRY_AFTER, SendKind};
use crate::transport::memory::MemorySocket;

/// The chain id of the service.
pub(super) const CHAIN: u64 = 7_777;

/// The chain id of an upstream on another chain.
pub(super) const OTHER_CHAIN: u64 = 8_888;

/// The height at the start.
pub(super) const HEIGHT: u64 = 1_000;

const SEND: &str = "eth_sendRawTransaction";

/// Heights on the other chain are larger by this.
const OTHER_HEIGHT: u64 = 1_000_000;

/// What all nodes share: the transactions of the network by hash, with the nodes that accepted each,
/// and when.
#[derive(Default)]
pub(super) struct World {
    pub(super) transactions: RefCell<BTreeMap<String, Vec<(usize, Duration)>>>,
}

/// A node.
pub(super) struct Node {
    place: usize,
    script: NodeScript,
    start: Instant,
    world: Rc<World>,
    random: RefCell<Sequence>,
    /// The transactions in its own pool.
    pool: RefCell<Vec<String>>,
    /// Counts its deaths: connections of an earlier life are reset.
    life: watch::Sender<u64>,
    /// Requests that it has read, except health checks.
    pub(super) asked: Cell<u64>,
    /// How many blocks the node that answers is behind, if there are several.
    behind: Cell<u64>,
    /// The last time it read a request for which it has no fault.
    pub(super) last_used: Cell<Duration>,
    /// Calls that were sent to it after all faults were over.
    pub(super) late_calls: Cell<usize>,
    /// When it read calls that it has not answered because it was hanging.
    pub(super) hung: RefCell<Vec<Duration>>,
    /// Until when it has asked not to be called, by method, and when it did so.
    limits: RefCell<BTreeMap<String, (Duration, Duration)>>,
    /// Calls that it has refused with 429.
    pub(super) limited: Cell<u64>,
    /// Calls that were sent to it although it had asked not to be called.
    pub(super) unwanted: Cell<u64>,
    /// When it limited its callers, and for how many seconds.
    pub(super) limited_at: RefCell<Vec<(Duration, u64)>>,
}

impl Node {
    pub(super) fn new(
        place: usize,
        script: NodeScript,
        seed: u64,
        start: Instant,
        world: &Rc<World>,
    ) -> Rc<Node> {
        Rc::new(Node {
            place,
            script,
            start,
            world: world.clone(),
            random: RefCell::new(Key::new(seed).with(place as u64).sequence()),
            pool: RefCell::default(),
            life: watch::Sender::new(0),
            asked: Cell::new(0),
            behind: Cell::new(0),
            last_used: Cell::default(),
            late_calls: Cell::default(),
            hung: RefCell::default(),
            limits: RefCell::default(),
            limited: Cell::new(0),
            unwanted: Cell::new(0),
            limited_at: RefCell::default(),
        })
    }

    fn now(&self) -> Duration {
        #[allow(clippy::disallowed_methods)] // the virtual clock
        Instant::now().duration_since(self.start)
    }

    fn faults(&self) -> impl Iterator<Item = Kind> {
        let now = self.now();
        let active = self.script.faults.iter().filter(move |one| one.from <= now && now < one.to);
        active.map(|one| one.kind)
    }

    /// What it does with transactions now.
    fn send_fault(&self) -> Option<SendKind> {
        let now = self.now();
        let mut sends = self.script.sends.iter();
        sends.find(|one| one.from <= now && now < one.to).map(|one| one.kind)
    }

    fn has(&self, kind: Kind) -> bool {
        self.faults().any(|one| one == kind)
    }

    /// Resets the connections at each death.
    pub(super) async fn live(self: Rc<Node>) {
        let mut deaths: Vec<Duration> = self
            .script
            .faults
            .iter()
            .filter(|one| one.kind == Kind::Dead)
            .map(|one| one.from)
            .collect();
        deaths.sort();
        for death in deaths {
            tokio::time::sleep_until(self.start + death).await;
            self.life.send_modify(|life| *life += 1);
        }
    }

    /// Accepts a connection, or refuses it.
    pub(super) async fn accept(self: Rc<Node>) -> io::Result<MemorySocket> {
        if self.has(Kind::Dead) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = MemorySocket::pair();
        tokio::task::spawn_local(self.serve(ours));
        Ok(theirs)
    }

    async fn serve(self: Rc<Node>, mut socket: MemorySocket) {
        let mut life = self.life.subscribe();
        let mut received = Vec::new();
        for number in 1.. {
            let request = tokio::select! {
                biased;
                _ = life.changed() => return socket.reset(),
                request = read_request(&mut socket, &mut received) => request,
            };
            let Some(request) = request else { return };
            if number > 1 && self.has(Kind::Closing) {
                self.count(&request);
                return socket.reset();
            }
            let answered = tokio::select! {
                biased;
                _ = life.changed() => return socket.reset(),
                answered = self.answer(&request, &mut socket) => answered,
            };
            if !answered {
                return socket.reset();
            }
        }
    }

    /// Counts a request; returns whether it is like a health check.
    fn count(&self, request: &Value) -> bool {
        let method = request["method"].as_str().unwrap_or_default();
        let is_check = matches!(method, "eth_chainId" | "eth_getBlockByNumber");
        if !is_check {
            self.asked.set(self.asked.get() + 1);
            let now = self.now();
            let limits = self.limits.borrow();
            let limit = limits.get(method);
            // Calls that cross with the refusal are sent in the same instant.
            if limit.is_some_and(|(since, until)| *since < now && now < *until) {
                self.unwanted.set(self.unwanted.get() + 1);
            }
        }
        is_check
    }

    /// Records that calls of a method are refused for some seconds.
    fn limit(&self, method: &str, secs: u64) {
        let now = self.now();
        self.limited.set(self.limited.get() + 1);
        let until = now + Duration::from_secs(secs);
        self.limits.borrow_mut().insert(method.into(), (now, until));
    }

    /// Answers a request; false if the connection is to be reset.
    async fn answer(&self, request: &Value, socket: &mut MemorySocket) -> bool {
        let method = request["method"].as_str().unwrap_or_default();
        let is_check = self.count(request);
        let is_call = method != "eth_chainId" && !is_from_keeper(request);
        // An upstream that may have a transaction is asked for it whatever its state.
        if self.has(Kind::Hanging) && is_call && method != "eth_getTransactionByHash" {
            self.hung.borrow_mut().push(self.now());
        }
        while self.has(Kind::Stalled) || is_call && self.has(Kind::Hanging) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut latency = Duration::from_micros(self.script.latency_us);
        let mut status = (200, String::new());
        let mut is_garbled = false;
        let mut is_faulty = false;
        for kind in self.faults().collect::<Vec<_>>() {
            let chance = |percent| self.random.borrow_mut().below(100) < percent;
            is_faulty |= kind != Kind::Uneven;
            match kind {
                Kind::Slow(more) => latency += Duration::from_millis(more),
                Kind::Resetting(percent) if chance(percent) => return false,
                Kind::Garbling(percent) => is_garbled |= chance(percent),
                Kind::Limiting(secs) => {
                    status = (429, format!("retry-after: {secs}\r\n"));
                    self.limited_at.borrow_mut().push((self.now(), secs));
                }
                Kind::LimitingCalls(secs) if method == "eth_call" => {
                    status = (429, format!("retry-after: {secs}\r\n"));
                }
                Kind::Overloaded(secs) => status = (503, format!("retry-after: {secs}\r\n")),
                _ => {}
            }
        }
        if let (SEND, Some(SendKind::Late(more))) = (method, self.send_fault()) {
            latency += Duration::from_millis(more);
        }
        tokio::time::sleep(latency).await;
        if !is_faulty && !is_check {
            self.last_used.set(self.now());
            let is_late = self.now() > FAULTS_END + RECOVERY * 2;
            self.late_calls.set(self.late_calls.get() + usize::from(is_late));
        }
        let is_behind = self.has(Kind::Uneven) && self.random.borrow_mut().below(3) == 0;
        self.behind.set(is_behind.into());
        let mut body = if self.has(Kind::Unavailable) {
            json!({"jsonrpc": "2.0", "id": request["id"],
                   "error": {"code": -32000, "message": "service unavailable"}})
        } else if status.0 == 429 {
            json!({"jsonrpc": "2.0", "id": request["id"],
                   "error": {"code": -32005, "message": "rate limit exceeded"}})
        } else {
            self.result(method, request)
        };
        if body["result"].is_string() && method == SEND {
            match self.send_fault() {
                Some(SendKind::Reset) => return false,
                Some(SendKind::Stall) => std::future::pending().await,
                Some(SendKind::Internal) => body = error(-32603, "internal error"),
                Some(SendKind::Limit) => {
                    status = (429, format!("retry-after: {RETRY_AFTER}\r\n"));
                    self.limited_at.borrow_mut().push((self.now(), RETRY_AFTER));
                    body = error(-32005, "rate limit exceeded");
                }
                _ => {}
            }
        }
        body["jsonrpc"] = "2.0".into();
        body["id"] = request["id"].clone();
        let mut text = body.to_string();
        if status.0 == 503 {
            text = "overloaded".into();
        }
        let mut announced = text.len();
        if is_garbled {
            match self.random.borrow_mut().below(5) {
                0 => text = text[..text.len() / 2].to_string(),
                1 => {
                    body["id"] = json!(body["id"].as_u64().unwrap_or_default() + 1);
                    text = body.to_string();
                    announced = text.len();
                }
                2 => {
                    status.0 = 502;
                    text = "<html>bad gateway</html>".into();
                    announced = text.len();
                }
                3 => {
                    text = String::new();
                    announced = 0;
                }
                _ => {
                    text = format!("{}\u{0}", &text[1..]);
                    announced = text.len();
                }
            }
        }
        let head =
            format!("HTTP/1.1 {} X\r\n{}content-length: {announced}\r\n\r\n", status.0, status.1);
        let is_whole = text.len() == announced;
        let is_written =
            socket.write_all(&[head.as_bytes(), text.as_bytes()].concat()).await.is_ok();
        if let (429, true, Some(secs)) = (status.0, is_written, status.1.split(['\r', ' ']).nth(1))
        {
            self.limit(method, secs.parse().expect("seconds"));
        }
        is_written && is_whole
    }

    /// The heights of latest, safe and finalized.
    pub(super) fn heads(&self) -> [u64; 3] {
        let now = self.now();
        let mut height = HEIGHT + blocks(now) - self.behind.get();
        for kind in self.faults() {
            match kind {
                Kind::Lagging(blocks) | Kind::Reorganised(blocks) => height -= blocks,
                Kind::WrongChain | Kind::Switched => height += OTHER_HEIGHT,
                Kind::Ahead(blocks) => height += blocks,
                _ => {}
            }
        }
        [height, height - 4, height - 8]
    }

    fn result(&self, method: &str, request: &Value) -> Value {
        let params = &request["params"];
        let is_other = self.has(Kind::WrongChain) || self.has(Kind::Switched);
        let chain = if is_other { OTHER_CHAIN } else { CHAIN };
        let heads = self.heads();
        let result = |value: Value| json!({ "result": value });
        match method {
            "eth_chainId" => result(json!(format!("{chain:#x}"))),
            "eth_blockNumber" => result(json!(format!("{:#x}", heads[0]))),
            "eth_call" if number_of(&params[1]).is_some_and(|number| number > heads[0]) => {
                error(-32000, "header not found")
            }
            "eth_call" if params[0]["data"] == "revert" => error(3, "execution reverted"),
            "eth_call" if self.has(Kind::Lying) => result(json!("a lie")),
            // The chain is part of the result, so that an answer of another chain is noticed.
            "eth_call" => result(json!([chain, params[0]["data"]])),
            "eth_getTransactionReceipt" => result(Value::Null),
            "eth_getTransactionByHash" => {
                let hash = params[0].as_str().unwrap_or_default();
                let is_known = self.pool.borrow().iter().any(|known| known == hash);
                result(if is_known { json!({ "hash": hash }) } else { Value::Null })
            }
            "eth_getBlockByNumber" => {
                let tag = params[0].as_str().unwrap_or_default();
                let number = match tag {
                    "latest" => heads[0],
                    "safe" => heads[1],
                    "finalized" => heads[2],
                    number => u64::from_str_radix(&number[2..], 16).expect("a number"),
                };
                result(if number > heads[0] { Value::Null } else { self.block(number, chain) })
            }
            SEND => {
                let hash = hash_of(params[0].as_str().unwrap_or_default());
                if self.pool.borrow().contains(&hash) {
                    return error(-32000, KNOWN);
                }
                let mut known = self.world.transactions.borrow_mut();
                if let Some(SendKind::Refuse(why)) = self.send_fault()
                    && (REFUSALS[why] != KNOWN || known.contains_key(&hash))
                {
                    return error(-32000, REFUSALS[why]);
                }
                self.pool.borrow_mut().push(hash.clone());
                known.entry(hash.clone()).or_default().push((self.place, self.now()));
                result(json!(hash))
            }
            "eth_getTransactionCount" => result(json!(format!("{:#x}", self.pool.borrow().len()))),
            _ => error(-32601, "the method does not exist/is not available"),
        }
    }

    fn block(&self, number: u64, chain: u64) -> Value {
        let now = self.now();
        let is_active = |one: &&Fault| one.from <= now && now < one.to;
        let mut reorganised = self.script.faults.iter().filter(is_active);
        let reorganised =
            reorganised.find(|one| matches!(one.kind, Kind::Reorganised(_) | Kind::Forked));
        let fork = reorganised.map_or(u64::MAX, fork_of);
        let hash = |number: u64| {
            let branch = u64::from(number > fork);
            format!("{:#066x}", Key::new(number).with(branch).with(chain).bits())
        };
        json!({"number": format!("{number:#x}"), "hash": hash(number),
               "parentHash": hash(number - 1), "transactions": []})
    }
}

/// The last block before a fork: a reorganisation replaces the last five blocks before it, and those
/// after it.
pub(super) fn fork_of(fault: &Fault) -> u64 {
    HEIGHT + blocks(fault.from) - 5
}

/// The hash of a block of the chain that all upstreams without a fault are on.
pub(super) fn hash_at(number: u64) -> String {
    format!("{:#066x}", Key::new(number).with(0).with(CHAIN).bits())
}

/// The number that a hexadecimal string gives.
pub(super) fn number_of(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

/// Whether a request is a health check: ids of the gateway's threads alternate, and the keeper is the
/// last thread.
fn is_from_keeper(request: &Value) -> bool {
    let threads = super::WORKERS as u64 + 1;
    request["id"].as_u64().is_some_and(|id| (id - 1) % threads == threads - 1)
}

fn error(code: i64, message: &str) -> Value {
    json!({"error": {"code": code, "message": message}})
}

/// Blocks since the start.
pub(super) fn blocks(time: Duration) -> u64 {
    (time.as_millis() / BLOCK.as_millis()) as u64
}

/// The hash of a raw transaction, as a node computes it.
pub(super) fn hash_of(raw: &str) -> String {
    use sha3::{Digest, Keccak256};
    let digits = raw.strip_prefix("0x").unwrap_or_default();
    let bytes: Vec<u8> = (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("hex"))
        .collect();
    let digest = Keccak256::digest(&bytes);
    digest.iter().fold("0x".to_string(), |text, byte| format!("{text}{byte:02x}"))
}

/// Reads a request; `None` at the end of the connection.
pub(super) async fn read_request(
    socket: &mut MemorySocket,
    received: &mut Vec<u8>,
) -> Option<Value> {
    loop {
        if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1)?;
            let length: usize = length.split("\r\n").next()?.parse().ok()?;
            let end = end + 4 + length;
            if received.len() >= end {
                let request = serde_json::from_slice(&received[end - length..end]).ok();
                received.drain(..end);
                return request;
            }
        }
        if !socket.read_buf(received).await.is_ok_and(|n| n > 0) {
            return None;
        }
    }
}
