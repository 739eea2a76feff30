//! A store that is filled, attacked and measured.

use super::*;
use crate::heads::Served;
use plimsoll_measure::rng;
use std::process::Command;

const SECOND: Nanos = Nanos::from_secs(1);

fn method(name: &str) -> Method {
    Method::find(name).expect("a method")
}

fn moment(latest: u64, branch: u64) -> Moment {
    Moment { served: Served { latest: Some(latest), ..Served::default() }, branch }
}

fn entry(class: Class, length: usize) -> Entry {
    Entry {
        result: Bytes::from(vec![b'x'; length]),
        class,
        branch: 1,
        head: None,
        expires_at: SECOND,
        space: 7,
        method: method("eth_call"),
    }
}

fn store(bytes: u64, entry: u64) -> Store {
    Store::new(StoreLimits { bytes, entry })
}

#[test]
fn an_answer_is_returned_while_it_holds() {
    let check = |entry: &Entry, moment: Moment, now: Nanos, holds: bool| {
        let store = store(1 << 20, 1 << 10);
        store.put(Key(1), entry.clone());
        let found = store.get(Key(1), &moment, now);
        assert_eq!(found.is_some(), holds, "{entry:?} {moment:?} {now:?}");
        assert_eq!(store.figures().entries, u64::from(holds), "it is removed");
        assert_eq!(store.figures().ended, u64::from(!holds));
    };
    let before = Nanos(SECOND.0 - 1);
    for class in Class::ALL {
        check(&entry(class, 10), moment(100, 1), before, true);
        check(&entry(class, 10), moment(100, 1), SECOND, false);
        check(&entry(class, 10), moment(200, 1), before, true);
        // after a reorganisation
        check(&entry(class, 10), moment(100, 2), before, class != Class::Young);
    }
    let of_head = Entry { head: Some(100), ..entry(Class::Young, 10) };
    check(&of_head, moment(100, 1), before, true);
    check(&of_head, moment(101, 1), before, false);
    check(&of_head, Moment::default(), before, false);
}

#[test]
fn a_hit_is_the_stored_bytes() {
    let store = store(1 << 20, 1 << 16);
    let stored = entry(Class::Final, 20 << 10);
    let address = stored.result.as_ptr();
    store.put(Key(1), stored);
    let hit = store.get(Key(1), &moment(1, 1), Nanos::ZERO).expect("a hit");
    assert_eq!(hit.as_ptr(), address);
    // It stays valid while it is being sent, whatever happens to the entry.
    store.drop_key(Key(1));
    assert!(hit.iter().all(|byte| *byte == b'x'));
}

#[test]
fn entries_are_dropped_on_request() {
    let of =
        |space: u64, name: &str| Entry { space, method: method(name), ..entry(Class::Final, 10) };
    let filled = || {
        let store = store(1 << 20, 1 << 10);
        store.put(Key(1), of(7, "eth_call"));
        store.put(Key(2), of(7, "eth_getCode"));
        store.put(Key(3), of(8, "eth_call"));
        store
    };
    let check = |space: Option<u64>, name: Option<&str>, removed: u64| {
        let store = filled();
        let selection = Selection { space, method: name.map(method) };
        assert_eq!(store.drop_selected(&selection), removed, "{selection:?}");
        let figures = store.figures();
        assert_eq!((figures.entries, figures.dropped), (3 - removed, removed));
        assert_eq!(figures.bytes, (3 - removed) * (10 + ENTRY_BYTES));
    };
    check(None, None, 3);
    check(Some(7), None, 2);
    check(None, Some("eth_call"), 2);
    check(Some(8), Some("eth_getCode"), 0);
    let store = filled();
    assert!(store.drop_key(Key(2)) && !store.drop_key(Key(2)));
}

#[test]
fn limits_below_one_entry_are_not_possible() {
    let check = |bytes: u64, entry: u64, is_possible: bool| {
        let limits = StoreLimits { bytes, entry };
        assert_eq!(limits.is_possible(), is_possible, "{limits:?}");
        if is_possible {
            let store = Store::new(limits);
            store.put(Key(1), self::entry(Class::Final, entry as usize));
            assert!(store.get(Key(1), &moment(1, 1), Nanos::ZERO).is_some(), "{limits:?}");
        }
    };
    check(0, 0, false);
    check(1 << 10, 1 << 10, false);
    check(2 << 10, 1 << 10, true);
    check(1 << 20, 1 << 20, false);
    check(5 << 20, 4 << 20, true);
    check(64 << 20, 1 << 20, true);
    check(1 << 30, 1 << 20, true);
    assert!(store(4 << 20, 1 << 20).admits(1 << 20));
    assert!(!store(4 << 20, 1 << 20).admits((1 << 20) + 1));
}

#[test]
fn repeated_answers_survive_a_flood_of_others() {
    let store = store(1 << 20, 1 << 16);
    let now = moment(1, 1);
    (0..50).for_each(|key| store.put(Key(key), entry(Class::Final, 1 << 10)));
    for flood in 1_000..20_000 {
        store.put(Key(flood << 64 | flood), entry(Class::Final, 1 << 10));
        store.get(Key(flood % 50), &now, Nanos::ZERO);
    }
    let kept = (0..50).filter(|key| store.get(Key(*key), &now, Nanos::ZERO).is_some()).count();
    assert!(kept >= 45, "{kept} of 50");
    assert!(store.figures().evicted > 15_000);
}

/// Threads store, read and drop entries of all lengths; the bytes never exceed the limit.
#[test]
fn an_attack_does_not_exceed_the_bytes() {
    for (bytes, entry_max) in [(1 << 20, 1 << 10), (1 << 20, 256 << 10), (600 << 10, 512 << 10)] {
        let store = store(bytes, entry_max);
        let attack = |thread: u64| {
            let mut random = rng::Key::new(thread).sequence();
            for _ in 0..4_000 {
                let key = (random.unit() * 2_000.0) as u128;
                let share = random.unit();
                let length = (entry_max as f64 * share * share) as usize;
                match (random.unit() * 10.0) as u32 {
                    0 => drop(store.drop_key(Key(key))),
                    1..4 => drop(store.get(Key(key), &moment(1, 1), Nanos::ZERO)),
                    _ => store.put(Key(key << 64 | key), entry(Class::Final, length)),
                }
                let held = store.figures().bytes;
                assert!(held <= bytes, "{held} of {bytes}");
            }
        };
        std::thread::scope(|scope| {
            (0..4).for_each(|thread| drop(scope.spawn(move || attack(thread))));
        });
        let figures = store.figures();
        assert!(figures.entries > 0 && figures.bytes >= figures.entries * ENTRY_BYTES);
    }
}

const MEASURED: &str = "PLIMSOLL_TEST_STORE_LENGTH";

/// The resident memory of a store that is filled four times over, in a process of its own.
#[test]
fn memory_stays_within_the_bytes() {
    const BYTES: u64 = 32 << 20;
    if let Ok(length) = std::env::var(MEASURED) {
        return measure(BYTES, length.parse().expect("a length"));
    }
    for length in [2, 600, 20_000] {
        let name = "cache::store::tests::memory_stays_within_the_bytes";
        let output = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", name, "--nocapture"])
            .env(MEASURED, length.to_string())
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let (_, grown) = text.split_once("grown by ").unwrap_or_else(|| panic!("{output:?}"));
        let (grown, _) = grown.split_once(' ').expect("a figure");
        let grown: u64 = grown.parse().expect("a number");
        println!("{length} bytes each: {grown} bytes for a limit of {BYTES}");
        assert!(grown < BYTES + BYTES / 10, "{length} bytes each: {grown} bytes");
    }
}

fn measure(bytes: u64, length: usize) {
    // Without pages of files, such as the program's.
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").expect("statm");
        let pages: Vec<u64> = status.split(' ').map_while(|field| field.parse().ok()).collect();
        (pages[1] - pages[2]) * 4096
    };
    let before = resident();
    let store = store(bytes, 1 << 20);
    let mut random = rng::Key::new(1).sequence();
    for _ in 0..4 * bytes / (length as u64 + ENTRY_BYTES) {
        let key = (random.unit() * (1_u64 << 53) as f64) as u128;
        store.put(Key(key << 75 | key), entry(Class::Final, length));
    }
    let grown = resident() - before;
    assert!(store.figures().bytes > bytes / 10 * 9, "{:?}", store.figures());
    println!("grown by {grown} bytes");
}
