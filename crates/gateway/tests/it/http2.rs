//! HTTP/2, in cleartext with prior knowledge and over TLS with ALPN.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll};

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use plimsoll_gateway::{Gateway, Settings};
use plimsoll_measure::Nanos;
use plimsoll_registry::settings::Limits;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::caller::{call, result};
use crate::certificates::Authority;
use crate::scripted::{Reply, Upstream};
use crate::setup::{
    ENDPOINT, connect, connections, definitions, instance, metric, refused, settings, start,
    wait_until,
};

/// Runs a test's future; panics if it does not complete within a minute.
fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { tokio::time::timeout(std::time::Duration::from_secs(60), future).await };
    runtime.block_on(limited).expect("the gateway hangs")
}

/// Opens a connection, over TLS if there is an authority to trust.
async fn open<B>(address: SocketAddr, authority: Option<&Authority>) -> SendRequest<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Unpin + Send + 'static,
{
    let stream = TcpStream::connect(address).await.unwrap();
    match authority {
        None => http2_handshake(stream).await,
        Some(authority) => {
            let connector = TlsConnector::from(authority.client(&["h2", "http/1.1"]));
            let name = address.ip().to_string().try_into().unwrap();
            let stream = connector.connect(name, stream).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
            http2_handshake(stream).await
        }
    }
}

async fn http2_handshake<B, S>(stream: S) -> SendRequest<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Unpin + Send + 'static,
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn post(target: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post(format!("http://gateway{target}"));
    request.header("target-service-id", "eth").body(Full::new(body.into())).unwrap()
}

/// Sends a request and reads the answer.
async fn ask(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> (StatusCode, String) {
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn gateway(upstream: &Upstream, settings: Settings) -> Gateway {
    start(settings, &definitions(vec![instance("a", &upstream.url("/v1"))]))
}

#[test]
fn many_streams_get_their_own_answers() {
    let upstream = Upstream::echo();
    let authority = Authority::new();
    authority.sign("127.0.0.1");
    for secure in [false, true] {
        let tls = secure.then(|| authority.files());
        let gateway = gateway(&upstream, Settings { tls, ..settings() });
        run(async {
            let sender = open(gateway.addresses()[0], secure.then_some(&authority)).await;
            let calls = (0..300).map(|n| {
                let mut sender = sender.clone();
                async move {
                    let params = format!("[{n},\"{}\"]", "x".repeat(n % 7 * 9_000));
                    let target = [ENDPOINT, "/v1"][n % 2];
                    let id = (n % 3).to_string();
                    let answer = ask(&mut sender, post(target, call(&id, "m", &params))).await;
                    assert_eq!(answer, (StatusCode::OK, result(&id, &params)));
                }
            });
            futures_util::future::join_all(calls).await;
        });
        wait_until("the connection is closed", || connections(&gateway) == 0);
    }
}

#[test]
fn answers_match_those_over_http1() {
    let upstream = Upstream::start(|_, received| match received.line() {
        "HEAD /v1/long" => Reply::raw(
            "HTTP/1.1 200 X\r\nContent-Length: 12345\r\n\r\n",
            crate::scripted::AfterReply::KeepAlive,
        ),
        line if line.contains("/v1/") => {
            Reply::with(202, "X-Own: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\n", line)
        }
        _ => Reply::echo(received),
    });
    let limits = Limits { body: 1_000, header: 4_000, ..Limits::default() };
    let gateway = gateway(&upstream, Settings { limits, ..settings() });
    let long = "x".repeat(1_001);
    let of = |method: &str, target: &str| {
        let mut request = post(target, "");
        *request.method_mut() = method.parse().unwrap();
        request
    };
    let mut unnamed = post("/v1", "{}");
    unnamed.headers_mut().clear();
    let mut gzipped = post(ENDPOINT, "no gzip");
    gzipped.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    let mut too_long = post(ENDPOINT, "{}");
    too_long.headers_mut().insert("x", "y".repeat(5_000).parse().unwrap());
    // (request, status, text in the body)
    let rows = [
        (post(ENDPOINT, call("1", "m", "[]")), 200, "\"result\":[]"),
        (post(ENDPOINT, r#"{"jsonrpc":"2.0","method":"m"}"#), 204, ""),
        (post(ENDPOINT, "{"), 400, "parse_error"),
        (post(ENDPOINT, long), 413, "body_too_large"),
        (post("/api/gateway?endpoint=no", "{}"), 404, "unknown_endpoint"),
        (post("/config", ""), 404, "no_such_path"),
        (post("/v1/../config", ""), 404, "no_such_path"),
        (post("/v1/%2e%2e/config", ""), 404, "no_such_path"),
        (unnamed, 400, "{\"code\":400"),
        (gzipped, 415, "unsupported_encoding"),
        (too_long, 431, ""),
        (of("GET", "/health"), 200, ""),
        (of("HEAD", "/metrics"), 200, ""),
        (of("HEAD", "/v1/long"), 200, ""),
        (of("GET", "/v1/status?x"), 202, "GET /v1/status?x"),
        (of("DELETE", ENDPOINT), 405, "http_method"),
        (post(ENDPOINT, call("2", "m", "[2]")), 200, "\"result\":[2]"),
    ];
    run(async {
        let mut sender = open(gateway.addresses()[0], None).await;
        for (request, status, holds) in rows {
            let shown = format!("{} {}", request.method(), request.uri());
            let (got, body) = ask(&mut sender, request).await;
            assert_eq!(got, status, "{shown}: {body}");
            assert!(body.contains(holds), "{shown}: {body}");
        }
        let answer = sender.send_request(of("GET", "/v1/x")).await.unwrap();
        let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!(
            (header("x-own"), header("x-hop"), header("connection")),
            (Some("1"), None, None)
        );
        assert_eq!(header("x-plimsoll-upstream"), Some("a"));
    });
    assert_eq!(refused(&gateway, "no_such_path"), 3);
}

/// A body that never arrives.
struct PendingBody;

impl Body for PendingBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

#[test]
fn a_body_that_does_not_arrive_is_too_slow() {
    let upstream = Upstream::echo();
    let limits = Limits { body_time: Nanos::from_millis(100), ..Limits::default() };
    let gateway = gateway(&upstream, Settings { limits, ..settings() });
    run(async {
        let mut sender = open(gateway.addresses()[0], None).await;
        let request = Request::post(format!("http://gateway{ENDPOINT}")).body(PendingBody).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 408);
    });
    assert_eq!(refused(&gateway, "too_slow"), 1);
}

/// An upstream that answers calls of method `held` once the test waits at the returned barrier too.
fn gated() -> (Arc<Barrier>, Upstream) {
    let gate = Arc::new(Barrier::new(2));
    let own = gate.clone();
    let upstream = Upstream::start(move |_, received| {
        if received.method() == "held" {
            own.wait();
        }
        Reply::echo(received)
    });
    (gate, upstream)
}

#[test]
fn streams_in_flight_are_answered_before_shutdown() {
    let (gate, upstream) = gated();
    let gateway = gateway(&upstream, settings());
    let address = gateway.addresses()[0];
    run(async {
        let mut sender = open(address, None).await;
        let mut held = sender.clone();
        let held =
            tokio::spawn(
                async move { ask(&mut held, post(ENDPOINT, call("1", "held", "[7]"))).await },
            );
        while upstream.count() == 0 {
            tokio::task::yield_now().await;
        }
        let drained = tokio::task::spawn_blocking(move || gateway.drain(|| false));
        // After the GOAWAY no new stream is started on this connection.
        while let Ok(answer) = sender.send_request(post("/ready", "")).await {
            drop(answer.into_body().collect().await.unwrap());
        }
        gate.wait();
        assert_eq!(held.await.unwrap(), (StatusCode::OK, result("1", "[7]")));
        assert_eq!(drained.await.unwrap().left, 0);
        assert_eq!(upstream.count(), 1);
    });
}

#[test]
fn a_cancelled_stream_cancels_its_relay() {
    let (gate, upstream) = gated();
    let gateway = gateway(&upstream, settings());
    let in_flight = "plimsoll_relays_in_flight{upstream=\"a\"}";
    run(async {
        let mut sender = open(gateway.addresses()[0], None).await;
        let mut cancelled = sender.clone();
        let task = tokio::spawn(async move {
            ask(&mut cancelled, post(ENDPOINT, call("1", "held", "[]"))).await
        });
        while metric(&gateway, in_flight) == 0 {
            tokio::task::yield_now().await;
        }
        task.abort();
        while metric(&gateway, in_flight) > 0 {
            tokio::task::yield_now().await;
        }
        let answer = ask(&mut sender, post(ENDPOINT, call("2", "m", "[2]"))).await;
        assert_eq!(answer, (StatusCode::OK, result("2", "[2]")));
    });
    gate.wait();
}

#[test]
fn invalid_frames_close_the_connection() {
    let upstream = Upstream::echo();
    let gateway = gateway(&upstream, settings());
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    let rows: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        // a frame longer than permitted
        b"\xff\xff\xff\x04\0\0\0\0\0",
        // settings of an invalid length
        b"\0\0\x05\x04\0\0\0\0\0abcde",
        // data before any stream
        b"\0\0\0\x04\0\0\0\0\0\0\0\x01\0\0\0\0\0\x01x",
        // headers that are not valid HPACK
        b"\0\0\0\x04\0\0\0\0\0\0\0\x04\x01\x05\0\0\0\x01\xff\xff\xff\xff",
    ];
    for (at, bytes) in rows.into_iter().enumerate() {
        let mut caller = connect(&gateway);
        caller.send([preface, bytes].concat());
        caller.finish();
        assert!(!caller.rest().starts_with(b"HTTP"), "row {at}");
    }
    wait_until("all connections are closed", || connections(&gateway) == 0);
    assert_eq!(upstream.count(), 0);
}
