//! Single calls: the request sent upstream, and the answer and id returned to the caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plimsoll_config::Text;
use plimsoll_registry::model::{self, Definitions, Service};

use crate::caller::{Answer, call, result};
use crate::scripted::{AfterReply, Reply, Upstream};
use crate::setup::{
    ENDPOINT, connect, definitions, gateway_to, metric, node, post, refused, relays, settings,
    start, wait_until,
};

#[test]
fn ids_come_back_byte_for_byte() {
    let upstream = Upstream::echo();
    let gateway = gateway_to(&upstream.url("/"));
    let long_text = format!("\"{}\"", "x".repeat(5_000));
    let long_number = "9".repeat(300);
    let ids = [
        "1",
        "0",
        "-0",
        "-7",
        "1.0",
        "1.50",
        "1e3",
        "1E+3",
        "1e-999",
        "9007199254740993",
        "18446744073709551616",
        long_number.as_str(),
        "null",
        "\"\"",
        "\"a\"",
        "\"1\"",
        r#""\u0061\"\\\/\b""#,
        r#""\ud800""#,
        "\"é\u{1f600}\"",
        long_text.as_str(),
    ];
    let mut caller = connect(&gateway);
    for id in ids {
        let answer = caller.post(ENDPOINT, "", call(id, "m", "[1, {\"a\" : 2}]"));
        assert_eq!((answer.status, answer.text()), (200, &*result(id, "[1, {\"a\" : 2}]")), "{id}");
    }
    assert_eq!(upstream.connections(), 1, "the connection is reused");
    let mut own: Vec<String> =
        upstream.received().iter().map(|received| received.id().into()).collect();
    own.dedup();
    assert_eq!(own.len(), ids.len(), "each call has a unique id upstream");
}

#[test]
fn a_call_is_re_encoded() {
    let upstream = Upstream::echo();
    let mut one = node("a", "eth", &upstream.url("/key?x=1"));
    one.headers = vec![("authorization".into(), Text::plain("Bearer s"))];
    let gateway = start(settings(), &definitions(vec![one]));
    // (what the caller sends, what the upstream receives after the id)
    let rows = [
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}"#, r#","method":"m","params":[1]}"#),
        (
            " {\"params\" : {} ,\n\"x\":[],\"method\":\"\\u006d\",\"id\":\"a\",\"jsonrpc\":\"2.0\"}\t",
            r#","method":"m","params":{}}"#,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#, r#","method":"m"}"#),
        (r#"{"jsonrpc":"2.0","id":1,"method":"\"\\\u0000é"}"#, r#","method":"\"\\\u0000é"}"#),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":"\ud800"}"#,
            r#","method":"m","params":"\ud800"}"#,
        ),
        (r#"{"\u006aso\u006erpc":"\u0032.0","i\u0064":1,"method":"m"}"#, r#","method":"m"}"#),
    ];
    for (written, read) in rows {
        let answer =
            connect(&gateway).post(ENDPOINT, "Cookie: c\r\nAuthorization: own\r\n", written);
        assert_eq!(answer.status, 200, "{written}");
        let received = upstream.last();
        let expected = format!("{{\"jsonrpc\":\"2.0\",\"id\":{}{read}", received.id());
        assert_eq!(received.body, expected, "{written}");
        assert_eq!(received.line(), "POST /key?x=1");
        assert_eq!(received.header("host"), Some(&*upstream.address.to_string()));
        assert_eq!(received.header("authorization"), Some("Bearer s"));
        assert_eq!(received.header("content-type"), Some("application/json"));
        assert_eq!(received.header("cookie"), None);
        assert_eq!(received.header("target-service-id"), None, "nodes get no service header");
    }
}

#[test]
fn a_notification_is_relayed_but_not_answered() {
    let upstream = Upstream::start(|_, _| Reply::with(500, "", "no"));
    let gateway = gateway_to(&upstream.url("/"));
    let mut caller = connect(&gateway);
    let answer = caller.post(ENDPOINT, "", r#"{"jsonrpc":"2.0","method":"m","params":[7]}"#);
    assert_eq!((answer.status, answer.text()), (204, ""));
    assert_eq!(answer.header("content-length"), None);
    assert_eq!(upstream.last().params(), "[7]");
    // The connection stays in sync.
    assert_eq!(caller.post(ENDPOINT, "", r#"{"jsonrpc":"2.0","method":"m"}"#).status, 204);
}

/// A node on the chain with this id, which echoes all other calls.
fn node_of_chain(id: &'static str) -> Upstream {
    Upstream::start(move |_, received| match received.method() {
        "eth_chainId" => Reply::result(received, id),
        _ => Reply::echo(received),
    })
}

fn on_chain(id: u64, upstreams: Vec<model::Upstream>) -> Definitions {
    let eth = Service { chain_id: Some(id), ..Service::named("eth") };
    Definitions { services: vec![eth], ..definitions(upstreams) }
}

#[test]
fn an_upstream_on_another_chain_is_not_used() {
    let (right, wrong) = (node_of_chain("\"0x1\""), node_of_chain("\"0x539\""));
    let (a, b) = (node("a", "eth", &right.url("/")), node("b", "eth", &wrong.url("/")));
    let gateway = start(settings(), &on_chain(1, vec![b.clone()]));
    let ready = |path: &str| connect(&gateway).get(path);
    wait_until("the chain has been checked", || ready("/ready/eth").status == 503);
    let both = "service eth is on chain 1, but b is on chain 1337";
    assert!(ready("/ready").text().contains(both), "{}", ready("/ready").text());
    for method in ["eth_chainId", "net_version", "eth_sendRawTransaction"] {
        let answer = post(&gateway, call("1", method, "[]"));
        assert_eq!((answer.status, answer.kind()), (503, "wrong_chain"), "{}", answer.text());
        assert!(answer.text().contains(both), "{}", answer.text());
    }
    assert_eq!(ready("/ready").status, 503, "no service can be called");
    let usable = |service: &str, upstream: &str| {
        let labels = format!("service=\"{service}\",upstream=\"{upstream}\"");
        metric(&gateway, &format!("plimsoll_upstream_usable{{{labels}}}"))
    };
    assert_eq!(usable("eth", "b"), 0);
    // Another service can be called: the gateway is ready, the service is not.
    let mut two = on_chain(1, vec![b.clone(), node("c", "boba", &right.url("/"))]);
    two.services.push(Service::named("boba"));
    gateway.apply(settings(), &two).unwrap();
    assert_eq!((ready("/ready").status, ready("/healthz").status), (200, 200));
    assert_eq!((ready("/ready/eth").status, ready("/ready/boba").status), (503, 200));
    let detailed = ready("/ready?detailed=true");
    assert_eq!(detailed.status, 200);
    for part in [
        "\"eth\":{\"ready\":false",
        "\"boba\":{\"ready\":true",
        "{\"address\":\"b\",\"is_fallback\":false,\"tier\":0,",
        "\"usable\":false,\"in_flight\":0,\"error\":\"it is on chain 1337\"}",
        both,
    ] {
        assert!(detailed.text().contains(part), "{part}: {}", detailed.text());
    }
    assert_eq!((usable("eth", "b"), usable("boba", "c")), (0, 1));
    // Next to an upstream on the right chain, it gets no calls.
    gateway.apply(settings(), &on_chain(1, vec![a, b.clone()])).unwrap();
    wait_until("it is ready", || ready("/ready/eth").status == 200);
    for n in 0..20 {
        let params = format!("[{n}]");
        assert_eq!(post(&gateway, call("1", "m", &params)).text(), result("1", &params));
    }
    assert_eq!(relays(&gateway, "a", "ok"), 20);
    assert_eq!(relays(&gateway, "b", "ok"), 0);
    assert!(wrong.received().iter().all(|received| received.method() == "eth_chainId"));
    // The service's chain id is corrected.
    gateway.apply(settings(), &on_chain(1337, vec![b])).unwrap();
    wait_until("the chain has been checked", || {
        post(&gateway, call("1", "eth_chainId", "[]")).header("x-plimsoll-attempts").is_none()
    });
    assert_eq!(post(&gateway, call("1", "eth_chainId", "[]")).text(), result("1", "\"0x539\""));
}

/// Nobody calls the node while it restarts: only the end of the check's connection shows that.
#[test]
fn a_node_that_restarts_on_another_chain_is_noticed() {
    let is_new = Arc::new(AtomicBool::new(false));
    let upstream = Upstream::start({
        let is_new = is_new.clone();
        move |n, received| {
            let id = if is_new.load(Ordering::SeqCst) { "\"0x539\"" } else { "\"0x1\"" };
            // The first request is the check.
            let after = if n == 0 { AfterReply::CloseWhenAsked } else { AfterReply::KeepAlive };
            Reply { after, ..Reply::result(received, id) }
        }
    });
    let gateway = start(settings(), &on_chain(1, vec![node("a", "eth", &upstream.url("/"))]));
    let chain_id = || post(&gateway, call("1", "eth_chainId", "[]"));
    let is_local = |answer: &Answer| answer.header("x-plimsoll-attempts").is_none();
    upstream.wait_for(1);
    wait_until("the chain has been checked", || is_local(&chain_id()));
    is_new.store(true, Ordering::SeqCst);
    upstream.close_waiting();
    wait_until("the loss has been noticed", || {
        let answer = chain_id();
        !is_local(&answer) || answer.kind() == "wrong_chain"
    });
    // From now on, it is never answered with the old id.
    for _ in 0..3 {
        let answer = chain_id();
        let is_new = answer.status != 200 || answer.text() == result("1", "\"0x539\"");
        assert!(is_new, "{}", answer.text());
    }
}

#[test]
fn chain_id_calls_are_relayed_until_an_upstream_confirms_the_id() {
    let upstream = Upstream::echo();
    let gateway = start(settings(), &on_chain(1, vec![node("a", "eth", &upstream.url("/"))]));
    // The upstream does not answer with a number, so the chain id stays unconfirmed.
    for _ in 0..3 {
        assert_eq!(post(&gateway, call("1", "eth_chainId", "[7]")).text(), result("1", "[7]"));
        assert_eq!(post(&gateway, call("1", "net_version", "[8]")).text(), result("1", "[8]"));
    }
}

#[test]
fn a_confirmed_chain_id_is_answered_locally() {
    let upstream = node_of_chain("\"0x2105\"");
    let gateway = start(settings(), &on_chain(8453, vec![node("a", "eth", &upstream.url("/"))]));
    let is_own = || {
        let answer = post(&gateway, call("1", "eth_chainId", "[]"));
        answer.header("x-plimsoll-attempts").is_none()
    };
    wait_until("the chain has been checked", is_own);
    let before = relays(&gateway, "a", "ok");
    let own = "{service=\"eth\",method=\"eth_chainId\",outcome=\"ok\",cache=\"bypass\"}";
    let answered = metric(&gateway, &format!("plimsoll_calls_total{own}"));
    let batch =
        format!("[{},{}]", call("1", "net_version", "[]"), call("2", "eth_chainId", "null"));
    let both = format!("[{},{}]", result("1", "\"8453\""), result("2", "\"0x2105\""));
    let rows = [
        (call("\"x\"", "eth_chainId", "[]"), result("\"x\"", "\"0x2105\"")),
        (call("2", "net_version", "[]"), result("2", "\"8453\"")),
        (batch, both),
    ];
    for (body, text) in &rows {
        let answer = post(&gateway, body);
        assert_eq!((answer.status, answer.text()), (200, text.as_str()));
        assert_eq!(answer.header("x-plimsoll-attempts"), None);
    }
    assert_eq!(relays(&gateway, "a", "ok"), before);
    assert_eq!(metric(&gateway, &format!("plimsoll_calls_total{own}")), answered + 2);
}

#[test]
fn invalid_calls_are_refused_with_the_reason() {
    let upstream = Upstream::echo();
    let gateway = gateway_to(&upstream.url("/"));
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let deep_params = call("1", "m", &deep);
    // (body, status, code, kind, id)
    let rows: [(&[u8], u16, i64, &str, &str); 21] = [
        (b"", 400, -32700, "parse_error", "null"),
        (b"  ", 400, -32700, "parse_error", "null"),
        (b"{", 400, -32700, "parse_error", "null"),
        (b"nul", 400, -32700, "parse_error", "null"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\"}}", 400, -32700, "parse_error", "null"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}", 400, -32700, "parse_error", "null"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":01,\"method\":\"m\"}", 400, -32700, "parse_error", "null"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\0\"}", 400, -32700, "parse_error", "null"),
        (b"\xef\xbb\xbf{}", 400, -32700, "parse_error", "null"),
        (deep.as_bytes(), 400, -32700, "parse_error", "null"),
        (deep_params.as_bytes(), 400, -32700, "parse_error", "null"),
        (b"7", 400, -32600, "invalid_request", "null"),
        (b"null", 400, -32600, "invalid_request", "null"),
        (b"\"x\"", 400, -32600, "invalid_request", "null"),
        (b"{}", 400, -32600, "invalid_request", "null"),
        (b"{\"id\":3,\"method\":\"m\"}", 400, -32600, "invalid_request", "3"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":3}", 400, -32600, "invalid_request", "3"),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"m\"}",
            400,
            -32600,
            "invalid_request",
            "null",
        ),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":true,\"method\":\"m\"}",
            400,
            -32600,
            "invalid_request",
            "null",
        ),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"m\"}",
            400,
            -32600,
            "invalid_request",
            "null",
        ),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":[]}", 400, -32600, "invalid_request", "1"),
    ];
    let mut caller = connect(&gateway);
    for (at, (body, status, code, kind, id)) in rows.into_iter().enumerate() {
        let answer = caller.post(ENDPOINT, "", body);
        let shown = (at, String::from_utf8_lossy(body));
        assert_eq!(
            (answer.status, answer.code(), answer.kind()),
            (status, code, kind),
            "{shown:?}"
        );
        let start = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{");
        assert!(answer.text().starts_with(&start), "{shown:?} {}", answer.text());
        assert!(!answer.closes(), "{shown:?}");
    }
    assert_eq!(upstream.count(), 0, "nothing was relayed");
    assert_eq!(refused(&gateway, "parse_error"), 11);
    assert_eq!(refused(&gateway, "invalid_request"), 10);
}

#[test]
fn response_headers_name_instance_and_upstream() {
    let upstream = Upstream::echo();
    let one = node("node-7", "eth", &upstream.url("/"));
    let named =
        |reveal| plimsoll_gateway::Settings { instance: "edge-3".into(), reveal, ..settings() };
    let shown = start(named(true), &definitions(vec![one.clone()]));
    let answer = post(&shown, call("1", "m", "[]"));
    assert_eq!(answer.header("x-plimsoll-instance"), Some("edge-3"));
    assert_eq!(answer.header("x-plimsoll-upstream"), Some("node-7"));
    assert_eq!(answer.header("x-plimsoll-attempts"), Some("1"));
    assert!(answer.header("date").is_some_and(|date| date.ends_with(" GMT")));
    let hidden = start(named(false), &definitions(vec![one]));
    let answer = post(&hidden, call("1", "m", "[]"));
    assert!(!answer.head.contains("x-plimsoll"), "{}", answer.head);
}
