//! Bytes over TCP, in the clear or through TLS: non-blocking, one type for both.

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What TLS needs to begin.
pub(crate) type TlsStart = (Arc<rustls::ClientConfig>, ServerName<'static>);

/// A socket, and TLS over it.
pub(crate) struct Transport {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Transport {
    /// Begins to connect; the poll reports `token` when something happened.
    pub(crate) fn connect(
        address: SocketAddr,
        source: Option<IpAddr>,
        tls: Option<&TlsStart>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Transport> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source {
            // The port is chosen at connect, when the whole 4-tuple is known: a source address then
            // gives its 28,000 ports to each destination and not to all of them together.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let mut socket = TcpStream::from_std(socket.into());
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        let tls = match tls {
            Some((config, name)) => {
                let connection = ClientConnection::new(config.clone(), name.clone());
                Some(Box::new(connection.map_err(io::Error::other)?))
            }
            None => None,
        };
        Ok(Transport { socket, tls })
    }

    /// Whether TCP is established.
    ///
    /// # Errors
    /// Why it never will be.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        match self.socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether TCP and TLS are established; goes on with the handshake as far as it can.
    ///
    /// # Errors
    /// Why they never will be.
    pub(crate) fn is_ready(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        while tls.is_handshaking() {
            let written = write_records(tls, &mut self.socket)?;
            if tls.is_handshaking() && tls.wants_read() {
                if !read_records(tls, &mut self.socket)? {
                    return Ok(false);
                }
            } else if !written {
                return Ok(false);
            }
        }
        write_records(tls, &mut self.socket)?;
        Ok(true)
    }

    /// Reads what is there; 0 is the end.
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

    /// Writes what the kernel, or TLS's buffer, takes.
    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.write(bytes),
            Some(tls) => {
                let taken = tls.writer().write(bytes)?;
                write_records(tls, &mut self.socket)?;
                if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
            }
        }
    }

    /// Writes on what TLS holds back.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            write_records(tls, &mut self.socket)?;
        }
        Ok(())
    }

    /// Leaves the poll, saying goodbye where the protocol has a word for it.
    pub(crate) fn close(mut self, registry: &Registry) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The other side may be gone already; nothing depends on it.
            let _ = write_records(tls, &mut self.socket);
        }
        // Closing the descriptor leaves the poll too.
        let _ = registry.deregister(&mut self.socket);
    }
}

/// Writes records until there are none or the kernel takes no more; whether any byte was taken.
fn write_records(tls: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<bool> {
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
fn read_records(tls: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<bool> {
    match tls.read_tls(socket) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        Err(error) => return Err(error),
    }
    if let Err(error) = tls.process_new_packets() {
        // The alert tells the other side why; it may not be read any more.
        let _ = write_records(tls, socket);
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    Ok(true)
}

fn read_plaintext(
    tls: &mut ClientConnection,
    socket: &mut TcpStream,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        match tls.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // An end without close_notify is an end all the same: whether the response was whole
            // is told by its own length.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            read => return read,
        }
        match read_records(tls, socket) {
            Ok(true) => {
                write_records(tls, socket)?;
            }
            Ok(false) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            Err(error) => return Err(error),
        }
    }
}
