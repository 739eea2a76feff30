//! WebSocket (RFC 6455) without I/O: frames, messages and the opening handshake, of both sides.
//!
//! Knows no sockets, clocks and HTTP. Extensions are not supported: frames with reserved bits are
//! violations. Whatever the peer sends, a [`Reader`] holds at most one message, one control frame and the
//! head of one frame.
//!
//! # Layout
//! - `frame`: heads of frames, masking, writing frames
//! - `reader`: [`Reader`]: from bytes to messages
//! - `handshake`: the keys of the opening handshake; `sha1`: the hash that they need

mod frame;
mod handshake;
mod reader;
mod sha1;

pub use frame::{CONTROL_MAX, HEAD_MAX, Opcode, head_len, mask, put, put_close};
pub use handshake::{accept_of, key_of};
pub use reader::{Message, Reader, Role, Violation};
