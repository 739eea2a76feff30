//! Valid and invalid target files.

use super::*;
use proptest::prelude::*;

/// Checks the requests of a valid file, one line each.
#[track_caller]
fn check(text: &str, requests: &[&str]) {
    let (written, problems) = read(text.as_bytes(), None, false);
    assert_eq!(problems, []);
    let shown: Vec<String> = written.iter().map(show).collect();
    assert_eq!(shown, requests, "{text}");
}

fn show(request: &RawRequest) -> String {
    let mut text = format!("{} {}", request.method.text, request.url.text);
    for (name, value) in &request.headers {
        text += &format!(" | {}: {}", name.text, value.text);
    }
    text += &match &request.body {
        RawBody::Empty => String::new(),
        RawBody::Inline(piece) => format!(" | {}", piece.text),
        RawBody::File(piece) => format!(" | @{}", piece.text),
        RawBody::Bytes(bytes) => format!(" | {}", String::from_utf8_lossy(bytes)),
    };
    text
}

/// Checks the problems of a file, one line each.
#[track_caller]
fn check_problems(bytes: &[u8], format: Option<Format>, problems: &[&str]) {
    let shown =
        |problem: &Problem| format!("{}:{}: {}", problem.line, problem.column, problem.message);
    let found: Vec<String> = read(bytes, format, false).1.iter().map(shown).collect();
    assert_eq!(found, problems, "{}", String::from_utf8_lossy(bytes));
}

#[test]
fn http() {
    // As in vegeta's documentation.
    check("GET http://h/\nHEAD http://h/a\n", &["GET http://h/", "HEAD http://h/a"]);
    check(
        "# comment\nGET http://h/\nX-Id: 1\nX-Id: 2\n\nPOST http://h/y\n# in between\nA: b:c\n@/p/body.json\n",
        &["GET http://h/ | X-Id: 1 | X-Id: 2", "POST http://h/y | A: b:c | @/p/body.json"],
    );
    // No final newline; CRLF line ends; a byte order mark.
    check(
        "\u{feff}GET http://h/\r\nA: b\r\n\r\nGET http://h/2",
        &["GET http://h/ | A: b", "GET http://h/2"],
    );
    // An inline body after an empty line.
    check(
        "POST http://h/?e=${ID}\nContent-Type: application/json\n\n{\"id\":1}\n\n# next\nPOST http://h/2\n\n\n[1,\n  2]\nGET http://h/3\n",
        &[
            "POST http://h/?e=${ID} | Content-Type: application/json | {\"id\":1}",
            "POST http://h/2 | [1,\n  2]",
            "GET http://h/3",
        ],
    );
    // A body file may also follow the empty line.
    check("POST http://h/\nA: b\n\n@x\n", &["POST http://h/ | A: b | @x"]);
}

#[test]
fn json() {
    check(
        "{\"method\":\"GET\",\"url\":\"http:\\/\\/h/\"}\n\n{\"url\":\"http://h/2\",\"method\":\"POST\",\"body\":\"eyJpZCI6MX0=\",\"header\":{\"A\":[\"b\",\"c\"]}}",
        &["GET http://h/", "POST http://h/2 | A: b | A: c | {\"id\":1}"],
    );
    check(
        "{\"method\":\"GET\",\"url\":\"http://h/\",\"body\":null,\"header\":null}",
        &["GET http://h/"],
    );
}

#[test]
fn problems_in_http() {
    let http = Some(Format::Http);
    check_problems(b"", None, &["1:1: the file contains no requests"]);
    check_problems(b"# nothing\n\n", None, &["1:1: the file contains no requests"]);
    check_problems(
        b"post http://h/\nA: b\n\nGET http://h/\nno header\n: x\nA:\n",
        http,
        &[
            "1:1: \"post\" is not a valid HTTP method",
            "5:1: \"no header\" is not a valid header",
            "6:1: a header needs a name",
            "7:1: header \"A\" has no value",
        ],
    );
    // A problem in the last line is found.
    check_problems(
        b"GET http://h/\n\n  http://h/",
        http,
        &["3:3: \"http://h/\" is neither a request line (METHOD URL) nor a JSON body"],
    );
    check_problems(
        b"POST http://h/\n\n{\n\n}",
        http,
        &["5:1: \"}\" is neither a request line (METHOD URL) nor a JSON body"],
    );
    check_problems(b"POST http://h/\n@", http, &["2:1: \"@\" without a file name"]);
    check_problems(b"GET http://h/\n\xc3\xa4 \xff", http, &["2:3: not valid UTF-8"]);
}

#[test]
fn problems_in_json() {
    check_problems(
        b"{\"method\":1,\"url\":\"http://h/\"}\n{\"metod\":\"GET\"}\n{\"method\":\"GET\",\"url\":\"http://h/\",\"body\":\"*\",\"header\":{\"\xc3\xa4\":\"b\"}}\n{\"a\":",
        None,
        &[
            "1:11: \"method\" must be a string",
            "2:2: unknown key \"metod\"; did you mean \"method\"?",
            "2:1: missing \"method\"",
            "2:1: missing \"url\"",
            "3:43: \"body\" is not valid base64: Invalid symbol 42, offset 0.",
            "3:60: the values of header \"\u{e4}\" must be a list",
            "4:6: not valid JSON: unexpected end",
        ],
    );
    check_problems(b"[]", Some(Format::Json), &["1:1: \"[]\" is not a JSON object"]);
    check_problems(
        b"GET http://h/",
        Some(Format::Json),
        &["1:1: the file is not in the json format but looks like http"],
    );
}

fn a_request() -> impl Strategy<Value = (String, String, Vec<(String, String)>, Option<String>)> {
    let header = ("[A-Za-z-]{1,8}", "[!-~]([ -~]{0,10}[!-~])?");
    (
        "[A-Z]{1,7}",
        "http://[a-z]{1,9}/[!-~]{0,12}",
        proptest::collection::vec(header, 0..4),
        proptest::option::of("\\{\"[a-z ]{0,5}\":\n? *[0-9]{1,3}\\}"),
    )
}

proptest! {
    #[test]
    fn both_formats_round_trip(requests in proptest::collection::vec(a_request(), 1..6)) {
        let (mut http, mut json) = (String::new(), String::new());
        for (method, url, headers, body) in &requests {
            http += &format!("{method} {url}\n");
            let mut object = members(method, url);
            for (name, value) in headers {
                http += &format!("{name}: {value}\n");
            }
            let lists: Vec<_> = headers
                .iter()
                .map(|(name, value)| format!("{}:[{}]", text(name), text(value)))
                .collect();
            object += &format!(",\"header\":{{{}}}", lists.join(","));
            if let Some(body) = body {
                use base64::Engine as _;
                http += &format!("\n{body}\n");
                let body = base64::engine::general_purpose::STANDARD.encode(body);
                object += &format!(",\"body\":\"{body}\"");
            }
            http += "\n";
            json += &format!("{{{object}}}\n");
        }
        let (from_http, problems) = read(http.as_bytes(), None, false);
        prop_assert_eq!(problems, vec![]);
        let (from_json, problems) = read(json.as_bytes(), None, false);
        prop_assert_eq!(problems, vec![]);
        prop_assert_eq!(from_http.len(), requests.len());
        for (a, b) in from_http.iter().zip(&from_json) {
            prop_assert_eq!(show(a), show(b));
        }
    }

    #[test]
    fn arbitrary_input_is_parsed_or_rejected_with_a_position(bytes: Vec<u8>, lines in "([A-Z]{1,4} |[{@#:]|\\PC|\n){0,60}") {
        for bytes in [bytes.as_slice(), lines.as_bytes()] {
            for format in [None, Some(Format::Http), Some(Format::Json)] {
                let (requests, problems) = read(bytes, format, false);
                prop_assert!(!requests.is_empty() || !problems.is_empty());
                let last = bytes.iter().filter(|byte| **byte == b'\n').count() + 1;
                prop_assert!(problems.iter().all(|problem| (1..=last).contains(&problem.line)));
            }
        }
    }
}

fn members(method: &str, url: &str) -> String {
    format!("\"method\":{},\"url\":{}", text(method), text(url))
}

/// A JSON string.
fn text(plain: &str) -> String {
    format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""))
}
