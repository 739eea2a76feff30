//! How a connection ends, against a real socket on the other side.

use super::*;
use mio::{Events, Poll};
use plimsoll_measure::rng::Key;
use plimsoll_plan::{Body, Expect, RpcExpect, Template, Turn, Url};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

struct Pair {
    poll: Poll,
    connection: Connection,
    peer: Option<TcpStream>,
    request: Request,
}

/// An established connection and the other side's socket.
fn pair() -> Pair {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = (listener.local_addr().unwrap(), None);
    let poll = Poll::new().unwrap();
    let connection = Connection::open(0, to, None, (poll.registry(), Token(0)), Nanos::ZERO);
    let (peer, _) = listener.accept().unwrap();
    let url = Url::parse("http://h/").unwrap();
    let turn = Turn {
        method: "GET".into(),
        url_shown: url.to_string(),
        path: Template::plain(url.path.clone()),
        url,
        headers: Vec::new(),
        body: Body::Empty,
        expect: Expect { status: vec![200..=299], rpc: RpcExpect::Off, contains: None },
    };
    let request = Request::compile(&turn, 0, false);
    let mut pair = Pair { poll, connection: connection.unwrap(), peer: Some(peer), request };
    assert_eq!(pair.connection.capacity(), 0, "not established yet");
    pair.until("Established");
    pair
}

impl Pair {
    fn start(&mut self, exchange: Id, trace: bool) -> Started {
        let outgoing = Outgoing {
            exchange,
            request: &self.request,
            draw: Draw { seq: 0, key: Key::new(0) },
            body_max: 100,
            keep_body: true,
            last: false,
            trace,
        };
        self.connection.start(outgoing, (&mut Vec::new(), &mut Vec::new()))
    }

    /// What it tells with what the poll said, in words; empty when nothing.
    fn told(&mut self, mut ready: Readiness) -> String {
        let mut scratch = [0; 4096];
        let event = self.connection.next(&mut ready, &mut scratch);
        event.map_or(String::new(), |event| format!("{event:?}"))
    }

    /// Polls until it tells what begins so.
    fn until(&mut self, begins: &str) -> String {
        let mut events = Events::with_capacity(8);
        loop {
            self.poll.poll(&mut events, None).unwrap();
            for event in &events {
                let told = self.told(Readiness {
                    readable: event.is_readable(),
                    writable: event.is_writable(),
                    read_closed: event.is_read_closed(),
                });
                if told.starts_with(begins) {
                    return told;
                }
                assert_eq!(told, "", "before {begins}");
            }
        }
    }
}

#[test]
fn an_answer_gives_the_capacity_back() {
    let mut pair = pair();
    assert_eq!(pair.connection.capacity(), 1);
    let len =
        pair.request.bytes(Draw { seq: 0, key: Key::new(0) }, (&mut vec![], &mut vec![])).len();
    assert!(matches!(pair.start(7, true), Started::Sent { bytes } if bytes == len as u64));
    assert_eq!((pair.connection.capacity(), pair.connection.is_idle()), (0, false));
    let mut asked = vec![0; len];
    let peer = pair.peer.as_mut().unwrap();
    peer.read_exact(&mut asked).unwrap();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    peer.write_all(answer).unwrap();
    let told = pair.until("Answered");
    assert!(told.contains("exchange: 7, bytes: 40"), "{told}");
    assert_eq!((pair.connection.capacity(), pair.connection.is_idle()), (1, true));
    assert!(pair.connection.take_trace(8).is_none(), "another's");
    let trace = pair.connection.take_trace(7).unwrap();
    assert_eq!((trace.request, trace.response), (asked, answer.to_vec()));
}

#[test]
fn what_was_given_up_ends_an_http1_connection() {
    let mut pair = pair();
    pair.start(7, false);
    pair.connection.abandon(8);
    assert_eq!(pair.told(Readiness::NONE), "", "another's end is none of its business");
    pair.connection.abandon(7);
    assert_eq!((pair.connection.capacity(), pair.connection.is_idle()), (0, true));
    assert_eq!(pair.told(Readiness::NONE), "Closed { why: AfterTimeout, failure: None }");
}

#[test]
fn a_refused_request_is_followed_by_the_end() {
    let mut pair = pair();
    let peer = pair.peer.take().unwrap();
    socket2::SockRef::from(&peer).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(peer);
    // The reset has come, and the connection was not asked yet.
    let mut events = Events::with_capacity(8);
    while !events.iter().any(|event| event.is_read_closed()) {
        pair.poll.poll(&mut events, None).unwrap();
    }
    assert_eq!(pair.connection.capacity(), 1, "it has not been told");
    assert!(matches!(pair.start(7, true), Started::Refused));
    assert_eq!((pair.connection.capacity(), pair.connection.is_idle()), (0, true));
    assert!(pair.connection.take_trace(7).is_none(), "nothing was sent");
    assert_eq!(pair.told(Readiness::NONE), "Closed { why: TargetClosed, failure: None }");
}
