//! What this bench's own servers share: a listening socket with room for a burst, and the end of a
//! request. No program here shares code with the product.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Connections that the kernel completes before they are accepted: a thousand may come at once.
/// The kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// A non-blocking listener, in a process that may open as many files as the kernel lets it.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Where the body of the first request begins and ends, when it is whole.
pub fn request_body(bytes: &[u8]) -> io::Result<Option<std::ops::Range<usize>>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head_len) = request.parse(bytes).map_err(io::Error::other)?
    else {
        return Ok(None);
    };
    let body_len = request
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("content-length"))
        .and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok())
        .unwrap_or(0);
    let end = head_len.saturating_add(body_len);
    Ok((end <= bytes.len()).then_some(head_len..end))
}
