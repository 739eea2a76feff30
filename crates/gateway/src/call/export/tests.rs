//! Receivers that are slow, busy or gone, on virtual time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use plimsoll_config::Text;
use plimsoll_registry::model::Address;
use plimsoll_registry::settings::{Settings, TraceEndpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::call::routing::Routing;
use crate::call::worker::{Shared, State};
use crate::host::{Host, Process};
use crate::keeper::dns::{Resolver, of_host};
use crate::local::Time;
use crate::observe::access_log::AccessLog;
use crate::observe::traces::{SPANS_MAX, TraceCounts};
use crate::transport::memory::MemorySocket;
use crate::upstream::Network;

/// How the receiver treats a request.
#[derive(Clone, Copy)]
enum Treats {
    /// Answers with these header lines and an empty body.
    Answers(u16, &'static str),
    /// Reads it and never answers.
    Hangs,
    /// Refuses the connection.
    Refuses,
}

const OK: Treats = Treats::Answers(200, "");

/// A scripted receiver: how it treats the next requests, all further ones like the last.
struct Receiver {
    script: RefCell<VecDeque<Treats>>,
    /// When requests arrived, in milliseconds, and how long their bodies were.
    received: RefCell<Vec<(u64, usize)>>,
    time: Time,
}

impl Receiver {
    fn next(&self) -> Treats {
        let mut script = self.script.borrow_mut();
        let next = script[0];
        if script.len() > 1 {
            script.pop_front();
        }
        next
    }

    async fn accept(self: Rc<Receiver>) -> io::Result<MemorySocket> {
        if matches!(self.script.borrow()[0], Treats::Refuses) {
            self.arrived(0);
            self.next();
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = MemorySocket::pair();
        tokio::task::spawn_local(self.serve(theirs));
        Ok(ours)
    }

    fn arrived(&self, length: usize) {
        self.received.borrow_mut().push((self.time.now().0 / 1_000_000, length));
    }

    async fn serve(self: Rc<Receiver>, mut socket: MemorySocket) {
        let mut bytes = Vec::new();
        loop {
            let head = bytes.windows(4).position(|four| four == b"\r\n\r\n");
            let length = head.map(|end| {
                let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
                assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
                let length = head.split("content-length: ").nth(1).expect("a length");
                (end + 4, length.parse::<usize>().expect("a number"))
            });
            match length {
                Some((from, length)) if bytes.len() == from + length => {
                    bytes.clear();
                    self.arrived(length);
                    let Treats::Answers(status, lines) = self.next() else {
                        return std::future::pending().await;
                    };
                    let head = format!("HTTP/1.1 {status} X\r\n{lines}content-length: 0\r\n\r\n");
                    if socket.write_all(head.as_bytes()).await.is_err() {
                        return;
                    }
                }
                _ if !socket.read_buf(&mut bytes).await.is_ok_and(|n| n > 0) => return,
                _ => {}
            }
        }
    }
}

/// Runs a test with an exporter to a receiver with this script.
fn with<F: Future<Output = ()>>(
    script: &[Treats],
    test: impl FnOnce(Arc<Traces>, Rc<Receiver>) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        let url = "http://127.0.0.1:1/v1/traces";
        let address = Address::parse(url).expect("a URL");
        let endpoint = Some(TraceEndpoint { url: Text::plain(url), address });
        let traces = TraceSettings { endpoint, ..TraceSettings::default() };
        let settings = Settings { traces, ..Settings::default() };
        let state = State { settings, routing: Routing::empty(0) };
        let resolver = Resolver::new(of_host(), tokio::runtime::Handle::current());
        let time = Time::start_virtual(1);
        let host = Host {
            process: Arc::new(Process::default),
            database: Arc::default(),
            usage: None,
            admin: None,
            resolve: None,
            wall_clock: None,
        };
        let shared = Shared::new(state, AccessLog::new(None), resolver, host, time, None);
        let receiver = Rc::new(Receiver {
            script: RefCell::new(script.iter().copied().collect()),
            received: RefCell::default(),
            time,
        });
        let connecting = receiver.clone();
        let connect = Rc::new(move |_: SocketAddr| -> std::pin::Pin<Box<dyn Future<Output = _>>> {
            Box::pin(connecting.clone().accept())
        });
        let worker = Rc::new(Worker::new(Arc::new(shared), 0, Network::Simulated(connect)));
        let traces = worker.shared.traces.clone();
        tokio::task::spawn_local(run(worker));
        test(traces, receiver).await;
    });
}

async fn sleep_ms(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

fn push(traces: &Traces, count: usize) {
    (0..count).for_each(|_| traces.push(vec![0; 100]));
}

/// When requests arrived, in milliseconds.
fn times(receiver: &Receiver) -> Vec<u64> {
    receiver.received.borrow().iter().map(|(at, _)| *at).collect()
}

fn sent(sent: u64) -> TraceCounts {
    TraceCounts { sent, ..TraceCounts::default() }
}

#[test]
fn spans_are_gathered_for_a_second_or_until_a_batch_is_full() {
    with(&[OK], async |traces, receiver| {
        sleep_ms(5_000).await;
        assert!(receiver.received.borrow().is_empty(), "nothing is sent while there is nothing");
        push(&traces, 1);
        sleep_ms(500).await;
        push(&traces, 2);
        sleep_ms(1_000).await;
        assert_eq!((times(&receiver), traces.counts()), (vec![6_000], sent(3)));
        push(&traces, BATCH_SPANS_MAX + 1);
        sleep_ms(1).await;
        assert_eq!(times(&receiver), [6_000, 6_500, 6_500]);
        assert_eq!(traces.counts(), sent(3 + 513));
    });
}

#[test]
fn a_request_has_a_limited_length() {
    with(&[OK], async |traces, receiver| {
        (0..7).for_each(|_| traces.push(vec![0; 1 << 20]));
        sleep_ms(1_500).await;
        assert_eq!(traces.counts(), sent(7));
        let longest = receiver.received.borrow().iter().map(|(_, length)| *length).max();
        assert!(longest.is_some_and(|longest| longest < (1 << 20) + 1_000), "{longest:?}");
    });
}

#[test]
fn a_busy_receiver_is_asked_again_when_it_wants() {
    let busy = Treats::Answers(503, "retry-after: 7\r\n");
    let limited = Treats::Answers(429, "retry-after: 20\r\n");
    // It is not asked all the time, whatever it wants.
    let at_once = Treats::Answers(429, "retry-after: 0\r\n");
    with(&[busy, limited, at_once, OK], async |traces, receiver| {
        push(&traces, 5);
        sleep_ms(60_000).await;
        assert_eq!(times(&receiver), [1_000, 8_000, 28_000, 29_000]);
        assert_eq!(traces.counts(), sent(5));
    });
}

#[test]
fn pauses_double_and_a_batch_is_given_up_after_a_minute() {
    with(&[Treats::Refuses], async |traces, receiver| {
        push(&traces, 5);
        sleep_ms(100_000).await;
        let times = times(&receiver);
        let pauses: Vec<u64> = times.windows(2).map(|two| two[1] - two[0]).collect();
        let expected = [1_000, 2_000, 4_000, 8_000, 16_000, 30_000];
        assert!(pauses.len() <= expected.len(), "{pauses:?}");
        for (pause, expected) in pauses.iter().zip(expected) {
            assert!((expected * 3 / 4..=expected).contains(pause), "{pauses:?}");
        }
        let counts = traces.counts();
        assert_eq!((counts.failed, counts.waiting), (5, 0));
        // The pause goes on for the next batch, and ends with the first success.
        receiver.script.borrow_mut()[0] = OK;
        push(&traces, 3);
        sleep_ms(31_000).await;
        assert_eq!(traces.counts(), TraceCounts { failed: 5, ..sent(3) });
    });
}

#[test]
fn a_receiver_that_refuses_is_not_asked_again() {
    for status in [400, 401, 404, 413, 500, 301] {
        with(&[Treats::Answers(status, ""), OK], async |traces, receiver| {
            push(&traces, 5);
            sleep_ms(60_000).await;
            assert_eq!((times(&receiver), traces.counts().failed), (vec![1_000], 5));
            push(&traces, 1);
            sleep_ms(1_500).await;
            assert_eq!(traces.counts(), TraceCounts { failed: 5, ..sent(1) });
        });
    }
}

#[test]
fn a_receiver_that_never_answers_costs_ten_seconds_a_request_and_bounded_memory() {
    with(&[Treats::Hangs], async |traces, receiver| {
        for _ in 0..100 {
            push(&traces, 1_000);
            sleep_ms(1_000).await;
        }
        let counts = traces.counts();
        assert_eq!(counts.waiting, SPANS_MAX as u64);
        assert_eq!(counts.sent, 0);
        let times = times(&receiver);
        let gaps = times.windows(2).map(|two| two[1] - two[0]);
        assert!(gaps.into_iter().all(|gap| gap >= 10_000), "{times:?}");
        // Once it answers again, everything that waits is sent.
        receiver.script.borrow_mut()[0] = OK;
        sleep_ms(60_000).await;
        let after = traces.counts();
        assert_eq!(
            (after.waiting, after.sent),
            (0, SPANS_MAX as u64 - (after.failed - counts.failed))
        );
    });
}

#[test]
fn at_the_end_everything_is_sent_without_pauses() {
    with(&[OK], async |traces, receiver| {
        push(&traces, 700);
        traces.end();
        sleep_ms(50).await;
        assert_eq!((receiver.received.borrow().len(), traces.counts()), (2, sent(700)));
    });
    // A receiver that cannot be reached is asked once for each batch.
    with(&[Treats::Refuses], async |traces, receiver| {
        push(&traces, 700);
        sleep_ms(2_500).await;
        let before = receiver.received.borrow().len();
        traces.end();
        sleep_ms(50).await;
        assert_eq!(receiver.received.borrow().len(), before + 2);
        assert_eq!((traces.counts().failed, traces.counts().waiting), (700, 0));
    });
}

#[test]
fn the_log_says_how_to_correct_what_a_receiver_refuses() {
    let check =
        |status: u16, words: &str| assert!(said(status).contains(words), "{}", said(status));
    check(301, "HTTP 301; redirects are not followed");
    check(401, "HTTP 401; check the credentials in traces.headers");
    check(403, "traces.headers");
    check(404, "usually /v1/traces");
    check(413, "at least 1 MiB");
    check(415, "application/x-protobuf");
    assert_eq!(said(500), "it answered with HTTP 500");
    let failure = |detail: Option<&[u8]>| {
        let failure = Failure::new(ErrorKind::Unreachable, false, "x");
        reason(&match detail {
            Some(text) => failure.with_detail(None, text),
            None => failure,
        })
    };
    assert_eq!(failure(None), "it cannot be reached; check traces.endpoint");
    assert_eq!(
        failure(Some(b"connection refused")),
        "it cannot be reached: connection refused; check traces.endpoint"
    );
}
