//! Usage: what every dialect must do with it.

use std::sync::Arc;

use crate::store::Store;
use crate::usage::{Batch, Counts, Filter, Grouping, Put, Span, Subject, Totals, UsageQuery};

/// An hour, the first of a month.
const HOUR: u64 = 498_192;

fn subject(hour: u64, endpoint: &str, key: &str, service: &str, method: &str) -> Subject {
    let text = String::from;
    Subject {
        hour,
        endpoint: text(endpoint),
        key: text(key),
        service: text(service),
        method: text(method),
    }
}

/// This many calls that were answered, and 7 compute units for each.
fn calls(calls: u64) -> Counts {
    let units = 7 * calls;
    Counts {
        calls,
        ok: calls - 1,
        errors: 1,
        bytes_in: 1 << 40,
        compute_units: units,
        // Some calls were admitted and not answered.
        admitted_units: units + 1,
        ..Counts::default()
    }
}

/// What reports have of counts.
fn reported(counts: Counts) -> Counts {
    Counts { admitted_units: 0, ..counts }
}

fn batch(writer: &str, sequence: u64, rows: &[(Subject, Counts)]) -> Batch {
    Batch { writer: writer.into(), sequence, rows: rows.to_vec() }
}

fn query(by: &str) -> UsageQuery {
    let span = Span { from: 0, to: 1 << 40 };
    UsageQuery { span, by: Grouping::parse(by).unwrap(), filter: Filter::default() }
}

/// Calls by what is distinguished.
async fn found(store: &Store, query: &UsageQuery) -> Vec<(Subject, u64)> {
    let rows = store.usage(query).await.unwrap();
    rows.into_iter().map(|(subject, counts)| (subject, counts.calls)).collect()
}

pub(super) async fn conforms(store: &Store, url: &str) {
    assert_eq!(store.usage(&query("")).await.unwrap(), []);
    batches_are_added_once(store).await;
    sums_are_grouped_and_filtered(store).await;
    totals_are_of_the_day_and_the_month(store).await;
    writers_do_not_disturb_each_other(store, url).await;
    old_usage_is_removed(store).await;
}

async fn batches_are_added_once(store: &Store) {
    let rows = [
        (subject(HOUR, "e1", "", "eth", "eth_call"), calls(3)),
        (subject(HOUR, "e1", "k'\"\\", "eth", "eth_call"), calls(4)),
        (subject(HOUR + 1, "", "", "boba", "other"), calls(5)),
    ];
    let first = batch("w1", 1, &rows);
    assert_eq!(store.put_usage(&first).await.unwrap(), Put::Written);
    assert_eq!(store.put_usage(&first).await.unwrap(), Put::Known);
    // The number decides, and not what the batch has.
    assert_eq!(store.put_usage(&batch("w1", 1, &rows[..1])).await.unwrap(), Put::Known);
    let all = "hour,endpoint,key,method";
    let expected: Vec<_> = {
        let mut rows = rows.to_vec();
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        rows.into_iter().map(|(row, counts)| (row, reported(counts))).collect()
    };
    assert_eq!(store.usage(&query(all)).await.unwrap(), expected);
    // Numbers may be left out, but not go back; and another writer has its own.
    assert_eq!(store.put_usage(&batch("w1", 5, &rows[..1])).await.unwrap(), Put::Written);
    assert_eq!(store.put_usage(&batch("w1", 4, &rows[..1])).await.unwrap(), Put::Known);
    assert_eq!(store.put_usage(&batch("w2", 1, &rows[..1])).await.unwrap(), Put::Written);
    assert_eq!(store.put_usage(&batch("w2", 2, &[])).await.unwrap(), Put::Written);
    let mut counts = calls(3);
    counts.add(&calls(3));
    counts.add(&calls(3));
    assert_eq!(store.usage(&query(all)).await.unwrap()[0], (rows[0].0.clone(), reported(counts)));
}

async fn sums_are_grouped_and_filtered(store: &Store) {
    let of = |hour, endpoint: &str, key: &str, service: &str, method: &str, calls: u64| {
        (subject(hour, endpoint, key, service, method), calls)
    };
    let total = [of(0, "", "", "boba", "", 5), of(0, "", "", "eth", "", 13)];
    assert_eq!(found(store, &query("")).await, total, "services are always distinguished");
    assert_eq!(
        found(store, &query("day,endpoint")).await,
        [of(HOUR, "", "", "boba", "", 5), of(HOUR, "e1", "", "eth", "", 13)]
    );
    assert_eq!(
        found(store, &query("key")).await,
        [
            of(0, "", "", "boba", "", 5),
            of(0, "", "", "eth", "", 9),
            of(0, "", "k'\"\\", "eth", "", 4)
        ]
    );
    let later = UsageQuery { span: Span { from: HOUR + 1, to: HOUR + 2 }, ..query("hour,method") };
    assert_eq!(found(store, &later).await, [of(HOUR + 1, "", "", "boba", "other", 5)]);
    let before = UsageQuery { span: Span { from: 0, to: HOUR + 1 }, ..query("") };
    assert_eq!(found(store, &before).await, [of(0, "", "", "eth", "", 13)]);
    let text = |text: &str| Some(text.to_string());
    for (filter, calls) in [
        (Filter { endpoint: text("e1"), ..Filter::default() }, vec![13]),
        (Filter { endpoint: text(""), ..Filter::default() }, vec![5]),
        (Filter { key: text("k'\"\\"), ..Filter::default() }, vec![4]),
        (Filter { service: text("boba"), ..Filter::default() }, vec![5]),
        (Filter { method: text("eth_call"), ..Filter::default() }, vec![13]),
        (Filter { method: text("' OR 1 = 1 --"), ..Filter::default() }, vec![]),
    ] {
        let asked = UsageQuery { filter: filter.clone(), ..query("") };
        let found: Vec<u64> = found(store, &asked).await.iter().map(|(_, calls)| *calls).collect();
        assert_eq!(found, calls, "{filter:?}");
    }
}

async fn totals_are_of_the_day_and_the_month(store: &Store) {
    let rows = [
        // The last hour of the month before, the second day, the next month.
        (subject(HOUR - 1, "q", "", "eth", "eth_call"), calls(100)),
        (subject(HOUR + 24, "q", "", "eth", "eth_call"), calls(10)),
        (subject(HOUR + 25, "q", "", "eth", "other"), calls(10)),
        (subject(HOUR + 26, "q", "k", "eth", "other"), Counts { failed: 9, ..calls(3) }),
        (subject(HOUR + 31 * 24, "q", "", "eth", "eth_call"), calls(1_000)),
    ];
    store.put_usage(&batch("w3", 1, &rows)).await.unwrap();
    store.put_usage(&batch("w3", 2, &rows[1..2])).await.unwrap();
    let totals =
        |key: &str, day, month| Totals { endpoint: "q".into(), key: key.into(), day, month };
    let ask = async |hour| store.usage_totals(&["q".into(), "none".into()], hour).await.unwrap();
    assert_eq!(ask(HOUR + 24).await, [totals("", 213, 213), totals("k", 22, 22)]);
    assert_eq!(ask(HOUR + 48).await, [totals("", 0, 213), totals("k", 0, 22)]);
    assert_eq!(ask(HOUR - 1).await, [totals("", 701, 701)]);
    assert_eq!(ask(HOUR - 24 * 40).await, []);
    assert_eq!(store.usage_totals(&[], HOUR).await.unwrap(), []);
    // What was only admitted is in the sums of the day, and not in reports.
    let admitted = Counts { admitted_units: 5, ..Counts::default() };
    let row = (subject(HOUR + 24, "q", "late", "eth", "eth_call"), admitted);
    store.put_usage(&batch("w3", 3, &[row])).await.unwrap();
    assert!(ask(HOUR + 24).await.contains(&totals("late", 5, 5)));
    let by_key = found(store, &query("key")).await;
    assert!(by_key.iter().all(|(subject, _)| subject.key != "late"), "{by_key:?}");
}

/// Writers that add to the same rows at the same time wait for each other, and not in a circle.
async fn writers_do_not_disturb_each_other(store: &Store, url: &str) {
    const WRITERS: u64 = 4;
    const EACH: u64 = 12;
    let rows: Vec<_> = (0..40)
        .map(|number| (subject(HOUR, &format!("c{number:02}"), "", "mantle", "eth_call"), calls(1)))
        .collect();
    let writer = |writer: u64| {
        let (url, rows) = (url.to_string(), rows.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let store = Store::open(&url, false, Arc::default()).await.unwrap();
                for sequence in 1..=EACH {
                    let batch = batch(&format!("c{writer}"), sequence, &rows);
                    assert_eq!(store.put_usage(&batch).await.unwrap(), Put::Written);
                    assert_eq!(store.put_usage(&batch).await.unwrap(), Put::Known);
                }
                store.close().await;
            });
        })
    };
    let writers: Vec<_> = (0..WRITERS).map(writer).collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let filter = Filter { service: Some("mantle".into()), ..Filter::default() };
    let all = found(store, &UsageQuery { filter, ..query("endpoint") }).await;
    assert_eq!(all.len(), rows.len());
    assert!(all.iter().all(|(_, calls)| *calls == WRITERS * EACH), "{all:?}");
}

async fn old_usage_is_removed(store: &Store) {
    store.trim_usage(HOUR + 25).await.unwrap();
    let hours: Vec<u64> =
        found(store, &query("hour")).await.iter().map(|(subject, _)| subject.hour).collect();
    assert_eq!(hours, [HOUR + 25, HOUR + 26, HOUR + 31 * 24]);
    // Writers that wrote lately are still known.
    assert_eq!(store.put_usage(&batch("w3", 2, &[])).await.unwrap(), Put::Known);
    store.trim_usage(1 << 30).await.unwrap();
    assert_eq!(found(store, &query("")).await, []);
    assert_eq!(store.usage_totals(&["q".into()], HOUR + 24).await.unwrap(), []);
}
