//! Valid and malformed responses, in any fragmentation.

use super::*;
use proptest::prelude::*;

/// Parses one response given in fragments: its head, its body, and the number of bytes left over.
fn read(fragments: &[&[u8]], head_only: bool) -> Result<Option<(Head, Vec<u8>, usize)>, Fault> {
    let mut parser = Parser::new();
    parser.expect(head_only);
    let mut body = Vec::new();
    let mut ended = false;
    let mut left = 0;
    for fragment in fragments {
        let mut input = *fragment;
        while !ended {
            match parser.next(&mut input)? {
                Piece::Head => {}
                Piece::Body(piece) => body.extend_from_slice(piece),
                Piece::More => break,
                Piece::End => ended = true,
            }
        }
        left += input.len();
    }
    Ok(ended.then(|| (parser.head().clone(), body, left)))
}

fn parse(text: &str) -> Result<Option<(Head, Vec<u8>, usize)>, Fault> {
    read(&[text.as_bytes()], false)
}

#[test]
fn valid_responses_are_parsed() {
    let check = |text: &str, status: u16, keep_alive: bool, body: &str| {
        let (head, read, left) = parse(text).unwrap().expect(text);
        assert_eq!((head.status, head.keep_alive), (status, keep_alive), "{text}");
        assert_eq!((String::from_utf8(read).unwrap().as_str(), left), (body, 0), "{text}");
    };
    check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, true, "hi");
    check("HTTP/1.1 200\r\ncontent-length:2\r\n\r\nhi", 200, true, "hi");
    check("HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", 200, true, "hi"); // bare line feeds
    check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", 200, true, "hi");
    check("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: foo, Close\r\n\r\n", 200, false, "");
    check("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, false, "hi");
    check(
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
        200,
        true,
        "hi",
    );
    check("HTTP/1.1 204 No Content\r\n\r\n", 204, true, "");
    check("HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", 304, true, "");
    check(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 N\r\n\r\n",
        204,
        true,
        "",
    );
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    check(&format!("{chunked}2\r\nhi\r\n0\r\n\r\n"), 200, true, "hi");
    check(
        &format!("{chunked}002;a=b\r\nhi\r\nA \r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"),
        200,
        true,
        "hi0123456789",
    );
    check(&format!("{chunked}0\r\n\r\n"), 200, true, "");
}

#[test]
fn folded_lines_continue_the_value_before_them() {
    let check = |lines: &str, location: &str, length: usize| {
        let text = format!("HTTP/1.1 302 Found\r\n{lines}\r\n\r\n{}", "x".repeat(length));
        let (head, body, left) = parse(&text).unwrap().expect(&text);
        assert_eq!(head.location.as_deref(), Some(location.as_bytes()), "{lines}");
        assert_eq!((body.len(), left), (length, 0), "{lines}");
    };
    check("Content-Length: 0\r\nLocation: /a\r\n b", "/a b", 0);
    check("Location: /a\r\n\tb\r\n   c  \r\nContent-Length: 3", "/a b c", 3);
    check("Location:\r\n /a\r\nContent-Length:\r\n 3", "/a", 3);
    check("Location: /a\r\n \r\nContent-Length: 3\r\n\t", "/a", 3); // empty continuations
    check("Location: /a\r\n Content-Length: 9\r\nContent-Length: 3", "/a Content-Length: 9", 3);
    check("Location: /a\n b\nX: y\n : z\nContent-Length: 1", "/a b", 1); // bare line feeds
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    assert_eq!(parse(chunked).unwrap().unwrap().1, b"hi");
}

#[test]
fn responses_to_head_have_no_body() {
    let text = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n";
    assert_eq!(read(&[text], true).unwrap().unwrap().1, b"");
}

#[test]
fn a_header_is_extracted_if_asked_for() {
    let check = |header: &str, text: &str, value: Option<&str>| {
        for fragment in [1, 7, text.len()] {
            let mut parser = Parser::new();
            // Nothing is left from the response before.
            for text in ["HTTP/1.1 204 X\r\nX-Instance: old\r\n\r\n", text] {
                parser.expect(false);
                parser.extract(header);
                for mut input in text.as_bytes().chunks(fragment) {
                    while !matches!(parser.next(&mut input), Ok(Piece::More | Piece::End)) {}
                }
            }
            assert_eq!(parser.split().map(SplitValue::as_str), value, "{text}");
        }
    };
    let head = |lines: &str| format!("HTTP/1.1 204 X\r\n{lines}\r\n");
    check("x-instance", &head("X-INSTANCE:  gw-1 \r\n"), Some("gw-1"));
    check("x-instance", &head("X-Instance: a\r\nx-instance: b\r\n"), Some("a"));
    check("x-instance", &head("X-Instance:\r\n"), Some(""));
    check("x-instance", &head("X-Instance: \x1b[2J\r\n"), Some("?[2J"));
    check("x-instance", &head("X-Instances: a\r\nInstance: b\r\n"), None);
    check("location", &head("Location: /b\r\n"), Some("/b"));
    check("", &head("X-Instance: a\r\n"), None);
    let early = "HTTP/1.1 103 X\r\nX-Instance: early\r\n\r\n";
    check("x-instance", &(early.to_string() + &head("")), None);
    let long = "x".repeat(10_000);
    let value = Some(&long[..SplitValue::LEN_MAX]);
    check("x-instance", &head(&format!("X-Instance: {long}\r\n")), value);
}

#[test]
fn a_body_without_length_ends_with_the_connection() {
    let mut parser = Parser::new();
    parser.expect(false);
    let mut input: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nhi";
    assert_eq!(parser.next(&mut input), Ok(Piece::Head));
    assert_eq!(parser.next(&mut input), Ok(Piece::Body(b"hi")));
    assert!(parser.ends_at_close() && !parser.head().keep_alive);
}

#[test]
fn malformed_responses_are_faults() {
    let check = |text: &str, fault: Fault| assert_eq!(parse(text), Err(fault), "{text}");
    check("SSH-2.0-OpenSSH_9.2\r\n", Fault::NotHttp);
    check("HTTP/2 200\r\n\r\n", Fault::NotHttp);
    check("HTTP/1.1 20 OK\r\n\r\n", Fault::NotHttp);
    check("HTTP/1.1 2000 OK\r\n\r\n", Fault::NotHttp);
    check("HTTP/1.1 099 OK\r\n\r\n", Fault::NotHttp);
    check("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", Fault::BadHeader);
    check("HTTP/1.1 200 OK\r\na : b\r\n\r\n", Fault::BadHeader);
    check("HTTP/1.1 200 OK\r\n folded: x\r\na: b\r\n\r\n", Fault::BadHeader);
    check("HTTP/1.1 200 OK\r\n\tx\r\n\r\n", Fault::BadHeader);
    check("HTTP/1.1 200 OK\r\n \r\n\r\n", Fault::BadHeader);
    check("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 2\r\n\r\n", Fault::BadLength);
    check("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip,\r\n chunked\r\n\r\n", Fault::BadCoding);
    check("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", Fault::BadLength);
    check("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Fault::BadLength);
    check("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", Fault::BadLength);
    check("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", Fault::TwoLengths);
    check(
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        Fault::LengthAndChunked,
    );
    check("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Fault::BadCoding);
    check("HTTP/1.1 101 Switching Protocols\r\n\r\n", Fault::Switched);
    check(&"HTTP/1.1 100 Continue\r\n\r\n".repeat(101), Fault::TooManyInterim);
    check(&format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD_MAX)), Fault::HeadTooLong);
    let chunked =
        |rest: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{rest}");
    check(&chunked("x\r\n"), Fault::BadChunk);
    check(&chunked("\r\n"), Fault::BadChunk);
    check(&chunked("10000000000000000\r\n"), Fault::BadChunk); // 2^64
    check(&chunked(&"0".repeat(65)), Fault::BadChunk);
    check(&chunked(&format!("1;{}", "x".repeat(5000))), Fault::BadChunk);
    check(&chunked("1\rx"), Fault::BadChunk);
    check(&chunked("2\r\nhixx"), Fault::BadChunkEnd);
    check(&chunked(&format!("0\r\n{}", "x: y\r\n".repeat(20_000))), Fault::BadChunkEnd);
}

#[test]
fn oversized_heads_are_rejected_in_any_fragmentation() {
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "x: y\r\n".repeat(20_000));
    let fragments: Vec<&[u8]> = endless.as_bytes().chunks(1000).collect();
    assert_eq!(read(&fragments, false), Err(Fault::HeadTooLong));
}

#[test]
fn bytes_after_the_end_are_left_over_and_then_rejected() {
    let (_, body, left) =
        parse("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi!!").unwrap().unwrap();
    assert_eq!((body.as_slice(), left), (b"hi".as_slice(), 2));
    let mut parser = Parser::new();
    let mut input: &[u8] = b"!!";
    assert_eq!(parser.next(&mut input), Err(Fault::BytesAfter));
}

/// A response with headers, 1xx responses and either coding, and its body.
fn responses() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let chunks = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6);
    (chunks, 0usize..3, any::<bool>(), "[a-zA-Z-]{1,20}", "[ -~]{0,40}").prop_map(
        |(chunks, interim, chunked, name, value)| {
            let body = chunks.concat();
            let mut bytes = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(interim);
            bytes.extend(format!("HTTP/1.1 200 OK\r\nX-{name}: {value}\r\n {value}\r\n").bytes());
            if chunked {
                bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in &chunks {
                    bytes.extend(format!("{:x};e\r\n", chunk.len()).bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\nT: x\r\n\r\n");
            } else {
                bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
                bytes.extend(&body);
            }
            (bytes, body)
        },
    )
}

fn cut<'b>(bytes: &'b [u8], cuts: &[usize]) -> Vec<&'b [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn fragmentation_does_not_matter(
        (bytes, body) in responses(),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let (_, read_body, left) = read(&cut(&bytes, &cuts), false).unwrap().unwrap();
        prop_assert_eq!((read_body, left), (body, 0));
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(read(&single, false), read(&[&bytes], false));
    }

    #[test]
    fn a_truncated_response_is_never_complete((bytes, _) in responses(), at: usize) {
        let at = at % bytes.len();
        prop_assert_eq!(read(&[&bytes[..at]], false).unwrap(), None);
    }

    #[test]
    fn corrupt_responses_never_panic_and_parse_alike_in_any_fragmentation(
        (mut bytes, _) in responses(),
        damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let body = |r: Result<Option<(Head, Vec<u8>, usize)>, Fault>| {
            r.map(|r| r.map(|(head, body, _)| (head, body)))
        };
        prop_assert_eq!(body(read(&cut(&bytes, &cuts), false)), body(read(&[&bytes], false)));
    }
}
