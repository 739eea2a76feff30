//! The keys of the opening handshake (RFC 6455 §4).

use crate::sha1::sha1;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a server appends to the client's key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The value of `Sec-WebSocket-Key` of a client that has drawn these bytes.
pub fn key_of(random: [u8; 16]) -> String {
    STANDARD.encode(random)
}

/// The value of `Sec-WebSocket-Accept` with which a server answers this key.
pub fn accept_of(key: &str) -> String {
    STANDARD.encode(sha1(format!("{}{GUID}", key.trim()).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 §1.3.
    #[test]
    fn keys_of_the_specification() {
        assert_eq!(key_of(*b"the sample nonce"), "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
