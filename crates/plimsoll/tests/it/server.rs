//! A scripted HTTP server for tests: sends replies byte for byte, and records the requests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What the server does after a reply.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    Keep,
    Close,
    Reset,
    /// Keeps the connection open without sending anything.
    Hang,
    /// Sends the last fragment repeatedly.
    Repeat,
}

/// A reply, in fragments that are written separately.
pub(crate) struct Reply {
    pub(crate) fragments: Vec<Vec<u8>>,
    pub(crate) then: After,
}

impl Reply {
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>, then: After) -> Reply {
        Reply { fragments: vec![bytes.into()], then }
    }

    /// A 200 with a body.
    pub(crate) fn ok(body: &str) -> Reply {
        Reply::with(200, "", body)
    }

    /// A response with a length; `headers` are whole lines.
    pub(crate) fn with(status: u16, headers: &str, body: &str) -> Reply {
        let len = body.len();
        let text = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {len}\r\n\r\n{body}");
        Reply::raw(text, After::Keep)
    }
}

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) head: String,
    pub(crate) body: String,
    pub(crate) from: SocketAddr,
}

impl Received {
    /// `METHOD PATH`.
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap().strip_suffix(" HTTP/1.1").unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        let pairs = lines.filter_map(|line| line.split_once(": "));
        pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

#[derive(Default)]
struct State {
    received: Mutex<Vec<Received>>,
    changed: Condvar,
    stopping: AtomicBool,
    connections: AtomicUsize,
    sockets: Mutex<Vec<TcpStream>>,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

impl Server {
    /// Starts a server. `reply` computes the reply from the number of the request, from 0, and the
    /// request.
    pub(crate) fn start(
        reply: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static,
    ) -> Server {
        Server::on(TcpListener::bind("127.0.0.1:0").unwrap(), Duration::ZERO, reply)
    }

    /// Starts a server that pauses before each connection that it accepts.
    pub(crate) fn on(
        listener: TcpListener,
        pause: Duration,
        reply: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let reply = Arc::new(reply);
        let shared = state.clone();
        std::thread::spawn(move || {
            let never = std::sync::mpsc::channel::<()>();
            for socket in listener.incoming() {
                let _ = never.1.recv_timeout(pause);
                if shared.stopping.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(socket) = socket else { continue };
                shared.sockets.lock().unwrap().push(socket.try_clone().unwrap());
                let (state, reply) = (shared.clone(), reply.clone());
                std::thread::spawn(move || serve(socket, &state, &*reply));
            }
        });
        Server { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Waits until `requests` requests were received.
    pub(crate) fn wait_for(&self, requests: usize) {
        let mut received = self.state.received.lock().unwrap();
        while received.len() < requests {
            received = self.state.changed.wait(received).unwrap();
        }
    }

    /// Closes the listener and every connection.
    pub(crate) fn stop(&self) {
        if !self.state.stopping.swap(true, Ordering::SeqCst) {
            let _ = TcpStream::connect(self.address);
            for socket in self.state.sockets.lock().unwrap().drain(..) {
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(
    mut socket: TcpStream,
    state: &State,
    reply: &(impl Fn(usize, &Received) -> Reply + ?Sized),
) {
    let _ = socket.set_nodelay(true);
    state.connections.fetch_add(1, Ordering::SeqCst);
    let from = socket.peer_addr().unwrap();
    while let Some((head, body)) = read_request(&mut socket) {
        let received = Received { head, body, from };
        let number = {
            let mut all = state.received.lock().unwrap();
            all.push(received.clone());
            all.len() - 1
        };
        state.changed.notify_all();
        let reply = reply(number, &received);
        for fragment in &reply.fragments {
            if socket.write_all(fragment).is_err() {
                return;
            }
        }
        match reply.then {
            After::Keep => {}
            After::Close => {
                let _ = socket.shutdown(std::net::Shutdown::Both);
                return;
            }
            After::Reset => {
                let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Linger, &linger)
                    .unwrap();
                return forget(socket, state);
            }
            After::Hang => {
                // Ends when the client or the test closes the connection.
                let _ = socket.read_to_end(&mut Vec::new());
                return;
            }
            After::Repeat => {
                let last = reply.fragments.last().unwrap();
                while socket.write_all(last).is_ok() {}
                return;
            }
        }
    }
}

/// Drops every handle of a socket, so that it is closed.
fn forget(socket: TcpStream, state: &State) {
    let peer = socket.peer_addr();
    state
        .sockets
        .lock()
        .unwrap()
        .retain(|other| other.peer_addr().ok() != peer.as_ref().ok().copied());
}

fn read_request(socket: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .map_or(0, |(_, value)| value.parse().unwrap());
            let mut body = bytes[end + 4..].to_vec();
            // A chunked body is recorded as it was sent; its last chunk ends it.
            let chunked = head.contains("Transfer-Encoding: chunked");
            while body.len() < length || chunked && !body.ends_with(b"0\r\n\r\n") {
                let n = socket.read(&mut buffer).ok().filter(|n| *n > 0)?;
                body.extend_from_slice(&buffer[..n]);
            }
            return Some((head, String::from_utf8_lossy(&body).into_owned()));
        }
        let n = socket.read(&mut buffer).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..n]);
    }
}
