//! A run while it goes on: the live page and its events, and the terminal view.

use crate::run::{Done, Folder, command, plimsoll};
use crate::server::{Reply, Server};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

/// A run with a live page.
struct Watched {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    address: SocketAddr,
    _server: Server,
    folder: Folder,
}

impl Watched {
    /// `load` is the plan's rate and duration.
    fn start(load: &str) -> Watched {
        let server = Server::start(|_, _| Reply::ok("{}"));
        let folder = Folder::new();
        let plan = format!(
            "name = \"<b>live</b>\"\n{load}\n[[target]]\nname = \"a\"\nrequest = \"GET http://{}/\"\n",
            server.address
        );
        let (plan, out) = (folder.file("plan.toml", plan), folder.path().join("out"));
        let args = ["run", &plan, "--out", out.to_str().unwrap(), "--live", "127.0.0.1:0"];
        let mut child = command(&args).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "no live view");
            if let Some(rest) = line.strip_prefix("live view at http://") {
                break rest.trim_end_matches(['/', '\n']).parse().unwrap();
            }
        };
        Watched { child, stderr, address, _server: server, folder }
    }

    /// Sends a request whose head has these further lines.
    fn ask(&self, line: &str, headers: &str) -> BufReader<TcpStream> {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(socket, "{line} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.address).unwrap();
        BufReader::new(socket)
    }

    fn finish(mut self) -> (Done, Folder) {
        let output = self.child.wait_with_output().unwrap();
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr).unwrap();
        let done = Done::from(output);
        (Done { stderr, ..done }, self.folder)
    }
}

/// An event: its name, id and data.
#[derive(Debug)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

/// The next event; `None` at the end of the stream. Chunk sizes are skipped.
fn next_event(from: &mut impl BufRead) -> Option<Event> {
    let (mut name, mut id, mut line) = (String::new(), String::new(), String::new());
    loop {
        line.clear();
        if from.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let text = line.trim_end();
        if let Some(rest) = text.strip_prefix("event: ") {
            name = rest.into();
        } else if let Some(rest) = text.strip_prefix("id: ") {
            id = rest.into();
        } else if let Some(rest) = text.strip_prefix("data: ") {
            return Some(Event { name, id, data: serde_json::from_str(rest).unwrap() });
        }
    }
}

fn until_end(from: &mut impl BufRead) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    while events.last().is_none_or(|last| last.name != "end") {
        events.push(next_event(from).expect("the run's end is announced"));
    }
    events
}

/// The number of answers in all rows, each as it was sent last.
fn ok_in(events: &[Event]) -> f64 {
    let mut rows: Vec<f64> = Vec::new();
    for event in events.iter().filter(|event| event.name == "rows") {
        let column = |name: &str| -> Vec<f64> {
            event.data[name].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
        };
        rows.truncate(event.data["from"].as_u64().unwrap() as usize);
        let spans = column("t").into_iter().zip(column("to"));
        rows.extend(column("ok").iter().zip(spans).map(|(ok, (from, to))| ok * (to - from)));
    }
    rows.iter().sum()
}

#[test]
fn viewers_see_every_second_and_the_end() {
    let run = Watched::start("rate = \"100/s\"\nduration = \"3s\"");
    // Viewers that hang: they never read.
    let _hanging: Vec<_> = (0..20).map(|_| run.ask("GET /events", "")).collect();
    // Some that send nothing, or nonsense.
    let _silent: Vec<_> = (0..20).map(|_| TcpStream::connect(run.address).unwrap()).collect();
    let mut nonsense = TcpStream::connect(run.address).unwrap();
    nonsense.write_all(&[0xff; 4096]).unwrap();
    let page = loop {
        let mut page = String::new();
        run.ask("GET /", "Connection: close\r\n").read_to_string(&mut page).unwrap();
        // Until the run starts.
        if !page.starts_with("HTTP/1.1 503") {
            break page;
        }
    };
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("&lt;b&gt;live&lt;/b&gt;"));
    assert!(page.contains("data-live") && !page.contains("<b>live"));

    let mut events = run.ask("GET /events", "");
    let first = next_event(&mut events).unwrap();
    // One that lost its connection and comes back.
    let mut again = run.ask("GET /events", &format!("Last-Event-ID: {}\r\n", first.id));
    let mut stranger = run.ask("GET /events", "Last-Event-ID: 1.1\r\n");
    let rest = until_end(&mut events);
    let resumed = until_end(&mut again);
    let next = next_event(&mut stranger).unwrap();
    assert_eq!(next.name, "reload", "an event of another run is not resumed");
    assert!(resumed.iter().all(|event| event.id != first.id));
    let all: Vec<Event> = std::iter::once(first).chain(rest).collect();
    // Rates are per second of the rows, whose length is rounded.
    let ok = ok_in(&all);
    assert!((295.0..305.0).contains(&ok), "{ok}");
    for name in ["facts", "html"] {
        assert!(all.iter().any(|event| event.name == name), "no {name}");
    }
    let html = all.iter().rfind(|event| event.name == "html").unwrap();
    let verdict = html.data["verdict"].as_str().unwrap();
    assert!(verdict.contains("class=\"banner ") && !verdict.contains("so far"), "{verdict}");
    let (done, folder) = run.finish();
    // A busy machine may make the run invalid.
    assert!([0, 98].contains(&done.code), "{}", done.stderr);
    let report = all.last().unwrap().data["report"].as_str().unwrap().to_string();
    assert_eq!(report, folder.path().join("out/report.html").to_str().unwrap());
    // The page of the finished run is that which `report` makes.
    let made =
        plimsoll(&["report", folder.path().join("out").to_str().unwrap(), "--format", "html"]);
    assert!(made.stdout == std::fs::read_to_string(&report).unwrap(), "another page");
}

#[test]
fn the_page_is_for_this_host_and_read_only() {
    let run = Watched::start("rate = \"10/s\"\nduration = \"1s\"");
    let status = |line: &str, headers: &str| {
        let mut first = String::new();
        run.ask(line, headers).read_line(&mut first).unwrap();
        first.split(' ').nth(1).unwrap().to_string()
    };
    assert_eq!(status("GET /nothing", ""), "404");
    assert_eq!(status("POST /", "Content-Length: 0\r\n"), "405");
    assert_eq!(status("HEAD /events", ""), "200");
    let mut socket = TcpStream::connect(run.address).unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 403");
    assert!([0, 98].contains(&run.finish().0.code));
}

#[test]
fn live_takes_the_plan_that_follows_it() {
    let folder = Folder::new();
    let plan = folder.file("plan.toml", "rate = \"1/s\"\n");
    let done = plimsoll(&["run", "--live", &plan, "--no-out"]);
    assert!(
        done.stderr.contains("plan.toml") && !done.stderr.contains("cannot serve"),
        "{}",
        done.stderr
    );
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let url = format!("http://{address}/");
    let done = plimsoll(&["run", &url, "--no-out", "--live", &address]);
    let refused = format!("cannot serve the live view on {address}");
    assert!(done.code == 2 && done.stderr.contains(&refused), "{}", done.stderr);
}

/// Runs a shell command on a terminal of this size, with keys pressed once `when` has been printed.
fn on_terminal(rows: u32, columns: u32, shell: &str, when: &str, keys: &str) -> String {
    let size = format!("stty rows {rows} cols {columns}; {shell}; echo status $?; stty -a");
    let mut child = std::process::Command::new("script")
        .args(["-qec", &size, "/dev/null"])
        .env("TERM", "xterm-256color")
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    let mut stdout = child.stdout.take().unwrap();
    let mut pressed = false;
    loop {
        match stdout.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => seen.extend_from_slice(&buffer[..n]),
        }
        if !pressed && String::from_utf8_lossy(&seen).contains(when) {
            pressed = true;
            stdin.write_all(keys.as_bytes()).unwrap();
            stdin.flush().unwrap();
        }
    }
    child.wait().unwrap();
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn the_terminal_view_stops_and_leaves_the_terminal_as_it_was() {
    let server = Server::start(|_, _| Reply::ok("{}"));
    let folder = Folder::new();
    let plan = format!(
        "rate = \"50/s\"\nduration = \"1h\"\n[[target]]\nname = \"a\"\nrequest = \"GET http://{}/\"\n",
        server.address
    );
    let plan = folder.file("plan.toml", plan);
    let shell = format!("{} run {plan} --no-out --tui", env!("CARGO_BIN_EXE_plimsoll"));
    // 'q', and Ctrl-C, which a raw terminal passes on as a character; in a wide and a small terminal.
    for (rows, columns, keys) in [(30, 100, "q"), (8, 40, "\u{3}")] {
        let seen = on_terminal(rows, columns, &shell, "scheduled", keys);
        assert!(seen.contains("\u{1b}[?1049h"), "the view was not shown: {seen}");
        let after = seen.split("\u{1b}[?1049l").nth(1).expect("the view ended");
        assert!(after.contains("status 130") && after.contains("Ctrl-C"), "{after}");
        assert!(after.contains(" echo ") && after.contains(" icanon "), "{after}");
    }
    // Nothing that could show it.
    let done = plimsoll(&[
        "run",
        &folder.file("short.toml", std::fs::read_to_string(&plan).unwrap().replace("1h", "1s")),
        "--no-out",
        "--tui",
    ]);
    assert!(done.stderr.contains("--tui shows nothing"), "{}", done.stderr);
    assert!([0, 98].contains(&done.code), "{}", done.stderr);
}
