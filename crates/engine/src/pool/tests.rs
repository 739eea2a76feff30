//! Addresses, limits, and time in use.

use super::*;
use crate::connection::Offer;
use plimsoll_plan::Protocol;

fn pool(addresses: &[&str]) -> Pool {
    let origin = plimsoll_plan::Url::parse("http://h/").unwrap().origin();
    let offer = Offer { protocol: Protocol::Auto, streams: 100 };
    let limits = Limits { http1: 10, shared: 2, in_flight: usize::MAX, offer };
    let mut pool = Pool::new(origin, 0, None, Name::Resolving, limits);
    pool.set_addresses(addresses.iter().map(|at| at.parse().unwrap()).collect());
    pool
}

#[test]
fn addresses_take_turns_and_failed_ones_come_last() {
    let mut pool = pool(&["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]);
    let mut next = |now| pool.next_address(now).unwrap();
    assert_eq!([next(Nanos(1)), next(Nanos(1)), next(Nanos(1)), next(Nanos(1))], [0, 1, 2, 0]);
    assert!(!pool.avoid(1, Nanos(1)));
    let mut next = |now| pool.next_address(now).unwrap();
    assert_eq!([next(Nanos(2)), next(Nanos(2)), next(Nanos(2))], [2, 0, 2]);
    let later = Nanos(1) + AVOIDED;
    assert_eq!([next(later), next(later)], [0, 1]);
    assert!(!pool.avoid(0, later) && !pool.avoid(1, later) && pool.avoid(2, later), "all");
}

#[test]
fn a_connection_is_opened_for_as_many_arrivals_as_it_carries() {
    let mut pool = pool(&["10.0.0.1:1"]);
    let opened = |pool: &mut Pool, waiting: usize| {
        (pool.open, pool.connecting, pool.waiting_live) = (0, 0, waiting);
        while pool.wants_connection(Nanos(1)) {
            pool.opened(0, false, Nanos(1));
        }
        pool.open
    };
    assert_eq!((opened(&mut pool, 7), opened(&mut pool, 70)), (7, 10));
    pool.speaks(Some(u32::MAX), Nanos(1));
    let http2 = [opened(&mut pool, 1), opened(&mut pool, 100), opened(&mut pool, 101)];
    assert_eq!(http2, [1, 1, 2]);
    assert_eq!(opened(&mut pool, 1_000), 2, "the limit");
    pool.speaks(Some(30), Nanos(1));
    assert_eq!([opened(&mut pool, 30), opened(&mut pool, 31)], [1, 2], "the peer's limit");
    let mut counts = OriginCounts::default();
    pool.report(Nanos(2), &mut counts);
    let limits = counts.http2.unwrap();
    assert_eq!((counts.limit, limits.peer, limits.per_connection()), (60, Some(30), 30));
    pool.speaks(Some(0), Nanos(1));
    assert_eq!(opened(&mut pool, 9), 2, "a peer that allows none may change its mind");
}

#[test]
fn removed_addresses_are_retired() {
    let mut pool = pool(&["10.0.0.1:1", "10.0.0.2:1"]);
    pool.addresses[0].free.push_back(7);
    pool.addresses[0].open = 1;
    let new = ["10.0.0.2:1", "10.0.0.3:1"].map(|at| at.parse().unwrap()).to_vec();
    assert_eq!(pool.set_addresses(new.clone()), [7], "idle connections to the first are closed");
    assert_eq!((pool.usable(), pool.addresses.len()), (2, 3));
    pool.addresses[0].open = 0;
    let newer = vec!["10.0.0.4:1".parse().unwrap()];
    pool.set_addresses(newer);
    assert_eq!((pool.usable(), pool.addresses.len()), (1, 3), "the index is reused");
}

#[test]
fn time_in_use_and_at_the_limit_adds_up() {
    let mut pool = pool(&["10.0.0.1:1"]);
    assert!(!pool.begin(Nanos(100)));
    assert!(!pool.begin(Nanos(200)));
    pool.end(Nanos(300));
    (pool.open, pool.waiting_live) = (10, 1);
    assert!(!pool.wants_connection(Nanos(350)));
    let mut counts = OriginCounts::default();
    pool.report(Nanos(400), &mut counts);
    assert_eq!((counts.in_use.0, counts.capped.0, counts.in_use_peak), (400, 50, 2));
    pool.uncap(Nanos(450));
    let mut counts = OriginCounts::default();
    pool.report(Nanos(500), &mut counts);
    assert_eq!((counts.in_use.0, counts.capped.0, counts.in_use_peak), (100, 50, 1));
}
