//! The format of a record: a fixed part in little-endian order, and what follows it.

use crate::judge::Cause;
use plimsoll_measure::{ErrorClass, Fault, Listed, Nanos};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Length of the fixed part.
pub(super) const FIXED_LEN: usize = 8 * 6 + 4 * 7 + 6 + 18;

/// The fixed part.
#[derive(Clone, Copy, Default)]
pub(super) struct Fixed {
    pub(super) number: u64,
    pub(super) scheduled_at: Nanos,
    pub(super) started_at: Nanos,
    pub(super) ended_at: Nanos,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) request: u32,
    pub(super) errno: i32,
    pub(super) head_len: u32,
    pub(super) body_len: u32,
    pub(super) text_len: u32,
    pub(super) method_len: u32,
    pub(super) url_len: u32,
    pub(super) status: Option<u16>,
    pub(super) cause: Option<Cause>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) is_gzip: bool,
    pub(super) has_begun: bool,
    pub(super) was_sent: bool,
}

/// The result of one arrival.
#[derive(Clone, Copy, Debug)]
pub struct CapturedResult<'b> {
    /// The arrival's number in its stream.
    pub number: u64,
    /// When it was due.
    pub scheduled_at: Nanos,
    /// When it started.
    pub started_at: Nanos,
    /// When it ended.
    pub ended_at: Nanos,
    /// The status of a complete answer.
    pub status: Option<u16>,
    /// Why it failed, if it did.
    pub error: Option<(ErrorClass, Option<Fault>)>,
    /// The error number of the system, if that is why it failed.
    pub errno: Option<i32>,
    /// The address that could not be reached, or that broke the connection.
    pub peer: Option<SocketAddr>,
    /// Further details of a failure; usually empty.
    pub text: &'b str,
    /// Whether the kernel accepted a byte of the request.
    pub was_sent: bool,
    /// Whether a byte of the answer was read.
    pub has_begun: bool,
    /// Index of the request in the plan.
    pub request: usize,
    /// Method and URL of its request, if it comes from a feed instead.
    pub own: Option<(&'b str, &'b str)>,
    /// Length of the answer's body as received: in gzip, if [`CapturedResult::is_gzip`].
    pub bytes_in: u64,
    /// Length of the request's body; zero if it varies.
    pub bytes_out: u64,
    /// Whether the answer's body is in gzip.
    pub is_gzip: bool,
    /// The answer's head as received; empty without a complete answer.
    pub head: &'b [u8],
    /// The answer's body as received, as far as it was kept.
    pub body: &'b [u8],
}

const GZIP: u8 = 1;
const BEGUN: u8 = 2;
const SENT: u8 = 4;
/// No error class, or no fault.
const NONE: u8 = u8::MAX;

impl Fixed {
    pub(super) fn write(&self, mut out: &mut [u8]) {
        let mut put = |bytes: &[u8]| {
            let (here, rest) = std::mem::take(&mut out).split_at_mut(bytes.len());
            here.copy_from_slice(bytes);
            out = rest;
        };
        let times = [self.scheduled_at, self.started_at, self.ended_at].map(|time| time.0);
        put(&self.number.to_le_bytes());
        times.iter().for_each(|time| put(&time.to_le_bytes()));
        put(&self.bytes_in.to_le_bytes());
        put(&self.bytes_out.to_le_bytes());
        put(&self.errno.to_le_bytes());
        let numbers = [
            self.request,
            self.head_len,
            self.body_len,
            self.text_len,
            self.method_len,
            self.url_len,
        ];
        numbers.iter().for_each(|number| put(&number.to_le_bytes()));
        put(&self.status.unwrap_or(0).to_le_bytes());
        let index = |index: Option<usize>| index.map_or(NONE, |index| index as u8);
        put(&[
            index(self.cause.map(|cause| cause.class.index())),
            index(self.cause.and_then(|cause| cause.fault).map(Fault::index)),
        ]);
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        put(&[
            flag(self.is_gzip, GZIP) | flag(self.has_begun, BEGUN) | flag(self.was_sent, SENT),
            u8::from(self.peer.is_some()),
        ]);
        let peer = self.peer.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        let ip = match peer.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        put(&ip.octets());
        put(&peer.port().to_le_bytes());
    }
}

/// Takes numbers from the front of a record.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (bytes, rest) = self.0.split_first_chunk().expect("a record is complete");
        self.0 = rest;
        *bytes
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn bytes(&mut self, len: u32) -> &'b [u8] {
        let (bytes, rest) = self.0.split_at(len as usize);
        self.0 = rest;
        bytes
    }

    fn text(&mut self, len: u32) -> &'b str {
        std::str::from_utf8(self.bytes(len)).expect("written from a string")
    }
}

impl<'b> CapturedResult<'b> {
    /// Reads the record at the front of `rest`.
    pub(super) fn read(rest: &mut &'b [u8]) -> Option<CapturedResult<'b>> {
        if rest.is_empty() {
            return None;
        }
        let mut reader = Reader(rest);
        let number = reader.u64();
        let [scheduled_at, started_at, ended_at] = [(); 3].map(|()| Nanos(reader.u64()));
        let (bytes_in, bytes_out) = (reader.u64(), reader.u64());
        let errno = i32::from_le_bytes(reader.take());
        let [request, head_len, body_len, text_len, method_len, url_len] =
            [(); 6].map(|()| reader.u32());
        let status = u16::from_le_bytes(reader.take());
        let [class, fault, flags, has_peer] = reader.take();
        let ip = Ipv6Addr::from(reader.take::<16>()).to_canonical();
        let port = u16::from_le_bytes(reader.take());
        let (head, body) = (reader.bytes(head_len), reader.bytes(body_len));
        let text = reader.text(text_len);
        let (method, url) = (reader.text(method_len), reader.text(url_len));
        *rest = reader.0;
        let class = ErrorClass::ALL.get(usize::from(class)).copied();
        let fault = Fault::ALL.get(usize::from(fault)).copied();
        Some(CapturedResult {
            number,
            scheduled_at,
            started_at,
            ended_at,
            status: (status > 0).then_some(status),
            error: class.map(|class| (class, fault)),
            errno: (errno != 0).then_some(errno),
            peer: (has_peer != 0).then_some(SocketAddr::new(ip, port)),
            text,
            was_sent: flags & SENT != 0,
            has_begun: flags & BEGUN != 0,
            request: request as usize,
            own: (method_len > 0).then_some((method, url)),
            bytes_in,
            bytes_out,
            is_gzip: flags & GZIP != 0,
            head,
            body,
        })
    }
}
