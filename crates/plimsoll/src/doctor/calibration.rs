//! What a request costs on this host: the engine against a server on loopback, at full speed.

use crate::run::default_settings;
use anyhow::Context;
use plimsoll_config::{Document, Variables};
use plimsoll_engine::{Prepared, Settings};
use plimsoll_host::{Source, Thread};
use plimsoll_measure::{HostSample, Nanos};
use plimsoll_plan::{Part, Plan};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long requests are sent.
pub(super) const SPAN: Nanos = Nanos::from_secs(5);
/// Connections, each with a thread of the server.
const USERS: u64 = 8;
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n\
    {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"0x10\"}";

/// CPU time of the engine per request; `None` if threads' CPU time cannot be read.
pub(super) fn cpu_per_request(source: &Source) -> anyhow::Result<Option<Nanos>> {
    let server = TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
    let address = server.local_addr()?;
    std::thread::Builder::new().name("calibration".into()).spawn(move || serve(&server))?;
    let text = format!(
        "name = \"calibration\"\nusers = {USERS}\nduration = \"{}s\"\ngrace = \"1s\"\n\
         [[target]]\nrequest = \"POST http://{address}/\"\n\
         body = '{{\"jsonrpc\":\"2.0\",\"method\":\"eth_blockNumber\",\"params\":[],\"id\":1}}'\n",
        SPAN.0 / 1_000_000_000
    );
    let document = Document::new("calibration", text);
    let plan = Plan::read(&document, &Variables::default(), Path::new("."))
        .map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let settings = Settings { workers: 1, ..default_settings() };
    let part = Part::whole(&plan);
    let prepared = Prepared::new(&Arc::new(plan), &part, settings)
        .map_err(|error| anyhow::anyhow!("{}", error.message))?;
    let mut running = prepared.start(Duration::from_millis(20), Box::new(HostSample::default));
    let (mut answered, mut measured) = (0, None);
    let mut before = None;
    // The first second warms caches up; CPU time is read while the worker's thread exists.
    while let Some(second) = running.next_second()? {
        let worker = Thread::all(source).into_iter().find(|one| one.name == "worker-0");
        let Some(cpu) = worker.map(|worker| worker.cpu) else { break };
        match before {
            None => before = Some(cpu),
            Some(start) => {
                answered += second.counts.stats.iter().map(|s| s.requests.ok).sum::<u64>();
                measured = (answered > 0).then(|| Nanos((cpu - start).0 / answered.max(1)));
            }
        }
    }
    running.finish();
    anyhow::ensure!(answered > 0, "no request was answered on loopback");
    Ok(measured)
}

/// Answers every request on each connection with the same response.
fn serve(server: &TcpListener) {
    for stream in server.incoming().map_while(Result::ok).take(USERS as usize) {
        let _ = std::thread::Builder::new().name("calibration".into()).spawn(|| answer(stream));
    }
}

fn answer(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut request = [0; 4096];
    // A request is one write of the engine's, and smaller than a segment.
    while stream.read(&mut request).is_ok_and(|n| n > 0) && stream.write_all(ANSWER).is_ok() {}
}
