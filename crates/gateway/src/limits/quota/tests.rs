//! Quotas alone: their periods, their clock, the totals and the warnings.

use super::*;

fn at(text: &str) -> u64 {
    WallClock::parse(text).expect(text).unix_ns
}

/// A calendar whose clock the test sets.
fn calendar(start: &str) -> (Calendar, Arc<AtomicU64>) {
    let clock = Arc::new(AtomicU64::new(at(start)));
    let read = clock.clone();
    let calendar = Calendar::new(Arc::new(move || WallClock { unix_ns: read.load(Relaxed) }));
    (calendar, clock)
}

fn set(calendar: &Calendar, clock: &AtomicU64, to: &str) {
    clock.store(at(to), Relaxed);
    calendar.tick();
}

fn quota(key: Option<&str>, daily: u64, monthly: Option<u64>, old: Option<&Arc<Quota>>) -> Quota {
    let ledger = old.map(|old| old.ledger.clone()).unwrap_or_default();
    Quota::new("e", key, [Some(daily), monthly], ledger, old)
}

/// How many of these calls of one unit are admitted.
fn admitted(quota: &Quota, calendar: &Calendar, calls: usize) -> usize {
    let today = calendar.today();
    let admit = |_: &usize| quota.ledger.charge(today, 1, quota.limits).is_ok();
    (0..calls).filter(admit).count()
}

#[test]
fn quotas_are_per_day_and_per_month() {
    let (calendar, clock) = calendar("2027-01-30T23:59:00Z");
    let quota = quota(None, 10, Some(25), None);
    let used_up = || {
        let used_up = quota.check(calendar.today()).expect_err("it is used up");
        (used_up.span, used_up.until.unix_ns)
    };
    assert_eq!(admitted(&quota, &calendar, 15), 10);
    assert_eq!(used_up(), (Span::Day, at("2027-01-31")));
    set(&calendar, &clock, "2027-01-31T00:00:01Z");
    assert_eq!(admitted(&quota, &calendar, 15), 10);
    // The month has 5 left on this day, which is the last.
    set(&calendar, &clock, "2027-02-01");
    assert_eq!(admitted(&quota, &calendar, 15), 10);
    set(&calendar, &clock, "2027-02-02");
    assert_eq!(admitted(&quota, &calendar, 15), 10);
    set(&calendar, &clock, "2027-02-03");
    assert_eq!(admitted(&quota, &calendar, 15), 5);
    assert_eq!(used_up(), (Span::Month, at("2027-03-01")));
}

#[test]
fn a_clock_that_is_set_back_gives_no_second_quota() {
    let (calendar, clock) = calendar("2027-01-31T12:00:00Z");
    let quota = quota(None, 10, Some(15), None);
    assert_eq!(admitted(&quota, &calendar, 15), 10);
    for back in ["2027-01-30T12:00:00Z", "2026-12-31", "2027-01-31T11:00:00Z"] {
        set(&calendar, &clock, back);
        assert_eq!(admitted(&quota, &calendar, 15), 0, "{back}");
    }
    set(&calendar, &clock, "2027-02-01");
    assert_eq!(admitted(&quota, &calendar, 15), 10);
    // Over the end of a month and back.
    set(&calendar, &clock, "2027-01-31T12:00:00Z");
    assert_eq!(admitted(&quota, &calendar, 15), 0);
}

#[test]
fn totals_of_all_replicas_count() {
    let (calendar, _) = calendar("2027-01-31T12:00:00Z");
    let today = calendar.today();
    let first = Arc::new(quota(Some("k"), 100, None, None));
    assert_eq!(admitted(&first, &calendar, 15), 15);
    // 10 of this replica's 15, and 60 of others.
    let totals = Totals { total: [70, 500], delivered: [10, 10] };
    first.set_totals(today, &totals);
    let used = |quota: &Quota| Span::ALL.map(|span| quota.ledger.used(span, today));
    assert_eq!(used(&first), [75, 505]);
    assert_eq!(admitted(&first, &calendar, 100), 25);
    // Totals of yesterday say nothing about today.
    let yesterday = Today { day: today.day - 1, ..today };
    first.set_totals(yesterday, &Totals { total: [0, 530], delivered: [0, 40] });
    assert_eq!(used(&first), [100, 530]);
    // A quota below what is used is warned of once.
    assert_eq!(first.warnings(&calendar, true).len(), 1);
    let lower = Arc::new(quota(Some("k"), 50, None, Some(&first)));
    let warnings = lower.warnings(&calendar, false);
    let words = "of its key k, 50 compute units, is already used up: 100 have been used";
    assert!(warnings.len() == 1 && warnings[0].contains(words), "{warnings:?}");
    assert!(lower.warnings(&calendar, true).is_empty());
    let same = quota(Some("k"), 50, None, Some(&lower));
    assert!(same.warnings(&calendar, true).is_empty());
    assert_eq!(admitted(&lower, &calendar, 10), 0);
    let higher = quota(Some("k"), 103, None, Some(&lower));
    assert!(higher.warnings(&calendar, true).is_empty());
    assert_eq!(admitted(&higher, &calendar, 10), 3);
    // The database was replaced by an empty one.
    higher.set_totals(today, &Totals { total: [0, 0], delivered: [40, 40] });
    assert_eq!(used(&higher), [3, 3]);
}
