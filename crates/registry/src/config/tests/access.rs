//! Keys, access rules and limits of endpoints: what is read, and everything that is refused.

use super::{inputs, read};
use crate::config::Config;
use crate::model::CallLimits;
use plimsoll_measure::{Nanos, WallClock};

/// An endpoint with these lines.
fn endpoint(lines: &str) -> String {
    format!("[[endpoint]]\nid = \"e\"\nservice = \"eth\"\n{lines}\n")
}

fn hash(digit: char) -> String {
    format!("sha256:{}", String::from(digit).repeat(64))
}

#[test]
fn keys_and_limits_are_read() {
    let lines = format!(
        "origins = [\"https://app.example\"]\nnetworks = [\"10.0.0.0/8\", \"::1\"]\n\
         limits = {{ calls = \"6000/m\", burst = \"2s\", monthly_compute_units = 3_000_000 }}\n\
         keys.web = {{ hash = \"{}\", expires = 2027-01-31T12:00:00Z }}\n\
         keys.app = {{ hash = \"{}\", expires = \"2027-02-01\", limits.compute_units = 20 }}",
        hash('b'),
        hash('a')
    );
    let config = read(&endpoint(&lines));
    let access = &config.definitions.endpoints[0].access;
    let limits = CallLimits {
        calls: Some(100.0),
        burst: Some(Nanos::from_secs(2)),
        monthly: Some(3_000_000),
        ..CallLimits::default()
    };
    assert_eq!(access.limits, limits);
    let names: Vec<&str> = access.keys.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["app", "web"]);
    assert_eq!(access.keys[0].expires, WallClock::parse("2027-02-01"));
    assert_eq!(access.keys[1].expires, WallClock::parse("2027-01-31T12:00:00Z"));
    assert_eq!(access.keys[0].limits.compute_units, Some(20.0));
    assert_eq!(access.keys[1].hash, [0xbb; 32]);
    assert_eq!((access.origins.len(), access.networks.len()), (1, 2));
}

#[test]
fn bad_keys_and_limits_are_refused() {
    let secret = "plk_0123456789abcdefghijklmnopqrstuv";
    let (a, long) = (hash('a'), "k".repeat(65));
    let many: String =
        (0..65).map(|n| format!("keys.k{n} = {{ hash = \"sha256:{n:064}\" }}\n")).collect();
    let key = |rest: &str| format!("keys.k = {{ hash = \"{a}\"{rest} }}");
    let rows = [
        // Keys
        (format!("keys.k = {{ hash = \"{secret}\" }}"), "the key itself is not stored"),
        (format!("keys.k = \"{secret}\""), "a key must be a table"),
        (format!("keys.{secret} = {{ hash = \"{a}\" }}"), "must not be the key itself"),
        (format!("keys = [\"{secret}\"]"), "\"keys\" must be a table, not a list"),
        (format!("keys.k = {{ hash = \"{}\" }}", &a[..70]), "64 hexadecimal digits"),
        (format!("keys.k = {{ hash = \"{}\" }}", &a[7..]), "not sha256: and 64"),
        ("keys.k = {}".into(), "a key without \"hash\""),
        ("keys = {}".into(), "\"keys\" is empty"),
        (format!("keys.\"a b\" = {{ hash = \"{a}\" }}"), "not a valid name of a key"),
        (format!("keys.{long} = {{ hash = \"{a}\" }}"), "use 1 to 64 letters"),
        (format!("{}\nkeys.l = {{ hash = \"{a}\" }}", key("")), "\"k\" and \"l\" are the same"),
        (many, "65 keys; an endpoint has at most 64"),
        (key(", expires = \"tomorrow\""), "\"tomorrow\" is not a date"),
        (key(", expires = 2027-01-31T12:00:00"), "is not a date"),
        (key(", expires = 1800000000"), "\"expires\" must be a string"),
        (key(", expired = true"), "did you mean \"expires\"?"),
        // Rules
        ("origins = []".into(), "\"origins\" is empty"),
        ("origins = [\"app.example\"]".into(), "is not a valid origin"),
        ("networks = [\"10.0.0.0/33\"]".into(), "is not a network"),
        ("networks = \"10.0.0.0/8\"".into(), "\"networks\" must be a list"),
        // Limits
        ("limits = { calls = \"0/s\" }".into(), "\"calls\" must be above 0/s"),
        ("limits = { calls = \"-1/s\" }".into(), "is not a rate"),
        ("limits = { calls = \"2G/s\" }".into(), "is not a rate"),
        ("limits = { compute_units = \"1M/us\" }".into(), "must be above 0/s and at most"),
        ("limits = { calls = 5, burst = 10 }".into(), "\"burst\" must be a duration"),
        ("limits = { calls = 5, burst = \"0s\" }".into(), "must be longer than zero"),
        ("limits = { calls = 5, burst = \"2h\" }".into(), "\"burst\" must be at most"),
        ("limits = { burst = \"1s\" }".into(), "\"burst\" without a rate"),
        ("limits = { daily_compute_units = 0 }".into(), "must be at least 1, not 0"),
        (
            "limits = { daily_compute_units = 18446744073709551615 }".into(),
            "must be at most 9223372036854775807, not 18446744073709551615",
        ),
        ("limits = { daily_compute_units = \"5\" }".into(), "must be a whole number"),
        ("limits = { daily = 5 }".into(), "unknown key \"daily\" in limits"),
        ("limits = 5".into(), "\"limits\" must be a table"),
    ];
    for (lines, words) in &rows {
        let text = endpoint(lines);
        let problems = match Config::read_with(&inputs(&[], &[]), Some(&text)) {
            Ok(_) => panic!("{lines} is accepted"),
            Err(problems) => problems.to_string(),
        };
        assert!(problems.contains(words), "{lines}: {problems}");
        assert!(problems.contains("/tmp/gateway.toml:"), "it has a place: {problems}");
        assert!(!problems.contains(&secret[4..]), "{lines}: {problems}");
    }
    // All at once.
    let all = "origins = []\nnetworks = [\"x\"]\nlimits = { calls = 0 }\nkeys.k = {}";
    let problems = Config::read_with(&inputs(&[], &[]), Some(&endpoint(all))).expect_err("bad");
    assert_eq!(problems.iter().count(), 4, "{problems}");
}
