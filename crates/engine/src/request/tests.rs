//! Redirects: what each hop sends, to whom.

use super::*;
use plimsoll_measure::rng::Key;
use plimsoll_plan::{Document, Variables};
use std::path::Path;

const HEADERS: [&str; 9] = [
    "Accept",
    "Authorization",
    "Cookie",
    "Proxy-Authorization",
    "X-Api-Key",
    "api-key",
    "x-auth-token",
    "Host",
    "X-Region",
];

/// A request with every header that matters, X-Region filled from a variable that is a secret.
fn request(line: &str) -> RequestSpec {
    let header = |name: &&str| match *name {
        "X-Region" => "\"X-Region\" = \"${REGION_KEY}\"".to_string(),
        "Accept" => "\"Accept\" = \"text/x\"".to_string(),
        "Host" => "\"Host\" = \"own.example\"".to_string(),
        name => format!("\"{name}\" = \"s3cret\""),
    };
    let headers: Vec<_> = HEADERS.iter().map(header).collect();
    let text = format!(
        "users = 1\nrequests = 1\nredirects = 9\n[[target]]\nrequest = \"{line}\"\nbody = \"b0dy\"\n\
         headers = {{ {} }}\n",
        headers.join(", ")
    );
    let mut variables = Variables::default();
    variables.set("REGION_KEY", "s3cret");
    let document = Document::new("plan.toml", text);
    Plan::read(&document, &variables, Path::new(".")).unwrap().requests.remove(0)
}

fn values() -> Values {
    Values { seq: 7, key: Key::new(0) }
}

/// The bytes that the last of several redirects leads to.
fn followed(line: &str, redirects: &[(u16, &str)]) -> Result<String, Unfollowed> {
    let mut spec = request(line);
    for (status, location) in redirects {
        spec =
            Hop::after(&spec, values(), (*status, location.as_bytes()), 1, Style::default())?.spec;
    }
    let request = Request::compile(&spec, 0, Style::default());
    let mut bytes = Vec::new();
    request.render(values(), &mut bytes, &mut Vec::new());
    Ok(String::from_utf8(bytes).unwrap())
}

const POST: &str = "POST http://ann:pass@a/x/{{seq}}/y?q";

#[test]
fn credentials_stay_at_their_origin() {
    let check = |hops: &[&str], host: &str, kept: bool| {
        let hops: Vec<(u16, &str)> = hops.iter().map(|location| (307, *location)).collect();
        let sent = followed(POST, &hops).unwrap();
        assert_eq!(sent.contains("s3cret"), kept, "{hops:?}: {sent}");
        assert!(sent.contains(&format!("Host: {host}\r\n")), "{hops:?}: {sent}");
        assert!(sent.contains("Accept: "), "{sent}");
    };
    check(&["/z"], "own.example", true);
    check(&["http://a:80/z"], "own.example", true);
    check(&["http://b/z"], "b", false);
    check(&["//b/z"], "b", false);
    check(&["http://a:81/z"], "a:81", false); // another port
    check(&["https://a/z"], "a", false); // another scheme
    check(&["/z", "http://b/z"], "b", false); // at the second hop
    check(&["http://b/z", "/y"], "b", false); // within the other origin
    check(&["http://b/z", "http://a/y"], "a", false); // and back
}

#[test]
fn user_names_in_urls_stay_at_their_origin() {
    let check = |hops: &[&str], authorization: Option<&str>| {
        let line = "GET http://ann:pass@a/";
        let mut url = Url::parse(line.split_once(' ').unwrap().1).unwrap();
        let mut spec = request(line);
        spec.headers.clear();
        for location in hops {
            spec = Hop::after(&spec, values(), (302, location.as_bytes()), 1, Style::default())
                .unwrap()
                .spec;
            url = spec.url.clone();
        }
        let mut bytes = Vec::new();
        Request::compile(&spec, 0, Style::default()).render(values(), &mut bytes, &mut Vec::new());
        let sent = String::from_utf8(bytes).unwrap();
        let found = sent.split_once("Authorization: Basic ").map(|(_, rest)| {
            let encoded = rest.split_once("\r\n").unwrap().0;
            let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
            String::from_utf8(decoded).unwrap()
        });
        assert_eq!(found.as_deref(), authorization, "{hops:?} {url}");
    };
    check(&["/z"], Some("ann:pass"));
    check(&["http://a/z"], Some("ann:pass"));
    check(&["http://bob:b@a/z"], Some("bob:b"));
    check(&["http://b/z"], None);
    check(&["http://bob:b@b/z"], Some("bob:b")); // the other origin's own
    check(&["http://b/z", "http://a/z"], None);
    check(&["http://bob:b@b/z", "http://c/z"], None);
}

#[test]
fn another_origin_gets_no_body_with_a_secret_and_no_header_of_the_first() {
    let spec = |body: &str, name: &str| {
        let text = format!(
            "users = 1\nrequests = 1\nredirects = 9\n[[target]]\nrequest = \"POST http://a/\"\n\
             body = \"{body}\"\nheaders = {{ \"{name}\" = \"x\" }}\n"
        );
        let mut variables = Variables::default();
        variables.set("REGION_KEY", "s3cret");
        let document = Document::new("plan.toml", text);
        Plan::read(&document, &variables, Path::new(".")).unwrap().requests.remove(0)
    };
    let after = |spec: &RequestSpec, status, location: &str| {
        Hop::after(spec, values(), (status, location.as_bytes()), 1, Style::default())
            .map(|hop| hop.spec)
    };
    let secret = spec("k=${REGION_KEY}", "X-Plain");
    for status in [307, 308] {
        assert_eq!(after(&secret, status, "http://b/").unwrap_err(), Unfollowed::SecretBody);
        assert!(after(&secret, status, "/b").is_ok(), "the same origin");
        assert!(after(&spec("k=v", "X-Plain"), status, "http://b/").is_ok(), "no secret");
    }
    assert!(after(&secret, 303, "http://b/").is_ok(), "the body is dropped");
    for (name, kept) in [
        ("X-Plain", true),
        ("Accept", true),
        ("Referer", false),
        ("Via", false),
        ("X-Forwarded-For", false),
        ("X-Real-IP", false),
        ("Origin", false),
    ] {
        let names = |location: &str| -> Vec<String> {
            let hop = after(&spec("b", name), 307, location).unwrap();
            hop.headers.into_iter().map(|header| header.name).collect()
        };
        assert_eq!(names("http://b/").contains(&name.to_string()), kept, "{name}");
        assert!(names("/b").contains(&name.to_string()), "{name}");
    }
}

#[test]
fn methods_and_bodies_follow_the_statuses() {
    let check = |line: &str, statuses: &[u16], begins: &str| {
        let hops: Vec<(u16, &str)> = statuses.iter().map(|status| (*status, "/z")).collect();
        let sent = followed(line, &hops).unwrap();
        assert!(
            sent.starts_with(&format!("{begins} /z HTTP/1.1\r\n")),
            "{line} {statuses:?}: {sent}"
        );
        let has_body = begins != "GET";
        assert_eq!(sent.ends_with("\r\nb0dy"), has_body, "{sent}");
        assert_eq!(sent.contains("Content-"), has_body, "{sent}");
    };
    for status in [301, 302, 303] {
        check(POST, &[status], "GET");
    }
    for status in [307, 308] {
        check(POST, &[status], "POST");
        check(POST, &[303, status], "GET"); // what became a GET stays one
        check(POST, &[302, status, status], "GET");
        check("PUT http://a/", &[301, status], "PUT");
    }
    check("PUT http://a/", &[303], "GET");
    check("HEAD http://a/", &[302], "HEAD");
}

/// Go's client sends a GET after 301, 302 and 303, whatever the method was.
#[test]
fn every_method_becomes_a_get_as_in_go() {
    let style = Style { headers: DefaultHeaders::Go, ..Style::default() };
    let check = |method: &str, status: u16, then: &str| {
        let spec = request(&format!("{method} http://a/"));
        let hop = Hop::after(&spec, values(), (status, b"/z"), 1, style).unwrap();
        let has_body = !matches!(hop.spec.body, Body::Empty);
        let kept = matches!(status, 307 | 308) || method == "HEAD";
        assert_eq!((hop.spec.method.as_str(), has_body), (then, kept), "{method} {status}");
    };
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
        [301, 302, 303].iter().for_each(|status| check(method, *status, "GET"));
        [307, 308].iter().for_each(|status| check(method, *status, method));
    }
    check("HEAD", 302, "HEAD");
}

/// A request may end its connection; the header is sent once.
#[test]
fn a_request_may_close_its_connection() {
    let check = |close: bool, line: &str, closes: bool, count: usize| {
        let text = format!(
            "users = 1\nrequests = 1\n[[target]]\nrequest = \"GET http://a/\"\nheaders = {{ {line} }}\n"
        );
        let document = Document::new("plan.toml", text);
        let plan = Plan::read(&document, &Variables::none(), Path::new(".")).unwrap();
        let style = Style { close, headers: DefaultHeaders::Go, ..Style::default() };
        let request = Request::compile(&plan.requests[0], 0, style);
        let mut bytes = Vec::new();
        request.render(values(), &mut bytes, &mut Vec::new());
        let sent = String::from_utf8(bytes).unwrap().to_ascii_lowercase();
        assert_eq!(request.closes, closes, "{sent}");
        assert_eq!(sent.matches("connection: close\r\n").count(), count, "{sent}");
    };
    check(false, "", false, 0);
    check(true, "", false, 1);
    check(false, "connection = \"close\"", true, 1);
    check(true, "Connection = \"Close\"", true, 1);
}

#[test]
fn locations_are_relative_to_what_was_sent_and_cannot_split_requests() {
    let check = |location: &[u8], line: Option<&str>| {
        let hop = Hop::after(&request(POST), values(), (307, location), 1, Style::default());
        let sent = hop.map(|hop| {
            let mut bytes = Vec::new();
            hop.request.render(values(), &mut bytes, &mut Vec::new());
            String::from_utf8(bytes).unwrap()
        });
        let found = sent.as_ref().ok().map(|sent| sent.split_once("\r\n").unwrap().0);
        let line = line.map(|path| format!("POST {path} HTTP/1.1"));
        assert_eq!(found, line.as_deref(), "{}", location.escape_ascii());
    };
    check(b"z", Some("/x/7/z")); // {{seq}} is 7
    check(b"?p", Some("/x/7/y?p"));
    check(b"", Some("/x/7/y?q"));
    check(b"/login?next=http://b/", Some("/login?next=http://b/"));
    check(b"/{{seq}}", Some("/{{seq}}")); // no placeholder of ours
    check(b"/a b\xffc", Some("/a%20b%FFc"));
    check(b"/a\rX: y", None);
    check(b"/a\tb", None);
    check(b"/a\0b", None);
    check(b"ftp://a/", None);
}
