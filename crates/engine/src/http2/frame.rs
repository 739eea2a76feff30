//! Frames (RFC 9113 §4).

/// The length of a frame's head.
pub(crate) const HEAD_LEN: usize = 9;
/// Maximum length of a frame's payload, in both directions: the default of the specification.
pub(crate) const PAYLOAD_MAX: usize = 16_384;
/// The first bytes of a connection.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The window of streams and connections unless the settings say otherwise.
pub(crate) const WINDOW_DEFAULT: i64 = 65_535;
/// The largest window.
pub(crate) const WINDOW_MAX: i64 = (1 << 31) - 1;
/// The largest stream number.
pub(crate) const STREAM_MAX: u32 = (1 << 31) - 1;

/// Types of frames.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(crate) mod flag {
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Names of settings.
pub(crate) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Error codes (RFC 9113 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u32);

impl Code {
    pub(crate) const NO_ERROR: Code = Code(0);
    pub(crate) const PROTOCOL_ERROR: Code = Code(1);
    pub(crate) const FLOW_CONTROL_ERROR: Code = Code(3);
    pub(crate) const STREAM_CLOSED: Code = Code(5);
    pub(crate) const FRAME_SIZE_ERROR: Code = Code(6);
    pub(crate) const REFUSED_STREAM: Code = Code(7);
    pub(crate) const CANCEL: Code = Code(8);
    pub(crate) const COMPRESSION_ERROR: Code = Code(9);
    pub(crate) const ENHANCE_YOUR_CALM: Code = Code(11);

    /// The name in the specification.
    pub(crate) fn name(self) -> &'static str {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        NAMES.get(self.0 as usize).copied().unwrap_or("an unknown code")
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) len: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl Head {
    /// Reads the head at the beginning of `bytes`; `None` if it is incomplete.
    #[inline]
    pub(crate) fn read(bytes: &[u8]) -> Option<Head> {
        let [a, b, c, kind, flags, stream @ ..] = bytes.first_chunk::<HEAD_LEN>()?;
        Some(Head {
            len: usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c),
            kind: *kind,
            flags: *flags,
            // The reserved bit is ignored.
            stream: u32::from_be_bytes(*stream) & STREAM_MAX,
        })
    }

    #[inline]
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    #[inline]
    pub(crate) fn bytes(&self) -> [u8; HEAD_LEN] {
        let [_, a, b, c] = (self.len as u32).to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }
}

/// Appends a frame.
pub(crate) fn put(out: &mut Vec<u8>, (kind, flags): (u8, u8), stream: u32, payload: &[u8]) {
    let head = Head { len: payload.len(), kind, flags, stream };
    out.extend_from_slice(&head.bytes());
    out.extend_from_slice(payload);
}

/// Appends a RST_STREAM frame.
pub(crate) fn put_reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    put(out, (kind::RST_STREAM, 0), stream, &code.0.to_be_bytes());
}

/// Appends a WINDOW_UPDATE frame.
pub(crate) fn put_window(out: &mut Vec<u8>, stream: u32, by: u32) {
    put(out, (kind::WINDOW_UPDATE, 0), stream, &by.to_be_bytes());
}

/// Appends a GOAWAY frame with a reason for people to read. We accept no streams, so the last one is 0.
pub(crate) fn put_goaway(out: &mut Vec<u8>, code: Code, why: &str) {
    let mut payload = [0; 8].to_vec();
    payload[4..].copy_from_slice(&code.0.to_be_bytes());
    payload.extend_from_slice(why.as_bytes());
    put(out, (kind::GOAWAY, 0), 0, &payload);
}

/// Appends a SETTINGS frame.
pub(crate) fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let mut payload = Vec::with_capacity(6 * settings.len());
    for (name, value) in settings {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    put(out, (kind::SETTINGS, 0), 0, &payload);
}

/// The first four bytes as a number; the reserved bit of window increments and stream numbers is ignored
/// by the caller.
pub(crate) fn number(payload: &[u8]) -> Option<u32> {
    payload.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The payload without padding and the priority fields; `None` if these do not fit into it.
#[inline]
pub(crate) fn content<'a>(head: &Head, payload: &'a [u8]) -> Option<&'a [u8]> {
    let mut content = payload;
    if head.has(flag::PADDED) && head.kind != kind::CONTINUATION {
        let (pad, rest) = content.split_first()?;
        content = &rest[..rest.len().checked_sub(usize::from(*pad))?];
    }
    if head.kind == kind::HEADERS && head.has(flag::PRIORITY) {
        content = content.get(5..)?;
    }
    Some(content)
}
