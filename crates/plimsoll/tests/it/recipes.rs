//! The recipes in docs/operating.md, given to the programs they are for.

use crate::run::Folder;
use crate::server::{After, Reply, Server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};

/// The fenced block in this language that contains `text`.
fn recipe(language: &str, text: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operating.md");
    let document = std::fs::read_to_string(path).unwrap();
    let start = format!("```{language}\n");
    let blocks = document.split(&start).skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.into_iter().find(|block| block.contains(text)).expect(text).to_string()
}

/// Checks that a command accepts a recipe.
fn accepted(command: &mut Command) {
    let done = command.output().unwrap();
    let output = [done.stdout, done.stderr].concat();
    assert!(done.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output));
}

#[test]
fn recipes_are_accepted_by_their_programs() {
    let folder = Folder::new();
    let frontend = "defaults\n mode http\n timeout connect 1s\n timeout client 1s\n timeout server 1s\n\
                    frontend f\n bind 127.0.0.1:1\n default_backend gateway\n";
    let haproxy = folder.file("haproxy.cfg", frontend.to_string() + &recipe("haproxy", "httpchk"));
    accepted(Command::new("haproxy").args(["-c", "-f", &haproxy]));
    let stanza = folder.file("logrotate", recipe("logrotate", "postrotate"));
    let state = folder.path().join("state");
    accepted(Command::new("logrotate").arg("-d").arg("-s").arg(state).arg(stanza));
}

/// nginx with the recipe, in front of two gateways.
struct Nginx {
    process: Child,
    folder: Folder,
}

impl Nginx {
    fn start(first: &Server, second: &Server) -> Nginx {
        let folder = Folder::new();
        let here = folder.path().display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {here}/{kind};\n"))
            .concat();
        let recipe = recipe("nginx", "proxy_next_upstream")
            .replace("10.0.0.5:3069", &first.address.to_string())
            .replace("10.0.0.6:3069", &second.address.to_string())
            .replace("server {\n", &format!("server {{\n  listen unix:{here}/socket;\n"));
        let config = folder.file(
            "nginx.conf",
            format!(
                "daemon off; worker_processes 1; pid {here}/pid; error_log {here}/log;\nevents {{}}\n\
                 http {{ access_log off;\n{temporary}{recipe}}}\n"
            ),
        );
        let log = folder.path().join("log");
        let process = Command::new("nginx").arg("-e").arg(log).args(["-c", &config]).spawn();
        Nginx { process: process.unwrap(), folder }
    }

    /// Posts a call; returns the status line's code.
    fn post(&self) -> String {
        let mut socket = loop {
            match UnixStream::connect(self.folder.path().join("socket")) {
                Ok(socket) => break socket,
                Err(_) => std::thread::yield_now(),
            }
        };
        let request =
            "POST /v1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_string()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGKILL would leave its worker behind.
        let _ = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

#[test]
fn nginx_repeats_calls_that_were_refused_but_none_that_may_have_been_sent() {
    let busy = Server::start(|_, _| Reply::with(503, "", "{}"));
    let good = Server::start(|_, _| Reply::ok("{}"));
    let nginx = Nginx::start(&busy, &good);
    for _ in 0..4 {
        assert_eq!(nginx.post(), "200");
    }
    assert_eq!(good.received().len(), 4);
    assert!(!busy.received().is_empty());
    // A connection that breaks after the call was sent: it may have been a transaction.
    let breaks = || Server::start(|_, _| Reply::raw("", After::Close));
    let (first, second) = (breaks(), breaks());
    let nginx = Nginx::start(&first, &second);
    assert_eq!(nginx.post(), "502");
    assert_eq!(first.received().len() + second.received().len(), 1);
}
