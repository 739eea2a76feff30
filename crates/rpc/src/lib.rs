//! JSON-RPC bytes: what a request asks for, what a response answers, and whether the one fits the
//! other.
//!
//! Everything here borrows from the bytes it is given. Nothing is built, nothing is copied unless a
//! string holds escapes, and nothing recurses: these functions stand on the hot path of the load
//! engine and of the gateway. They know no transport, no chain and no policy.
//!
//! # Layout
//!
//! - [`json`]: validates JSON text and cuts it into spans
//! - [`request`]: a request body as calls, each judged by itself
//! - [`answer`]: a response object as result or error
//! - [`loose`]: a response object from a server that does not follow JSON-RPC to the letter
//! - [`judge`]: whether a response body answers a request body
//! - [`method`]: the methods that Ethereum's nodes know, and of what class each is
//! - [`code`]: the error codes that JSON-RPC 2.0 reserves

pub mod answer;
pub mod code;
pub mod json;
pub mod judge;
pub mod loose;
pub mod method;
pub mod request;
