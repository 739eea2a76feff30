//! Simulated connections for tests on virtual time: two byte queues in memory.
//!
//! A peer reads and writes them as it would a socket, and can end its direction, reset the
//! connection, or leave bytes unread. Nothing takes time; delays are the peers' own.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Opens simulated connections; the future resolves when the peer accepts or refuses.
pub(crate) type Connect =
    Rc<dyn Fn(SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<MemorySocket>>>>>;

/// One direction of a connection.
#[derive(Debug, Default)]
struct Queue {
    bytes: VecDeque<u8>,
    is_ended: bool,
    is_reset: bool,
    reader: Option<Waker>,
}

impl Queue {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// An end of a simulated connection.
#[derive(Debug)]
pub(crate) struct MemorySocket {
    inbound: Rc<RefCell<Queue>>,
    outbound: Rc<RefCell<Queue>>,
}

impl MemorySocket {
    /// The two ends of a new connection.
    pub(crate) fn pair() -> (MemorySocket, MemorySocket) {
        let (one, other) = (Rc::<RefCell<Queue>>::default(), Rc::<RefCell<Queue>>::default());
        let ours = MemorySocket { inbound: one.clone(), outbound: other.clone() };
        (ours, MemorySocket { inbound: other, outbound: one })
    }

    /// Resets the connection: the other end's reads and writes fail, and unread bytes are lost.
    pub(crate) fn reset(&self) {
        for queue in [&self.inbound, &self.outbound] {
            let mut queue = queue.borrow_mut();
            queue.is_reset = true;
            queue.bytes.clear();
            queue.wake();
        }
    }

    /// Ready if there may be data to read, an end or an error.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut queue = self.inbound.borrow_mut();
        if queue.bytes.is_empty() && !queue.is_ended && !queue.is_reset {
            queue.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether nothing is pending: no data, no end, no error.
    pub(crate) fn is_quiet(&self) -> bool {
        self.poll_readable(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}

impl Drop for MemorySocket {
    fn drop(&mut self) {
        let mut outbound = self.outbound.borrow_mut();
        outbound.is_ended = true;
        outbound.wake();
        // What the other end writes from now on is answered with a reset.
        self.inbound.borrow_mut().is_reset = true;
    }
}

impl AsyncRead for MemorySocket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut queue = self.inbound.borrow_mut();
        if queue.is_reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if queue.bytes.is_empty() && !queue.is_ended {
            queue.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = into.remaining().min(queue.bytes.len());
        for byte in queue.bytes.drain(..count) {
            into.put_slice(&[byte]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MemorySocket {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut queue = self.outbound.borrow_mut();
        if queue.is_reset || queue.is_ended {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        queue.bytes.extend(bytes);
        queue.wake();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut queue = self.outbound.borrow_mut();
        queue.is_ended = true;
        queue.wake();
        Poll::Ready(Ok(()))
    }
}
