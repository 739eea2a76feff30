//! Flights in every order of their steps, and between threads.

use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use plimsoll_measure::rng;

use super::*;
use crate::cache::class::Class;
use crate::heads::Served;

const LIMITS: FlightLimits = FlightLimits { flights: 100, waiters: 1_000 };

fn key(key: u128) -> FlightKey {
    FlightKey::new(Key(key), Scope::Fixed(Class::Final), &Moment::default())
}

fn lead<T: std::fmt::Debug>(join: Join<T>) -> (Leader<T>, Waiter<T>) {
    match join {
        Join::Lead(leader, waiter) => (leader, waiter),
        other => panic!("{other:?}"),
    }
}

#[test]
fn moments_are_told_apart_where_answers_depend_on_them() {
    let moment = |latest: u64, branch: u64| Moment {
        served: Served { latest: Some(latest), ..Served::default() },
        branch,
    };
    let check = |scope: Scope, branch_splits: bool, head_splits: bool| {
        let of = |moment: Moment| FlightKey::new(Key(1), scope, &moment);
        assert_eq!(of(moment(100, 1)) != of(moment(100, 2)), branch_splits, "{scope:?}");
        assert_eq!(of(moment(100, 1)) != of(moment(101, 1)), head_splits, "{scope:?}");
        assert_eq!(of(moment(100, 1)), of(moment(100, 1)));
    };
    check(Scope::Fixed(Class::Immutable), false, false);
    check(Scope::Branch, true, false);
    check(Scope::Head, true, true);
}

#[test]
fn limits_are_kept_and_counted() {
    let flights = Flights::<u8>::new(FlightLimits { flights: 2, waiters: 4 });
    let one = lead(flights.join(key(1)));
    let two = lead(flights.join(key(2)));
    assert!(matches!(flights.join(key(3)), Join::Full), "two flights");
    let waiters: Vec<Join<u8>> = (0..2).map(|_| flights.join(key(1))).collect();
    assert!(matches!(flights.join(key(1)), Join::Full), "four waiters");
    assert_eq!((flights.flights(), flights.waiters(), flights.full()), (2, 4, 2));
    drop(waiters);
    assert!(matches!(flights.join(key(1)), Join::Wait(_)));
    drop((one, two));
    assert_eq!((flights.flights(), flights.waiters()), (0, 0));
    lead(flights.join(key(3)));
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Woken>) {
        self.0.store(true, Relaxed);
    }
}

/// A caller: joins, polls, and leaves or polls again when it is woken.
struct Caller {
    leaves: bool,
    steps: usize,
    led: bool,
    woken: Arc<Woken>,
    waiting: Option<Pin<Box<dyn Future<Output = Option<u32>>>>>,
    answer: Option<Option<u32>>,
}

impl Caller {
    fn new(leaves: bool) -> Caller {
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        Caller { leaves, steps: 0, led: false, woken, waiting: None, answer: None }
    }

    fn poll(&mut self) {
        let Some(waiting) = &mut self.waiting else { return };
        self.woken.0.store(false, Relaxed);
        let waker = Waker::from(self.woken.clone());
        if let Poll::Ready(answer) = waiting.as_mut().poll(&mut Context::from_waker(&waker)) {
            self.answer = Some(answer);
            self.waiting = None;
        }
    }

    /// Its next step. A leader is passed on to its task.
    fn step(&mut self, flights: &Arc<Flights<u32>>, task: &mut Vec<Leader<u32>>) {
        match self.steps {
            0 => match flights.join(key(1)) {
                Join::Lead(leader, waiter) => {
                    self.led = true;
                    task.push(leader);
                    self.waiting = Some(Box::pin(waiter.wait()));
                }
                Join::Wait(waiter) => self.waiting = Some(Box::pin(waiter.wait())),
                Join::Full => panic!("within the limits"),
            },
            1 => self.poll(),
            _ if self.leaves => self.waiting = None,
            _ => self.poll(),
        }
        self.steps += 1;
    }
}

/// Every order of the steps of three callers, one of which may leave, and of a task that ends flights
/// twice, with an answer or without.
#[test]
fn no_order_of_steps_loses_a_waiter() {
    // Numbers of the participants in the order of their steps; 3 is the task.
    fn orders(left: &mut [usize; 4], order: &mut Vec<usize>, run: &mut impl FnMut(&[usize])) {
        if left.iter().all(|steps| *steps == 0) {
            return run(order);
        }
        for participant in 0..left.len() {
            if left[participant] > 0 {
                left[participant] -= 1;
                order.push(participant);
                orders(left, order, run);
                order.pop();
                left[participant] += 1;
            }
        }
    }
    let mut runs = 0;
    for (leaver, is_answered) in [(0, true), (2, true), (3, true), (0, false), (3, false)] {
        orders(&mut [3, 3, 2, 2], &mut Vec::new(), &mut |order| {
            runs += 1;
            let flights = Flights::new(LIMITS);
            let mut callers: [Caller; 3] = std::array::from_fn(|n| Caller::new(n == leaver));
            let (mut task, mut landed) = (Vec::new(), 0);
            let mut end = |task: &mut Vec<Leader<u32>>| {
                for leader in task.drain(..) {
                    landed += 1;
                    if is_answered {
                        leader.land(landed);
                    }
                }
            };
            for participant in order {
                match callers.get_mut(*participant) {
                    Some(caller) => caller.step(&flights, &mut task),
                    None => end(&mut task),
                }
                assert!(task.len() <= 1, "two flights for one key: {order:?}");
            }
            end(&mut task);
            for (n, caller) in callers.iter_mut().enumerate() {
                if caller.waiting.is_some() && caller.steps > 1 {
                    assert!(caller.woken.0.load(Relaxed), "caller {n} is not woken: {order:?}");
                }
                caller.poll();
                assert!(caller.waiting.is_none(), "caller {n} waits for ever: {order:?}");
                let has_answer = caller.answer.is_some_and(|answer| answer.is_some());
                assert_eq!(has_answer, is_answered && caller.answer.is_some(), "{order:?}");
                assert!(caller.answer.is_some() || n == leaver, "{order:?}");
            }
            assert_eq!(callers.iter().filter(|caller| caller.led).count() as u32, landed);
            drop(callers);
            assert_eq!((flights.flights(), flights.waiters()), (0, 0), "{order:?}");
        });
    }
    assert_eq!(runs, 5 * 25_200);
}

/// Threads with runtimes of their own join, wait, leave and lead, as workers do.
#[test]
fn threads_share_flights() {
    for seed in 0..20 {
        let flights = Flights::<u64>::new(FlightLimits { flights: 8, waiters: 60 });
        let leading: [AtomicBool; 6] = Default::default();
        let answered = AtomicU64::new(0);
        let work = async |thread: u64| {
            let mut random = rng::Key::new(seed).with(thread).sequence();
            let mut choose = move |of: usize| (random.unit() * of as f64) as usize;
            let local = tokio::task::LocalSet::new();
            local
                .run_until(async {
                    for _ in 0..200 {
                        let at = choose(leading.len());
                        let waiter = match flights.join(key(at as u128)) {
                            Join::Full => continue,
                            Join::Wait(waiter) => waiter,
                            Join::Lead(leader, waiter) => {
                                let is_leading = &leading[at];
                                assert!(
                                    !is_leading.swap(true, Relaxed),
                                    "two leaders, seed {seed}"
                                );
                                let (turns, fate) = (choose(5), choose(8));
                                for _ in 0..turns {
                                    tokio::task::yield_now().await;
                                }
                                is_leading.store(false, Relaxed);
                                if fate > 0 {
                                    leader.land(at as u64);
                                }
                                waiter
                            }
                        };
                        match choose(3) {
                            0 => drop(waiter),
                            _ => {
                                // Only a lost wake-up would take that long.
                                let waiting =
                                    tokio::time::timeout(Duration::from_secs(60), waiter.wait());
                                if let Some(answer) = waiting.await.expect("it is woken") {
                                    assert_eq!(answer, at as u64);
                                    answered.fetch_add(1, Relaxed);
                                }
                            }
                        }
                    }
                })
                .await;
        };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let work = &work;
                scope.spawn(move || {
                    let runtime =
                        tokio::runtime::Builder::new_current_thread().enable_time().build();
                    runtime.expect("a runtime").block_on(work(thread));
                });
            }
        });
        assert_eq!((flights.flights(), flights.waiters()), (0, 0), "seed {seed}");
        assert!(answered.load(Relaxed) > 0);
    }
}
