//! Calls through both levels, with replicas that share the second one.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Mutex;

use super::shared::{Register, Reply, SharedCounts};
use super::*;
use crate::heads::Served;

const HASH: &str = "0xdb785f2444d7f68bc2bc04860c27ad059217192d17e2889ec801bcae9209b204";

/// A second level in memory, whose registers and claims nobody uses.
#[derive(Default)]
pub(super) struct Map(Mutex<HashMap<String, SharedEntry>>);

impl Shared for Map {
    fn is_used(&self) -> bool {
        true
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    fn counts(&self) -> SharedCounts {
        SharedCounts::default()
    }

    fn get<'a>(&'a self, name: &'a Name) -> Reply<'a, SharedEntry> {
        let found = self.0.lock().expect("no panic").get(&name.text).cloned();
        Box::pin(std::future::ready(found))
    }

    fn put(&self, name: Name, entry: SharedEntry) {
        self.0.lock().expect("no panic").insert(name.text, entry);
    }

    fn claim<'a>(&'a self, _: &'a Name, _: Nanos) -> Reply<'a, bool> {
        Box::pin(std::future::ready(None))
    }

    fn release(&self, _: &Name) {}

    fn read<'a>(&'a self, _: &'a str) -> Reply<'a, Register> {
        Box::pin(std::future::ready(None))
    }

    fn replace<'a>(&'a self, _: &'a str, _: Option<&'a [u8]>, _: &'a [u8]) -> Reply<'a, bool> {
        Box::pin(std::future::ready(None))
    }

    fn remove<'a>(&'a self, prefix: &'a str) -> Reply<'a, u64> {
        let mut entries = self.0.lock().expect("no panic");
        let before = entries.len();
        entries.retain(|name, _| !name.starts_with(prefix));
        Box::pin(std::future::ready(Some((before - entries.len()) as u64)))
    }
}

const TIMES: TimesToLive = TimesToLive {
    fixed: Nanos::from_secs(100),
    immutable: Nanos::from_secs(100),
    finalized: Nanos::from_secs(100),
    young: Nanos::from_secs(10),
};

fn moment(latest: u64, branch: u64) -> Moment {
    let served = Served { latest: Some(latest), safe: None, finalized: Some(60) };
    Moment { served, branch }
}

fn asked<'a>(method: &str, params: &'a str, moment: Moment) -> Asked<'a> {
    let params = Some(params.as_bytes());
    Asked {
        space: "eth@1",
        method: Method::find(method),
        params,
        moment,
        times: &TIMES,
        sees_branches: true,
    }
}

fn cache(shared: Option<Arc<dyn Shared>>) -> Cache {
    Cache::new(StoreLimits { bytes: 1 << 20, entry: 1 << 10 }, shared)
}

fn miss(cache: &Cache, asked: &Asked<'_>, now: Nanos) -> Ticket {
    match cache.find(asked, now, &mut Vec::new()) {
        Found::Miss(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

fn is_hit(cache: &Cache, asked: &Asked<'_>, now: Nanos) -> bool {
    matches!(cache.find(asked, now, &mut Vec::new()), Found::Hit(_))
}

/// The future is ready at once.
pub(super) fn now<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn an_answer_is_found_for_as_long_as_its_class_allows() {
    let (second, before) = (Nanos::from_secs, moment(100, 1));
    // Whether it is found later with another head, after a reorganisation, and after 10 and 100 s.
    let check = |method: &str, params: &str, result: &str, expected: [bool; 4]| {
        let cache = cache(None);
        let first = asked(method, params, before);
        let ticket = miss(&cache, &first, Nanos::ZERO);
        cache.keep(&first, &ticket, result.as_bytes(), None, Nanos::ZERO).expect("it is stored");
        assert!(is_hit(&cache, &first, Nanos::ZERO));
        let found = [
            is_hit(&cache, &asked(method, params, moment(101, 1)), second(1)),
            is_hit(&cache, &asked(method, params, moment(101, 2)), second(1)),
            is_hit(&cache, &first, second(10)),
            is_hit(&cache, &first, second(100)),
        ];
        assert_eq!(found, expected, "{method} {params}");
    };
    check("eth_chainId", "[]", "\"0x1\"", [true, true, true, false]);
    check("eth_gasPrice", "[]", "\"0x1\"", [false; 4]);
    let block = format!("{{\"number\":\"0x3c\",\"hash\":\"{HASH}\"}}");
    check("eth_getBlockByNumber", r#"["0x3c",false]"#, &block, [true, true, true, false]);
    check("eth_getBlockByHash", &format!("[\"{HASH}\",false]"), &block, [true, true, true, false]);
    let block = format!("{{\"number\":\"0x3d\",\"hash\":\"{HASH}\"}}");
    check("eth_getBlockByNumber", r#"["0x3d",false]"#, &block, [true, false, false, false]);
}

#[test]
fn what_is_not_stored_is_explained() {
    let cache = cache(None);
    let bypass = |asked: &Asked<'_>, reason: Reason| {
        let found = cache.find(asked, Nanos::ZERO, &mut Vec::new());
        assert!(matches!(found, Found::Bypass(why) if why == reason), "{found:?}");
    };
    let now = moment(100, 1);
    bypass(&asked("eth_unheardOf", "[]", now), Reason::UnknownMethod);
    bypass(&asked("eth_getBlockByNumber", r#"["0x65",false]"#, now), Reason::AboveHead);
    let long = format!("[{{\"data\":\"0x{}\"}},\"0x1\"]", "0".repeat(key::PARAMS_MAX));
    bypass(&asked("eth_call", &long, now), Reason::TooLong);
    let off = TimesToLive { young: Nanos::ZERO, ..TIMES };
    bypass(&Asked { times: &off, ..asked("eth_gasPrice", "[]", now) }, Reason::Off);
    // It may be final.
    let receipt = format!("[\"{HASH}\"]");
    let receipt = Asked { times: &off, ..asked("eth_getTransactionReceipt", &receipt, now) };
    let ticket = miss(&cache, &receipt, Nanos::ZERO);
    let keep = |result: &str| {
        let kept = cache.keep(&receipt, &ticket, result.as_bytes(), None, Nanos::ZERO);
        kept.map(|kept| kept.class)
    };
    let in_block = |number: u64| {
        format!(
            "{{\"transactionHash\":\"{HASH}\",\"blockHash\":\"0x1\",\"blockNumber\":\"{number:#x}\"}}"
        )
    };
    assert_eq!(keep("null"), Err(Reason::Missing));
    assert_eq!(keep(&in_block(61)), Err(Reason::Off));
    assert_eq!(keep(&format!("\"{}\"", "x".repeat(1 << 10))), Err(Reason::TooLong));
    assert_eq!(cache.figures().entries, 0);
    assert_eq!(keep(&in_block(60)), Ok(Class::Final));
    assert!(is_hit(&cache, &receipt, Nanos::ZERO));
}

#[test]
fn spellings_and_spaces_are_told_apart() {
    let cache = cache(None);
    let first = asked("eth_getCode", r#"["0xAB","0x1"]"#, moment(100, 1));
    let ticket = miss(&cache, &first, Nanos::ZERO);
    cache.keep(&first, &ticket, b"\"0x\"", None, Nanos::ZERO).expect("it is stored");
    let other = Asked { params: Some(br#" [ "0xab", "0x1" ] "#), ..first };
    assert!(is_hit(&cache, &other, Nanos::ZERO));
    let other_space = Asked { space: "eth@5", ..other };
    miss(&cache, &other_space, Nanos::ZERO);
    let method = first.method.expect("a method");
    assert!(!cache.drop_call("eth@5", method, other.params));
    assert!(cache.drop_call("eth@1", method, other.params));
    cache.keep(&first, &ticket, b"\"0x\"", None, Nanos::ZERO).expect("it is stored");
    assert_eq!(cache.drop_selected(Some("eth@5"), None), 0);
    assert_eq!(cache.drop_selected(Some("eth@1"), Some(method)), 1);
    miss(&cache, &first, Nanos::ZERO);
}

#[test]
fn replicas_share_what_holds_for_both() {
    // Whether an answer of one replica is used by another one that serves this head, and whose chain has
    // the first one's latest block or not.
    let check = |method: &str, params: &str, result: &str, latest: u64, known: bool, used: bool| {
        let shared = Arc::new(Map::default());
        let [one, other] = std::array::from_fn(|_| cache(Some(shared.clone())));
        let first = asked(method, params, moment(100, 1));
        let ticket = miss(&one, &first, Nanos::ZERO);
        let anchor = Anchor { number: 100, hash: 7 };
        let kept = one.keep(&first, &ticket, result.as_bytes(), Some(anchor), Nanos::ZERO);
        kept.expect("it is stored");
        let second = asked(method, params, moment(latest, 9));
        let ticket = miss(&other, &second, Nanos::ZERO);
        let is_known = |block| {
            assert_eq!(block, anchor);
            known
        };
        let found = now(other.find_shared(&second, &ticket, is_known, Nanos::ZERO));
        assert_eq!(
            found.as_deref(),
            used.then_some(result.as_bytes()),
            "{method} {latest} {known}"
        );
        assert_eq!(is_hit(&other, &second, Nanos::ZERO), used, "it is in the first level, too");
    };
    check("eth_chainId", "[]", "\"0x1\"", 100, false, true);
    check("eth_getCode", r#"["0xab","0x3c"]"#, "\"0x\"", 100, false, true);
    check("eth_getCode", r#"["0xab","0x3d"]"#, "\"0x\"", 100, true, true);
    check("eth_getCode", r#"["0xab","0x3d"]"#, "\"0x\"", 100, false, false);
    check("eth_gasPrice", "[]", "\"0x1\"", 100, true, true);
    check("eth_gasPrice", "[]", "\"0x1\"", 101, true, false);
    let hash = format!("[\"{HASH}\",false]");
    let block = format!("{{\"number\":\"0x63\",\"hash\":\"{HASH}\"}}");
    check("eth_getBlockByHash", &hash, &block, 100, false, true);
    // It does not serve this block yet.
    check("eth_getBlockByHash", &hash, &block, 98, false, false);
}

#[test]
fn a_shared_answer_does_not_hold_longer_than_it_would_have() {
    let shared = Arc::new(Map::default());
    let [one, other] = std::array::from_fn(|_| cache(Some(shared.clone())));
    let call = asked("eth_chainId", "[]", moment(100, 1));
    let ticket = miss(&one, &call, Nanos::ZERO);
    one.keep(&call, &ticket, b"\"0x1\"", None, Nanos::ZERO).expect("it is stored");
    for entry in shared.0.lock().expect("no panic").values_mut() {
        entry.remaining = Nanos::from_secs(3);
    }
    let ticket = miss(&other, &call, Nanos::from_secs(50));
    now(other.find_shared(&call, &ticket, |_| false, Nanos::from_secs(50))).expect("an answer");
    assert!(is_hit(&other, &call, Nanos::from_secs(52)));
    assert!(!is_hit(&other, &call, Nanos::from_secs(53)));
}
