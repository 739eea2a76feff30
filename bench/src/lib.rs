//! Shared by the benchmark's servers: a listener with a long backlog, and request framing. The programs
//! here share no code with Plimsoll.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Accept backlog: a thousand connections may arrive at once. The kernel caps it at
/// net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Opens a non-blocking listener, and raises the descriptor limit to its hard limit.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// The range of the first request's body; `None` if the request is incomplete.
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
