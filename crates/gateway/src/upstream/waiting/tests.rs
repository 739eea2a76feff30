//! The queue and the gates: no slot is lost or given twice, whoever leaves when.

use std::time::Duration;

use plimsoll_registry::model::Concurrency;
use plimsoll_registry::settings::Limits;
use proptest::prelude::*;

use super::*;
use crate::local::Time;
use crate::observe::stats::Sharded;
use crate::permit::Capacity;
use crate::upstream::slot::Slot;

fn local() -> Local {
    let capacity = Arc::new(Capacity::new(&Limits::default()));
    Local::new(0, Time::start_virtual(1), capacity, Arc::new(Sharded::new(1)))
}

/// Runs on virtual time.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(test);
}

fn gate(limit: u32, queue: &Arc<Waiting>) -> Arc<Gate> {
    Arc::new(Gate::new(Concurrency::Fixed(limit), queue))
}

fn request<'a>(account: &'a Arc<InUse>, line: &'a Arc<Line>, gates: &[Arc<Gate>]) -> Request<'a> {
    Request {
        account,
        line,
        accepts: gates.to_vec(),
        since: Nanos::ZERO,
        until: None,
        deadline: Nanos::from_secs(3_600),
    }
}

#[test]
fn a_slot_goes_to_the_account_that_holds_fewest() {
    run(async {
        let (local, queue, line) = (local(), Arc::new(Waiting::default()), Arc::default());
        let gates = [gate(6, &queue)];
        let accounts: [Arc<InUse>; 3] = Default::default();
        let [flood, small, other] = &accounts;
        let mut held: Vec<Slot<'_>> =
            (0..5).filter_map(|_| gates[0].enter(flood, &local)).collect();
        held.extend(gates[0].enter(small, &local));
        assert!(gates[0].enter(other, &local).is_none(), "full");
        let place = |account| queue.enqueue(request(account, &line, &gates), &local);
        let mut places: Vec<_> = [flood, flood, flood, small, other, small]
            .map(|account| place(account).unwrap_or_else(|shed| panic!("{shed:?}")))
            .into();
        assert!(gates[0].enter(other, &local).is_none(), "nobody overtakes");
        // They hold 5, 1 and 0. One by one, slots of the flood are returned.
        let mut order = Vec::new();
        for _ in 0..4 {
            drop(held.remove(0));
            let served = places.iter_mut().position(|place| {
                place.granted.try_recv().is_ok_and(|mut grant| grant.slot.take().is_some())
            });
            let served = served.map(|served| places.remove(served));
            let at =
                |place: Place<'_>| accounts.iter().position(|one| Arc::ptr_eq(one, place.account));
            order.push(served.and_then(at));
        }
        // The other one has none. The next slot is kept for one that has none, then the small one has
        // fewer than the flood, and the flood then fewest.
        assert_eq!(order, [Some(2), None, Some(1), Some(0)]);
    });
}

#[test]
fn a_slot_is_kept_for_accounts_that_hold_none() {
    run(async {
        let (local, queue, line) = (local(), Arc::new(Waiting::default()), Arc::default());
        let gates = [gate(8, &queue)];
        let [flood, quiet]: [Arc<InUse>; 2] = Default::default();
        let held: Vec<_> = (0..9).filter_map(|_| gates[0].enter(&flood, &local)).collect();
        assert_eq!(held.len(), 8, "an account that is alone gets all");
        assert!(gates[0].enter(&quiet, &local).is_none());
        drop(held);
        let held: Vec<_> = (0..9).filter_map(|_| gates[0].enter(&flood, &local)).collect();
        assert_eq!(held.len(), 7, "one is kept for the quiet one");
        // Its calls overtake those of the flood that wait.
        let waiting = queue.enqueue(request(&flood, &line, &gates), &local);
        assert!(gates[0].enter(&quiet, &local).is_none(), "nobody overtakes at the gate");
        let Ok(place) = queue.enqueue(request(&quiet, &line, &gates), &local) else {
            panic!("refused")
        };
        let Ok((gate, number)) = place.slot().await else { panic!("not served") };
        let slot = Slot::granted(&gate, &quiet, &local, number);
        assert_eq!((number, line.waiting()), (8, 1));
        // Only as long as such accounts call.
        drop((slot, held, waiting));
        tokio::time::advance(Duration::from_secs(61)).await;
        local.now();
        let held: Vec<_> = (0..9).filter_map(|_| gates[0].enter(&flood, &local)).collect();
        assert_eq!(held.len(), 8);
    });
}

#[test]
fn a_call_that_would_be_late_is_refused_at_once() {
    run(async {
        let (local, queue, line) = (local(), Arc::new(Waiting::default()), Arc::default());
        let gates = [gate(1, &queue)];
        let account: Arc<InUse> = Arc::default();
        let _held = gates[0].enter(&account, &local);
        let place = || queue.enqueue(request(&account, &line, &gates), &local);
        // An answer is expected to take 100 ms: a burst may wait for 3 s.
        let places: Vec<_> = (0..50).map_while(|_| place().ok()).collect();
        assert_eq!((places.len(), line.waiting(), line.ended(Waited::Early)), (30, 30, 1));
        let Err(shed) = place() else { panic!("not refused") };
        assert_eq!(shed.retry_after, Nanos::from_millis(3_100), "the queue and this call");
        drop(places);
        assert_eq!((line.waiting(), line.ended(Waited::Left)), (0, 30));
        // A call that has not been served for 4 s: the queue stands, and at upstreams that hang.
        let Ok(first) = place() else { panic!("a burst was refused") };
        tokio::time::advance(Duration::from_millis(4_001)).await;
        assert!(place().is_err());
        // It is refused when its own wait is over, and not before.
        let until = first.until;
        let Err(shed) = first.slot().await else { panic!("nobody returns a slot") };
        assert_eq!((shed.how, local.now() >= until), (Waited::Late, true));
        // Two answers' time.
        let places: Vec<_> = (0..50).map_while(|_| place().ok()).collect();
        assert_eq!(places.len(), 2);
        drop(places);
        // Hardly any call is refused any more: a burst may wait again.
        tokio::time::advance(Duration::from_millis(2_001)).await;
        let places: Vec<_> = (0..50).map_while(|_| place().ok()).collect();
        assert_eq!(places.len(), 30);
        drop(places);
        assert_eq!(gates[0].waiting.load(SeqCst), 0);
    });
}

#[test]
fn a_full_queue_sheds_whoever_has_most() {
    run(async {
        let (local, queue) = (local(), Arc::new(Waiting::default()));
        let line: Arc<Line> = Arc::default();
        line.interval.store(1, Relaxed);
        let gates = [gate(1, &queue)];
        let accounts: [Arc<InUse>; 2] = Default::default();
        let _held = gates[0].enter(&accounts[0], &local);
        let place = |at: usize| queue.enqueue(request(&accounts[at], &line, &gates), &local);
        let mut flood: Vec<_> = (0..WAITERS_MAX).filter_map(|_| place(0).ok()).collect();
        assert_eq!(flood.len(), WAITERS_MAX);
        assert_eq!(place(0).err().map(|shed| shed.how), Some(Waited::Full));
        let other = place(1);
        assert!(other.is_ok(), "another account's call takes the place of one");
        let last = flood.pop().expect("the last one").slot().await;
        assert_eq!(last.err().map(|shed| shed.how), Some(Waited::Full));
        assert_eq!(queue.lock().waiters, WAITERS_MAX);
    });
}

#[test]
fn a_hanging_call_returns_its_slot_but_not_its_connection() {
    run(async {
        let (local, queue) = (local(), Arc::new(Waiting::default()));
        queue.set_connections_max(3);
        let gate = gate(2, &queue);
        let account: Arc<InUse> = Arc::default();
        let held: Vec<_> = (0..3).filter_map(|_| gate.enter(&account, &local)).collect();
        assert_eq!(held.len(), 2);
        held.iter().for_each(Slot::hangs);
        let more: Vec<_> = (0..3).filter_map(|_| gate.enter(&account, &local)).collect();
        assert_eq!((more.len(), gate.in_flight()), (1, 3), "three connections");
        drop(held);
        assert_eq!((gate.limit(), gate.in_flight()), (2, 1));
    });
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A call of an account that accepts some of the gates.
    Arrive(usize, usize),
    Return(usize),
    Leave(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..3, 1usize..8).prop_map(|(account, mask)| Step::Arrive(account, mask)),
        3 => (0usize..100).prop_map(Step::Return),
        1 => (0usize..100).prop_map(Step::Leave),
        1 => (1u64..200).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Slots are neither lost nor given twice, and none is free that a waiting call accepts.
    #[test]
    fn slots_are_conserved(
        limits in (1u32..4, 1u32..4, 1u32..4),
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut failure = None;
        run(async { failure = slots_conserved(limits, &steps).await; });
        prop_assert_eq!(failure, None);
    }
}

/// What went wrong.
async fn slots_conserved(limits: (u32, u32, u32), steps: &[Step]) -> Option<String> {
    let (local, queue, line) = (local(), Arc::new(Waiting::default()), Arc::default());
    let limits = [limits.0, limits.1, limits.2];
    let gates = limits.map(|limit| gate(limit, &queue));
    let accounts: [Arc<InUse>; 3] = Default::default();
    let mut held: Vec<Slot<'_>> = Vec::new();
    let mut places: Vec<(Place<'_>, usize)> = Vec::new();
    for step in steps {
        match *step {
            Step::Arrive(account, mask) => {
                let accepted = (0..3).filter(|at| mask >> at & 1 == 1);
                let accepted: Vec<_> = accepted.map(|at| gates[at].clone()).collect();
                let account = &accounts[account];
                let free = (0..3).filter(|at| mask >> at & 1 == 1);
                let slot = free.filter_map(|at| gates[at].enter(account, &local)).next();
                if slot.is_some() {
                    held.extend(slot);
                } else if let Ok(place) = queue.enqueue(request(account, &line, &accepted), &local)
                {
                    places.push((place, mask));
                }
            }
            Step::Return(at) if !held.is_empty() => drop(held.swap_remove(at % held.len())),
            Step::Leave(at) if !places.is_empty() => drop(places.swap_remove(at % places.len())),
            Step::Wait(millis) => tokio::time::advance(Duration::from_millis(millis)).await,
            _ => {}
        }
        // Some take the slots that they were given at once, others leave with them in the channel.
        let mut at = 0;
        while at < places.len() {
            let Ok(mut grant) = places[at].0.granted.try_recv() else {
                at += 1;
                continue;
            };
            let (place, _) = places.swap_remove(at);
            let Some((gate, number)) = grant.slot.take() else { continue };
            let gate = gates.iter().find(|one| Arc::ptr_eq(one, &gate)).expect("a gate");
            held.push(Slot::granted(gate, place.account, &local, number));
        }
        for (at, gate) in gates.iter().enumerate() {
            let waiting = places.iter().filter(|(_, mask)| mask >> at & 1 == 1).count();
            if gate.waiting.load(SeqCst) as usize != waiting {
                return Some(format!("{step:?}: {waiting} wait for {at}"));
            }
            if waiting > 0 && gate.in_flight() < gate.bounds(local.recent()).0 {
                return Some(format!("{step:?}: a slot of {at} is free"));
            }
            if gate.in_flight() > limits[at] {
                return Some(format!("{step:?}: {} slots of {at}", gate.in_flight()));
            }
        }
        let in_use: u32 = gates.iter().map(|gate| gate.in_flight()).sum();
        let counted: u64 = accounts.iter().map(|one| one.slots.load(Relaxed)).sum();
        if in_use as usize != held.len() || counted as usize != held.len() {
            return Some(format!("{step:?}: {in_use} in use, {counted} counted, {}", held.len()));
        }
    }
    drop((places, held));
    let left: u32 = gates.iter().map(|gate| gate.in_flight() + gate.waiting.load(SeqCst)).sum();
    (left > 0 || line.waiting() > 0).then(|| format!("{left} left"))
}

/// Threads take, wait for, leave and return slots at the same time.
#[test]
fn threads_lose_no_slot() {
    const THREADS: usize = 4;
    const CALLS: usize = 3_000;
    let queue = Arc::new(Waiting::default());
    let gates = [gate(2, &queue), gate(1, &queue)];
    let line: Arc<Line> = Arc::default();
    line.interval.store(1, Relaxed);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (queue, gates, line) = (&queue, &gates, &line);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
                let account: Arc<InUse> = Arc::default();
                runtime.expect("a runtime").block_on(async {
                    let capacity = Arc::new(Capacity::new(&Limits::default()));
                    let local = Local::new(0, Time::start(), capacity, Arc::new(Sharded::new(1)));
                    for call in 0..CALLS {
                        let at = (call + thread) % 2;
                        if let Some(slot) = gates[at].enter(&account, &local) {
                            assert!(slot.number <= 2 - at as u32);
                            tokio::task::yield_now().await;
                            continue;
                        }
                        let Ok(place) = queue.enqueue(request(&account, line, gates), &local)
                        else {
                            continue;
                        };
                        if call % 5 == 0 {
                            // It leaves, perhaps as it is given a slot.
                            continue;
                        }
                        if let Ok((gate, number)) = place.slot().await {
                            drop(Slot::granted(&gate, &account, &local, number));
                        }
                    }
                });
                assert_eq!(account.slots.load(SeqCst), 0);
            });
        }
    });
    for gate in &gates {
        assert_eq!((gate.in_flight(), gate.waiting.load(SeqCst)), (0, 0));
    }
    assert_eq!((line.waiting(), queue.lock().waiters), (0, 0));
}
