//! A non-blocking byte stream over a socket, plain or TLS.

use crate::system::Socket;
use plimsoll_measure::Nanos;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use std::io::{self, Read, Write};
use std::sync::Arc;

/// What a TLS session needs: configuration and server name.
pub(crate) type TlsStart = (Arc<rustls::ClientConfig>, ServerName<'static>);

/// A socket, optionally with TLS.
pub(crate) struct Transport<K> {
    socket: Stamped<K>,
    tls: Option<Box<ClientConnection>>,
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
            Some((config, name)) => {
                let connection = ClientConnection::new(config.clone(), name.clone());
                Some(Box::new(connection.map_err(io::Error::other)?))
            }
            None => None,
        };
        Ok(Transport { socket: Stamped { socket, wanted: false, received_at: None }, tls })
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

    /// Whether the transport is ready for data; continues the TLS handshake as far as possible.
    ///
    /// # Errors
    /// If the handshake failed.
    pub(crate) fn is_ready(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        while tls.is_handshaking() {
            let written = write_records(tls, &mut self.socket.socket)?;
            if tls.is_handshaking() && tls.wants_read() {
                if !read_records(tls, &mut self.socket)? {
                    return Ok(false);
                }
            } else if !written {
                return Ok(false);
            }
        }
        write_records(tls, &mut self.socket.socket)?;
        Ok(true)
    }

    /// Reads available bytes; 0 means end of stream.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is available; `UnexpectedEof` if TCP was closed without a TLS
    /// close_notify.
    #[inline]
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.read(buffer),
            Some(tls) => read_plaintext(tls, &mut self.socket, buffer),
        }
    }

    /// Whether a read of `n` bytes into a buffer of `len` drained the socket, so that the poll will
    /// report further bytes.
    #[inline]
    pub(crate) fn is_drained_by(&self, n: usize, len: usize) -> bool {
        self.tls.is_none() && n < len
    }

    /// Writes as much as the kernel accepts. After a partial write, the poll reports when there is
    /// room again.
    ///
    /// # Errors
    /// `WouldBlock` if nothing was accepted; otherwise the connection failed.
    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.socket.write(bytes),
            Some(tls) => write_plaintext(tls, &mut self.socket.socket, bytes),
        }
    }

    /// Writes TLS records that are pending.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            write_records(tls, &mut self.socket.socket)?;
        }
        Ok(())
    }

    /// Closes the connection, after a close_notify if it uses TLS.
    pub(crate) fn close(mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // Best effort: the peer may already be gone.
            let _ = write_records(tls, &mut self.socket.socket);
        }
    }
}

/// Encrypts and writes until the kernel accepts no more. Encrypted bytes count as written, because
/// they cannot be taken back.
fn write_plaintext<K: Socket>(
    tls: &mut ClientConnection,
    socket: &mut K,
    bytes: &[u8],
) -> io::Result<usize> {
    let mut written = 0;
    loop {
        let n = tls.writer().write(&bytes[written..])?;
        written += n;
        write_records(tls, socket)?;
        // Remaining records mean that the socket buffer is full; the poll will report when it is
        // not.
        if written == bytes.len() || tls.wants_write() {
            break;
        }
    }
    if written == 0 && !bytes.is_empty() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(written)
}

/// Writes records until none is left or the kernel accepts no more; returns whether any byte was
/// written.
fn write_records<K: Socket>(tls: &mut ClientConnection, socket: &mut K) -> io::Result<bool> {
    let mut any = false;
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Ok(_) => any = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(any)
}

/// Reads available records; returns whether there were any.
fn read_records<K: Socket>(
    tls: &mut ClientConnection,
    socket: &mut Stamped<K>,
) -> io::Result<bool> {
    match tls.read_tls(socket) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        Err(error) => return Err(error),
    }
    if let Err(error) = tls.process_new_packets() {
        // Best effort: an alert with the reason for the peer.
        let _ = write_records(tls, &mut socket.socket);
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    Ok(true)
}

fn read_plaintext<K: Socket>(
    tls: &mut ClientConnection,
    socket: &mut Stamped<K>,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        match tls.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
        match read_records(tls, socket) {
            Ok(true) => {
                write_records(tls, &mut socket.socket)?;
            }
            Ok(false) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => return Err(error),
        }
    }
}
