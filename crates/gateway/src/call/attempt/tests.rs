//! How calls are encoded, and how raced, dropped and cancelled attempts are counted.

use super::*;
use crate::call::routing::{Routing, Service};
use crate::call::worker::{Shared, State};
use crate::host::{Host, Process};
use crate::keeper::Keeper;
use crate::keeper::dns::{Resolver, of_host};
use crate::local::Time;
use crate::observe::access_log::AccessLog;
use crate::payload::Payload;
use crate::upstream::Network;
use futures_util::future::{Either, join, select};
use plimsoll_config::Text;
use plimsoll_registry::model::{self, Address, Definitions, Kind};
use plimsoll_registry::settings::Settings;
use plimsoll_rpc::request;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

#[test]
fn calls_are_reencoded() {
    let check = |text: &str, sent: &str| {
        let call = request::call(text.as_bytes()).expect("a call");
        let mut out = Vec::new();
        write_call(&call, 7, call.params.unwrap_or_default(), &mut out);
        assert_eq!(String::from_utf8_lossy(&out), sent);
    };
    check(
        r#"{"jsonrpc":"2.0","id":"x","method":"eth_call","params":[{},"latest"],"extra":1}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"eth_call","params":[{},"latest"]}"#,
    );
    check(r#"{"method":"a\"b","jsonrpc":"2.0"}"#, r#"{"jsonrpc":"2.0","id":7,"method":"a\"b"}"#);
}

#[test]
fn callers_of_rest_cannot_mark_an_upstream_as_down() {
    let check = |kind, usage, status, counts| {
        assert_eq!(counts_as_down(kind, usage, status), counts, "{kind:?} {usage:?} {status:?}");
    };
    for status in [400, 404, 413, 500, 501, 505] {
        check(ErrorKind::BadStatus, Use::Rest, Some(status), false);
    }
    for status in [502, 503, 504] {
        check(ErrorKind::BadStatus, Use::Rest, Some(status), true);
    }
    check(ErrorKind::UpstreamDenied, Use::Rest, Some(401), false);
    check(ErrorKind::Unreachable, Use::Rest, None, true);
    check(ErrorKind::Broken, Use::Rest, None, true);
    check(ErrorKind::UpstreamDenied, Use::Calls, Some(401), true);
    check(ErrorKind::BadStatus, Use::Calls, Some(500), true);
    check(ErrorKind::BadStatus, Use::Calls, Some(413), false);
    check(ErrorKind::UpstreamLimited, Use::Calls, Some(429), false);
}

#[test]
fn long_parameters_are_not_copied() {
    let params = format!("[\"{}\"]", "x".repeat(COPIED_MAX));
    let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{params}}}"#);
    let call = request::call(text.as_bytes()).expect("a call");
    let mut out = Vec::new();
    write_call(&call, 7, b"", &mut out);
    assert_eq!(out, br#"{"jsonrpc":"2.0","id":7,"method":"m","params":"#);
}

/// An upstream that returns its name, and answers one call for each permit.
struct Upstream {
    address: SocketAddr,
    permits: Rc<Semaphore>,
    /// One message for each request received.
    requests: mpsc::UnboundedReceiver<()>,
}

impl Upstream {
    async fn start(name: &'static str) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let permits = Rc::new(Semaphore::new(0));
        let (received, requests) = mpsc::unbounded_channel();
        let available = permits.clone();
        tokio::task::spawn_local(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (available, received) = (available.clone(), received.clone());
                tokio::task::spawn_local(async move {
                    let mut request = Vec::new();
                    while socket.read_buf(&mut request).await.is_ok_and(|n| n > 0) {
                        if !request.ends_with(b"}") {
                            continue;
                        }
                        let text = String::from_utf8_lossy(&request).into_owned();
                        request.clear();
                        let id = text.split("\"id\":").nth(1).expect("an id");
                        let id = id.split(',').next().expect("an id");
                        // The test may no longer be listening.
                        let _ = received.send(());
                        available.acquire().await.expect("never closed").forget();
                        let body =
                            format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":\"{name}\"}}");
                        let length = body.len();
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
                        if socket.write_all(answer.as_bytes()).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Upstream { address, permits, requests }
    }
}

fn worker(upstreams: &[SocketAddr], keeper: &Keeper) -> (Rc<Worker>, Arc<Service>) {
    let upstream = |(place, address): (usize, &SocketAddr)| {
        let url = format!("http://{address}/");
        let address = Address::parse(&url).expect("a URL");
        let id = format!("upstream-{place}");
        model::Upstream {
            service: Some("eth".into()),
            ..model::Upstream::at(id, Kind::Evm, Text::plain(url), address)
        }
    };
    let definitions = Definitions {
        services: vec![model::Service::named("eth")],
        upstreams: upstreams.iter().enumerate().map(upstream).collect(),
        endpoints: Vec::new(),
    };
    let routing = Routing::compile(&definitions, &Routing::empty(0), 1, &mut 0).expect("compiles");
    let service = routing.service("eth").expect("a service").clone();
    let host = Host {
        process: Arc::new(Process::default),
        database: Arc::default(),
        usage: None,
        admin: None,
        resolve: None,
        wall_clock: None,
    };
    let resolver = Resolver::new(of_host(), keeper.handle().clone());
    let state = State { settings: Settings::default(), routing };
    let shared =
        Arc::new(Shared::new(state, AccessLog::new(None), resolver, host, Time::start(), None));
    (Rc::new(Worker::new(shared, 0, Network::Host)), service)
}

/// Relays over a route: successful, cancelled, in flight.
fn relays(route: &Route) -> (u64, u64, u64) {
    let counts = route.relays.of(0);
    let total: u64 = (0..RelayOutcome::COUNT).map(|place| counts.count(place)).sum();
    let (ok, cancelled) = (counts.count(0), counts.count(RelayOutcome::COUNT - 1));
    assert_eq!(total, ok + cancelled, "no other outcomes");
    (ok, cancelled, route.upstream.in_flight())
}

/// Makes an attempt with a slot.
async fn attempted(
    target: &Target<'_>,
    call: &Call<'_>,
    route: &Route,
) -> Result<JudgedResponse, Failure> {
    let slot = route.upstream.gate.force(&target.account.in_use, &target.worker.local);
    let picked = Picked { route, pass: None, in_use: slot.number, method: None };
    super::run(target, call, (picked, &slot), Reuse::Pooled, CallTrace::default()).await
}

#[test]
fn attempts_are_raced_and_only_the_winner_writes() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let run = async {
        let keeper = Keeper::start().expect("a thread");
        let mut slow = Upstream::start("slow").await;
        let mut fast = Upstream::start("fast").await;
        let (worker, service) = worker(&[slow.address, fast.address], &keeper);
        let view = worker.view();
        let target = Target::of(&worker, &view, &service);
        let call = request::call(br#"{"jsonrpc":"2.0","id":1,"method":"eth_gasPrice"}"#);
        let call = call.expect("a call");
        let [to_slow, to_fast] = &service.routes[..] else { panic!("two routes") };
        let attempt = |route| Box::pin(attempted(&target, &call, route));

        let race = select(attempt(to_slow), attempt(to_fast));
        let both_sent = async {
            slow.requests.recv().await.expect("a request");
            fast.requests.recv().await.expect("a request");
            assert_eq!((relays(to_slow), relays(to_fast)), ((0, 0, 1), (0, 0, 1)));
            fast.permits.add_permits(1);
        };
        let (Either::Right((Ok(won), loser)), ()) = join(race, both_sent).await else {
            panic!("the attempt that was answered wins");
        };
        assert_eq!((relays(to_slow), relays(to_fast)), ((0, 0, 1), (1, 0, 0)));
        drop(loser);
        assert_eq!((relays(to_slow), relays(to_fast)), ((0, 1, 0), (1, 0, 0)));
        let mut out = Composer::new(worker.local.take_buffer());
        assert!(out.text().is_empty(), "attempts do not write to the answer");
        won.write(&worker.local, Some(b"\"mine\""), &mut out);
        let Payload::Whole(answer) = out.finish() else { panic!("a short answer") };
        assert_eq!(answer, br#"{"jsonrpc":"2.0","id":"mine","result":"fast"}"#);

        // The late answer to the dropped attempt is discarded: its connection is closed.
        slow.permits.add_permits(2);
        assert!(attempt(to_slow).await.is_ok());
        assert_eq!(relays(to_slow), (1, 1, 0));

        // An attempt that is dropped before its first poll was never started.
        drop(attempt(to_slow));
        assert_eq!(relays(to_slow), (1, 1, 0));
    };
    let local = tokio::task::LocalSet::new();
    let limited = async {
        tokio::time::timeout(std::time::Duration::from_secs(60), local.run_until(run)).await
    };
    runtime.expect("a runtime").block_on(limited).expect("finished in time");
}
