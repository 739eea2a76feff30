//! A TLS session over a non-blocking socket.
//!
//! # Edges
//! The poll is edge-triggered: it reports room in the send buffer only after a write that the
//! kernel did not accept in full. Records are therefore written until none is left or the kernel
//! accepts no more, and nothing is encrypted while a record is left. So if anything remains to be
//! sent, the last write was refused and a report follows. It also means that the first record the
//! kernel accepts after an encryption belongs to the bytes encrypted last, which [`Session::is_held`]
//! relies on.

use super::Stamped;
use crate::system::Socket;
use crate::tls::NotTls;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::{self, Read, Write};
use std::sync::Arc;

/// Maximum number of reads from the socket in search of plaintext before other connections get
/// their turn: a peer may send records without any, such as tickets, for as long as it likes.
const READS_MAX: usize = 16;
/// How much of the peer's first bytes is kept, to recognise a server that does not use TLS.
const GREETING: usize = 5;

/// A client's TLS session.
pub(super) struct Session {
    tls: ClientConnection,
    /// Whether bytes were encrypted and the kernel has accepted none of them.
    held: bool,
    /// Why the session failed; reported once the plaintext received before it was read.
    failed: Option<rustls::Error>,
    /// The peer's first bytes.
    greeting: ([u8; GREETING], usize),
}

impl Session {
    /// A session that has not begun its handshake.
    ///
    /// # Errors
    /// If the configuration does not fit the name.
    pub(super) fn new(
        config: &Arc<ClientConfig>,
        name: &ServerName<'static>,
    ) -> io::Result<Session> {
        let tls = ClientConnection::new(config.clone(), name.clone()).map_err(io::Error::other)?;
        Ok(Session { tls, held: false, failed: None, greeting: ([0; GREETING], 0) })
    }

    /// Continues the handshake as far as possible; returns whether it is complete.
    ///
    /// # Errors
    /// If it failed; `UnexpectedEof` if the peer closed the connection.
    pub(super) fn shake_hands<K: Socket>(&mut self, socket: &mut Stamped<K>) -> io::Result<bool> {
        while self.tls.is_handshaking() {
            self.flush(socket)?;
            if !self.read_records(socket)? {
                return Ok(false);
            }
        }
        self.flush(socket)?;
        Ok(true)
    }

    /// Reads available plaintext; 0 means that the peer ended the stream with a close_notify.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is available; `Interrupted` if there may be more to read, but no
    /// plaintext was found yet; `UnexpectedEof` if TCP was closed without a close_notify.
    pub(super) fn read<K: Socket>(
        &mut self,
        socket: &mut Stamped<K>,
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        for _ in 0..READS_MAX {
            match self.tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            if !self.read_records(socket)? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// Encrypts and writes until the kernel accepts no more. Encrypted bytes count as taken,
    /// because the encryption cannot be undone.
    ///
    /// # Errors
    /// `WouldBlock` if nothing was taken; otherwise the connection failed before the kernel
    /// accepted any of `bytes`.
    pub(super) fn write<K: Socket>(
        &mut self,
        socket: &mut Stamped<K>,
        bytes: &[u8],
    ) -> io::Result<usize> {
        self.flush(socket)?;
        let mut taken = 0;
        while taken < bytes.len() && !self.tls.wants_write() {
            self.held |= taken == 0;
            taken += self.tls.writer().write(&bytes[taken..])?;
            match self.flush(socket) {
                // The kernel has some of the bytes. The poll reports that the connection failed.
                Err(_) if !self.held => return Ok(taken),
                flushed => flushed?,
            }
        }
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }

    /// Writes records until none is left or the kernel accepts no more.
    ///
    /// # Errors
    /// If the connection failed.
    pub(super) fn flush<K: Socket>(&mut self, socket: &mut Stamped<K>) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut socket.socket) {
                Ok(_) => self.held = false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether bytes were encrypted and the kernel has accepted none of them.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// Whether records are pending.
    pub(super) fn is_unflushed(&self) -> bool {
        self.tls.wants_write()
    }

    /// Whether HTTP/2 was agreed on in the handshake.
    pub(super) fn agreed_on_http2(&self) -> bool {
        self.tls.alpn_protocol() == Some(b"h2")
    }

    /// Sends a close_notify if possible; the peer may already be gone.
    pub(super) fn close<K: Socket>(&mut self, socket: &mut Stamped<K>) {
        self.tls.send_close_notify();
        let _ = self.flush(socket);
    }

    /// Reads and processes available records; returns whether there were any.
    fn read_records<K: Socket>(&mut self, socket: &mut Stamped<K>) -> io::Result<bool> {
        if let Some(error) = &self.failed {
            return Err(self.describe(error.clone()));
        }
        let read = if self.tls.is_handshaking() {
            let mut greeted = Greeted { socket, greeting: &mut self.greeting };
            self.tls.read_tls(&mut greeted)
        } else {
            self.tls.read_tls(socket)
        };
        match read {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            // More of an unfinished handshake message than rustls buffers.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.failed = Some(rustls::Error::General(error.to_string()));
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
        self.failed = self.tls.process_new_packets().err();
        // Replies, and after a failure an alert with the reason. If the connection failed, the next
        // read reports it, after the plaintext that has arrived.
        let _ = self.flush(socket);
        Ok(true)
    }

    /// The error of a failed session, and whether the peer uses TLS at all.
    fn describe(&self, error: rustls::Error) -> io::Error {
        let (greeting, len) = &self.greeting;
        let not_tls = NotTls::recognise(&greeting[..*len]);
        match (&error, not_tls) {
            (rustls::Error::InvalidMessage(_), Some(not_tls)) => {
                io::Error::new(io::ErrorKind::InvalidData, not_tls)
            }
            _ => io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// A socket whose first bytes are kept.
struct Greeted<'a, K> {
    socket: &'a mut Stamped<K>,
    greeting: &'a mut ([u8; GREETING], usize),
}

impl<K: Socket> Read for Greeted<'_, K> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.socket.read(buffer)?;
        let (greeting, len) = &mut *self.greeting;
        let kept = n.min(GREETING - *len);
        greeting[*len..*len + kept].copy_from_slice(&buffer[..kept]);
        *len += kept;
        Ok(n)
    }
}
