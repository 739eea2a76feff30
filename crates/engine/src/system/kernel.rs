//! The real machine: epoll through mio, a timerfd, and TCP sockets with kernel receive timestamps.

use super::linger::Lingering;
use super::resolve::Query;
use super::timer::{Timer, minimize_slack};
use super::{Message, READY_MAX, Readiness, Route, Socket, System, Wait};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, TimestampingFlag, recvmsg, setsockopt, sockopt,
};
use plimsoll_measure::{Clock, Nanos, WallClock};
use socket2::{Domain, Protocol, SockAddr, Type};
use std::io::{self, IoSliceMut, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

const TIMER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);

/// The sending side of a worker's message queue.
#[derive(Clone)]
pub(crate) struct Mailbox {
    sender: Sender<Message>,
    waker: Arc<Waker>,
}

impl Mailbox {
    /// Sends a message and wakes the worker; returns false if the worker has ended.
    pub(crate) fn send(&self, message: Message) -> bool {
        self.sender.send(message).is_ok() && self.waker.wake().is_ok()
    }
}

/// The machine as seen by one worker.
pub(crate) struct Kernel {
    clock: Clock,
    started_at_unix: Nanos,
    poll: Poll,
    events: Events,
    timer: Timer,
    messages: Receiver<Message>,
    /// Whether the waker has fired since the queue was last empty.
    woken: bool,
    own: Mailbox,
    lingering: Lingering,
    resolver: Sender<(Query, Mailbox)>,
}

impl Kernel {
    /// Sets up the poll, timer and waker. The clock reads zero until [`Kernel::start`].
    pub(crate) fn new(resolver: Sender<(Query, Mailbox)>) -> io::Result<Kernel> {
        let poll = Poll::new()?;
        let timer = Timer::new(poll.registry(), TIMER)?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (sender, messages) = channel();
        Ok(Kernel {
            clock: Clock::start_in(Duration::from_secs(3600)),
            started_at_unix: Nanos::ZERO,
            poll,
            events: Events::with_capacity(READY_MAX),
            timer,
            messages,
            woken: false,
            own: Mailbox { sender, waker },
            lingering: Lingering::default(),
            resolver,
        })
    }

    /// A handle for sending messages to this worker.
    pub(crate) fn mailbox(&self) -> Mailbox {
        self.own.clone()
    }

    /// Sets the run's clock and waits for it to start; called on the worker's thread.
    pub(crate) fn start(&mut self, clock: Clock) -> io::Result<()> {
        minimize_slack();
        self.clock = clock;
        while clock.until_start() > Nanos::ZERO {
            match self.poll.poll(&mut self.events, Some(clock.until_start().into())) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            // Commands sent before the start are handled by the first iteration.
            self.woken = true;
        }
        self.started_at_unix = Nanos(WallClock::now().unix_ns) - clock.now();
        Ok(())
    }
}

impl System for Kernel {
    type Socket = KernelSocket;

    #[inline]
    fn now(&self) -> Nanos {
        self.clock.now()
    }

    fn started_at_unix(&self) -> Nanos {
        self.started_at_unix
    }

    fn connect(&mut self, route: Route, token: usize) -> io::Result<KernelSocket> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let domain = Domain::for_address(route.to);
        let socket = socket2::Socket::new(domain, kind, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        let stamps = TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
            | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE;
        // Without timestamps, load is still sent, but read lag is not measured.
        let _ = setsockopt(&socket, sockopt::Timestamping, &stamps);
        if let Some(from) = route.from {
            // The port is chosen at connect, when the whole 4-tuple is known, so that a source
            // address has its 28,000 ports for each destination rather than in total.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
        }
        match socket.connect(&SockAddr::from(route.to)) {
            Ok(()) => {}
            // After a signal, the kernel continues to connect too.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EINTR)) => {
            }
            Err(error) => return Err(error),
        }
        let mut stream = TcpStream::from_std(socket.into());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(token), interest)?;
        Ok(KernelSocket { stream, clock: self.clock })
    }

    fn wait(&mut self, wait: Wait, ready: &mut Vec<(usize, Readiness)>) -> io::Result<()> {
        ready.clear();
        let limit = match wait {
            Wait::Not => Some(Duration::ZERO),
            Wait::Until(at) => {
                let at = self.lingering.next_due().map_or(at, |due| due.min(at));
                self.timer.arm(at, self.clock.now())?;
                None
            }
        };
        match self.poll.poll(&mut self.events, limit) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in &self.events {
            match event.token() {
                TIMER => {}
                WAKER => self.woken = true,
                Token(token) if Lingering::is_own(token) => self.lingering.on_ready(token),
                Token(token) => {
                    let readiness = Readiness {
                        readable: event.is_readable() || event.is_error(),
                        writable: event.is_writable(),
                        read_closed: event.is_read_closed(),
                    };
                    ready.push((token, readiness));
                }
            }
        }
        if self.lingering.next_due().is_some() {
            self.lingering.close_due(self.clock.now());
        }
        Ok(())
    }

    fn message(&mut self) -> Option<Message> {
        if !self.woken {
            return None;
        }
        let message = self.messages.try_recv().ok();
        self.woken = message.is_some();
        message
    }

    fn resolve(&mut self, query: Query) {
        // The resolver thread outlives the workers.
        let _ = self.resolver.send((query, self.own.clone()));
    }

    fn linger(&mut self, socket: KernelSocket) -> bool {
        self.lingering.add(socket.stream, self.poll.registry(), self.clock.now())
    }

    fn finish_lingering(&mut self) {
        let mut ready = Vec::new();
        while let Some(at) = self.lingering.next_due() {
            if self.wait(Wait::Until(at), &mut ready).is_err() {
                return;
            }
        }
    }
}

/// Repeats a call that a signal interrupted.
#[inline]
fn repeated<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// A TCP socket. Dropping it closes the socket and removes it from the poll.
pub(crate) struct KernelSocket {
    stream: TcpStream,
    clock: Clock,
}

impl Read for KernelSocket {
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        repeated(|| self.stream.read(buffer))
    }
}

impl Write for KernelSocket {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        repeated(|| self.stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Space for one control message with three timestamps.
const CONTROL: usize = 128;

impl Socket for KernelSocket {
    fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read_stamped(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Option<Nanos>)> {
        let mut control = [0u8; CONTROL];
        let mut parts = [IoSliceMut::new(buffer)];
        let fd = self.stream.as_raw_fd();
        let received = loop {
            match recvmsg::<()>(fd, &mut parts, Some(&mut control), MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                received => break received?,
            }
        };
        let stamp = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampsns(stamps) => Some(stamps.system),
            _ => None,
        });
        // The kernel's timestamps are wall-clock time. Both clocks are read now, so that an
        // adjustment of the wall clock affects a single timestamp and not all later ones.
        let age = stamp.filter(|stamp| stamp.tv_sec() > 0).map(|stamp| {
            let stamped = stamp.tv_sec() as u64 * 1_000_000_000 + stamp.tv_nsec() as u64;
            Nanos(WallClock::now().unix_ns.saturating_sub(stamped))
        });
        Ok((received.bytes, age.map(|age| self.clock.now() - age)))
    }
}
