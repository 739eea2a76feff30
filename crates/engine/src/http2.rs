//! HTTP/2 (RFC 9113) without I/O: frames, header compression, heads of responses.
//!
//! # Layout
//! - `frame`: frames and error codes
//! - `hpack`: decodes header blocks; `huffman`, `table`: its code and its tables
//! - `encode`: encodes the heads of requests
//! - `head`: the head of a response
//!
//! Our own, because the client's share of an exchange is what this engine is for: see
//! `docs/design/connections.md` for a comparison with the `h2` crate.

pub(crate) mod encode;
pub(crate) mod frame;
pub(crate) mod head;
pub(crate) mod hpack;
mod huffman;
mod table;
