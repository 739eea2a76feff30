//! What limits sending: the kernel's `tcp_info` of this process's connections, by `sock_diag`.
//!
//! The kernel lists the established sockets of the network namespace, without those in TIME_WAIT, and
//! the first [`READ_MAX`] are read, in the order of the kernel's hash table: a stable sample, since the
//! order does not depend on what a connection does. Those to other destinations are skipped. The
//! kernel's times are since the connection opened, so a connection counts from its second reading on.
//!
//! The kernel walks over sockets in TIME_WAIT too, though it does not list them: about 80 µs per 1,000.
//! Seconds are left out after a long list, so that it takes [`LIST_CPU`] per second on average.
//!
//! The messages are written and read by hand: one request, and one attribute of the answers.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use plimsoll_measure::{Nanos, Sending};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

/// Sockets of the namespace that are read at most, for each address family. 1,024 take about 0.5 ms.
const READ_MAX: usize = 1024;
/// CPU time that listing may take per second on average: 0.2 % of a core.
const LIST_CPU: Nanos = Nanos::from_millis(2);
/// The kernel fills at most 32 KiB per message.
const MESSAGE_MAX: usize = 32 << 10;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH`: list all.
const DUMP: u16 = 0x301;
const TCP: u8 = 6;
const ESTABLISHED: u32 = 1 << 1;
/// The attribute with `tcp_info`.
const INFO: u16 = 2;
/// Lengths of `nlmsghdr` and `inet_diag_msg`.
const HEADER: usize = 16;
const DIAG: usize = 72;

/// Reads what limits this process's connections.
pub(super) struct Senders {
    destinations: Vec<SocketAddr>,
    message: Vec<u8>,
    /// By the kernel's number of the socket.
    earlier: HashMap<u64, Info>,
    now: HashMap<u64, Info>,
    /// Seconds to leave out.
    rest: u64,
}

/// The part of `tcp_info` that is used; times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Info {
    retransmitted: u64,
    busy: u64,
    receiver_limited: u64,
    buffer_limited: u64,
}

impl Senders {
    /// Checks that the kernel answers.
    ///
    /// # Errors
    /// If it does not: in a sandbox, or without `CONFIG_INET_DIAG`.
    pub(super) fn open(destinations: &[SocketAddr]) -> Result<Senders, String> {
        let mut senders = Senders {
            destinations: destinations.to_vec(),
            message: vec![0; MESSAGE_MAX],
            earlier: HashMap::new(),
            now: HashMap::new(),
            rest: 0,
        };
        senders.list().map_err(|error| format!("sock_diag: {}", error.desc()))?;
        Ok(senders)
    }

    /// What happened since the last reading; `None` if no connection was read twice, or in a second
    /// that is left out. `cpu` is the CPU time of this thread.
    pub(super) fn read(&mut self, cpu: impl Fn() -> Nanos) -> Option<Sending> {
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        let from = cpu();
        let sending = self.read_now();
        self.rest = (cpu() - from).0 / LIST_CPU.0;
        sending
    }

    fn read_now(&mut self) -> Option<Sending> {
        std::mem::swap(&mut self.earlier, &mut self.now);
        self.now.clear();
        self.list().ok()?;
        let mut sum = Sending::default();
        for (socket, now) in &self.now {
            let Some(earlier) = self.earlier.get(socket) else { continue };
            let micros = |now: u64, earlier: u64| Nanos::from_micros(now.saturating_sub(earlier));
            sum.connections += 1;
            sum.busy += micros(now.busy, earlier.busy);
            sum.receiver_limited += micros(now.receiver_limited, earlier.receiver_limited);
            sum.buffer_limited += micros(now.buffer_limited, earlier.buffer_limited);
            sum.retransmitted += now.retransmitted.saturating_sub(earlier.retransmitted);
        }
        (sum.connections > 0).then_some(sum)
    }

    fn list(&mut self) -> Result<(), Errno> {
        let is_v6 = |to: &SocketAddr| to.is_ipv6();
        if self.destinations.iter().any(|to| !is_v6(to)) {
            self.list_family(AddressFamily::Inet)?;
        }
        if self.destinations.iter().any(is_v6) {
            self.list_family(AddressFamily::Inet6)?;
        }
        Ok(())
    }

    /// Lists one address family. The socket is closed afterwards, which ends an unfinished list.
    fn list_family(&mut self, family: AddressFamily) -> Result<(), Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkSockDiag;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        let kernel = NetlinkAddr::new(0, 0);
        sendto(socket.as_raw_fd(), &request(family), &kernel, MsgFlags::empty())?;
        let mut left = READ_MAX;
        while left > 0 {
            match self.receive(&socket, &mut left)? {
                Listing::More => {}
                Listing::Complete => break,
            }
        }
        Ok(())
    }

    fn receive(&mut self, socket: &OwnedFd, left: &mut usize) -> Result<Listing, Errno> {
        let len = match recv(socket.as_raw_fd(), &mut self.message, MsgFlags::empty()) {
            Err(Errno::EINTR) => return Ok(Listing::More),
            Err(Errno::EAGAIN) => return Ok(Listing::Complete),
            other => other?,
        };
        let (message, destinations, now) =
            (&self.message[..len], &self.destinations, &mut self.now);
        messages(message, |kind, body| match kind {
            NLMSG_DONE => Ok(Listing::Complete),
            NLMSG_ERROR => {
                let code = number::<4>(body, 0).map_or(0, i32::from_ne_bytes);
                Err(Errno::from_raw(-code))
            }
            _ => {
                *left = left.saturating_sub(1);
                if let Some((to, socket, info)) = connection(body)
                    && destinations.contains(&to)
                {
                    now.insert(socket, info);
                }
                Ok(Listing::More)
            }
        })
    }
}

/// Whether the kernel has more to list.
enum Listing {
    More,
    Complete,
}

/// `inet_diag_req_v2`: the established TCP sockets of a family, with their `tcp_info`.
fn request(family: AddressFamily) -> [u8; HEADER + 56] {
    let mut request = [0; HEADER + 56];
    let mut put = |at: usize, bytes: &[u8]| request[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &((HEADER + 56) as u32).to_ne_bytes());
    put(4, &SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(6, &DUMP.to_ne_bytes());
    put(HEADER, &[family as u8, TCP, 1 << (INFO - 1)]);
    put(HEADER + 4, &ESTABLISHED.to_ne_bytes());
    request
}

/// Splits what was received into messages of (kind, body), until one ends the list.
fn messages(
    mut rest: &[u8],
    mut each: impl FnMut(u16, &[u8]) -> Result<Listing, Errno>,
) -> Result<Listing, Errno> {
    while let (Some(len), Some(kind)) = (number::<4>(rest, 0), number::<2>(rest, 4)) {
        let len = u32::from_ne_bytes(len) as usize;
        let Some(body) = rest.get(HEADER..len) else { break };
        if let Listing::Complete = each(u16::from_ne_bytes(kind), body)? {
            return Ok(Listing::Complete);
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Listing::More)
}

/// The destination of a socket, its number, and its `tcp_info`.
fn connection(body: &[u8]) -> Option<(SocketAddr, u64, Info)> {
    let port = u16::from_be_bytes(number(body, 6)?);
    let ip = match i32::from(*body.first()?) {
        family if family == AddressFamily::Inet as i32 => IpAddr::from(number::<4>(body, 24)?),
        _ => IpAddr::from(number::<16>(body, 24)?),
    };
    let socket = u64::from_ne_bytes(number(body, 44)?);
    let mut rest = body.get(DIAG..)?;
    loop {
        let len = usize::from(u16::from_ne_bytes(number(rest, 0)?));
        let attribute = rest.get(4..len)?;
        if u16::from_ne_bytes(number(rest, 2)?) == INFO {
            return Some((SocketAddr::new(ip, port), socket, Info::read(attribute)?));
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
}

impl Info {
    /// Offsets in `struct tcp_info` of `linux/tcp.h`, which only grows at its end. Kernels before 4.10
    /// lack the times.
    fn read(info: &[u8]) -> Option<Info> {
        Some(Info {
            retransmitted: u64::from(u32::from_ne_bytes(number(info, 100)?)),
            busy: u64::from_ne_bytes(number(info, 168)?),
            receiver_limited: u64::from_ne_bytes(number(info, 176)?),
            buffer_limited: u64::from_ne_bytes(number(info, 184)?),
        })
    }
}

/// The bytes of a number; `None` behind the end.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    /// Fills the connection: the other side does not read.
    fn fill(stream: &mut TcpStream) {
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 65_536]).is_ok() {}
    }

    #[test]
    fn a_receiver_that_does_not_read_limits_sending() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let mut stream = TcpStream::connect(to).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let _other = TcpStream::connect(other.local_addr().unwrap()).unwrap();
        let mut senders = match Senders::open(&[to]) {
            Ok(senders) => senders,
            // A sandbox without netlink.
            Err(why) => return assert!(why.starts_with("sock_diag: "), "{why}"),
        };
        assert_eq!(senders.now.len(), 1, "only the connection to this destination");
        let idle = senders.read_now().unwrap();
        assert_eq!((idle.connections, idle.busy), (1, Nanos::ZERO));
        fill(&mut stream);
        // The kernel counts in units of its own timer: until it has counted something.
        let mut limited = Nanos::ZERO;
        while limited == Nanos::ZERO {
            let sending = senders.read_now().unwrap();
            assert!(sending.receiver_limited <= sending.busy);
            limited = sending.receiver_limited;
        }
        accepted.read_exact(&mut [0; 1024]).unwrap();
        drop(stream);
        assert_eq!(senders.read_now(), None, "no connection is left");
    }

    #[test]
    fn a_long_list_is_made_less_often() {
        let mut senders = match Senders::open(&["127.0.0.1:9".parse().unwrap()]) {
            Ok(senders) => senders,
            Err(why) => return assert!(why.starts_with("sock_diag: "), "{why}"),
        };
        // Each list takes 4.5 ms: every third second, 1.5 ms per second.
        let (now, lists) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        let cpu = || {
            now.set(now.get() + 1);
            lists.set(now.get() / 2);
            Nanos(now.get() * 4_500_000)
        };
        (0..9).for_each(|_| _ = senders.read(cpu));
        assert_eq!(lists.get(), 3);
    }

    #[test]
    fn truncated_messages_are_left_out() {
        let mut body = vec![0; DIAG];
        body[0] = AddressFamily::Inet as u8;
        assert_eq!(connection(&body), None);
        body.extend([4 + 104, 0, INFO as u8, 0]);
        body.extend([0; 104]);
        assert_eq!(connection(&body), None, "tcp_info of an old kernel");
        assert_eq!(connection(&body[..DIAG + 20]), None);
        for len in 0..HEADER {
            assert!(messages(&[1; 64][..len], |_, _| Err(Errno::EINVAL)).is_ok());
        }
        // A length shorter than the header, or behind the end.
        assert!(messages(&[0; 32], |_, _| Err(Errno::EINVAL)).is_ok());
        assert!(messages(&[255; 32], |_, _| Err(Errno::EINVAL)).is_ok());
    }
}
