//! Redirects, stray bytes, long bodies and traces, with the program as a user runs it.

use crate::run::{RunResult, plimsoll, run_plan};
use crate::server::{After, Reply, Server};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

fn finding<'r>(result: &'r RunResult, words: &str) -> &'r str {
    let findings = result.summary["verdict"]["findings"].as_array().unwrap();
    let evidence = findings.iter().filter_map(|finding| finding["evidence"].as_str());
    let mut matching = evidence.filter(|evidence| evidence.contains(words));
    let found = matching.next().unwrap_or_else(|| panic!("no {words}: {}", result.summary));
    assert_eq!(matching.next(), None, "mentioned once");
    found
}

#[test]
fn secrets_stay_at_their_origin_when_a_redirect_leads_away_and_back() {
    let other = Server::start(|_, received| {
        let back = received.header("x-back").unwrap().to_string();
        Reply::with(307, &format!("Location: {back}\r\n"), "")
    });
    let away = format!("Location: {}/away?next=http://x/\r\n", other.url());
    let server = Server::start(move |_, received| match received.line() {
        "POST /a%20b/%C3%BC" => Reply::with(303, "Location: /b c\r\n", ""),
        "GET /b%20c" => Reply::with(307, &away, ""),
        "GET /end" => Reply::ok("fine"),
        other => panic!("{other}"),
    });
    let plan = format!(
        "users = 1\nrequests = 1\nredirects = 9\n[[target]]\nrequest = \"POST {0}/a b/ü\"\nbody = \"x\"\n\
         headers = {{ X-Api-Key = \"k3y-one\", X-Auth-Token = \"t0ken\", X-Back = \"{0}/end\" }}\n",
        server.url().replace("http://", "http://ann:pa55@")
    );
    let plan = plan.replace("X-Back = \"http://ann:pa55@", "X-Back = \"http://");
    let result = run_plan(&plan, &["--trace", "9"]);
    assert_eq!(result.count("/requests/ok"), 1, "{} {}", result.summary, result.done.stderr);
    let (first, away) = (server.received(), other.received());
    for received in &first[..2] {
        assert_eq!(received.header("x-api-key"), Some("k3y-one"));
        assert!(received.header("authorization").is_some());
    }
    assert_eq!(away[0].line(), "GET /away?next=http://x/");
    for received in [&away[0], &first[2]] {
        for name in ["x-api-key", "x-auth-token", "authorization"] {
            assert_eq!(received.header(name), None, "{}", received.head);
        }
    }
    let trace = &result.done.stderr;
    for secret in ["k3y-one", "t0ken", "pa55", "YW5uOnBhNTU="] {
        assert!(!trace.contains(secret), "{trace}");
    }
    assert!(
        trace.contains("X-Api-Key: [redacted]") && trace.contains("GET /end HTTP/1.1"),
        "{trace}"
    );
}

#[test]
fn redirects_to_too_many_origins_are_counted_and_explained() {
    // Nothing listens there; each host is an origin of its own.
    let server = Server::start(|number, _| {
        let (high, low) = (number / 250, number % 250 + 1);
        Reply::with(302, &format!("Location: http://127.9.{high}.{low}:1/\r\n"), "")
    });
    let plan = format!(
        "users = 1\nrequests = 260\nredirects = 1\n[[target]]\nrequest = \"GET {}/\"\n",
        server.url()
    );
    let result = run_plan(&plan, &["--workers", "1"]);
    assert_eq!(
        (result.errors("refused"), result.errors("protocol")),
        (255, 5),
        "{}",
        result.summary
    );
    let evidence = finding(&result, "256 origins");
    assert!(evidence.contains("5 of 260 requests"), "{evidence}");
}

#[test]
fn stray_bytes_are_reported_once_and_fail_no_answer() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let together = format!("{answer}stray");
    for fragments in [vec![together.clone().into_bytes()], vec![answer.into(), b"stray".to_vec()]] {
        let server =
            Server::start(move |_, _| Reply { fragments: fragments.clone(), then: After::Close });
        // A pause after each answer: the stray bytes come while the connection is idle.
        let plan = format!(
            "users = 1\nrequests = 3\nthink_time = \"50ms\"\n[[target]]\nrequest = \"GET {}/\"\n",
            server.url()
        );
        let result = run_plan(&plan, &[]);
        assert_eq!(result.count("/requests/ok"), 3, "{}", result.summary);
        assert_eq!(result.summary["faults"]["bytes after the end of the response"], 3);
        assert_eq!(
            finding(&result, "belong to no request"),
            "3 answers were followed by bytes that belong to no request; the connections were closed"
        );
    }
}

#[test]
fn only_a_body_that_is_checked_is_limited() {
    let long = 11 << 20;
    let server = Server::start(move |_, _| Reply {
        fragments: vec![
            format!("HTTP/1.1 200 OK\r\nContent-Length: {long}\r\n\r\n").into_bytes(),
            vec![b'x'; long],
        ],
        then: After::Keep,
    });
    let plan = |expect: &str| {
        format!(
            "users = 1\nrequests = 2\n[[target]]\nrequest = \"GET {}/\"\n{expect}\n",
            server.url()
        )
    };
    let unread = run_plan(&plan(""), &[]);
    assert_eq!(unread.count("/requests/ok"), 2, "{}", unread.summary);
    assert_eq!(unread.count("/connections/opened"), 1);
    assert!(unread.count("/bytes_in") == 0 || unread.count("/bytes_in") > 2 * long as u64);
    let read = run_plan(&plan("expect = { contains = \"x\" }"), &[]);
    assert_eq!(read.errors("body_too_large"), 2);
    let text = read.summary.to_string();
    for words in ["11,534,336 bytes", "max_body", "--max-body"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let raised = format!("max_body = \"11MiB\"\n{}", plan("expect = { contains = \"x\" }"));
    assert_eq!(run_plan(&raised, &[]).count("/requests/ok"), 2);
    let args = ["run", "--url", &server.url(), "-n", "1", "--max-body", "much", "--no-out"];
    let refused = plimsoll(&args);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("--max-body"), "{}", refused.stderr);
}

#[test]
fn redirects_that_are_not_followed_are_pointed_out() {
    let server = Server::start(|_, _| Reply::with(302, "Location: /elsewhere\r\n", ""));
    let done = plimsoll(&["run", &format!("{}/", server.url()), "-n", "20", "--no-out"]);
    let shown = done.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    let evidence = "all 20 answers were 302 redirects, which were not followed; add --redirects N";
    assert!(shown.contains(evidence) && shown.contains("HTTP status"), "{}", done.stdout);
    assert_eq!(done.code, 0);
}

#[test]
fn the_first_unexpected_answer_of_each_status_is_quoted_without_secrets() {
    let long = "x".repeat(1000);
    let server = Server::start(move |number, received| match number % 4 {
        0 => Reply::ok("fine"),
        1 => Reply::with(401, "", &format!("no {}", received.header("x-api-key").unwrap())),
        2 => Reply::with(503, "", &format!("over\x1b[2Jloaded {long}")),
        _ => Reply::with(404, "", ""),
    });
    let plan = format!(
        "users = 2\nrequests = 40\n[[target]]\nname = \"t\"\nrequest = \"GET {}/\"\n\
         headers = {{ X-Api-Key = \"k3y-of-target\" }}\n",
        server.url()
    );
    let result = run_plan(&plan, &[]);
    let notes = result.summary["notes"].as_array().unwrap();
    assert_eq!(notes.len(), 3, "{notes:?}");
    let text = |status: u64| {
        let note = notes.iter().find(|note| note["status"] == status).unwrap();
        assert_eq!((&note["class"], &note["target"]), (&"status".into(), &"t".into()));
        note["text"].as_str().unwrap().to_string()
    };
    assert_eq!(text(401), "status 401, body \"no [redacted]\"");
    assert!(text(503).starts_with("status 503, body \"over\\u{1b}[2Jloaded xxx"), "{}", text(503));
    assert!(text(503).len() < 300 && text(503).ends_with("x…\""), "{}", text(503));
    assert_eq!(text(404), "status 404");
}

/// The credentials and keys in a `Location` are secrets that were sent, also two redirects later.
#[test]
fn no_secret_of_a_redirect_is_written_when_the_target_repeats_it() {
    let secrets = ["pa55-of-location", "t0ken-of-location", "a/key=in location"];
    let repeated = [
        "pa55-of-location".into(),
        "t0ken-of-location".into(),
        "a/key=in location".into(),
        BASE64.encode("ann:pa55-of-location"),
    ]
    .join(" ");
    let check = |status: u16, last: &str, redirects: u32| {
        let (repeated, after) = (repeated.clone(), last.to_string());
        let server = Server::start(move |_, received| {
            let host = received.header("host").unwrap();
            match received.line().split('?').next().unwrap() {
                "GET /" => {
                    let token = "token=t0ken-of-location&key=a%2fkey%3Din%20location";
                    let to = format!("http://ann:pa55-of-location@{host}/after?{token}");
                    Reply::with(302, &format!("Location: {to}\r\n"), &repeated)
                }
                "GET /after" => Reply::with(status, &after, &repeated),
                _ => Reply::with(404, "", &repeated),
            }
        });
        let plan = format!(
            "users = 1\nrequests = 1\nredirects = {redirects}\n[[target]]\nrequest = \"GET {}/\"\n\
             expect = {{ status = 200 }}\n",
            server.url()
        );
        let result = run_plan(&plan, &["--trace", "3"]);
        assert_eq!(result.count("/requests/failed"), 1, "{}", result.summary);
        let written = [&result.done.stdout, &result.done.stderr];
        let note = result.summary["notes"][0]["text"].as_str().unwrap();
        let quoted = note.contains("[redacted] [redacted] [redacted] [redacted]");
        assert!(quoted || note == "redirect without a usable location (status 302)", "{note}");
        for text in written {
            for secret in
                secrets.iter().map(|own| own.to_string()).chain([BASE64.encode("ann:pa55")])
            {
                assert!(!text.contains(secret.trim_end_matches('=')), "{secret}: {text}");
            }
        }
    };
    check(500, "", 9);
    // Of a redirect before the last one, of one that is not followed, and of one that is not valid.
    check(302, "Location: /end\r\n", 9);
    check(302, "Location: http://ann:pa55-of-location@[/?token=t0ken-of-location\r\n", 9);
    check(200, "", 0);
}
