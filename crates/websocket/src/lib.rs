//! WebSocket (RFC 6455) without I/O: frames, messages and the opening handshake, of both sides.
//!
//! Knows no sockets, clocks and HTTP. The only extension is permessage-deflate (RFC 7692); frames with other
//! reserved bits, or of connections on which it was not agreed, are violations. Whatever the peer sends, a
//! [`Reader`] holds at most one message, one control frame and the head of one frame.
//!
//! # Layout
//! - `frame`: heads of frames, masking, writing frames
//! - `reader`: [`Reader`]: from bytes to messages
//! - `deflate`: compressed messages; `extension`: agreeing on compression
//! - `handshake`: the keys of the opening handshake; `sha1`: the hash that they need

mod deflate;
mod extension;
mod frame;
mod handshake;
mod reader;
mod sha1;

pub use deflate::{COMPRESSED_MIN, Deflate, Inflate};
pub use extension::{BadReply, COMPRESSION, accept_compression, check_compression};
pub use frame::{CONTROL_MAX, HEAD_MAX, Opcode, head_len, mask, put, put_close, put_compressed};
pub use handshake::{accept_of, key_of};
pub use reader::{Message, Reader, Role, Violation};
