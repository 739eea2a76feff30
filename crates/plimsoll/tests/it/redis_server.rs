//! A real Redis of a test's own.

use crate::run::Folder;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A redis-server on a socket in a folder of its own; killed on drop.
pub(crate) struct Redis {
    folder: Folder,
    child: Child,
}

/// A reply of Redis.
#[derive(Debug, PartialEq)]
pub(crate) enum Reply {
    Text(Vec<u8>),
    Number(i64),
    Nil,
    List(Vec<Reply>),
    Error(String),
}

impl Redis {
    pub(crate) fn start() -> Redis {
        let folder = Folder::new();
        let child = Redis::spawn(&folder);
        Redis { folder, child }
    }

    fn spawn(folder: &Folder) -> Child {
        let args =
            ["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "no"];
        Command::new("redis-server")
            .args(args)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server, which scripts/test installs")
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.folder.path().join("redis.sock").display())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.child = Redis::spawn(&self.folder);
    }

    /// Sends a command over a connection of its own, once the server accepts one.
    pub(crate) fn send(&self, words: &[&[u8]]) -> Reply {
        let path = self.folder.path().join("redis.sock");
        let socket = loop {
            match UnixStream::connect(&path) {
                Ok(socket) => break socket,
                Err(_) => std::thread::yield_now(),
            }
        };
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        (&socket).write_all(&request).unwrap();
        Reply::read(&mut BufReader::new(socket))
    }

    pub(crate) fn command(&self, text: &str) -> Reply {
        let words: Vec<&[u8]> = text.split(' ').map(str::as_bytes).collect();
        self.send(&words)
    }

    pub(crate) fn keys(&self) -> Vec<Vec<u8>> {
        let Reply::List(keys) = self.command("KEYS plimsoll:*") else { panic!("no list") };
        let text = |key| if let Reply::Text(text) = key { text } else { panic!("{key:?}") };
        keys.into_iter().map(text).collect()
    }
}

impl Reply {
    fn read(from: &mut impl BufRead) -> Reply {
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        let (kind, rest) = line.trim_end().split_at(1);
        match kind {
            "+" => Reply::Text(rest.into()),
            "-" => Reply::Error(rest.into()),
            ":" => Reply::Number(rest.parse().unwrap()),
            "*" => Reply::List((0..rest.parse().unwrap()).map(|_| Reply::read(from)).collect()),
            "$" if rest == "-1" => Reply::Nil,
            _ => {
                let mut text = vec![0; rest.parse::<usize>().unwrap() + 2];
                from.read_exact(&mut text).unwrap();
                text.truncate(text.len() - 2);
                Reply::Text(text)
            }
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
