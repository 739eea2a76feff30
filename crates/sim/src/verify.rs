//! Checks that a node's methods agree with each other.
//!
//! Walks a range of blocks, requests their transactions, receipts and logs through every method that
//! returns them, and compares the answers. Nonces, contract code, fees and tags are checked as well.
//! The simulator's chains have no rewards and no internal transfers, so on a simulated node balances
//! of ether and tokens are checked exactly, too. The verifier uses plain HTTP, so that it also works
//! through a gateway. On a real chain, the range should end at a block that will not be replaced.
//!
//! It finds inconsistencies, not wrong answers: a node that is wrong consistently passes.
//!
//! # Layout
//! - this file: options, outcome, tags
//! - `walk`: one block
//! - `client`: the connection

mod client;
mod walk;

use std::io;

use serde_json::{Value, json};

use client::Client;

/// Maximum number of disagreements that are described; more are only counted.
const KEPT_MAX: usize = 100;

/// Options of a verification.
#[derive(Debug, Clone)]
pub struct Options {
    /// URL of the node, `http://…`.
    pub url: String,
    /// Headers of every request, such as `Target-Service-Id`.
    pub headers: Vec<(String, String)>,
    /// Number of blocks to walk; at least 1.
    pub blocks: u64,
    /// The last block: a tag or a hexadecimal number, such as `latest` or `0x10`.
    pub until: String,
}

/// The result of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Blocks walked.
    pub blocks: u64,
    /// Transactions in them.
    pub transactions: u64,
    /// Logs in them.
    pub logs: u64,
    /// Calls made.
    pub calls: u64,
    /// Comparisons made.
    pub checks: u64,
    /// Comparisons that failed.
    pub disagreements: u64,
    /// Descriptions of the first disagreements.
    pub shown: Vec<String>,
    /// Whether balances were checked, which requires a simulated node.
    pub balances: bool,
}

/// Why a verification could not be completed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The URL or a header is invalid.
    #[error("cannot connect to \"{url}\": {why}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// The node cannot be reached.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The connection failed.
    #[error("the connection failed")]
    Http(#[from] hyper::Error),
    /// A response was incomplete or too large.
    #[error("cannot read a response: {0}")]
    Body(String),
    /// The response is not JSON-RPC, or belongs to another call.
    #[error("the response to {method} is not JSON-RPC or has the wrong id (HTTP status {status})")]
    NotJsonRpc {
        /// The method.
        method: String,
        /// The status of the response.
        status: u16,
    },
    /// A call failed whose result is required to continue.
    #[error("{method} failed: {error}")]
    Failed {
        /// The method and its parameters.
        method: String,
        /// The error object, or what was unexpected.
        error: String,
    },
    /// The runtime cannot be created.
    #[error("cannot create a runtime")]
    System(#[source] io::Error),
}

/// Walks the blocks given by `options`. `progress` is called with the number of each finished block.
///
/// # Errors
/// The node cannot be reached or does not answer with JSON-RPC. Disagreements are not errors; they
/// are part of the outcome.
pub fn verify(options: &Options, progress: impl FnMut(u64)) -> Result<Outcome, VerifyError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(VerifyError::System)?.block_on(run(options, progress))
}

async fn run(options: &Options, mut progress: impl FnMut(u64)) -> Result<Outcome, VerifyError> {
    let client = Client::connect(&options.url, &options.headers).await?;
    let mut checker = Checker { client, outcome: Outcome::default(), chain_id: Value::Null };
    let version = checker.get("web3_clientVersion", json!([])).await;
    checker.outcome.balances = version
        .is_ok_and(|version| version.as_str().is_some_and(|v| v.starts_with("plimsoll-sim")));
    checker.chain_id = checker.get("eth_chainId", json!([])).await?;
    let net = checker.get("net_version", json!([])).await?;
    let decimal = number(&checker.chain_id).map(|id| id.to_string());
    checker.agree("net_version and eth_chainId", &net, &json!(decimal));
    let last = checker.get("eth_getBlockByNumber", json!([options.until, false])).await?;
    let failed = || VerifyError::Failed {
        method: format!("eth_getBlockByNumber({})", options.until),
        error: "there is no such block".into(),
    };
    let last = number(&last["number"]).ok_or_else(failed)? as u64;
    checker.tags().await?;
    for at in (last + 1).saturating_sub(options.blocks.max(1))..=last {
        checker.walk(at).await?;
        checker.outcome.blocks += 1;
        progress(at);
    }
    checker.outcome.calls = checker.client.calls();
    Ok(checker.outcome)
}

/// Parses a hexadecimal number of up to 128 bits.
fn number(value: &Value) -> Option<u128> {
    let digits = value.as_str()?.strip_prefix("0x")?;
    // The result of eth_call is a 32-byte word.
    let digits = if digits.len() == 64 { digits.trim_start_matches('0') } else { digits };
    if digits.is_empty() { Some(0) } else { u128::from_str_radix(digits, 16).ok() }
}

fn hex(number: u64) -> String {
    format!("{number:#x}")
}

struct Checker {
    client: Client,
    outcome: Outcome,
    chain_id: Value,
}

impl Checker {
    /// The result of a call that must succeed.
    async fn get(&mut self, method: &str, params: Value) -> Result<Value, VerifyError> {
        let answer = self.client.call(method, params.clone()).await?;
        answer.map_err(|error| VerifyError::Failed {
            method: format!("{method}{params}"),
            error: error.to_string(),
        })
    }

    /// The result of a call that should succeed; a failure is a disagreement.
    async fn ask(&mut self, method: &str, params: Value) -> Result<Value, VerifyError> {
        match self.client.call(method, params.clone()).await? {
            Ok(result) => Ok(result),
            Err(error) => {
                self.note(format!("{method}{params} failed: {error}"));
                Ok(Value::Null)
            }
        }
    }

    fn note(&mut self, what: String) {
        self.outcome.checks += 1;
        self.outcome.disagreements += 1;
        if self.outcome.shown.len() < KEPT_MAX {
            self.outcome.shown.push(what);
        }
    }

    fn agree(&mut self, what: &str, one: &Value, other: &Value) {
        self.outcome.checks += 1;
        if one != other {
            self.outcome.checks -= 1;
            let short = |value: &Value| {
                let text = value.to_string();
                text.chars().take(200).collect::<String>()
            };
            self.note(format!("{what}: {} != {}", short(one), short(other)));
        }
    }

    fn hold(&mut self, what: &str, holds: bool) {
        self.agree(what, &json!(holds), &json!(true));
    }

    /// Checks the order of the tags, eth_blockNumber and eth_syncing.
    async fn tags(&mut self) -> Result<(), VerifyError> {
        let mut heights = Vec::new();
        for tag in ["earliest", "finalized", "safe", "latest"] {
            // Some nodes do not support finality.
            if let Ok(block) = self.client.call("eth_getBlockByNumber", json!([tag, false])).await?
            {
                heights.extend(number(&block["number"]));
            }
        }
        self.hold("earliest, finalized, safe and latest are in order", heights.is_sorted());
        let head = self.get("eth_blockNumber", json!([])).await?;
        let latest = heights.last().copied().unwrap_or_default();
        self.hold("eth_blockNumber is not behind latest", number(&head) >= Some(latest));
        let syncing = self.ask("eth_syncing", json!([])).await?;
        self.hold("eth_syncing is false or an object", syncing == false || syncing.is_object());
        Ok(())
    }
}
