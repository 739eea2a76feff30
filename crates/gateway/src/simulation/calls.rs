//! The callers: they send the script's calls and record the answers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::node::{hash_of, number_of};
use super::script::{Arrival, Ask, TAGS};
use crate::call::message::{Answer, Body, JSON};
use crate::call::relay;
use crate::call::target::Target;
use crate::call::worker::Worker;
use crate::payload::Payload;

/// A call as its caller saw it.
#[derive(Clone, Debug)]
pub(super) struct CallRecord {
    pub(super) number: usize,
    pub(super) ask: Ask,
    pub(super) start: Duration,
    pub(super) end: Duration,
    pub(super) request: Value,
    /// `None` if the caller left.
    pub(super) answer: Option<Value>,
}

impl CallRecord {
    pub(super) fn is_eth_call(&self) -> bool {
        self.request["method"] == "eth_call"
    }
}

/// All callers.
pub(super) struct Callers {
    pub(super) start: Instant,
    pub(super) workers: Vec<Rc<Worker>>,
    pub(super) records: RefCell<Vec<CallRecord>>,
    /// The highest block that any caller has seen.
    highest: Cell<u64>,
}

impl Callers {
    pub(super) fn new(start: Instant, workers: Vec<Rc<Worker>>) -> Callers {
        Callers { start, workers, records: RefCell::default(), highest: Cell::new(1_000) }
    }

    fn now(&self) -> Duration {
        #[allow(clippy::disallowed_methods)] // the virtual clock
        Instant::now().duration_since(self.start)
    }

    /// Sends a call and records its answer.
    pub(super) async fn call(self: Rc<Callers>, number: usize, arrival: Arrival) {
        let request = self.request(number, arrival.ask);
        let start = self.now();
        let relayed = self.relay(number, &request);
        let answer = match arrival.leaves_after {
            None => Some(relayed.await),
            Some(span) => tokio::time::timeout(span, relayed).await.ok(),
        };
        let end = self.now();
        if let Some(height) = answer.as_ref().and_then(height) {
            self.highest.set(self.highest.get().max(height));
        }
        let record = CallRecord { number, ask: arrival.ask, start, end, request, answer };
        self.records.borrow_mut().push(record);
    }

    fn request(&self, number: usize, ask: Ask) -> Value {
        let (method, params) = match ask {
            Ask::Echo => ("eth_call", json!([{ "data": number }, "latest"])),
            Ask::Reverting => ("eth_call", json!([{ "data": "revert" }, "latest"])),
            Ask::BlockNumber => ("eth_blockNumber", json!([])),
            Ask::Tagged(tag) => ("eth_getBlockByNumber", json!([TAGS[tag], false])),
            Ask::Numbered => {
                let number = self.highest.get() - number as u64 % 12;
                ("eth_getBlockByNumber", json!([format!("{number:#x}"), false]))
            }
            Ask::Pending => ("eth_getTransactionReceipt", json!([format!("{number:#066x}")])),
            Ask::ChainId => ("eth_chainId", json!([])),
            Ask::Send => ("eth_sendRawTransaction", json!([transaction(number)])),
            Ask::Nonce => ("eth_getTransactionCount", json!([SENDER, "pending"])),
        };
        json!({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
    }

    async fn relay(&self, number: usize, request: &Value) -> Value {
        let worker = &self.workers[number % self.workers.len()];
        let view = worker.view();
        let service = view.routing.service("sim").expect("the service").clone();
        let target = Target::of(worker, &view, &service);
        let text = request.to_string();
        let mut answer = Answer::new(200, JSON, Vec::new());
        relay::answer(&target, &Body::Short(text.as_bytes()), &mut answer).await;
        let Payload::Whole(body) = &answer.body else { panic!("answers are short") };
        let answered = serde_json::from_slice(body).expect("an answer is JSON");
        answer.settlement.settle(body.len() as u64, true);
        answered
    }
}

/// A sender of transactions.
const SENDER: &str = "0x00000000000000000000000000000000000000aa";

/// A raw transaction; it need not be valid, because the nodes do not look into it.
fn transaction(number: usize) -> String {
    format!("0x02{number:062x}")
}

/// The height that an answer shows.
pub(super) fn height(answer: &Value) -> Option<u64> {
    let result = &answer["result"];
    number_of(if result.is_string() { result } else { &result["number"] })
}

/// The result that a send must have.
pub(super) fn sent_hash(request: &Value) -> String {
    hash_of(request["params"][0].as_str().unwrap_or_default())
}
