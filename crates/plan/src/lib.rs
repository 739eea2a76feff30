//! The plan: what is sent where, how often, and what is expected. And the arithmetic of when.
//!
//! Pure: it opens no socket, reads no clock, and the only files it reads are those a plan names.
//! The same plan and seed give the same requests at the same instants, however the work is split.
//!
//! # Layout
//! - `domain`: the parts of the seed's tree, each random choice its own
//! - `document`: a plan file to a [`Plan`], all problems at once
//! - `target`: [`Target`], [`RequestSpec`], [`Url`], [`Origin`], [`Expect`]: what is sent, and what its answer must be
//! - `target_file`: requests from a file of vegeta's formats
//! - `template`: [`Template`]: `{{seq}}` and the like
//! - `objective`: [`Objective`]: `latency.p99 < 250ms`
//! - `profile`: [`Profile`]: a rate over time, its integral and the inverse
//! - `schedule`: [`Schedule`], [`Pacer`]: the open model's arrivals, by shard; [`Users`]: the closed
//! - `deck`: [`Deck`]: exact weights
//! - `show`: the resolved plan as TOML; `describe`: in words

mod deck;
mod describe;
mod document;
mod domain;
mod objective;
mod profile;
mod schedule;
mod show;
mod stream;
mod target;
pub mod target_file;
mod template;

pub use deck::{Dealt, Deck};
pub use document::{ConnectionRules, Plan, SEED_MAX, Scrape, TlsRules};
// Part of a plan's public types: reading a plan needs no other crate.
pub use objective::{Metric, Objective, Operator, TimeKind, TimeStat, Unit};
pub use plimsoll_config::{Document, Variables};
pub use profile::{Profile, Stage};
pub use schedule::{Arrival, Pacer, SHARDS, Schedule, Shards, Users};
pub use stream::{Arrivals, End, Load, Schedules, Stream};
pub use target::{
    Body, Expect, Header, Origin, RequestSpec, RpcExpect, Scheme, StatusRange, Target, Url,
};
pub use template::{Template, Values};
