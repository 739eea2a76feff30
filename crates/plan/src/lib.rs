//! The plan: which requests are sent where and how often, which answers are expected, and the schedule.
//!
//! Pure: opens no sockets and reads no clock; the only files it reads are those named by a plan. The same
//! plan and seed give the same requests at the same instants, however the work is split.
//!
//! # Layout
//! - `domain`: keys derived from the seed, one per kind of random choice
//! - `document`: parses a plan file into a [`Plan`] and reports all problems at once
//! - `target`: [`Target`], [`RequestSpec`], [`Expect`]: requests and expected answers
//! - `url`: [`Url`], [`Origin`], and how redirects resolve
//! - `target_file`: reads requests from files in vegeta's formats
//! - `template`: [`Template`]: placeholders such as `{{seq}}`
//! - `objective`: [`Objective`]: `latency.p99 < 250ms`
//! - `profile`: [`Profile`]: a rate over time, its integral and the inverse
//! - `schedule`: [`Schedule`], [`Pacer`]: the open model's arrivals, by shard; [`Users`]: the closed model
//! - `part`: [`Part`]: the shards of each stream that a worker or an agent sends
//! - `deck`: [`Deck`]: exact weights
//! - `show`: the resolved plan as TOML; `describe`: as text

mod deck;
mod describe;
mod document;
mod domain;
mod objective;
mod part;
mod profile;
mod schedule;
mod show;
mod stream;
mod target;
pub mod target_file;
mod template;
mod url;

pub use deck::{Card, Deck};
pub use document::{
    Argument, Charted, ConnectionRules, CostRules, DefaultHeaders, FleetRules, Http2Rules, Log,
    LogSource, OnAgentLoss, Pattern, Plan, Protocol, RelaysFrom, SEED_MAX, Scrape, ScrapeSource,
    SecretsFrom, TargetStream, TimeoutFrom, TlsRules, WebSocketRules, is_redundant_header,
};
// Re-exported so that reading a plan needs no other crate.
pub use objective::{Metric, Objective, Operator, TimeKind, TimeStat, Unit, unknown_name};
pub use part::Part;
pub use plimsoll_config::{Document, Secrets, Variables, money, without_secrets};
pub use profile::{Profile, Stage};
pub use schedule::{Arrival, Pacer, SHARDS, Schedule, Shards, Users};
pub use stream::{Arrivals, End, Load, Schedules, Sockets, Stream};
pub use target::{
    Body, Expect, Header, RequestSpec, RpcExpect, Standing, StatusRange, Target, Topic,
};
pub use template::{Template, Values};
pub(crate) use url::go_escaped;
pub use url::{Origin, Scheme, Url, percent_encode};
