//! `plimsoll vegeta attack` as a user runs it: what the server receives, what the results contain, and how
//! it ends.

use crate::run::{Done, Folder, command, plimsoll};
use crate::server::{After, Received, Reply, Server};
use crate::vegeta::real_vegeta;
use plimsoll_compat::vegeta::{Fields, Hit, Reader};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Runs an attack with this input.
pub(crate) fn attack(args: &[&str], targets: &str) -> Done {
    let args = [&["vegeta", "attack"], args].concat();
    let mut child = command(&args).stdin(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(targets.as_bytes());
    child.wait_with_output().unwrap().into()
}

/// Runs an attack that writes its results into a file, and reads them.
pub(crate) fn results(folder: &Folder, args: &[&str], targets: &str) -> (Done, Vec<Hit>) {
    let out = folder.path().join("results.bin");
    let done = attack(&[args, &["-output", out.to_str().unwrap()]].concat(), targets);
    let file = std::fs::File::open(&out);
    (done, file.map(|file| hits(BufReader::new(file))).unwrap_or_default())
}

fn hits(input: impl BufRead) -> Vec<Hit> {
    let mut reader = Reader::new(input, Fields::All);
    let (mut hits, mut hit) = (Vec::new(), Hit::default());
    while reader.read(&mut hit).unwrap() {
        hits.push(hit.clone());
    }
    hits
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A request as golden files contain it: its line, its headers by name, and its body.
fn shown(request: &Received, server: &Server) -> String {
    let mut headers: Vec<&str> =
        request.head.lines().skip(1).filter(|line| !line.is_empty()).collect();
    headers.sort_unstable();
    let body = match request.header("Transfer-Encoding") {
        Some(_) => dechunked(&request.body),
        None => request.body.clone(),
    };
    let all = format!("{}\n{}\n\n{body}\n----\n", request.line(), headers.join("\n"));
    all.replace(&server.address.to_string(), "HOST")
}

/// A body in one chunk, without its framing.
fn dechunked(body: &str) -> String {
    let (len, rest) = body.split_once("\r\n").unwrap();
    let len = usize::from_str_radix(len, 16).unwrap();
    assert_eq!(&rest[len..], "\r\n0\r\n\r\n");
    rest[..len].into()
}

/// Attacks a server as each `tests/vegeta/*.case` describes (flags, and targets in which HOST is the server),
/// and compares the requests with those recorded from vegeta 12.13.0 by `tests/vegeta/record`. `program` gets
/// the arguments after `attack`.
fn assert_sends_as_recorded(program: impl Fn(&[&str]) -> Command) {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vegeta");
    let folder = Folder::new();
    folder.file("body.json", "{\"from\": \"a file\"}\n{{seq}} ${HOME}");
    folder.file("default", "default");
    let mut cases = 0;
    for entry in std::fs::read_dir(&recorded).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|end| end != "case") {
            continue;
        }
        cases += 1;
        let case = std::fs::read_to_string(&path).unwrap();
        let expected = std::fs::read_to_string(path.with_extension("sent")).unwrap();
        let (flags, targets) = case.split_once('\n').unwrap();
        let server = Server::start(|_, _| Reply::ok(""));
        let targets = targets.replace("HOST", &server.address.to_string());
        let flags: Vec<&str> = flags.split('|').collect();
        let mut command = program(&[&["-output=/dev/null"], flags.as_slice()].concat());
        command.current_dir(folder.path()).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(targets.as_bytes()).unwrap();
        let done = Done::from(child.wait_with_output().unwrap());
        assert_eq!(done.code, 0, "{}: {}", path.display(), done.stderr);
        let sent: String = server.received().iter().map(|own| shown(own, &server)).collect();
        assert_eq!(sent, expected, "{}", path.display());
    }
    assert!(cases >= 6, "{cases} cases");
}

#[test]
fn the_server_receives_what_vegeta_sends() {
    assert_sends_as_recorded(|args| command(&[&["vegeta", "attack"], args].concat()));
}

#[test]
fn the_recordings_are_what_the_real_vegeta_sends() {
    let Some(real) = real_vegeta() else {
        eprintln!("skipped: Go is not installed, or vegeta cannot be fetched");
        return;
    };
    assert_sends_as_recorded(|args| {
        let mut command = Command::new(&real);
        command.arg("attack").args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    });
}

/// The command lines of the project's background, with their durations shortened.
#[test]
fn the_command_lines_of_the_background_run_unchanged() {
    let server = Server::start(|_, _| Reply::ok("{}"));
    let folder = Folder::new();
    let target = format!(
        "POST {}/api/gateway?endpoint=ETH\nContent-Type: application/json\n\n\
         {{\"jsonrpc\":\"2.0\",\"method\":\"eth_blockNumber\",\"params\":[],\"id\":1}}\n",
        server.url()
    );
    let targets = format!("-targets={}", folder.file("targets.txt", &target));
    let output = |n: u32| folder.path().join(format!("results-host{n}.bin")).display().to_string();
    let lines: [&[&str]; 2] = [
        &["-rate=500", "-duration=100ms", &targets, "-keepalive=true"],
        &[
            "-rate=500",
            "-duration=100ms",
            &targets,
            "-keepalive=true",
            "-timeout=30s",
            "-max-workers=1000",
            "-max-body=10485760",
        ],
    ];
    for (n, line) in (1..).zip(lines) {
        let output = format!("-output={}", output(n));
        let done = attack(&[line, &[output.as_str()]].concat(), "");
        assert_eq!((done.code, done.stdout.as_str()), (0, ""), "{}", done.stderr);
        assert!(done.stderr.contains("requests   50 planned, 50 sent;"), "{}", done.stderr);
    }
    let all = [1, 2].map(|n| std::fs::read(output(n)).unwrap()).concat();
    let mut report = command(&["vegeta", "report"]).stdin(Stdio::piped()).spawn().unwrap();
    report.stdin.take().unwrap().write_all(&all).unwrap();
    let report = Done::from(report.wait_with_output().unwrap());
    assert!(report.stdout.starts_with("Requests      [total, rate, throughput]         100, "));
    let first = &server.received()[0];
    assert_eq!(first.line(), "POST /api/gateway?endpoint=ETH");
    assert!(first.body.starts_with("{\"jsonrpc\""), "{}", first.body);
    let hits = hits(all.as_slice());
    let mut seqs: Vec<u64> = hits[..50].iter().map(|hit| hit.seq).collect();
    seqs.sort_unstable();
    assert!(seqs.iter().copied().eq(0..50), "{seqs:?}");
    let hit = &hits[0];
    let sent = first.body.len() as u64;
    assert_eq!((hit.code, hit.bytes_in, hit.bytes_out), (200, 2, sent));
    assert_eq!(hit.body.as_deref(), Some(b"{}".as_slice()));
    assert_eq!((text(&hit.method), text(&hit.error)), ("POST".into(), String::new()));
    assert_eq!(text(&hit.url), format!("{}/api/gateway?endpoint=ETH", server.url()));
}

/// Errors have the words of Go's client; an attack whose requests all failed is no error.
#[test]
fn errors_are_worded_as_in_go() {
    let folder = Folder::new();
    let closed = "http://127.0.0.1:1/";
    let check = |url: &str, flags: &[&str], code: u16, error: &str| {
        let flags = [&["-rate=1", "-duration=1ms", "-timeout=200ms"], flags].concat();
        let (done, hits) = results(&folder, &flags, &format!("GET {url}\n"));
        assert_eq!((done.code, hits.len()), (0, 1), "{url}: {}", done.stderr);
        let found = (hits[0].code, text(&hits[0].error));
        assert_eq!(found, (code, error.replace("URL", url)), "{flags:?}");
        hits.into_iter().next().unwrap()
    };
    let refused = "dial tcp 0.0.0.0:0->127.0.0.1:1: connect: connection refused";
    check(closed, &[], 0, &format!("Get \"URL\": {refused}"));
    check(
        "http://127.0.0.1:1",
        &["-laddr=127.0.0.1"],
        0,
        &format!("Get \"URL\": {}", refused.replace("0.0.0.0", "127.0.0.1")),
    );
    check("http://nowhere.invalid/", &[], 0, "Get \"URL\": lookup nowhere.invalid: no such host");
    let replies = |reply: fn() -> Reply| Server::start(move |_, _| reply());
    let silent = replies(|| Reply::raw("", After::Hang));
    let timeout = "context deadline exceeded (Client.Timeout";
    check(
        &silent.url(),
        &[],
        0,
        &format!("Get \"URL\": {timeout} exceeded while awaiting headers)"),
    );
    let half =
        replies(|| Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", After::Hang));
    check(&half.url(), &[], 0, &format!("{timeout} or context cancellation while reading body)"));
    let cut =
        replies(|| Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", After::Close));
    check(&cut.url(), &[], 0, "unexpected EOF");
    let closing = replies(|| Reply::raw("", After::Close));
    check(&closing.url(), &[], 0, "Get \"URL\": EOF");
    let missing = replies(|| {
        Reply::raw("HTTP/1.1 404 Not Found\r\nx-a: 1\r\nContent-Length: 2\r\n\r\nno", After::Keep)
    });
    let hit = check(&missing.url(), &[], 404, "404 Not Found");
    let headers = hit.headers.unwrap();
    let headers: Vec<_> = headers.sorted().iter().map(|(name, _)| text(name)).collect();
    assert_eq!((hit.bytes_in, headers), (2, vec!["Content-Length".into(), "X-A".into()]));
    let moved = replies(|| Reply::with(302, "Location: /on\r\n", ""));
    check(&moved.url(), &["-redirects=2"], 0, "Get \"/on\": stopped after 2 redirects");
    check(&moved.url(), &["-redirects=0"], 0, "Get \"/on\": stopped after 0 redirects");
    check(&moved.url(), &["-redirects=-1"], 302, "");
    assert_eq!(moved.received().len(), 3 + 1 + 1);
}

/// `-max-body` limits what is kept, not what is counted; a body in gzip is decoded as Go's client does.
#[test]
fn bodies_are_kept_up_to_the_limit() {
    let folder = Folder::new();
    let server = Server::start(|_, request| match request.line() {
        "GET /gzip" => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&[b'x'; 1000]).unwrap();
            let body = encoder.finish().unwrap();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            Reply::raw([head.into_bytes(), body].concat(), After::Keep)
        }
        _ => Reply::ok(&"y".repeat(100_000)),
    });
    let check = |path: &str, flag: &str, bytes_in: u64, kept: usize| {
        let target = format!("GET {}{path}", server.url());
        let (done, hits) = results(&folder, &["-rate=1", "-duration=1ms", flag], &target);
        let hit = &hits[0];
        let body = hit.body.as_ref().map_or(0, Vec::len);
        assert_eq!(
            (hit.code, hit.bytes_in, body),
            (200, bytes_in, kept),
            "{path} {flag}: {}",
            done.stderr
        );
    };
    check("/plain", "-max-body=-1", 100_000, 100_000);
    check("/plain", "-max-body=0", 100_000, 0);
    check("/plain", "-max-body=1kb", 100_000, 1024);
    check("/gzip", "-max-body=-1", 1000, 1000);
    check("/gzip", "-max-body=10", 1000, 10);
    check("/gzip", "-max-body=0", 1000, 0);
}

/// At the limit of -max-workers, latency begins when a request starts; what has not started at the end is
/// not in the results, but is counted.
#[test]
fn requests_beyond_max_workers_wait_to_start() {
    let folder = Folder::new();
    let server = Server::start(|_, _| {
        // Nothing is sent: each answer takes 50 ms.
        let (_sender, receiver) = std::sync::mpsc::channel::<()>();
        let _ = receiver.recv_timeout(std::time::Duration::from_millis(50));
        Reply::ok("")
    });
    let target = format!("GET {}/", server.url());
    let flags = ["-rate=200", "-duration=500ms", "-max-workers=2", "-timeout=5s"];
    let (done, hits) = results(&folder, &flags, &target);
    assert!(hits.len() <= 22, "2 in flight carry 20 in 500 ms, not {}", hits.len());
    assert!(hits.iter().all(|hit| hit.code == 200));
    // Latency begins at the start: at no time are more than two in flight.
    for hit in &hits {
        let at = hit.timestamp;
        let in_flight = hits.iter().filter(|own| own.timestamp <= at && at < own.end()).count();
        assert!(in_flight <= 2, "{in_flight} in flight");
    }
    let unsent = 100 - hits.len();
    let counted = format!("requests   100 planned, {} sent, {unsent} not started;", hits.len());
    for says in
        [counted.as_str(), "INVALID", "until fewer than 2 were in flight", "raise -max-workers"]
    {
        assert!(done.stderr.contains(says), "{says}\n{}", done.stderr);
    }
    let closed = ["-rate=0", "-max-workers=2", "-duration=200ms"];
    let (done, hits) = results(&folder, &closed, &target);
    assert!(
        done.code == 0 && hits.len() >= 2 && hits.len() <= 10,
        "{}: {}",
        hits.len(),
        done.stderr
    );
}

fn spawn(args: &[&str]) -> Child {
    command(&[&["vegeta", "attack"], args].concat()).stdin(Stdio::piped()).spawn().unwrap()
}

/// `-lazy` reads endless input in bounded memory, sends each target once, and stops at the end of the input
/// or at a mistake in it.
#[test]
fn lazy_targets_are_read_while_they_are_sent() {
    let folder = Folder::new();
    let server = Server::start(|_, _| Reply::ok(""));
    let url = server.url();
    let targets = format!("GET {url}/1\n\nPOST {url}/2\nX: y\n\n{{\"a\":\n1}}\n\nGET {url}/3\n");
    let (done, hits) = results(&folder, &["-lazy", "-rate=1000", "-max-workers=1"], &targets);
    let urls: Vec<_> = hits.iter().map(|hit| text(&hit.url).replace(&url, "")).collect();
    assert_eq!(
        (done.code, urls),
        (0, vec!["/1".into(), "/2".into(), "/3".into()]),
        "{}",
        done.stderr
    );
    assert!(done.stderr.contains("requests   3 planned, 3 sent;"), "{}", done.stderr);
    assert_eq!((hits[1].bytes_out, server.received()[1].body.as_str()), (8, "{\"a\":\n1}"));

    let (done, hits) = results(&folder, &["-lazy", "-rate=1000"], &format!("GET {url}/\n\nBREW\n"));
    assert_eq!((done.code, hits.len()), (1, 1), "{}", done.stderr);
    assert!(done.stderr.contains("stdin:3:1: \"BREW\" is neither"), "{}", done.stderr);
    let (done, _) = results(&folder, &["-lazy"], "");
    assert!(done.code == 1 && done.stderr.contains("no targets to attack"), "{}", done.stderr);
    let (done, _) = results(&folder, &["-lazy", "-print-plan"], "");
    assert!(done.code == 1 && done.stderr.contains("cannot contain targets that are read"));

    let out = folder.path().join("endless.bin");
    let mut child =
        spawn(&["-lazy", "-rate=500", "-duration=1s", "-output", out.to_str().unwrap()]);
    let mut input = child.stdin.take().unwrap();
    let line = format!("GET {url}/{}\n", "x".repeat(1000)).repeat(100);
    let mut written = 0u64;
    while input.write_all(line.as_bytes()).is_ok() {
        written += line.len() as u64;
    }
    let done = Done::from(child.wait_with_output().unwrap());
    assert_eq!(done.code, 0, "{}", done.stderr);
    // 500 targets, those read ahead, and a pipe of 64 KiB.
    assert!(written < 4 << 20, "{written} bytes were read for 500 targets");
    assert_eq!(hits_of(&out).len(), 500);
}

fn hits_of(path: &Path) -> Vec<Hit> {
    hits(BufReader::new(std::fs::File::open(path).unwrap()))
}

/// An input that is slower than the rate makes requests late; neither the target nor the host is blamed.
#[test]
fn a_slow_input_is_blamed_for_late_requests() {
    let server = Server::start(|_, _| Reply::ok(""));
    // Each target is written after the previous request arrived: later than 10 µs after it was due.
    let mut child = spawn(&["-lazy", "-rate=100000", "-output=/dev/null"]);
    let mut input = child.stdin.take().unwrap();
    for n in 0..4 {
        writeln!(input, "GET {}/\n", server.url()).unwrap();
        server.wait_for(n + 1);
    }
    drop(input);
    let done = Done::from(child.wait_with_output().unwrap());
    assert_eq!(done.code, 0, "{}", done.stderr);
    for says in ["4 planned, 4 sent", "waited for their target: the input is slower than the rate"]
    {
        assert!(done.stderr.contains(says), "{says}\n{}", done.stderr);
    }
    assert!(!done.stderr.contains("SIGSTOP"), "{}", done.stderr);
}

/// The plan that -print-plan prints sends the same requests.
#[test]
fn a_printed_plan_sends_the_same() {
    let folder = Folder::new();
    let server = Server::start(|_, _| Reply::ok(""));
    let body = folder.file("body", "literal {{seq}} ${HOME} $x");
    let targets = format!(
        "GET {0}/a?x=${{Y}}\nA: {{{{uuid}}}}\n\nPOST {0}/b\nA: 2\nContent-Length: 99\nConnection: keep-alive\n@{body}\n",
        server.url()
    );
    let flags = ["-rate=100", "-duration=40ms", "-name=n", "-header=A: 1", "-max-workers=5"];
    let done = attack(&[&flags[..], &["-output=/dev/null"]].concat(), &targets);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let printed = attack(&[&flags[..], &["-print-plan"]].concat(), &targets);
    let plan = folder.file("plan.toml", &printed.stdout);
    let run = plimsoll(&["run", &plan, "--no-out"]);
    assert_eq!(run.code, 0, "{}\n{}", run.stderr, printed.stdout);
    let sent: Vec<String> = server.received().iter().map(|own| shown(own, &server)).collect();
    assert_eq!((sent.len(), &sent[..4]), (8, &sent[4..]));
    assert!(sent[1].ends_with("literal {{seq}} ${HOME} $x\n----\n"), "{}", sent[1]);
    assert!(
        sent[0].contains("\nA: 1\nA: {{uuid}}\n") && sent[0].starts_with("GET /a?x=${Y}\n"),
        "{}",
        sent[0]
    );
    let check = plimsoll(&["check", &plan]);
    for says in ["at most 5 requests in flight", "time out 30s after they start"] {
        assert!(
            format!("{}{}", check.stdout, check.stderr).contains(says),
            "{says}\n{}",
            check.stdout
        );
    }
}

/// A request on a keep-alive connection that the server has just closed is sent once more.
#[test]
fn stale_connections_are_no_errors() {
    let folder = Folder::new();
    // Answers one request of each connection and closes it when the second arrives.
    let seen = std::sync::Mutex::new(std::collections::HashSet::new());
    let server = Server::start(move |_, request| {
        let is_first = seen.lock().unwrap().insert(request.from);
        if is_first { Reply::ok("") } else { Reply::raw("", After::Close) }
    });
    let target = format!("GET {}/", server.url());
    let (_, hits) = results(&folder, &["-rate=100", "-duration=100ms"], &target);
    let errors: Vec<_> = hits.iter().map(|hit| text(&hit.error)).collect();
    assert!(hits.len() == 10 && errors.iter().all(String::is_empty), "{errors:?}");
    // A POST may have had an effect: Go's client does not repeat it either.
    let posted = target.replace("GET", "POST");
    let (_, hits) = results(&folder, &["-rate=100", "-duration=100ms"], &posted);
    assert!(hits.iter().any(|hit| text(&hit.error).ends_with("EOF")), "{hits:?}");
}

#[test]
fn the_end_of_the_output_ends_the_attack_quietly() {
    let server = Server::start(|_, _| Reply::ok(""));
    let mut child = spawn(&["-rate=200"]);
    writeln!(child.stdin.take().unwrap(), "GET {}/", server.url()).unwrap();
    let mut first = [0; 100];
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut first).unwrap();
    drop(output);
    let done = Done::from(child.wait_with_output().unwrap());
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(!done.stderr.contains("verdict") && !done.stderr.contains("pipe"), "{}", done.stderr);
    let full = attack(
        &["-rate=100", "-duration=50ms", "-output=/dev/full"],
        &format!("GET {}/", server.url()),
    );
    assert!(
        full.code == 1 && full.stderr.contains("cannot write /dev/full: No space"),
        "{}",
        full.stderr
    );
}

/// The first signal waits for answers, the second does not; the results so far are complete.
#[test]
fn signals_end_an_attack_and_keep_its_results() {
    let folder = Folder::new();
    let server =
        Server::start(|n, _| if n < 3 { Reply::ok("") } else { Reply::raw("", After::Hang) });
    let out = folder.path().join("out.bin");
    let mut child = spawn(&["-rate=100", "-output", out.to_str().unwrap()]);
    writeln!(child.stdin.take().unwrap(), "GET {}/", server.url()).unwrap();
    server.wait_for(5);
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let signal = || nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    signal();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("stopping: waiting for the answers") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0);
    }
    signal();
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest}");
    let codes: Vec<u16> = hits_of(&out).iter().map(|hit| hit.code).collect();
    assert_eq!(codes, [200; 3], "requests in flight have no result\n{rest}");
    assert!(rest.contains("verdict"), "{rest}");
}

#[test]
fn mistakes_are_refused_before_anything_is_sent() {
    let folder = Folder::new();
    let long = format!("GET http://127.0.0.1:1/\nX: {}\n", "x".repeat(10 << 20));
    let file = folder.file("long.txt", &long);
    let long_file = format!("-targets={file}");
    let cases: [(&[&str], &str, i32, &str); 14] = [
        (&["-rate=0"], "", 1, "-rate=0 requires setting -max-workers"),
        (&["-rate=infinity"], "", 1, "-rate=0 requires setting -max-workers"),
        (&[], "", 1, "no targets to attack"),
        (&["-h2c"], "", 1, "-h2c is not supported"),
        (&["-unix-socket=/x"], "", 1, "-unix-socket is not supported"),
        (&["-proxy-header=A: b"], "", 1, "-proxy-header is not supported"),
        (&["-session-tickets"], "", 1, "-session-tickets is not supported"),
        (&["-resolvers=1.1.1.1"], "", 1, "-resolvers is not supported"),
        (&["-connect-to=a:1:b:2"], "", 1, "-connect-to is not supported"),
        (&["-duration=5"], "", 2, "invalid value \"5\" for flag -duration"),
        (&["-format=xml"], "", 1, "isn't one of [http, json]"),
        (&["-timeout=1h"], "", 1, "-timeout=1h0m0s is not from 0 to 30m0s"),
        (&["-output=/"], "GET http://127.0.0.1:1/", 1, "cannot write /: Is a directory"),
        (&[], "{\"method\":\"GET\",\"url\":\"http://a\"}", 1, "looks like json"),
    ];
    for (args, input, code, says) in cases {
        let done = attack(args, input);
        assert_eq!((done.code, done.stdout.as_str()), (code, ""), "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(says), "{args:?}: {}", done.stderr);
    }
    // At their defaults or switched off, the same flags are no mistake.
    let done = attack(
        &[
            "-http2=true",
            "-h2c=false",
            "-session-tickets=false",
            "-rate=1",
            "-duration=1ms",
            "-output=/dev/null",
            &long_file,
        ],
        "",
    );
    assert_eq!(done.code, 0, "{}", done.stderr);
}
