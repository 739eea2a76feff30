//! A connection's byte stream that can cut, reset or slow down a response.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use plimsoll_measure::Nanos;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How the bytes of the next response are written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Delivery {
    /// Unchanged.
    #[default]
    Intact,
    /// `left` bytes are written, then the connection is closed or reset.
    Cut { left: usize, reset: bool },
    /// In chunks of `bytes`, with pauses of `every`.
    Drip { bytes: usize, every: Nanos },
    /// HTTP/2: the stream is refused, as not processed. No effect on HTTP/1.1.
    Refuse,
    /// HTTP/2: the connection ends with GOAWAY ENHANCE_YOUR_CALM. No effect on HTTP/1.1.
    Calm,
}

/// Sets how a connection's next response is delivered.
#[derive(Clone, Default)]
pub(crate) struct Control(Arc<Mutex<Delivery>>);

impl Control {
    pub(crate) fn set(&self, delivery: Delivery) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = delivery;
    }

    pub(crate) fn delivery(&self) -> Delivery {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that obeys a [`Control`].
pub(crate) struct Wire {
    stream: TcpStream,
    /// Bytes that were read before.
    first: Vec<u8>,
    control: Control,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    /// A stream whose `first` bytes were read already.
    pub(crate) fn new(stream: TcpStream, first: Vec<u8>, control: Control) -> Wire {
        Wire { stream, first, control, pause: None }
    }

    /// Makes the connection send a reset when it is closed.
    fn reset_on_close(&self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let n = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first[..n]);
            self.first.drain(..n);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.control.delivery() {
            Delivery::Intact | Delivery::Refuse | Delivery::Calm => {
                Pin::new(&mut self.stream).poll_write(context, bytes)
            }
            Delivery::Cut { left: 0, reset } => {
                if reset {
                    self.reset_on_close();
                }
                Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
            }
            Delivery::Cut { left, reset } => {
                let part = &bytes[..left.min(bytes.len())];
                let written = ready!(Pin::new(&mut self.stream).poll_write(context, part))?;
                self.control.set(Delivery::Cut { left: left - written, reset });
                Poll::Ready(Ok(written))
            }
            Delivery::Drip { bytes: size, every } => {
                if let Some(pause) = &mut self.pause {
                    ready!(pause.as_mut().poll(context));
                    self.pause = None;
                }
                let part = &bytes[..size.min(bytes.len())];
                let written = ready!(Pin::new(&mut self.stream).poll_write(context, part))?;
                self.pause = Some(Box::pin(tokio::time::sleep(every.into())));
                Poll::Ready(Ok(written))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
