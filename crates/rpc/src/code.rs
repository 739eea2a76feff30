//! The error codes that JSON-RPC 2.0 reserves, by name.
//!
//! Codes that only one family of servers uses stand with that family, not here.

/// The body is no JSON.
pub const PARSE_ERROR: i64 = -32700;
/// The JSON is no call.
pub const INVALID_REQUEST: i64 = -32600;
/// The server has no such method.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The method does not take these parameters.
pub const INVALID_PARAMS: i64 = -32602;
/// The server failed for reasons of its own.
pub const INTERNAL_ERROR: i64 = -32603;
