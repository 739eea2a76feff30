//! Who may call an endpoint, and how much: keys, origins, networks, rates and quotas.
//!
//! Rates in these tests refill in hours, so that what is admitted does not depend on the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use plimsoll_gateway::{Gateway, Host, Settings};
use plimsoll_measure::{Nanos, WallClock};
use plimsoll_registry::Definitions;
use plimsoll_registry::model::{Access, AccessKey, CallLimits, Endpoint};
use plimsoll_registry::settings::{AccessLog, Network};
use sha2::{Digest, Sha256};

use crate::caller::{Answer, Caller, call, request, result};
use crate::scripted::Upstream;
use crate::setup::{
    ENDPOINT, connect, definitions, endpoint, host, metric, node, refused, settings, start,
    wait_until,
};

const KEY: &str = "plk_0123456789abcdefghijklmnopqrstuv";
const OTHER: &str = "plk_9876543210abcdefghijklmnopqrstuv";
const FOREIGN: &str = "plk_foreign0123456789abcdefghijklmnop";
const EXPIRING: &str = "plk_expiring123456789abcdefghijklmno";

fn key(name: &str, text: &str) -> AccessKey {
    AccessKey {
        name: name.into(),
        hash: Sha256::digest(text).into(),
        expires: None,
        limits: CallLimits::default(),
    }
}

/// Endpoint `e` with this access, and `f` with a key of its own.
fn with(upstream: &Upstream, access: Access) -> Definitions {
    let foreign = Access { keys: vec![key("theirs", FOREIGN)], ..Access::default() };
    Definitions {
        endpoints: vec![
            Endpoint { access, ..endpoint("e", "eth") },
            Endpoint { access: foreign, ..endpoint("f", "eth") },
        ],
        ..definitions(vec![node("a", "eth", &upstream.url("/"))])
    }
}

/// This many calls at once, and then practically none.
fn once(calls: u64) -> CallLimits {
    let hour = Nanos::from_secs(3_600);
    CallLimits {
        calls: Some(calls as f64 / 3_600.0),
        burst: Some(hour + Nanos::from_secs(1)),
        ..CallLimits::default()
    }
}

fn ask(gateway: &Gateway, target: &str, headers: &str) -> Answer {
    connect(gateway).post(target, headers, call("7", "m", "[1]"))
}

fn wrong_keys(gateway: &Gateway, reason: &str) -> u64 {
    metric(gateway, &format!("plimsoll_wrong_keys_total{{reason=\"{reason}\"}}"))
}

/// A host whose wall clock the test sets.
fn clocked(at: &str) -> (Host, impl Fn(&str)) {
    let parsed = |text: &str| WallClock::parse(text).unwrap().unix_ns;
    let clock = Arc::new(AtomicU64::new(parsed(at)));
    let read = clock.clone();
    let wall_clock = Arc::new(move || WallClock { unix_ns: read.load(Relaxed) });
    let host = Host { wall_clock: Some(wall_clock), ..host() };
    (host, move |text: &str| clock.store(parsed(text), Relaxed))
}

#[test]
fn a_key_is_accepted_in_each_place_and_reaches_nobody() {
    let upstream = Upstream::echo();
    let log = std::env::temp_dir().join(format!("plimsoll-keys-{}.log", std::process::id()));
    let keys = vec![key("new", OTHER), key("old", KEY)];
    let settings = Settings {
        pass_headers: vec!["x-trace".into()],
        access_log: AccessLog { sample: 1.0, file: Some(log.clone()) },
        ..settings()
    };
    let all = with(&upstream, Access { keys, ..Access::default() });
    let gateway = start(settings, &all);
    let in_path = format!("/api/gateway/e/{KEY}");
    let escaped = in_path.replace("plk", "pl%6b");
    let bearer = format!("Authorization: Bearer {KEY}\r\n");
    let header = format!("X-Api-Key: {KEY}\r\n");
    let twice = format!("{bearer}{bearer}");
    let second = format!("x-api-key:   {OTHER}\r\n");
    let scheme = format!("AUTHORIZATION: bearer   {KEY}\r\nX-Trace: 1\r\n");
    let basic = format!("Authorization: Basic abc=\r\n{header}");
    for (target, headers) in [
        (ENDPOINT, &bearer),
        (ENDPOINT, &header),
        (ENDPOINT, &second),
        (ENDPOINT, &scheme),
        (ENDPOINT, &twice),
        (ENDPOINT, &basic),
        (&in_path, &String::new()),
        (&escaped, &String::new()),
        (&in_path, &format!("{bearer}{header}")),
    ] {
        let answer = ask(&gateway, target, headers);
        assert_eq!(answer.text(), result("7", "[1]"), "{target} {headers}");
        let text = upstream.last().head;
        assert!(!text.contains("0123456789"), "{text}");
    }
    let page = gateway.metrics();
    // Dropping it closes the log.
    drop(gateway);
    let log_text = std::fs::read_to_string(&log).unwrap();
    let _ = std::fs::remove_file(&log);
    assert_eq!(log_text.lines().count(), 9, "{log_text}");
    for secret in ["0123456789", "9876543210"] {
        assert!(!page.contains(secret) && !log_text.contains(secret));
    }
}

#[test]
fn wrong_keys_are_refused_alike() {
    let upstream = Upstream::echo();
    let mut expiring = key("short", EXPIRING);
    expiring.expires = WallClock::parse("2027-01-01");
    let keys = vec![key("main", KEY), expiring];
    let (host, set) = clocked("2026-12-31T23:59:59Z");
    let all = with(&upstream, Access { keys, ..Access::default() });
    let gateway = Gateway::start(settings(), &all, host).unwrap();
    let bearer = |key: &str| format!("Authorization: Bearer {key}\r\n");
    assert_eq!(ask(&gateway, ENDPOINT, &bearer(EXPIRING)).status, 200);
    set("2027-01-01T00:00:00Z");
    wait_until("the key has expired", || ask(&gateway, ENDPOINT, &bearer(EXPIRING)).status != 200);
    let relayed = upstream.count();
    let long = "k".repeat(20_000);
    let conflict = format!("{}X-Api-Key: {OTHER}\r\n", bearer(KEY));
    // (target, headers, reason, status)
    let rows = [
        (ENDPOINT, String::new(), "missing", 401),
        (ENDPOINT, bearer(EXPIRING), "expired", 401),
        (ENDPOINT, bearer(FOREIGN), "foreign", 401),
        (ENDPOINT, bearer(&KEY[..KEY.len() - 1]), "unknown", 401),
        (ENDPOINT, bearer(&KEY.to_uppercase()), "unknown", 401),
        (ENDPOINT, bearer(&format!("{KEY}x")), "unknown", 401),
        (ENDPOINT, bearer("schlüssel"), "unknown", 401),
        (ENDPOINT, bearer(&long), "malformed", 401),
        (ENDPOINT, format!("Authorization: Basic {KEY}\r\n"), "malformed", 401),
        (ENDPOINT, "Authorization: Bearer\r\n".into(), "malformed", 401),
        (ENDPOINT, conflict, "conflicting", 400),
        (ENDPOINT, format!("{}{}", bearer(KEY), bearer(OTHER)), "conflicting", 400),
        ("/api/gateway/e/plk_wrong", bearer(KEY), "conflicting", 400),
        ("/api/gateway/e/plk_wrong/more", String::new(), "unknown", 401),
    ];
    let mut texts = std::collections::BTreeSet::new();
    for (target, headers, reason, status) in rows {
        let before = wrong_keys(&gateway, reason);
        let answer = ask(&gateway, target, &headers);
        assert_eq!(answer.status, status, "{reason} {target}");
        assert_eq!(wrong_keys(&gateway, reason), before + 1, "{reason} {target}");
        assert!(answer.text().starts_with("{\"jsonrpc\":\"2.0\",\"id\":7,"), "{}", answer.text());
        for secret in [KEY, OTHER, FOREIGN, EXPIRING, "plk_wrong"] {
            assert!(!answer.text().contains(secret));
        }
        if matches!(reason, "unknown" | "expired" | "foreign") {
            texts.insert(answer.text().to_string());
        }
        let challenge = (status == 401).then_some("Bearer");
        assert_eq!(answer.header("www-authenticate"), challenge, "{reason}");
    }
    // A stranger does not learn why a key is wrong.
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert_eq!(upstream.count(), relayed, "nothing was relayed");
    // A key in the place of the endpoint is not repeated either.
    let answer = ask(&gateway, &format!("/api/gateway/{KEY}"), "");
    assert_eq!((answer.status, answer.text().contains(KEY)), (404, false));
    // A megabyte is not even read.
    assert_eq!(ask(&gateway, ENDPOINT, &bearer(&"k".repeat(1 << 20))).status, 431);
    assert_eq!(ask(&gateway, ENDPOINT, &bearer(KEY)).status, 200);
}

#[test]
fn near_misses_are_explained_and_no_key_is_repeated() {
    let upstream = Upstream::echo();
    let log = std::env::temp_dir().join(format!("plimsoll-misses-{}.log", std::process::id()));
    // Its hash is known, but nothing in its text says that it is a key.
    const PLAIN: &str = "s3cret-word";
    let keys = vec![key("main", KEY), key("plain", PLAIN)];
    let access_log = AccessLog { sample: 1.0, file: Some(log.clone()) };
    let settings = Settings { access_log, ..settings() };
    let gateway = start(settings, &with(&upstream, Access { keys, ..Access::default() }));
    let header = |value: &str| format!("Authorization: {value}\r\n");
    let own = |value: &str| format!("X-Api-Key: {value}\r\n");
    let in_query = format!("{ENDPOINT}&key={KEY}");
    let spaced = format!("/api/gateway/e/{KEY}%0A");
    // (target, headers, what the answer says)
    let rows = [
        (ENDPOINT, header(KEY), "the word Bearer is missing before the key"),
        (ENDPOINT, header("Bearer"), "no key behind Bearer"),
        (ENDPOINT, header("Bearer "), "no key behind Bearer"),
        (ENDPOINT, header(""), "the header Authorization is empty"),
        (ENDPOINT, header(&format!("Basic {KEY}")), "not in the form Bearer KEY"),
        (ENDPOINT, header(&format!("Token {KEY}")), "not in the form Bearer KEY"),
        (ENDPOINT, header(&format!("Bearer \"{KEY}\"")), "the API key is in quotes"),
        (ENDPOINT, header(&format!("Bearer <{KEY}>")), "the API key is in quotes"),
        (ENDPOINT, header(&format!("Bearer {KEY} x")), "white space"),
        (ENDPOINT, header(&format!("Bearer Bearer {KEY}")), "where the key is expected alone"),
        (ENDPOINT, own(""), "the header X-Api-Key is empty"),
        (ENDPOINT, own(&format!("Bearer {KEY}")), "where the key is expected alone"),
        (&in_query, String::new(), "not read from the query"),
        (&spaced, String::new(), "white space or a control character"),
        (ENDPOINT, String::new(), "needs an API key: send the header Authorization: Bearer KEY"),
        (ENDPOINT, header(&format!("bEARER  {KEY}")), ""),
        (ENDPOINT, own(PLAIN), ""),
    ];
    let count = rows.len();
    for (target, headers, words) in rows {
        let answer = ask(&gateway, target, &headers);
        assert_eq!(answer.status, if words.is_empty() { 200 } else { 401 }, "{target} {headers}");
        assert!(answer.text().contains(words), "{target} {headers}: {}", answer.text());
        assert!(!answer.text().contains("0123456789"), "{}", answer.text());
    }
    // A key in the place of the endpoint's id, or behind it with an escaped slash.
    let targets = [
        format!("/api/gateway/e%2F{KEY}"),
        format!("/api/gateway/e%252f{KEY}"),
        format!("/api/gateway/{KEY}"),
        format!("/api/gateway?endpoint={KEY}"),
        format!("/api/gateway?endpoint=e/{KEY}"),
        format!("/api/gateway/{}", KEY.replace("plk", "PLK")),
        format!("/api/gateway/{PLAIN}"),
        format!("/api/gateway/e%2f{PLAIN}"),
        format!("/api/gateway/nobody/{PLAIN}"),
        format!("/ready/{KEY}"),
    ];
    for target in &targets {
        let answer = ask(&gateway, target, "");
        let text = answer.text();
        assert!(matches!(answer.status, 404 | 405), "{target}: {text}");
        assert!(!text.contains("0123456789") && !text.contains(PLAIN), "{target}: {text}");
    }
    let page = gateway.metrics();
    drop(gateway);
    let lines = std::fs::read_to_string(&log).unwrap();
    let _ = std::fs::remove_file(&log);
    assert_eq!(lines.lines().count(), count + targets.len(), "{lines}");
    // Not even the few characters that are shown of an id.
    for part in ["0123", "6789", "s3c", "word", KEY] {
        assert!(!page.contains(part) || part.len() == 4, "{part}");
    }
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        for field in ["endpoint", "path", "error"] {
            let text = line[field].to_string();
            assert!(!text.contains("6789") && !text.contains("word"), "{line}");
        }
    }
}

#[test]
fn endpoints_without_keys_ignore_them() {
    let upstream = Upstream::echo();
    let gateway = start(settings(), &with(&upstream, Access::default()));
    for (target, headers) in [
        (ENDPOINT, "Authorization: Basic abc\r\n"),
        (ENDPOINT, "X-Api-Key: a\r\nX-Api-Key: b\r\n"),
        ("/api/gateway/e/plk_early", ""),
    ] {
        assert_eq!(ask(&gateway, target, headers).status, 200, "{target} {headers}");
    }
}

#[test]
fn rates_count_each_call_of_a_batch() {
    let upstream = Upstream::echo();
    let limited = AccessKey { limits: once(3), ..key("main", KEY) };
    let access =
        Access { keys: vec![limited, key("free", OTHER)], limits: once(6), ..Access::default() };
    let all = with(&upstream, access);
    let gateway = start(settings(), &all);
    let batch = |text: &str, calls: usize| {
        let calls: Vec<String> = (0..calls).map(|n| call(&n.to_string(), "m", "[]")).collect();
        let headers = format!("x-api-key: {text}\r\n");
        let answer = connect(&gateway).post(ENDPOINT, &headers, format!("[{}]", calls.join(",")));
        assert_eq!(answer.status, 200);
        answer.text().matches("\"result\"").count()
    };
    assert_eq!(batch(KEY, 5), 3, "the key's limit");
    // What the key's limit refused was not charged to the endpoint.
    assert_eq!(batch(OTHER, 5), 3, "the endpoint's limit");
    let answer = ask(&gateway, ENDPOINT, &format!("x-api-key: {OTHER}\r\n"));
    assert_eq!((answer.status, answer.kind(), answer.code()), (429, "rate_limited", -32005));
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=600).contains(&wait), "{wait}");
    assert!(answer.text().contains(&format!("\"retry_after\":{wait}}}")), "{}", answer.text());
    assert!(
        answer.text().contains("this endpoint is limited to 6 calls per hour"),
        "{}",
        answer.text()
    );
    // A batch says when to retry only if all of it was refused.
    let retry = |batch: String| {
        let headers = format!("x-api-key: {OTHER}\r\n");
        let answer = connect(&gateway).post(ENDPOINT, &headers, batch);
        (answer.status, answer.header("retry-after").map(String::from))
    };
    let one = call("1", "m", "[]");
    let (status, after) = retry(format!("[{one},{one}]"));
    assert!(status == 200 && after.is_some_and(|after| after.parse::<u64>().unwrap() >= 1));
    assert_eq!(retry(format!("[{one},{{}}]")), (200, None));
    assert_eq!(upstream.count(), 6);
    let limited = |scope: &str| {
        metric(&gateway, &format!("plimsoll_limited_total{{scope=\"{scope}\",reason=\"calls\"}}"))
    };
    assert_eq!((limited("key"), limited("endpoint")), (2, 6));
    // Buckets outlive a reload that does not concern them.
    gateway.apply(settings(), &all).unwrap();
    assert_eq!(batch(OTHER, 2), 0);
    let mut changed = all.clone();
    changed.endpoints[0].access.limits = once(1);
    gateway.apply(settings(), &changed).unwrap();
    assert_eq!(batch(OTHER, 2), 1);
}

#[test]
fn quotas_end_with_the_day() {
    let upstream = Upstream::echo();
    let limits = CallLimits { daily: Some(2), ..CallLimits::default() };
    let (host, set) = clocked("2027-01-31T23:00:00Z");
    let all = with(&upstream, Access { limits, ..Access::default() });
    let gateway = Gateway::start(settings(), &all, host).unwrap();
    for status in [200, 200, 429, 429] {
        assert_eq!(ask(&gateway, ENDPOINT, "").status, status);
    }
    let answer = ask(&gateway, ENDPOINT, "");
    assert_eq!((answer.kind(), answer.header("retry-after")), ("quota_exceeded", Some("3600")));
    // A lower quota than what is used, and no second one for a clock that is set back.
    let mut lower = all.clone();
    lower.endpoints[0].access.limits.daily = Some(1);
    gateway.apply(settings(), &lower).unwrap();
    set("2027-01-30T12:00:00Z");
    assert_eq!(ask(&gateway, ENDPOINT, "").status, 429);
    set("2027-02-01T00:00:00Z");
    wait_until("a new day has begun", || ask(&gateway, ENDPOINT, "").status == 200);
    assert_eq!(ask(&gateway, ENDPOINT, "").status, 429);
    assert_eq!(upstream.count(), 3);
}

#[test]
fn origins_are_checked_and_told_to_browsers() {
    let upstream = Upstream::echo();
    let origins = vec!["https://app.example".into()];
    let gateway = start(settings(), &with(&upstream, Access { origins, ..Access::default() }));
    let (own, evil) = ("Origin: https://app.example\r\n", "Origin: https://evil.example\r\n");
    let answer = ask(&gateway, ENDPOINT, own);
    let allowed = "access-control-allow-origin";
    assert_eq!((answer.status, answer.header(allowed)), (200, Some("https://app.example")));
    for headers in [evil, "", "Origin: null\r\n", "Origin: https://app.example.evil\r\n"] {
        let answer = ask(&gateway, ENDPOINT, headers);
        assert_eq!((answer.status, answer.kind()), (403, "origin_denied"), "{headers}");
        assert_eq!(answer.header(allowed), None, "{headers}");
    }
    for (origin, expected) in [(own, Some("https://app.example")), (evil, None)] {
        let mut caller = connect(&gateway);
        let headers = format!(
            "{origin}Access-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: x-api-key\r\n"
        );
        caller.send(request("OPTIONS", ENDPOINT, &headers, b""));
        let answer = caller.answer();
        assert_eq!((answer.status, answer.header(allowed)), (204, expected));
    }
    // The other endpoint has no such rule.
    let answer = ask(&gateway, "/api/gateway/f", evil);
    assert_eq!(answer.header(allowed), Some("https://evil.example"));
    assert_eq!((upstream.count(), refused(&gateway, "origin_denied")), (1, 4));
}

#[test]
fn networks_are_checked_against_the_callers_own_address() {
    let upstream = Upstream::echo();
    let network = |text: &str| Network::parse(text).unwrap();
    let access = Access { networks: vec![network("198.51.100.0/24")], ..Access::default() };
    let all = with(&upstream, access);
    let inside = "X-Forwarded-For: 198.51.100.7\r\n";
    // Without a trusted proxy, anyone could send this header.
    let gateway = start(settings(), &all);
    for headers in ["", inside] {
        let answer = ask(&gateway, ENDPOINT, headers);
        assert_eq!((answer.status, answer.kind()), (403, "network_denied"), "{headers}");
    }
    let behind = Settings { trusted_proxies: vec![network("127.0.0.1")], ..settings() };
    gateway.apply(behind, &all).unwrap();
    // (header, whether the call is relayed)
    for (headers, is_relayed) in [
        (inside, true),
        ("X-Forwarded-For: 203.0.113.9\r\n", false),
        // A caller who forges an address has its own appended by the proxy.
        ("X-Forwarded-For: 198.51.100.7, 203.0.113.9\r\n", false),
        ("X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-For: 203.0.113.9\r\n", false),
        ("X-Forwarded-For: 203.0.113.9, 198.51.100.7\r\n", true),
        ("X-Forwarded-For: nonsense\r\n", false),
        ("X-Real-Ip: 198.51.100.7\r\n", false),
    ] {
        let answer = ask(&gateway, ENDPOINT, headers);
        assert_eq!(answer.status == 200, is_relayed, "{headers}");
    }
    assert_eq!(upstream.count(), 2);
}

#[test]
fn a_flood_of_wrong_keys_leaves_nothing_behind() {
    let upstream = Upstream::echo();
    let access = Access { keys: vec![key("main", KEY)], ..Access::default() };
    let gateway = start(settings(), &with(&upstream, access));
    let mut caller: Caller = connect(&gateway);
    let lines = gateway.metrics().lines().count();
    for number in 0..5_000 {
        let headers = format!("X-Api-Key: plk_{number:032}\r\n");
        let answer = caller.post(ENDPOINT, &headers, call("7", "m", "[1]"));
        assert_eq!(answer.status, 401);
    }
    assert_eq!(wrong_keys(&gateway, "unknown"), 5_000);
    // One line for the reason, one for the kind of the error, and one for the endpoint.
    assert_eq!(gateway.metrics().lines().count(), lines + 3);
    assert_eq!(metric(&gateway, "plimsoll_memory_held_bytes"), {
        drop(caller);
        wait_until("the caller is gone", || crate::setup::connections(&gateway) == 0);
        metric(&gateway, "plimsoll_memory_held_bytes") + (4 << 10)
    });
}
