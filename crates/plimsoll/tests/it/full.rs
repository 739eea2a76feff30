//! A gateway whose connection limit is reached: hostile callers must not keep probes and metrics out.

use crate::attack::EndAttackOnDrop;
use crate::gateway::{Caller, Process, eth};
use crate::run::{Folder, command};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// `limits.connections` of the gateway.
const CONNECTIONS: usize = 4;

/// Places for refusals of each listener (`REFUSED_MAX` of the gateway).
const PLACES: usize = 64;

/// How long a probe may take before the gateway is regarded as hanging.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What a hostile caller sends after it has connected.
const HOSTILE: [&str; 4] = [
    "",
    "G",
    "GET /health HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n",
];

/// Probes that every listener answers.
const PROBES: [&str; 9] = [
    "GET /health HTTP/1.1\r\nHost: h\r\n\r\n",
    "HEAD /ready HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "OPTIONS / HTTP/1.0\r\n\r\n",
    "OPTIONS / HTTP/1.1\r\nHost: h\r\nUser-Agent: probe\r\n\r\n",
    "GET http://h/health HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET http://h HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /livez?verbose HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET http://h:1/healthz?x HTTP/1.1\r\nHost: h\r\n\r\n",
];

const METRICS: &str = "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n";

/// Connects from an address of the loopback network.
fn connect_from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let SocketAddr::V4(address) = address else { panic!("{address} is not IPv4") };
    let kind = (AddressFamily::Inet, SockType::Stream, SockFlag::empty());
    let socket = socket::socket(kind.0, kind.1, kind.2, None).unwrap();
    let source = SockaddrIn::from(SocketAddrV4::new(source.into(), 0));
    socket::bind(socket.as_raw_fd(), &source).unwrap();
    socket::connect(socket.as_raw_fd(), &SockaddrIn::from(address)).unwrap();
    socket.into()
}

/// Opens connections that send the start of a request, or all of it, and read nothing.
fn hold(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let open = |n: usize| {
        let mut stream = TcpStream::connect(address).unwrap();
        // The gateway may already have closed it.
        let _ = stream.write_all(HOSTILE[n % HOSTILE.len()].as_bytes());
        stream
    };
    (0..count).map(open).collect()
}

/// Sends a request over a new connection, and returns what comes back until the connection closes.
fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap_or_else(|error| panic!("{request}: {error}"));
    answer
}

/// Opens connections as fast as the gateway closes them, until `ends`.
fn flood(address: SocketAddr, ends: &AtomicBool) {
    let mut held = VecDeque::new();
    for n in 0usize.. {
        if ends.load(Ordering::Relaxed) {
            return;
        }
        let mut stream = connect_from([127, 0, 0, 2 + (n % 4) as u8], address);
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let _ = stream.write_all(HOSTILE[n % 2].as_bytes());
        held.push_back(stream);
        if held.len() > 2 * PLACES {
            // Closed by the gateway, since it has made room for later ones.
            let mut oldest = held.pop_front().unwrap();
            let _ = oldest.read(&mut [0; 64]);
        }
    }
}

/// Opens all connections of the gateway, so that it refuses more.
fn fill(address: SocketAddr) -> Vec<Caller> {
    let open = |_| {
        let mut caller = Caller::connect(&address.to_string()).unwrap();
        assert_eq!(caller.send("GET /health", "").unwrap().status, 200);
        caller
    };
    (0..CONNECTIONS).map(open).collect()
}

fn descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count()
}

#[test]
fn hostile_callers_do_not_keep_probes_out_of_a_full_gateway() {
    let (folder, sim) = (Folder::new(), eth());
    // Health checks open connections of their own, at any time.
    let config = format!(
        "listen = [\"127.0.0.1:0\"]\nadmin_listen = \"127.0.0.1:0\"\ndatabase = \"off\"\n\
         limits = {{ connections = {CONNECTIONS} }}\n\
         [[service]]\nid = \"eth\"\nchain_id = 1\nhealth_checks = false\n\
         [[upstream]]\nid = \"a\"\nservice = \"eth\"\nurl = \"{}\"\n",
        sim.url("eth")
    );
    folder.file("gateway.toml", config);
    let mut starts = command(&["gateway"]);
    starts.current_dir(folder.path());
    let process = Process::spawn(starts);
    let address = |faces: &str| -> SocketAddr {
        let line = process.wait_for_line("plimsoll gateway", faces);
        line.split("http://").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    let (public, admin) = (address("(gateway, path)"), address("(admin)"));
    let _callers = fill(public);
    let fds_max = descriptors(&process) + 2 * PLACES + 4;
    let check = |address: SocketAddr, request: &str, status: &str, text: &str| {
        let answer = exchange(address, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        assert!(answer.contains("connection: close") && answer.contains(text), "{answer}");
        let fds = descriptors(&process);
        assert!(fds <= fds_max, "{fds} descriptors, more than {fds_max}");
    };
    let check_all = |before: &dyn Fn()| {
        for request in PROBES {
            before();
            check(public, request, "200", "");
            check(admin, request, "200", "");
        }
        before();
        check(admin, METRICS, "200", "\nplimsoll_connections{side=\"downstream\"} 4\n");
        check(admin, "GET /ready?detailed=true HTTP/1.0\r\n\r\n", "200", "\"address\":\"a\"");
        check(public, METRICS, "503", "too_many_connections");
        check(public, "POST /v1 HTTP/1.0\r\n\r\n", "503", "too_many_connections");
    };
    let ends = AtomicBool::new(false);
    let held: Mutex<Vec<TcpStream>> = Mutex::default();
    std::thread::scope(|scope| {
        let _end = EndAttackOnDrop(&ends);
        // Keeps slow callers slow: a byte for each, over and over.
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                for mut stream in &*held.lock().unwrap() {
                    let _ = stream.write(b"x");
                }
                std::thread::yield_now();
            }
        });
        // All places are held, by the probes' own network.
        check_all(&|| {
            let streams =
                hold(public, PLACES + 1).into_iter().chain(hold(admin, PLACES + 1)).collect();
            *held.lock().unwrap() = streams;
        });
        // Callers of other networks come without end.
        let ends = &ends;
        for address in [public, admin] {
            scope.spawn(move || flood(address, ends));
        }
        check_all(&|| ());
    });
    process.stop();
}
