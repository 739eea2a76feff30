//! Checks that what a node says with one method it says with all others.
//!
//! Each block of a range is walked: its transactions, receipts and logs are asked for in every way
//! there is, and all answers must agree; nonces, contracts' code, fees and tags too. Of a node of
//! this simulator, which has no rewards and no inner calls, balances of ether and tokens are checked
//! to the last unit as well. It speaks plain HTTP, so that it can be pointed at a gateway; there the
//! range should end at a block that will not be replaced.
//!
//! It finds disagreement, not falsehood: a node that lies in the same way everywhere passes.
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

/// Disagreements that are kept in words; more are only counted.
const KEPT_MAX: usize = 100;

/// What to check.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the node is, `http://…`.
    pub url: String,
    /// Headers of every request, such as `Target-Service-Id`.
    pub headers: Vec<(String, String)>,
    /// How many blocks to walk; at least 1.
    pub blocks: u64,
    /// The last of them: a tag or a number as the node reads it, `latest` or `0x10`.
    pub until: String,
}

/// What was found.
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
    /// How many of them failed.
    pub disagreements: u64,
    /// The first of those, in words.
    pub shown: Vec<String>,
    /// Whether balances were checked, too: the node is a simulator's.
    pub balances: bool,
}

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The address makes no sense.
    #[error("cannot ask \"{url}\": {why}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// Nobody answers there.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// The connection broke.
    #[error("the connection broke")]
    Http(#[from] hyper::Error),
    /// A response was too large or broke off.
    #[error("a response broke off: {0}")]
    Body(String),
    /// The answer is no JSON-RPC, or another call's.
    #[error("the answer to {method} is no JSON-RPC answer to it (HTTP status {status})")]
    NotJsonRpc {
        /// The call.
        method: String,
        /// The status of the response.
        status: u16,
    },
    /// A call that everything else rests on failed.
    #[error("{method} failed: {error}")]
    Failed {
        /// The call.
        method: String,
        /// The error object, or what was unexpected.
        error: String,
    },
    /// The system gave no runtime.
    #[error("cannot start")]
    System(#[source] io::Error),
}

/// Walks the blocks that `options` name. `progress` is told each block's number when it is done.
///
/// # Errors
/// The node cannot be reached or does not speak JSON-RPC. Disagreements are no error: they are the
/// outcome.
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

/// A number as nodes write it; `None` when it is none of 128 bits.
fn number(value: &Value) -> Option<u128> {
    let digits = value.as_str()?.strip_prefix("0x")?;
    // Words of 32 bytes hold numbers, too.
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
            self.note(format!("{what}: {} against {}", short(one), short(other)));
        }
    }

    fn hold(&mut self, what: &str, holds: bool) {
        self.agree(what, &json!(holds), &json!(true));
    }

    /// Tags stand in their order, and a height, a hash and EIP-1898 objects name the same state.
    async fn tags(&mut self) -> Result<(), VerifyError> {
        let mut heights = Vec::new();
        for tag in ["earliest", "finalized", "safe", "latest"] {
            // Some nodes know no finality.
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
