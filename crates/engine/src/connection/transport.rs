//! A non-blocking byte stream over a socket, plain or TLS.

mod session;

use crate::system::Socket;
use plimsoll_measure::Nanos;
use rustls::pki_types::ServerName;
use session::Session;
use std::io::{self, Read};
use std::sync::Arc;

/// What a TLS session needs: configuration and server name.
pub(crate) type TlsStart = (Arc<rustls::ClientConfig>, ServerName<'static>);

/// A socket, optionally with TLS.
pub(crate) struct Transport<K> {
    socket: Stamped<K>,
    tls: Option<Box<Session>>,
}

/// A socket that records when the kernel received the bytes read last.
struct Stamped<K> {
    socket: K,
    /// Whether to request timestamps, which cost a little more than a plain read.
    wanted: bool,
    received_at: Option<Nanos>,
}

impl<K: Socket> Read for Stamped<K> {
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.wanted {
            return self.socket.read(buffer);
        }
        let (n, received_at) = self.socket.read_stamped(buffer)?;
        self.received_at = received_at.or(self.received_at);
        Ok(n)
    }
}

impl<K: Socket> Transport<K> {
    /// A transport over a connecting socket.
    ///
    /// # Errors
    /// If the TLS session cannot be created.
    pub(crate) fn new(socket: K, tls: Option<&TlsStart>) -> io::Result<Transport<K>> {
        let tls = match tls {
            Some((config, name)) => Some(Box::new(Session::new(config, name)?)),
            None => None,
        };
        Ok(Transport { socket: Stamped { socket, wanted: false, received_at: None }, tls })
    }

    /// The socket.
    #[cfg(test)]
    pub(super) fn socket_mut(&mut self) -> &mut K {
        &mut self.socket.socket
    }

    /// Sets whether reads request receive timestamps.
    #[inline]
    pub(crate) fn want_stamps(&mut self, wanted: bool) {
        self.socket.wanted = wanted;
        self.socket.received_at = None;
    }

    /// When the kernel received the bytes read last; `None` if timestamps were not requested.
    #[inline]
    pub(crate) fn received_at(&self) -> Option<Nanos> {
        self.socket.received_at
    }

    /// Whether TCP is connected.
    ///
    /// # Errors
    /// If connecting failed.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        self.socket.socket.is_connected()
    }

    /// Whether this is a TLS connection.
    pub(crate) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether HTTP/2 was agreed on in the TLS handshake.
    pub(crate) fn agreed_on_http2(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.agreed_on_http2())
    }

    /// Whether the transport is ready for data; continues the TLS handshake as far as possible.
    ///
    /// # Errors
    /// If the handshake failed; `UnexpectedEof` if the peer closed the connection.
    pub(crate) fn is_ready(&mut self) -> io::Result<bool> {
        match &mut self.tls {
            None => Ok(true),
            Some(tls) => tls.shake_hands(&mut self.socket),
        }
    }

    /// Reads available bytes; 0 means end of stream.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is available; `Interrupted` if the read should be repeated;
    /// `UnexpectedEof` if TCP was closed without a TLS close_notify.
    #[inline]
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.read(buffer),
            Some(tls) => tls.read(&mut self.socket, buffer),
        }
    }

    /// Whether a read of `n` bytes into a buffer of `len` drained the socket, so that the poll will
    /// report further bytes.
    #[inline]
    pub(crate) fn is_drained_by(&self, n: usize, len: usize) -> bool {
        self.tls.is_none() && n < len
    }

    /// Writes as much as the kernel accepts; returns the number of bytes taken, which TLS may have
    /// encrypted without the kernel accepting them yet (see [`Transport::is_held`]). If fewer than
    /// all bytes were taken, or [`Transport::is_unflushed`], the poll reports when there is room
    /// again.
    ///
    /// # Errors
    /// `WouldBlock` if nothing was taken; otherwise the connection failed, and the kernel accepted
    /// none of `bytes`.
    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.socket.write(bytes),
            Some(tls) => tls.write(&mut self.socket, bytes),
        }
    }

    /// Writes TLS records that are pending.
    ///
    /// # Errors
    /// If the connection failed.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => Ok(()),
            Some(tls) => tls.flush(&mut self.socket),
        }
    }

    /// Whether the kernel has accepted none of the bytes of the last [`Transport::write`] that took
    /// any.
    #[inline]
    pub(crate) fn is_held(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_held())
    }

    /// Whether TLS records are pending.
    #[inline]
    pub(crate) fn is_unflushed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_unflushed())
    }

    /// Ends the connection, with a close_notify if it uses TLS; dropping the socket closes it.
    pub(crate) fn close(mut self) -> K {
        if let Some(tls) = &mut self.tls {
            tls.close(&mut self.socket);
        }
        self.socket.socket
    }
}
