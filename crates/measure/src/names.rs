//! Closed enums and tallies over them.
//!
//! The hot path counts by a small `Copy` enum into an array, never by string: counting does not
//! allocate and nothing can grow. The names are those in `summary.json`.

use std::fmt;
use std::marker::PhantomData;

/// A fieldless enum with an index and a name for each member.
pub trait Listed: Copy + Eq + fmt::Debug + 'static {
    /// All members, in the order of [`Listed::index`].
    const ALL: &'static [Self];
    /// The member's index in [`Listed::ALL`].
    fn index(self) -> usize;
    /// The member's name in reports and files.
    fn name(self) -> &'static str;
    /// The member with this name.
    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|member| member.name() == name)
    }
}

macro_rules! listed {
    ($(#[$doc:meta])* $list:ident { $($(#[$member_doc:meta])* $member:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $list { $($(#[$member_doc])* $member,)+ }

        impl Listed for $list {
            const ALL: &'static [Self] = &[$($list::$member,)+];
            #[inline]
            fn index(self) -> usize { self as usize }
            fn name(self) -> &'static str { match self { $($list::$member => $name,)+ } }
        }

        impl fmt::Display for $list {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.name()) }
        }
    };
}
pub(crate) use listed;

listed! {
    /// The side responsible for an outcome.
    Side {
        /// The load generator and its host.
        Generator = "generator",
        /// The network in between.
        Network = "network",
        /// The system being measured.
        Target = "target",
    }
}

listed! {
    /// Why an arrival was not answered as expected. An exchange gets the first class that applies,
    /// in the order transport, JSON-RPC, status, check.
    ErrorClass {
        /// The kernel had no free local port.
        PortExhausted = "port_exhausted",
        /// The process or the host had no file descriptor left.
        FdExhausted = "fd_exhausted",
        /// Dispatched too late for an answer to arrive in time; never sent.
        Late = "late",
        /// The wait for a connection left too little time for an answer; never sent.
        NoConnection = "no_connection",
        /// The limit on a worker's buffered incomplete bodies was reached.
        MemoryExhausted = "memory_exhausted",
        /// In flight when the grace period ended, or at the second Ctrl-C.
        Aborted = "aborted",
        /// The host name could not be resolved.
        Dns = "dns",
        /// No route to the address.
        Unreachable = "unreachable",
        /// The connection was not established in time.
        ConnectTimeout = "connect_timeout",
        /// The connection was refused.
        Refused = "refused",
        /// The connection was reset.
        Reset = "reset",
        /// The TLS handshake or a TLS record failed.
        Tls = "tls",
        /// The connection was closed before the answer was complete.
        ClosedEarly = "closed_early",
        /// The answer was not complete at the deadline.
        ResponseTimeout = "response_timeout",
        /// The answer was not valid HTTP; [`Fault`] gives the reason.
        Protocol = "protocol",
        /// The body was larger than the plan allows.
        BodyTooLarge = "body_too_large",
        /// The HTTP status was not an expected one.
        Status = "status",
        /// The answer contained a JSON-RPC error.
        RpcError = "rpc_error",
        /// The body was not a JSON-RPC response to this request.
        RpcMismatch = "rpc_mismatch",
        /// Another expectation failed.
        Check = "check",
        /// Planned for an agent of a fleet that was lost; not known to have been sent.
        AgentLost = "agent_lost",
    }
}

impl ErrorClass {
    /// The side that an error of this class points to. The verdict has a separate rule for
    /// `no_connection`; by default it counts as the generator's limit.
    pub fn side(self) -> Side {
        use ErrorClass::*;
        match self {
            PortExhausted | FdExhausted | Late | NoConnection | MemoryExhausted | Aborted
            | AgentLost => Side::Generator,
            Dns | Unreachable | ConnectTimeout => Side::Network,
            Refused | Reset | Tls | ClosedEarly | ResponseTimeout | Protocol | BodyTooLarge
            | Status | RpcError | RpcMismatch | Check => Side::Target,
        }
    }
}

listed! {
    /// Details for an error class that is too coarse: what was wrong with the bytes of an HTTP
    /// response, or with the connection that should have carried them.
    Fault {
        /// The first bytes are not an HTTP/1 status line.
        NotHttp = "not an HTTP/1 response",
        /// A header line is malformed.
        BadHeader = "malformed header line",
        /// The response head is larger than the limit.
        HeadTooLong = "response head over 64 KiB",
        /// Content-Length is not a number.
        BadLength = "content-length is not a number",
        /// Two different Content-Length values.
        TwoLengths = "two different content-lengths",
        /// Both Content-Length and Transfer-Encoding are present.
        LengthAndChunked = "content-length beside transfer-encoding",
        /// A transfer coding other than chunked.
        BadCoding = "transfer-encoding other than chunked",
        /// A chunk size is not a number or overflows.
        BadChunk = "malformed chunk size",
        /// A chunk is not followed by a line break, or the trailers are too long.
        BadChunkEnd = "malformed end of chunk",
        /// Bytes followed the end of a response: the connection is closed, and if a request was sent
        /// on it meanwhile, that request fails.
        BytesAfter = "bytes after the end of the response",
        /// An unsolicited 101 (Switching Protocols).
        Switched = "101 without a request to switch",
        /// More 1xx responses than the limit.
        TooManyInterim = "more than 100 interim responses",
        /// The gzipped body is corrupt.
        BadGzip = "damaged gzip body",
        /// A redirect without a valid Location.
        BadLocation = "redirect without a usable location",
        /// More redirects than the plan follows.
        TooManyRedirects = "more redirects than the plan follows",
        /// A redirect that would send a body with a secret to another origin.
        SecretBody = "redirect of a body with a secret to another origin",
        /// A redirect to one origin more than are followed.
        TooManyOrigins = "targets and redirects span more than 256 origins",
        /// A response, or something else, arrived before any byte of a request was sent.
        AnswerFirst = "answer before its request",
        /// The target closed the connection in the middle of an answer.
        Truncated = "answer cut off before its end",
        /// The target closed an idle keep-alive connection just as the request was sent on it.
        StaleKeepAlive = "keep-alive connection closed as the request was sent",
        /// The same, but the request was sent once more on another connection: not an error.
        StaleRetried = "request repeated, since its keep-alive connection was closed",
        /// The target accepted the connection and never answered the TLS handshake.
        HandshakeTimeout = "TLS handshake not answered before the timeout",
        /// The target accepted the connection but did not read from it: the kernel took no byte of
        /// the request.
        NothingRead = "no byte of the request accepted before the timeout",
        /// The target did not choose HTTP/2 in the TLS handshake.
        Http2NotOffered = "HTTP/2 not agreed on in the TLS handshake",
        /// The first bytes are not HTTP/2 settings.
        NotHttp2 = "not an HTTP/2 server",
        /// The target accepted the connection and never sent its HTTP/2 settings.
        SettingsTimeout = "HTTP/2 settings not received before the timeout",
        /// A frame has a wrong length, or came where none of its kind may.
        BadFrame = "HTTP/2 frame that breaks the protocol",
        /// A header block cannot be decoded.
        BadHeaderBlock = "HTTP/2 header block that cannot be decoded",
        /// The target sent more than a flow-control window allows, or opened one too far.
        WindowExceeded = "HTTP/2 flow-control window exceeded",
        /// The target sent frames without end that have nothing to do with an answer, or did not read
        /// the replies to them.
        FrameFlood = "flood of HTTP/2 control frames",
        /// A push promise, although push is off.
        PushPromise = "HTTP/2 push although it is off",
        /// The body is longer or shorter than its stated length.
        LengthMismatch = "content-length differs from the length of the body",
        /// The target refused a stream, without processing its request.
        RefusedStream = "stream refused (REFUSED_STREAM)",
        /// The target reset a stream.
        StreamReset = "stream reset by the target",
        /// The target ended a stream or a connection because of excessive load.
        EnhanceYourCalm = "ended by the target as excessive load (ENHANCE_YOUR_CALM)",
        /// The target ended the connection with GOAWAY, and the request with it.
        Goaway = "connection ended by the target with GOAWAY",
        /// The target said that it has not processed a request, which was sent on another connection: not
        /// an error.
        GoawayMoved = "request moved to another connection after GOAWAY",
        /// This side ended a connection, because the target broke the protocol.
        GoawayLocal = "connection ended by this side with GOAWAY",
        /// The target did not open its window for the body of a request.
        WindowStalled = "HTTP/2 window not opened for the request before the timeout",
        /// The target answered the opening of a WebSocket with something else than status 101.
        NotUpgraded = "WebSocket not opened by the target",
        /// The target opened a WebSocket without showing that it understood the request.
        BadAccept = "WebSocket opened with a wrong accept key",
        /// The target opened a WebSocket without the compression that the plan asks for: not an error.
        NotCompressed = "WebSocket opened without compression",
        /// The target accepted the connection and never answered the opening of a WebSocket.
        UpgradeTimeout = "WebSocket not opened before the timeout",
        /// A frame or message that breaks the WebSocket protocol.
        BadMessage = "WebSocket frame that breaks the protocol",
        /// The target closed a WebSocket on which calls were unanswered.
        ClosedByPeer = "WebSocket closed by the target",
        /// This side closed a WebSocket, because the target broke the protocol.
        ClosedLocal = "WebSocket closed by this side",
        /// This side closed a WebSocket without waiting for the target, since too many were waiting: the target may
        /// not have read the last message. Not an error.
        ClosedAtOnce = "WebSocket closed without waiting for the target to close it",
        /// An answer to a call that had already ended, mostly at its timeout: not an error.
        LateAnswer = "answer to a call that had ended",
        /// A message that answers no call of its connection: not an error of a call.
        UnknownAnswer = "WebSocket message that answers no call",
        /// A notification without a subscription: not an error.
        Notification = "notification without a subscription",
        /// The target confirmed a subscription without an id that notifications could have.
        BadSubscription = "subscription without a usable id",
        /// The target did not answer a ping before the next one was due.
        PingTimeout = "ping not answered before the next one",
        /// Neither an event nor a comment came for longer than the plan allows, so that this side ended the stream.
        SilentStream = "event stream silent for too long",
        /// The answer to a request for events is not an event stream.
        NotEventStream = "not an event stream",
        /// The target ended an event stream.
        StreamEnded = "event stream ended by the target",
        /// A field of an event is longer than the plan allows.
        EventTooLong = "event longer than max_body",
        /// The target did not read from a connection, so that a call was sent on another one: not an error.
        UnreadMoved = "call moved from a connection that the target did not read",
    }
}

listed! {
    /// Why a connection was opened.
    OpenReason {
        /// No connection to the target was idle.
        NoneIdle = "none_idle",
        /// One of the name's addresses had no connection.
        NewAddress = "new_address",
        /// The plan does not reuse connections.
        ReuseOff = "reuse_off",
        /// Replaces a connection that the target closed.
        TargetClosed = "target_closed",
        /// Replaces a connection that was closed at a timeout.
        AfterTimeout = "after_timeout",
        /// Replaces a connection that failed.
        AfterError = "after_error",
    }
}

/// A count for each member of a closed enum.
#[derive(Clone, PartialEq, Eq)]
pub struct Tally<C: Listed> {
    counts: Box<[u64]>,
    list: PhantomData<C>,
}

impl<C: Listed> Tally<C> {
    /// All zero.
    pub fn new() -> Tally<C> {
        Tally { counts: vec![0; C::ALL.len()].into(), list: PhantomData }
    }

    /// Increments a member's count.
    #[inline]
    pub fn count(&mut self, member: C) {
        self.counts[member.index()] += 1;
    }

    /// Adds `n` to a member's count.
    pub fn add(&mut self, member: C, n: u64) {
        self.counts[member.index()] += n;
    }

    /// A member's count.
    pub fn get(&self, member: C) -> u64 {
        self.counts[member.index()]
    }

    /// The sum of all counts.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds the counts of another tally.
    pub fn merge(&mut self, other: &Tally<C>) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, n)| *own += n);
    }

    /// The counts since an earlier reading of the same counters.
    pub fn since(&self, earlier: &Tally<C>) -> Tally<C> {
        let pairs = self.counts.iter().zip(&earlier.counts);
        let counts = pairs.map(|(own, earlier)| own.saturating_sub(*earlier)).collect();
        Tally { counts, list: PhantomData }
    }

    /// Sets a member's count.
    pub fn set(&mut self, member: C, n: u64) {
        self.counts[member.index()] = n;
    }

    /// Resets all counts to zero.
    pub fn clear(&mut self) {
        self.counts.fill(0);
    }

    /// The members with a count above zero, in the enum's order.
    pub fn iter(&self) -> impl Iterator<Item = (C, u64)> + '_ {
        C::ALL.iter().copied().zip(self.counts.iter().copied()).filter(|(_, n)| *n > 0)
    }
}

impl<C: Listed> Default for Tally<C> {
    fn default() -> Tally<C> {
        Tally::new()
    }
}

impl<C: Listed> fmt::Debug for Tally<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<C: Listed>() {
        for (place, member) in C::ALL.iter().enumerate() {
            assert_eq!(member.index(), place);
            assert_eq!(C::from_name(member.name()), Some(*member));
        }
    }

    #[test]
    fn names_and_indices_identify_members() {
        check::<Side>();
        check::<ErrorClass>();
        check::<Fault>();
        check::<OpenReason>();
        check::<crate::FindingId>();
        check::<crate::Severity>();
        check::<crate::TcpCounter>();
    }
}
