//! Runs over several hosts: agents send parts of a plan, a coordinator starts them together and sums what
//! they count. They exchange messages through NATS JetStream; see docs/design/fleet.md.
//!
//! # Layout
//! - `message`: what agents and coordinator write to the run's log, in versioned wire forms
//! - `split`: which agent sends which shards of which stream
//! - `coordinator`: the coordinator as a fold over the log, and its decisions
//! - `agent`: an agent's side of a run
//! - `offset`: the offset between two hosts' clocks
//! - `allow`: which targets an agent may be asked to send to
//! - `unsent`: the arrivals of a lost agent
//! - `join`: the seconds of all agents as the seconds of one run
//! - [`nats`]: the log, the agents and the plans in NATS JetStream

mod agent;
mod allow;
mod coordinator;
mod join;
mod message;
pub mod nats;
mod offset;
#[cfg(test)]
mod simulation;
mod split;
mod unsent;

pub use agent::{Agent, AgentAction, Assignment, LATE_ORDER, READY_MAX, Readiness};
pub use allow::{AllowError, Allowed};
pub use coordinator::{
    Coordinator, CoordinatorAction, LOSS_AFTER, Member, MemberState, Outcome, PREPARE_MAX,
    RECORDS_MAX, TAKEOVER_AFTER,
};
pub use join::{join, join_agent};
pub use message::{
    Announcement, Entry, LogMessage, MemberOrder, Order, OrderKind, PROTOCOL, Problem, Records,
    Report, ReportKind, StoredRecords, Tick, WireError, decode_announcement, encode,
};
pub use offset::{ClockOffset, OffsetEstimate};
pub use split::{AgentLabels, Choice, choose, parts};
pub use unsent::{Owned, unsent};
