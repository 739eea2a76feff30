//! The cost of relaying with a library: a hyper server and hyper client connections on one
//! current-thread runtime.
//!
//! It forwards every request and returns every answer. It parses no JSON, selects no route, counts
//! nothing, and has no timeouts and no pool: each client connection has its own connection to the
//! node. Usage: `hyper-relay ADDR UPSTREAM_ADDR`; it runs until killed.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use tokio::net::{TcpListener, TcpStream};

type Failure = Box<dyn Error + Send + Sync>;
type Upstream = Rc<RefCell<Option<SendRequest<Full<Bytes>>>>>;

/// Relays one exchange. HTTP/1.1 has one at a time per connection, so the sender is always available.
async fn relay(
    upstream: Upstream,
    host: Rc<str>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Failure> {
    let (from, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let mut onward = Request::post(from.uri).header("host", &*host);
    if let Some(kind) = from.headers.get("content-type") {
        onward = onward.header("content-type", kind);
    }
    let mut sender = upstream.take().ok_or("two requests at a time on one connection")?;
    sender.ready().await?;
    let (head, body) = sender.send_request(onward.body(Full::new(body))?).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    upstream.replace(Some(sender));
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = head.status;
    if let Some(kind) = head.headers.get("content-type") {
        response.headers_mut().insert("content-type", kind.clone());
    }
    Ok(response)
}

async fn session(stream: TcpStream, upstream: SocketAddr) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let onward = TcpStream::connect(upstream).await?;
    onward.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(onward)).await?;
    // The task ends when the sender is dropped.
    tokio::task::spawn_local(connection);
    let sender: Upstream = Rc::new(RefCell::new(Some(sender)));
    let host: Rc<str> = upstream.to_string().into();
    let service = service_fn(|request| relay(sender.clone(), host.clone(), request));
    Ok(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?)
}

async fn serve(addr: SocketAddr, upstream: SocketAddr) -> Result<(), Failure> {
    let listener = TcpListener::from_std(plimsoll_bench::listen(addr)?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::task::spawn_local(async move {
            // Errors are ignored here; the generator counts failed requests.
            let _ = session(stream, upstream).await;
        });
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let addrs: Result<Vec<SocketAddr>, _> = args.iter().map(|arg| arg.parse()).collect();
    let Ok(&[addr, upstream]) = addrs.as_deref() else {
        eprintln!("usage: hyper-relay ADDR UPSTREAM_ADDR");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let local = tokio::task::LocalSet::new();
    let done = runtime
        .map_err(Failure::from)
        .and_then(|runtime| local.block_on(&runtime, serve(addr, upstream)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hyper-relay: {addr}: {error}");
            ExitCode::FAILURE
        }
    }
}
