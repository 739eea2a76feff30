//! The error codes that JSON-RPC 2.0 reserves.
//!
//! Codes of a particular family of servers are defined with the code for that family.

/// The body is not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// The JSON is not a valid call.
pub const INVALID_REQUEST: i64 = -32600;
/// The server has no such method.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The parameters are invalid.
pub const INVALID_PARAMS: i64 = -32602;
/// The server failed.
pub const INTERNAL_ERROR: i64 = -32603;
