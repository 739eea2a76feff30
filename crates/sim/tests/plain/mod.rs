//! A minimal HTTP/1.1 client for tests, which sends exactly the given bytes.

#![allow(dead_code, reason = "each test binary uses only part of it")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// One connection.
pub(crate) struct Plain {
    stream: BufReader<TcpStream>,
}

/// A response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Plain {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Plain> {
        Ok(Plain { stream: BufReader::new(TcpStream::connect(address)?) })
    }

    /// Sends a request and reads its response. An incomplete body is an error.
    pub(crate) fn ask(
        &mut self,
        method: &str,
        path: &str,
        head: &str,
        body: &str,
    ) -> io::Result<Response> {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n{head}\r\n{body}"
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.read()
    }

    /// Posts a body to a service.
    pub(crate) fn post(&mut self, service: &str, body: &str) -> io::Result<Response> {
        self.ask("POST", &format!("/{service}"), "", body)
    }

    /// Makes a call with the id 1 and returns the answer's text.
    pub(crate) fn call(&mut self, service: &str, method: &str, params: &str) -> String {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        let body = self.post(service, &body).expect("an answer").body;
        let body = body.strip_prefix(r#"{"jsonrpc":"2.0","id":1,"#).expect("an answer with the id");
        body.strip_suffix('}').expect("an object").to_owned()
    }

    /// Makes a call that must succeed and returns the result's text.
    pub(crate) fn result(&mut self, service: &str, method: &str, params: &str) -> String {
        let answer = self.call(service, method, params);
        answer
            .strip_prefix(r#""result":"#)
            .unwrap_or_else(|| panic!("{method}: {answer}"))
            .to_owned()
    }

    fn read(&mut self) -> io::Result<Response> {
        let mut headers = String::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line == "\r\n" {
                break;
            }
            headers.push_str(&line);
        }
        let status = headers.split(' ').nth(1).and_then(|status| status.parse().ok());
        let length = headers.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Response { status: status.expect("a status"), headers, body })
    }
}
