//! Tables of messages, and properties that hold for any fragmentation.

use super::*;
use proptest::prelude::*;

fn head(text: &str) -> Result<RequestHead<'_>, ErrorKind> {
    request_head(text.as_bytes()).map_err(|error| error.kind)
}

#[test]
fn requests_are_read() {
    let text =
        "POST /v1?x=1 HTTP/1.1\r\nHost: h\r\nTarget-Service-ID: eth\r\nContent-Length: 5\r\n\r\n";
    let read = head(text).expect("a request");
    assert_eq!((read.method, read.target), ("POST", "/v1?x=1"));
    assert_eq!(read.framing, Framing::Length(5));
    assert_eq!(read.fields.service, Some(b"eth".as_slice()));
    assert!(read.keep_alive);
    assert!(!head("GET / HTTP/1.0\r\n\r\n").expect("a request").keep_alive);
    assert!(head("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").expect("one").keep_alive);
    assert!(
        !head("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n").expect("one").keep_alive
    );
    assert_eq!(head("GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("one").framing, Framing::Empty);
}

#[test]
fn ambiguous_requests_are_rejected() {
    use ErrorKind::{HeadTooLarge, MalformedHttp, UnsupportedTransfer};
    let check = |lines: &str, kind: ErrorKind| {
        let text = format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        assert_eq!(head(&text).map(|head| head.framing), Err(kind), "{lines}");
    };
    check("Content-Length: 1\r\nContent-Length: 2\r\n", MalformedHttp);
    check("Content-Length: 1\r\nContent-Length: 1\r\n", MalformedHttp);
    check("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", MalformedHttp);
    check("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", MalformedHttp);
    check("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", MalformedHttp);
    check("Transfer-Encoding: gzip, chunked\r\n", UnsupportedTransfer);
    check("Transfer-Encoding: xchunked\r\n", UnsupportedTransfer);
    check("Transfer-Encoding: identity\r\n", UnsupportedTransfer);
    check("Content-Length: +1\r\n", MalformedHttp);
    check("Content-Length: -1\r\n", MalformedHttp);
    check("Content-Length: 1, 1\r\n", MalformedHttp);
    check("Content-Length: 0x1\r\n", MalformedHttp);
    check("Content-Length:\r\n", MalformedHttp);
    check("Content-Length: 99999999999999999999\r\n", MalformedHttp);
    check("Content-Length : 1\r\n", MalformedHttp);
    check("X: a\r\n b\r\n", MalformedHttp); // a folded line
    check("Host: other\r\n", MalformedHttp);
    check(&"X: y\r\n".repeat(FIELDS_MAX), HeadTooLarge);
    let refused = |text: &str| head(text).map(|head| head.framing);
    assert_eq!(refused("POST / HTTP/1.1\r\n\r\n"), Err(MalformedHttp)); // no Host
    assert_eq!(
        refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Err(MalformedHttp)
    );
    assert_eq!(refused("POST / HTTP/3\r\n\r\n"), Err(MalformedHttp));
    assert_eq!(refused("\u{16}\u{3}\u{1}\r\n\r\n"), Err(MalformedHttp)); // TLS on a plain port
}

#[test]
fn responses_are_read() {
    let check = |text: &str, method: &str, status: u16, framing: Framing, keep_alive: bool| {
        let read = response_head(text.as_bytes(), method == "HEAD").expect(text);
        assert_eq!((read.status, read.framing, read.keep_alive), (status, framing, keep_alive));
    };
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
    check(ok, "POST", 200, Framing::Length(2), true);
    check(ok, "HEAD", 200, Framing::Empty, true);
    check("HTTP/1.1 204 No Content\r\n\r\n", "POST", 204, Framing::Empty, true);
    check("HTTP/1.1 100 Continue\r\n\r\n", "POST", 100, Framing::Empty, true);
    check("HTTP/1.1 200 OK\r\n\r\n", "POST", 200, Framing::UntilClose, false);
    check("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", "POST", 200, Framing::Length(2), false);
    check(
        "HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST",
        500,
        Framing::Chunked,
        true,
    );
    assert!(response_head(b"garbage\r\n\r\n", false).is_err());
    assert!(
        response_head(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", false)
            .is_err()
    );
}

#[test]
fn heads_end_with_an_empty_line() {
    let text = b"GET / HTTP/1.1\r\nHost: h\r\n\r\nbody";
    assert_eq!(head_end(text, 0), Some(text.len() - 4));
    assert_eq!(head_end(b"GET / HTTP/1.1\r\nHost: h\r\n", 0), None);
    assert_eq!(head_end(b"a\n\nb", 0), Some(3));
    for seen in 0..text.len() - 4 {
        assert_eq!(head_end(text, seen), Some(text.len() - 4), "{seen}");
    }
}

/// Feeds `raw` in fragments and returns the body and the bytes after it.
fn feed(
    framing: Framing,
    raw: &[u8],
    cuts: &[usize],
    limit: u64,
) -> Result<(Vec<u8>, Vec<u8>), ErrorKind> {
    let mut buffer = b"head".to_vec();
    let mut body = Body::new(framing, 4);
    let mut at = 0;
    let ends = cuts.iter().copied().chain([raw.len()]);
    for end in ends {
        let end = end.clamp(at, raw.len());
        buffer.extend_from_slice(&raw[at..end]);
        at = end;
        match body.advance(&mut buffer, limit).map_err(|error| error.kind)? {
            Progress::Whole(range) => {
                let mut behind = buffer[range.end..].to_vec();
                behind.extend_from_slice(&raw[at..]);
                return Ok((buffer[range].to_vec(), behind));
            }
            Progress::TooLarge => return Err(ErrorKind::BodyTooLarge),
            Progress::More(_) => {}
        }
    }
    Err(ErrorKind::Broken)
}

#[test]
fn malformed_chunks_are_rejected() {
    let check = |raw: &str, kind: ErrorKind| {
        assert_eq!(feed(Framing::Chunked, raw.as_bytes(), &[], 100), Err(kind), "{raw:?}");
    };
    check("5\r\nabcdefg\r\n0\r\n\r\n", ErrorKind::MalformedHttp);
    check("x\r\n", ErrorKind::MalformedHttp);
    check("\r\n", ErrorKind::MalformedHttp);
    check("-1\r\n", ErrorKind::MalformedHttp);
    check("1 \n", ErrorKind::MalformedHttp);
    check("ffffffffffffffff\r\n", ErrorKind::MalformedHttp);
    check(&format!("1;{}", "x".repeat(300)), ErrorKind::MalformedHttp);
    check(&format!("0\r\n{}", "a: b\r\n".repeat(3000)), ErrorKind::MalformedHttp);
    check(&format!("65\r\n{}", "x".repeat(0x65)), ErrorKind::BodyTooLarge);
    check("5\r\nabc", ErrorKind::Broken);
    let fine =
        feed(Framing::Chunked, b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\nnext", &[], 100);
    assert_eq!(fine, Ok((b"abcde".to_vec(), b"next".to_vec())));
}

proptest! {
    /// A chunked body is decoded correctly however it is fragmented, and the bytes after it are kept.
    #[test]
    fn chunked_bodies_survive_any_cut(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
        mut cuts in prop::collection::vec(0usize..400, 0..12),
        behind in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut raw = Vec::new();
        for piece in &pieces {
            raw.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            raw.extend_from_slice(piece);
            raw.extend_from_slice(b"\r\n");
        }
        raw.extend_from_slice(b"0\r\n\r\n");
        raw.extend_from_slice(&behind);
        cuts.sort_unstable();
        let expected = (pieces.concat(), behind);
        prop_assert_eq!(feed(Framing::Chunked, &raw, &cuts, 10_000), Ok(expected));
    }

    #[test]
    fn parsers_do_not_panic_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = request_head(&bytes);
        let _ = response_head(&bytes, false);
        let _ = head_end(&bytes, bytes.len() / 2);
        let _ = feed(Framing::Chunked, &bytes, &[bytes.len() / 3], 100);
    }
}

#[test]
fn ambiguous_hosts_and_targets_are_rejected() {
    let with = |target: &str, host: &str| {
        head(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).is_ok()
    };
    for host in ["h", "", "a.example:80", "[::1]", "[fe80::1%25eth0]:3069", "a_b~c%20", "h:"] {
        assert!(with("/", host), "{host}");
    }
    for host in ["a b", "a/b", "u@h", "h:x", "h:123456", "[::1", "::1]", "[]", "a\\b", "h?x", "é"]
    {
        assert!(!with("/", host), "{host}");
    }
    for target in ["/", "/v1?x=http://h?y", "*", "http://h/v1", "https://h:1/", "http://h"] {
        assert!(with(target, "h"), "{target}");
    }
    for target in ["http://h?x=/v1", "http://h#/v1", "http:///v1", "ftp://h/", "v1", "http://u@h/"]
    {
        assert!(!with(target, "h"), "{target}");
    }
}

#[test]
fn control_characters_in_chunk_lines_are_rejected() {
    let read = |text: &str| {
        let mut buffer = text.as_bytes().to_vec();
        Chunks::default().decode(&mut buffer, &mut 0).map_err(|error| error.kind)
    };
    assert_eq!(read("1;a=\tb\r\nx\r\n0\r\nt: v\r\n\r\n"), Ok(true));
    for bad in [
        "1;\0\r\nx\r\n0\r\n\r\n",
        "1;a\rb\r\nx\r\n0\r\n\r\n",
        "1;a\nb\r\nx\r\n0\r\n\r\n",
        "1\nx\r\n0\r\n\r\n",
        "1\r\r\nx\r\n0\r\n\r\n",
        "0\r\nt: a\rb\r\n\r\n",
        "0\r\nt: a\0\r\n\r\n",
        "0\r\n\n",
    ] {
        assert_eq!(read(bad), Err(ErrorKind::MalformedHttp), "{bad:?}");
    }
}

#[test]
fn percent_encoding_is_decoded() {
    let rows = [("a%2Fb%2f", "a/b/"), ("%zz%4", "%zz%4"), ("%+1", "%+1"), ("%ff", "\u{fffd}")];
    for (text, plain) in rows {
        assert_eq!(unescaped(text), plain);
    }
}
