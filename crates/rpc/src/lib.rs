//! JSON-RPC parsing: requests, responses, and whether a response answers a request.
//!
//! These functions are on the hot path of the load engine and of the gateway. They borrow from the
//! input, build no tree, copy only strings with escapes, and do not recurse. They do not deal with
//! transports, chains and policies.
//!
//! # Layout
//!
//! - [`json`]: validates JSON text and splits it into spans
//! - [`request`]: parses a request body into calls, each validated separately
//! - [`answer`]: parses a response object into a result or an error
//! - [`loose`]: parses a response object from a server that violates JSON-RPC
//! - [`judge`]: checks whether a response body answers a request body
//! - [`method`]: the methods of Ethereum nodes, and their classes
//! - [`code`]: the error codes that JSON-RPC 2.0 reserves

pub mod answer;
pub mod code;
pub mod json;
pub mod judge;
pub mod loose;
pub mod method;
pub mod request;
