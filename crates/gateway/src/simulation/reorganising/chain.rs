//! A chain that grows and reorganises, and nodes that follow it late.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use plimsoll_measure::rng::{Key, Sequence};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::heads::Hash;
use crate::simulation::node::read_request;
use crate::transport::memory::MemorySocket;

pub(super) const CHAIN: u64 = 7_777;
pub(super) const NODES: usize = 3;
pub(super) const BLOCK: Duration = Duration::from_secs(2);

/// The height at the start.
const HEIGHT: u64 = 1_000;

/// How far the finalized and the safe block are below the latest; reorganisations are not as deep.
const FINALITY: u64 = 30;
const SAFETY: u64 = 15;

/// Branches of a chain: each starts at a number on the one before it.
pub(super) struct Chain {
    starts_at: RefCell<Vec<u64>>,
    pub(super) height: watch::Sender<u64>,
    random: RefCell<Sequence>,
}

impl Chain {
    pub(super) fn new(seed: u64) -> Chain {
        Chain {
            starts_at: RefCell::new(vec![0]),
            height: watch::Sender::new(HEIGHT),
            random: RefCell::new(Key::new(seed).with(1).sequence()),
        }
    }

    pub(super) fn newest(&self) -> usize {
        self.starts_at.borrow().len() - 1
    }

    /// The hash of a branch's block: the branch on which it was made, and its number.
    pub(super) fn hash(&self, branch: usize, number: u64) -> Hash {
        let starts_at = self.starts_at.borrow();
        let made = (0..=branch).rev().find(|one| starts_at[*one] <= number).unwrap_or_default();
        let mut hash: Hash = [0; 32];
        hash[..4].copy_from_slice(&(made as u32).to_be_bytes());
        hash[4..8].copy_from_slice(&(number as u32).to_be_bytes());
        hash[31] = 1;
        hash
    }

    /// The branch on which the block with this hash was made.
    pub(super) fn branch_of(hash: &Hash) -> usize {
        hash[..4].iter().fold(0, |all, byte| all << 8 | usize::from(*byte))
    }

    /// Grows, and reorganises every few blocks.
    pub(super) async fn grow(self: Rc<Chain>) {
        loop {
            tokio::time::sleep(BLOCK).await;
            let height = *self.height.borrow();
            let (is_reorganised, depth) = {
                let mut random = self.random.borrow_mut();
                (random.below(4) == 0, random.below(5))
            };
            if is_reorganised {
                self.starts_at.borrow_mut().push(height - depth);
            }
            self.height.send_replace(height + 1);
        }
    }
}

pub(super) fn hash_text(hash: Hash) -> String {
    hash.iter().fold("0x".to_string(), |text, byte| format!("{text}{byte:02x}"))
}

/// A node, as far as it has followed the chain.
pub(super) struct ChainNode {
    chain: Rc<Chain>,
    branch: Cell<usize>,
    height: Cell<u64>,
    random: RefCell<Sequence>,
}

impl ChainNode {
    pub(super) fn new(place: usize, seed: u64, chain: &Rc<Chain>) -> Rc<ChainNode> {
        let random = RefCell::new(Key::new(seed).with(10 + place as u64).sequence());
        let (branch, height) = (Cell::new(0), Cell::new(HEIGHT));
        Rc::new(ChainNode { chain: chain.clone(), branch, height, random })
    }

    fn below(&self, n: u64) -> u64 {
        self.random.borrow_mut().below(n)
    }

    /// Follows the chain, each time a little later.
    pub(super) async fn follow(self: Rc<ChainNode>) {
        let mut heights = self.chain.height.subscribe();
        while heights.changed().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(self.below(1_500))).await;
            let height = *heights.borrow_and_update();
            self.branch.set(self.chain.newest());
            self.height.set(height);
        }
    }

    pub(super) fn accept(self: Rc<ChainNode>) -> MemorySocket {
        let (ours, theirs) = MemorySocket::pair();
        tokio::task::spawn_local(self.serve(ours));
        theirs
    }

    async fn serve(self: Rc<ChainNode>, mut socket: MemorySocket) {
        let mut received = Vec::new();
        while let Some(request) = read_request(&mut socket, &mut received).await {
            tokio::time::sleep(Duration::from_micros(500 + self.below(4_000))).await;
            let result = self.result(&request);
            // The answer may be older than it looks.
            tokio::time::sleep(Duration::from_micros(500 + self.below(30_000))).await;
            let id = &request["id"];
            let text = json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
            if socket.write_all(&[head.as_bytes(), text.as_bytes()].concat()).await.is_err() {
                return;
            }
        }
    }

    fn result(&self, request: &Value) -> Value {
        let params = &request["params"];
        let own = |number: u64| hash_text(self.chain.hash(self.branch.get(), number));
        let place = |number: u64| json!({"blockNumber": hex(number), "blockHash": own(number)});
        let height = self.height.get();
        match request["method"].as_str().unwrap_or_default() {
            "eth_chainId" => json!(hex(CHAIN)),
            "eth_blockNumber" => json!(hex(height)),
            "eth_gasPrice" => json!(own(height)),
            "eth_getBlockByNumber" => match self.number(&params[0]) {
                Some(number) => self.block(number, &own(number)),
                None => Value::Null,
            },
            "eth_getBlockByHash" => {
                let hash = params[0].as_str().unwrap_or_default();
                let number = u64::from_str_radix(&hash[10..18], 16).expect("a number");
                // Nodes keep abandoned blocks for a while.
                if number <= height { self.block(number, hash) } else { Value::Null }
            }
            "eth_getCode" => self.number(&params[1]).map_or(Value::Null, |one| json!(own(one))),
            "eth_getTransactionReceipt" => {
                let number = self.number(&json!(hex(u64::from_str_radix(
                    &params[0].as_str().unwrap_or_default()[50..],
                    16
                )
                .expect("a number"))));
                let Some(number) = number else { return Value::Null };
                let mut receipt = place(number);
                receipt["transactionHash"] = params[0].clone();
                receipt
            }
            "eth_getLogs" => match self.number(&params[0]["fromBlock"]) {
                Some(number) => json!([place(number)]),
                None => json!([]),
            },
            _ => Value::Null,
        }
    }

    /// The number of a block that the node has.
    fn number(&self, block: &Value) -> Option<u64> {
        let height = self.height.get();
        let number = match block.as_str()? {
            "latest" => height,
            "safe" => height - SAFETY,
            "finalized" => height - FINALITY,
            number => u64::from_str_radix(number.strip_prefix("0x")?, 16).ok()?,
        };
        (number <= height).then_some(number)
    }

    fn block(&self, number: u64, hash: &str) -> Value {
        let parent = hash_text(self.chain.hash(self.branch.get(), number - 1));
        json!({"number": hex(number), "hash": hash, "parentHash": parent, "transactions": []})
    }
}

fn hex(number: u64) -> String {
    format!("{number:#x}")
}
