//! Closed lists and tallies over them.
//!
//! What the hot path counts by kind is a small `Copy` enum and an array, never a text: nothing
//! allocates, and nothing can grow. The names are the ones users read in `summary.json`.

use std::fmt;
use std::marker::PhantomData;

/// An enum without data whose members are known to all.
pub trait Listed: Copy + Eq + fmt::Debug + 'static {
    /// Every member, in the order of [`Listed::index`].
    const ALL: &'static [Self];
    /// The member's place in [`Listed::ALL`].
    fn index(self) -> usize;
    /// The member's name as users read it.
    fn name(self) -> &'static str;
    /// The member of this name.
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
    /// Whose doing something was.
    Side {
        /// The instrument and the host that it runs on.
        Generator = "generator",
        /// What lies between.
        Network = "network",
        /// What is measured.
        Target = "target",
    }
}

listed! {
    /// Why an arrival was not answered as expected. An exchange has the first that applies, in the
    /// order transport, JSON-RPC, status, check.
    ErrorClass {
        /// The kernel had no local port to give.
        PortExhausted = "port_exhausted",
        /// The process or the host had no file descriptor left.
        FdExhausted = "fd_exhausted",
        /// The instrument took it up too late for an answer to come in time; never sent.
        Late = "late",
        /// Its wait for a connection left too little time for an answer; never sent.
        NoConnection = "no_connection",
        /// The bodies that a worker holds until they are whole reached their limit.
        MemoryExhausted = "memory_exhausted",
        /// In flight when the grace period ended, or at the second Ctrl-C.
        Aborted = "aborted",
        /// The host name gave no address.
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
        /// The connection was closed before the answer was whole.
        ClosedEarly = "closed_early",
        /// The answer was not whole at the deadline.
        ResponseTimeout = "response_timeout",
        /// The answer was not HTTP as specified; [`Fault`] says how.
        Protocol = "protocol",
        /// The body was larger than the plan allows.
        BodyTooLarge = "body_too_large",
        /// The HTTP status was outside the expectation.
        Status = "status",
        /// The answer held a JSON-RPC error.
        RpcError = "rpc_error",
        /// The answer was no JSON-RPC answer to this request.
        RpcMismatch = "rpc_mismatch",
        /// Another expectation failed.
        Check = "check",
    }
}

impl ErrorClass {
    /// The side that the class speaks against. `no_connection` is judged by a rule of its own; by
    /// itself it is the generator's limit.
    pub fn side(self) -> Side {
        use ErrorClass::*;
        match self {
            PortExhausted | FdExhausted | Late | NoConnection | MemoryExhausted | Aborted => {
                Side::Generator
            }
            Dns | Unreachable | ConnectTimeout => Side::Network,
            Refused | Reset | Tls | ClosedEarly | ResponseTimeout | Protocol | BodyTooLarge
            | Status | RpcError | RpcMismatch | Check => Side::Target,
        }
    }
}

listed! {
    /// What exactly was wrong where a class alone does not say it: with bytes that should have been an
    /// HTTP response, or with the connection that should have brought them.
    Fault {
        /// The first bytes are no HTTP/1 status line.
        NotHttp = "not an HTTP/1 response",
        /// A header line is malformed.
        BadHeader = "malformed header line",
        /// The head is larger than the limit.
        HeadTooLong = "response head over 64 KiB",
        /// Content-Length is no number.
        BadLength = "content-length is not a number",
        /// Two lengths that differ.
        TwoLengths = "two different content-lengths",
        /// Content-Length beside Transfer-Encoding.
        LengthAndChunked = "content-length beside transfer-encoding",
        /// A transfer coding other than chunked.
        BadCoding = "transfer-encoding other than chunked",
        /// A chunk size that is no number, or overflows.
        BadChunk = "malformed chunk size",
        /// A chunk that does not end where it should, or endless trailers.
        BadChunkEnd = "malformed end of chunk",
        /// Bytes came after the end of the response.
        BytesAfter = "bytes after the end of the response",
        /// A switch of protocols that nobody asked for.
        Switched = "101 without a request to switch",
        /// More interim responses than the limit.
        TooManyInterim = "more than 100 interim responses",
        /// The body's gzip coding is damaged.
        BadGzip = "damaged gzip body",
        /// A redirect without a usable Location.
        BadLocation = "redirect without a usable location",
        /// More redirects than the plan follows.
        TooManyRedirects = "more redirects than the plan follows",
        /// An answer came before any byte of its request was sent.
        AnswerFirst = "answer before its request",
        /// The target closed an idle keep-alive connection just as the request was sent on it.
        StaleKeepAlive = "keep-alive connection closed as the request was sent",
        /// The target accepted the connection and never answered the TLS handshake.
        HandshakeTimeout = "TLS handshake not answered before the timeout",
        /// The target accepted the connection and did not read: not a byte of the request fitted into
        /// its window.
        NothingRead = "no byte of the request accepted before the timeout",
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
        /// In place of one that the target had closed.
        TargetClosed = "target_closed",
        /// In place of one that was given up at a timeout.
        AfterTimeout = "after_timeout",
        /// In place of one that had failed.
        AfterError = "after_error",
    }
}

/// A count for each member of a closed list.
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

    /// Counts one.
    #[inline]
    pub fn count(&mut self, member: C) {
        self.counts[member.index()] += 1;
    }

    /// Counts `n`.
    pub fn add(&mut self, member: C, n: u64) {
        self.counts[member.index()] += n;
    }

    /// How often a member was counted.
    pub fn get(&self, member: C) -> u64 {
        self.counts[member.index()]
    }

    /// All counts together.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Tally<C>) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, n)| *own += n);
    }

    /// Forgets all counts.
    pub fn clear(&mut self) {
        self.counts.fill(0);
    }

    /// The members that were counted, in the list's order.
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
    fn names_lead_back_to_members() {
        check::<Side>();
        check::<ErrorClass>();
        check::<Fault>();
        check::<OpenReason>();
        check::<crate::FindingId>();
        check::<crate::Severity>();
    }
}
