//! The gateway's peak memory, as reported by the kernel, under all known attacks at once, while
//! well-behaved callers are served.
//!
//! Attackers have fixed scripts and bounded timeouts; nothing here depends on how fast they are.

use crate::gateway::Process;
use crate::run::Folder;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// What a gateway may take beyond `limits.memory`: the program itself, its threads, freed memory that
/// the allocator keeps.
const SLACK: u64 = 64 * MIB;

/// After this long without data an attacker continues with its script.
const ATTACKER_TIMEOUT: Duration = Duration::from_millis(40);

/// Timeout of well-behaved callers.
const WELL_BEHAVED_TIMEOUT: Duration = Duration::from_secs(60);

/// Minimum number of calls by well-behaved callers.
const WELL_BEHAVED_CALLS: usize = 300;

/// An upstream that returns as many bytes as the method's name specifies: `answer_8192`.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(socket) = socket else { continue };
            let serve = move || drop(answer_all(socket));
            std::thread::Builder::new().stack_size(256 << 10).spawn(serve).unwrap();
        }
    });
    address
}

fn answer_all(mut socket: TcpStream) -> std::io::Result<()> {
    let mut read = Vec::new();
    let mut buffer = [0; 64 << 10];
    loop {
        let head = loop {
            if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            match socket.read(&mut buffer)? {
                0 => return Ok(()),
                n => read.extend_from_slice(&buffer[..n]),
            }
        };
        let text = String::from_utf8_lossy(&read[..head]).to_lowercase();
        let length = text.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap();
        let mut due = (head + length.parse::<usize>().unwrap()).saturating_sub(read.len());
        // Only the start of a body is needed.
        while due > 0 {
            let n = socket.read(&mut buffer)?;
            if n == 0 {
                return Ok(());
            }
            due = due.saturating_sub(n);
            if read.len() < 4096 {
                read.extend_from_slice(&buffer[..n]);
            }
        }
        let body = String::from_utf8_lossy(&read[head..read.len().min(head + 4096)]).into_owned();
        let number = |prefix: &str| -> usize {
            let digits = body.split(prefix).nth(1).unwrap_or("0");
            let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            digits[..end].parse().unwrap_or(0)
        };
        let (id, size) = (number("\"id\":"), number("answer_"));
        let start = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":\"");
        let length = start.len() + size + 2;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{start}");
        socket.write_all(head.as_bytes())?;
        let filling = [b'x'; 64 << 10];
        let mut left = size;
        while left > 0 {
            let n = left.min(filling.len());
            socket.write_all(&filling[..n])?;
            left -= n;
        }
        socket.write_all(b"\"}")?;
        read.clear();
    }
}

fn call(size: usize) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"answer_{size}\",\"params\":[]}}")
}

fn batch(calls: usize, size: usize) -> String {
    format!("[{}]", vec![call(size); calls].join(","))
}

fn request(headers: &str, body: &[u8]) -> Vec<u8> {
    request_to("/v1", &format!("Target-Service-Id: eth\r\n{headers}"), body)
}

fn request_to(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: h\r\n{headers}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(ATTACKER_TIMEOUT)).unwrap();
    socket.set_write_timeout(Some(ATTACKER_TIMEOUT)).unwrap();
    socket
}

/// Opens connections and sends the same bytes on each, without reading.
fn send_on(address: SocketAddr, connections: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let open = |_| {
        let mut socket = connect(address);
        // The gateway may close it at any time.
        let _ = socket.write_all(bytes);
        socket
    };
    (0..connections).map(open).collect()
}

/// Reads once from each socket, with a timeout.
fn read_some(sockets: &mut [TcpStream]) {
    for socket in sockets {
        let mut first = [0; 1024];
        let _ = socket.read(&mut first);
    }
}

/// Opens streams on one HTTP/2 connection, with `body` on each, complete or not, and reads no answer.
fn streams(address: SocketAddr, count: usize, body: Bytes, ends: bool, done: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let Ok((mut client, connection)) = h2::client::handshake(socket).await else { return };
        let driver = tokio::spawn(connection);
        let mut held = Vec::new();
        for _ in 0..count {
            let Ok(Ok(ready)) = tokio::time::timeout(ATTACKER_TIMEOUT, client.ready()).await else {
                break;
            };
            client = ready;
            let request = http::Request::post("http://h/v1").header("target-service-id", "eth");
            let Ok((response, mut stream)) = client.send_request(request.body(()).unwrap(), false)
            else {
                break;
            };
            // Data beyond the flow-control window stays queued in the client.
            let _ = stream.send_data(body.clone(), ends);
            held.push((response, stream));
        }
        while !done.load(Ordering::Relaxed) && !driver.is_finished() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

/// Makes short calls over new and reused connections, and checks that each is answered. They come
/// through an endpoint: the 400,000 calls of the attackers, which come through none, are more than the
/// upstream can answer in time, and fairness is between endpoints.
fn behave_well(address: SocketAddr, attacks: &AtomicUsize) -> usize {
    let mut used = TcpStream::connect(address).unwrap();
    let mut calls = 0;
    while calls < WELL_BEHAVED_CALLS || attacks.load(Ordering::Relaxed) > 0 {
        let mut new = TcpStream::connect(address).unwrap();
        for socket in [&mut used, &mut new] {
            socket.set_read_timeout(Some(WELL_BEHAVED_TIMEOUT)).unwrap();
            let path = "/api/gateway?endpoint=well_behaved";
            socket.write_all(&request_to(path, "", call(3).as_bytes())).unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"}") {
                let mut buffer = [0; 4096];
                let n = socket.read(&mut buffer).expect("an answer");
                assert!(n > 0, "cut off: {}", String::from_utf8_lossy(&read));
                read.extend_from_slice(&buffer[..n]);
            }
            let answer = String::from_utf8_lossy(&read);
            assert!(answer.contains("\"result\":\"xxx\""), "call {calls}: {answer}");
            calls += 1;
        }
    }
    calls
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(body).unwrap();
    gzip.finish().unwrap()
}

/// A request of a few kilobytes that decompresses to megabytes.
fn bomb() -> Vec<u8> {
    let padding = "x".repeat((9 * MIB) as usize);
    let bomb =
        format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\",\"params\":[\"{padding}\"]}}");
    request("Content-Encoding: gzip\r\n", &gzip(bomb.as_bytes()))
}

/// A process's peak resident memory, in bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Ends the attack on drop.
pub(crate) struct EndAttackOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for EndAttackOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn attack(memory: u64, bomb: Vec<u8>) {
    let folder = Folder::new();
    let config = format!(
        "listen = [\"127.0.0.1:0\"]\ninstance = \"gw\"\ndatabase = \"off\"\n\
        limits = {{ memory = \"{memory}MiB\" }}\n\
        [[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"http://{}/\"\n\
        [[endpoint]]\nid = \"well_behaved\"\nservice = \"eth\"\n",
        upstream()
    );
    folder.file("gateway.toml", config);
    let gateway = Process::start(&folder, &[]);
    let output = gateway.wait_for("listening on http://");
    let address = output.split("listening on http://").nth(1).unwrap();
    let address: SocketAddr = address.split_whitespace().next().unwrap().parse().unwrap();

    let long_head = format!("POST /v1 HTTP/1.1\r\nHost: h\r\nX: {}\r\n", "x".repeat(7_000));
    let announced = b"POST /v1 HTTP/1.1\r\nHost: h\r\nTarget-Service-Id: eth\r\nContent-Length: 10000000\r\n\r\n{";
    let unread = request("", call(5 << 20).as_bytes());
    let gzipped = request("Accept-Encoding: gzip\r\n", call(5 << 20).as_bytes());
    let huge = request("", batch(100, 20 << 20).as_bytes());
    let many: Bytes = batch(100, 8 << 10).into();
    let unfinished: Bytes = vec![b' '; 1 << 20].into();

    let attacks = Arc::new(AtomicUsize::new(0));
    let done = AtomicBool::new(false);
    let calls = std::thread::scope(|scope| {
        let sockets = |connections: usize, bytes: Vec<u8>, reads: bool| {
            attacks.fetch_add(1, Ordering::Relaxed);
            let (attacks, done) = (attacks.clone(), &done);
            scope.spawn(move || {
                let mut sockets = send_on(address, connections, &bytes);
                if reads {
                    read_some(&mut sockets);
                }
                attacks.fetch_sub(1, Ordering::Relaxed);
                // Stay connected until the other attacks are done.
                while !done.load(Ordering::Relaxed) {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
            });
        };
        sockets(100, bomb, true);
        sockets(300, long_head.into_bytes(), false);
        sockets(300, announced.to_vec(), false);
        sockets(50, unread, false);
        sockets(20, gzipped, false);
        sockets(3, huge, false);
        for (body, ends) in
            [(many.clone(), true), (many, true), (unfinished.clone(), false), (unfinished, false)]
        {
            let done = &done;
            scope.spawn(move || streams(address, 1_000, body, ends, done));
        }
        // Also if a call fails, so that the attackers do not wait forever.
        let _attack_ends = EndAttackOnDrop(&done);
        behave_well(address, &attacks)
    });
    let peak = peak(gateway.id());
    assert!(calls >= WELL_BEHAVED_CALLS);
    assert!(peak <= memory * MIB + SLACK, "{} MiB at {memory} MiB", peak / MIB);
    gateway.stop();
}

#[test]
fn memory_stays_bounded_under_all_attacks_at_once() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(16_384), hard).unwrap();
    let bomb = bomb();
    for memory in [64, 128, 256] {
        attack(memory, bomb.clone());
    }
}
