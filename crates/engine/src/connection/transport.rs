//! Bytes over a socket, in the clear or through TLS: non-blocking, one type for both.

use crate::system::Socket;
use plimsoll_measure::Nanos;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use std::io::{self, Read, Write};
use std::sync::Arc;

/// What TLS needs to begin.
pub(crate) type TlsStart = (Arc<rustls::ClientConfig>, ServerName<'static>);

/// A socket, and TLS over it.
pub(crate) struct Transport<K> {
    socket: Stamped<K>,
    tls: Option<Box<ClientConnection>>,
}

/// A socket that remembers when the kernel received what was read last.
struct Stamped<K> {
    socket: K,
    /// Whether stamps are wanted: they cost a little more than a plain read.
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
    /// Over a socket that is being connected.
    ///
    /// # Errors
    /// TLS cannot begin.
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

    /// Whether reads ask the kernel when the bytes arrived.
    #[inline]
    pub(crate) fn want_stamps(&mut self, wanted: bool) {
        self.socket.wanted = wanted;
        self.socket.received_at = None;
    }

    /// When the kernel received what was read last; `None` where stamps were not wanted.
    #[inline]
    pub(crate) fn received_at(&self) -> Option<Nanos> {
        self.socket.received_at
    }

    /// Whether TCP is established.
    ///
    /// # Errors
    /// Why it never will be.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        self.socket.socket.is_connected()
    }

    /// Whether TLS is spoken.
    pub(crate) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether TCP and TLS are established; goes on with the handshake as far as it can.
    ///
    /// # Errors
    /// Why they never will be.
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

    /// Reads what is there; 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; `UnexpectedEof` when TCP ended and TLS had not.
    #[inline]
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.read(buffer),
            Some(tls) => read_plaintext(tls, &mut self.socket, buffer),
        }
    }

    /// Whether a read of `n` bytes into room for `len` took all that was there, so that the next
    /// bytes will be announced by the poll.
    #[inline]
    pub(crate) fn is_drained_by(&self, n: usize, len: usize) -> bool {
        self.tls.is_none() && n < len
    }

    /// Writes as much as the kernel takes. When it is less than everything, the poll will say when
    /// there is room again.
    ///
    /// # Errors
    /// `WouldBlock` when nothing was taken, or why the connection is over.
    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.socket.write(bytes),
            Some(tls) => write_plaintext(tls, &mut self.socket.socket, bytes),
        }
    }

    /// Writes what TLS holds back.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            write_records(tls, &mut self.socket.socket)?;
        }
        Ok(())
    }

    /// Closes it, with TLS's own farewell first.
    pub(crate) fn close(mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The other side may be gone already; nothing depends on it.
            let _ = write_records(tls, &mut self.socket.socket);
        }
    }
}

/// Encrypts and writes until the kernel takes no more. What TLS has encrypted by then counts as
/// taken: it is on its way whatever happens.
fn write_plaintext<K: Socket>(
    tls: &mut ClientConnection,
    socket: &mut K,
    bytes: &[u8],
) -> io::Result<usize> {
    let mut taken = 0;
    loop {
        let n = tls.writer().write(&bytes[taken..])?;
        taken += n;
        write_records(tls, socket)?;
        // Records left over mean that the kernel is full, and that the poll will say when it is not.
        if taken == bytes.len() || tls.wants_write() {
            break;
        }
    }
    if taken == 0 && !bytes.is_empty() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(taken)
}

/// Writes records until there are none or the kernel takes no more; whether any byte was taken.
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

/// Reads records that are there; whether there were any.
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
        // The alert tells the other side why; it may not be read any more.
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
