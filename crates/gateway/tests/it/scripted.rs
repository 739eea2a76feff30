//! A scripted upstream: it sends exactly the bytes that a test specifies, and records the requests it
//! receives.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// What an upstream does after sending a reply.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterReply {
    KeepAlive,
    Close,
    /// Closes once the test calls [`Upstream::close_waiting`].
    CloseWhenAsked,
    Reset,
    /// Sends nothing more until the other side closes.
    Hang,
    /// Sends the last fragment repeatedly until the other side closes.
    RepeatLast,
}

/// A reply, in fragments that are written one at a time.
pub(crate) struct Reply {
    pub(crate) fragments: Vec<Vec<u8>>,
    pub(crate) after: AfterReply,
}

impl Reply {
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>, after: AfterReply) -> Reply {
        Reply { fragments: vec![bytes.into()], after }
    }

    /// A response with a content length; `headers` are complete lines, including CRLF.
    pub(crate) fn with(status: u16, headers: &str, body: &str) -> Reply {
        let len = body.len();
        let text = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {len}\r\n\r\n{body}");
        Reply::raw(text, AfterReply::KeepAlive)
    }

    /// A 200 response with this body.
    pub(crate) fn ok(body: &str) -> Reply {
        Reply::with(200, "", body)
    }

    /// A JSON-RPC result with the call's id.
    pub(crate) fn result(received: &Received, result: &str) -> Reply {
        Reply::ok(&answer(received, result))
    }

    /// Returns the call's parameters as its result.
    pub(crate) fn echo(received: &Received) -> Reply {
        Reply::result(received, received.params())
    }
}

/// The JSON of a result with the call's id.
pub(crate) fn answer(received: &Received, result: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{result}}}", received.id())
}

/// A request as received.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) head: String,
    pub(crate) body: String,
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

    /// The id that the gateway assigned to the call.
    pub(crate) fn id(&self) -> &str {
        let rest = self.body.split_once("\"id\":").map_or("", |(_, rest)| rest);
        &rest[..rest.bytes().take_while(u8::is_ascii_digit).count()]
    }

    /// The method that the gateway sent.
    pub(crate) fn method(&self) -> &str {
        let rest = self.body.split_once("\"method\":\"").map_or("", |(_, rest)| rest);
        rest.split('"').next().unwrap_or_default()
    }

    /// The parameters that the gateway forwarded.
    pub(crate) fn params(&self) -> &str {
        self.body.split_once("\"params\":").map_or("null", |(_, rest)| &rest[..rest.len() - 1])
    }
}

#[derive(Default)]
struct State {
    received: Mutex<Vec<Received>>,
    changed: Condvar,
    stopping: AtomicBool,
    closing: AtomicBool,
    connections: AtomicUsize,
    closed: AtomicUsize,
}

pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

impl Upstream {
    /// Starts an upstream that replies with `reply(n, request)` to request n, counted from 0.
    pub(crate) fn start(
        reply: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static,
    ) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let reply = Arc::new(reply);
        let shared = state.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                if shared.stopping.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(socket) = socket else { continue };
                let (state, reply) = (shared.clone(), reply.clone());
                std::thread::spawn(move || {
                    serve(socket, &state, &*reply);
                    // Under the lock, so that a thread cannot miss the notification between check and wait.
                    let _asked = state.received.lock().unwrap();
                    state.closed.fetch_add(1, Ordering::SeqCst);
                    state.changed.notify_all();
                });
            }
        });
        Upstream { address, state }
    }

    /// Starts an upstream that returns each call's parameters as its result.
    pub(crate) fn echo() -> Upstream {
        Upstream::start(|_, received| Reply::echo(received))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.lock().clone()
    }

    pub(crate) fn last(&self) -> Received {
        self.lock().last().cloned().unwrap()
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Waits until `requests` requests have been received.
    pub(crate) fn wait_for(&self, requests: usize) {
        let mut received = self.lock();
        while received.len() < requests {
            received = self.state.changed.wait(received).unwrap();
        }
    }

    /// Waits until `connections` connections have closed.
    pub(crate) fn wait_for_closed(&self, connections: usize) {
        let mut received = self.lock();
        while self.state.closed.load(Ordering::SeqCst) < connections {
            received = self.state.changed.wait(received).unwrap();
        }
    }

    /// Closes the connections that wait for it.
    pub(crate) fn close_waiting(&self) {
        // Under the lock, so that a thread cannot miss the notification between check and wait.
        let _received = self.lock();
        self.state.closing.store(true, Ordering::SeqCst);
        self.state.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Received>> {
        self.state.received.lock().unwrap()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    mut socket: TcpStream,
    state: &State,
    reply: &(impl Fn(usize, &Received) -> Reply + ?Sized),
) {
    let _ = socket.set_nodelay(true);
    state.connections.fetch_add(1, Ordering::SeqCst);
    let mut read = Vec::new();
    while let Some(received) = read_request(&mut socket, &mut read) {
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
        match reply.after {
            AfterReply::KeepAlive => {}
            AfterReply::Close => return drop(socket.shutdown(Shutdown::Both)),
            AfterReply::CloseWhenAsked => {
                let mut received = state.received.lock().unwrap();
                while !state.closing.load(Ordering::SeqCst) {
                    received = state.changed.wait(received).unwrap();
                }
                return drop(socket.shutdown(Shutdown::Both));
            }
            AfterReply::Reset => {
                let reset = Some(std::time::Duration::ZERO);
                return socket2::SockRef::from(&socket).set_linger(reset).unwrap();
            }
            AfterReply::Hang => return drop(socket.read_to_end(&mut Vec::new())),
            AfterReply::RepeatLast => {
                let last = reply.fragments.last().unwrap();
                while socket.write_all(last).is_ok() {}
                return;
            }
        }
    }
}

/// Reads one request; bytes after it stay in `read`.
fn read_request(socket: &mut TcpStream, read: &mut Vec<u8>) -> Option<Received> {
    let mut buffer = [0; 16 << 10];
    let mut more = |read: &mut Vec<u8>| {
        let n = socket.read(&mut buffer).ok().filter(|n| *n > 0)?;
        read.extend_from_slice(&buffer[..n]);
        Some(())
    };
    let end = loop {
        match read.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(end) => break end + 4,
            None => more(read)?,
        }
    };
    let head = String::from_utf8(read[..end - 4].to_vec()).unwrap();
    let mut received = Received { head, body: String::new() };
    let length: usize = received.header("content-length").map_or(0, |value| value.parse().unwrap());
    while read.len() < end + length {
        more(read)?;
    }
    received.body = String::from_utf8_lossy(&read[end..end + length]).into_owned();
    read.drain(..end + length);
    Some(received)
}
