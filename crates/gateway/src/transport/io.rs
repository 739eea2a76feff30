//! A connection to a caller or an upstream, in cleartext or with TLS.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

#[cfg(test)]
use super::memory::MemorySocket;

/// A connection.
pub(crate) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// A simulated connection.
    #[cfg(test)]
    Memory(MemorySocket),
}

/// What is pending on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Nothing.
    Quiet,
    Data,
    /// The end of the stream: the peer sends nothing more.
    Ended,
    /// The connection was reset.
    Broken,
}

impl Io {
    fn stream(&self) -> Option<&TcpStream> {
        match self {
            Io::Plain(stream) => Some(stream),
            Io::Tls(stream) => Some(stream.get_ref().0),
            #[cfg(test)]
            Io::Memory(_) => None,
        }
    }

    /// What is pending; costs a system call. If it is nothing, the runtime's readiness is cleared.
    pub(crate) fn condition(&self) -> Condition {
        let Some(stream) = self.stream() else { return Condition::Quiet };
        let mut polled = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        let found = nix::poll::poll(&mut polled, PollTimeout::ZERO);
        let events = polled[0].revents().unwrap_or(PollFlags::empty());
        if found.is_err() || events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
            return Condition::Broken;
        }
        if events.contains(PollFlags::POLLIN) {
            let mut byte = [std::mem::MaybeUninit::uninit()];
            return match socket2::SockRef::from(stream).peek(&mut byte) {
                Ok(0) => Condition::Ended,
                // With TLS, the end of a stream is announced by a record.
                Ok(_) if matches!(self, Io::Tls(_)) => Condition::Ended,
                Ok(_) => Condition::Data,
                Err(_) => Condition::Broken,
            };
        }
        let would_block = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = stream.try_io(tokio::io::Interest::READABLE, would_block);
        Condition::Quiet
    }

    /// Ready if there may be data to read; needs no buffer.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Io::Plain(stream) => stream.poll_read_ready(context),
            Io::Tls(stream) => {
                let (stream, state) = stream.get_ref();
                // False while there is decrypted data.
                if state.wants_read() {
                    stream.poll_read_ready(context)
                } else {
                    Poll::Ready(Ok(()))
                }
            }
            #[cfg(test)]
            Io::Memory(socket) => socket.poll_readable(context),
        }
    }

    /// Whether nothing is pending: no data, no end of stream, no error. Without `sure`, this relies on
    /// the runtime's readiness, which costs no system call but may lag; with `sure`, the socket itself
    /// is checked.
    pub(crate) fn is_quiet(&self, sure: bool) -> bool {
        let (stream, read_over) = match self {
            Io::Plain(stream) => (stream, true),
            Io::Tls(stream) => {
                let (stream, state) = stream.get_ref();
                // False while there is decrypted data.
                (stream, state.wants_read())
            }
            #[cfg(test)]
            Io::Memory(socket) => return socket.is_quiet(),
        };
        let peek = || socket2::SockRef::from(stream).peek(&mut [std::mem::MaybeUninit::uninit()]);
        let mut context = Context::from_waker(Waker::noop());
        let peeked = match stream.poll_read_ready(&mut context) {
            Poll::Pending if !sure => return read_over,
            Poll::Pending => peek(),
            // Readiness may be stale after a read that filled its buffer.
            Poll::Ready(Ok(())) => stream.try_io(tokio::io::Interest::READABLE, peek),
            Poll::Ready(Err(_)) => return false,
        };
        read_over && peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Io::Tls(stream) => Pin::new(stream).poll_read(context, into),
            #[cfg(test)]
            Io::Memory(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(test)]
            Io::Memory(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            #[cfg(test)]
            Io::Memory(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
            #[cfg(test)]
            Io::Memory(_) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_flush(context),
            Io::Tls(stream) => Pin::new(stream).poll_flush(context),
            #[cfg(test)]
            Io::Memory(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(test)]
            Io::Memory(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// Writes all parts; `sent` counts the bytes written, also on error.
pub(crate) async fn write_all(io: &mut Io, parts: &[&[u8]], sent: &mut usize) -> io::Result<()> {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    std::future::poll_fn(|context| {
        while *sent < total {
            let n = match write_some(Pin::new(&mut *io), context, parts, *sent) {
                Poll::Ready(n) => n?,
                Poll::Pending => return Poll::Pending,
            };
            *sent += n;
        }
        Pin::new(&mut *io).poll_flush(context)
    })
    .await
}

/// Maximum bytes per write, so that a caller that reads as fast as the gateway writes does not
/// monopolize the thread.
pub(crate) const WRITE_MAX: usize = 256 << 10;

/// Writes the parts once, from byte `from` on and at most [`WRITE_MAX`] bytes. `from` must be before the
/// end.
pub(crate) fn write_some<W: AsyncWrite>(
    io: Pin<&mut W>,
    context: &mut Context<'_>,
    parts: &[&[u8]],
    from: usize,
) -> Poll<io::Result<usize>> {
    let written = match parts {
        // Typical answers and requests have one part.
        [one] => {
            let end = one.len().min(from + WRITE_MAX);
            io.poll_write(context, &one[from..end])
        }
        parts => write_vectored(io, context, parts, from),
    };
    match written {
        Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        other => other,
    }
}

fn write_vectored<W: AsyncWrite>(
    io: Pin<&mut W>,
    context: &mut Context<'_>,
    parts: &[&[u8]],
    from: usize,
) -> Poll<io::Result<usize>> {
    const SLICES_MAX: usize = 16;
    let mut slices = [io::IoSlice::new(&[]); SLICES_MAX];
    let (mut used, mut skip, mut left) = (0, from, WRITE_MAX);
    for part in parts {
        if skip >= part.len() {
            skip -= part.len();
            continue;
        }
        let part = &part[skip..];
        slices[used] = io::IoSlice::new(&part[..part.len().min(left)]);
        left -= slices[used].len();
        skip = 0;
        used += 1;
        if used == SLICES_MAX || left == 0 {
            break;
        }
    }
    io.poll_write_vectored(context, &slices[..used])
}
