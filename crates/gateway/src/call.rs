//! A call: its permit, its route, its attempts, and the check of its answer.

mod admission;
pub(crate) mod attempt;
mod batch;
pub(crate) mod cached;
pub(crate) mod chain;
mod dispatch;
pub(crate) mod export;
pub(crate) mod forwarded;
pub(crate) mod heads;
pub(crate) mod health;
pub(crate) mod judge;
mod lateness;
pub(crate) mod message;
mod overload;
pub(crate) mod parse;
pub(crate) mod passed;
pub(crate) mod prefetch;
pub(crate) mod records;
pub(crate) mod relay;
pub(crate) mod rest;
pub(crate) mod routing;
mod send;
pub(crate) mod shared_heads;
pub(crate) mod target;
mod together;
pub(crate) mod trace;
pub(crate) mod worker;
