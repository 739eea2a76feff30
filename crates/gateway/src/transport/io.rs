//! A connection's bytes, in clear or through TLS, on either side of the gateway.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// A connection.
pub(crate) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Io {
    /// Waits, without a buffer, until there may be something to read. Through TLS it does not wait:
    /// what has come may be decrypted already.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            // The reader's own place to be woken, not one of the queue that `readable` makes.
            Io::Plain(stream) => {
                std::future::poll_fn(|context| stream.poll_read_ready(context)).await
            }
            Io::Tls(_) => Ok(()),
        }
    }

    /// Whether nothing has come since it was last read to the end: no data, no end, no error. Costs
    /// no system call as long as that is so, unless it is to be sure: then the socket is asked, and
    /// not only the runtime, which may not have heard of it yet.
    pub(crate) fn is_quiet(&self, sure: bool) -> bool {
        let (stream, read_over) = match self {
            Io::Plain(stream) => (stream, true),
            Io::Tls(stream) => {
                let (stream, state) = stream.get_ref();
                // It wants none while something lies there decrypted.
                (stream, state.wants_read())
            }
        };
        let peek = || socket2::SockRef::from(stream).peek(&mut [std::mem::MaybeUninit::uninit()]);
        let mut context = Context::from_waker(Waker::noop());
        let peeked = match stream.poll_read_ready(&mut context) {
            Poll::Pending if !sure => return read_over,
            Poll::Pending => peek(),
            // Readiness may be left over from a read that filled its buffer.
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
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_flush(context),
            Io::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
