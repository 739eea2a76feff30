//! Categories of upstreams' error objects, independent of vendors' error codes.
//!
//! Nodes and gateways use the same codes for different things: -32012, -32014, -32015 and -32016
//! mean "range too large, missing data, node timeout, unauthorized" at one gateway and "over
//! capacity, batch too large, gateway timeout, rate limited" at another. So an error is categorized
//! by its message, then by its code if that code has only one meaning, and otherwise as `other`.
//!
//! Reverts are checked first: the message of a revert is chosen by the contract's author, so "rate
//! limit exceeded" in it is not an upstream's limit.
//!
//! A category decides whether another upstream may do better and whose fault the error is. An error
//! whose code is ambiguous gets the code of [`Category::code`]; the rest of the object is kept, and
//! the vendor's code is added as `upstream_code`. Every other error is forwarded byte for byte.

pub mod block_param;
pub mod send_error;

use plimsoll_rpc::json;

use crate::error::Fault;

/// The category of an upstream's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// Logs or blocks over a larger range than the upstream allows.
    RangeTooLarge,
    /// The upstream's own limit on calls: rate, quota, capacity.
    RateLimited,
    /// The upstream does not accept the gateway's credentials.
    Unauthorized,
    /// The upstream does not have the data: pruned, not synced, not yet there.
    MissingData,
    /// The contract reverted.
    Reverted,
    /// The transaction is already known: an earlier send succeeded.
    AlreadyKnown,
    /// The transaction's nonce is already used or too high.
    Nonce,
    /// The sender has insufficient funds.
    Funds,
    /// The transaction's fee is too low.
    Underpriced,
    /// The upstream does not support the method.
    UnsupportedMethod,
    /// The upstream itself timed out.
    Timeout,
    /// The answer or the request is too large for the upstream.
    TooLarge,
    /// The upstream is temporarily unavailable.
    Unavailable,
    /// The parameters are invalid for the method.
    InvalidParams,
    /// The upstream considers the request invalid.
    InvalidRequest,
    /// An internal error of the upstream.
    Internal,
    /// Anything else.
    Other,
}

struct Rule {
    category: Category,
    /// A message that contains any of these, in lower case, is in the category.
    phrases: &'static [&'static str],
    /// Codes that have only this meaning at every vendor.
    codes: &'static [i64],
}

/// All phrases are checked in this order, then all codes.
const RULES: &[Rule] = &[
    Rule {
        category: Category::RangeTooLarge,
        phrases: &[
            "block range",
            "range is too large",
            "range too large",
            "range limit",
            "too many results",
            "query returned more than",
            "exceeds max results",
            "logs matched",
            "maximum range",
            "max range",
            "exceed maximum block",
        ],
        codes: &[],
    },
    Rule {
        category: Category::RateLimited,
        phrases: &[
            "rate limit",
            "rate-limit",
            "ratelimit",
            "too many requests",
            "request limit",
            "quota",
            "exceeded its compute units",
            "compute units per second",
            "over capacity",
            "credits",
            "throughput limit",
            "requests per second",
        ],
        codes: &[-32005, 429],
    },
    Rule {
        category: Category::Unauthorized,
        phrases: &[
            "unauthorized",
            "unauthorised",
            "invalid api key",
            "api key is",
            "forbidden",
            "must be authenticated",
            "authentication failed",
            "invalid token",
        ],
        codes: &[401, 403],
    },
    Rule {
        category: Category::MissingData,
        phrases: &[
            "missing trie node",
            "header not found",
            "block not found",
            "unknown block",
            "state not available",
            "state is not available",
            "no state available",
            "pruned",
            "historical state",
            "cannot find block",
            "block is not yet available",
            "not been synced",
            "missing data",
            "state already",
            "requested data is not available",
        ],
        codes: &[-32001],
    },
    Rule {
        category: Category::Reverted,
        phrases: &["execution reverted", "vm exception while processing transaction", "reverted"],
        codes: &[],
    },
    Rule { category: Category::AlreadyKnown, phrases: &send_error::KNOWN, codes: &[] },
    Rule {
        category: Category::Nonce,
        phrases: &["nonce too low", "nonce too high", "nonce is too", "invalid nonce"],
        codes: &[],
    },
    Rule {
        category: Category::Funds,
        phrases: &["insufficient funds", "insufficient balance", "exceeds the balance"],
        codes: &[],
    },
    Rule {
        category: Category::Underpriced,
        phrases: &["underpriced", "fee too low", "less than block base fee", "fee cap less than"],
        codes: &[],
    },
    Rule {
        category: Category::UnsupportedMethod,
        phrases: &[
            "method not found",
            "method not supported",
            "unsupported method",
            "not whitelisted",
            "does not exist/is not available",
            "method is not available",
            "unknown method",
        ],
        codes: &[-32601, -32004],
    },
    Rule {
        category: Category::Timeout,
        phrases: &["timeout", "timed out", "deadline exceeded"],
        codes: &[408, 504],
    },
    Rule {
        category: Category::TooLarge,
        phrases: &[
            "response size",
            "response is too",
            "response too large",
            "request too large",
            "body too large",
            "entity too large",
        ],
        codes: &[413],
    },
    Rule {
        category: Category::Unavailable,
        phrases: &[
            "no backend",
            "backend is",
            "unhealthy",
            "service unavailable",
            "is syncing",
            "temporarily unavailable",
            "node is not",
            "bad gateway",
            "no available",
        ],
        codes: &[-32002, -31001, -31002, 502, 503],
    },
    Rule { category: Category::InvalidParams, phrases: &[], codes: &[-32602] },
    Rule { category: Category::InvalidRequest, phrases: &[], codes: &[-32600, -32700] },
    Rule { category: Category::Internal, phrases: &[], codes: &[-32603, 500] },
];

/// Words that precede the meaning of an error: Hardhat's and some clients'.
const PREFIXES: [&str; 3] = ["error: ", "evm: ", "rpc error: "];

/// Phrases that mean a revert wherever they are. What follows them is the contract's.
const REVERTS: [&str; 5] = [
    "execution reverted",
    "transaction reverted",
    "transaction: revert",
    "vm exception while",
    // Nethermind's and Erigon's
    "vm execution error",
];

/// Whether an error is a revert: code 3 (geth and most others), or a message in lower case that
/// starts with a word for a revert, after [`PREFIXES`], or contains one of [`REVERTS`] before any
/// quotation and before any phrase with another meaning. So a limit whose message mentions a revert
/// stays a limit, and a contract's message cannot imitate a limit.
fn is_revert(code: i64, message: &str) -> bool {
    let mut message = message.trim_start_matches(['"', ' ']);
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| message.strip_prefix(prefix)) {
        message = rest.trim_start();
    }
    let starts_with_word = |word: &str| {
        let rest = message.strip_prefix(word);
        rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric()))
    };
    code == 3
        || ["revert", "reverted"].into_iter().any(starts_with_word)
        || is_revert_first(message)
}

/// Whether one of [`REVERTS`] comes before any quotation and any phrase with another meaning.
fn is_revert_first(message: &str) -> bool {
    let message = &message[..message.find(['"', '\'']).unwrap_or(message.len())];
    let Some(at) = REVERTS.iter().filter_map(|phrase| message.find(phrase)).min() else {
        return false;
    };
    let others = RULES.iter().take_while(|rule| rule.category != Category::Reverted);
    !others.flat_map(|rule| rule.phrases).any(|phrase| message[..at].contains(phrase))
}

/// The start of a raw message in lower case, with JSON's escapes decoded.
fn plain_start(message: &[u8]) -> String {
    /// The longest escape, of a character in two parts.
    const ESCAPE_MAX: usize = 12;
    let start = &message[..message.len().min(MESSAGE_MAX)];
    let inner = start.strip_prefix(b"\"").unwrap_or(start);
    let inner = if start.len() == message.len() {
        inner.strip_suffix(b"\"").unwrap_or(inner)
    } else {
        inner
    };
    // The end may cut an escape or a character.
    let decoded = (0..=ESCAPE_MAX).find_map(|cut| {
        let text = [b"\"", inner.get(..inner.len().checked_sub(cut)?)?, b"\""].concat();
        json::text(&text).map(|text| text.to_ascii_lowercase())
    });
    decoded.unwrap_or_else(|| String::from_utf8_lossy(inner).to_ascii_lowercase())
}

/// Only the first bytes of a message are examined; vendors put the reason first.
const MESSAGE_MAX: usize = 512;

impl Category {
    /// All variants, in declaration order.
    pub const ALL: [Category; 17] = [
        Category::RangeTooLarge,
        Category::RateLimited,
        Category::Unauthorized,
        Category::MissingData,
        Category::Reverted,
        Category::AlreadyKnown,
        Category::Nonce,
        Category::Funds,
        Category::Underpriced,
        Category::UnsupportedMethod,
        Category::Timeout,
        Category::TooLarge,
        Category::Unavailable,
        Category::InvalidParams,
        Category::InvalidRequest,
        Category::Internal,
        Category::Other,
    ];

    /// Categorizes an error by its code and its raw message, with or without quotation marks.
    pub fn of(code: i64, message: &[u8]) -> Category {
        let message = plain_start(message);
        if is_revert(code, &message) {
            return Category::Reverted;
        }
        let has_phrase =
            |rule: &&Rule| rule.phrases.iter().any(|phrase| send_error::contains(&message, phrase));
        let found = RULES.iter().find(has_phrase);
        let found = found.or_else(|| RULES.iter().find(|rule| rule.codes.contains(&code)));
        found.map_or(Category::Other, |rule| rule.category)
    }

    /// The category of an error that came with this HTTP status: 429 means rate limited, and 401
    /// and 403 mean unauthorized if the message does not say anything more specific.
    pub(crate) fn with_status(self, status: u16) -> Category {
        match (status, self) {
            (_, Category::Reverted) => self,
            (429, _) => Category::RateLimited,
            (401 | 403, Category::Other | Category::Internal | Category::InvalidRequest) => {
                Category::Unauthorized
            }
            _ => self,
        }
    }

    /// The name in metrics and documents.
    pub fn word(self) -> &'static str {
        match self {
            Category::RangeTooLarge => "range_too_large",
            Category::RateLimited => "rate_limited",
            Category::Unauthorized => "unauthorized",
            Category::MissingData => "missing_data",
            Category::Reverted => "reverted",
            Category::AlreadyKnown => "already_known",
            Category::Nonce => "nonce",
            Category::Funds => "funds",
            Category::Underpriced => "underpriced",
            Category::UnsupportedMethod => "unsupported_method",
            Category::Timeout => "timeout",
            Category::TooLarge => "too_large",
            Category::Unavailable => "unavailable",
            Category::InvalidParams => "invalid_params",
            Category::InvalidRequest => "invalid_request",
            Category::Internal => "internal",
            Category::Other => "other",
        }
    }

    /// Whether another upstream may do better.
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Category::RateLimited
                | Category::MissingData
                | Category::UnsupportedMethod
                | Category::Timeout
                | Category::Unavailable
                | Category::Internal
        )
    }

    /// Whether callers can cause the error at will, so that it says nothing about the upstream and
    /// is not logged.
    pub(crate) fn is_callers_choice(self) -> bool {
        matches!(self, Category::UnsupportedMethod | Category::MissingData)
    }

    /// Whose fault the error is.
    pub fn fault(self) -> Fault {
        match self {
            Category::RangeTooLarge
            | Category::Reverted
            | Category::AlreadyKnown
            | Category::Nonce
            | Category::Funds
            | Category::Underpriced
            | Category::TooLarge
            | Category::InvalidParams
            | Category::InvalidRequest => Fault::Caller,
            Category::Unauthorized => Fault::Gateway,
            _ => Fault::Upstream,
        }
    }

    /// The code to answer with instead of `code`, if vendors use `code` for different things.
    pub fn normalized_code(self, code: i64) -> Option<i64> {
        // Clients recognize reverts by their data, under any of these codes.
        let is_ambiguous = matches!(code, -32029..=-32010 | 400..=599);
        (is_ambiguous && self != Category::Reverted).then_some(self.code())
    }

    /// The JSON-RPC code of the category.
    pub fn code(self) -> i64 {
        match self {
            Category::RangeTooLarge | Category::RateLimited | Category::TooLarge => -32005,
            Category::MissingData => -32001,
            Category::UnsupportedMethod => -32601,
            Category::InvalidParams => -32602,
            Category::InvalidRequest => -32600,
            Category::Internal => -32603,
            Category::Unauthorized | Category::Timeout | Category::Unavailable => -32002,
            Category::Reverted => 3,
            _ => -32000,
        }
    }
}

#[cfg(test)]
mod tests;
