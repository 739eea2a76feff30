//! Targets: requests, and the answers expected to them.

use crate::{Origin, Template, Url};
use plimsoll_config::{REDACTED, Secrets, Text};
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

/// A header of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name, as sent.
    pub name: String,
    /// Its value.
    pub value: Template,
    /// The value without secrets, for display.
    pub shown: String,
    /// Whether the value is a secret: its name suggests one, or it contains a secret variable.
    pub secret: bool,
}

/// A request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// No body.
    Empty,
    /// Written in the plan.
    Inline(Text, Template),
    /// From a file; placeholders are replaced if it is text.
    File(PathBuf, Template),
    /// Binary data, sent unchanged.
    Bytes(Template),
}

impl Body {
    /// The bytes, with placeholders.
    pub fn template(&self) -> Option<&Template> {
        match self {
            Body::Empty => None,
            Body::Inline(_, template) | Body::File(_, template) | Body::Bytes(template) => {
                Some(template)
            }
        }
    }
}

/// An inclusive range of HTTP statuses.
pub type StatusRange = RangeInclusive<u16>;

/// The expected JSON-RPC answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RpcExpect {
    /// The body is not inspected.
    Off,
    /// A result.
    Result,
    /// An error, for requests that should be rejected.
    Error,
    /// A well-formed result or error.
    Any,
}

impl RpcExpect {
    /// As written in a plan.
    pub const WORDS: [(&'static str, RpcExpect); 4] = [
        ("result", RpcExpect::Result),
        ("error", RpcExpect::Error),
        ("any", RpcExpect::Any),
        ("off", RpcExpect::Off),
    ];
}

/// Conditions for an answer to count as `ok`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// Accepted HTTP statuses.
    pub status: Vec<StatusRange>,
    /// The expected JSON-RPC answer.
    pub rpc: RpcExpect,
    /// A string that the body must contain.
    pub contains: Option<String>,
}

impl Expect {
    /// Whether a status is accepted.
    #[inline]
    pub fn allows(&self, status: u16) -> bool {
        self.status.iter().any(|range| range.contains(&status))
    }

    /// Whether the body must be inspected.
    pub fn reads_body(&self) -> bool {
        self.rpc != RpcExpect::Off || self.contains.is_some()
    }
}

/// One request template, or several that are sent in turn, under one name.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name in the report; unique in the plan.
    pub name: String,
    /// Index of its stream in the plan.
    pub stream: usize,
    /// Share relative to the stream's other targets; zero: never sent.
    pub weight: u32,
    /// Its own tags and its stream's labels.
    pub tags: BTreeMap<String, String>,
    /// Indices of its requests in the plan; at least one.
    pub requests: Range<usize>,
    /// If its requests come from a file and are too large for the resolved plan: the lines of TOML that
    /// name the file.
    pub(crate) file: Option<String>,
}

impl Target {
    /// Whether its requests are in a file because they are too large for the resolved plan.
    pub fn is_in_file(&self) -> bool {
        self.file.is_some()
    }
}

/// One request template.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestSpec {
    /// The method, as it is sent; of a call over WebSocket, `WS`.
    pub method: String,
    /// The URL.
    pub url: Url,
    /// The URL without secrets, for display.
    pub url_shown: String,
    /// The URL as written, with secrets: for results that must contain what was sent.
    pub url_written: String,
    /// Path and query, with placeholders.
    pub path: Template,
    /// Sorted by name; headers of the same name are in the order of the plan.
    pub headers: Vec<Header>,
    /// The body.
    pub body: Body,
    /// Whether the body is sent in chunked encoding instead of with its length.
    pub chunked: bool,
    /// The expected answer.
    pub expect: Expect,
    /// Whether its WebSocket is opened with an offer of compression.
    pub compression: bool,
    /// What it opens, if that stays open until the end of its stream.
    pub standing: Option<Standing>,
}

/// An exchange that stays open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A WebSocket on which nothing is sent.
    Socket,
    /// A subscription over a WebSocket; the body is the call.
    Subscription {
        /// What it is about.
        topic: Topic,
        /// The method that ends it, as JSON.
        unsubscribe: Option<String>,
        /// As it is written in a plan: a table.
        shown: String,
    },
    /// An event stream over HTTP.
    Events {
        /// Whether the ids of its events are consecutive numbers, so that missing ones are gaps.
        numbered: bool,
    },
}

/// What a subscription is about, which determines what can be said of its notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Block headers, one for each number.
    Heads,
    /// Logs: any number for a block.
    Logs,
    /// Anything else.
    Other,
}

impl RequestSpec {
    /// The endpoint of its connections.
    pub fn origin(&self) -> Origin {
        Origin { stays_open: self.standing.is_some(), ..self.url.origin() }
    }

    /// Whether it may be sent once more if it may have reached the target: its method is idempotent
    /// (RFC 9110 §9.2.2), or it has an `Idempotency-Key`.
    pub fn is_replayable(&self) -> bool {
        const KEYS: [&str; 2] = ["idempotency-key", "x-idempotency-key"];
        ["GET", "HEAD", "OPTIONS", "TRACE"].contains(&self.method.as_str())
            || self.headers.iter().any(|h| KEYS.contains(&h.name.to_ascii_lowercase().as_str()))
    }

    /// Whether the URL or a header has `[redacted]` in place of a secret.
    pub(crate) fn sends_redacted(&self) -> bool {
        let is_redacted = |text: &[u8]| String::from_utf8_lossy(text).contains(REDACTED);
        let user = self.url.user.iter().flat_map(|(name, password)| [name, password]);
        let templates = self.headers.iter().map(|header| &header.value).chain([&self.path]);
        user.map(String::as_bytes).any(is_redacted)
            || templates.flat_map(Template::texts).any(is_redacted)
    }

    /// The secrets that it sends and that come from no variable: those of its URL, and its secret headers.
    pub fn add_secrets(&self, secrets: &mut Secrets) {
        if let Some((name, password)) = &self.url.user {
            secrets.add(if password.is_empty() { name } else { password });
            secrets.add(&format!("{name}:{password}"));
        }
        for text in self.path.texts() {
            secrets.add_url(&String::from_utf8_lossy(text));
        }
        let hidden = self.headers.iter().filter(|header| header.secret);
        for text in hidden.flat_map(|header| header.value.texts()) {
            secrets.add_header(&String::from_utf8_lossy(text));
        }
    }
}

impl Target {
    /// The index in the plan of the request for the target's card `number`.
    #[inline]
    pub fn request(&self, number: u64) -> usize {
        match self.requests.len() {
            1 => self.requests.start,
            several => self.requests.start + (number % several as u64) as usize,
        }
    }
}
