//! A scripted upstream: it says what its test wants said, byte for byte, and remembers what it was
//! asked.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// What follows the bytes of a reply.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Keep,
    Close,
    Reset,
    /// Says nothing more until the other side closes.
    Hang,
    /// Writes the last fragment again and again.
    Repeat,
}

/// A reply, in fragments that are written one by one.
pub(crate) struct Reply {
    pub(crate) fragments: Vec<Vec<u8>>,
    pub(crate) then: Then,
}

impl Reply {
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>, then: Then) -> Reply {
        Reply { fragments: vec![bytes.into()], then }
    }

    /// A response with a length; `fields` are whole lines.
    pub(crate) fn with(status: u16, fields: &str, body: &str) -> Reply {
        let len = body.len();
        let text = format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {len}\r\n\r\n{body}");
        Reply::raw(text, Then::Keep)
    }

    /// A 200 with a body.
    pub(crate) fn ok(body: &str) -> Reply {
        Reply::with(200, "", body)
    }

    /// A result under the call's id.
    pub(crate) fn result(asked: &Asked, result: &str) -> Reply {
        Reply::ok(&answer(asked, result))
    }

    /// The call's parameters as its result.
    pub(crate) fn echo(asked: &Asked) -> Reply {
        Reply::result(asked, asked.params())
    }
}

/// An answer with a result under the call's id.
pub(crate) fn answer(asked: &Asked, result: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{result}}}", asked.id())
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Asked {
    /// `METHOD PATH`.
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap().strip_suffix(" HTTP/1.1").unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1);
        let pairs = lines.filter_map(|line| line.split_once(": "));
        pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// The id that the gateway gave the call.
    pub(crate) fn id(&self) -> &str {
        let rest = self.body.split_once("\"id\":").map_or("", |(_, rest)| rest);
        &rest[..rest.bytes().take_while(u8::is_ascii_digit).count()]
    }

    /// The method that the gateway wrote.
    pub(crate) fn method(&self) -> &str {
        let rest = self.body.split_once("\"method\":\"").map_or("", |(_, rest)| rest);
        rest.split('"').next().unwrap_or_default()
    }

    /// The parameters that the gateway handed on.
    pub(crate) fn params(&self) -> &str {
        self.body.split_once("\"params\":").map_or("null", |(_, rest)| &rest[..rest.len() - 1])
    }
}

#[derive(Default)]
struct State {
    asked: Mutex<Vec<Asked>>,
    changed: Condvar,
    stopping: AtomicBool,
    connections: AtomicUsize,
    closed: AtomicUsize,
}

pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

impl Upstream {
    /// Serves replies made from requests and their numbers, from 0.
    pub(crate) fn start(
        reply: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static,
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
                    // Under the lock, so that a waiting thread cannot have looked just before.
                    let _asked = state.asked.lock().unwrap();
                    state.closed.fetch_add(1, Ordering::SeqCst);
                    state.changed.notify_all();
                });
            }
        });
        Upstream { address, state }
    }

    /// Echoes parameters as results.
    pub(crate) fn echo() -> Upstream {
        Upstream::start(|_, asked| Reply::echo(asked))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.lock().clone()
    }

    pub(crate) fn last(&self) -> Asked {
        self.lock().last().cloned().unwrap()
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Waits until `requests` requests have come.
    pub(crate) fn wait_for(&self, requests: usize) {
        let mut asked = self.lock();
        while asked.len() < requests {
            asked = self.state.changed.wait(asked).unwrap();
        }
    }

    /// Waits until `connections` connections have ended.
    pub(crate) fn wait_for_closed(&self, connections: usize) {
        let mut asked = self.lock();
        while self.state.closed.load(Ordering::SeqCst) < connections {
            asked = self.state.changed.wait(asked).unwrap();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.state.asked.lock().unwrap()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut socket: TcpStream, state: &State, reply: &(impl Fn(usize, &Asked) -> Reply + ?Sized)) {
    let _ = socket.set_nodelay(true);
    state.connections.fetch_add(1, Ordering::SeqCst);
    let mut read = Vec::new();
    while let Some(asked) = read_request(&mut socket, &mut read) {
        let number = {
            let mut all = state.asked.lock().unwrap();
            all.push(asked.clone());
            all.len() - 1
        };
        state.changed.notify_all();
        let reply = reply(number, &asked);
        for fragment in &reply.fragments {
            if socket.write_all(fragment).is_err() {
                return;
            }
        }
        match reply.then {
            Then::Keep => {}
            Then::Close => return drop(socket.shutdown(Shutdown::Both)),
            Then::Reset => {
                let reset = Some(std::time::Duration::ZERO);
                return socket2::SockRef::from(&socket).set_linger(reset).unwrap();
            }
            Then::Hang => return drop(socket.read_to_end(&mut Vec::new())),
            Then::Repeat => {
                let last = reply.fragments.last().unwrap();
                while socket.write_all(last).is_ok() {}
                return;
            }
        }
    }
}

/// Reads a request; what lies behind it stays in `read`.
fn read_request(socket: &mut TcpStream, read: &mut Vec<u8>) -> Option<Asked> {
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
    let mut asked = Asked { head, body: String::new() };
    let length: usize = asked.field("content-length").map_or(0, |value| value.parse().unwrap());
    while read.len() < end + length {
        more(read)?;
    }
    asked.body = String::from_utf8_lossy(&read[end..end + length]).into_owned();
    read.drain(..end + length);
    Some(asked)
}
