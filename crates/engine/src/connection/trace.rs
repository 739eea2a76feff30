//! The bytes of whole exchanges, for people to read.

/// The bytes of one exchange.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) request: Traced,
    pub(crate) response: Traced,
}

/// Maximum number of bytes of a request or a response in a trace.
const TRACED_MAX: usize = 16 << 10;

/// The bytes of a request or a response, up to a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traced {
    /// The first 16 KiB.
    pub bytes: Vec<u8>,
    /// The number of bytes after these.
    pub more: u64,
}

impl Traced {
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        let room = bytes.len().min(TRACED_MAX - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..room]);
        self.more += (bytes.len() - room) as u64;
    }
}
